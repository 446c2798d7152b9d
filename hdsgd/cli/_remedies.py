"""Remedies of messages in the words of the command line: what Python functions advise has other names here.

One table, applied to all that the commands pass on. Advice on preparing files stays as it is: that is done in Python.
"""

from __future__ import annotations

import re

__all__ = ["OPTIONS", "translated"]

#: the options of parameters that a message may tell to change
OPTIONS = {
    "t_max": "--t-max",
    "times": "--times",
    "gamma": "--gamma",
    "Delta": "--Delta",
    "dt": "--dt",
    "rtol": "--rtol",
    "atol": "--atol",
    "replicas": "--replicas",
    "method": "--method",
    "backend": "--backend",
    "start": "--start",
    "p": "-p",
    "k": "-k",
    "d": "-d",
    "T": "-T",
}

_NAME = "|".join(OPTIONS)
_VERB = "use|pass|choose|try|or|with|example"


def _option(match: re.Match[str]) -> str:
    """The match with its parameter as an option; a value follows after a space."""
    found = match.groupdict()
    value = found.get("value")
    return f"{found['before']}{OPTIONS[found['name']]}" + (f" {value}" if value is not None else "")


# In this order: whole phrases before the words they are made of.
_TABLE: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"sort them first, for example with numpy\.unique\(times\)", "sort them, and give each once"),
        (r"as in times=\[t_max\]", "as in --times 2"),
        (r"\bpass replicas=None for\b", "leave --replicas out for"),
        (r"\bpass rng=None\b", "leave --seed out"),
        (r"\bchoose another file, or delete it\b", "give another --out, or delete the file"),
        (r"\bpass fresh=True to compute everything again, or write elsewhere\b", "add --fresh, or give another --out"),
        (r"\bthe same call goes on with them\b", "the same command goes on with them"),
        (r"\bpass Problem\(\.\.\., spherical=True\)", "add --spherical"),
        (r"\bthe same call goes on with it\b", "add --resume to go on with it"),
        (r"\bOverlaps\.random\(\.\.\., spherical=True\)", "--start random, or --no-spherical"),
        (r"choose an earlier i, a replica that is still running, or run without stop", "run without an exit"),
        (r"\bescape_study\('ratio', p=\.\.\.\)", "--study ratio"),
        (r"\bpass state\.replica\(i\)", "give a file with one start"),
        (r"\bstart from hdsgd\.Weights, or ", ""),
        (r"\bwritten by sol\.save\(\)", "written with --out"),
        (r"; see sol\.\w+| \(see sol\.\w+\)", ""),
        (r"\btake the problem at one time, such as problem\.at\(0\)", "give a number to --gamma"),
        (r"\buse escape\.by_ode\b( for others)?", "see the ODE"),
        (r"\bpass the end of solve_ode to fixed_point\b", "leave --floor out and add --relax"),
        (
            r"\bstart closer to (it|a fixed point), for example at the end of solve_ode\b",
            "start closer to it: add --relax",
        ),
        (r", or use escape\.from_zero\b", ""),
        (r"\b(?:hdsgd\.)?solve_ode\b", "hdsgd solve"),
        (r"\b(?:hdsgd\.)?solve_sde\b", "hdsgd sde"),
        (r"\bhdsgd\.simulate\b", "hdsgd simulate"),
        (r"\bspherical=True\b", "--spherical"),
        (r"\bspherical=False\b", "--no-spherical"),
    )
)
_PARAMETERS = (
    re.compile(rf"(?P<before>\bleave )(?P<name>{_NAME})(?= out\b)"),
    re.compile(rf"(?P<before>\b(?:increase|decrease|loosen|tighten|lower|raise) )(?P<name>{_NAME})\b"),
    re.compile(rf"(?P<before>--?[\w-]+ (?:and|or) )(?P<name>{_NAME})\b(?! *[=<>!])"),
    re.compile(rf"(?P<before>\b(?:{_VERB}) )(?P<name>{_NAME})=(?P<quote>['\"]?)(?P<value>[\w-]+(?:\.\w+)*)(?P=quote)"),
)


def translated(text: str) -> str:
    """A message of the Python functions for users of the command line."""
    for pattern, replacement in _TABLE:
        text = pattern.sub(replacement, text)
    for pattern in _PARAMETERS:
        text = pattern.sub(_option, text)
    return text
