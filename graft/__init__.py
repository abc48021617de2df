"""Turn a folder of photos into a classifier, from Python.

    import graft

    run = graft.train("flowers/", ckpt="alexnet")
    run.evaluate()
    run.predict("a.jpg")

The import is quick: TensorFlow is loaded when it is first needed.
"""

from typing import TYPE_CHECKING, Any

from pipeline.system.program_name import VERSION as __version__

if TYPE_CHECKING:
    from graft.functions import convert, evaluate, load, train
    from graft.results import Evaluation, Prediction, Records, Run
    from pipeline.system.errors import UsageError, UserError

_MODULES = {
    **dict.fromkeys(("convert", "evaluate", "load", "train"), "graft.functions"),
    **dict.fromkeys(("Evaluation", "Prediction", "Records", "Run"), "graft.results"),
    **dict.fromkeys(("UsageError", "UserError"), "graft.functions"),
}

__all__ = [
    "Evaluation",
    "Prediction",
    "Records",
    "Run",
    "UsageError",
    "UserError",
    "__version__",
    "convert",
    "evaluate",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'graft' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
