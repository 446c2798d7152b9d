/* Random numbers for the simulators: xoshiro256++, normals by a 256-layer ziggurat, chi-squares by rejection.

   The generator's state is meant to live in a local variable: the fast paths are inlined and the rare slow ones take
   and return the state by value, so that its address never escapes and the compiler keeps it in registers.

   Sources: Blackman & Vigna, ACM TOMS 47 (2021) 36; Marsaglia & Tsang, J. Stat. Soft. 5 (2000) 8 and ACM TOMS 26
   (2000) 363. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define HDSGD_LAYERS 256
#define HDSGD_TAIL 3.654152885361008771645429720399515763     /* where the tail layer begins ... */
#define HDSGD_AREA 4.928673233974655347361775402336028069e-03 /* ... and the area of each layer under exp(-x^2/2) */

static double hdsgd_edge[HDSGD_LAYERS + 1];   /* right edges of the layers, decreasing to 0 */
static double hdsgd_height[HDSGD_LAYERS + 1]; /* exp(-edge^2/2) */
static double hdsgd_width[HDSGD_LAYERS];      /* edge * 2^-52: from a signed 53-bit integer to the layer */

static __attribute__((constructor)) void hdsgd_layers(void) /* when the object is loaded */
{
    hdsgd_edge[0] = HDSGD_AREA / exp(-0.5 * HDSGD_TAIL * HDSGD_TAIL);
    hdsgd_edge[1] = HDSGD_TAIL;
    for (int i = 1; i < HDSGD_LAYERS - 1; i++) {
        const double x = hdsgd_edge[i];
        hdsgd_edge[i + 1] = sqrt(-2.0 * log(HDSGD_AREA / x + exp(-0.5 * x * x)));
    }
    hdsgd_edge[HDSGD_LAYERS] = 0.0;
    for (int i = 0; i <= HDSGD_LAYERS; i++) hdsgd_height[i] = exp(-0.5 * hdsgd_edge[i] * hdsgd_edge[i]);
    for (int i = 0; i < HDSGD_LAYERS; i++) hdsgd_width[i] = hdsgd_edge[i] * 0x1p-52;
}

typedef struct {
    uint64_t s[4];
} hdsgd_rng;

typedef struct {
    hdsgd_rng rng;
    double x;
} hdsgd_draw;

static inline hdsgd_rng hdsgd_seed(const uint64_t *words)
{
    hdsgd_rng g = {{words[0], words[1], words[2], words[3]}};
    if ((g.s[0] | g.s[1] | g.s[2] | g.s[3]) == 0) g.s[0] = 1; /* the one state it never leaves */
    return g;
}

/* The next word, or vector of words, of a generator */
#define HDSGD_XOSHIRO(name, word, state)                                                                               \
    static inline __attribute__((always_inline)) word name(state *g)                                                   \
    {                                                                                                                  \
        const word sum = g->s[0] + g->s[3], out = ((sum << 23) | (sum >> 41)) + g->s[0], t = g->s[1] << 17;            \
        g->s[2] ^= g->s[0];                                                                                            \
        g->s[3] ^= g->s[1];                                                                                            \
        g->s[1] ^= g->s[2];                                                                                            \
        g->s[0] ^= g->s[3];                                                                                            \
        g->s[2] ^= t;                                                                                                  \
        g->s[3] = (g->s[3] << 45) | (g->s[3] >> 19);                                                                   \
        return out;                                                                                                    \
    }
HDSGD_XOSHIRO(hdsgd_next, uint64_t, hdsgd_rng)

static inline __attribute__((always_inline)) double hdsgd_uniform(hdsgd_rng *g) /* in (0, 1] */
{
    return (double)((hdsgd_next(g) >> 11) + 1) * 0x1p-53;
}

static __attribute__((noinline)) hdsgd_draw hdsgd_normal_slow(hdsgd_rng g, int i, double x)
{
    for (;;) {
        if (i == 0) { /* the tail, by two exponentials */
            double far, y;
            do {
                far = -log(hdsgd_uniform(&g)) / HDSGD_TAIL;
                y = -log(hdsgd_uniform(&g));
            } while (2.0 * y < far * far);
            return (hdsgd_draw){g, x < 0.0 ? -HDSGD_TAIL - far : HDSGD_TAIL + far};
        }
        const double level = hdsgd_height[i] + hdsgd_uniform(&g) * (hdsgd_height[i + 1] - hdsgd_height[i]);
        if (level < exp(-0.5 * x * x)) return (hdsgd_draw){g, x};
        const uint64_t u = hdsgd_next(&g);
        i = (int)(u & (HDSGD_LAYERS - 1));
        x = (double)((int64_t)u >> 11) * hdsgd_width[i];
        if (fabs(x) < hdsgd_edge[i + 1]) return (hdsgd_draw){g, x};
    }
}

static inline __attribute__((always_inline)) double hdsgd_normal(hdsgd_rng *g)
{
    const uint64_t u = hdsgd_next(g);
    const int i = (int)(u & (HDSGD_LAYERS - 1)); /* bits 0-7; the position uses bits 11-63 */
    const double x = (double)((int64_t)u >> 11) * hdsgd_width[i];
    if (__builtin_expect(fabs(x) < hdsgd_edge[i + 1], 1)) return x;
    const hdsgd_draw slow = hdsgd_normal_slow(*g, i, x);
    *g = slow.rng;
    return slow.x;
}

typedef struct {
    int64_t nu; /* degrees of freedom, >= 0 */
    double d, c;
} hdsgd_chi2_law;

static inline hdsgd_chi2_law hdsgd_chi2_of(int64_t nu)
{
    const double d = 0.5 * (double)nu - 1.0 / 3.0;
    return (hdsgd_chi2_law){nu, d, nu > 1 ? 1.0 / sqrt(9.0 * d) : 0.0};
}

/* nu = 0, 1, and the rejected proposals of the others */
static __attribute__((noinline)) hdsgd_draw hdsgd_chi2_slow(hdsgd_rng g, hdsgd_chi2_law law, double x, double uniform)
{
    if (law.nu == 0) return (hdsgd_draw){g, 0.0};
    if (law.nu == 1) return (hdsgd_draw){g, x * x};
    for (;;) {
        const double w = 1.0 + law.c * x, v = w * w * w;
        if (v > 0.0 && log(uniform) < 0.5 * x * x + law.d * (1.0 - v + log(v))) return (hdsgd_draw){g, 2.0 * law.d * v};
        x = hdsgd_normal(&g);
        uniform = hdsgd_uniform(&g);
    }
}

static inline __attribute__((always_inline)) double hdsgd_chi2(hdsgd_rng *g, hdsgd_chi2_law law)
{
    const double x = hdsgd_normal(g), uniform = hdsgd_uniform(g), w = 1.0 + law.c * x, x2 = x * x;
    if (__builtin_expect(law.nu > 1 && w > 0.0 && uniform < 1.0 - 0.0331 * x2 * x2, 1)) return 2.0 * law.d * w * w * w;
    const hdsgd_draw slow = hdsgd_chi2_slow(*g, law, x, uniform);
    *g = slow.rng;
    return slow.x;
}
