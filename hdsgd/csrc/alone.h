/* One replica at a time: the counterpart of abreast.h for larger widths, where the vectors are the rows of matrices.

   Goes after random.h. */

enum { HDSGD_WIDTH = 1, HDSGD_ROWS = 8 }; /* replicas in a V; multiple of which columns are padded to */

typedef double V;
typedef hdsgd_rng hdsgd_stream;

#define INLINE static inline __attribute__((always_inline))

INLINE V v_all(double x) { return x; }
INLINE V v_fma(V a, V b, V c) { return FMA(a, b, c); }
INLINE V v_inverse_root(V a) { return a == 0.0 ? 0.0 : 1.0 / sqrt(a); }
INLINE V v_if_positive(V x, V yes, V no) { return x > 0.0 ? yes : no; }
INLINE V v_abs(V x) { return fabs(x); }
INLINE int v_any_above(V a, V b) { return !(a <= b); }
INLINE V v_student(V x) { return hdsgd_student(x); }
INLINE V v_student_prime(V x) { return hdsgd_student_prime(x); }
INLINE V v_teacher(V x) { return hdsgd_teacher(x); }

static hdsgd_rng hdsgd_get_rng(const hdsgd_stream *stream, int w)
{
    (void)w;
    return *stream;
}

static void hdsgd_set_rng(hdsgd_stream *stream, int w, hdsgd_rng rng)
{
    (void)w;
    *stream = rng;
}

INLINE void v_draw(hdsgd_stream *stream, V *z, int64_t n, const hdsgd_chi2_law *law, V *square)
{
    for (int64_t i = 0; i < n; i++) z[i] = hdsgd_normal(stream);
    if (square != NULL) *square = hdsgd_chi2(stream, *law);
}
