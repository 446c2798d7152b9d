/* One step of the exact chain of the overlaps in frame form: SGD in law at a cost O(p^2 + p k) whatever d is.

   A replica's state is B (p x r), the students' coordinates in an orthonormal frame of the teachers' span, and C (p x c),
   their coordinates in a moving frame of the rest; the teachers are L (k x r), P = L L^T. Then Q = B B^T + C C^T and
   M = B L^T. Nothing is ever subtracted in Q, so the chain stays accurate at perfect learning and allows singular Omega.
   C is square and lower triangular; where p + r > d it has the d - r columns that are left and no shape.

   V is one replica (alone.h) or several (abreast.h). Matrices are stored by columns of padded length. */

#define HDSGD_PAD(n) (((n) + HDSGD_ROWS - 1) & ~(int64_t)(HDSGD_ROWS - 1))

enum { HDSGD_OWED = 8 };

typedef struct {
    int64_t ld, kd;      /* p and k, padded */
    V *B, *C, *L;        /* ld x r, ld x columns, kd x r */
    V *a, *acc, *lambda, *phi, *dphi, *u, *v, *scale; /* ld each */
    V *tail, *alpha, *beta;                           /* ld + HDSGD_ROWS each */
    V *z;                /* r + columns + 1: the input in the frames, and the label noise */
    V *lambda_star, *phi_star;                        /* kd each */
    V *dB, *dC, *da, *U; /* ld x r, ld x columns, ld, ld x p: of a batch */
    V *a_star, noise;    /* of the run */
    V rate, decay, rate_a; /* hdsgd_pace; rate over decay, since rows move as decay (W + u x) */
    V length;            /* squared norm of the last input */
    V level;             /* of the risk, to stop at */
    V spent, slack;      /* bound of the change of the risk since it was computed; how much it was above the level */
    V astray;            /* bound of the change of squared norms since then; the slopes hold while it is negative */
    V low, high;         /* squared norms between which slopes hold, of |dI2/dQ_jl|, |dI2/dM_jr|, |dI2/dQ_jj|: */
    V across, mixed, own;
    V *norms;            /* ld: squared ones, when the risk was found */
    int64_t lasted;      /* steps since then */
    int64_t kept, owed;  /* steps since overlaps have been kept, or -1; and of these the last ones, not yet in gram */
    double *gram, *grown, *noted, lengths[HDSGD_OWED]; /* see hdsgd_keep: ld x ld, ld, 2 ld x HDSGD_OWED */
    double *Q, *M, *second, *form; /* of one replica: p x p, p x k, p, and (r + columns + 1)^2 */
    hdsgd_stream stream;
    hdsgd_chi2_law *law; /* p of them: d - p - r - i degrees of freedom */
    void *memory;
} hdsgd_space;

/* The error of the student at the fields s->lambda and the input z; leaves s->phi and s->lambda_star. */
INLINE V hdsgd_error(const hdsgd_space *s, const V *z, V noise, int64_t p, int64_t k, int64_t r)
{
    const int64_t ld = HDSGD_PAD(p), kd = HDSGD_PAD(k);
    V *restrict lambda_star = s->lambda_star, *restrict phi = s->phi, *restrict phi_star = s->phi_star;
    for (int64_t b = 0; b < kd; b++) lambda_star[b] = v_all(0.0);
    for (int64_t c = 0; c < r; c++)
        for (int64_t b = 0; b < kd; b++) lambda_star[b] = v_fma(s->L[c * kd + b], z[c], lambda_star[b]);
    for (int64_t j = 0; j < ld; j++) phi[j] = v_student(s->lambda[j]);
    for (int64_t b = 0; b < kd; b++) phi_star[b] = v_teacher(lambda_star[b]);
    V teacher = s->a_star[0] * phi_star[0];
    for (int64_t b = 1; b < k; b++) teacher = v_fma(s->a_star[b], phi_star[b], teacher);
    V e = v_fma(s->noise, noise, teacher / (double)k);
    for (int64_t j = 0; j < p; j++) e = v_fma(s->a[j] * (-1.0 / (double)p), phi[j], e); /* last: they are late */
    return e;
}

/* C C^T <- scale (C C^T + v v^T) scale by Givens rotations; v is lost. Rows above the diagonal share vectors with those
   below; v is zero there. */
