/* The exact chain of the overlaps: its loop, output, and the replicas' states.

   Concatenated after a kernel's pointwise functions, random.h, run.h, the kernel's risk, abreast.h or alone.h,
   chain_step.h, chain_exit.h and chain_one.h. */

static void *hdsgd_piece(char **at, size_t bytes)
{
    char *piece = *at;
    *at += (bytes + 63) / 64 * 64;
    return piece;
}

static size_t hdsgd_lay_out(const hdsgd_run *run, hdsgd_space *s, char *memory)
{
    const int64_t p = run->p, k = run->k, r = run->r, columns = run->columns, all = r + columns + 1;
    const int64_t ld = HDSGD_PAD(p), kd = HDSGD_PAD(k);
    char *at = memory;
    s->ld = ld, s->kd = kd;
    struct {
        V **array;
        int64_t size;
    } pieces[] = {{&s->B, ld * r},     {&s->C, ld * columns}, {&s->L, kd * r},      {&s->a, ld},
                  {&s->acc, ld},       {&s->lambda, ld},      {&s->phi, ld},        {&s->dphi, ld},
                  {&s->u, ld},         {&s->v, ld},           {&s->scale, ld},      {&s->tail, ld + HDSGD_ROWS},
                  {&s->alpha, ld},     {&s->beta, ld},        {&s->z, all + 1},     {&s->lambda_star, kd},
                  {&s->phi_star, kd},  {&s->dB, ld * r},      {&s->dC, ld * columns}, {&s->da, ld},
                  {&s->U, ld * p},      {&s->a_star, kd},   {&s->norms, ld}};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        *pieces[i].array = hdsgd_piece(&at, sizeof(V) * (size_t)pieces[i].size);
    s->Q = hdsgd_piece(&at, sizeof(double) * (size_t)(p * p));
    s->M = hdsgd_piece(&at, sizeof(double) * (size_t)(p * k));
    s->second = hdsgd_piece(&at, sizeof(double) * (size_t)p);
    s->form = hdsgd_piece(&at, sizeof(double) * (size_t)(all * all));
    s->gram = hdsgd_piece(&at, sizeof(double) * (size_t)(ld * ld));
    s->grown = hdsgd_piece(&at, sizeof(double) * (size_t)ld);
    s->noted = hdsgd_piece(&at, sizeof(double) * (size_t)(2 * ld * HDSGD_OWED));
    s->law = hdsgd_piece(&at, sizeof(hdsgd_chi2_law) * (size_t)p);
    return (size_t)(at - memory);
}

static int hdsgd_allocate(hdsgd_space *s, const hdsgd_run *run)
{
    static char nowhere[1];
    const size_t bytes = hdsgd_lay_out(run, s, nowhere);
    if (posix_memalign(&s->memory, 64, bytes)) return 1;
    memset(s->memory, 0, bytes);
    hdsgd_lay_out(run, s, s->memory);
    s->noise = v_all(run->noise);
    s->rate = s->decay = s->rate_a = v_all(0.0);
    for (int64_t b = 0; b < run->k; b++) s->a_star[b] = v_all(run->a_star[b]);
    for (int64_t b = 0; b < run->k; b++)
        for (int64_t c = 0; c < run->r; c++) s->L[c * s->kd + b] = v_all(run->L[b * run->r + c]);
    for (int64_t i = 0; i < run->p; i++) {
        const int64_t free = run->d - run->r - run->columns - i;
        s->law[i] = hdsgd_chi2_of(free > 0 ? free : 0);
    }
    return 0;
}

static double *hdsgd_numbers(const hdsgd_run *run, int64_t replica)
{
    return (double *)((char *)hdsgd_state(run, replica) + (sizeof(hdsgd_replica) + 63) / 64 * 64);
}

/* Between a replica's state and its lane: B, C and a. */
static void hdsgd_move(const hdsgd_run *run, hdsgd_space *s, int w, double *numbers, int out)
{
    const int64_t p = run->p, sizes[] = {run->r, run->columns, 1};
    V *const arrays[] = {s->B, s->C, s->a};
    for (int i = 0; i < 3; i++)
        for (int64_t j = 0; j < p; j++)
            for (int64_t c = 0; c < sizes[i]; c++, numbers++) {
                double *const at = &HDSGD_OF(arrays[i], c * s->ld + j, w);
                if (out)
                    *numbers = *at;
                else
                    *at = *numbers;
            }
}

