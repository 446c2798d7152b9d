/* Covariance of the increments for activations alpha x^2 + beta: exact, any p and k.

   Every component is u_j u_b (c1 e + c2 e^2) + c0 e, e = c + u^T D u + sqrt(Delta) z. Their moments are the coefficients
   of s^i, i <= 4, in Z(s) times products of entries of Omega(s); the series are those of `quadratic` in _increments.py.
   law: alpha, beta of the student, alpha, beta of the teacher. Goes after step.h. */

enum { HDSGD_ORDERS = 5 };

static int64_t hdsgd_covariance_work(const hdsgd_step *step)
{
    const int64_t n = step->p + step->k;
    return 2 * HDSGD_ORDERS * n * n + n + 5 * step->m + step->m + 1; /* the last for two tables of int */
}

/* The coefficient of s^order in E[u_j u_b u_l u_c exp(s e)]; entries of both series lie together. */
static inline __attribute__((always_inline)) double hdsgd_four(int order, const double *restrict power,
                                                               const double *restrict tilted, int64_t n, int64_t j,
                                                               int64_t b, int64_t l, int64_t c)
{
    const double *jb = tilted + HDSGD_ORDERS * (j * n + b), *lc = power + HDSGD_ORDERS * (l * n + c);
    const double *jl = tilted + HDSGD_ORDERS * (j * n + l), *bc = power + HDSGD_ORDERS * (b * n + c);
    const double *jc = tilted + HDSGD_ORDERS * (j * n + c), *bl = power + HDSGD_ORDERS * (b * n + l);
    double sum = 0.0;
    for (int i = 0; i <= order; i++)
        sum = FMA(jb[i], lc[order - i], FMA(jl[i], bc[order - i], FMA(jc[i], bl[order - i], sum)));
    return sum;
}

static void hdsgd_covariance(const hdsgd_step *step, const double *Omega, const double *v, const double *a, double *cov,
                             double *work)
{
    const int64_t p = step->p, n = p + step->k, m = step->m, split = p * (p + 1) / 2;
    const double alpha = step->law[0], beta = step->law[1];
    double *power = work, *tilted = power + HDSGD_ORDERS * n * n, *D = tilted + HDSGD_ORDERS * n * n;
    double *c0 = D + n, *c1 = c0 + m, *c2 = c1 + m, *mean = c2 + m, *weighted = mean + m;
    int *first = (int *)(weighted + m), *second = first + m;
    hdsgd_components(step, first, second);

    double log_Z[HDSGD_ORDERS] = {0.0}, Z[HDSGD_ORDERS] = {1.0};
    for (int64_t b = 0; b < n; b++) {
        D[b] = v[b] * step->law[b < p ? 0 : 2];
        log_Z[1] += v[b] * step->law[b < p ? 1 : 3];
    }
    for (int64_t i = 0; i < n * n; i++) power[HDSGD_ORDERS * i] = Omega[i];
    for (int i = 1; i < HDSGD_ORDERS; i++) {
        double trace = 0.0;
        for (int64_t b = 0; b < n; b++) {
            const double *row = power + HDSGD_ORDERS * b * n + i - 1;
            trace += row[HDSGD_ORDERS * b] * D[b];
            for (int64_t c = b; c < n; c++) {
                double sum = 0.0;
                for (int64_t e = 0; e < n; e++) sum = FMA(row[HDSGD_ORDERS * e] * D[e], Omega[e * n + c], sum);
                power[HDSGD_ORDERS * (b * n + c) + i] = power[HDSGD_ORDERS * (c * n + b) + i] = 2.0 * sum;
            }
        }
        log_Z[i] += trace / i;
    }
    log_Z[2] += 0.5 * step->Delta;
    for (int i = 1; i < HDSGD_ORDERS; i++) {
        for (int r = 1; r <= i; r++) Z[i] += r * log_Z[r] * Z[i - r];
        Z[i] /= i;
    }
    for (int64_t e = 0; e < n * n; e++)
        for (int i = 0; i < HDSGD_ORDERS; i++) {
            double sum = 0.0;
            for (int r = 0; r <= i; r++) sum = FMA(Z[r], power[HDSGD_ORDERS * e + i - r], sum);
            tilted[HDSGD_ORDERS * e + i] = sum;
        }

    for (int64_t c = 0; c < m; c++) {
        const int64_t j = first[c], b = second[c];
        const double *one = tilted + HDSGD_ORDERS * (j * n + b);
        c0[c] = c2[c] = 0.0;
        if (c < split) {
            c1[c] = 2.0 * alpha * (a[j] + a[b]);
            c2[c] = 4.0 * alpha * alpha * step->g * a[j] * a[b];
        } else if (b >= p) {
            c1[c] = 2.0 * alpha * a[j];
        } else {
            c1[c] = step->ratio * alpha;
            c0[c] = step->ratio * beta;
        }
        mean[c] = c1[c] * one[1] + 2.0 * c2[c] * one[2] + c0[c] * Z[1];
        weighted[c] = 2.0 * c1[c] * one[2] + 6.0 * c2[c] * one[3]; /* E[(X_c - c0 e) e] */
    }
    for (int64_t c = 0; c < m; c++) {
        const int64_t j = first[c], b = second[c];
        for (int64_t e = 0; e <= c; e++) {
            const int64_t l = first[e], f = second[e];
            double sum = 2.0 * c1[c] * c1[e] * hdsgd_four(2, power, tilted, n, j, b, l, f) - mean[c] * mean[e];
            if (e < split && step->g > 0.0) {
                sum += 6.0 * (c1[c] * c2[e] + c2[c] * c1[e]) * hdsgd_four(3, power, tilted, n, j, b, l, f);
                if (c < split) sum += 24.0 * c2[c] * c2[e] * hdsgd_four(4, power, tilted, n, j, b, l, f);
            }
            sum += c0[c] * weighted[e] + c0[e] * weighted[c] + 2.0 * c0[c] * c0[e] * Z[2];
            cov[c * m + e] = cov[e * m + c] = sum;
        }
    }
}
