"""Imports TensorFlow and Keras, quietly and without what they take along unasked.

Commands import this before anything else. TensorFlow's C++ side greets every start with
several lines; what goes wrong is still told, for the import's own errors are
exceptions. Ctrl-C in these seconds ends the process, for there is nothing to save.
Keras imports matplotlib and scikit-learn where they are installed, for functions that
we do not use: 0.4 and 0.7 s of every start.

Nor does a user's keras.json, or another backend in the environment, reach Graft: its
numbers would be others. What Keras and matplotlib write goes into Graft's own cache.

TensorFlow leaves oneDNN's kernels off on x86 processors without AVX512-VNNI. With
AVX2 alone they made AlexNet's features 1.17 and its training steps 1.28 times as fast
(VGG16's training steps 0.9 times), so they are on unless TF_ENABLE_ONEDNN_OPTS says
otherwise. A GPU is shared: of its memory TensorFlow would take all at once. And
float32 is float32 there: TensorFlow would multiply in TF32, with the 10 bits of float16
(of an AlexNet's probabilities that changed the fourth digit).
"""

import gc
import os
import platform
import signal
import sys
import threading

from pipeline.system import file_system

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["KERAS_HOME"] = str(file_system.cache_folder() / "keras")
os.environ.setdefault("MPLCONFIGDIR", str(file_system.cache_folder() / "matplotlib"))

_hidden = {"matplotlib", "sklearn"} - sys.modules.keys()
_stderr = os.dup(2)
_nowhere = os.open(os.devnull, os.O_WRONLY)
os.dup2(_nowhere, 2)
_interrupts = (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
)
if _interrupts:
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
# They make a million objects, none of which will be garbage: looking for some took a
# quarter of the time, and would go on doing so.
_collects = gc.isenabled()
gc.disable()
# None stands for: not installed.
sys.modules.update(dict.fromkeys(_hidden))  # type: ignore[arg-type]
try:
    import keras  # noqa: F401
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(False)
finally:
    gc.freeze()
    if _collects:
        gc.enable()
    for _name in _hidden:
        del sys.modules[_name]
    os.dup2(_stderr, 2)
    os.close(_stderr)
    os.close(_nowhere)
    if _interrupts:
        signal.signal(signal.SIGINT, signal.default_int_handler)
