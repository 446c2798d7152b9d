"""Ctrl-C while the program imports what it needs: it ends at once, with one line.

Raised within an import, a KeyboardInterrupt is a traceback, or is swallowed, or turned into an ImportError. Where hdsgd
is a library, nothing is changed. Only what Python has loaded already is imported before that.
"""

import os
import sys

TYPE_CHECKING = False  # that of typing, which is not loaded yet
if TYPE_CHECKING:
    from typing import Any

LINE = "hdsgd: interrupted\n"
CODE = 130


def is_program() -> bool:
    """Whether this process is the command ``hdsgd``, or ``python -m hdsgd``."""
    command = os.path.basename(sys.argv[0]) if sys.argv and isinstance(sys.argv[0], str) else ""  # noqa: PTH119
    return command in ("hdsgd", "hdsgd.exe") or (command == "-m" and "hdsgd" in sys.orig_argv[1:4])


def guard() -> None:
    """From now on, Ctrl-C ends the process."""
    import signal

    replace(signal.default_int_handler, _leave)


def release() -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt again."""
    import signal

    replace(_leave, signal.default_int_handler)


def replace(old: "Any", new: "Any") -> None:
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
        os.write(2, LINE.encode())
    finally:
        os._exit(CODE)
