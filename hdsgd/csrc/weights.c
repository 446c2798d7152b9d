/* SGD on explicit weights: what the overlap chain is checked against, and the way when p + k > d.

   One sweep over the weights per step: it applies the previous step's update and projection to a row and takes the
   row's product with the new input. The overlaps follow the steps for the exit and the norms, and are recomputed
   from the weights every block.

   Concatenated after a kernel's pointwise functions, random.h, run.h and the kernel's risk. */

typedef struct {
    double *x, *x_old;                        /* d */
    double *lambda, *lambda_star, *u, *scale; /* p, k, p, p; still to be applied: W <- scale * (W + u x_old) */
    double *Q, *M;
    double *memory;
} hdsgd_space;

static int hdsgd_allocate(hdsgd_space *s, const hdsgd_run *run)
{
    const int64_t p = run->p, k = run->k, d = run->d;
    double *at = calloc((size_t)(2 * d + 3 * p + k + p * p + p * k), sizeof(double));
    s->memory = at;
    if (at == NULL) return 1;
    s->x = at, at += d;
    s->x_old = at, at += d;
    s->lambda = at, at += p;
    s->lambda_star = at, at += k;
    s->u = at, at += p;
    s->scale = at, at += p;
    s->Q = at, at += p * p;
    s->M = at;
    return 0;
}

static double hdsgd_dot(const double *restrict x, const double *restrict y, int64_t n)
{
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

static double hdsgd_update_dot(double *restrict w, double scale, double u, const double *restrict old,
                               const double *restrict x, int64_t n)
{
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        const double now = scale * (w[i] + u * old[i]);
        w[i] = now;
        sum += now * x[i];
    }
    return sum;
}

static void hdsgd_apply(const hdsgd_run *run, hdsgd_space *s, double *W)
{
    for (int64_t j = 0; j < run->p; j++) {
        double *restrict w = W + j * run->d;
        for (int64_t i = 0; i < run->d; i++) w[i] = s->scale[j] * (w[i] + s->u[j] * s->x_old[i]);
        s->u[j] = 0.0, s->scale[j] = 1.0;
    }
}

/* Q and M of the weights themselves. */
static void hdsgd_overlaps(const hdsgd_run *run, double *W, double *Q, double *M)
{
    const int64_t p = run->p, k = run->k, d = run->d;
    for (int64_t j = 0; j < p; j++) {
        double *w = W + j * d;
        for (int64_t l = 0; l <= j; l++) Q[j * p + l] = Q[l * p + j] = hdsgd_dot(w, W + l * d, d) / (double)d;
        for (int64_t b = 0; b < k; b++) M[j * k + b] = hdsgd_dot(w, run->W_star + b * d, d) / (double)d;
    }
}

/* Exact norms on the sphere. */
static void hdsgd_tidy(const hdsgd_run *run, double *W)
{
    if (!run->spherical) return;
    for (int64_t j = 0; j < run->p; j++) {
        double *w = W + j * run->d;
        const double scale = sqrt((double)run->d / hdsgd_dot(w, w, run->d));
        for (int64_t i = 0; i < run->d; i++) w[i] *= scale;
    }
}

/* One step; the update of the weights is left pending, Q and M follow at once. */
static void hdsgd_step(const hdsgd_run *run, hdsgd_space *s, double *W, const double *a, hdsgd_rng *state)
{
    const int64_t p = run->p, k = run->k, d = run->d;
    const double root = 1.0 / sqrt((double)d);
    hdsgd_rng rng = *state;
    double *restrict x = s->x, *restrict lambda = s->lambda, *restrict lambda_star = s->lambda_star;
    for (int64_t i = 0; i < d; i++) x[i] = hdsgd_normal(&rng);
    double student = 0.0, teacher = 0.0;
    for (int64_t j = 0; j < p; j++) {
        lambda[j] = root * hdsgd_update_dot(W + j * d, s->scale[j], s->u[j], s->x_old, x, d);
        student += a[j] * hdsgd_student(lambda[j]);
    }
    for (int64_t b = 0; b < k; b++) {
        lambda_star[b] = root * hdsgd_dot(run->W_star + b * d, x, d);
        teacher += run->a_star[b] * hdsgd_teacher(lambda_star[b]);
    }
    double e = teacher / (double)k - student / (double)p;
    if (run->noise > 0.0) e += run->noise * hdsgd_normal(&rng);
    *state = rng;

    /* W_j += (gamma / p) a_j s' e x / sqrt(d) = rate a_j s' e sqrt(d) x: in units of sqrt(d), rows move by u x. */
    const double length = hdsgd_dot(x, x, d), gain = run->rate * e;
    double *restrict u = s->u, *restrict scale = s->scale;
    for (int64_t j = 0; j < p; j++) {
        u[j] = gain * a[j] * hdsgd_student_prime(lambda[j]);
        const double norm = s->Q[j * p + j] + 2.0 * u[j] * lambda[j] + u[j] * u[j] * length;
        scale[j] = run->spherical ? 1.0 / sqrt(norm) : 1.0;
    }
    for (int64_t j = 0; j < p; j++) {
        for (int64_t l = 0; l < p; l++)
            s->Q[j * p + l] =
                scale[j] * scale[l] * (s->Q[j * p + l] + u[j] * lambda[l] + u[l] * lambda[j] + u[j] * u[l] * length);
        for (int64_t b = 0; b < k; b++) s->M[j * k + b] = scale[j] * (s->M[j * k + b] + u[j] * lambda_star[b]);
    }
    for (int64_t j = 0; j < p; j++) u[j] /= root;
    s->x = s->x_old, s->x_old = x;
}

