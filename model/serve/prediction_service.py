"""Classify single photos for many threads at the same time.

Photos are decoded by processes that may crash or hang. The network has a thread of its
own, which can classify several waiting photos as one batch; it never waits for more.
"""

import concurrent.futures
import dataclasses
import functools
import queue
import threading
from collections.abc import Sequence

import numpy as np

from model.predict import similar_photos
from model.predict.classifier import Classifier, Explainer, Explanation
from pipeline.batches import single_photo
from pipeline.images import isolated_decoder, opencv
from pipeline.images.errors import ImageError
from pipeline.records import manifest
from pipeline.system import command_line
from pipeline.system.errors import DataError

NUM_SIMILAR = 6
# On 2 busy cores, 16 threads got 0.76 to 0.81 of the rate when photos were classified
# as batches: all threads wait for the batch, and then no decoder is ahead.
# benchmarks/serve.py --batching measures it.
_MAX_BATCH = 1
_THUMBNAIL_PX = 160
_CACHED_THUMBNAILS = 1024  # about 5 KB each


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifiedPhoto:
    """A photo with its probabilities, and their explanation on request.

    Attributes:
        probabilities: float64 [num_classes], calibrated.
        view: uint8 [size_px, size_px, 3], RGB, the photo as the network sees it.
        overlay: the view with the places where the network looked; None if it was not
            requested or no layer of the network has places.
        similar: most similar training photos, best first; () if not requested.
    """

    probabilities: np.ndarray
    view: np.ndarray
    overlay: np.ndarray | None = None
    similar: Sequence[similar_photos.SimilarPhoto] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    view: np.ndarray
    explained: bool
    done: "concurrent.futures.Future[ClassifiedPhoto]"


class Service:
    """Classify photos from several threads at the same time.

    Attributes:
        classifier: classifier that predicts.
        explainer: explainer of its predictions; None if nothing can be explained.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        max_pixels: int,
        decode_timeout_s: float,
        data: str = "",
        max_batch: int = _MAX_BATCH,
    ) -> None:
        """Start the thread of the network, but no process yet.

        Args:
            classifier: classifier that predicts.
            max_pixels: largest photo that is decoded, in pixels.
            decode_timeout_s: time limit to decode a photo, in seconds.
            data: folder of the run's records, if they were moved; "" otherwise.
            max_batch: largest number of photos that are classified as one batch.
        """
        self.classifier = classifier
        self.explainer: Explainer | None = None
        try:
            self.explainer = Explainer(classifier, data)
            notes: Sequence[str] = self.explainer.notes
        except DataError as error:
            notes = [str(error)]
        for line in notes:
            command_line.log(f"note: {line}")
        self._rows: dict[str, manifest.Row] = {}
        if self.explainer is not None and self.explainer.index is not None:
            self._rows = {row.sha256: row for row in self.explainer.index.rows}
        self._network_input = single_photo.NetworkInput(classifier.spec)
        self._decoders = isolated_decoder.Decoders(
            command_line.available_cpus(),
            timeout_s=decode_timeout_s,
            resize_min=classifier.resize_min,
            max_pixels=max_pixels,
        )
        self._step = classifier.predict_step()
        self._max_batch = max_batch
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self.thumbnail = functools.lru_cache(_CACHED_THUMBNAILS)(self._thumbnail)

    def warm_up(self) -> None:
        """Start the processes and classify a photo, so that no visitor waits for it.

        Raises:
            DataError: a process does not start, or cannot decode a small grey photo.
        """
        self._decoders.start()
        grey = opencv.page_jpeg(np.full((64, 64, 3), 128, np.uint8))
        try:
            self.classify(grey, explained=True)
            self.classify(grey, explained=False)
        except ImageError as error:
            raise DataError(
                f"A small grey photo cannot be decoded: {error}. Raise "
                "--decode_timeout_s, or free memory."
            ) from error

    def classify(self, data: bytes, *, explained: bool) -> ClassifiedPhoto:
        """Classify a photo.

        Args:
            data: content of an image file.
            explained: whether to explain the prediction.

        Raises:
            ImageError: the photo cannot be decoded.
        """
        view = self._network_input(self._decoders.decode(data))
        done: concurrent.futures.Future[ClassifiedPhoto] = concurrent.futures.Future()
        self._jobs.put(_Job(view=view, explained=explained, done=done))
        return done.result()

    def close(self) -> None:
        """End the thread and the processes."""
        self._jobs.put(None)
        self._thread.join()
        self._decoders.close()

    def _thumbnail(self, sha256: str) -> bytes:
        """Return a small JPEG of a training photo.

        Args:
            sha256: SHA-256 of the photo's file in hex digits. A number would name
                another photo of another run, and browsers cache thumbnails.

        Raises:
            KeyError: there is no such photo.
            DataError: its record is damaged.
            OSError: its record is missing.
            ImageError: it cannot be decoded.
        """
        row, explainer = self._rows[sha256], self.explainer
        if explainer is None:
            raise KeyError(sha256)
        return opencv.thumbnail_jpeg(explainer.training_photo(row), _THUMBNAIL_PX)

    def _work(self) -> None:
        is_closed = False
        while not is_closed:
            waiting = [self._jobs.get()]
            while len(waiting) < self._max_batch and not self._jobs.empty():
                waiting.append(self._jobs.get())
            jobs = [job for job in waiting if job is not None]
            is_closed = len(jobs) < len(waiting)
            try:
                for job, result in zip(jobs, self._classify(jobs), strict=True):
                    job.done.set_result(result)
            except Exception as error:  # raised where the photo came from
                for job in jobs:
                    if not job.done.done():
                        job.done.set_exception(error)

    def _classify(self, jobs: Sequence[_Job]) -> list[ClassifiedPhoto]:
        if not jobs:
            return []
        images = np.stack([job.view for job in jobs])
        indices = [number for number, job in enumerate(jobs) if job.explained]
        explanations: dict[int, Explanation] = {}
        if self.explainer is None or not indices:
            logits = np.asarray(self._step(images.astype(np.float32)))
        else:
            logits, batch = self.explainer.classify(images)
            explained = self.explainer.explain(batch, indices, NUM_SIMILAR)
            explanations = dict(zip(indices, explained, strict=True))
        nothing = Explanation(overlay=None)
        return [
            ClassifiedPhoto(
                probabilities=probabilities,
                view=job.view,
                overlay=explanations.get(number, nothing).overlay,
                similar=explanations.get(number, nothing).similar,
            )
            for number, (job, probabilities) in enumerate(
                zip(jobs, self.classifier.probabilities(logits), strict=True)
            )
        ]
