"""Classify photos, with a run or with a weight file.

    python -m model.predict photo.jpg
    python -m model.predict holiday/ --format=csv > holiday.csv

With a run, probabilities are calibrated on its validation photos. Photos are decoded,
turned upright and cropped as in training.
"""

import pipeline.start  # noqa: F401 # isort: skip
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from model.predict.predict_settings import Config
from model.predict.unlabelled import sorted_photos
from pipeline.system import command_line, config_flags, file_system
from pipeline.system.errors import DataError

if TYPE_CHECKING:
    from pipeline.images.video_frames import VideoFrames


def main(typed: dict[str, Any]) -> None:
    """Classify the photos named on the command line."""
    config = config_flags.build(Config, typed)
    if config.sort_by:
        sorted_photos.by_labels(config)
        return
    # Only now, so that wrong flags are refused at once.
    from pipeline.images import video_frames

    named_videos = video_frames.find(config.photos, in_folders=False)
    has_photos = len(named_videos) < len(config.photos)
    needs_photos = config.suggest or config.out
    if named_videos and (needs_photos or (config.sort_into and not has_photos)):
        raise DataError(
            f"{named_videos[0]}: is a video. --suggest, --sort_into and --out expect "
            "photos or folders. Leave it out, or save frames of it as photos first."
        )
    videos = video_frames.find(config.photos, in_folders=bool(config.every))
    if config.spans and not videos:
        raise DataError(
            f"--spans: {', '.join(config.photos)}: no video found. Expected a video, "
            "or a folder of videos and --every=1s."
        )
    if config.out:
        from model.predict import predict_parts

        predict_parts.predict(config)
        return
    # A video is decoded while TensorFlow is imported.
    with contextlib.closing(
        video_frames.VideoFrames(videos, every_s=config.every_s)
    ) as frames:
        _predict(config, frames)


def _predict(config: Config, frames: "VideoFrames") -> None:
    """Write the predictions for photos and for frames of videos."""
    import pipeline.system.tensorflow_import  # noqa: F401 # isort: split
    from model.predict import output_formats, predicting
    from model.predict.unlabelled import suggestions
    from model.weights import weight_settings

    photo_classifier = predicting.load_classifier(config)
    command_line.log(photo_classifier.describe())
    weight_settings.log_preprocessing(photo_classifier.spec)
    columns = output_formats.SPAN if config.spans else output_formats.FRAME
    header, format_prediction = output_formats.writer(
        config.format,
        top=min(config.top, len(photo_classifier.class_names)),
        num_similar=predicting.NUM_SIMILAR if config.explain else 0,
        times=columns if frames.videos else (),
    )
    raw = config.format != "text" and not sys.stdout.isatty()
    _write(header, raw=raw)
    folder = sorted_photos.SortedPhotos(config) if config.sort_into else None
    if folder and frames.videos:
        command_line.note("--sort_into copies photos; frames of videos are not copied")
    pool = suggestions.Pool(config, photo_classifier) if config.suggest else None
    count, unreadable = 0, []
    spans = []  # as text, they follow the frames
    for prediction in predicting.predict(config, photo_classifier, frames, pool):
        count += not prediction.num_frames  # a span is none of them
        if prediction.problem:
            unreadable.append(prediction.photo)
        elif folder and prediction.time_s is None:
            folder.add(prediction.photo, sorted_photos.folder_of(prediction))
        text = format_prediction(prediction)
        if prediction.time_s is None or bool(prediction.num_frames) == config.spans:
            _write(text, raw=raw)
        elif config.format == "text" and not config.spans:
            spans.append(text)
    _write("spans of the same answer:\n" * bool(spans) + "".join(spans), raw=raw)
    if pool:
        count += pool.num_photos
        _write("".join(map(format_prediction, pool.suggest())), raw=raw)
    if folder:
        folder.log()
    if unreadable:
        kinds = "photos and frames" if frames.videos else "photos"
        raise DataError(
            f"{len(unreadable)} of {count} {kinds} could not be read, the first: "
            f"{unreadable[0]}"
        )


def _write(text: str, *, raw: bool) -> None:
    """Write results: unchanged for programs, without control characters for people."""
    sys.stdout.write(file_system.named(text) if raw else command_line.shown(text))


if __name__ == "__main__":
    command_line.run(main, Config, passes_on="beam_flags")
