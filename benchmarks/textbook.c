/* The baseline: the right-hand side as the papers print it, in plain loops: for each pair j <= l of students four nested
   sums, nothing hoisted, every integral a call of a scalar function.  Built with gcc -O2.

   Before this file comes the text of I3, J2 and I4 of one activation.  All weights a, a_star are 1; unit u is a student below p and
   a teacher from p on.  The argument is that of the program's compiled right-hand side, so that one clock times both. */
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* The struct of hdsgd/csrc/fields.c */
typedef struct {
    int64_t p, k, spherical;
    double gamma, Delta, decay, ratio;
    const double *y, *P, *a, *a_star;
    double *dy, *work;
} hdsgd_system;

typedef struct { long p, k; const double *Q, *M, *P; } overlaps;

static double covariance(const overlaps *s, long x, long y)
{
    const long p = s->p, k = s->k;
    if (x < p && y < p) return s->Q[x*p + y];
    if (x < p) return s->M[x*k + y - p];
    if (y < p) return s->M[y*k + x - p];
    return s->P[(x - p)*k + y - p];
}

static double three(const overlaps *s, long j, long b, long c) /* E[sigma'(j) b phi(c)] */
{
    return I3(covariance(s, j, j), covariance(s, j, b), covariance(s, j, c), covariance(s, b, b), covariance(s, b, c),
              covariance(s, c, c));
}

static double four(const overlaps *s, long j, long l, long a, long b)
{
    return I4(covariance(s, j, j), covariance(s, j, l), covariance(s, j, a), covariance(s, j, b), covariance(s, l, l),
              covariance(s, l, a), covariance(s, l, b), covariance(s, a, a), covariance(s, a, b), covariance(s, b, b));
}

void textbook_rhs(const hdsgd_system *system)
{
    const long p = system->p, k = system->k, n = p + k;
    const double gamma = system->gamma, Delta = system->Delta, *y = system->y;
    double *Q = system->work, *dy = system->dy;
    for (long j = 0; j < p; j++)
        for (long l = j; l < p; l++) Q[j*p + l] = Q[l*p + j] = *y++;
    const overlaps s = {p, k, Q, y, system->P};
    for (long j = 0; j < p; j++)
        for (long l = j; l < p; l++) {
            double change = 0.0, noise = 0.0;
            for (long c = p; c < n; c++) change += (three(&s, j, l, c) + three(&s, l, j, c))/(double)k;
            for (long c = 0; c < p; c++) change -= (three(&s, j, l, c) + three(&s, l, j, c))/(double)p;
            for (long c = p; c < n; c++)
                for (long b = p; b < n; b++) noise += four(&s, j, l, c, b)/(double)(k*k);
            for (long c = 0; c < p; c++)
                for (long b = 0; b < p; b++) noise += four(&s, j, l, c, b)/(double)(p*p);
            for (long c = 0; c < p; c++)
                for (long b = p; b < n; b++) noise -= 2.0*four(&s, j, l, c, b)/(double)(p*k);
            if (Delta > 0.0) noise += Delta*J2(covariance(&s, j, j), covariance(&s, j, l), covariance(&s, l, l));
            *dy++ = change + gamma/(double)p*noise;
        }
    for (long j = 0; j < p; j++)
        for (long r = p; r < n; r++) {
            double change = 0.0;
            for (long c = p; c < n; c++) change += three(&s, j, r, c)/(double)k;
            for (long c = 0; c < p; c++) change -= three(&s, j, r, c)/(double)p;
            *dy++ = change;
        }
}

/* Seconds per call, of this thread. */
double time_rhs(void (*rhs)(const hdsgd_system *), long repeat, const hdsgd_system *system)
{
    struct timespec start, end;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
    for (long i = 0; i < repeat; i++) rhs(system);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
    return ((double)(end.tv_sec - start.tv_sec) + 1e-9*(double)(end.tv_nsec - start.tv_nsec))/(double)repeat;
}
