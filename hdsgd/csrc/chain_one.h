/* The chain at p = k = r = 1, one sample a step, abreast: in registers, and several groups of replicas at a time.

   A step waits for the step before along a chain of operations that leaves the processor idle most of the time, unless
   there are other groups to go on with: then random numbers, which wait for nothing, are drawn for some steps beforehand.
   A replica's path is the same either way. */

enum { HDSGD_GROUPS = HDSGD_WIDTH > 1 ? 4 : 1, HDSGD_AHEAD = 16 };

typedef struct {
    V B, C, a;             /* C only enters squared, so its sign is free */
    V rate, decay, rate_a; /* hdsgd_pace */
} hdsgd_one;

typedef struct { /* of the run, in vectors */
    V L, a_star, noise;
    int trained;
} hdsgd_constants;

/* z: the input along the teacher, along C, label noise, and the squared norm of the rest of the input. */
INLINE void hdsgd_step_one(const hdsgd_constants *c, hdsgd_one *x, const V *z, int spherical)
{
    const V lambda = v_fma(x->B, z[0], x->C * z[1]), length = v_fma(z[0], z[0], v_fma(z[1], z[1], z[3]));
    const V phi = v_student(lambda), target = v_fma(c->noise, z[2], c->a_star * v_teacher(c->L * z[0]));
    const V e = v_fma(-x->a, phi, target), u = x->rate * x->a * v_student_prime(lambda) * e;
    const V y = v_fma(u, z[1], x->C), square = v_fma(u * z[3], u, y * y);
    const V scale = spherical ? v_inverse_root(v_fma(u, v_fma(u, length, 2.0 * lambda), v_all(1.0))) : x->decay;
    x->B = scale * v_fma(u, z[0], x->B);
    x->C = scale * (square * v_inverse_root(square));
    if (c->trained) x->a = v_fma(x->rate_a * e, phi, x->a);
}

/* The risks of all lanes: hdsgd_form_risk, or from the overlaps. */
INLINE V hdsgd_risk_one(const hdsgd_run *run, const hdsgd_one *x)
{
    const V a = x->a, B = x->B, C = x->C;
    const double L = run->L[0], a_star = run->a_star[0];
    if (run->parabolas != NULL) {
        const double *c = run->parabolas;
        const V aB = a * B, aC = a * C;
        const V tt = a_star * c[5] * L * L - c[2] * aB * B, ts = c[2] * aB * C, ss = -c[2] * aC * C;
        const V t = a_star * c[4] * L - c[1] * aB, s = c[1] * aC, constant = a_star * c[3] - c[0] * a + tt + ss;
        return tt * tt + 2.0 * ts * ts + ss * ss + 0.5 * (t * t + s * s + constant * constant);
    }
    const V square = B * B + C * C, M = B * L;
    double q[HDSGD_WIDTH], m[HDSGD_WIDTH], second[HDSGD_WIDTH], out[HDSGD_WIDTH];
    memcpy(q, &square, sizeof q), memcpy(m, &M, sizeof m), memcpy(second, &a, sizeof second);
#pragma omp simd
    for (int w = 0; w < HDSGD_WIDTH; w++) out[w] = hdsgd_pair_risk(1, 1, q + w, m + w, run->P, second + w, run->a_star);
    V risk;
    memcpy(&risk, out, sizeof risk);
    return risk;
}

/* n steps of `count` groups, 1 or HDSGD_GROUPS. An exit is looked for where the risk, up to rounding, has reached the
   level: that is faster than to bound its change. */
INLINE void hdsgd_go_one(const hdsgd_run *run, hdsgd_group *groups, int64_t n, const int count, int spherical,
                         int stopping)
{
    const hdsgd_constants constants = {v_all(run->L[0]), v_all(run->a_star[0]), v_all(run->noise), run->ratio > 0.0};
    const int64_t ahead = count > 1 ? HDSGD_AHEAD : 1;
    V z[HDSGD_GROUPS][HDSGD_AHEAD][4];
    hdsgd_one x[HDSGD_GROUPS];
    for (int g = 0; g < count; g++) {
        hdsgd_space *s = &groups[g].space;
        x[g] = (hdsgd_one){s->B[0], s->C[0], s->a[0], s->rate, s->decay, s->rate_a};
    }
    for (int64_t done = 0; done < n; done += ahead) {
        const int64_t some = n - done < ahead ? n - done : ahead;
        for (int g = 0; g < count; g++) {
            hdsgd_stream stream = groups[g].space.stream;
            for (int64_t i = 0; i < some; i++) {
                z[g][i][2] = v_all(0.0);
                v_draw(&stream, z[g][i], run->noise > 0.0 ? 3 : 2, groups[g].space.law, &z[g][i][3]);
            }
            groups[g].space.stream = stream;
        }
        for (int64_t i = 0; i < some; i++) {
#pragma GCC unroll 4
            for (int g = 0; g < count; g++) {
                hdsgd_step_one(&constants, x + g, z[g][i], spherical);
                if (!stopping) continue;
                hdsgd_space *s = &groups[g].space;
                const V doubt = (1.0 + 1e-9) * s->level - hdsgd_risk_one(run, x + g);
                if (__builtin_expect(v_any_above(doubt, v_all(0.0)), 0)) {
                    s->B[0] = x[g].B, s->C[0] = x[g].C, s->a[0] = x[g].a;
                    hdsgd_check(run, groups + g, &doubt, done + i + 1);
                }
            }
        }
    }
    for (int g = 0; g < count; g++) {
        hdsgd_space *s = &groups[g].space;
        s->B[0] = x[g].B, s->C[0] = x[g].C, s->a[0] = x[g].a;
    }
}

static void hdsgd_ones(const hdsgd_run *run, hdsgd_group *groups, int64_t n, int count)
{
    const int all = count == HDSGD_GROUPS;
    if (run->stop_kind == 0 && run->spherical)
        all ? hdsgd_go_one(run, groups, n, HDSGD_GROUPS, 1, 0) : hdsgd_go_one(run, groups, n, 1, 1, 0);
    else if (run->stop_kind == 0)
        all ? hdsgd_go_one(run, groups, n, HDSGD_GROUPS, 0, 0) : hdsgd_go_one(run, groups, n, 1, 0, 0);
    else
        all ? hdsgd_go_one(run, groups, n, HDSGD_GROUPS, run->spherical, 1)
            : hdsgd_go_one(run, groups, n, 1, run->spherical, 1);
}
