/* The diffusion of the overlaps by the stochastic Heun scheme of _sde.py, replica by replica.

   Goes after a kernel's pointwise functions and fields, random.h, step.h, a route of increments, diffusion.c and cone.h. */

enum { HDSGD_COMPLETED = 0, HDSGD_EXITED = 1, HDSGD_DIVERGED = 2, HDSGD_FAILED = 3 };

typedef struct { /* mirrored field by field by _Run in _sde_c.py */
    const hdsgd_step *step;
    int64_t replicas, r, rows, spans; /* r: rank of P; rows: stored times */
    double d, batch, decay;
    double huge, grew;              /* see BLOW_UP and GREW in _sde.py */
    double stop;                    /* exit at risk <= stop * risk(0) (stop_kind 1) or risk <= stop (2); 0: no stop */
    double full;                    /* 0: the covariance of the increments to leading order in gamma/p */
    double gamma;                   /* of the span in work: see hdsgd_replica */
    int64_t stop_kind, spherical;
    const int64_t *row, *steps;     /* (spans,): the row that is stored after a span, or -1; its number of steps */
    const double *begin, *length, *gammas; /* (spans,): its time of beginning, and of one step; its learning rate */
    const double *P, *a_star, *into, *back; /* (k, k), (k,), (k, r), (r, k) */
    const double *Q0, *M0, *a0;     /* (R, p, p), (R, p, k), (R, p) */
    const uint64_t *words;          /* (R, 4) seeds */
    double *Q, *M, *a, *risk;       /* (R, rows, ...): NaN where not reached */
    double *exit_time;              /* (R,): NaN where it did not exit */
    int64_t *status;                /* (R,) */
    int64_t *queue;                 /* the next replica that no thread has taken */
    int64_t *cancel, *progress;     /* set by another thread; steps done, by all threads */
} hdsgd_sde;

typedef struct { /* of one thread */
    double *Q, *M, *a, *Omega, *v;      /* the state and what follows from it */
    double *kept;                       /* the state at the beginning of a step */
    double *G, *N, *S, *more, *less;    /* fields; N at enlarged and diminished Omega */
    double *scaled;                     /* Q, M, P times a number */
    double *cov, *L;                    /* (m, m) */
    double *drift, *finite, *normal, *kick, *change, *slope; /* (m,) */
    double *half, *rest, *memory;
} hdsgd_space;

static int hdsgd_allocate(hdsgd_space *s, const hdsgd_sde *run)
{
    const int64_t p = run->step->p, k = run->step->k, n = p + k, m = run->step->m;
    const int64_t route = hdsgd_covariance_work(run->step), fields = hdsgd_work((long)p, (long)k), cone = 3 * n * n;
    const int64_t rest = (route > fields ? route : fields) > cone ? (route > fields ? route : fields) : cone;
    const int64_t state = p * p + p * k + p + 24;
    const int64_t sizes[] = {p * p, p * k, p,     n * n, n, state, p * n, p * p, p, p * p,
                             p * p, n * n, m * m, m * m, m, m,     m,     m,     m, m,     p, rest};
    double **const parts[] = {&s->Q,     &s->M,      &s->a,      &s->Omega, &s->v,      &s->kept,  &s->G,    &s->N,
                              &s->S,     &s->more,   &s->less,   &s->scaled, &s->cov,   &s->L,     &s->drift, &s->finite,
                              &s->normal, &s->kick,  &s->change, &s->slope, &s->half,   &s->rest};
    int64_t total = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) total += (sizes[i] + 7) & ~(int64_t)7;
    void *block = NULL;
    if (posix_memalign(&block, 64, sizeof(double) * (size_t)total)) return 1;
    memset(block, 0, sizeof(double) * (size_t)total);
    double *at = s->memory = block;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) *parts[i] = at, at += (sizes[i] + 7) & ~(int64_t)7;
    return 0;
}

static double hdsgd_excess(const hdsgd_sde *run, const hdsgd_space *s)
{
    return hdsgd_pair_risk((long)run->step->p, (long)run->step->k, s->Q, s->M, run->P, s->a, run->a_star);
}

