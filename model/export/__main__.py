"""A run -> files that other tools take.

    python -m model.export --format=saved_model
    python -m model.export --format=onnx --out=flowers.onnx
    python -m model.export --format=litert --quantize=int8
    python -m model.export --weights=flowers.safetensors

With --format, the whole classifier: saved_model (TensorFlow Serving; takes photos as
files), onnx (ONNX Runtime), litert (TensorFlow Lite) or keras; with normalisation,
calibrated probabilities and class names. It is written only if the file, loaded in a
process without Graft, gives the probabilities that the run gave its test photos.

With --weights, the weights of a run by layer name: .safetensors, .weights.h5 (as Keras
3 reads it), other .h5 (as load_weights of Keras reads it by name) or .npy (as
caffe-tensorflow does). They can be read back with train.py --ckpt, in full or, with
--skip, in part.
"""

from collections.abc import Sequence

from absl import app, flags

import pipeline.system.tensorflow_import  # noqa: F401 # isort: split
from model.checkpoints import errors
from model.export import exporting, job
from model.runs import run_records
from model.weights import weight_file
from pipeline.system import command_line
from pipeline.system.errors import DataError


def define_flags() -> None:
    """Declares the command's flags; defaults are those of exporting.Config."""
    default = exporting.Config()
    flags.DEFINE_string("run_dir", default.run_dir, "Folder of the run.")
    flags.DEFINE_string("data", default.data, run_records.HELP)
    flags.DEFINE_string(
        "weights",
        default.weights,
        f"File to write the weights to; its ending is one of "
        f"{', '.join(weight_file.WRITERS)}.",
    )
    flags.DEFINE_enum(
        "format", default.format, ["", *job.FORMATS], "Of the whole classifier."
    )
    flags.DEFINE_string(
        "out",
        default.out,
        "File, or for saved_model folder, to write the classifier to; by default in "
        "the run's folder, under exported/.",
    )
    flags.DEFINE_enum(
        "quantize",
        default.quantize,
        job.QUANTIZE,
        "Makes a LiteRT file smaller: weights in float16, or computing in int8.",
    )
    flags.DEFINE_float(
        "max_accuracy_loss",
        default.max_accuracy_loss,
        "Accuracy that quantization may cost on the test split, 0 to 1; more is an "
        "error.",
    )


def main(argv: Sequence[str]) -> None:
    """Exports as the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags begin with --")
    config = command_line.config_from_flags(exporting.Config)
    if config.format:
        command_line.say(exporting.as_text(exporting.export_classifier(config)))
        return
    if not config.weights:
        raise app.UsageError(
            f"expected --format, one of {', '.join(job.FORMATS)}, or --weights, the "
            "name of a file to write"
        )
    for name, shape in exporting.export(config).items():
        command_line.say(f"{name}  {list(shape)}")
    command_line.say(f"written: {config.weights}")


if __name__ == "__main__":
    define_flags()
    command_line.run(main, DataError, errors.CheckpointError)
