/* Rows of weights and of inputs, and one sweep over them.

   All is stored by chunks of HDSGD_CHUNK columns, so that what is worked on stays in the first cache: the rows of a
   chunk lie one after the other, chunk after chunk. Columns beyond d and inputs beyond the last are zero. Inputs
   come in tiles of four, which share the loads of the rows.

   Weights are W_j = scale_j w_j: what multiplies a whole row (projection, decay) never touches it, and is not lost in
   single precision. The steps since the last sweep are pending: they add u_jt x_t to w_j.

   Needs lanes.h and run.h. */

#include <sys/mman.h>

enum { HDSGD_TILE = 4 };

typedef struct {
    int64_t p, k, d, chunks;
    int64_t inputs, tiles; /* of one sweep */
    int64_t oldest;        /* the slot of the first chunk of the inputs; there is one slot more than chunks, and each
                              sweep writes the new inputs into the slot before that of the old ones */
    int pending, products; /* whether there are pending updates; whether products of inputs are wanted */
    hdsgd_real *w, *w_star, *x, *u, *copy; /* weights, teacher, inputs; p x tiles pending; p rows of a chunk */
    double *fold;          /* p: factors that a sweep multiplies into the weights, mostly 1 */
    double *field;         /* (p + k + inputs + 1) x tiles: products of the rows with the new inputs */
    const hdsgd_real **rows; /* p + k + inputs: those of a chunk */
    void *memory;
} hdsgd_sheet;

static inline int64_t hdsgd_columns_of(const hdsgd_sheet *s, int64_t chunk)
{
    const int64_t left = s->d - chunk * HDSGD_CHUNK;
    return left < HDSGD_CHUNK ? (left + HDSGD_MULTIPLE - 1) / HDSGD_MULTIPLE * HDSGD_MULTIPLE : HDSGD_CHUNK;
}

static inline hdsgd_real *hdsgd_row(hdsgd_real *rows, int64_t count, int64_t chunk, int64_t row)
{
    return rows + (chunk * count + row) * HDSGD_CHUNK;
}

static inline hdsgd_real *hdsgd_slot(const hdsgd_sheet *s, int64_t chunk)
{
    return s->x + (s->oldest + chunk) % (s->chunks + 1) * s->tiles * HDSGD_CHUNK;
}

/* Memory that is not cleared. In huge pages, gigabytes are given back in milliseconds when a run is interrupted. */
static void *hdsgd_large(size_t size)
{
    const size_t page = (size_t)1 << 21;
    void *block = NULL;
    if (posix_memalign(&block, size > page ? page : 64, size)) return NULL;
#ifdef MADV_HUGEPAGE
    if (size > page) madvise(block, size, MADV_HUGEPAGE);
#endif
    return block;
}

static int hdsgd_sheet_new(hdsgd_sheet *s, const hdsgd_run *run, int64_t inputs)
{
    const int64_t p = run->p, k = run->k, chunks = (run->d + HDSGD_CHUNK - 1) / HDSGD_CHUNK;
    const int64_t tiles = (inputs + HDSGD_TILE - 1) / HDSGD_TILE * HDSGD_TILE, rows = p + k + inputs;
    *s = (hdsgd_sheet){.p = p, .k = k, .d = run->d, .chunks = chunks, .inputs = inputs, .tiles = tiles};
    const int64_t reals = (chunks * (p + k) + (chunks + 1) * tiles + p) * HDSGD_CHUNK + p * tiles;
    const int64_t doubles = p + (rows + 1) * tiles;
    s->memory = hdsgd_large(sizeof(hdsgd_real) * (size_t)reals + sizeof(double) * (size_t)doubles +
                            sizeof(hdsgd_real *) * (size_t)rows);
    if (s->memory == NULL) return 1;
    s->w = s->memory;
    s->w_star = s->w + chunks * p * HDSGD_CHUNK;
    s->x = s->w_star + chunks * k * HDSGD_CHUNK;
    s->copy = s->x + (chunks + 1) * tiles * HDSGD_CHUNK;
    s->u = s->copy + p * HDSGD_CHUNK;
    s->fold = (double *)(s->w + reals);
    s->field = s->fold + p;
    s->rows = (const hdsgd_real **)(s->fold + doubles);
    /* inputs beyond the batch stay 0, and those of a step before the first, which rows may be told to add 0 times */
    memset(s->x, 0, sizeof(hdsgd_real) * (size_t)((chunks + 1) * tiles * HDSGD_CHUNK));
    return 0;
}