static double hdsgd_largest(const double *x, int64_t n) /* NaN if there is one */
{
    double most = 0.0;
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(x[i]) <= most)) most = fabs(x[i]);
    return most;
}

static void hdsgd_noise_at(const hdsgd_sde *run, const hdsgd_space *s, double x, double *N)
{
    const int64_t p = run->step->p, k = run->step->k;
    double *Q = s->scaled, *M = Q + p * p, *P = M + p * k;
    for (int64_t i = 0; i < p * p; i++) Q[i] = x * s->Q[i];
    for (int64_t i = 0; i < p * k; i++) M[i] = x * s->M[i];
    for (int64_t i = 0; i < k * k; i++) P[i] = x * run->P[i];
    hdsgd_fields(1, (long)p, (long)k, run->step->Delta, Q, M, P, s->a, run->a_star, NULL, NULL, N, NULL, s->rest);
}

/* (1 - 1/n_b) (gamma/p) (G Omega^+ G^T)_jl / d, what the products between a batch's samples add to dQ/dt; G has its a. */
static void hdsgd_between_samples(const hdsgd_sde *run, const hdsgd_space *s, double rate, double *out)
{
    const int64_t p = run->step->p, n = p + run->step->k;
    double *A = s->rest, *V = A + n * n, *along = V + n * n, largest = 0.0;
    for (int64_t i = 0; i < n * n; i++) A[i] = s->Omega[i];
    hdsgd_eigen(n, A, V);
    for (int64_t e = 0; e < n; e++) largest = A[e * n + e] > largest ? A[e * n + e] : largest;
    for (int64_t i = 0; i < p * p; i++) out[i] = 0.0;
    for (int64_t e = 0; e < n; e++) {
        if (!(A[e * n + e] > 1e-10 * largest)) continue;
        for (int64_t j = 0; j < p; j++) {
            along[j] = 0.0;
            for (int64_t b = 0; b < n; b++) along[j] += s->G[j * n + b] * V[b * n + e];
        }
        for (int64_t j = 0; j < p; j++)
            for (int64_t l = 0; l < p; l++)
                out[j * p + l] += rate * (1.0 - 1.0 / run->batch) / run->d * along[j] * along[l] / A[e * n + e];
    }
}

/* Drift of the limit d -> infinity at the state in s, unprojected; leaves Omega, v and the fields, G with its a. */
static void hdsgd_limit(const hdsgd_sde *run, hdsgd_space *s, double *drift)
{
    const hdsgd_step *step = run->step;
    const int64_t p = step->p, k = step->k, n = p + k;
    const int noisy = run->gamma > 0.0;
    const double own = run->gamma / ((double)p * run->batch);
    fill_omega((long)p, (long)k, s->Q, s->M, run->P, s->Omega);
    fill_weights((long)p, (long)k, s->a, run->a_star, s->v);
    hdsgd_fields(1, (long)p, (long)k, step->Delta, s->Q, s->M, run->P, s->a, run->a_star, NULL, s->G,
                 noisy ? s->N : NULL, step->trained ? s->S : NULL, s->rest);
    for (int64_t j = 0; j < p; j++)
        for (int64_t b = 0; b < n; b++) s->G[j * n + b] *= s->a[j];
    int64_t c = 0;
    for (int64_t j = 0; j < p; j++)
        for (int64_t l = j; l < p; l++, c++) {
            drift[c] = s->G[j * n + l] + s->G[l * n + j];
            if (noisy) drift[c] += own * s->a[j] * s->a[l] * s->N[j * p + l];
        }
    for (int64_t j = 0; j < p; j++)
        for (int64_t r = 0; r < k; r++, c++) drift[c] = s->G[j * n + p + r];
    for (int64_t j = 0; j < p && step->trained; j++, c++) drift[c] = step->ratio * s->S[j];
}

/* The constraint or the weight decay in a drift. */
static void hdsgd_constrain(const hdsgd_sde *run, const hdsgd_space *s, double *drift)
{
    const int64_t p = run->step->p, k = run->step->k;
    if (run->spherical) {
        hdsgd_tangent(p, k, s->Q, s->M, drift, 1, s->half);
        return;
    }
    if (run->decay == 0.0) return;
    for (int64_t j = 0; j < p; j++)
        for (int64_t l = j; l < p; l++) *drift++ -= 2.0 * run->decay * s->Q[j * p + l];
    for (int64_t i = 0; i < p * k; i++) *drift++ -= run->decay * s->M[i];
}

