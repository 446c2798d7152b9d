"""Benchmarks: one command, one table of ratios within one run.

    python -m benchmarks [--quick] [--only PART ...] [--json FILE] [--roofline FILE]

from the root of the repository, with hdsgd installed (and gcc). Parts:

=========  ==============================================================================================
machine    limits of this machine: normals/s, multiply-adds, bandwidth, two threads
rhs        right-hand sides: against textbook loops in plain C (``textbook.c``: four nested sums for each
           pair of students, nothing hoisted, scalar functions, gcc -O2), numpy, scipy's solve_ivp
simulate   the exact overlap chain and explicit weights: against the machine's limits, one another, PyTorch
growth     cost against p, k, d, replicas and threads
=========  ==============================================================================================

Competitors run in turn and medians are compared. One-core times are the processor's own, so that other work on the
machine hardly changes them; those of several threads are the wall's and need a quiet machine. A ratio tells how many
times faster the program is than the competitor named beside it; where the project aims at a ratio, it is shown with the
verdict. Nothing here is a test: the tests never look at a clock.
"""

import os

for _library in ("OMP", "OPENBLAS", "MKL"):  # numpy on one core, like its competitors: read when numpy is imported
    os.environ[f"{_library}_NUM_THREADS"] = "1"
