"""Classify photos, with a run or with a weight file.

    python -m model.predict photo.jpg
    python -m model.predict holiday/ --format=csv > holiday.csv

With a run, probabilities are calibrated on its validation photos. Photos are decoded,
turned upright and cropped as in training.
"""

import pipeline.start  # noqa: F401 # isort: skip
import sys
from typing import Any

from model.predict.predict_settings import Config
from model.predict.unlabelled import sorted_photos
from pipeline.system import command_line, config_flags
from pipeline.system.errors import DataError


def main(typed: dict[str, Any]) -> None:
    """Classify the photos named on the command line."""
    config = config_flags.build(Config, typed)
    if config.sort_by:
        sorted_photos.by_labels(config)
        return
    # Only now, so that wrong flags are refused at once.
    import pipeline.system.tensorflow_import  # noqa: F401 # isort: split
    from model.predict import output_formats, predicting
    from model.weights import preprocessing_overrides

    photo_classifier = predicting.load_classifier(config)
    command_line.log(photo_classifier.describe())
    preprocessing_overrides.log(photo_classifier.spec)
    header, format_prediction = output_formats.writer(
        config.format,
        top=min(config.top, len(photo_classifier.class_names)),
        num_similar=predicting.NUM_SIMILAR if config.explain else 0,
    )
    raw = config.format != "text" and not sys.stdout.isatty()
    _write(header, raw=raw)
    folder = sorted_photos.SortedPhotos(config) if config.sort_into else None
    count, num_bad, first_bad = 0, 0, ""
    for prediction in predicting.predict(config, photo_classifier):
        count += 1
        if prediction.problem:
            num_bad += 1
            first_bad = first_bad or prediction.photo
        elif folder:
            folder.add(prediction.photo, sorted_photos.folder_of(prediction))
        _write(format_prediction(prediction), raw=raw)
    if folder:
        folder.log()
    if num_bad:
        raise DataError(
            f"{num_bad} of {count} photos could not be read, the first: {first_bad}"
        )


def _write(text: str, *, raw: bool) -> None:
    """Write results: unchanged for programs, without control characters for people."""
    sys.stdout.write(text if raw else command_line.shown(text))


if __name__ == "__main__":
    command_line.run(main, Config)
