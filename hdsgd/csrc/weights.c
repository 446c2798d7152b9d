/* SGD on explicit weights: what the overlap chain is checked against, and the way of explicit starts.

   A sweep over the weights serves several steps. The inputs of all of them are drawn at once, and the local fields of
   a step follow from the products of its inputs with the weights at the sweep, and with the inputs of the steps since
   then. Q and M follow the steps by the same products, for the exit and the norms, and are computed from the weights,
   in double precision, every block. With large mini-batches a sweep is one step, and they are computed whenever they
   are needed.

   Concatenated after a kernel's pointwise functions, random.h, run.h, the kernel's risk, lanes.h and sweep.h. */

enum { HDSGD_FOLLOWED = 16 }; /* up to so many inputs in a sweep, their products cost no more than they do */
#define HDSGD_FAR 0x1p20      /* scales of rows beyond this, or its inverse, go into the weights */

typedef struct {
    hdsgd_replica head;
    hdsgd_lanes lanes;
    double values[]; /* Q, M, a, scale */
} hdsgd_weights_state;

typedef struct {
    hdsgd_sheet sheet;
    int64_t steps;                 /* of one sweep */
    double *lambda, *u, *moved;    /* of one step, p for each of its inputs: fields, updates, fields after the step */
    double *phi, *dphi, *change;   /* p: of one input; of the second layer */
    double *lambda_star, *phi_star; /* k */
    double *norm;                  /* p: of the weights before they are put on the sphere */
    double *memory;
    hdsgd_weights_state *state; /* of the replica in work, and what is in it */
    double *Q, *M, *a, *scale;
} hdsgd_space;

int64_t hdsgd_state_size(const hdsgd_run *run)
{
    const int64_t values = run->p * (run->p + run->k + 2);
    return ((int64_t)sizeof(hdsgd_weights_state) + 8 * values + 63) / 64 * 64;
}

static int hdsgd_allocate(hdsgd_space *s, const hdsgd_run *run)
{
    const int64_t p = run->p, k = run->k, batch = run->batch;
    /* 4, 2 or 1, so that a block is whole sweeps; scales that shrink fast go into the weights after every step */
    double largest = 0.0;
    for (int64_t i = 0; i < run->pieces; i++) largest = run->rates[i] > largest ? run->rates[i] : largest;
    s->steps = batch < HDSGD_TILE && run->decay * largest < 0.5 ? HDSGD_TILE / batch : 1;
    s->memory = calloc((size_t)(3 * batch * p + 4 * p + 2 * k), sizeof(double));
    if (hdsgd_sheet_new(&s->sheet, run, s->steps * batch) || s->memory == NULL) return 1;
    s->sheet.products = s->steps > 1 || (batch <= HDSGD_FOLLOWED && (run->spherical || run->stop_kind));
    double *at = s->memory;
    double **of_inputs[] = {&s->lambda, &s->u, &s->moved};
    for (int i = 0; i < 3; i++) *of_inputs[i] = at, at += batch * p;
    double **of_students[] = {&s->phi, &s->dphi, &s->change, &s->norm};
    for (int i = 0; i < 4; i++) *of_students[i] = at, at += p;
    s->lambda_star = at, at += k;
    s->phi_star = at;
    return 0;
}

static void hdsgd_release(hdsgd_space *s)
{
    free(s->sheet.memory);
    free(s->memory);
}

/* Q and M of the weights as they are now; only the diagonal of Q unless `all`. On the sphere they are those of rows of
   norm 1: rounding moves the rows from it, and `norm` tells how far. Returns 1 if it was told to stop. */
