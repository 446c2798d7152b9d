"""``hdsgd quadratic``: the closed forms of quadratic networks with free norms."""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from .. import Hessian, Overlaps, QuadraticNetwork, hessian
from ._shell import Commands, command, emit, number, whole

__all__ = ["add"]

_QUADRATIC = """\
A student of width p on a teacher of width k, both of activation x^2, with norms that
are free: the plateau and its rates per unit of t = nu*gamma/(p*d), the learning rate
of the fastest escape, the degrees of freedom at zero loss, and the late times. With -d
also the spectrum of the Hessian of the risk in the space of the p*d weights (in units
of rows of norm one), at the plateau of gradient flow and at zero loss.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = command(
        commands,
        "quadratic",
        _run,
        summary="closed forms of quadratic networks with free norms",
        description=_QUADRATIC,
        examples=["hdsgd quadratic -p 6 -k 3", "hdsgd quadratic -p 8 -k 2 --gamma 0.5 --Delta 0.01 -d 1000000"],
    )
    group = parser.add_argument_group("network")
    group.add_argument("-p", type=whole, required=True, metavar="N", help="student width (required)")
    group.add_argument("-k", type=whole, required=True, metavar="N", help="teacher width, with P = I (required)")
    group.add_argument("-d", type=whole, metavar="N", help="input dimension, for the Hessians (default: none)")
    group.add_argument("--gamma", type=number, default=0.0, help="learning rate; 0 is gradient flow (default: 0)")
    group.add_argument("--Delta", type=number, default=0.0, help="variance of the label noise (default: 0)")


def _run(args: argparse.Namespace) -> int:
    network = QuadraticNetwork(args.p, args.k, args.gamma, args.Delta)
    text = str(network)
    document = {
        "command": "quadratic",
        **dataclasses.asdict(network),
        "plateau_risk": network.plateau_risk,
        "plateau_norm": network.plateau_norm,
        "growth": network.growth,
        "norm_rate": network.norm_rate,
        "shape_rate": network.shape_rate,
        "optimal_gamma": network.optimal_gamma,
    }
    learned = network.p >= network.k
    if learned:
        document |= {
            "largest_gamma": network.largest_gamma,
            "degrees_of_freedom": network.degrees_of_freedom,
            "nullity": network.nullity,
        }
    if args.d is not None:
        flow = QuadraticNetwork(args.p, args.k)
        points = {"plateau": Overlaps(flow.plateau_norm * np.eye(flow.p), np.zeros((flow.p, flow.k)), np.eye(flow.k))}
        if learned:
            points["zero_loss"] = flow.end_point(flow.orthogonal_start(flow.p + flow.k, rng=0))
        for name, point in points.items():
            found: Hessian = hessian(flow.problem, point, args.d)
            document[f"hessian_{name}"] = {"values": found.values, "multiplicities": found.multiplicities}
            text += f"\n  {name.replace('_', ' ')}: {found}"
    emit(args, document, text)
    return 0
