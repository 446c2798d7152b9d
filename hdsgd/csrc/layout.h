/* How the kernels see a state: the students along an axis that vectors run along, and the pairs of them.

   The pairs (j, l = j + delta mod p), delta = 0 ... p/2, are all unordered pairs of students.  Rows of students go on
   cyclically beyond p, so that LANES neighbouring j, and their l, are read without gathering.
   Needs common.h and the two-point functions of a generated kernel; noise_work and noise_sum come after it. */
#include <stdint.h>

enum { LANES = 8 };

typedef struct {
    long p, n, span, stride; /* students, all units; p rounded up to whole vectors; length of a row of students */
    const double *C, *v;     /* (n, n) covariance and (n) weights of the units */
    const double *S;         /* (n, stride): C of a unit and a student */
    const double *own;       /* (stride): the students' variances */
    const double *cross;     /* (p/2 + 1, span): C of the pair (j, j + delta) */
    const int *student;      /* (stride): the index mod p */
} layout;

static long noise_work(long p, long k); /* doubles of scratch memory that noise_sum needs */

/* Add sum_ab v_a v_b E[sigma'(u_j) sigma'(u_l) phi_a phi_b] to sums (p/2 + 1, span), for every pair. */
static void noise_sum(const layout *o, double *sums, double *work);

static inline long whole(long size) { return (size + LANES - 1)/LANES*LANES; }

static inline long row_stride(long p) { return whole(p) + whole(p/2); }

/* Pairs at one delta: with p even, delta = p/2 meets every pair twice. */
static inline long pairs_at(long p, long delta) { return 2*delta == p ? p/2 : p; }

static long layout_memory(long p, long k) { return (p + k + 2)*row_stride(p) + (p/2 + 1)*whole(p); }

static long noise_memory(long p, long k)
{
    const long noise = (p/2 + 1)*whole(p) + noise_work(p, k), drift = (p + k + 1)*row_stride(p);
    return noise > drift ? noise : drift;
}

/* Go on cyclically: entries from p on repeat the first. */
static inline void continue_row(const layout *o, double *row)
{
    for (long e = o->p; e < o->stride; e++) row[e] = row[o->student[e]];
}

/* Where the sums of the pair (j, l) stand. */
static inline long pair_index(const layout *o, long j, long l)
{
    const long ahead = l >= j ? l - j : l - j + o->p, back = ahead ? o->p - ahead : 0;
    return ahead < back || (ahead == back && j < l) ? ahead*o->span + j : back*o->span + l;
}

static inline double *aligned(double *memory) { return (double *)(((uintptr_t)memory + 63)/64*64); }

/* Fill *o from Omega (n, n) and the weights v (n), in memory that starts at a whole vector; returns where it ends. */
static double *arrange(layout *o, long p, long k, const double *Omega, const double *v, double *memory)
{
    const long n = p + k, span = whole(p), stride = row_stride(p), shifts = p/2 + 1;
    double *S = memory, *own = S + n*stride, *cross = own + stride;
    int *student = (int *)(cross + shifts*span);
    *o = (layout){p, n, span, stride, Omega, v, S, own, cross, student};
    for (long e = 0, j = 0; e < stride; e++, j = j + 1 == p ? 0 : j + 1) {
        student[e] = (int)j;
        own[e] = Omega[j*n + j];
    }
    for (long u = 0; u < n; u++) {
        for (long j = 0; j < p; j++) S[u*stride + j] = Omega[u*n + j];
        continue_row(o, S + u*stride);
    }
    for (long delta = 0; delta < shifts; delta++)
        for (long j = 0; j < span; j++) cross[delta*span + j] = S[student[j + delta]*stride + j];
    return cross + shifts*span + stride;
}

/* Z = K V: (n, n) times (n, stride).  Four rows of Z at a time share what is read of V. */
static void product(const layout *o, const double *restrict K, const double *restrict V, double *restrict Z)
{
    const long n = o->n, stride = o->stride;
    for (long a = 0; a < n; a += 4) {
        const long rows = n - a < 4 ? n - a : 4; /* a row that is not there is computed as a copy of the last one */
        const double *const K0 = K + a*n, *const K1 = K + (a + (rows > 1 ? 1 : 0))*n;
        const double *const K2 = K + (a + (rows > 2 ? 2 : rows - 1))*n, *const K3 = K + (a + rows - 1)*n;
        double *const Z0 = Z + a*stride, *const Z1 = Z + (a + (rows > 1 ? 1 : 0))*stride;
        double *const Z2 = Z + (a + (rows > 2 ? 2 : rows - 1))*stride, *const Z3 = Z + (a + rows - 1)*stride;
        for (long e = 0; e < o->span; e += LANES) {
            double s0[LANES] = {0.0}, s1[LANES] = {0.0}, s2[LANES] = {0.0}, s3[LANES] = {0.0};
            for (long b = 0; b < n; b++)
#pragma omp simd
                for (int i = 0; i < LANES; i++) {
                    const double value = V[b*stride + e + i];
                    s0[i] = FMA(K0[b], value, s0[i]);
                    s1[i] = FMA(K1[b], value, s1[i]);
                    s2[i] = FMA(K2[b], value, s2[i]);
                    s3[i] = FMA(K3[b], value, s3[i]);
                }
            for (int i = 0; i < LANES; i++) Z0[e + i] = s0[i];
            for (int i = 0; i < LANES; i++) Z1[e + i] = s1[i];
            for (int i = 0; i < LANES; i++) Z2[e + i] = s2[i];
            for (int i = 0; i < LANES; i++) Z3[e + i] = s3[i];
        }
        for (long r = 0; r < rows; r++) continue_row(o, Z + (a + r)*stride);
    }
}

/* N_jl = E[sigma'(u_j) sigma'(u_l) e^2] = noise_sum + Delta J2_jl */
static void noise(const layout *o, double Delta, double *N, double *work)
{
    const long p = o->p, span = o->span;
    double *sums = work;
    work += (p/2 + 1)*span;
    for (long delta = 0; delta <= p/2; delta++) {
        const double *c = o->cross + delta*span, *own = o->own;
        double *sum = sums + delta*span;
#pragma omp simd
        for (long j = 0; j < p; j++) sum[j] = Delta*J2_ss(own[j], c[j], own[j + delta]);
        for (long j = p; j < span; j++) sum[j] = 0.0;
    }
    noise_sum(o, sums, work);
    for (long delta = 0; delta <= p/2; delta++)
        for (long j = 0; j < pairs_at(p, delta); j++) {
            const long l = o->student[j + delta];
            N[j*p + l] = N[l*p + j] = sums[delta*span + j];
        }
}
