"""``hdsgd derive`` and ``hdsgd generate``: formulas to read, and kernels to run."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

from .. import _bridge, activation, generate
from ._shell import Commands, command, emit, folder_for, progress, writing

__all__ = ["add"]

_SPEC = "built-in or saved name, or a formula in x such as 'x**3 - 3*x' or 'erf(x/sqrt(2))'"

_DERIVE = """\
Show the formulas that hdsgd derives for an activation (or a student-teacher pair):
the Gaussian expectations I2, J2, I4, ... as functions of the covariance C of their
arguments, and the equations of motion of the overlaps M and Q, in the time
t = nu*gamma/(p*d).
"""

_GENERATE = """\
Derive the kernel of an activation (or of a student-teacher pair), verify every
expectation against independent quadrature, write it as numpy and C code to the user
cache, where all commands find it, compile it, and print its certificate: the route
to each expectation, its operations and its worst error. Its rates are per unit of
the time t = nu*gamma/(p*d). Solvers do this by themselves on first use; do it here
to see the certificate, to name an activation, or to read the code.

--out writes a numpy module and a C file with its header, called hdsgd_NAME or
hdsgd_kernel, that work without hdsgd.

--builtin rewrites the kernels of the built-in activations that are checked in
(for developers); with --check it only compares them with a fresh derivation.
"""


def add(commands: Commands) -> None:
    """Add both commands."""
    parser = command(
        commands,
        "derive",
        _derive,
        summary="show the derived formulas of an activation",
        description=_DERIVE,
        examples=["hdsgd derive erf", "hdsgd derive erf --teacher he3 --latex --out erf-he3.tex"],
    )
    parser.add_argument("spec", metavar="SPEC", help=f"activation of the student: {_SPEC}")
    parser.add_argument("--teacher", metavar="SPEC", help="activation of the teacher (default: the student's)")
    style = parser.add_mutually_exclusive_group()
    style.add_argument(
        "--latex", dest="style", action="store_const", const="latex", help="a LaTeX document (default: plain text)"
    )
    style.add_argument(
        "--markdown", dest="style", action="store_const", const="markdown", help="Markdown with LaTeX formulas"
    )
    parser.set_defaults(style="text")
    parser.add_argument("--out", metavar="FILE", help="write there (default: standard output)")

    parser = command(
        commands,
        "generate",
        _generate,
        summary="derive, verify and write the kernel of an activation",
        description=_GENERATE,
        examples=[
            "hdsgd generate 'erf(x) + 0.1*x' --name mine",
            "hdsgd solve --activation mine -d 1000 --t-max 10",
            "hdsgd generate --builtin --check",
        ],
        notes="exit code of --check: 0 when nothing differs, 1 when something does.\n",
    )
    parser.add_argument("spec", metavar="SPEC", nargs="?", help=f"activation of the student: {_SPEC}")
    parser.add_argument("--teacher", metavar="SPEC", help="activation of the teacher (default: the student's)")
    parser.add_argument("--name", help="remember the student's formula by this name (default: no name)")
    parser.add_argument("--out", metavar="DIR", help="folder for files that work without hdsgd (default: none)")
    parser.add_argument(
        "--certify", action="store_true", help="also 20-digit quadrature and adversarial covariances (up to minutes)"
    )
    parser.add_argument("--builtin", action="store_true", help="all built-in activations, into the checked-in folder")
    parser.add_argument("--check", action="store_true", help="with --builtin: write nothing, list what differs")


def _derive(args: argparse.Namespace) -> int:
    student = activation(args.spec)
    teacher = student if args.teacher is None else activation(args.teacher)
    out = None if args.out is None else Path(args.out)
    if out is not None:
        if out.is_dir():
            raise ValueError(f"--out {out} is a folder; add the name of a file")
        if out.exists() and not os.access(out, os.W_OK):
            raise ValueError(f"--out {out}: cannot be written (it is read-only); choose another")
        if out.is_file() or not out.exists():  # not so /dev/stdout, or a pipe
            folder_for("--out", out)
    text = _bridge.document(student.formula, teacher.formula, args.style)
    document = {
        "command": "derive",
        "student": dataclasses.asdict(student),
        "teacher": dataclasses.asdict(teacher),
        "style": args.style,
        "document": text,
    }
    if out is None:
        emit(args, document, text)
        return 0
    with writing("--out", out):
        out.write_text(text.rstrip() + "\n", encoding="utf-8")
    emit(args, {**document, "files": [out]}, f"written: {out}")
    return 0


def _generate(args: argparse.Namespace) -> int:
    if args.builtin:
        for option in ("spec", "teacher", "name", "out", "certify"):
            if getattr(args, option) not in (None, False):
                shown = "SPEC" if option == "spec" else f"--{option}"
                raise ValueError(f"--builtin takes all built-in activations to their own folder; leave {shown} out")
        return _check_builtins(args) if args.check else _write_builtins(args)
    if args.check:
        raise ValueError("--check compares the built-in activations; use it with --builtin")
    if args.spec is None:
        raise ValueError("give an activation, or --builtin for all built-in ones (see hdsgd generate --help)")
    out = None if args.out is None else Path(args.out)
    if out is not None:
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out {out} is a file; pass a folder for the generated files")
        folder_for("--out", out, out if out.is_dir() else None)
    with progress("generate") as report:
        made = generate(args.spec, args.teacher, name=args.name, out=out, certify=args.certify, progress=report)
    certification = None if made.certification is None else made.certification.as_dict()
    document = {
        "command": "generate",
        **{field.name: getattr(made, field.name) for field in dataclasses.fields(made)},
        "student": dataclasses.asdict(made.student),
        "teacher": dataclasses.asdict(made.teacher),
        "certificates": [dataclasses.asdict(certificate) for certificate in made.certificates],
        "certification": certification,
    }
    emit(args, document, str(made))
    return 0


def _check_builtins(args: argparse.Namespace) -> int:
    with progress("derive") as report:
        found = _bridge.generate_builtins(check=True, progress=report)
    root = _bridge.generated_dir()
    verdict = (
        f"{len(found)} differences between {root} and a fresh derivation; hdsgd generate --builtin rewrites it."
        if found
        else f"{root} is what the derivations give."
    )
    emit(args, {"command": "generate", "folder": root, "differences": found}, "\n".join([*found, verdict]))
    return 1 if found else 0


def _write_builtins(args: argparse.Namespace) -> int:
    root = _bridge.generated_dir()
    if not _writable(root):
        raise ValueError(
            f"the kernels in {root} belong to an installed package and cannot be written; "
            "run hdsgd generate --builtin in a checkout, or --builtin --check here"
        )
    with progress("derive") as report:
        written = _bridge.generate_builtins(check=False, progress=report)
    emit(args, {"command": "generate", "folder": root, "files": written}, "\n".join(f"written: {x}" for x in written))
    return 0


def _writable(root: Path) -> bool:
    """Whether the folder, the folders of the kernels and their files can all be rewritten."""
    return all(os.access(path, os.W_OK) for path in (root, *root.rglob("*")) if path.name != "__pycache__")
