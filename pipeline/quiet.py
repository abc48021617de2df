"""Imports TensorFlow without the lines that its C++ side greets every start with.

Commands import this before anything else. What goes wrong is still told: the import's
own errors are exceptions, and errors of later calls are too.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_stderr = os.dup(2)
_nowhere = os.open(os.devnull, os.O_WRONLY)
os.dup2(_nowhere, 2)
try:
    import tensorflow as tf  # noqa: F401
finally:
    os.dup2(_stderr, 2)
    os.close(_stderr)
    os.close(_nowhere)
