/* The fields of the dynamics from the overlaps: risk, gradient correlations G, noise N, and the right-hand side.

   Needs common.h, a generated kernel (two-point functions, noise_work, noise_sum) and risk.h.  Matrices are row-major.
   G_jb = E[sigma'(u_j) u_b e] = (sum_c v_c K2_jc) Omega_jb + sum_c v_c J2_jc Omega_cb      (Stein's lemma)
   N_jl = E[sigma'(u_j) sigma'(u_l) e^2] = noise_sum + Delta J2_jl */

long hdsgd_work(long p, long k) /* doubles of scratch memory that hdsgd_fields and hdsgd_rhs need */
{
    const long n = p + k, m = p*(p + 1)/2;
    return n*n + n + m + n + p*n + 3*p*p + (m + 1) + noise_work(p, k); /* (m + 1): two int tables of m */
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

static void correlations(long p, long k, const double *Omega, const double *v, double *weight, double *G)
{
    const long n = p + k;
    for (long j = 0; j < p; j++) {
        const double own = Omega[j*n + j];
        const double *row = Omega + j*n;
        double second = 0.0;
#pragma omp simd reduction(+ : second)
        for (long c = 0; c < p; c++) {
            weight[c] = v[c]*J2_ss(own, row[c], Omega[c*n + c]);
            second += v[c]*K2_ss(own, row[c], Omega[c*n + c]);
        }
#pragma omp simd reduction(+ : second)
        for (long c = p; c < n; c++) {
            weight[c] = v[c]*J2_st(own, row[c], Omega[c*n + c]);
            second += v[c]*K2_st(own, row[c], Omega[c*n + c]);
        }
        double *out = G + j*n;
        for (long b = 0; b < n; b++) out[b] = second*row[b];
        for (long c = 0; c < n; c++) {
            const double w = weight[c];
            const double *from = Omega + c*n;
#pragma omp simd
            for (long b = 0; b < n; b++) out[b] = FMA(w, from[b], out[b]);
        }
    }
}

static void noise(long p, long k, double Delta, const double *Omega, const double *v, double *N, double *work)
{
    const long n = p + k, m = p*(p + 1)/2;
    double *sums = work;
    int *J = (int *)(work + m), *L = J + m;
    double *rest = work + m + (m + 1);
    for (long j = 0, q = 0; j < p; j++)
        for (long l = 0; l <= j; l++, q++) {
            J[q] = (int)j;
            L[q] = (int)l;
            sums[q] = Delta*J2_ss(Omega[j*n + j], Omega[j*n + l], Omega[l*n + l]);
        }
    noise_sum(p, k, Omega, v, J, L, sums, rest);
    for (long q = 0; q < m; q++) N[J[q]*p + L[q]] = N[L[q]*p + J[q]] = sums[q];
}

static void fill_weights(long p, long k, const double *a, const double *a_star, double *v)
{
    for (long j = 0; j < p; j++) v[j] = -a[j]/(double)p;
    for (long r = 0; r < k; r++) v[p + r] = a_star[r]/(double)k;
}

/* For `count` states one after another; risk, G or N may be NULL where they are not wanted. */
void hdsgd_fields(long count, long p, long k, double Delta, const double *Q, const double *M, const double *P,
                  const double *a, const double *a_star, double *risk, double *G, double *N, double *work)
{
    const long n = p + k;
    double *Omega = work, *v = Omega + n*n, *weight = v + n, *rest = weight + n;
    for (long i = 0; i < count; i++, Q += p*p, M += p*k, a += p) {
        if (risk) risk[i] = hdsgd_pair_risk(p, k, Q, M, P, a, a_star);
        if (!G && !N) continue;
        fill_omega(p, k, Q, M, P, Omega);
        fill_weights(p, k, a, a_star, v);
        if (G) correlations(p, k, Omega, v, weight, G + i*p*n);
        if (N) noise(p, k, Delta, Omega, v, N + i*p*p, rest);
    }
}

/* The state of an ODE solver is y = (upper triangle of Q by rows, M by rows), without the diagonal of Q on the sphere: there Q_jj = 1
   is exact, and neither Q_jj nor an antisymmetric part of Q, unstable directions of the projected equations, can grow from rounding.
   Fills the full Q and returns where M starts in y. */
static const double *unpack(long p, int spherical, const double *y, double *Q)
{
    for (long j = 0; j < p; j++) {
        if (spherical) Q[j*p + j] = 1.0;
        for (long l = j + (spherical != 0); l < p; l++) Q[j*p + l] = Q[l*p + j] = *y++;
    }
    return y;
}

/* dy/dt in the time nu gamma/(p d); the noise enters when gamma > 0. */
void hdsgd_rhs(long p, long k, double gamma, double Delta, int spherical, const double *y, const double *P,
               const double *a, const double *a_star, double *dy, double *work)
{
    const long n = p + k;
    double *Q = work, *dQ = Q + p*p, *Omega = dQ + p*p, *v = Omega + n*n, *weight = v + n, *G = weight + n, *N = G + p*n;
    const double *M = unpack(p, spherical, y, Q), rate = gamma/(double)p;
    fill_omega(p, k, Q, M, P, Omega);
    fill_weights(p, k, a, a_star, v);
    correlations(p, k, Omega, v, weight, G);
    if (gamma > 0.0) noise(p, k, Delta, Omega, v, N, N + p*p);
    for (long j = 0; j < p; j++)
        for (long l = j; l < p; l++) {
            double change = a[j]*G[j*n + l] + a[l]*G[l*n + j];
            if (gamma > 0.0) change += rate*a[j]*a[l]*N[j*p + l];
            dQ[j*p + l] = change;
        }
    for (long j = 0; j < p; j++) weight[j] = spherical ? 0.5*dQ[j*p + j] : 0.0; /* the projection, at Q_jj = 1 */
    for (long j = 0; j < p; j++)
        for (long l = j + (spherical != 0); l < p; l++) *dy++ = dQ[j*p + l] - Q[j*p + l]*(weight[j] + weight[l]);
    for (long j = 0; j < p; j++)
        for (long r = 0; r < k; r++) *dy++ = a[j]*G[j*n + p + r] - M[j*k + r]*weight[j];
}

/* Excess risk of one state y. */
double hdsgd_risk(long p, long k, int spherical, const double *y, const double *P, const double *a, const double *a_star,
                  double *work)
{
    const double *M = unpack(p, spherical, y, work);
    return hdsgd_pair_risk(p, k, work, M, P, a, a_star);
}