/* Rows of doubles to chunks and, times scale where given, back. Returns 1 if it was told to stop. */
static int hdsgd_pack(const hdsgd_run *run, hdsgd_real *to, const double *from, int64_t count)
{
    for (int64_t at = 0, chunk = 0; at < run->d; at += HDSGD_CHUNK, chunk++) {
        if (hdsgd_cancelled(run) == HDSGD_ABANDON) return 1;
        const int64_t n = run->d - at < HDSGD_CHUNK ? run->d - at : HDSGD_CHUNK;
        for (int64_t j = 0; j < count; j++) {
            hdsgd_real *row = hdsgd_row(to, count, chunk, j);
            for (int64_t i = 0; i < n; i++) row[i] = (hdsgd_real)from[j * run->d + at + i];
            for (int64_t i = n; i < HDSGD_CHUNK; i++) row[i] = 0; /* a diverged replica may have left NaN */
        }
    }
    return 0;
}

static int hdsgd_unpack(const hdsgd_run *run, double *to, hdsgd_real *from, int64_t count, const double *scale)
{
    for (int64_t at = 0, chunk = 0; at < run->d; at += HDSGD_CHUNK, chunk++) {
        if (hdsgd_cancelled(run) == HDSGD_ABANDON) return 1;
        const int64_t n = run->d - at < HDSGD_CHUNK ? run->d - at : HDSGD_CHUNK;
        for (int64_t j = 0; j < count; j++) {
            const hdsgd_real *row = hdsgd_row(from, count, chunk, j);
            const double factor = scale ? scale[j] : 1.0;
            for (int64_t i = 0; i < n; i++) to[j * run->d + at + i] = factor * (double)row[i];
        }
    }
    return 0;
}

/* to = from + u . x for one tile of inputs. */
static void hdsgd_add(hdsgd_real *to, const hdsgd_real *from, const hdsgd_real *u, const hdsgd_real *x, int64_t n)
{
    const hdsgd_real *x1 = x + HDSGD_CHUNK, *x2 = x1 + HDSGD_CHUNK, *x3 = x2 + HDSGD_CHUNK;
    const hdsgd_real u0 = u[0], u1 = u[1], u2 = u[2], u3 = u[3];
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        to[i] = HDSGD_FMA(u3, x3[i], HDSGD_FMA(u2, x2[i], HDSGD_FMA(u1, x1[i], HDSGD_FMA(u0, x[i], from[i]))));
}

/* one, other += products of two rows with one tile of inputs: eight sums that do not wait for each other. The sums of
   the lanes are kept apart by hand, since a compiler adds them up one by one. */
static void hdsgd_products(double *restrict one, double *restrict other, const hdsgd_real *v, const hdsgd_real *w,
                           const hdsgd_real *x, int64_t n)
{
    enum { WIDTH = HDSGD_MULTIPLE / 2 };
    const hdsgd_real *x1 = x + HDSGD_CHUNK, *x2 = x1 + HDSGD_CHUNK, *x3 = x2 + HDSGD_CHUNK;
    hdsgd_real sums[2 * HDSGD_TILE][WIDTH] __attribute__((aligned(64)));
    memset(sums, 0, sizeof sums);
    for (int64_t at = 0; at < n; at += WIDTH) {
#pragma omp simd
        for (int i = 0; i < WIDTH; i++) {
            sums[0][i] = HDSGD_FMA(v[at + i], x[at + i], sums[0][i]);
            sums[1][i] = HDSGD_FMA(v[at + i], x1[at + i], sums[1][i]);
            sums[2][i] = HDSGD_FMA(v[at + i], x2[at + i], sums[2][i]);
            sums[3][i] = HDSGD_FMA(v[at + i], x3[at + i], sums[3][i]);
            sums[4][i] = HDSGD_FMA(w[at + i], x[at + i], sums[4][i]);
            sums[5][i] = HDSGD_FMA(w[at + i], x1[at + i], sums[5][i]);
            sums[6][i] = HDSGD_FMA(w[at + i], x2[at + i], sums[6][i]);
            sums[7][i] = HDSGD_FMA(w[at + i], x3[at + i], sums[7][i]);
        }
    }
    for (int sum = 0; sum < 2 * HDSGD_TILE; sum++)
        for (int i = 0; i < WIDTH / 2; i++) sums[sum][i] += sums[sum][WIDTH / 2 + i];
    for (int sum = 0; sum < 2 * HDSGD_TILE; sum++)
        for (int i = 0; i < WIDTH / 4; i++) sums[sum][i] += sums[sum][WIDTH / 4 + i];
    for (int sum = 0; sum < 2 * HDSGD_TILE; sum++)
        for (int i = 1; i < WIDTH / 4; i++) sums[sum][0] += sums[sum][i];
    for (int t = 0; t < HDSGD_TILE; t++) one[t] += sums[t][0], other[t] += sums[HDSGD_TILE + t][0];
}