/* An empty lane is never checked. */
static void hdsgd_leave(hdsgd_space *s, hdsgd_lane *lane, int w)
{
    lane->replica = -1;
    HDSGD_OF(&s->level, 0, w) = HDSGD_OF(&s->astray, 0, w) = -INFINITY;
    HDSGD_OF(&s->slack, 0, w) = INFINITY;
}

static void hdsgd_save(const hdsgd_run *run, hdsgd_space *s, hdsgd_lane *lane, int w, int phase)
{
    lane->is.phase = phase;
    lane->is.rng = hdsgd_get_rng(&s->stream, w);
    hdsgd_move(run, s, w, hdsgd_numbers(run, lane->replica), 1);
    *(hdsgd_replica *)hdsgd_state(run, lane->replica) = lane->is;
    hdsgd_leave(s, lane, w);
}

/* The learning rate of a replica's next step. */
static void hdsgd_set_pace(const hdsgd_run *run, hdsgd_space *s, hdsgd_lane *lane, int w)
{
    const hdsgd_pace pace = hdsgd_pace_of(run, &lane->is);
    HDSGD_OF(&s->rate, 0, w) = pace.rate / pace.decay;
    HDSGD_OF(&s->decay, 0, w) = pace.decay;
    HDSGD_OF(&s->rate_a, 0, w) = pace.rate_a;
}

static void hdsgd_load(const hdsgd_run *run, hdsgd_space *s, hdsgd_lane *lane, int w, int64_t replica)
{
    const int64_t p = run->p, start = replica * run->start_stride;
    double *const numbers = hdsgd_numbers(run, replica);
    lane->replica = replica;
    lane->is = *(hdsgd_replica *)hdsgd_state(run, replica);
    const int fresh = lane->is.phase == HDSGD_FRESH;
    if (fresh) {
        const int64_t b = p * run->r, c = p * run->columns;
        memcpy(numbers, run->B + start * b, sizeof(double) * (size_t)b);
        memcpy(numbers + b, run->C + start * c, sizeof(double) * (size_t)c);
        memcpy(numbers + b + c, run->a + replica * run->a_stride * p, sizeof(double) * (size_t)p);
        lane->is.rng = hdsgd_seed(run->words + 4 * replica);
    }
    hdsgd_move(run, s, w, numbers, 0);
    hdsgd_set_rng(&s->stream, w, lane->is.rng);
    hdsgd_set_pace(run, s, lane, w);
    if (fresh) {
        const double risk = hdsgd_measure(run, s, w, s->Q, s->M, s->second);
        lane->is.limit = hdsgd_limit(run, s->Q);
        lane->is.level = run->stop_kind == 1 ? run->stop * risk : run->stop;
        if (run->stop_kind != 0 && risk <= lane->is.level) lane->is.status = HDSGD_EXITED;
    }
    HDSGD_OF(&s->level, 0, w) = lane->is.level;
    HDSGD_OF(&s->astray, 0, w) = -INFINITY;
    HDSGD_OF(&s->low, 0, w) = INFINITY; /* no slopes yet */
    s->kept = -1;
    if (run->stop_kind != 0) hdsgd_appraise(run, s, lane, w);
}

/* A row of output, NaN if the replica has diverged. */
static void hdsgd_row(const hdsgd_run *run, hdsgd_space *s, hdsgd_lane *lane, int w, double *Q, double *M, double *a,
                      double *risk)
{
    *risk = hdsgd_measure(run, s, w, Q, M, a);
    if (hdsgd_sane(run, Q, lane->is.limit)) return;
    lane->is.status = HDSGD_DIVERGED;
    for (int64_t i = 0; i < run->p * run->p; i++) Q[i] = NAN;
    for (int64_t i = 0; i < run->p * run->k; i++) M[i] = NAN;
    *risk = NAN;
}

/* Output where it is due; whether the replica goes on. */
static int hdsgd_look(const hdsgd_run *run, hdsgd_space *s, hdsgd_lane *lane, int w)
{
    const int64_t p = run->p, k = run->k;
    hdsgd_replica *is = &lane->is;
    for (; is->next < run->n_store && run->store[is->next] == is->step; is->next++) {
        const int64_t row = lane->replica * run->n_store + is->next;
        hdsgd_row(run, s, lane, w, run->Q + row * p * p, run->M + row * p * k, run->a_out + row * p, run->risk + row);
    }
    if (is->step < run->n_steps && is->status == HDSGD_COMPLETED) return 1;
    const int64_t i = lane->replica;
    double *Q = run->last_Q + i * p * p, *M = run->last_M + i * p * k;
    hdsgd_row(run, s, lane, w, Q, M, run->last_a + i * p, run->last_risk + i);
    run->exit_step[i] = is->status == HDSGD_EXITED ? is->step : -1;
    run->status[i] = is->status;
    hdsgd_save(run, s, lane, w, HDSGD_DONE);
    return 0;
}

