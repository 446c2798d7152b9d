/* One ensemble to simulate, and what every simulator in C does with it.

   Concatenated after a kernel's pointwise functions (hdsgd_student, hdsgd_student_prime, hdsgd_teacher) and random.h; the
   kernel's excess risk from overlaps follows. It is to be inlined: at constant p = k = 1 its loops disappear, and terms
   that do not change leave the loop over steps.

   A simulator is called once by every thread and takes replicas until none is left. A replica lives in a block of
   memory, its `state`, which begins with a hdsgd_replica: it is loaded from there and written back when it ends, when it
   reaches `until`, or when `cancel` asks for it. All that the future of a replica depends on is in its state, so that a
   run that is cut anywhere and gone on with is bit for bit the one that was not cut. */

static inline __attribute__((always_inline)) double hdsgd_pair_risk(long p, long k, const double *Q, const double *M,
                                                                    const double *P, const double *a,
                                                                    const double *a_star);

enum { HDSGD_COMPLETED = 0, HDSGD_EXITED = 1, HDSGD_DIVERGED = 2 };
enum { HDSGD_BLOCK = 256 };  /* steps between exact norms, tests for divergence, and looks at the cancel flag */
enum { HDSGD_FRESH = 0, HDSGD_RUNNING = 1, HDSGD_DONE = 2 }; /* a state of zeros is a replica that has not begun */
enum { HDSGD_PAUSE = 1, HDSGD_ABANDON = 2 }; /* *cancel: write states back after the step; return at once, within it */
enum { HDSGD_FINISHED = 0, HDSGD_PAUSED = 1, HDSGD_NO_MEMORY = 2, HDSGD_ABANDONED = 3 }; /* what a simulator returns:
                                              after 3 the states (and weights) that were in work are of no use */

typedef struct { /* mirrored field by field by _Run in _simulate_c.py */
    int64_t p, k, r, d;            /* widths of student, teacher and teacher frame; input dimension */
    int64_t columns;               /* of C: p, or d - r where p + r > d */
    int64_t batch;                 /* fresh samples per step */
    int64_t replicas;
    int64_t n_steps, n_store;      /* horizon; number of stored times */
    int64_t pieces;                /* of constant learning rate */
    int64_t until;                 /* pause at this step, if it is before the horizon */
    int64_t start_stride, a_stride; /* 0: all replicas share one start (second layer); 1: each its own */
    int64_t state_size;            /* bytes of one replica's state: from hdsgd_state_size */
    double noise;                  /* sqrt(Delta) */
    double decay;                  /* eta: each step multiplies W by 1 - eta gamma / (p d) */
    double ratio;                  /* gamma_a / gamma; 0: the second layer is fixed */
    double huge;                   /* a squared norm this many times the start's (or 1) has diverged */
    double stop;                   /* exit at risk <= stop * risk(0) (stop_kind 1) or risk <= stop (2); 0: no stop */
    int32_t stop_kind, spherical;
    const int64_t *store;          /* (n_store,) non-decreasing step numbers */
    const int64_t *piece_end;      /* (pieces,) non-decreasing step numbers; the last is never reached */
    const double *rates;           /* (pieces,): gamma / (p d) of the steps before that one */
    const double *P, *L, *a_star;  /* (k, k), (k, r), (k,) */
    const double *a;               /* ([R], p) */
    const double *B, *C;           /* the chain's start: ([R], p, r), ([R], p, columns) */
    const double *W_star;          /* full weights: (k, d) */
    double *W;                     /* (R, p, d), from the start to the end */
    const double *parabolas;       /* (2, 3): coefficients of 1, x, x^2 of student and teacher; NULL unless they are such */
    const uint64_t *words;         /* (R, 4) seeds */
    char *state;                   /* (R, state_size), aligned to 64 */
    double *Q, *M, *a_out, *risk;  /* (R, n_store, p, p), (R, n_store, p, k), (R, n_store, p), (R, n_store): NaN where not
                                      reached, but for a_out, which is the start's */
    double *last_Q, *last_M, *last_a, *last_risk; /* (R, p, p), (R, p, k), (R, p), (R,): where the replica stopped */
    int64_t *exit_step;            /* (R,): -1 where it did not exit */
    int32_t *status;               /* (R,) */
    int64_t *queue;                /* the next replica that no thread has taken */
    int32_t *cancel;               /* set by another thread */
    int64_t *progress;             /* steps done, by all threads */
} hdsgd_run;

