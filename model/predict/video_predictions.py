"""Predict the classes of videos: of frames at regular times, and of spans of them."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence

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
    predictions = _of_frames(frames, spec, predict_batch)
    for (_, answer, _), group in itertools.groupby(predictions, _kind):
        span = []
        for prediction in group:
            yield prediction
            span.append(prediction)
        if answer:
            yield _mean(span)


def _of_frames(
    frames: Iterable[video_frames.Frame],
    spec: InputSpec,
    predict_batch: Callable[[photo_batches.PhotoBatch], Iterable[Prediction]],
) -> Iterator[Prediction]:
    network_input, remaining = single_photo.NetworkInput(spec), iter(frames)
    while batch := list(itertools.islice(remaining, _BATCH_SIZE)):
        results = [f.problem or network_input.of_pixels(f.pixels) for f in batch]
        photos = photo_batches.PhotoBatch.of(
            [frame.video for frame in batch], results, spec
        )
        for frame, prediction in zip(batch, predict_batch(photos), strict=True):
            time_s = None if frame.problem else frame.time_s
            yield dataclasses.replace(prediction, time_s=time_s)


def _kind(prediction: Prediction) -> tuple[str, str, bool]:
    """Return what the frames of a span have in common."""
    return prediction.photo, prediction.answer, prediction.is_stranger


def _mean(span: Sequence[Prediction]) -> Prediction:
    """Return a prediction for a span of frames, with the means of their figures."""
    first = span[0]
    scores = [p.stranger_score for p in span if p.stranger_score is not None]
    probability = statistics.fmean(p.probability or 0.0 for p in span)
    return dataclasses.replace(
        first,
        classes=((first.answer, probability),),
        stranger_score=statistics.fmean(scores) if scores else None,
        until_s=span[-1].time_s,
        num_frames=len(span),
    )