static int hdsgd_replica(const hdsgd_run *run, hdsgd_space *s, int64_t replica)
{
    const int64_t p = run->p, k = run->k;
    const double *a = run->a + replica * run->a_stride * p;
    double *W = run->W + replica * p * run->d;
    const int stopping = run->stop_kind != 0;
    hdsgd_rng rng = hdsgd_seed(run->words + 4 * replica);
    for (int64_t j = 0; j < p; j++) s->u[j] = 0.0, s->scale[j] = 1.0;
    for (int64_t i = 0; i < run->d; i++) s->x_old[i] = 0.0;
    hdsgd_tidy(run, W);
    hdsgd_overlaps(run, W, s->Q, s->M);
    const double limit = hdsgd_limit(run, s->Q), level = stopping ? hdsgd_level(run, s->Q, s->M, a) : 0.0;
    int64_t step = 0, next = 0, exit_step = stopping && hdsgd_excess(run, s->Q, s->M, a) <= level ? 0 : -1;
    int status = exit_step == 0 ? HDSGD_EXITED : HDSGD_COMPLETED;
    for (;;) {
        const int storing = next < run->n_store && run->store[next] == step;
        const int last = step == run->n_steps || status != HDSGD_COMPLETED;
        if (storing || last || step % HDSGD_BLOCK == 0) hdsgd_apply(run, s, W);
        if (step % HDSGD_BLOCK == 0) {
            hdsgd_tidy(run, W);
            hdsgd_overlaps(run, W, s->Q, s->M);
            if (!hdsgd_sane(run, s->Q, limit)) status = HDSGD_DIVERGED;
        }
        for (; next < run->n_store && run->store[next] == step; next++) {
            const int64_t row = replica * run->n_store + next;
            double *Q = run->Q + row * p * p, *M = run->M + row * p * k;
            hdsgd_overlaps(run, W, Q, M);
            if (!hdsgd_store(run, Q, M, run->risk + row, a, limit)) status = HDSGD_DIVERGED;
        }
        if (step == run->n_steps || status != HDSGD_COMPLETED) break;
        const int64_t begin = step, end = hdsgd_block_end(run, step, next);
        while (step < end) {
            if (hdsgd_cancelled(run)) return 1;
            hdsgd_step(run, s, W, a, &rng);
            step++;
            if (stopping && hdsgd_excess(run, s->Q, s->M, a) <= level) {
                exit_step = step, status = HDSGD_EXITED;
                break;
            }
        }
        hdsgd_advance(run, step - begin);
    }
    double *Q = run->last_Q + replica * p * p, *M = run->last_M + replica * p * k;
    hdsgd_overlaps(run, W, Q, M);
    if (!hdsgd_store(run, Q, M, run->last_risk + replica, a, limit)) status = HDSGD_DIVERGED;
    run->exit_step[replica] = exit_step;
    run->status[replica] = status;
    return 0;
}

/* Replicas first ... first + count - 1. Returns 0, 1 if cancelled, 2 if there is no memory. */
int hdsgd_weights(const hdsgd_run *run, int64_t first, int64_t count)
{
    hdsgd_space space;
    if (hdsgd_allocate(&space, run)) return 2;
    int cancelled = 0;
    for (int64_t i = first; i < first + count && !cancelled; i++) cancelled = hdsgd_replica(run, &space, i);
    free(space.memory);
    return cancelled;
}
