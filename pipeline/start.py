"""End a command with one line of error, even while its modules are being imported.

Commands import this first. In other programs it does nothing.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType, TracebackType

_ROOT = Path(__file__).parents[1]
_ADVICE = "Install Graft's packages with script/setup, and start .venv/bin/python"
if __name__.startswith("graft."):  # installed
    _ADVICE = f"Install Graft again, or this package for {sys.executable}"
_OWN = ("model", "pipeline", "graft", "commands", "train.py", "evaluate.py")


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
            + _ADVICE,
            2,
        )
    sys.__excepthook__(kind, error, trace)


def _leave(line: str, code: int) -> None:
    os.write(2, f"{' '.join(line.split())}\n".encode(errors="backslashreplace"))
    os._exit(code)


_file = Path(getattr(sys.modules["__main__"], "__file__", None) or "").absolute()
# Other programs, which may have the same names, lie elsewhere.
if any(_file.is_relative_to(_ROOT / name) for name in _OWN):
    signal.signal(signal.SIGINT, _stop)
    # Until a training has begun, there is nothing that a snapshot could hold.
    if hasattr(signal, "SIGUSR1"):  # not on Windows
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    sys.excepthook = _explain