INLINE void hdsgd_append(V *C, V *restrict v, const V *restrict scale, int64_t p, int64_t ld)
{
    for (int64_t l = 0; l < p; l++) {
        V *restrict column = C + l * ld;
        const V x = column[l], y = v[l], square = v_fma(x, x, y * y), inverse = v_inverse_root(square);
        const V cosine = v_if_positive(square, x * inverse, v_all(1.0)), sine = y * inverse;
        for (int64_t j = l & ~(int64_t)(HDSGD_ROWS - 1); j < ld; j++) {
            const V old = column[j];
            column[j] = scale[j] * v_fma(cosine, old, sine * v[j]);
            v[j] = v_fma(cosine, v[j], -sine * old);
        }
        v[l] = v_all(0.0);
    }
}

/* One sample, p + r <= d. */
INLINE void hdsgd_step_many(const hdsgd_run *run, hdsgd_space *s, int64_t p, int64_t k, int64_t r)
{
    const int64_t ld = s->ld;
    V *restrict B = s->B, *restrict C = s->C, *restrict acc = s->acc, *restrict lambda = s->lambda, *restrict u = s->u;
    V *restrict v = s->v, *restrict scale = s->scale, *restrict tail = s->tail, *restrict alpha = s->alpha;
    V *restrict beta = s->beta, *restrict dphi = s->dphi, *const z = s->z, *const g = z + r;

    z[r + p] = v_all(0.0);
    hdsgd_stream stream = s->stream; /* in registers */
    v_draw(&stream, z, r + p + (run->noise > 0.0), s->law, &tail[p]);
    s->stream = stream;
    for (int64_t l = p - 1; l >= 0; l--) tail[l] = v_fma(g[l], g[l], tail[l + 1]);
    for (int64_t l = 0; l < p; l++) {
        const V inverse = v_inverse_root(tail[l] * tail[l + 1]); /* 0 only at d = p + r */
        alpha[l] = tail[l + 1] * inverse;
        beta[l] = g[l] * inverse;
    }

    /* Turn the moving frame until the input has one coordinate left in it. */
    for (int64_t j = 0; j < ld; j++) acc[j] = v_all(0.0);
    for (int64_t l = p - 1; l >= 0; l--) {
        V *restrict column = C + l * ld;
        const V turn = alpha[l], mix = beta[l], coordinate = g[l];
        for (int64_t j = l & ~(int64_t)(HDSGD_ROWS - 1); j < ld; j++) {
            const V x = column[j];
            column[j] = v_fma(turn, x, -mix * acc[j]);
            acc[j] = v_fma(coordinate, x, acc[j]);
        }
    }
    for (int64_t j = 0; j < ld; j++) lambda[j] = acc[j];
    V length = tail[0];
    for (int64_t c = 0; c < r; c++) {
        length = v_fma(z[c], z[c], length);
        for (int64_t j = 0; j < ld; j++) lambda[j] = v_fma(B[c * ld + j], z[c], lambda[j]);
    }
    const V e = hdsgd_error(s, z, z[r + p], p, k, r), gain = s->rate * e;
    for (int64_t j = 0; j < ld; j++) dphi[j] = v_student_prime(lambda[j]);

    const V inverse_root = v_inverse_root(tail[0]), root = tail[0] * inverse_root;
    for (int64_t j = 0; j < ld; j++) {
        u[j] = gain * s->a[j] * dphi[j]; /* a is zero in the padding */
        v[j] = v_fma(acc[j], inverse_root, u[j] * root);
        scale[j] = s->decay;
    }
    if (run->spherical)
        for (int64_t j = 0; j < ld; j++)
            scale[j] = v_inverse_root(v_fma(u[j], v_fma(u[j], length, 2.0 * lambda[j]), v_all(1.0)));
    for (int64_t c = 0; c < r; c++)
        for (int64_t j = 0; j < ld; j++) B[c * ld + j] = scale[j] * v_fma(u[j], z[c], B[c * ld + j]);
    hdsgd_append(C, v, scale, p, ld);
    if (run->ratio > 0.0)
        for (int64_t j = 0; j < p; j++) s->a[j] = v_fma(s->rate_a * e, s->phi[j], s->a[j]);
    s->length = length;
}

/* Exact norms on the sphere where `which` is positive: the factors of single steps let them drift by rounding. */
static void hdsgd_project(const hdsgd_run *run, hdsgd_space *s, V which)
{
    const int64_t p = run->p, ld = s->ld;
    for (int64_t j = 0; j < p; j++) {
        V norm = v_all(0.0);
        for (int64_t c = 0; c < run->r; c++) norm = v_fma(s->B[c * ld + j], s->B[c * ld + j], norm);
        for (int64_t c = 0; c < run->columns; c++) norm = v_fma(s->C[c * ld + j], s->C[c * ld + j], norm);
        const V scale = v_if_positive(which, v_inverse_root(norm), v_all(1.0));
        for (int64_t c = 0; c < run->r; c++) s->B[c * ld + j] *= scale;
        for (int64_t c = 0; c < run->columns; c++) s->C[c * ld + j] *= scale;
    }
}

