"""One parser for all commands, and one way to fail."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence

from .. import BackendWarning, CompilerError, __version__
from . import _derive, _escape, _figure, _mean_field, _phase, _plateau, _quadratic, _run, _sweep, _system
from ._remedies import translated
from ._shell import Parser, say

__all__ = ["parser", "run"]

_DESCRIPTION = """\
Exact high-dimensional dynamics of one-pass SGD in two-layer networks: derived
from the formula of an activation, compiled, solved and simulated.

Time is t = nu*gamma/(p*d) after nu steps at learning rate gamma, student width p
and input dimension d; alpha = nu/d is the number of samples per dimension. The
risk is the excess population risk, without the label noise Delta/2.
"""

_EPILOG = """\
examples:
  hdsgd escape
  hdsgd derive erf

`hdsgd COMMAND --help` lists the options of a command, with their defaults.
Environment: HDSGD_CC (C compiler), HDSGD_CACHE_DIR (cache folder), HDSGD_THREADS
(threads of the simulations), HDSGD_TRACEBACK=1 (errors with their Python traceback).
"""

# Of these only the message is for the user; anything else is a bug and keeps its traceback.
_BAD_INPUT = (ValueError, TypeError, OSError, CompilerError, MemoryError, OverflowError)


def parser() -> Parser:
    """The parser of all commands."""
    top = Parser(prog="hdsgd", description=_DESCRIPTION, epilog=_EPILOG)
    top.add_argument("--version", action="version", version=f"hdsgd {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for module in (_escape, _derive, _run, _plateau, _phase, _quadratic, _mean_field, _figure, _sweep, _system):
        module.add(commands)
    return top


def run(argv: Sequence[str] | None) -> int:
    """Run one command and return its exit code; see `hdsgd.cli.main`."""
    try:
        with _plain_warnings(), _printable():
            code = _dispatch(argv)
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        _detach_stdout()
        return 141
    except _BAD_INPUT as error:
        if os.environ.get("HDSGD_TRACEBACK"):
            raise
        say(f"error: {translated(_text(error))}")
        return 2


def _dispatch(argv: Sequence[str] | None) -> int:
    try:
        args = parser().parse_args(argv)
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    return int(args.run(args))


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError):
        return f"not enough memory ({text}); decrease the number of replicas, times or units"
    if isinstance(error, OverflowError):
        return f"a number is too large ({text}); decrease it"
    return text


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show a `BackendWarning` as a line for users, without the source line that Python adds."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", BackendWarning)
        usual = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: object, **more: object
        ) -> None:
            if issubclass(category, BackendWarning):
                say(f"warning: {translated(str(message))}")
            else:
                usual(message, category, filename, lineno, *rest, **more)  # type: ignore[arg-type]

        warnings.showwarning = show
        yield


@contextlib.contextmanager
def _printable() -> Iterator[None]:
    """Where the output cannot hold all of Unicode, print "?" for a Greek letter instead of failing."""
    changed = []
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and stream.errors == "strict":
            reconfigure(errors="replace")
            changed.append(reconfigure)
    try:
        yield
    finally:
        for reconfigure in changed:
            with contextlib.suppress(BrokenPipeError):
                reconfigure(errors="strict")


def _detach_stdout() -> None:
    """Let the interpreter flush what is left to nowhere; otherwise it complains on exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
