"""The command line ``hdsgd``: here its entry, with the commands in the modules beside this one.

Exit codes: 0 success; 1 a check found something (drift of the generated files, a failed integration, a broken
installation); 2 bad input, with one line on standard error; 130 Ctrl-C; 141 the reader of the output went away.

Nothing is imported here but what Python has loaded already, so that Ctrl-C is one line at any moment: importing all the
rest takes long enough to be interrupted.
"""

import sys

TYPE_CHECKING = False  # that of typing, which is not loaded yet
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments, without the name of the program; by default ``sys.argv[1:]``, and signals are those of a program:
        Ctrl-C leaves at once while modules are imported, and changes nothing more when the command is over.

    Returns
    -------
    int
        The exit code: 0 only on success, 2 on bad input, 130 after Ctrl-C.
    """
    from .. import _signals

    try:
        if argv is not None:
            from ._main import run

            return run(argv)
        import signal

        try:
            _signals.guard()
            from ._main import run

            _signals.release()
            return run(None)
        finally:
            _signals.replace(signal.default_int_handler, signal.SIG_IGN)
    except KeyboardInterrupt as interrupt:
        _say(_signals.LINE)
        for note in getattr(interrupt, "__notes__", ()):
            from ._remedies import translated

            _say(f"hdsgd: {translated(note)}\n")
        return _signals.CODE


def _say(line: str) -> None:
    import contextlib

    with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody is there to read it
        print(line, end="", file=sys.stderr)
