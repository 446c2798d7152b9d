/* One step of SGD as the covariance of its increments needs it, and the components of the overlaps.

   The components are the upper triangle of Q by rows, M by rows, and a if it is trained. A route (increments_*.h) defines

       static int64_t hdsgd_covariance_work(const hdsgd_step *step);
       static void hdsgd_covariance(const hdsgd_step *step, const double *Omega, const double *v, const double *a,
                                    double *cov, double *work);

   where cov (m x m) is the covariance of the scaled increments of one sample, without the projection on the sphere.
   Goes after common.h. */
#include <stdint.h>

typedef struct { /* mirrored field by field by _Step in _increments_c.py */
    int64_t p, k, m, trained;      /* m components */
    double g, Delta, ratio;        /* gamma/(p n_b), or 0 for the leading order in it; gamma_a/gamma */
    int64_t count;                 /* of nodes */
    const double *law, *points, *weights; /* numbers of the route; (count, n) or (count,); (count,) */
} hdsgd_step;

static void hdsgd_components(const hdsgd_step *step, int *first, int *second) /* units of each component; j, j for a_j */
{
    const int p = (int)step->p, k = (int)step->k;
    for (int j = 0; j < p; j++)
        for (int l = j; l < p; l++) *first++ = j, *second++ = l;
    for (int j = 0; j < p; j++)
        for (int r = 0; r < k; r++) *first++ = j, *second++ = p + r;
    for (int j = 0; j < p && step->trained; j++) *first++ = j, *second++ = j;
}

/* Lower triangular root of a positive semidefinite matrix; a pivot that is lost in rounding has no column. */
static void hdsgd_root(int64_t m, const double *cov, double *L)
{
    double largest = 0.0;
    for (int64_t c = 0; c < m; c++)
        if (cov[c * m + c] > largest) largest = cov[c * m + c];
    for (int64_t i = 0; i < m; i++)
        for (int64_t c = 0; c <= i; c++) {
            double sum = cov[i * m + c];
            const double *x = L + i * m, *y = L + c * m;
#pragma omp simd reduction(- : sum)
            for (int64_t e = 0; e < c; e++) sum -= x[e] * y[e];
            if (i == c)
                L[i * m + i] = sum > 1e-14 * largest ? sqrt(sum) : 0.0;
            else
                L[i * m + c] = y[c] > 0.0 ? sum / y[c] : 0.0;
        }
}