/* A batch of any size, in any dimension. The samples' parts outside the frames enter by their Gram matrix: with u_b the
   coefficients of sample b, sum_b u_b x_b has the law of L_U T times orthonormal rows, L_U L_U^T = sum_b u_b u_b^T and
   T T^T of Wishart's law, by Bartlett's decomposition. */
static __attribute__((noinline)) void hdsgd_step_batch(const hdsgd_run *run, hdsgd_space *s)
{
    const int64_t p = run->p, k = run->k, r = run->r, columns = run->columns, ld = s->ld;
    const int64_t free = run->d - r - columns, m = free > 0 ? p : 0; /* L_U may skip columns: units that do not move */
    V *const z = s->z, *const one = s->scale;
    for (int64_t i = 0; i < ld * r; i++) s->dB[i] = v_all(0.0);
    for (int64_t i = 0; i < ld * columns; i++) s->dC[i] = v_all(0.0);
    for (int64_t i = 0; i < ld * p; i++) s->U[i] = v_all(0.0);
    for (int64_t j = 0; j < ld; j++) s->da[j] = v_all(0.0), one[j] = v_all(1.0);
    for (int64_t sample = 0; sample < run->batch; sample++) {
        if (sample % 64 == 0 && hdsgd_cancelled(run) == HDSGD_ABANDON) return; /* half a step: of no use to anybody */
        z[r + columns] = v_all(0.0);
        v_draw(&s->stream, z, r + columns + (run->noise > 0.0), NULL, NULL);
        for (int64_t j = 0; j < ld; j++) s->lambda[j] = v_all(0.0);
        for (int64_t c = 0; c < r; c++)
            for (int64_t j = 0; j < ld; j++) s->lambda[j] = v_fma(s->B[c * ld + j], z[c], s->lambda[j]);
        for (int64_t c = 0; c < columns; c++)
            for (int64_t j = 0; j < ld; j++) s->lambda[j] = v_fma(s->C[c * ld + j], z[r + c], s->lambda[j]);
        const V e = hdsgd_error(s, z, z[r + columns], p, k, r) / (double)run->batch;
        for (int64_t j = 0; j < ld; j++) s->u[j] = s->rate * s->decay * e * s->a[j] * v_student_prime(s->lambda[j]);
        for (int64_t c = 0; c < r; c++)
            for (int64_t j = 0; j < ld; j++) s->dB[c * ld + j] = v_fma(s->u[j], z[c], s->dB[c * ld + j]);
        for (int64_t c = 0; c < columns; c++)
            for (int64_t j = 0; j < ld; j++) s->dC[c * ld + j] = v_fma(s->u[j], z[r + c], s->dC[c * ld + j]);
        for (int64_t j = 0; j < p; j++) s->da[j] = v_fma(s->rate_a * e, s->phi[j], s->da[j]);
        if (m > 0) hdsgd_append(s->U, s->u, one, p, ld);
    }
    for (int64_t i = 0; i < ld * r; i++) s->B[i] = v_fma(s->decay, s->B[i], s->dB[i]);
    for (int64_t i = 0; i < ld * columns; i++) s->dC[i] = v_fma(s->decay, s->C[i], s->dC[i]);
    for (int64_t j = 0; j < p; j++) s->a[j] += s->da[j];
    if (free <= 0 && columns < p) {
        for (int64_t i = 0; i < ld * columns; i++) s->C[i] = s->dC[i];
    } else { /* the columns of C and those of L_U T, made triangular again */
        for (int64_t i = 0; i < ld * columns; i++) s->C[i] = v_all(0.0);
        for (int64_t c = 0; c < columns; c++) hdsgd_append(s->C, s->dC + c * ld, one, p, ld);
        V *const T = s->dC; /* row i of it has i normals and a chi */
        for (int64_t i = 0; i < m; i++) {
            V square = v_all(0.0);
            v_draw(&s->stream, T + i * ld, i < free ? i : free, s->law + i, i < free ? &square : NULL);
            if (i < free) T[i * ld + i] = square * v_inverse_root(square);
        }
        for (int64_t c = 0; c < m && c < free; c++) {
            for (int64_t j = 0; j < ld; j++) s->u[j] = v_all(0.0);
            for (int64_t i = c; i < m; i++)
                for (int64_t j = 0; j < ld; j++) s->u[j] = v_fma(s->U[i * ld + j], T[i * ld + c], s->u[j]);
            hdsgd_append(s->C, s->u, one, p, ld);
        }
    }
    if (run->spherical) hdsgd_project(run, s, v_all(1.0));
}
