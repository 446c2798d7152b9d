/* What is measured on the chain: overlaps, the risk, and whether it has reached its level.

   An exit is tested after every step. Computing the risk costs as much as a step or many, so that its change is bounded
   first. Where wide students come close to their level a bound does not last: then Q and M are kept up to date, and the
   risk is estimated from them. It is computed from the frame only when neither decides. */

/* The number that belongs to one replica of a V. */
#define HDSGD_OF(array, index, w) (((double *)(array))[(index) * HDSGD_WIDTH + (w)])

typedef struct {
    int64_t replica; /* -1: nobody is in this lane */
    hdsgd_replica is;
} hdsgd_lane;

typedef struct {
    hdsgd_space space;
    hdsgd_lane lanes[HDSGD_WIDTH];
} hdsgd_group;

/* Q and M of one replica, from the frame, and its second layer. */
static void hdsgd_overlaps(const hdsgd_run *run, const hdsgd_space *s, int w, double *Q, double *M, double *a)
{
    const int64_t p = run->p, k = run->k, r = run->r, ld = s->ld;
    const int triangular = run->columns == p;
    for (int64_t j = 0; j < p; j++) {
        double *q = Q + j * p;
        for (int64_t l = 0; l <= j; l++) q[l] = 0.0;
        for (int64_t c = 0; c < r; c++)
            for (int64_t l = 0; l <= j; l++) q[l] += HDSGD_OF(s->B, c * ld + j, w) * HDSGD_OF(s->B, c * ld + l, w);
        for (int64_t c = 0; c < (triangular ? j + 1 : run->columns); c++) {
            const double x = HDSGD_OF(s->C, c * ld + j, w);
            for (int64_t l = triangular ? c : 0; l <= j; l++) q[l] += x * HDSGD_OF(s->C, c * ld + l, w);
        }
        for (int64_t b = 0; b < k; b++) {
            double m = 0.0;
            for (int64_t c = 0; c < r; c++) m += HDSGD_OF(s->B, c * ld + j, w) * run->L[b * r + c];
            M[j * k + b] = m;
        }
        a[j] = HDSGD_OF(s->a, j, w);
    }
    for (int64_t j = 0; j < p; j++)
        for (int64_t l = 0; l < j; l++) Q[l * p + j] = Q[j * p + l];
}

/* For x -> c + b x + s x^2 the error is a form of degree 2 in the input's coordinates, in which nearly equal students and
   teachers cancel before anything is squared: the risk is a sum of squares, good to the square of the rounding error. */
static double hdsgd_form_risk(const hdsgd_run *run, const hdsgd_space *s, int w)
{
    const int64_t p = run->p, k = run->k, r = run->r, n = r + run->columns, ld = s->ld;
    double *form = s->form, *linear = form + n * n, *x = linear + n, constant = 0.0, sum = 0.0;
    memset(form, 0, sizeof(double) * (size_t)(n * n + n));
    for (int64_t i = 0; i < p + k; i++) {
        const int student = i < p;
        const double *c = run->parabolas + (student ? 0 : 3);
        const double v = student ? -HDSGD_OF(s->a, i, w) / (double)p : run->a_star[i - p] / (double)k;
        for (int64_t e = 0; e < n; e++)
            x[e] = e < r ? (student ? HDSGD_OF(s->B, e * ld + i, w) : run->L[(i - p) * r + e])
                         : (student ? HDSGD_OF(s->C, (e - r) * ld + i, w) : 0.0);
        constant += v * c[0];
        for (int64_t e = 0; e < n; e++) {
            const double y = v * c[2] * x[e];
            if (x[e] == 0.0) continue;
            linear[e] += v * c[1] * x[e];
            for (int64_t f = 0; f <= e; f++) form[e * n + f] += y * x[f]; /* the lower triangle */
        }
    }
    for (int64_t e = 0; e < n; e++) {
        constant += form[e * n + e];
        sum += 0.5 * linear[e] * linear[e];
        for (int64_t f = 0; f < e; f++) sum += 2.0 * form[e * n + f] * form[e * n + f];
        sum += form[e * n + e] * form[e * n + e];
    }
    return sum + 0.5 * constant * constant;
}

/* Q, M and a of one replica to where they are wanted, and its risk. */
static double hdsgd_measure(const hdsgd_run *run, const hdsgd_space *s, int w, double *Q, double *M, double *a)
{
    hdsgd_overlaps(run, s, w, Q, M, a);
    return run->parabolas != NULL ? hdsgd_form_risk(run, s, w) : hdsgd_excess(run, Q, M, a);
}