static int hdsgd_overlaps(const hdsgd_run *run, hdsgd_space *s, double *Q, double *M, int all)
{
    const int64_t p = run->p, k = run->k;
    hdsgd_sheet *sheet = &s->sheet;
    memset(Q, 0, sizeof(double) * (size_t)(p * p));
    memset(M, 0, sizeof(double) * (size_t)(p * k));
    for (int64_t chunk = 0; chunk < sheet->chunks; chunk++) {
        if (hdsgd_cancelled(run) == HDSGD_ABANDON) return 1;
        const int64_t n = hdsgd_columns_of(sheet, chunk);
        hdsgd_real *rows = hdsgd_row(sheet->w, p, chunk, 0);
        for (int64_t j = 0; sheet->pending && j < p; j++)
            hdsgd_current(sheet, sheet->copy + j * HDSGD_CHUNK, chunk, j, n);
        if (sheet->pending) rows = sheet->copy;
        for (int64_t j = 0; j < p; j++) {
            const hdsgd_real *row = rows + j * HDSGD_CHUNK;
            for (int64_t l = all ? 0 : j; l <= j; l++) Q[j * p + l] += hdsgd_dot(row, rows + l * HDSGD_CHUNK, n);
            for (int64_t b = 0; all && b < k; b++)
                M[j * k + b] += hdsgd_dot(row, hdsgd_row(sheet->w_star, k, chunk, b), n);
        }
    }
    for (int64_t j = 0; j < p; j++) {
        const double length = s->scale[j] * sqrt(Q[j * p + j] / (double)run->d);
        s->norm[j] = run->spherical ? length : 1.0;
    }
    for (int64_t j = 0; j < p; j++) {
        const double unit = s->scale[j] / (s->norm[j] * (double)run->d);
        for (int64_t l = 0; l <= j; l++) Q[l * p + j] = Q[j * p + l] *= unit * s->scale[l] / s->norm[l];
        for (int64_t b = 0; b < k; b++) M[j * k + b] *= unit;
    }
    return 0;
}

/* Q and M from the weights, which are put on the sphere exactly. */
static int hdsgd_renew(const hdsgd_run *run, hdsgd_space *s)
{
    if (hdsgd_overlaps(run, s, s->Q, s->M, run->stop_kind != 0)) return 1;
    for (int64_t j = 0; j < run->p; j++) s->scale[j] /= s->norm[j];
    return 0;
}

/* Scales that have gone far move into the weights. Called with nothing pending but what the next sweep applies. */
static void hdsgd_rescale(hdsgd_space *s)
{
    for (int64_t j = 0; j < s->sheet.p; j++) {
        if (s->scale[j] < HDSGD_FAR && s->scale[j] > 1.0 / HDSGD_FAR) continue;
        s->sheet.fold[j] = s->scale[j], s->scale[j] = 1.0;
        s->sheet.pending = 1;
    }
}

