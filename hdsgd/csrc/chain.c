/* The exact chain of the overlaps in frame form: one SGD step in law, at a cost O(p^2 + p k) whatever d is.

   A replica's state is B (p x r), the students' coordinates in an orthonormal frame of the teachers' span, and C
   (p x p, lower triangular), their coordinates in a moving frame of the rest; the teachers are L (k x r), P = L L^T.
   Then Q = B B^T + C C^T and M = B L^T. Nothing is ever subtracted in Q, so the chain stays accurate at perfect
   learning and allows singular Omega.

   Concatenated after a kernel's pointwise functions, random.h, run.h and the kernel's risk. */

#define HDSGD_PAD(n) (((n) + 7) & ~(int64_t)7)

/* p = k = r = 1: everything in registers. C only enters squared, so its sign is free. `spherical` and `stopping` are
   constants of each of the four copies that are compiled: terms of the risk that never change then leave the loop. */
static inline __attribute__((always_inline)) int hdsgd_replica_11(const hdsgd_run *run, int64_t replica, int spherical,
                                                                  int stopping)
{
    const int64_t i = replica * run->start_stride;
    const double rate = run->rate, noise = run->noise, L = run->L[0], P = run->P[0], a_star = run->a_star[0];
    const double a = run->a[replica * run->a_stride];
    const hdsgd_chi2_law law = hdsgd_chi2_of(run->d - 2);
    hdsgd_rng rng = hdsgd_seed(run->words + 4 * replica);
    double B = run->B[i], C = run->C[i], Q = B * B + C * C, M = B * L;
    const double limit = hdsgd_limit(run, &Q), level = stopping ? hdsgd_level(run, &Q, &M, &a) : 0.0;
    int64_t step = 0, next = 0, exit_step = stopping && hdsgd_excess(run, &Q, &M, &a) <= level ? 0 : -1;
    int status = exit_step == 0 ? HDSGD_EXITED : HDSGD_COMPLETED;
    for (;;) {
        Q = B * B + C * C, M = B * L;
        if (!hdsgd_sane(run, &Q, limit)) status = HDSGD_DIVERGED;
        for (; next < run->n_store && run->store[next] == step; next++) {
            const int64_t row = replica * run->n_store + next;
            run->Q[row] = Q, run->M[row] = M;
            hdsgd_store(run, run->Q + row, run->M + row, run->risk + row, &a, limit);
        }
        if (step == run->n_steps || status != HDSGD_COMPLETED) break;
        if (hdsgd_cancelled(run)) return 1;
        const int64_t begin = step, end = hdsgd_block_end(run, step, next);
        while (step < end) {
            const double g_star = hdsgd_normal(&rng), g = hdsgd_normal(&rng), rest = hdsgd_chi2(&rng, law);
            const double lambda = B * g_star + C * g;
            double e = a_star * hdsgd_teacher(L * g_star) - a * hdsgd_student(lambda);
            if (noise > 0.0) e += noise * hdsgd_normal(&rng);
            const double u = rate * a * hdsgd_student_prime(lambda) * e, y = C + u * g, norm = y * y + u * u * rest;
            B += u * g_star;
            if (spherical) {
                const double scale = 1.0 / sqrt(B * B + norm);
                B *= scale, C = sqrt(norm) * scale;
            } else {
                C = sqrt(norm);
            }
            step++;
            if (stopping) {
                Q = spherical ? 1.0 : B * B + C * C, M = B * L;
                if (__builtin_expect(hdsgd_pair_risk(1, 1, &Q, &M, &P, &a, &a_star) <= level, 0)) {
                    exit_step = step, status = HDSGD_EXITED;
                    break;
                }
            }
        }
        hdsgd_advance(run, step - begin);
    }
    run->last_Q[replica] = Q, run->last_M[replica] = M;
    hdsgd_store(run, run->last_Q + replica, run->last_M + replica, run->last_risk + replica, &a, limit);
    run->exit_step[replica] = exit_step;
    run->status[replica] = status;
    return 0;
}

typedef int hdsgd_one_replica(const hdsgd_run *run, int64_t replica);
static int hdsgd_free_11(const hdsgd_run *run, int64_t i) { return hdsgd_replica_11(run, i, 0, 0); }
static int hdsgd_free_exit_11(const hdsgd_run *run, int64_t i) { return hdsgd_replica_11(run, i, 0, 1); }
static int hdsgd_sphere_11(const hdsgd_run *run, int64_t i) { return hdsgd_replica_11(run, i, 1, 0); }
static int hdsgd_sphere_exit_11(const hdsgd_run *run, int64_t i) { return hdsgd_replica_11(run, i, 1, 1); }

