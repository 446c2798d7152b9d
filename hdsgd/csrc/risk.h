/* Excess population risk from the overlaps: 1/2 sum_ab v_a v_b E[phi_a phi_b], v = (-a/p, a_star/k).
   Needs common.h and the two-point functions I2_ss, I2_st, I2_tt of a generated kernel. */
static double hdsgd_pair_risk(long p, long k, const double *Q, const double *M, const double *P, const double *a,
                              const double *a_star)
{
    double students = 0.0, teachers = 0.0, across = 0.0;
    for (long j = 0; j < p; j++) {
        double row = 0.5*a[j]*I2_ss(Q[j*p + j], Q[j*p + j], Q[j*p + j]), mixed = 0.0;
        for (long l = 0; l < j; l++)
            row += a[l]*I2_ss(Q[j*p + j], Q[j*p + l], Q[l*p + l]);
        for (long r = 0; r < k; r++)
            mixed += a_star[r]*I2_st(Q[j*p + j], M[j*k + r], P[r*k + r]);
        students += a[j]*row;
        across += a[j]*mixed;
    }
    for (long r = 0; r < k; r++) {
        double row = 0.5*a_star[r]*I2_tt(P[r*k + r], P[r*k + r], P[r*k + r]);
        for (long s = 0; s < r; s++)
            row += a_star[s]*I2_tt(P[r*k + r], P[r*k + s], P[s*k + s]);
        teachers += a_star[r]*row;
    }
    const double width = (double)p, teacher_width = (double)k;
    return students/(width*width) - across/(width*teacher_width) + teachers/(teacher_width*teacher_width);
}
