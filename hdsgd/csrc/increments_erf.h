/* Covariance of the increments for error functions c0 + c1 erf(kappa x): the tilts of _increments_erf.py.

   law: offset, height, slope of the student, then of the teacher; points, weights: Gauss-Legendre on [0, 1] for the
   integral over the scale. A fixed second layer. Goes after step.h. */

#define HDSGD_2_PI 0.63661977236758134308
#define HDSGD_ROOT_2_PI 0.79788456080286535588

static int64_t hdsgd_covariance_work(const hdsgd_step *step)
{
    const int64_t p = step->p, n = p + step->k, m = step->m;
    const int64_t tensors = p * n + p * p * n * n + p * p * p * n + p * p + p * p * p * p;
    return tensors + 9 * n * n + 6 * n + 4 * m + 2 * m + 1;
}

/* C under the weight h'_j = sqrt(2/pi) exp(-u_j^2/2), and the factor. */
static double hdsgd_tilt(int64_t n, const double *restrict C, int64_t j, double *restrict out)
{
    const double own = 1.0 / (1.0 + C[j * n + j]), *row = C + j * n;
    for (int64_t a = 0; a < n; a++) {
        const double x = row[a] * own;
        for (int64_t b = 0; b < n; b++) out[a * n + b] = C[a * n + b] - x * row[b];
    }
    return HDSGD_ROOT_2_PI * sqrt(own);
}

/* E[f^2]; `space` holds n + n (n + 1)/2. */
static double hdsgd_square(int64_t n, const double *restrict w, const double *restrict C, double *restrict space)
{
    double *own = space, *angle = own + n, sum = 0.0;
    for (int64_t a = 0; a < n; a++) own[a] = 1.0 / sqrt(1.0 + C[a * n + a]);
    int64_t i = 0;
    for (int64_t a = 0; a < n; a++)
        for (int64_t b = a; b < n; b++) angle[i++] = C[a * n + b] * own[a] * own[b];
    const int64_t size = i;
#pragma omp simd
    for (i = 0; i < size; i++) angle[i] = asin1(angle[i]);
    i = 0;
    for (int64_t a = 0; a < n; a++) {
        double row = 0.5 * w[a] * angle[i++];
        for (int64_t b = a + 1; b < n; b++) row += w[b] * angle[i++];
        sum += w[a] * row;
    }
    return 2.0 * HDSGD_2_PI * sum;
}

/* E[e^3 u_b] for all b. */
static void hdsgd_cube(int64_t n, const double *w, const double *C, double rest, double *out, double *space)
{
    double *tilted = space, *weight = tilted + n * n, *more = weight + n;
    for (int64_t c = 0; c < n; c++) {
        const double t = hdsgd_tilt(n, C, c, tilted);
        weight[c] = 3.0 * w[c] * t * (hdsgd_square(n, w, tilted, more) + rest);
    }
    for (int64_t b = 0; b < n; b++) {
        out[b] = 0.0;
        for (int64_t c = 0; c < n; c++) out[b] += C[b * n + c] * weight[c];
    }
}

/* E[e^4], c2 = c^2. */
static double hdsgd_fourth(const hdsgd_step *step, const double *w, const double *C, double c2, double *space)
{
    const int64_t n = step->p + step->k;
    double *scaled = space, *once = scaled + n * n, *both = once + n * n, *more = both + n * n;
    double largest = 1e-8, four = 0.0;
    for (int64_t a = 0; a < n; a++)
        if (C[a * n + a] > largest) largest = C[a * n + a];
    const double range = log1p(largest);
    for (int64_t i = 0; i < step->count; i++) {
        const double s = expm1(range * step->points[i]) / largest;
        double total = 0.0;
        for (int64_t e = 0; e < n * n; e++) scaled[e] = s * C[e];
        for (int64_t a = 0; a < n; a++) {
            const double ta = hdsgd_tilt(n, scaled, a, once), own = 1.0 / (1.0 + scaled[a * n + a]);
            for (int64_t b = a; b < n; b++) {
                const double tb = hdsgd_tilt(n, once, b, both), share = own + 1.0 / (1.0 + scaled[b * n + b]);
                const double pair = (a == b ? 0.5 : 1.0) * w[a] * w[b] * C[a * n + b];
                total += pair * share * ta * tb * hdsgd_square(n, w, both, more);
            }
        }
        four += step->weights[i] * range / largest * (1.0 + largest * s) * total;
    }
    const double two = hdsgd_square(n, w, C, more), Delta = step->Delta;
    return c2 * c2 + 6.0 * c2 * (two + Delta) + 6.0 * four + 6.0 * Delta * two + 3.0 * Delta * Delta;
}

