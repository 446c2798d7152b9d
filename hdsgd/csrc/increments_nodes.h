/* Covariance of the increments by a fixed rule of quadrature: the method of `by_nodes` in _nodes.py.

   points are (count, n) of the standard normal law, weights (count,) add up to 1. Goes after a kernel's pointwise
   functions and step.h. */

enum { HDSGD_TOGETHER = 32 }; /* points in one block: the axis of the vectors */

static int64_t hdsgd_covariance_work(const hdsgd_step *step)
{
    const int64_t n = step->p + step->k;
    return n * n + (2 * n + step->p + 3 * step->m + 2) * HDSGD_TOGETHER + 2 * step->m + 1;
}

static void hdsgd_covariance(const hdsgd_step *step, const double *Omega, const double *v, const double *a, double *cov,
                             double *work)
{
    enum { T = HDSGD_TOGETHER };
    const int64_t p = step->p, n = p + step->k, m = step->m, split = p * (p + 1) / 2;
    const double g = step->g, Delta = step->Delta;
    double *L = work, *u = L + n * n, *phi = u + n * T, *gain = phi + n * T;
    double *X0 = gain + p * T, *X1 = X0 + m * T, *B = X1 + m * T, *e0 = B + m * T, *w = e0 + T, *mean = w + T;
    int *first = (int *)(mean + m), *second = first + m;
    hdsgd_components(step, first, second);
    hdsgd_root(n, Omega, L);
    for (int64_t i = 0; i < m * m; i++) cov[i] = 0.0;
    for (int64_t c = 0; c < m; c++) mean[c] = 0.0;
    for (int64_t start = 0; start < step->count; start += T) {
        const int64_t here = step->count - start < T ? step->count - start : T;
        for (int64_t i = 0; i < T; i++) w[i] = i < here ? step->weights[start + i] : 0.0;
        for (int64_t b = 0; b < n; b++)
            for (int64_t i = 0; i < T; i++) {
                const double *x = step->points + (start + (i < here ? i : 0)) * n;
                double sum = 0.0;
                for (int64_t c = 0; c <= b; c++) sum = FMA(L[b * n + c], x[c], sum);
                u[b * T + i] = sum;
            }
        for (int64_t i = 0; i < T; i++) e0[i] = 0.0;
        for (int64_t b = 0; b < n; b++) {
            double *to = phi + b * T;
            const double *from = u + b * T;
            if (b < p)
                for (int64_t i = 0; i < T; i++) to[i] = hdsgd_student(from[i]);
            else
                for (int64_t i = 0; i < T; i++) to[i] = hdsgd_teacher(from[i]);
            for (int64_t i = 0; i < T; i++) e0[i] = FMA(v[b], to[i], e0[i]);
        }
        for (int64_t j = 0; j < p; j++)
            for (int64_t i = 0; i < T; i++) gain[j * T + i] = a[j] * hdsgd_student_prime(u[j * T + i]);
        for (int64_t c = 0; c < m; c++) {
            const int64_t j = first[c], b = second[c];
            double *x0 = X0 + c * T, *x1 = X1 + c * T, *square = B + c * T;
            if (c < split)
                for (int64_t i = 0; i < T; i++) {
                    square[i] = gain[j * T + i] * gain[b * T + i];
                    const double A = gain[j * T + i] * u[b * T + i] + gain[b * T + i] * u[j * T + i];
                    x0[i] = A * e0[i] + g * square[i] * (e0[i] * e0[i] + Delta);
                    x1[i] = A + 2.0 * g * e0[i] * square[i];
                }
            else
                for (int64_t i = 0; i < T; i++) {
                    x1[i] = b >= p ? gain[j * T + i] * u[b * T + i] : step->ratio * phi[j * T + i];
                    x0[i] = x1[i] * e0[i];
                }
        }
        const double spread = 2.0 * g * g * Delta * Delta;
        for (int64_t c = 0; c < m; c++) {
            const double *x0 = X0 + c * T, *x1 = X1 + c * T, *square = B + c * T;
            double total = 0.0;
            for (int64_t i = 0; i < T; i++) total += w[i] * x0[i];
            mean[c] += total;
            for (int64_t e = 0; e <= c; e++) {
                const double *y0 = X0 + e * T, *y1 = X1 + e * T, *other = B + e * T;
                double sum = 0.0, noise = 0.0, tail = 0.0;
#pragma omp simd reduction(+ : sum)
                for (int64_t i = 0; i < T; i++) sum += w[i] * x0[i] * y0[i];
                if (Delta > 0.0) {
#pragma omp simd reduction(+ : noise)
                    for (int64_t i = 0; i < T; i++) noise += w[i] * x1[i] * y1[i];
                    if (c < split)
                        for (int64_t i = 0; i < T; i++) tail += w[i] * square[i] * other[i];
                }
                cov[c * m + e] += sum + Delta * noise + spread * tail;
            }
        }
    }
    for (int64_t c = 0; c < m; c++)
        for (int64_t e = 0; e <= c; e++) {
            cov[c * m + e] -= mean[c] * mean[e];
            cov[e * m + c] = cov[c * m + e];
        }
}
