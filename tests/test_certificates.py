"""The built-in kernels at many random covariances, against the independent quadrature (slow)."""

import numpy as np
import pytest

import hdsgd
from hdsgd import _bridge
from hdsgd.derivations import verify
from hdsgd.derivations.kernels import FACTORS

NAMES = sorted(set(_bridge.builtins()) - {"sign"})


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_fifty_random_covariances(name, monkeypatch):
    """Worst error of I2, J2, I3, I4 relative to max(|reference|, product of the r.m.s. of the factors)."""
    kinked = name in ("relu", "leaky_relu", "abs")
    formula = _bridge.builtins()[name]
    for kind in ("I2", "J2", "I3", "I4"):
        slots = len(FACTORS[kind])
        four = slots == 4
        if four and (kinked or name == "tanh"):
            continue  # four dimensions take minutes; its references and its coincident cases are tested elsewhere
        monkeypatch.setattr(verify, "SAMPLES", 12 if four else 50)
        monkeypatch.setattr(verify, "REFINE", 6.0 if kinked and slots == 2 else 2.0 if kinked else 1.3)

        def compute(*entries, slots=slots, kind=kind):
            C = np.zeros((slots, slots))
            C[np.triu_indices(slots)] = entries
            return hdsgd.integral(kind, name, C + np.triu(C, 1).T)

        certificate = verify.check_function(kind, compute, (formula,) * slots, 0)
        # the quadrature itself loses digits at kinks of nearly dependent variables
        assert certificate.error < (1e-9 if name == "tanh" or kinked else 2e-11), kind
