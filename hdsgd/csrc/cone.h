/* The cone of overlaps, as _cone.py has it: Omega = [[Q, M], [M^T, P]] stays positive semidefinite. */

/* Eigenvalues and orthonormal eigenvectors (columns of V) of a symmetric matrix, which is destroyed: Jacobi's rotations. */
static void hdsgd_eigen(int64_t n, double *A, double *V)
{
    for (int64_t i = 0; i < n * n; i++) V[i] = i % (n + 1) == 0;
    for (int sweep = 0; sweep < 60; sweep++) {
        double off = 0.0, on = 0.0;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) *(i == j ? &on : &off) += A[i * n + j] * A[i * n + j];
        if (!(off > 1e-32 * on)) return;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = i + 1; j < n; j++) {
                if (A[i * n + j] == 0.0) continue;
                const double tau = 0.5 * (A[j * n + j] - A[i * n + i]) / A[i * n + j];
                const double t = (tau < 0.0 ? -1.0 : 1.0) / (fabs(tau) + sqrt(1.0 + tau * tau));
                const double c = 1.0 / sqrt(1.0 + t * t), s = c * t;
                for (int64_t e = 0; e < n; e++) {
                    const double x = A[e * n + i], y = A[e * n + j];
                    A[e * n + i] = c * x - s * y;
                    A[e * n + j] = s * x + c * y;
                }
                for (int64_t e = 0; e < n; e++) {
                    const double x = A[i * n + e], y = A[j * n + e];
                    A[i * n + e] = c * x - s * y;
                    A[j * n + e] = s * x + c * y;
                }
                for (int64_t e = 0; e < n; e++) {
                    const double x = V[e * n + i], y = V[e * n + j];
                    V[e * n + i] = c * x - s * y;
                    V[e * n + j] = s * x + c * y;
                }
            }
    }
}

/* Whether Omega is positive definite up to rounding, by Cholesky; L is scratch (n, n). */
static int hdsgd_inside(int64_t p, int64_t k, const double *Q, const double *M, const double *P, double *L)
{
    const int64_t n = p + k;
    double scale = 0.0;
    for (int64_t j = 0; j < p; j++) scale = Q[j * p + j] > scale ? Q[j * p + j] : scale;
    for (int64_t r = 0; r < k; r++) scale = P[r * k + r] > scale ? P[r * k + r] : scale;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = i < p ? Q[i * p + j] : j < p ? M[j * k + i - p] : P[(i - p) * k + j - p];
            for (int64_t e = 0; e < j; e++) sum -= L[i * n + e] * L[j * n + e];
            if (i > j) {
                L[i * n + j] = sum / L[j * n + j];
                continue;
            }
            sum += 1e-14 * scale;
            if (!(sum > 0.0)) return 0;
            L[i * n + i] = sqrt(sum);
        }
    return 1;
}

/* Clip the part of Q outside the teachers' span and restore the diagonal of Q. `into` (k, r) turns M into coordinates in
   an orthonormal frame of that span, `back` (r, k) turns them into M again. */
static void hdsgd_feasible(int64_t p, int64_t k, int64_t r, const double *P, const double *into, const double *back,
                           double *Q, double *M, double *space)
{
    if (p == 1 && k == 1) {
        const double bound = sqrt(Q[0] * P[0]);
        M[0] = M[0] > bound ? bound : M[0] < -bound ? -bound : M[0];
        return;
    }
    if (hdsgd_inside(p, k, Q, M, P, space)) return;
    double *B = space, *rest = B + p * r, *V = rest + p * p;
    for (int64_t j = 0; j < p; j++)
        for (int64_t e = 0; e < r; e++) {
            B[j * r + e] = 0.0;
            for (int64_t b = 0; b < k; b++) B[j * r + e] += M[j * k + b] * into[b * r + e];
        }
    for (int64_t j = 0; j < p; j++)
        for (int64_t l = 0; l < p; l++) {
            double sum = Q[j * p + l];
            for (int64_t e = 0; e < r; e++) sum -= B[j * r + e] * B[l * r + e];
            rest[j * p + l] = sum;
        }
    hdsgd_eigen(p, rest, V);
    for (int64_t e = 0; e < p; e++) {
        const double value = rest[e * p + e], length = value > 0.0 ? sqrt(value) : 0.0;
        for (int64_t j = 0; j < p; j++) V[j * p + e] *= length;
    }
    for (int64_t j = 0; j < p; j++) {
        double norm = 0.0;
        for (int64_t e = 0; e < r; e++) norm += B[j * r + e] * B[j * r + e];
        for (int64_t e = 0; e < p; e++) norm += V[j * p + e] * V[j * p + e];
        const double own = Q[j * p + j], scale = norm > 0.0 && own > 0.0 ? sqrt(own / norm) : 0.0;
        for (int64_t e = 0; e < r; e++) B[j * r + e] *= scale;
        for (int64_t e = 0; e < p; e++) V[j * p + e] *= scale;
    }
    for (int64_t j = 0; j < p; j++) {
        for (int64_t l = 0; l < j; l++) {
            double sum = 0.0;
            for (int64_t e = 0; e < r; e++) sum += B[j * r + e] * B[l * r + e];
            for (int64_t e = 0; e < p; e++) sum += V[j * p + e] * V[l * p + e];
            Q[j * p + l] = Q[l * p + j] = sum;
        }
        for (int64_t b = 0; b < k; b++) {
            M[j * k + b] = 0.0;
            for (int64_t e = 0; e < r; e++) M[j * k + b] += B[j * r + e] * back[e * k + b];
        }
    }
}