/* Always in double precision: for overlaps. */
static double hdsgd_dot(const hdsgd_real *restrict x, const hdsgd_real *restrict y, int64_t n)
{
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)y[i];
    return sum;
}

/* Nothing is pending any more. */
static void hdsgd_settled(hdsgd_sheet *s)
{
    s->pending = 0;
    for (int64_t j = 0; j < s->p; j++) s->fold[j] = 1.0;
    memset(s->u, 0, sizeof(hdsgd_real) * (size_t)(s->p * s->tiles));
}

/* Row j of a chunk with what is pending; `to` may be the row itself. */
static void hdsgd_current(const hdsgd_sheet *s, hdsgd_real *to, int64_t chunk, int64_t j, int64_t n)
{
    const hdsgd_real *from = hdsgd_row(s->w, s->p, chunk, j), *x = hdsgd_slot(s, chunk), *u = s->u + j * s->tiles;
    for (int64_t t = 0; t < s->tiles; t += HDSGD_TILE, from = to) hdsgd_add(to, from, u + t, x + t * HDSGD_CHUNK, n);
    if (s->fold[j] != 1.0)
        for (int64_t i = 0; i < n; i++) to[i] *= (hdsgd_real)s->fold[j];
}

/* Applies what is pending. */
static int hdsgd_apply(const hdsgd_run *run, hdsgd_sheet *s)
{
    for (int64_t chunk = 0; s->pending && chunk < s->chunks; chunk++) {
        if (hdsgd_cancelled(run) == HDSGD_ABANDON) return 1;
        for (int64_t j = 0; j < s->p; j++)
            hdsgd_current(s, hdsgd_row(s->w, s->p, chunk, j), chunk, j, hdsgd_columns_of(s, chunk));
    }
    hdsgd_settled(s);
    return 0;
}

/* One pass over everything: applies what is pending, draws new inputs, and takes all products with them. */
static int hdsgd_sweep(const hdsgd_run *run, hdsgd_sheet *s, hdsgd_lanes *lanes)
{
    const int64_t p = s->p, k = s->k, tiles = s->tiles;
    memset(s->field, 0, sizeof(double) * (size_t)((p + k + s->inputs + 1) * tiles));
    for (int64_t chunk = 0; chunk < s->chunks; chunk++) {
        if (hdsgd_cancelled(run) == HDSGD_ABANDON) return 1;
        const int64_t n = hdsgd_columns_of(s, chunk), used = s->d - chunk * HDSGD_CHUNK;
        hdsgd_real *x = hdsgd_slot(s, chunk + s->chunks);
        for (int64_t t = 0; t < s->inputs; t++) {
            hdsgd_normals(lanes, x + t * HDSGD_CHUNK, n);
            for (int64_t i = used; i < n; i++) x[t * HDSGD_CHUNK + i] = 0;
        }
        for (int64_t j = 0; s->pending && j < p; j++) hdsgd_current(s, hdsgd_row(s->w, p, chunk, j), chunk, j, n);
        const hdsgd_real **row = s->rows;
        for (int64_t j = 0; j < p; j++) *row++ = hdsgd_row(s->w, p, chunk, j);
        for (int64_t b = 0; b < k; b++) *row++ = hdsgd_row(s->w_star, k, chunk, b);
        for (int64_t i = 0; s->products && i < s->inputs; i++) *row++ = x + i * HDSGD_CHUNK;
        const int64_t rows = row - s->rows;
        for (int64_t r = 0; r < rows; r += 2) {
            const int64_t other = r + 1 < rows ? r + 1 : rows; /* of an odd number, the last goes with itself */
            for (int64_t t = 0; t < tiles; t += HDSGD_TILE)
                hdsgd_products(s->field + r * tiles + t, s->field + other * tiles + t, s->rows[r],
                               s->rows[other < rows ? other : r], x + t * HDSGD_CHUNK, n);
        }
    }
    s->oldest = (s->oldest + s->chunks) % (s->chunks + 1);
    hdsgd_settled(s);
    return 0;
}
