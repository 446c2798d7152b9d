/* erf(x/sqrt 2): the integrals as Saad & Solla 1995 print them. */
#include <math.h>

#define PI 3.14159265358979323846

static double J2(double C11, double C12, double C22) { return 2.0/PI/sqrt((1.0 + C11)*(1.0 + C22) - C12*C12); }

static double I3(double C11, double C12, double C13, double C22, double C23, double C33)
{
    (void)C22;
    const double L3 = (1.0 + C11)*(1.0 + C33) - C13*C13;
    return 2.0/PI/sqrt(L3)*(C23*(1.0 + C11) - C12*C13)/(1.0 + C11);
}

static double I4(double C11, double C12, double C13, double C14, double C22, double C23, double C24, double C33,
                 double C34, double C44)
{
    const double L4 = (1.0 + C11)*(1.0 + C22) - C12*C12;
    const double L0 = L4*C34 - C23*C24*(1.0 + C11) - C13*C14*(1.0 + C22) + C12*C13*C24 + C12*C14*C23;
    const double L1 = L4*(1.0 + C33) - C23*C23*(1.0 + C11) - C13*C13*(1.0 + C22) + 2.0*C12*C13*C23;
    const double L2 = L4*(1.0 + C44) - C24*C24*(1.0 + C11) - C14*C14*(1.0 + C22) + 2.0*C12*C14*C24;
    return 4.0/(PI*PI)/sqrt(L4)*asin(L0/sqrt(L1*L2));
}
