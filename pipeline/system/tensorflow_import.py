"""Import TensorFlow and Keras quietly, quickly and with the same settings everywhere.

Commands import this before anything else that imports TensorFlow. What its C++ side
prints never reaches the user: everything that goes wrong is raised as an exception. The
user's keras.json and choice of a backend are ignored, as they would change the results.
Keras and matplotlib write into Graft's own cache folder.

Seconds in the comments are CPU time of one import, which takes 3.3 s otherwise, with
TensorFlow 2.21 and Keras 3.15.
"""

import gc
import os
import platform
import sys

from pipeline.system import file_system, platform_support

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# TensorFlow leaves oneDNN's kernels off on x86 processors without AVX512-VNNI. With
# AVX2 alone they made AlexNet's training steps 1.28 times as fast, VGG16's 0.9 times.
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# A GPU is shared; TensorFlow would take all of its memory at once.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["KERAS_HOME"] = str(file_system.cache_folder() / "keras")
os.environ.setdefault("MPLCONFIGDIR", str(file_system.cache_folder() / "matplotlib"))

# Keras imports matplotlib and scikit-learn where they are installed, for functions that
# Graft does not use: 0.3 to 0.6 s. None in sys.modules stands for "not installed".
_hidden = {"matplotlib", "sklearn"} - sys.modules.keys()
# The import makes a million objects that are never garbage; searching them again and
# again takes 1.3 s. Frozen objects are not searched later either.
_collects = gc.isenabled()
gc.disable()
sys.modules.update(dict.fromkeys(_hidden))  # type: ignore[arg-type]
try:
    with platform_support.stderr_silenced():
        import keras  # noqa: F401
        import tensorflow as tf

        # With TF32 a GPU would multiply float32 with the 10 bits of float16, which
        # changed the fourth digit of an AlexNet's probabilities.
        tf.config.experimental.enable_tensor_float_32_execution(False)
finally:
    gc.freeze()
    if _collects:
        gc.enable()
    for _name in _hidden:
        del sys.modules[_name]