/* Largest slopes of the two-point functions for squared norms between low and high, over a grid and with a margin. */
static void hdsgd_slopes(const hdsgd_run *run, hdsgd_space *s, int w, double low, double high)
{
    const double norms[] = {low, 0.5 * (low + high), high};
    const double unknown = low > 0.0 ? 0.0 : INFINITY; /* a norm of 0 is within reach: test every step */
    double across = unknown, mixed = unknown, own = unknown;
    for (int i = 0; i < 3; i++)
        for (int step = -4; step <= 4; step++) {
            for (int l = 0; l < 3; l++) {
                const double q = norms[i], x = norms[l], c = 0.25 * step * sqrt(q * x);
                across = fmax(across, fabs(J2_ss(q, c, x)));
                own = fmax(own, fabs(K2_ss(q, c, x)));
            }
            for (int64_t b = 0; b < run->k; b++) {
                const double q = norms[i], x = run->P[b * run->k + b], c = 0.25 * step * sqrt(q * x);
                mixed = fmax(mixed, fabs(J2_st(q, c, x)));
                own = fmax(own, fabs(K2_st(q, c, x)));
            }
        }
    HDSGD_OF(&s->across, 0, w) = 1.5 * across, HDSGD_OF(&s->mixed, 0, w) = 1.5 * mixed;
    HDSGD_OF(&s->own, 0, w) = 1.5 * own;
    HDSGD_OF(&s->low, 0, w) = low, HDSGD_OF(&s->high, 0, w) = high;
}

/* Q_jj of one replica. */
static double hdsgd_norm(const hdsgd_run *run, const hdsgd_space *s, int w, int64_t j)
{
    double q = 0.0;
    for (int64_t c = 0; c < run->r; c++) q += HDSGD_OF(s->B, c * s->ld + j, w) * HDSGD_OF(s->B, c * s->ld + j, w);
    for (int64_t c = 0; c < run->columns; c++) q += HDSGD_OF(s->C, c * s->ld + j, w) * HDSGD_OF(s->C, c * s->ld + j, w);
    return q;
}

/* After the risk has been found, with the squared norms in s->norms: how far it may move before that has to be done
   again. */
static void hdsgd_arm(const hdsgd_run *run, hdsgd_space *s, const hdsgd_lane *lane, int w, double risk)
{
    double least = INFINITY, most = 0.0;
    for (int64_t j = 0; j < run->p; j++) {
        const double q = HDSGD_OF(s->norms, j, w);
        least = q < least ? q : least, most = q > most ? q : most;
    }
    const double margin = run->spherical ? 0.0 : 0.05 * least;
    if (!(HDSGD_OF(&s->low, 0, w) <= least - margin && most + margin <= HDSGD_OF(&s->high, 0, w))) {
        hdsgd_slopes(run, s, w, least - 2.0 * margin - 1e-9, most + 2.0 * margin + 1e-9);
        s->kept = -1; /* the rounding of larger norms could be in the overlaps */
    }
    HDSGD_OF(&s->spent, 0, w) = 0.0;
    HDSGD_OF(&s->slack, 0, w) = 0.999 * (risk - lane->is.level);
    HDSGD_OF(&s->astray, 0, w) = run->spherical ? -INFINITY : -margin;
    s->lasted = 0;
}

/* The risk of a replica, computed. */
static double hdsgd_appraise(const hdsgd_run *run, hdsgd_space *s, const hdsgd_lane *lane, int w)
{
    const double risk = run->parabolas != NULL ? hdsgd_form_risk(run, s, w) /* needs no overlaps */
                                               : hdsgd_measure(run, s, w, s->Q, s->M, s->second);
    for (int64_t j = 0; j < run->p; j++) HDSGD_OF(s->norms, j, w) = hdsgd_norm(run, s, w, j);
    hdsgd_arm(run, s, lane, w, risk);
    return risk;
}

/* After a step on one sample: add to s->spent a bound of the change of the risk. With weights v = a/p, rows moved as
   W <- scale (W + u x), and slopes that hold as long as s->astray < 0, which bounds how far squared norms have moved. */
INLINE void hdsgd_spend(const hdsgd_run *run, hdsgd_space *s)
{
    const int64_t p = run->p, k = run->k;
    V weight = v_all(0.0), moved = weight, field = weight, squares = weight, rescaled = weight, wide = weight;
    V top = weight, teacher = weight;
    for (int64_t j = 0; j < p; j++) {
        const V v = v_abs(s->a[j]) / (double)p, x = v_abs(s->lambda[j]), y = v_abs(s->u[j]);
        const V square = y * v_fma(y, s->length, 2.0 * x), factor = v_abs(s->scale[j] - 1.0);
        weight += v;
        moved = v_fma(v, y, moved);
        field = v_fma(v, x, field);
        squares = v_fma(v, square, squares);
        rescaled = v_fma(v, factor, rescaled);
        wide += v_fma(v_all(3.0) * s->high, factor, square);
        top += factor;
    }
    double weight_star = 0.0, largest = 0.0;
    for (int64_t b = 0; b < k; b++) {
        const double v = fabs(run->a_star[b]) / (double)k;
        weight_star += v;
        largest = run->P[b * k + b] > largest ? run->P[b * k + b] : largest;
        teacher += v * v_abs(s->lambda_star[b]);
    }
    const V grown = (1.0 + top) * (1.0 + top);
    const V students = grown * moved * v_fma(moved, s->length, 2.0 * field) +
                       s->high * rescaled * (2.0 * weight + rescaled);
    const V teachers = grown * moved * teacher + 0.5 * (s->high + largest) * weight_star * rescaled;
    s->spent += 0.5 * s->across * students + s->mixed * teachers;
    if (run->spherical) return;
    s->spent += 0.5 * s->own * (weight + weight_star) * (grown * squares + 3.0 * s->high * rescaled);
    s->astray += grown * wide;
}

