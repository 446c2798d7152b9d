/* The fields of the dynamics from the overlaps: risk, gradient correlations G, noise N, the second layer's S, and the
   right-hand side.

   Needs common.h, a generated kernel (two-point functions, noise_sum), layout.h and risk.h.  Matrices are row-major.
   G_jb = E[sigma'(u_j) u_b e] = (sum_c v_c K2_jc) Omega_jb + sum_c v_c J2_jc Omega_cb      (Stein's lemma)
   N_jl = E[sigma'(u_j) sigma'(u_l) e^2] = noise_sum + Delta J2_jl
   S_j = E[sigma(u_j) e] = sum_c v_c I2_jc */

/* Doubles of scratch memory that the functions below need. */
long hdsgd_work(long p, long k)
{
    const long n = p + k;
    return n*n + n + 2*p*p + 3*LANES + n*row_stride(p) + layout_memory(p, k) + noise_memory(p, k);
}

static void fill_omega(long p, long k, const double *Q, const double *M, const double *P, double *Omega)
{
    const long n = p + k;
    for (long j = 0; j < p; j++) {
        for (long l = 0; l < p; l++) Omega[j*n + l] = Q[j*p + l];
        for (long r = 0; r < k; r++) Omega[j*n + p + r] = Omega[(p + r)*n + j] = M[j*k + r];
    }
    for (long r = 0; r < k; r++)
        for (long s = 0; s < k; s++) Omega[(p + r)*n + p + s] = P[r*k + s];
}

static void fill_weights(long p, long k, const double *a, const double *a_star, double *v)
{
    for (long j = 0; j < p; j++) v[j] = -a[j]/(double)p;
    for (long r = 0; r < k; r++) v[p + r] = a_star[r]/(double)k;
}

/* G transposed: (n, stride), the students along rows. */
static void correlations(const layout *o, double *G, double *work)
{
    const long p = o->p, n = o->n, stride = o->stride;
    const double *own = o->own;
    double *second = work, *weight = second + stride;
    for (long j = 0; j < p; j++) second[j] = 0.0;
    for (long c = 0; c < n; c++) {
        const double v = o->v[c], unit = o->C[c*(n + 1)];
        const double *S = o->S + c*stride;
        double *w = weight + c*stride;
        for (long j = p; j < stride; j++) w[j] = 0.0;
        if (c < p) {
#pragma omp simd
            for (long j = 0; j < p; j++) {
                w[j] = v*J2_ss(own[j], S[j], unit);
                second[j] += v*K2_ss(own[j], S[j], unit);
            }
        } else {
#pragma omp simd
            for (long j = 0; j < p; j++) {
                w[j] = v*J2_st(own[j], S[j], unit);
                second[j] += v*K2_st(own[j], S[j], unit);
            }
        }
    }
    product(o, o->C, weight, G);
    for (long b = 0; b < n; b++)
#pragma omp simd
        for (long j = 0; j < p; j++) G[b*stride + j] = FMA(second[j], o->S[b*stride + j], G[b*stride + j]);
}

static void output_correlations(const layout *o, double *out)
{
    const long p = o->p, n = o->n, stride = o->stride;
    for (long j = 0; j < p; j++) out[j] = 0.0;
    for (long c = 0; c < p; c++)
#pragma omp simd
        for (long j = 0; j < p; j++) out[j] += o->v[c]*I2_ss(o->own[j], o->S[c*stride + j], o->C[c*(n + 1)]);
    for (long c = p; c < n; c++)
#pragma omp simd
        for (long j = 0; j < p; j++) out[j] += o->v[c]*I2_st(o->own[j], o->S[c*stride + j], o->C[c*(n + 1)]);
}