static void hdsgd_covariance(const hdsgd_step *step, const double *Omega, const double *v, const double *a, double *cov,
                             double *work)
{
    const int64_t p = step->p, n = p + step->k, m = step->m, split = p * (p + 1) / 2, nn = n * n;
    double *first = work, *second = first + p * n, *cubes = second + p * p * nn, *squares = cubes + p * p * p * n;
    double *fourths = squares + p * p, *C0 = fourths + p * p * p * p, *Cj = C0 + nn, *Cl = Cj + nn, *Cm = Cl + nn;
    double *Cq = Cm + nn, *w = Cq + nn, *unit = w + n, *gain = unit + n, *weight = gain + n;
    double *one = weight + n, *other = one + m, *square = other + m, *mean = square + m;
    int *J = (int *)(mean + m), *B = J + m;
    double *space = mean + m + m + 1; /* 4 n^2 + 2 n */
    double c = 0.0;
    hdsgd_components(step, J, B);
    for (int64_t b = 0; b < n; b++) {
        const double *law = step->law + (b < p ? 0 : 3);
        c += v[b] * law[0];
        w[b] = v[b] * law[1];
        unit[b] = 1.41421356237309504880 * law[2];
    }
    for (int64_t b = 0; b < n; b++)
        for (int64_t e = 0; e < n; e++) C0[b * n + e] = Omega[b * n + e] * unit[b] * unit[e];
    for (int64_t j = 0; j < p; j++) gain[j] = a[j] * step->law[1] * unit[0];
    const double rest = c * c + step->Delta;

    for (int64_t j = 0; j < p; j++) {
        const double tj = hdsgd_tilt(n, C0, j, Cj);
        for (int64_t b = 0; b < n; b++) {
            double sum = 0.0;
            for (int64_t e = 0; e < n; e++) sum += Cj[b * n + e] * w[e] * HDSGD_ROOT_2_PI / sqrt(1.0 + Cj[e * n + e]);
            first[j * n + b] = tj * sum;
        }
        for (int64_t l = j; l < p; l++) {
            const double tl = tj * hdsgd_tilt(n, Cj, l, Cl), F = hdsgd_square(n, w, Cl, space) + rest;
            squares[j * p + l] = squares[l * p + j] = tl * F;
            double *H = space, *HC = H + nn;
            for (int64_t b = 0; b < n; b++) {
                double bend = 0.0;
                for (int64_t e = 0; e < n; e++) {
                    const double slope = HDSGD_2_PI / sqrt((1.0 + Cl[b * n + b]) * (1.0 + Cl[e * n + e])
                                                           - Cl[b * n + e] * Cl[b * n + e]);
                    bend -= w[e] * Cl[b * n + e] * slope / (1.0 + Cl[b * n + b]);
                    H[b * n + e] = 2.0 * w[b] * w[e] * slope;
                }
                H[b * n + b] += 2.0 * w[b] * bend;
            }
            for (int64_t b = 0; b < n; b++)
                for (int64_t e = 0; e < n; e++) {
                    double sum = 0.0;
                    for (int64_t f = 0; f < n; f++) sum += H[b * n + f] * Cl[f * n + e];
                    HC[b * n + e] = sum;
                }
            for (int64_t b = 0; b < n; b++)
                for (int64_t e = 0; e < n; e++) {
                    double sum = Cl[b * n + e] * F;
                    for (int64_t f = 0; f < n; f++) sum += Cl[b * n + f] * HC[f * n + e];
                    second[(j * p + l) * nn + b * n + e] = second[(l * p + j) * nn + b * n + e] = tl * sum;
                }
            if (!(step->g > 0.0)) continue;
            for (int64_t r = l; r < p; r++) {
                const double tm = tl * hdsgd_tilt(n, Cl, r, Cm);
                hdsgd_cube(n, w, Cm, rest, weight, space);
                const int64_t order[6][3] = {{j, l, r}, {j, r, l}, {l, j, r}, {l, r, j}, {r, j, l}, {r, l, j}};
                for (int i = 0; i < 6; i++)
                    for (int64_t b = 0; b < n; b++)
                        cubes[((order[i][0] * p + order[i][1]) * p + order[i][2]) * n + b] = tm * weight[b];
                for (int64_t q = r; q < p; q++) {
                    const double tq = tm * hdsgd_tilt(n, Cm, q, Cq), value = tq * hdsgd_fourth(step, w, Cq, c * c, space);
                    for (int i = 0; i < 6; i++) { /* q in each of the four places of each order of the others */
                        const int64_t x = order[i][0], y = order[i][1], z = order[i][2];
                        fourths[((x * p + y) * p + z) * p + q] = fourths[((x * p + y) * p + q) * p + z] = value;
                        fourths[((x * p + q) * p + y) * p + z] = fourths[((q * p + x) * p + y) * p + z] = value;
                    }
                }
            }
        }
    }

    for (int64_t e = 0; e < m; e++) {
        const int64_t j = J[e], b = B[e];
        one[e] = gain[j] / unit[b];
        other[e] = square[e] = 0.0;
        mean[e] = one[e] * first[j * n + b];
        if (e >= split) continue;
        other[e] = gain[b] / unit[0];
        square[e] = step->g * gain[j] * gain[b];
        mean[e] += other[e] * first[b * n + j] + square[e] * squares[j * p + b];
    }
    for (int64_t e = 0; e < m; e++) /* each component is one h'_j u_b e + other h'_b u_j e + square h'_j h'_b e^2 */
        for (int64_t f = 0; f <= e; f++) {
            const int64_t j = J[e], b = B[e], l = J[f], d = B[f];
            double sum = one[e] * one[f] * second[(j * p + l) * nn + b * n + d] - mean[e] * mean[f];
            if (f < split) sum += one[e] * other[f] * second[(j * p + d) * nn + b * n + l];
            if (e < split)
                sum += other[e] * one[f] * second[(b * p + l) * nn + j * n + d]
                       + other[e] * other[f] * second[(b * p + d) * nn + j * n + l];
            if (step->g > 0.0 && f < split) {
                sum += square[f] * one[e] * cubes[((l * p + d) * p + j) * n + b];
                if (e < split)
                    sum += square[f] * other[e] * cubes[((l * p + d) * p + b) * n + j]
                           + square[e] * one[f] * cubes[((j * p + b) * p + l) * n + d]
                           + square[e] * other[f] * cubes[((j * p + b) * p + d) * n + l]
                           + square[e] * square[f] * fourths[((j * p + b) * p + l) * p + d];
            }
            cov[e * m + f] = cov[f * m + e] = sum;
        }
}
