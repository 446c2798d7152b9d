"""The command line ``hdsgd``: here its entry, with the commands in the modules beside this one.

Exit codes: 0 success; 1 a check found something (drift of the generated files, a failed integration, a broken
installation); 2 bad input, with one line on standard error; 130 Ctrl-C; 141 the reader of the output went away.

Nothing is imported here but what Python has loaded already, so that Ctrl-C is one line at any moment: importing all the
rest takes long enough to be interrupted.
"""

import os
import sys

TYPE_CHECKING = False  # that of typing, which is not loaded yet
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = ["main"]

_LINE = "hdsgd: interrupted\n"
_CODE = 130


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
    try:
        if argv is not None:
            from ._main import run

            return run(argv)
        import signal

        usual, ignored = signal.default_int_handler, signal.SIG_IGN
        try:
            # Raised within an import, a KeyboardInterrupt can be swallowed or turned into an ImportError.
            _replace(usual, _leave)
            from ._main import run

            _replace(_leave, usual)
            return run(None)
        finally:
            _replace(usual, ignored)
    except KeyboardInterrupt:
        _say()
        return _CODE


def _replace(old: "Any", new: "Any") -> None:
    """Change what Ctrl-C does, unless that is not ours to say: under nohup it is ignored."""
    import signal

    try:
        if signal.getsignal(signal.SIGINT) is old:
            signal.signal(signal.SIGINT, new)
    except ValueError:  # only the main thread gets signals, and may say so
        pass


def _leave(*_: object) -> None:
    """End the process; nothing has begun that would have to be ended in order."""
    try:
        os.write(2, _LINE.encode())
    finally:
        os._exit(_CODE)


def _say() -> None:
    import contextlib

    with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody is there to read it
        print(_LINE, end="", file=sys.stderr)
