"""Photos -> their most likely classes.

    python -m model.predict photo.jpg
    python -m model.predict --run_dir=runs/latest *.jpg
    python -m model.predict --ckpt=FILE --labels=synset_words.txt photo.jpg

With a run, probabilities are calibrated on its validation photos; those of a weight
file are as they are.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

import pipeline.quiet  # noqa: F401 # isort: split
from model import inputs, loop, metrics, network, pretrained, run, zoo
from model.checkpoints import errors
from pipeline import command, image, preprocess, schema

_RESIZE_MIN = 512  # as convert's: the same photo gives the same pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a prediction.

    Attributes:
        photos: files.
        run_dir: the run.
        ckpt: name or path of weights to use in place of a run; "" for the run.
        arch: network that the weights belong to; "" to find it.
        labels: file of the weights' class names, one a line.
        overrides: of the weights' preprocessing.
        top: number of classes to tell.
    """

    photos: tuple[str, ...]
    run_dir: str = "runs/latest"
    ckpt: str = ""
    arch: str = ""
    labels: str = ""
    overrides: inputs.Overrides = inputs.AS_WEIGHTS
    top: int = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network says of a photo.

    Attributes:
        photo: the file.
        classes: the most likely, with their probabilities; the likeliest first.
        problem: why there is none; "" if there is.
    """

    photo: str
    classes: tuple[tuple[str, float], ...] = ()
    problem: str = ""


def predict(config: Config) -> list[Prediction]:
    """Predicts as configured; one answer per photo, in their order.

    Raises:
        schema.DataError: the run is not as it should be.
        errors.CheckpointError: the weights cannot be used.
    """
    if config.ckpt:
        weights = pretrained.load(
            config.ckpt,
            arch=config.arch,
            overrides=config.overrides,
            labels=config.labels,
        )
        model, spec, names = weights.model, weights.spec, weights.class_names
        temperature = 1.0
    else:
        finished = run.read(config.run_dir)
        model, spec, names = finished.load_model(), finished.spec, finished.class_names
        temperature = finished.temperature
    step = loop.make_predict_step(model)
    found = []
    for photo in config.photos:
        try:
            pixels = view(Path(photo).read_bytes(), spec)
        except (image.ImageError, OSError) as error:
            found.append(Prediction(photo=photo, problem=str(error)))
            continue
        logits = step(np.asarray(pixels, np.float32)[None]).numpy() / temperature
        probabilities = np.exp(metrics.log_softmax(logits))[0]
        best = np.argsort(-probabilities, kind="stable")[: config.top]
        classes = tuple((names[n], float(probabilities[n])) for n in best)
        found.append(Prediction(photo=photo, classes=classes))
    return found


def view(data: bytes, spec: preprocess.InputSpec) -> Any:
    """An image file as a network sees it: uint8 [size_px, size_px, 3].

    Raises:
        image.ImageError: it does not decode.
    """
    stored = image.encode_for_record(data, resize_min=_RESIZE_MIN)
    sizes = np.array([(stored.height, stored.width)], np.int64)
    window = preprocess.central_views(sizes, spec).windows[0]
    pixels = preprocess.decode_window(stored.encoded, stored.format == "png", window)
    square = spec.resize == "crop"
    return preprocess.resize(pixels, spec.size_px, halve=True, square=square)


def define_flags() -> None:
    """Declares the command's flags; defaults are those of Config."""
    default = Config(photos=())
    flags.DEFINE_string("run_dir", default.run_dir, "Folder of the run.")
    flags.DEFINE_string(
        "ckpt",
        default.ckpt,
        f"Weights to use as they are, in place of a run: {', '.join(zoo.NAMES)}, or "
        "the path of a weight file.",
    )
    flags.DEFINE_string(
        "arch",
        default.arch,
        "Network that the weights belong to: "
        f"{', '.join(network.NETWORKS)}; by default found by names and shapes.",
    )
    flags.DEFINE_string(
        "labels",
        default.labels,
        "File of the class names of --ckpt, one a line, as synset_words.txt.",
    )
    inputs.define_flags()
    flags.adopt_module_key_flags(inputs)  # so that --help shows them
    flags.DEFINE_integer(
        "top", default.top, "Number of classes to tell.", lower_bound=1
    )


def main(argv: Sequence[str]) -> None:
    """Predicts the photos named on the command line."""
    if len(argv) < 2:
        raise app.UsageError("expected photos: python -m model.predict photo.jpg")
    config = command.config_from_flags(
        Config, photos=tuple(argv[1:]), overrides=inputs.from_flags()
    )
    found = predict(config)
    for prediction in found:
        command.say(f"{prediction.photo}  {prediction.problem}".rstrip())
        for name, probability in prediction.classes:
            command.say(f"  {probability:.4f}  {name}")
    if bad := [prediction.photo for prediction in found if prediction.problem]:
        raise schema.DataError(
            f"{len(bad)} of {len(found)} photos could not be read, the first: {bad[0]}"
        )


if __name__ == "__main__":
    define_flags()
    command.run(main, schema.DataError, errors.CheckpointError)
