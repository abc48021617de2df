"""TensorFlow checkpoints (.index and .data files) -> {variable name: array}."""

import glob
import math
import re
from pathlib import Path

import numpy as np
import tensorflow as tf

from model.checkpoints import errors

# What optimizers and savers keep beside the weights. Source: tf.compat.v1.train's slot
# names, tf.train.Checkpoint's bookkeeping.
_NOT_WEIGHTS = re.compile(
    r"(^|/)(Momentum|RMSProp|RMSProp_1|Adam|Adam_1|Adagrad|Adadelta|Adadelta_1|Ftrl"
    r"|ExponentialMovingAverage|global_step|beta[12]_power|save_counter"
    r"|_CHECKPOINTABLE_OBJECT_GRAPH)(:|/|$)|\.OPTIMIZER_SLOT"
)

_NUMBERS = {
    *(tf.float64, tf.float32, tf.float16, tf.bfloat16),
    *(tf.int64, tf.int32, tf.int16, tf.int8),
    *(tf.uint64, tf.uint32, tf.uint16, tf.uint8, tf.bool),
}


def prefix_of(path: Path) -> Path | None:
    """The checkpoint prefix that a prefix, an .index file or a folder stands for."""
    if path.name.endswith(".index"):
        return path.with_name(path.name.removesuffix(".index"))
    if path.name and path.with_name(path.name + ".index").exists():
        return path
    return _newest(path) if path.is_dir() else None


def _newest(folder: Path) -> Path | None:
    """The checkpoint that the folder's state file names, or else the only one."""
    try:
        state = tf.train.get_checkpoint_state(str(folder))
    except ValueError:  # the file is there and names none
        state = None
    if state is not None:
        # Its path may be of the place where it was written; the name still holds.
        prefix = folder / Path(state.model_checkpoint_path).name
        if prefix.with_name(prefix.name + ".index").exists():
            return prefix
    found = sorted(folder.glob("*.index"))
    return prefix_of(found[0]) if len(found) == 1 else None


def read(prefix: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Reads a checkpoint, TF1 or TF2.

    Returns:
        The variables, and the names of what is no weight (optimizer slots, counters,
        strings).

    Raises:
        errors.MissingCheckpoint: the index or a data file is not there.
        errors.CorruptCheckpoint: TensorFlow cannot read it.
    """
    index = prefix.with_name(prefix.name + ".index")
    if not index.exists():
        raise errors.MissingCheckpoint(f"{index}: no such file")
    files = list(prefix.parent.glob(glob.escape(prefix.name) + ".data-*-of-*"))
    if not files:
        raise errors.MissingCheckpoint(
            f"{prefix}: the index is there, but no data file "
            f"({prefix.name}.data-00000-of-00001); copy it beside the index"
        )
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        dtypes = reader.get_variable_to_dtype_map()
        aside = sorted(
            name
            for name, dtype in dtypes.items()
            if _NOT_WEIGHTS.search(name) or dtype not in _NUMBERS
        )
        names = sorted(shapes.keys() - set(aside))
        expected = sum(math.prod(shapes[name]) * dtypes[name].size for name in names)
        available = sum(file.stat().st_size for file in files)
        if expected > available:
            raise errors.CorruptCheckpoint(
                f"{prefix}: its variables have {expected:,} bytes, its data files only "
                f"{available:,}; copy them again, all of them and in full"
            )
        tensors = {name: np.asarray(reader.get_tensor(name)) for name in names}
    except errors.CheckpointError:
        raise
    except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
        raise errors.CorruptCheckpoint(
            f"{prefix}: not a readable TensorFlow checkpoint ({error})"
        ) from error
    return tensors, tuple(aside)