/* Ito on the sphere, from second moments of the unprojected increments, added to a drift. */
static void hdsgd_ito(const hdsgd_sde *run, const hdsgd_space *s, const double *second, double *drift)
{
    const int64_t p = run->step->p, k = run->step->k, m = run->step->m;
    const double rate = run->gamma / ((double)p * run->d);
    double *square = s->half; /* E[phi_jj^2] */
    for (int64_t j = 0, jj = 0; j < p; jj += p - j++) square[j] = second[jj * m + jj];
    int64_t c = 0;
    for (int64_t j = 0, jj = 0; j < p; jj += p - j++)
        for (int64_t l = j, ll = jj; l < p; ll += p - l++, c++) {
            const double both = 0.375 * (square[j] + square[l]) + 0.25 * second[jj * m + ll];
            drift[c] += rate * (s->Q[j * p + l] * both - 0.5 * (second[c * m + jj] + second[c * m + ll]));
        }
    for (int64_t j = 0, jj = 0; j < p; jj += p - j++)
        for (int64_t r = 0; r < k; r++, c++)
            drift[c] += rate * (0.375 * s->M[j * k + r] * square[j] - 0.5 * second[c * m + jj]);
}

/* The drift and its terms of order 1/d (see `finite_size` in _diffusion.py), and the root of the projected covariance. */
static void hdsgd_coefficients(const hdsgd_sde *run, hdsgd_space *s)
{
    const hdsgd_step *step = run->step;
    const int64_t p = step->p, n = p + step->k, m = step->m;
    const double rate = run->gamma / (double)p, own = rate / run->batch, small = run->decay * rate / run->d;
    hdsgd_limit(run, s, s->drift);
    for (int64_t c = 0; c < m; c++) s->finite[c] = 0.0;
    if (run->gamma > 0.0) {
        const double x = 1e-4; /* as SMALL in _diffusion.py */
        hdsgd_noise_at(run, s, 1.0 + x, s->more);
        hdsgd_noise_at(run, s, 1.0 - x, s->less);
        for (int64_t j = 0; j < p; j++)
            for (int64_t l = 0; l < p; l++) {
                const int64_t i = j * p + l;
                s->more[i] = own * s->a[j] * s->a[l] * (s->more[i] - s->less[i]) / (x * run->d);
            }
        if (run->batch > 1.0) {
            hdsgd_between_samples(run, s, rate, s->less);
            for (int64_t i = 0; i < p * p; i++) s->more[i] += s->less[i];
        }
        int64_t c = 0;
        for (int64_t j = 0; j < p; j++)
            for (int64_t l = j; l < p; l++, c++) {
                const double gradient = s->G[j * n + l] + s->G[l * n + j];
                s->finite[c] = s->more[j * p + l] - small * (gradient - run->decay * s->Q[j * p + l]);
            }
        hdsgd_covariance(step, s->Omega, s->v, s->a, s->cov, s->rest);
        for (int64_t i = 0; i < m * m; i++) s->cov[i] /= run->batch;
        if (run->spherical) {
            double *second = s->L; /* until the root is formed */
            for (int64_t i = 0; i < m; i++)
                for (int64_t e = 0; e < m; e++) second[i * m + e] = s->cov[i * m + e] + s->drift[i] * s->drift[e];
            hdsgd_ito(run, s, second, s->finite);
            hdsgd_tangent(p, step->k, s->Q, s->M, s->finite, 1, s->half);
            hdsgd_project(p, step->k, m, s->Q, s->M, s->cov, s->half);
        }
        hdsgd_root(m, s->cov, s->L);
    }
    hdsgd_constrain(run, s, s->drift);
}

