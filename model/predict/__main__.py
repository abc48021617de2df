"""Photos, or folders of them -> their most likely classes.

    python -m model.predict photo.jpg
    python -m model.predict --run_dir=runs/latest holiday/ --format=csv > holiday.csv
    python -m model.predict holiday/ --unknown_below=0.5 --explain=why/
    python -m model.predict --ckpt=FILE --labels=synset_words.txt photo.jpg

With a run, probabilities are calibrated on its validation photos; those of a weight
file are as they are. A photo is decoded, turned upright and cut as conversion and
evaluation do it.
"""

import sys
from collections.abc import Sequence

from absl import app, flags

import pipeline.system.tensorflow_import  # noqa: F401 # isort: split
from model.checkpoints import errors
from model.predict import output_formats, predicting
from model.runs import run_records
from model.weights import preprocessing_overrides, pretrained_classifier
from pipeline.system import command_line
from pipeline.system.errors import DataError


def define_flags() -> None:
    """Declares the command's flags; defaults are those of predicting.Config."""
    default = predicting.Config(photos=())
    flags.DEFINE_string("run_dir", default.run_dir, "Folder of the run.")
    pretrained_classifier.define_flags()
    flags.adopt_module_key_flags(pretrained_classifier)  # so that --help shows them
    output_formats.define_flags()
    flags.adopt_module_key_flags(output_formats)  # so that --help shows them
    flags.DEFINE_enum(
        "format",
        default.format,
        output_formats.FORMATS,
        "Of the results: text for people; a table; or an object of JSON a line.",
    )
    flags.DEFINE_string(
        "explain",
        default.explain,
        "Folder for a picture of each photo: where the network looked, and the "
        "training photos that it finds most alike.",
    )
    flags.DEFINE_string("data", default.data, run_records.HELP)
    flags.DEFINE_integer(
        "batch_size",
        default.batch_size,
        "Photos per step.",
        lower_bound=1,
        upper_bound=1 << 12,
    )


def main(argv: Sequence[str]) -> None:
    """Predicts the photos named on the command line."""
    if len(argv) < 2:
        raise app.UsageError("expected photos: python -m model.predict photo.jpg")
    config = command_line.config_from_flags(
        predicting.Config,
        photos=tuple(argv[1:]),
        overrides=preprocessing_overrides.from_flags(),
    )
    photo_classifier = predicting.load_classifier(config)
    command_line.log(photo_classifier.describe())
    header, format_prediction = output_formats.writer(
        config.format,
        top=min(config.top, len(photo_classifier.class_names)),
        num_similar=predicting.NUM_SIMILAR if config.explain else 0,
    )
    raw = config.format != "text" and not sys.stdout.isatty()
    _write(header, raw=raw)
    count, num_bad, first_bad = 0, 0, ""
    for prediction in predicting.predict(config, photo_classifier):
        count += 1
        if prediction.problem:
            num_bad += 1
            first_bad = first_bad or prediction.photo
        _write(format_prediction(prediction), raw=raw)
    if num_bad:
        raise DataError(
            f"{num_bad} of {count} photos could not be read, the first: {first_bad}"
        )


def _write(text: str, *, raw: bool) -> None:
    """Write results: unchanged for programs, without control characters for people."""
    sys.stdout.write(text if raw else command_line.shown(text))


if __name__ == "__main__":
    define_flags()
    command_line.run(main, DataError, errors.CheckpointError)