/* Work space of one thread. Matrices are stored by columns of padded length: every loop over rows is whole vectors. */
typedef struct {
    int64_t ld, kd;              /* p and k, padded */
    double *B, *C, *L;           /* ld x r, ld x p, kd x r */
    double *a, *acc, *lambda, *phi, *dphi, *u, *v, *scale; /* ld each */
    double *g, *tail, *alpha, *beta;                       /* ld + 8 each */
    double *g_star, *lambda_star, *phi_star;               /* kd each */
    double *Q, *M;               /* p x p and p x k by rows, for the exit */
    double *memory;
} hdsgd_space;

static int hdsgd_allocate(hdsgd_space *s, const hdsgd_run *run)
{
    const int64_t p = run->p, k = run->k, r = run->r, ld = HDSGD_PAD(p), kd = HDSGD_PAD(k);
    const int64_t vectors = 8 * ld + 4 * (ld + 8) + 3 * kd;
    const int64_t total = ld * r + ld * p + kd * r + vectors + HDSGD_PAD(p * p) + HDSGD_PAD(p * k);
    void *block = NULL;
    s->memory = NULL;
    if (posix_memalign(&block, 64, sizeof(double) * (size_t)total)) return 1;
    memset(block, 0, sizeof(double) * (size_t)total);
    double *at = block;
    s->memory = at, s->ld = ld, s->kd = kd;
    s->B = at, at += ld * r;
    s->C = at, at += ld * p;
    s->L = at, at += kd * r;
    double **rows[] = {&s->a, &s->acc, &s->lambda, &s->phi, &s->dphi, &s->u, &s->v, &s->scale};
    for (int i = 0; i < 8; i++) *rows[i] = at, at += ld;
    double **longer[] = {&s->g, &s->tail, &s->alpha, &s->beta};
    for (int i = 0; i < 4; i++) *longer[i] = at, at += ld + 8;
    double **teachers[] = {&s->g_star, &s->lambda_star, &s->phi_star};
    for (int i = 0; i < 3; i++) *teachers[i] = at, at += kd;
    s->Q = at, at += HDSGD_PAD(p * p);
    s->M = at;
    return 0;
}

static void hdsgd_columns(double *out, int64_t ld, const double *rows, int64_t m, int64_t n)
{
    for (int64_t c = 0; c < n; c++)
        for (int64_t j = 0; j < m; j++) out[c * ld + j] = rows[j * n + c];
}

/* Q (p x p) and M (p x k), by rows, from the frame. */
static void hdsgd_overlaps(const hdsgd_run *run, const hdsgd_space *s, double *Q, double *M)
{
    const int64_t p = run->p, k = run->k, r = run->r, ld = s->ld;
    for (int64_t j = 0; j < p; j++) {
        double *q = Q + j * p;
        for (int64_t l = 0; l <= j; l++) q[l] = 0.0;
        for (int64_t c = 0; c < r; c++)
            for (int64_t l = 0; l <= j; l++) q[l] += s->B[c * ld + j] * s->B[c * ld + l];
        for (int64_t c = 0; c <= j; c++)
            for (int64_t l = 0; l <= j; l++) q[l] += s->C[c * ld + j] * s->C[c * ld + l];
        for (int64_t b = 0; b < k; b++) {
            double m = 0.0;
            for (int64_t c = 0; c < r; c++) m += s->B[c * ld + j] * s->L[c * s->kd + b];
            M[j * k + b] = m;
        }
    }
    for (int64_t j = 0; j < p; j++)
        for (int64_t l = 0; l < j; l++) Q[l * p + j] = Q[j * p + l];
}

/* Exact norms on the sphere, since the factors of single steps let them drift by rounding. */
static void hdsgd_tidy(const hdsgd_run *run, hdsgd_space *s)
{
    const int64_t p = run->p, r = run->r, ld = s->ld;
    double *norm = s->scale;
    if (!run->spherical) return;
    for (int64_t j = 0; j < ld; j++) norm[j] = 0.0;
    for (int64_t c = 0; c < r; c++)
        for (int64_t j = 0; j < ld; j++) norm[j] += s->B[c * ld + j] * s->B[c * ld + j];
    for (int64_t c = 0; c < p; c++)
        for (int64_t j = 0; j < ld; j++) norm[j] += s->C[c * ld + j] * s->C[c * ld + j];
    for (int64_t j = 0; j < p; j++) norm[j] = 1.0 / sqrt(norm[j]);
    for (int64_t c = 0; c < r; c++)
        for (int64_t j = 0; j < p; j++) s->B[c * ld + j] *= norm[j];
    for (int64_t c = 0; c < p; c++)
        for (int64_t j = c; j < p; j++) s->C[c * ld + j] *= norm[j];
}