typedef struct { /* what begins the state of every replica */
    int32_t phase, status;
    int64_t step, next;  /* steps done; the next row of output */
    int64_t piece;       /* of the learning rate */
    double limit, level; /* of squared norms; of the risk */
    hdsgd_rng rng;
} hdsgd_replica;

typedef struct { /* of one step */
    double rate, decay, rate_a; /* gamma / (p d); what multiplies W; gamma_a / (p d) */
} hdsgd_pace;

/* That of a replica's next step. */
static inline hdsgd_pace hdsgd_pace_of(const hdsgd_run *run, hdsgd_replica *is)
{
    while (is->step >= run->piece_end[is->piece]) is->piece++;
    const double rate = run->rates[is->piece];
    return (hdsgd_pace){rate, 1.0 - run->decay * rate, run->ratio * rate};
}

/* A replica that no other thread has, or -1 when none is left. */
static inline int64_t hdsgd_take(const hdsgd_run *run)
{
    const int64_t replica = __atomic_fetch_add(run->queue, 1, __ATOMIC_RELAXED);
    return replica < run->replicas ? replica : -1;
}

static inline void *hdsgd_state(const hdsgd_run *run, int64_t replica)
{
    return run->state + replica * run->state_size;
}

static __attribute__((noinline)) double hdsgd_excess(const hdsgd_run *run, const double *Q, const double *M, const double *a)
{
    const double risk = hdsgd_pair_risk(run->p, run->k, Q, M, run->P, a, run->a_star);
    return risk < 0.0 ? 0.0 : risk; /* rounding near perfect learning; NaN stays */
}

static inline int hdsgd_cancelled(const hdsgd_run *run) { return __atomic_load_n(run->cancel, __ATOMIC_RELAXED); }

static inline void hdsgd_advance(const hdsgd_run *run, int64_t steps)
{
    __atomic_fetch_add(run->progress, steps, __ATOMIC_RELAXED);
}

static inline double hdsgd_level(const hdsgd_run *run, const double *Q, const double *M, const double *a)
{
    return run->stop_kind == 1 ? run->stop * hdsgd_excess(run, Q, M, a) : run->stop;
}

/* Where the loop over steps has to look up: the end of a block, the next stored time, another learning rate, a pause,
   or the horizon. */
static inline int64_t hdsgd_block_end(const hdsgd_run *run, const hdsgd_replica *is)
{
    int64_t end = (is->step / HDSGD_BLOCK + 1) * HDSGD_BLOCK;
    if (end > run->n_steps) end = run->n_steps;
    if (end > run->until) end = run->until;
    if (end > run->piece_end[is->piece]) end = run->piece_end[is->piece];
    if (is->next < run->n_store && run->store[is->next] < end) end = run->store[is->next];
    return end;
}

/* Squared norms beyond this have diverged: by each replica's own start, so that replicas stay independent. */
static inline double hdsgd_limit(const hdsgd_run *run, const double *Q)
{
    double largest = 1.0;
    for (int64_t j = 0; j < run->p; j++)
        if (Q[j * run->p + j] > largest) largest = Q[j * run->p + j];
    return run->huge * largest;
}

static inline int hdsgd_sane(const hdsgd_run *run, const double *Q, double limit)
{
    for (int64_t j = 0; j < run->p; j++)
        if (!(Q[j * run->p + j] < limit)) return 0; /* NaN, too */
    return 1;
}

/* The risk of a row of output, which becomes NaN if the replica has diverged; returns whether it has not. */
static inline int hdsgd_store(const hdsgd_run *run, double *Q, double *M, double *risk, const double *a, double limit)
{
    if (hdsgd_sane(run, Q, limit)) {
        *risk = hdsgd_excess(run, Q, M, a);
        return 1;
    }
    for (int64_t j = 0; j < run->p * run->p; j++) Q[j] = NAN;
    for (int64_t j = 0; j < run->p * run->k; j++) M[j] = NAN;
    *risk = NAN;
    return 0;
}
