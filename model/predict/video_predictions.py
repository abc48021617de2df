"""Predict the classes of videos: of frames at regular times, and of spans of them."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from model.predict import photo_batches
from model.predict.output_formats import Prediction
from pipeline.batches import single_photo
from pipeline.batches.input_spec import InputSpec
from pipeline.images import video_frames

_BATCH_SIZE = 16


def predict(
    frames: Iterable[video_frames.Frame],
    spec: InputSpec,
    predict_batch: Callable[[photo_batches.PhotoBatch], Iterable[Prediction]],
) -> Iterator[Prediction]:
    """Yield one prediction for each frame, and one for each span when it has ended."""
    network_input = single_photo.NetworkInput(spec)
    span: Prediction | None = None
    remaining, shape = iter(frames), (-1, spec.size_px, spec.size_px, 3)
    while batch := list(itertools.islice(remaining, _BATCH_SIZE)):
        views = [network_input.of_pixels(f.pixels) for f in batch if not f.problem]
        photos = photo_batches.PhotoBatch(
            photos=tuple(frame.video for frame in batch),
            images=np.array(views, np.uint8).reshape(shape),
            problems=tuple(frame.problem for frame in batch),
        )
        for frame, prediction in zip(batch, predict_batch(photos), strict=True):
            if not frame.problem:
                prediction = dataclasses.replace(prediction, time_s=frame.time_s)
            if span and _kind(span) != _kind(prediction):
                yield span
                span = None
            yield prediction
            span = None if frame.problem else _extended(span, prediction)
    if span:
        yield span


def _kind(prediction: Prediction) -> tuple[str, str, bool]:
    """Return what the frames of a span have in common."""
    return prediction.photo, prediction.answer, prediction.is_stranger


def _extended(span: Prediction | None, frame: Prediction) -> Prediction:
    """Return a span with one more frame; its figures are the means of its frames'."""
    start, count = span or frame, span.num_frames if span else 0

    def mean(name: str) -> float:
        total = count * (getattr(start, name) or 0.0) + (getattr(frame, name) or 0.0)
        return total / (count + 1)

    has_score = frame.stranger_score is not None
    return dataclasses.replace(
        start,
        classes=((frame.answer, mean("probability")),),
        stranger_score=mean("stranger_score") if has_score else None,
        until_s=frame.time_s,
        num_frames=count + 1,
    )