/* One step of SGD; `follow`: Q and M in the work space follow it. */
static inline __attribute__((always_inline)) void hdsgd_step(const hdsgd_run *run, const hdsgd_space *s, hdsgd_rng *rng,
                                                             hdsgd_chi2_law law, int follow)
{
    const int64_t p = run->p, k = run->k, r = run->r, ld = s->ld, kd = s->kd;
    double *restrict B = s->B, *restrict C = s->C, *restrict acc = s->acc, *restrict lambda = s->lambda;
    double *restrict u = s->u, *restrict v = s->v, *restrict scale = s->scale, *restrict lambda_star = s->lambda_star;
    double *restrict g = s->g, *restrict tail = s->tail, *restrict alpha = s->alpha, *restrict beta = s->beta;
    double *restrict phi = s->phi, *restrict dphi = s->dphi, *restrict phi_star = s->phi_star;
    double *restrict g_star = s->g_star;

    double inside = 0.0; /* squared norm of the input within the teachers' span; tail[0] is that of the rest */
    for (int64_t c = 0; c < r; c++) {
        g_star[c] = hdsgd_normal(rng);
        inside += g_star[c] * g_star[c];
    }
    for (int64_t l = 0; l < p; l++) g[l] = hdsgd_normal(rng);
    tail[p] = hdsgd_chi2(rng, law);
    for (int64_t l = p - 1; l >= 0; l--) tail[l] = tail[l + 1] + g[l] * g[l];
    for (int64_t l = 0; l < p; l++) {
        const double both = sqrt(tail[l] * tail[l + 1]);
        const double inverse = both > 0.0 ? 1.0 / both : 0.0; /* 0 only at d = p + r */
        alpha[l] = tail[l + 1] * inverse;
        beta[l] = g[l] * inverse;
    }

    /* Turn the moving frame until the input has one coordinate left in it. */
    for (int64_t j = 0; j < ld; j++) acc[j] = 0.0;
    for (int64_t l = p - 1; l >= 0; l--) {
        double *restrict column = C + l * ld;
        const double turn = alpha[l], mix = beta[l], coordinate = g[l];
        for (int64_t j = l & ~(int64_t)7; j < ld; j++) {
            const double x = column[j];
            column[j] = turn * x - mix * acc[j];
            acc[j] += coordinate * x;
        }
    }
    for (int64_t j = 0; j < ld; j++) lambda[j] = acc[j];
    for (int64_t b = 0; b < kd; b++) lambda_star[b] = 0.0;
    for (int64_t c = 0; c < r; c++) {
        const double x = g_star[c];
        for (int64_t j = 0; j < ld; j++) lambda[j] += B[c * ld + j] * x;
        for (int64_t b = 0; b < kd; b++) lambda_star[b] += s->L[c * kd + b] * x;
    }

    for (int64_t j = 0; j < ld; j++) phi[j] = hdsgd_student(lambda[j]);
    for (int64_t j = 0; j < ld; j++) dphi[j] = hdsgd_student_prime(lambda[j]);
    for (int64_t b = 0; b < kd; b++) phi_star[b] = hdsgd_teacher(lambda_star[b]);
    double student = 0.0, teacher = 0.0;
    for (int64_t j = 0; j < p; j++) student += s->a[j] * phi[j];
    for (int64_t b = 0; b < k; b++) teacher += run->a_star[b] * phi_star[b];
    double e = teacher / (double)k - student / (double)p;
    if (run->noise > 0.0) e += run->noise * hdsgd_normal(rng);

    const double length = tail[0] + inside, root = sqrt(tail[0]), inverse_root = 1.0 / root, gain = run->rate * e;
    for (int64_t j = 0; j < ld; j++) {
        u[j] = j < p ? gain * s->a[j] * dphi[j] : 0.0;
        v[j] = acc[j] * inverse_root + u[j] * root;
        scale[j] = run->spherical ? 1.0 / sqrt(1.0 + 2.0 * u[j] * lambda[j] + u[j] * u[j] * length) : 1.0;
    }
    if (follow) {
        for (int64_t j = 0; j < p; j++) {
            double *restrict q = s->Q + j * p, *restrict m = s->M + j * k;
            const double uj = u[j], xj = lambda[j] + u[j] * length, sj = scale[j];
            for (int64_t l = 0; l < p; l++) q[l] = sj * scale[l] * (q[l] + uj * lambda[l] + u[l] * xj);
            for (int64_t b = 0; b < k; b++) m[b] = sj * (m[b] + uj * lambda_star[b]);
        }
    }
    for (int64_t c = 0; c < r; c++)
        for (int64_t j = 0; j < ld; j++) B[c * ld + j] = scale[j] * (B[c * ld + j] + u[j] * g_star[c]);

    /* C C^T + v v^T by Givens rotations. Rows above the diagonal share vectors with those below; v is zero there. */
    for (int64_t l = 0; l < p; l++) {
        double *restrict column = C + l * ld;
        const double x = column[l], y = v[l], h = sqrt(x * x + y * y), inverse = h > 0.0 ? 1.0 / h : 0.0;
        const double cosine = h > 0.0 ? x * inverse : 1.0, sine = y * inverse;
        for (int64_t j = l & ~(int64_t)7; j < ld; j++) {
            const double old = column[j];
            column[j] = scale[j] * (cosine * old + sine * v[j]);
            v[j] = cosine * v[j] - sine * old;
        }
        v[l] = 0.0;
    }
}

