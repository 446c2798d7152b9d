/* What the machine can do at most on one core, or on several when called from as many threads.

   After random.h and lanes.h of the program, whose vectorised normals are the fastest it has. Built with -O3 and contraction, so
   that a*b + c is one instruction. Each function returns its seconds; the sums keep the compiler from dropping the work. */
#include <time.h>

#if defined(__AVX512F__)
enum { BYTES = 64 };
#elif defined(__AVX__)
enum { BYTES = 32 };
#else
enum { BYTES = 16 };
#endif
enum { CHAINS = 12 }; /* independent sums: latency times two units */

typedef float floats __attribute__((vector_size(BYTES)));
typedef double doubles __attribute__((vector_size(BYTES)));

static double now(void) /* of this thread: what others do on the machine does not count */
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9*(double)t.tv_nsec;
}

#define FMA_CLOCK(name, vector, scalar)                                                                                \
    double name(long count, double *sum) /* count fused multiply-adds, rounded up to whole vectors */                  \
    {                                                                                                                  \
        vector x[CHAINS];                                                                                              \
        const scalar factor = (scalar)0.999, term = (scalar)(*sum);                                                    \
        for (int i = 0; i < CHAINS; i++) x[i] = (vector){0} + (scalar)i;                                               \
        const double start = now();                                                                                    \
        for (long done = 0; done < count; done += CHAINS*(long)(BYTES/sizeof(scalar)))                                 \
            _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) x[i] = x[i]*factor + term;                       \
        const double end = now();                                                                                      \
        for (int i = 0; i < CHAINS; i++) *sum += (double)x[i][0];                                                      \
        return end - start;                                                                                            \
    }

FMA_CLOCK(fma_single, floats, float)
FMA_CLOCK(fma_double, doubles, double)

double normals_single(long count, double *sum) /* count standard normals, rounded up to whole chunks */
{
    hdsgd_rng seed = {{1, 2, 3, 4}};
    hdsgd_lanes lanes;
    hdsgd_real x[HDSGD_CHUNK] __attribute__((aligned(64)));
    hdsgd_lanes_from(&lanes, seed);
    const double start = now();
    for (long done = 0; done < count; done += HDSGD_CHUNK) {
        hdsgd_normals(&lanes, x, HDSGD_CHUNK);
        *sum += (double)x[0];
    }
    return now() - start;
}

double sweep(long count, long repeat, float *x) /* read, scale and write count numbers, again and again */
{
    const double start = now();
    for (long r = 0; r < repeat; r++)
        for (long i = 0; i < count; i++) x[i] *= 1.0000001f;
    return (now() - start)/(double)repeat;
}