/* State + change -> state, on the cone. Returns whether some norm fell below 0 (1) or grew without bound (2). */
static int hdsgd_move(const hdsgd_sde *run, hdsgd_space *s, const double *change, double limit)
{
    const int64_t p = run->step->p, k = run->step->k;
    int broken = 0;
    for (int64_t j = 0; j < p; j++)
        for (int64_t l = j; l < p; l++) {
            s->Q[j * p + l] = s->Q[l * p + j] = s->Q[j * p + l] + *change++;
            broken |= j == l && s->Q[j * p + j] < 0.0;
        }
    for (int64_t i = 0; i < p * k; i++) s->M[i] += *change++;
    for (int64_t j = 0; j < p && run->step->trained; j++) s->a[j] += *change++;
    if (broken) return 1;
    if (!(hdsgd_largest(s->Q, p * p) <= limit) || !(hdsgd_largest(s->M, p * k) <= limit)) return 2;
    if (!(hdsgd_largest(s->a, p) <= run->huge)) return 2;
    hdsgd_feasible(p, k, run->r, run->P, run->into, run->back, s->Q, s->M, s->rest);
    return 0;
}

/* Variance of the risk per unit of the noise: its slopes are two-point functions, by Price's theorem. */
static double hdsgd_risk_variance(const hdsgd_sde *run, const hdsgd_space *s)
{
    const int64_t p = run->step->p, k = run->step->k, n = p + k, m = run->step->m;
    const double *O = s->Omega, *v = s->v;
    int64_t c = 0;
    for (int64_t j = 0; j < p; j++)
        for (int64_t l = j; l < p; l++, c++) {
            const double own = O[j * n + j];
            if (l > j) {
                s->slope[c] = v[j] * v[l] * J2_ss(own, O[j * n + l], O[l * n + l]);
                continue;
            }
            double sum = v[j] * J2_ss(own, own, own);
            for (int64_t b = 0; b < p; b++) sum += v[b] * K2_ss(own, O[j * n + b], O[b * n + b]);
            for (int64_t b = p; b < n; b++) sum += v[b] * K2_st(own, O[j * n + b], O[b * n + b]);
            s->slope[c] = 0.5 * v[j] * sum;
        }
    for (int64_t j = 0; j < p; j++)
        for (int64_t b = p; b < n; b++, c++) s->slope[c] = v[j] * v[b] * J2_st(O[j * n + j], O[j * n + b], O[b * n + b]);
    for (int64_t j = 0; j < p && run->step->trained; j++, c++) s->slope[c] = -s->S[j] / (double)p;
    double total = 0.0;
    for (int64_t e = 0; e < m; e++) {
        double sum = 0.0;
        for (c = e; c < m; c++) sum += s->L[c * m + e] * s->slope[c];
        total += sum * sum;
    }
    return total;
}

static void hdsgd_keep(const hdsgd_sde *run, const hdsgd_space *s, int64_t row, double risk)
{
    const int64_t p = run->step->p, k = run->step->k;
    memcpy(run->Q + row * p * p, s->Q, sizeof(double) * (size_t)(p * p));
    memcpy(run->M + row * p * k, s->M, sizeof(double) * (size_t)(p * k));
    memcpy(run->a + row * p, s->a, sizeof(double) * (size_t)p);
    run->risk[row] = risk > 0.0 ? risk : 0.0;
}