static int hdsgd_replica(const hdsgd_run *run, hdsgd_space *s, int64_t replica)
{
    const int64_t p = run->p, k = run->k, r = run->r, i = replica * run->start_stride, ld = s->ld;
    const double *a = run->a + replica * run->a_stride * p;
    const int stopping = run->stop_kind != 0;
    const hdsgd_chi2_law law = hdsgd_chi2_of(run->d - p - r);
    hdsgd_rng rng = hdsgd_seed(run->words + 4 * replica);
    memset(s->B, 0, sizeof(double) * (size_t)(ld * r));
    memset(s->C, 0, sizeof(double) * (size_t)(ld * p));
    hdsgd_columns(s->B, ld, run->B + i * p * r, p, r);
    hdsgd_columns(s->C, ld, run->C + i * p * p, p, p);
    hdsgd_columns(s->L, s->kd, run->L, k, r);
    for (int64_t j = 0; j < p; j++) s->a[j] = a[j];
    hdsgd_overlaps(run, s, s->Q, s->M);
    const double limit = hdsgd_limit(run, s->Q), level = stopping ? hdsgd_level(run, s->Q, s->M, a) : 0.0;
    int64_t step = 0, next = 0, exit_step = stopping && hdsgd_excess(run, s->Q, s->M, a) <= level ? 0 : -1;
    int status = exit_step == 0 ? HDSGD_EXITED : HDSGD_COMPLETED;
    for (;;) {
        for (; next < run->n_store && run->store[next] == step; next++) {
            const int64_t row = replica * run->n_store + next;
            double *Q = run->Q + row * p * p, *M = run->M + row * p * k;
            hdsgd_overlaps(run, s, Q, M);
            if (!hdsgd_store(run, Q, M, run->risk + row, a, limit)) status = HDSGD_DIVERGED;
        }
        if (step == run->n_steps || status != HDSGD_COMPLETED) break;
        const int64_t begin = step, end = hdsgd_block_end(run, step, next);
        while (step < end) {
            if (hdsgd_cancelled(run)) return 1;
            step++;
            if (!stopping) {
                hdsgd_step(run, s, &rng, law, 0);
                continue;
            }
            hdsgd_step(run, s, &rng, law, 1);
            if (__builtin_expect(hdsgd_excess(run, s->Q, s->M, a) <= level, 0)) {
                exit_step = step, status = HDSGD_EXITED;
                break;
            }
        }
        hdsgd_advance(run, step - begin);
        if (step % HDSGD_BLOCK == 0 && status == HDSGD_COMPLETED) {
            hdsgd_tidy(run, s);
            hdsgd_overlaps(run, s, s->Q, s->M);
            if (!hdsgd_sane(run, s->Q, limit)) status = HDSGD_DIVERGED;
        }
    }
    double *Q = run->last_Q + replica * p * p, *M = run->last_M + replica * p * k;
    hdsgd_overlaps(run, s, Q, M);
    if (!hdsgd_store(run, Q, M, run->last_risk + replica, a, limit)) status = HDSGD_DIVERGED;
    run->exit_step[replica] = exit_step;
    run->status[replica] = status;
    return 0;
}

/* Replicas first ... first + count - 1. Returns 0, 1 if cancelled, 2 if there is no memory. */
int hdsgd_chain(const hdsgd_run *run, int64_t first, int64_t count)
{
    if (run->p == 1 && run->k == 1 && run->r == 1) {
        const int stopping = run->stop_kind != 0;
        hdsgd_one_replica *const sphere = stopping ? hdsgd_sphere_exit_11 : hdsgd_sphere_11;
        hdsgd_one_replica *const free_space = stopping ? hdsgd_free_exit_11 : hdsgd_free_11;
        for (int64_t i = first; i < first + count; i++)
            if ((run->spherical ? sphere : free_space)(run, i)) return 1;
        return 0;
    }
    hdsgd_space space;
    if (hdsgd_allocate(&space, run)) return 2;
    int cancelled = 0;
    for (int64_t i = first; i < first + count && !cancelled; i++) cancelled = hdsgd_replica(run, &space, i);
    free(space.memory);
    return cancelled;
}