/* Put a replica into an empty lane, if there is one that goes on. */
static int hdsgd_fill(const hdsgd_run *run, hdsgd_space *s, hdsgd_lane *lane, int w)
{
    int64_t replica;
    while ((replica = hdsgd_take(run)) >= 0) {
        if (((hdsgd_replica *)hdsgd_state(run, replica))->phase == HDSGD_DONE) continue;
        hdsgd_load(run, s, lane, w, replica);
        if (hdsgd_look(run, s, lane, w)) return 1;
    }
    return 0;
}

/* Whether steps are hdsgd_step_batch. */
static int hdsgd_is_dense(const hdsgd_run *run) { return run->batch > 1 || run->columns < run->p; }

/* Whether there is a bound of the risk. */
static int hdsgd_is_bounded(const hdsgd_run *run) { return !hdsgd_is_dense(run) && run->ratio == 0.0; }

static __attribute__((noinline)) void hdsgd_check(const hdsgd_run *run, hdsgd_group *group, const V *doubt, int64_t step)
{
    hdsgd_space *s = &group->space;
    for (int w = 0; w < HDSGD_WIDTH; w++) {
        hdsgd_lane *lane = group->lanes + w;
        if (lane->replica < 0 || (HDSGD_OF(doubt, 0, w) <= 0.0 && HDSGD_OF(&s->astray, 0, w) <= 0.0)) continue;
        if ((lane->is.step + step) % HDSGD_BLOCK == 0) continue; /* hdsgd_end_block */
        if (HDSGD_WIDTH == 1 && hdsgd_is_above(run, s, lane, 0)) continue;
        const int64_t lasted = s->lasted;
        if (hdsgd_appraise(run, s, lane, w) <= lane->is.level) {
            lane->is.step += step, lane->is.status = HDSGD_EXITED;
            hdsgd_look(run, s, lane, w);
        } else if (HDSGD_WIDTH == 1 && !hdsgd_is_dense(run)) {
            hdsgd_begin_keeping(run, s, lasted);
        }
    }
}

/* Up to n steps of one group; returns how many. */
static int64_t hdsgd_go(const hdsgd_run *run, hdsgd_group *group, int64_t n)
{
    hdsgd_space *s = &group->space;
    const int64_t p = run->p;
    const int dense = hdsgd_is_dense(run), bounded = hdsgd_is_bounded(run);
    for (int64_t step = 1; step <= n; step++) {
        if (dense)
            hdsgd_step_batch(run, s);
        else
            hdsgd_step_many(run, s, p, run->k, run->r);
        if (run->stop_kind != 0) {
            V doubt = v_all(1.0); /* no bound: always compute */
            if (bounded) {
                hdsgd_spend(run, s);
                doubt = s->spent - s->slack;
            }
            s->lasted++;
            if (HDSGD_WIDTH == 1 && s->kept >= 0) {
                if (s->owed == HDSGD_OWED) hdsgd_settle(s);
                hdsgd_keep(run, s);
            }
            if (v_any_above(doubt, v_all(0.0)) || v_any_above(s->astray, v_all(0.0)))
                hdsgd_check(run, group, &doubt, step);
        }
        if ((HDSGD_WIDTH == 1 || dense) && hdsgd_cancelled(run)) return step;
    }
    return n;
}

static int hdsgd_is_one(const hdsgd_run *run)
{
    return HDSGD_WIDTH > 1 && run->p == 1 && run->k == 1 && run->r == 1 && run->batch == 1 && run->columns == 1;
}