static int hdsgd_replica(const hdsgd_sde *all, hdsgd_space *s, int64_t replica)
{
    hdsgd_step step = *all->step;
    hdsgd_sde here = *all; /* with the learning rate of a span */
    here.step = &step;
    const hdsgd_sde *const run = &here;
    const int64_t p = step.p, k = step.k, m = step.m, state = s->Omega - s->Q; /* Q, M and a lie together */
    hdsgd_rng rng = hdsgd_seed(run->words + 4 * replica);
    memcpy(s->Q, run->Q0 + replica * p * p, sizeof(double) * (size_t)(p * p));
    memcpy(s->M, run->M0 + replica * p * k, sizeof(double) * (size_t)(p * k));
    memcpy(s->a, run->a0 + replica * p, sizeof(double) * (size_t)p);
    double risk = hdsgd_excess(run, s), scale = 1.0;
    for (int64_t j = 0; j < p; j++) scale = s->Q[j * p + j] > scale ? s->Q[j * p + j] : scale;
    for (int64_t r = 0; r < k; r++) scale = run->P[r * k + r] > scale ? run->P[r * k + r] : scale;
    const double level = run->stop_kind == 1 ? run->stop * (risk > 0.0 ? risk : 0.0) : run->stop;
    int64_t status = HDSGD_COMPLETED;
    if (run->rows > 0 && run->steps[0] == 0) hdsgd_keep(run, s, replica * run->rows, risk);
    if (run->stop_kind && risk <= level) status = HDSGD_EXITED, run->exit_time[replica] = 0.0;
    for (int64_t span = 0; span < run->spans && status == HDSGD_COMPLETED; span++) {
        here.gamma = run->gammas[span], step.g = run->full * here.gamma / ((double)p * run->batch);
        const double h = run->length[span], noise = sqrt(here.gamma / ((double)p * run->d));
        for (int64_t i = 0; i < run->steps[span] && status == HDSGD_COMPLETED; i++) {
            if (__atomic_load_n(run->cancel, __ATOMIC_RELAXED)) return 1;
            hdsgd_coefficients(run, s);
            double norms = 0.0;
            for (int64_t j = 0; j < p; j++) norms = s->Q[j * p + j] > norms ? s->Q[j * p + j] : norms;
            for (int64_t c = 0; c < m; c++) s->normal[c] = hdsgd_normal(&rng);
            const double uniform = hdsgd_uniform(&rng);
            const double spread = run->stop_kind && noise > 0.0 ? noise * noise * h * hdsgd_risk_variance(run, s) : 0.0;
            for (int64_t c = 0; c < m; c++) {
                double sum = 0.0;
                if (noise > 0.0)
                    for (int64_t e = 0; e <= c; e++) sum += s->L[c * m + e] * s->normal[e];
                s->kick[c] = noise * sqrt(h) * sum + h * s->finite[c];
                s->change[c] = s->kick[c] + h * s->drift[c];
            }
            memcpy(s->kept, s->Q, sizeof(double) * (size_t)state);
            int wrong = hdsgd_move(run, s, s->change, run->huge * scale);
            if (!wrong) {
                hdsgd_limit(run, s, s->change);
                hdsgd_constrain(run, s, s->change);
                for (int64_t c = 0; c < m; c++) s->change[c] = s->kick[c] + 0.5 * h * (s->drift[c] + s->change[c]);
                memcpy(s->Q, s->kept, sizeof(double) * (size_t)state);
                wrong = hdsgd_move(run, s, s->change, run->huge * scale);
            }
            __atomic_fetch_add(run->progress, 1, __ATOMIC_RELAXED);
            if (wrong) {
                status = wrong == 1 && norms <= run->grew * scale ? HDSGD_FAILED : HDSGD_DIVERGED;
                break;
            }
            const double before = risk;
            risk = hdsgd_excess(run, s);
            if (!run->stop_kind) continue;
            const double above = before - level, below = risk - level;
            const double distance = (above > 0.0 ? above : 0.0) * (below > 0.0 ? below : 0.0);
            if (below <= 0.0 || (spread > 0.0 && uniform < exp(-2.0 * distance / spread))) {
                const double all = above + fabs(below), part = all > 0.0 ? above / all : 0.0;
                status = HDSGD_EXITED;
                run->exit_time[replica] = run->begin[span] + h * ((double)i + (part > 0.0 ? part : 0.0));
            }
        }
        if (status == HDSGD_COMPLETED && run->row[span] >= 0 && !(span == 0 && run->steps[0] == 0))
            hdsgd_keep(run, s, replica * run->rows + run->row[span], risk);
    }
    run->status[replica] = status;
    return 0;
}

/* Take replicas until none is left. Returns 0, 1 if cancelled, 2 if there is no memory. */
int hdsgd_paths(const hdsgd_sde *run)
{
    hdsgd_space space;
    if (hdsgd_allocate(&space, run)) return 2;
    int cancelled = 0;
    while (!cancelled) {
        const int64_t replica = __atomic_fetch_add(run->queue, 1, __ATOMIC_RELAXED);
        if (replica >= run->replicas) break;
        cancelled = hdsgd_replica(run, &space, replica);
    }
    free(space.memory);
    return cancelled;
}