/* Overlaps that are kept: Q and M of one replica, brought to after every step at less than its cost. Their risk decides
   unless it is so close to the level that rounding counts. Which way is the faster one depends on the past, what comes
   out does not. */

enum { HDSGD_KEPT = 16384 }; /* steps after which overlaps are formed from the frame again */

/* After a step, by which rows have moved as W <- scale (W + u x). M follows at once; Q when it is asked for: with
   W = grown W', and grown = 1 where Q was settled, steps since then are W' <- W' + u' x, of which u' and lambda' = W' x
   are noted. */
static void hdsgd_keep(const hdsgd_run *run, hdsgd_space *s)
{
    const int64_t p = run->p, k = run->k, ld = s->ld;
    const double *restrict u = (double *)s->u, *restrict lambda = (double *)s->lambda;
    const double *restrict scale = (double *)s->scale, *restrict lambda_star = (double *)s->lambda_star;
    double *restrict grown = s->grown, *restrict moved = s->noted + 2 * s->owed * ld, *restrict field = moved + ld;
    for (int64_t j = 0; j < ld; j++) {
        moved[j] = u[j] / grown[j];
        field[j] = lambda[j] / grown[j];
        grown[j] *= scale[j];
    }
    for (int64_t j = 0; j < p; j++)
        for (int64_t b = 0; b < k; b++) s->M[j * k + b] = scale[j] * FMA(u[j], lambda_star[b], s->M[j * k + b]);
    s->lengths[s->owed++] = HDSGD_OF(&s->length, 0, 0);
    s->kept++;
}

/* Four rows of Q from j on, as far as the diagonal and a little beyond, from W' W'^T where they were settled. */
INLINE void hdsgd_settle_rows(hdsgd_space *s, int64_t j)
{
    const int64_t ld = s->ld, end = (j | (HDSGD_ROWS - 1)) + 1;
    double *restrict q0 = s->gram + j * ld, *restrict q1 = q0 + ld, *restrict q2 = q1 + ld, *restrict q3 = q2 + ld;
    const double *restrict grown = s->grown;
    for (int64_t i = 0; i < s->owed; i++) {
        const double *restrict moved = s->noted + 2 * i * ld, *restrict field = moved + ld, length = s->lengths[i];
        const double x0 = moved[j], x1 = moved[j + 1], x2 = moved[j + 2], x3 = moved[j + 3];
        const double y0 = FMA(x0, length, field[j]), y1 = FMA(x1, length, field[j + 1]);
        const double y2 = FMA(x2, length, field[j + 2]), y3 = FMA(x3, length, field[j + 3]);
#pragma omp simd
        for (int64_t l = 0; l < end; l++) {
            q0[l] = FMA(x0, field[l], FMA(y0, moved[l], q0[l]));
            q1[l] = FMA(x1, field[l], FMA(y1, moved[l], q1[l]));
            q2[l] = FMA(x2, field[l], FMA(y2, moved[l], q2[l]));
            q3[l] = FMA(x3, field[l], FMA(y3, moved[l], q3[l]));
        }
    }
#pragma omp simd
    for (int64_t l = 0; l < end; l++) {
        q0[l] *= grown[j] * grown[l];
        q1[l] *= grown[j + 1] * grown[l];
        q2[l] *= grown[j + 2] * grown[l];
        q3[l] *= grown[j + 3] * grown[l];
    }
}

static void hdsgd_owe_nothing(hdsgd_space *s)
{
    for (int64_t j = 0; j < s->ld; j++) s->grown[j] = 1.0;
    s->owed = 0;
}

static void hdsgd_settle(hdsgd_space *s)
{
    for (int64_t j = 0; j < s->ld; j += 4) hdsgd_settle_rows(s, j);
    hdsgd_owe_nothing(s);
}

