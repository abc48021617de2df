"""A run -> files that other tools take.

    python -m model.export --weights=flowers.safetensors
    python -m model.export --run_dir=runs/latest --weights=flowers.weights.h5

Writes the weights of a run by layer name: .safetensors, .weights.h5 (as Keras 3 reads
it), other .h5 (as load_weights of Keras reads it by name) or .npy (as caffe-tensorflow
does). They can be read back with train.py --ckpt, in full or, with --skip, in part.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

import pipeline.quiet  # noqa: F401 # isort: split
from model import network, restore, run, weights
from model.checkpoints import errors
from pipeline import command, schema


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of an export.

    Attributes:
        run_dir: the run.
        weights: file to write.
    """

    run_dir: str = "runs/latest"
    weights: str = ""


def export(config: Config) -> dict[str, tuple[int, ...]]:
    """Exports as configured; returns {"layer/variable": shape} of what was written.

    Raises:
        schema.DataError: the run is not as it should be.
        errors.UnknownFormat: no format has such an ending.
    """
    path = Path(config.weights)
    weights.check_ending(path)
    finished = run.read(config.run_dir)
    model = finished.load_model()
    arrays = restore.gather(model)
    network_name = finished.config["network"]
    about = weights.describe(network_name, finished.spec) | {
        "run": finished.directory.name,
        "class_names": "\n".join(finished.class_names),
    }
    if network_name not in network.NETWORKS:  # it was made of a configuration
        about["keras_config"] = model.to_json()
    path.parent.mkdir(parents=True, exist_ok=True)
    with run.replacing(path, suffix=f".partial{path.name}") as partial:
        if path.name.endswith(".weights.h5"):  # as Keras 3 itself reads it
            model.save_weights(partial)
            weights.mark_h5(partial, about)
        else:
            weights.write(partial, arrays, about)
    return {name: array.shape for name, array in arrays.items()}


def define_flags() -> None:
    """Declares the command's flags; defaults are those of Config."""
    default = Config()
    flags.DEFINE_string("run_dir", default.run_dir, "Folder of the run.")
    flags.DEFINE_string(
        "weights",
        default.weights,
        f"File to write the weights to; its ending is one of "
        f"{', '.join(weights.WRITERS)}.",
    )


def main(argv: Sequence[str]) -> None:
    """Exports as the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags begin with --")
    config = command.config_from_flags(Config)
    if not config.weights:
        raise app.UsageError("--weights: expected the name of a file to write")
    for name, shape in export(config).items():
        command.say(f"{name}  {list(shape)}")
    command.say(f"written: {config.weights}")


if __name__ == "__main__":
    define_flags()
    command.run(main, schema.DataError, errors.CheckpointError)
