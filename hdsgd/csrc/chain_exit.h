/* What is measured on the chain: overlaps, the risk, and whether it has reached its level.

   An exit is tested after every step. Computing the risk costs as much as a step or more, so that its change is bounded
   first, and it is computed only when that does not decide. */

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
    for (int64_t j = 0; j < p; j++) {
        double *q = Q + j * p;
        for (int64_t l = 0; l <= j; l++) q[l] = 0.0;
        for (int64_t c = 0; c < r; c++)
            for (int64_t l = 0; l <= j; l++) q[l] += HDSGD_OF(s->B, c * ld + j, w) * HDSGD_OF(s->B, c * ld + l, w);
        for (int64_t c = 0; c < run->columns; c++) {
            const double x = HDSGD_OF(s->C, c * ld + j, w);
            if (x == 0.0) continue; /* above the diagonal */
            for (int64_t l = 0; l <= j; l++) q[l] += x * HDSGD_OF(s->C, c * ld + l, w);
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

/* The risk of a replica, computed; and how far it may move before that has to be done again. */
static double hdsgd_appraise(const hdsgd_run *run, hdsgd_space *s, const hdsgd_lane *lane, int w)
{
    const double risk = run->parabolas != NULL ? hdsgd_form_risk(run, s, w) /* needs no overlaps */
                                               : hdsgd_measure(run, s, w, s->Q, s->M, s->second);
    double least = INFINITY, most = 0.0;
    for (int64_t j = 0; j < run->p; j++) {
        const double q = hdsgd_norm(run, s, w, j);
        least = q < least ? q : least, most = q > most ? q : most;
    }
    const double margin = run->spherical ? 0.0 : 0.05 * least;
    if (!(HDSGD_OF(&s->low, 0, w) <= least - margin && most + margin <= HDSGD_OF(&s->high, 0, w)))
        hdsgd_slopes(run, s, w, least - 2.0 * margin - 1e-9, most + 2.0 * margin + 1e-9);
    HDSGD_OF(&s->spent, 0, w) = 0.0;
    HDSGD_OF(&s->slack, 0, w) = 0.999 * (risk - lane->is.level);
    HDSGD_OF(&s->astray, 0, w) = run->spherical ? -INFINITY : -margin;
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

/* After a step, `step` steps after lane->is.step: replicas where doubt or s->astray is positive may have reached their
   level. Those that have get their output, and their lanes are empty. */
static void hdsgd_check(const hdsgd_run *run, hdsgd_group *group, const V *doubt, int64_t step);