/* hdsgd_pair_risk of what is kept, in one sweep with settling it; leaves norms. */
static double hdsgd_estimate(const hdsgd_run *run, hdsgd_space *s)
{
    const int64_t p = run->p, k = run->k, ld = s->ld;
    const double *restrict a = (double *)s->a, *a_star = run->a_star, *P = run->P;
    double *restrict norms = (double *)s->norms, *restrict rows = (double *)s->v;
    double students = 0.0, across = 0.0, teachers = 0.0;
    for (int64_t j = 0; j < p; j++) {
        if (j % 4 == 0) hdsgd_settle_rows(s, j);
        const double *restrict q = s->gram + j * ld, norm = q[j], second = a[j];
#pragma omp simd
        for (int64_t l = 0; l < j; l++) rows[l] += second * I2_ss(norm, q[l], norms[l]); /* faster than a sum over l */
        rows[j] = 0.5 * second * I2_ss(norm, norm, norm);
        norms[j] = norm;
        for (int64_t b = 0; b < k; b++) across += second * a_star[b] * I2_st(norm, s->M[j * k + b], P[b * k + b]);
    }
    hdsgd_owe_nothing(s);
    for (int64_t j = 0; j < p; j++) students += a[j] * rows[j];
    for (int64_t b = 0; b < k; b++)
        for (int64_t c = 0; c < k; c++)
            teachers += 0.5 * a_star[b] * a_star[c] * I2_tt(P[b * k + b], P[b * k + c], P[c * k + c]);
    const double width = (double)p, teacher_width = (double)k;
    return students / (width * width) - across / (width * teacher_width) + teachers / (teacher_width * teacher_width);
}

/* How far the risk may be, by rounding, from that of a frame which is a little different: overlaps, and terms of the
   risk, differ by less than this fraction of the largest. */
static double hdsgd_blur(const hdsgd_run *run, const hdsgd_space *s)
{
    double weight = 0.0, weight_star = 0.0, most = HDSGD_OF(&s->high, 0, 0), size = 0.0;
    for (int64_t j = 0; j < run->p; j++) {
        const double v = fabs(HDSGD_OF(s->a, j, 0)) / (double)run->p, x = HDSGD_OF(s->norms, j, 0);
        weight += v;
        size += v * sqrt(fabs(I2_ss(x, x, x)));
    }
    for (int64_t b = 0; b < run->k; b++) {
        const double v = fabs(run->a_star[b]) / (double)run->k, x = run->P[b * run->k + b];
        weight_star += v;
        size += v * sqrt(fabs(I2_tt(x, x, x)));
        most = x > most ? x : most;
    }
    const double across = HDSGD_OF(&s->across, 0, 0), mixed = HDSGD_OF(&s->mixed, 0, 0), own = HDSGD_OF(&s->own, 0, 0);
    const double slope = weight * (0.5 * (across * weight + own * (weight + weight_star)) + mixed * weight_star);
    return 1e-9 * (slope * most + size * size);
}

/* Keep overlaps from now on, after the risk has been computed, if a bound of it has lasted so few steps that this is
   faster, and if it is not too close to the level. */
static void hdsgd_begin_keeping(const hdsgd_run *run, hdsgd_space *s, int64_t lasted)
{
    const int64_t p = run->p;
    if (4 * (lasted + 1) > p || !(hdsgd_blur(run, s) < HDSGD_OF(&s->slack, 0, 0))) return;
    hdsgd_overlaps(run, s, 0, s->Q, s->M, s->second);
    for (int64_t j = 0; j < p; j++) memcpy(s->gram + j * s->ld, s->Q + j * p, sizeof(double) * (size_t)p);
    hdsgd_owe_nothing(s);
    s->kept = 0;
}

/* Whether a replica is above its level by what is cheaper than its risk and leaves room for rounding: overlaps that are
   kept, or else the bound, where there is one. */
static int hdsgd_is_above(const hdsgd_run *run, hdsgd_space *s, const hdsgd_lane *lane, int bounded)
{
    const double left = HDSGD_OF(&s->slack, 0, 0) - HDSGD_OF(&s->spent, 0, 0);
    if (s->kept < 0) return bounded && HDSGD_OF(&s->astray, 0, 0) <= 0.0 && left > 0.0 && left > hdsgd_blur(run, s);
    const double risk = hdsgd_estimate(run, s) - hdsgd_blur(run, s);
    const int above = s->kept < HDSGD_KEPT && risk > lane->is.level;
    if (!above || 2 * s->lasted > run->p) s->kept = -1;
    if (above) hdsgd_arm(run, s, lane, 0, risk);
    return above;
}

/* After a step, `step` steps after lane->is.step: replicas where doubt or s->astray is positive may have reached their
   level. Those that have get their output, and their lanes are empty. */
static void hdsgd_check(const hdsgd_run *run, hdsgd_group *group, const V *doubt, int64_t step);
