"""Predict the classes of photos and videos, with pictures that explain them."""

import collections
import contextlib
import dataclasses
import functools
import itertools
import operator
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from model.predict import classifier, photo_batches
from model.predict.output_formats import Prediction
from model.predict.predict_settings import Config
from model.predict.unlabelled import suggestions
from model.weights import pretrained_classifier
from pipeline.batches.input_spec import InputSpec
from pipeline.images import file_headers, photo_files, video_frames
from pipeline.records.manifest_row import Code
from pipeline.system import command_line, process_pool
from pipeline.system.errors import DataError

NUM_SIMILAR = 5
_FRAMES = 16  # of a video that are classified at once
# A file without an image's ending that has one of these problems is not a photo.
_OTHER_FILES = {Code.NOT_AN_IMAGE, Code.EMPTY, Code.TOO_MANY_BYTES}


def load_classifier(config: Config) -> classifier.Classifier:
    """Load the run or the weight file that classifies the photos."""
    if not config.ckpt:
        return classifier.load_run(config.run_dir)
    weights = pretrained_classifier.load(
        config.ckpt, arch=config.arch, overrides=config.overrides, labels=config.labels
    ).recognise_preprocessing(functools.partial(_first_photos, config))
    return classifier.Classifier(
        name=Path(config.ckpt).name,
        model=weights.model,
        spec=weights.spec,
        class_names=weights.class_names,
        **weights.conversion,
    )


def _first_photos(config: Config, spec: InputSpec, most: int) -> np.ndarray:
    """Return the readable ones of the first photos, as a network sees them."""
    paths = photo_files.find(config.photos, collections.Counter(), config.explain)
    batches = photo_batches.read(itertools.islice(paths, most), spec, batch_size=most)
    return next((batch.images for batch in batches), np.zeros(0))


def predict(
    config: Config,
    photo_classifier: classifier.Classifier,
    frames: video_frames.VideoFrames | None = None,
    pool: suggestions.Pool | None = None,
) -> Iterator[Prediction]:
    """Yield one prediction for each photo, in their order, then those for videos.

    If there is a pool, it gets the predictions, and only unreadable photos are yielded.
    Files in folders that are not photos, such as notes.txt, are counted in the log.
    """
    videos = frozenset(frames.videos if frames else ())
    ignored: collections.Counter[str] = collections.Counter()
    found = photo_files.find(config.photos, ignored, config.explain)
    paths = [path for path in found if path not in videos]
    where = ", ".join(config.photos)
    no_photos = DataError(f"{where}: there are no photos. Expected photos or folders.")
    if not (paths or videos):
        raise no_photos
    predictor = Predictor(config, photo_classifier, pool)
    if paths:
        with command_line.progress(len(paths), "photo", "predict") as progress:
            for batch in photo_batches.read(
                filter(pool.is_new if pool else None, paths),
                photo_classifier.spec,
                batch_size=min(config.batch_size, len(paths)),
                resize_min=photo_classifier.resize_min,
                white_level=photo_classifier.white_level,
            ):
                yield from predictor.predict(batch)
                progress.update(len(batch.photos))
    texts = [f"{number:,} {kind}" for kind, number in ignored.items()]
    if others := predictor.others:
        first = ": ".join(next(iter(others.items())))
        texts.append(f"{len(others):,} not a photo, the first: {first}")
    if num_videos := len(video_frames.find(list(others), in_folders=False)):
        why = "--suggest leaves out" if pool else "--every=1s classifies"
        texts.append(f"{num_videos:,} of these videos, which {why}")
    if texts:
        command_line.log(f"ignored: {command_line.one_line(', '.join(texts))}")
    if frames and videos:
        with contextlib.closing(frames.resized(photo_classifier.resize_min)) as resized:
            yield from _with_spans(predictor.on_frames(resized))
    elif len(others) == len(paths):
        raise no_photos


def _with_spans(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """Yield the predictions for frames, and one for each span when it has ended."""
    kind = operator.attrgetter("photo", "answer", "is_stranger")
    for (_, answer, _), group in itertools.groupby(predictions, kind):
        span = []
        for prediction in group:
            yield prediction
            span.append(prediction)
        if answer:
            yield _mean(span)


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


class Predictor:
    """Predict batches of photos, with explanations on request."""

    def __init__(
        self,
        config: Config,
        photo_classifier: classifier.Classifier,
        pool: suggestions.Pool | None = None,
    ) -> None:
        """Prepare; a pool gets the predictions for readable photos."""
        self.others: dict[str, str] = {}  # {file in a folder: why it is not a photo}
        self._config, self._classifier, self._pool = config, photo_classifier, pool
        self._step = photo_classifier.predict_step()
        self._explainer: classifier.Explainer | None = None
        if config.explain:
            self._explainer = classifier.Explainer(photo_classifier, config.data)
            self._pictures = classifier.ExplanationPictures(
                Path(config.explain), self._explainer, photo_classifier.spec
            )

    def predict(self, batch: photo_batches.PhotoBatch) -> Iterator[Prediction]:
        """Yield one prediction for each photo of a batch, readable or not."""
        explanations: Sequence[classifier.Explanation] = ()
        features: Sequence[np.ndarray] = ()
        scores: np.ndarray | None = None
        if not len(batch.images):
            logits = np.zeros((0, len(self._classifier.class_names)))
        elif self._pool:
            features, logits = self._pool.embed(batch.images.astype(np.float32))
            if scorer := self._classifier.stranger_scorer:
                scores = scorer.scores(features)
        elif self._explainer is None:
            logits, scores = self._step(batch.images.astype(np.float32))
        else:
            logits, scores, explanations = self._explainer.explain(
                batch.images, NUM_SIMILAR
            )
        numbers = itertools.count()  # of the readable photos
        probabilities = self._classifier.probabilities(logits)
        for photo, problem in zip(batch.photos, batch.problems, strict=True):
            if problem:
                is_photo = file_headers.named_format(photo)
                is_named = is_photo or photo in self._config.photos
                if problem.kind in _OTHER_FILES and not is_named:
                    self.others[photo] = str(problem)
                else:
                    yield Prediction(photo=photo, problem=str(problem))
                continue
            number = next(numbers)
            classes = self._classifier.most_probable(
                probabilities[number], self._config.top
            )
            prediction = Prediction(
                photo=photo,
                classes=classes,
                unknown=classes[0][1] < self._config.unknown_below,
                stranger_score=None if scores is None else float(scores[number]),
            )
            if self._pool:
                self._pool.add(prediction, features[number], probabilities[number])
                continue
            if explanations:
                prediction = self._pictures.draw(
                    prediction, batch.images[number], explanations[number]
                )
            yield prediction

    def on_frames(self, frames: Iterable[video_frames.Frame]) -> Iterator[Prediction]:
        """Yield one prediction for each frame, or for the problem with a video."""
        spec = self._classifier.spec
        network_input = photo_batches.NetworkInput(spec)
        for block in process_pool.blocks(frames, _FRAMES):
            results = [f.problem or network_input.of_pixels(f.pixels) for f in block]
            videos = [frame.video for frame in block]
            batch = photo_batches.PhotoBatch.of(videos, results, spec)
            for frame, prediction in zip(block, self.predict(batch), strict=True):
                time_s = None if frame.problem else frame.time_s
                yield dataclasses.replace(prediction, time_s=time_s)
