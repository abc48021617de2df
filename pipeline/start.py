"""Let a command end with one line from its first moment, before its imports are done.

Commands import this first. In other programs it does nothing.
"""

import os
import signal
import sys
from types import FrameType, TracebackType

_OWN = ("model", "pipeline", "train", "evaluate")


def _stop(number: int, _: FrameType | None) -> None:
    _leave(f"stopped by {signal.Signals(number).name}", 128 + number)


def _explain(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Name a package that cannot be imported; show the traceback of anything else."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ImportError) and name and name not in _OWN:
        _leave(
            f"error: the Python package {name} cannot be imported ({error!s:.500}). "
            "Install Graft's packages with script/setup, and start .venv/bin/python",
            2,
        )
    sys.__excepthook__(kind, error, trace)


def _leave(line: str, code: int) -> None:
    os.write(2, f"{' '.join(line.split())}\n".encode(errors="backslashreplace"))
    os._exit(code)


_main = sys.modules["__main__"]
_name = _main.__spec__.name if _main.__spec__ else getattr(_main, "__file__", "")
if _name.rpartition("/")[2].partition(".")[0] in _OWN:
    signal.signal(signal.SIGINT, _stop)
    # Until a training has begun, there is nothing that a snapshot could hold.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    sys.excepthook = _explain
