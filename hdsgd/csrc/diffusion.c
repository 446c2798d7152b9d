/* The covariance of the overlaps' increments per step: batches, and the projection on the sphere.

   Goes after common.h, step.h and a route. */

/* x_c - s_c (x_jj/Q_jj + x_ll/Q_ll)/2 for each component c of a vector with this stride: what the rescaling of rows leaves.
   Nothing of the norms, exactly: in the projected equations they are unstable. */
static void hdsgd_tangent(int64_t p, int64_t k, const double *Q, const double *M, double *x, int64_t stride, double *half)
{
    double *at = x;
    for (int64_t j = 0; j < p; j++) {
        half[j] = 0.5 * at[0] / Q[j * p + j];
        at += (p - j) * stride;
    }
    for (int64_t j = 0; j < p; j++)
        for (int64_t l = j; l < p; l++, x += stride) *x = j == l ? 0.0 : *x - Q[j * p + l] * (half[j] + half[l]);
    for (int64_t j = 0; j < p; j++)
        for (int64_t r = 0; r < k; r++, x += stride) *x -= M[j * k + r] * half[j];
}

static void hdsgd_project(int64_t p, int64_t k, int64_t m, const double *Q, const double *M, double *cov, double *half)
{
    for (int64_t c = 0; c < m; c++) hdsgd_tangent(p, k, Q, M, cov + c * m, 1, half);
    for (int64_t c = 0; c < m; c++) hdsgd_tangent(p, k, Q, M, cov + c, m, half);
}

int64_t hdsgd_diffusion_work(const hdsgd_step *step) { return hdsgd_covariance_work(step) + step->p; }

/* For `count` states: Omega (count, n, n), v (count, n), a (count, p) to cov (count, m, m), per sample and unprojected. */
void hdsgd_diffusion(const hdsgd_step *step, int64_t count, const double *Omega, const double *v, const double *a,
                     double *cov, double *work)
{
    const int64_t n = step->p + step->k;
    for (int64_t i = 0; i < count; i++)
        hdsgd_covariance(step, Omega + i * n * n, v + i * n, a + i * step->p, cov + i * step->m * step->m, work);
}