/* One step, on the inputs of the sweep from number `first` on. Its update of the weights is left pending. */
static void hdsgd_step(const hdsgd_run *run, hdsgd_space *s, int64_t first)
{
    hdsgd_sheet *sheet = &s->sheet;
    const int64_t p = run->p, k = run->k, batch = run->batch, tiles = sheet->tiles;
    const hdsgd_pace pace = hdsgd_pace_of(run, &s->state->head);
    const double root = sqrt((double)run->d), gain = pace.rate / (double)batch, decay = pace.decay;
    const double *products = sheet->field + (p + k) * tiles; /* of inputs t and s <= t: at t * tiles + s */
    double *restrict phi = s->phi, *restrict dphi = s->dphi, *restrict phi_star = s->phi_star;
    hdsgd_rng rng = s->state->head.rng;
    for (int64_t j = 0; j < p; j++) s->change[j] = 0.0;
    for (int64_t j = 0; j < p * k; j++) s->M[j] *= decay;
    for (int64_t i = 0; i < batch; i++) {
        const int64_t t = first + i;
        double *restrict lambda = s->lambda + i * p, *restrict u = s->u + i * p;
        for (int64_t j = 0; j < p; j++) {
            double product = sheet->field[j * tiles + t];
            for (int64_t past = 0; past < first; past++)
                product += (double)sheet->u[j * tiles + past] * products[t * tiles + past];
            lambda[j] = s->scale[j] * product / root;
        }
        for (int64_t b = 0; b < k; b++) s->lambda_star[b] = sheet->field[(p + b) * tiles + t] / root;
        for (int64_t j = 0; j < p; j++) phi[j] = hdsgd_student(lambda[j]);
        for (int64_t j = 0; j < p; j++) dphi[j] = hdsgd_student_prime(lambda[j]);
        for (int64_t b = 0; b < k; b++) phi_star[b] = hdsgd_teacher(s->lambda_star[b]);
        double student = 0.0, teacher = 0.0;
        for (int64_t j = 0; j < p; j++) student += s->a[j] * phi[j];
        for (int64_t b = 0; b < k; b++) teacher += run->a_star[b] * phi_star[b];
        double e = teacher / (double)k - student / (double)p;
        if (run->noise > 0.0) e += run->noise * hdsgd_normal(&rng);
        for (int64_t j = 0; j < p; j++) {
            u[j] = gain * e * s->a[j] * dphi[j]; /* rows of W/sqrt(d) move by u x */
            s->change[j] += e * phi[j];
        }
        for (int64_t b = 0; b < k; b++)
            for (int64_t j = 0; j < p; j++) s->M[j * k + b] += u[j] * s->lambda_star[b];
    }
    s->state->head.rng = rng;

    for (int64_t j = 0; j < p; j++) {
        s->a[j] += pace.rate_a * s->change[j] / (double)batch;
        s->scale[j] *= decay;
        for (int64_t i = 0; i < batch; i++)
            sheet->u[j * tiles + first + i] = (hdsgd_real)(root * s->u[i * p + j] / s->scale[j]);
    }
    sheet->pending = 1;
    if (!sheet->products) return;

    /* (decay W + u x)(decay W + u x)^T/d = decay^2 Q + u moved^T + decay lambda u^T, `moved` the fields of the new W */
    for (int64_t i = 0; i < batch; i++)
        for (int64_t j = 0; j < p; j++) {
            double moved = decay * s->lambda[i * p + j];
            for (int64_t l = 0; l < batch; l++) {
                const int64_t late = first + (i > l ? i : l), early = first + (i > l ? l : i);
                moved += s->u[l * p + j] * products[late * tiles + early];
            }
            s->moved[i * p + j] = moved;
        }
    for (int64_t j = 0; j < p; j++)
        for (int64_t l = run->stop_kind ? 0 : j; l <= j; l++) {
            double q = decay * decay * s->Q[j * p + l];
            for (int64_t i = 0; i < batch; i++)
                q += s->u[i * p + j] * s->moved[i * p + l] + decay * s->lambda[i * p + j] * s->u[i * p + l];
            s->Q[j * p + l] = s->Q[l * p + j] = q;
        }
    for (int64_t j = 0; j < p; j++) s->norm[j] = run->spherical ? sqrt(s->Q[j * p + j]) : 1.0;
    for (int64_t j = 0; j < p; j++) {
        s->scale[j] /= s->norm[j];
        for (int64_t l = 0; l < p; l++) s->Q[j * p + l] /= s->norm[j] * s->norm[l];
        for (int64_t b = 0; b < k; b++) s->M[j * k + b] /= s->norm[j];
    }
}

/* One row of output. */
static int hdsgd_record(const hdsgd_run *run, hdsgd_space *s, double *Q, double *M, double *a, double *risk)
{
    if (hdsgd_overlaps(run, s, Q, M, 1)) return 1;
    memcpy(a, s->a, sizeof(double) * (size_t)run->p);
    if (!hdsgd_store(run, Q, M, risk, s->a, s->state->head.limit)) s->state->head.status = HDSGD_DIVERGED;
    return 0;
}

static int hdsgd_begin(const hdsgd_run *run, hdsgd_space *s, int64_t replica)
{
    hdsgd_replica *head = &s->state->head;
    head->rng = hdsgd_seed(run->words + 4 * replica);
    hdsgd_lanes_from(&s->state->lanes, head->rng);
    for (int64_t j = 0; j < run->p; j++)
        s->a[j] = run->a[replica * run->a_stride * run->p + j], s->scale[j] = 1.0;
    if (hdsgd_renew(run, s)) return 1;
    head->phase = HDSGD_RUNNING;
    head->limit = hdsgd_limit(run, s->Q);
    head->level = run->stop_kind ? hdsgd_level(run, s->Q, s->M, s->a) : 0.0;
    run->exit_step[replica] = -1;
    if (run->stop_kind && hdsgd_excess(run, s->Q, s->M, s->a) <= head->level)
        run->exit_step[replica] = 0, head->status = HDSGD_EXITED;
    return 0;
}

