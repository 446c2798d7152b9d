"""A small figure for the tests of figures; its jobs are importable by the worker processes."""

import os
import signal
from pathlib import Path

from hdsgd._figures._frame import Claim, Figure, Job, canvas

FOLDER = "HDSGD_TEST_FOLDER"  # where jobs leave their traces


def square(x, seed, mode=""):
    folder = Path(os.environ[FOLDER])
    with (folder / "log").open("a") as file:
        file.write(f"{x}\n")
    marker = folder / "marker"
    if x == 3 and not marker.exists():
        if mode == "kill":
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "raise":
            marker.touch()
            raise ValueError("three\nis refused")
    return {"square": x**2 + 0.1, "line": [float(x)] * x, "text": f"x is {x}", "nan": float("nan")}


def build(mode="", names=None):
    """A figure of five jobs, of which the third may fail once."""

    def jobs(size, seed):
        count = 4 if size == "tiny" else 5
        return [Job(names or f"x={x}", square, {"x": x, "seed": seed, "mode": mode}) for x in range(1, count + 1)]

    def draw(results):
        figure, axes = canvas()
        axes.plot([float(results[job]["square"]) for job in results])
        return figure

    def claims(results):
        squares = {job: float(results[job]["square"]) for job in results}
        misprint = {"what": "the misprint", "paper": 7.0, "expected": 1.0, "within": 0.2, "wrong": True, "note": "1·1"}
        return [
            Claim(what="two | squared", ours=squares["x=2"], expected=4.0, within=0.2, paper="3.9–4.1"),
            Claim(what="three squared", ours=squares["x=3"], error=0.01, paper=9.5, within=0.03),
            Claim(ours=squares["x=1"], **misprint),
            Claim(what="a number", ours=squares["x=4"], note="nothing to compare with"),
        ]

    return Figure("squares", "Euclid, figure 1", jobs, draw, claims)