/* For `count` states one after another; risk, G, N or S may be NULL where they are not wanted. */
void hdsgd_fields(long count, long p, long k, double Delta, const double *Q, const double *M, const double *P,
                  const double *a, const double *a_star, double *risk, double *G, double *N, double *S,
                  double *work)
{
    const long n = p + k, stride = row_stride(p);
    double *transposed = aligned(work), *Omega = transposed + n*stride, *v = Omega + n*n, *rest = v + n;
    for (long i = 0; i < count; i++, Q += p*p, M += p*k, a += p) {
        if (risk) risk[i] = hdsgd_pair_risk(p, k, Q, M, P, a, a_star);
        if (!G && !N && !S) continue;
        layout o;
        fill_omega(p, k, Q, M, P, Omega);
        fill_weights(p, k, a, a_star, v);
        double *free = arrange(&o, p, k, Omega, v, aligned(rest));
        if (G) {
            correlations(&o, transposed, free);
            for (long j = 0; j < p; j++)
                for (long b = 0; b < n; b++) G[(i*p + j)*n + b] = transposed[b*stride + j];
        }
        if (N) noise(&o, Delta, N + i*p*p, free);
        if (S) output_correlations(&o, S + i*p);
    }
}

/* The equations in the form that an ODE solver has: y = (upper triangle of Q by rows, M by rows, a if it is trained).
   On the sphere y leaves out the diagonal of Q: there Q_jj = 1 is exact, and neither Q_jj nor an antisymmetric part of Q,
   unstable directions of the projected equations, can grow from rounding. */
typedef struct {
    int64_t p, k, spherical;
    double gamma;        /* before the noise only: the learning rate over the batch size */
    double Delta, decay; /* variance of the label noise; strength of the weight decay */
    double ratio;        /* gamma_a/gamma; when it is > 0, a is trained and read from y */
    const double *y, *P, *a, *a_star;
    double *dy, *work;
} hdsgd_system;

/* Fills the full Q and returns where M starts in y. */
static const double *unpack(const hdsgd_system *s, double *Q)
{
    const long p = s->p;
    const double *y = s->y;
    for (long j = 0; j < p; j++) {
        if (s->spherical) Q[j*p + j] = 1.0;
        for (long l = j + (s->spherical != 0); l < p; l++) Q[j*p + l] = Q[l*p + j] = *y++;
    }
    return y;
}

/* dy/dt in the time nu gamma/(p d). */
void hdsgd_rhs(const hdsgd_system *s)
{
    const long p = s->p, k = s->k, n = p + k, stride = row_stride(p);
    const int spherical = s->spherical != 0;
    double *G = aligned(s->work), *Omega = G + n*stride, *v = Omega + n*n, *Q = v + n, *N = Q + p*p;
    double *dy = s->dy, *free = aligned(N + p*p);
    const double *M = unpack(s, Q), *a = s->ratio > 0.0 ? M + p*k : s->a, rate = s->gamma/(double)p;
    layout o;
    fill_omega(p, k, Q, M, s->P, Omega);
    fill_weights(p, k, a, s->a_star, v);
    free = arrange(&o, p, k, Omega, v, free);
    correlations(&o, G, free);
    if (s->gamma > 0.0)
        noise(&o, s->Delta, N, free);
    else
        for (long q = 0; q < p*p; q++) N[q] = 0.0;
    for (long j = 0; j < p; j++)
        for (long l = j; l < p; l++)
            N[j*p + l] = a[j]*G[l*stride + j] + a[l]*G[j*stride + l] + rate*a[j]*a[l]*N[j*p + l]; /* now dQ/dt */
    double *shrink = free; /* of rows: by the projection, at Q_jj = 1, or by the weight decay */
    for (long j = 0; j < p; j++) shrink[j] = spherical ? 0.5*N[j*p + j] : s->decay;
    for (long j = 0; j < p; j++)
        for (long l = j + spherical; l < p; l++) *dy++ = N[j*p + l] - Q[j*p + l]*(shrink[j] + shrink[l]);
    for (long j = 0; j < p; j++)
        for (long r = 0; r < k; r++) *dy++ = a[j]*G[(p + r)*stride + j] - M[j*k + r]*shrink[j];
    if (s->ratio > 0.0) {
        output_correlations(&o, dy);
        for (long j = 0; j < p; j++) dy[j] *= s->ratio;
    }
}

/* Excess risk of the state y. */
double hdsgd_risk(const hdsgd_system *s)
{
    const double *M = unpack(s, s->work), *a = s->ratio > 0.0 ? M + s->p*s->k : s->a;
    return hdsgd_pair_risk(s->p, s->k, s->work, M, s->P, a, s->a_star);
}
