"""One photo after the other, from many threads -> answers; what a server does.

Photos are decoded by processes that may crash or hang. The network has a thread of its
own, which can take photos that wait as one batch; none waits for others to come.
"""

import concurrent.futures
import dataclasses
import functools
import queue
import threading
from collections.abc import Sequence

import numpy as np

from model.predict import classifier, similar_photos
from pipeline.batches import single_photo
from pipeline.images import isolated_decoder, opencv
from pipeline.images.errors import ImageError
from pipeline.records import manifest
from pipeline.system import command_line
from pipeline.system.errors import DataError

NEIGHBOURS = 6
# Taken together, photos of 16 threads were answered at 0.76 to 0.81 of the rate of one
# by one on 2 busy cores: all wait for the batch, and then no decoder is ahead.
# benchmarks/serve.py --batching measures it.
_MOST_TOGETHER = 1
_THUMBNAIL_PX = 160
_KEPT_THUMBNAILS = 1024  # of some 5 KB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What the network says of a photo.

    Attributes:
        shares: float64 [num_classes]: calibrated probabilities.
        pixels: uint8 [size_px, size_px, 3], RGB: what it saw.
        overlay: likewise, with the places where it looked; None if not asked for, or
            not to be had.
        similar: training photos, the likest first; likewise.
    """

    shares: np.ndarray
    pixels: np.ndarray
    overlay: np.ndarray | None = None
    similar: Sequence[similar_photos.Neighbour] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    pixels: np.ndarray
    explained: bool
    done: "concurrent.futures.Future[Answer]"


class Service:
    """Answers from several threads at once.

    Attributes:
        chosen: what answers.
        explainer: says why.
    """

    def __init__(
        self,
        chosen: classifier.Classifier,
        *,
        max_pixels: int,
        decode_timeout_s: float,
        data: str = "",
        most_together: int = _MOST_TOGETHER,
    ) -> None:
        """Starts the thread of the network; no process yet.

        Args:
            chosen: what answers.
            max_pixels: larger photos are refused before they are decoded.
            decode_timeout_s: how long decoding a photo may take.
            data: folder of a run's records, if they were moved; "" otherwise.
            most_together: photos that the network takes as one batch.
        """
        self.chosen = chosen
        self.explainer: classifier.Explainer | None = None
        try:
            self.explainer = classifier.Explainer(chosen, data)
            missing: Sequence[str] = self.explainer.missing
        except DataError as error:
            missing = [str(error)]
        for line in missing:
            command_line.log(f"note: {line}")
        self._rows: dict[str, manifest.Row] = {}
        if self.explainer is not None and self.explainer.index is not None:
            self._rows = {row.sha256: row for row in self.explainer.index.rows}
        self._viewer = single_photo.Viewer(chosen.spec)
        self._decoders = isolated_decoder.Decoders(
            command_line.available_cpus(),
            timeout_s=decode_timeout_s,
            resize_min=chosen.resize_min,
            max_pixels=max_pixels,
        )
        self._step = chosen.predict_step()
        self._most_together = most_together
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self.thumbnail = functools.lru_cache(_KEPT_THUMBNAILS)(self._thumbnail)

    def warm_up(self) -> None:
        """Starts the processes and answers once, so that no visitor waits for it.

        Raises:
            DataError: a process does not start, or not even a small grey photo
                can be decoded.
        """
        self._decoders.start()
        grey = opencv.page_jpeg(np.full((64, 64, 3), 128, np.uint8))
        try:
            self.answer(grey, explained=True)
            self.answer(grey, explained=False)
        except ImageError as error:
            raise DataError(
                f"a small grey photo, to begin with: {error}; expected it to decode; "
                "is --decode_timeout_s too short, or memory?"
            ) from error

    def answer(self, data: bytes, *, explained: bool) -> Answer:
        """Says of which class a photo is.

        Args:
            data: an image file.
            explained: says why, too.

        Raises:
            image.ImageError: it cannot be decoded.
        """
        pixels = self._viewer(self._decoders.decode(data))
        done: concurrent.futures.Future[Answer] = concurrent.futures.Future()
        self._jobs.put(_Job(pixels=pixels, explained=explained, done=done))
        return done.result()

    def close(self) -> None:
        """Ends thread and processes."""
        self._jobs.put(None)
        self._thread.join()
        self._decoders.close()

    @property
    def decoder_pids(self) -> tuple[int, ...]:
        """Of the processes that decode."""
        return self._decoders.pids

    def _thumbnail(self, sha256: str) -> bytes:
        """A small JPEG of a training photo.

        Args:
            sha256: of its file, in hex digits. A number would name another photo for
                another run, which browsers that keep pictures could not know.

        Raises:
            KeyError: there is no such photo.
            DataError, OSError: its record is damaged or gone.
            image.ImageError: it does not decode.
        """
        row, explainer = self._rows[sha256], self.explainer
        if explainer is None:
            raise KeyError(sha256)
        return opencv.thumbnail_jpeg(explainer.training_photo(row), _THUMBNAIL_PX)

    def _work(self) -> None:
        ended = False
        while not ended:
            jobs = [self._jobs.get()]
            while len(jobs) < self._most_together and not self._jobs.empty():
                jobs.append(self._jobs.get())
            some = [job for job in jobs if job is not None]
            ended = len(some) < len(jobs)
            try:
                for job, answer in zip(some, self._answers(some), strict=True):
                    job.done.set_result(answer)
            except Exception as error:  # whoever asked is told; the thread goes on
                for job in some:
                    if not job.done.done():
                        job.done.set_exception(error)

    def _answers(self, jobs: Sequence[_Job]) -> list[Answer]:
        if not jobs:
            return []
        images = np.stack([job.pixels for job in jobs])
        wanted = [number for number, job in enumerate(jobs) if job.explained]
        why: dict[int, classifier.Explanation] = {}
        if self.explainer is None or not wanted:
            logits = np.asarray(self._step(images.astype(np.float32)))
        else:
            logits, seen = self.explainer.classify(images)
            found = self.explainer.explain(seen, wanted, NEIGHBOURS)
            why = dict(zip(wanted, found, strict=True))
        shares = self.chosen.probabilities(logits)
        return [
            Answer(
                shares=shares[number],
                pixels=job.pixels,
                overlay=why[number].overlay if number in why else None,
                similar=why[number].nearest if number in why else (),
            )
            for number, job in enumerate(jobs)
        ]
