"""TensorFlow checkpoints (.index and .data files) -> {variable name: array}."""

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


def prefix_of(path: Path) -> Path | None:
    """The checkpoint prefix that a prefix, an .index file or a folder stands for."""
    if path.name.endswith(".index"):
        return path.with_name(path.name.removesuffix(".index"))
    if path.with_name(path.name + ".index").exists():
        return path
    if path.is_dir():
        newest = tf.train.latest_checkpoint(str(path))
        if newest is not None:
            return Path(newest)
        found = sorted(path.glob("*.index"))
        if len(found) == 1:
            return prefix_of(found[0])
    return None


def read(prefix: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Reads a checkpoint, TF1 or TF2.

    Returns:
        The variables, and the names of what is no weight (optimizer slots, counters).

    Raises:
        errors.MissingCheckpoint: the index or a data file is not there.
        errors.CorruptCheckpoint: TensorFlow cannot read it.
    """
    index = prefix.with_name(prefix.name + ".index")
    if not index.exists():
        raise errors.MissingCheckpoint(f"{index}: no such file")
    if not list(prefix.parent.glob(prefix.name + ".data-*-of-*")):
        raise errors.MissingCheckpoint(
            f"{prefix}: the index is there, but no data file "
            f"({prefix.name}.data-00000-of-00001); copy it beside the index"
        )
    tensors: dict[str, np.ndarray] = {}
    aside = []
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        for name in sorted(reader.get_variable_to_shape_map()):
            if _NOT_WEIGHTS.search(name):
                aside.append(name)
            else:
                tensors[name] = np.asarray(reader.get_tensor(name))
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise errors.CorruptCheckpoint(
            f"{prefix}: not a readable TensorFlow checkpoint ({error})"
        ) from error
    return tensors, tuple(aside)