/* Returns 1 if it was told to stop at once. */
static int hdsgd_one(const hdsgd_run *run, hdsgd_space *s, int64_t replica)
{
    const int64_t p = run->p, k = run->k;
    hdsgd_sheet *sheet = &s->sheet;
    double *W = run->W + replica * p * run->d;
    s->state = hdsgd_state(run, replica);
    s->Q = s->state->values, s->M = s->Q + p * p, s->a = s->M + p * k, s->scale = s->a + p;
    hdsgd_replica *head = &s->state->head;
    if (head->phase == HDSGD_DONE) return 0;
    hdsgd_settled(sheet);
    if (hdsgd_pack(run, sheet->w, W, p)) return 1;
    if (head->phase == HDSGD_FRESH && hdsgd_begin(run, s, replica)) return 1;
    for (;;) {
        for (; head->next < run->n_store && run->store[head->next] == head->step; head->next++) {
            const int64_t row = replica * run->n_store + head->next;
            if (hdsgd_record(run, s, run->Q + row * p * p, run->M + row * p * k, run->a_out + row * p, run->risk + row))
                return 1;
        }
        if (head->step == run->n_steps || head->status != HDSGD_COMPLETED) break;
        const int64_t place = head->step % s->steps;
        if (place == 0) {
            if (head->step >= run->until || hdsgd_cancelled(run)) /* W holds the rows without their scales */
                return hdsgd_apply(run, sheet) || hdsgd_unpack(run, W, sheet->w, p, NULL);
            hdsgd_rescale(s);
            if (hdsgd_sweep(run, sheet, &s->state->lanes)) return 1;
            hdsgd_advance(run, run->n_steps - head->step < s->steps ? run->n_steps - head->step : s->steps);
        }
        hdsgd_step(run, s, place * run->batch);
        head->step++;
        const int whole = head->step % HDSGD_BLOCK == 0;
        if (whole || (!sheet->products && (run->stop_kind || run->spherical))) {
            if (hdsgd_renew(run, s)) return 1;
            if (whole && !hdsgd_sane(run, s->Q, head->limit)) head->status = HDSGD_DIVERGED;
        }
        if (run->stop_kind && hdsgd_excess(run, s->Q, s->M, s->a) <= head->level)
            run->exit_step[replica] = head->step, head->status = HDSGD_EXITED;
    }
    if (hdsgd_record(run, s, run->last_Q + replica * p * p, run->last_M + replica * p * k, run->last_a + replica * p,
                     run->last_risk + replica) ||
        hdsgd_apply(run, sheet))
        return 1;
    for (int64_t j = 0; j < p; j++) s->scale[j] /= s->norm[j];
    if (hdsgd_unpack(run, W, sheet->w, p, s->scale)) return 1;
    run->status[replica] = head->status;
    head->phase = HDSGD_DONE;
    return 0;
}

int hdsgd_weights(const hdsgd_run *run)
{
    hdsgd_space space = {.memory = NULL};
    int said = HDSGD_FINISHED;
    if (hdsgd_allocate(&space, run))
        said = HDSGD_NO_MEMORY;
    else if (hdsgd_pack(run, space.sheet.w_star, run->W_star, run->k))
        said = HDSGD_ABANDONED;
    while (said == HDSGD_FINISHED) {
        const int64_t replica = hdsgd_take(run);
        if (replica < 0) break;
        if (hdsgd_one(run, &space, replica))
            said = HDSGD_ABANDONED;
        else if (hdsgd_cancelled(run))
            said = HDSGD_PAUSED;
    }
    hdsgd_release(&space);
    return said;
}
