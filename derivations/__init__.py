"""Symbolic derivations of Gaussian expectations, from the formula of an activation to source text.

Everything in this package is exact algebra (SymPy) and its verification (mpmath); it never imports the runtime.  It is
reached as ``hdsgd.derivations`` wherever the project is installed, so that no package called ``derivations`` appears
among a user's modules.
"""

if __name__ != "hdsgd.derivations":
    raise ImportError("import this package as hdsgd.derivations: it is part of hdsgd and has no other name")