/* Exact norms, and a look at divergence and the exit, at multiples of HDSGD_BLOCK steps. */
static void hdsgd_end_block(const hdsgd_run *run, hdsgd_group *group)
{
    hdsgd_space *s = &group->space;
    V due = v_all(-1.0);
    for (int w = 0; w < HDSGD_WIDTH; w++)
        if (group->lanes[w].replica >= 0 && group->lanes[w].is.step % HDSGD_BLOCK == 0) HDSGD_OF(&due, 0, w) = 1.0;
    if (run->spherical) hdsgd_project(run, s, due);
    for (int w = 0; w < HDSGD_WIDTH; w++) {
        if (HDSGD_OF(&due, 0, w) < 0.0) continue;
        hdsgd_lane *lane = group->lanes + w;
        if (run->stop_kind != 0 && !(HDSGD_WIDTH == 1 && hdsgd_is_above(run, s, lane, hdsgd_is_bounded(run))) &&
            hdsgd_appraise(run, s, lane, w) <= lane->is.level)
            lane->is.status = HDSGD_EXITED;
        for (int64_t j = 0; j < run->p; j++) /* NaN diverges, too */
            if (!(hdsgd_norm(run, s, w, j) < lane->is.limit)) lane->is.status = HDSGD_DIVERGED;
    }
}

int64_t hdsgd_state_size(const hdsgd_run *run)
{
    const size_t numbers = sizeof(double) * (size_t)(run->p * (run->r + run->columns + 1));
    return (int64_t)((sizeof(hdsgd_replica) + 63) / 64 * 64 + (numbers + 63) / 64 * 64);
}

/* Fill the lanes of a group; empty those that have to pause. How many steps until one has to be looked at, or 0. */
static int64_t hdsgd_begin(const hdsgd_run *run, hdsgd_group *group, int *paused)
{
    int64_t n = INT64_MAX;
    const int cancelled = hdsgd_cancelled(run);
    for (int w = 0; w < HDSGD_WIDTH; w++) {
        hdsgd_lane *lane = group->lanes + w;
        while (lane->replica >= 0 || (!cancelled && hdsgd_fill(run, &group->space, lane, w))) {
            if (lane->is.step == run->piece_end[lane->is.piece]) hdsgd_set_pace(run, &group->space, lane, w);
            const int64_t left = hdsgd_block_end(run, &lane->is) - lane->is.step;
            if (!cancelled && lane->is.step < run->until) {
                n = left < n ? left : n;
                break;
            }
            hdsgd_save(run, &group->space, lane, w, HDSGD_RUNNING);
            *paused = 1;
        }
    }
    return n == INT64_MAX ? 0 : n;
}

static int hdsgd_chain_of(const hdsgd_run *run, hdsgd_group *groups, int used)
{
    int paused = 0;
    for (;;) {
        int64_t n = INT64_MAX, steps = 0;
        int count = 0, busy[HDSGD_GROUPS];
        for (int g = 0; g < used; g++) {
            const int64_t left = hdsgd_begin(run, groups + g, &paused);
            if (left > 0) n = left < n ? left : n, busy[count++] = g;
        }
        if (count == 0) return paused || hdsgd_cancelled(run) ? HDSGD_PAUSED : HDSGD_FINISHED;
        if (!hdsgd_is_one(run))
            n = hdsgd_go(run, groups, n);
        else if (count == HDSGD_GROUPS)
            hdsgd_ones(run, groups, n, HDSGD_GROUPS);
        else
            for (int i = 0; i < count; i++) hdsgd_ones(run, groups + busy[i], n, 1);
        if (hdsgd_is_dense(run) && hdsgd_cancelled(run) == HDSGD_ABANDON) return HDSGD_ABANDONED;
        for (int i = 0; i < count; i++) {
            hdsgd_group *group = groups + busy[i];
            for (int w = 0; w < HDSGD_WIDTH; w++)
                if (group->lanes[w].replica >= 0) group->lanes[w].is.step += n, steps += n;
            hdsgd_end_block(run, group);
            for (int w = 0; w < HDSGD_WIDTH; w++)
                if (group->lanes[w].replica >= 0) hdsgd_look(run, &group->space, group->lanes + w, w);
        }
        hdsgd_advance(run, steps);
    }
}

/* Take replicas until none is left. */
int hdsgd_chain(const hdsgd_run *run)
{
    hdsgd_group groups[HDSGD_GROUPS];
    const int used = hdsgd_is_one(run) ? HDSGD_GROUPS : 1;
    int made = 0, out = HDSGD_NO_MEMORY;
    while (made < used && !hdsgd_allocate(&groups[made].space, run)) {
        for (int w = 0; w < HDSGD_WIDTH; w++) hdsgd_leave(&groups[made].space, groups[made].lanes + w, w);
        made++;
    }
    if (made == used) out = hdsgd_chain_of(run, groups, used);
    for (int g = 0; g < made; g++) free(groups[g].space.memory);
    return out;
}
