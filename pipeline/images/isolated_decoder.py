"""Decode photos one at a time in child processes, which may crash or hang.

Input: the bytes of an image file. Output: the image of a record, the same as conversion
makes of it. A file that crashes its process or takes too long is refused, and another
process replaces that one. Predictions and the server decode this way; multiprocessing
would start TensorFlow in each process.
"""

import queue
from typing import Self

from pipeline.images import file_headers, opencv, record_image
from pipeline.images.errors import ImageError
from pipeline.records.row_codes import Code
from pipeline.system import sandbox


class Decoders:
    """Processes that decode; several threads may use them at once."""

    def __init__(
        self,
        count: int,
        *,
        timeout_s: float,
        resize_min: int = file_headers.RESIZE_MIN,
        max_pixels: int = file_headers.MAX_PIXELS,
    ) -> None:
        """Start nothing yet: a process starts when it is needed.

        Args:
            count: number of processes, at least 1.
            timeout_s: longest time for one file; the start of a process does not count.
            resize_min: longest short side of a record's image, in pixels; 0: no limit.
                Pixels equal those of a conversion with the same value.
            max_pixels: number of pixels above which an image is refused undecoded.
        """
        self._timeout_s = timeout_s
        self._children = [
            sandbox.Child(
                "pipeline.images.decoder_process",
                str(max_pixels),
                str(resize_min),
                task="decode photos",
                environment={opencv.MAX_PIXELS_NAME: str(max_pixels)},
            )
            for _ in range(count)
        ]
        # The process that was used last comes first, so one photo starts one process.
        self._idle: queue.LifoQueue[sandbox.Child] = queue.LifoQueue()
        for child in self._children:
            self._idle.put(child)

    def start(self) -> None:
        """Start all processes at once and wait until they can decode.

        Only one thread may call this, before the first photo.

        Raises:
            sandbox.NotStarted: a process cannot start.
        """
        for child in self._children:
            child.start()
        children = [self._idle.get() for _ in self._children]
        try:
            for child in children:
                child.wait_until_ready()
        finally:
            for child in children:
                self._idle.put(child)

    def decode(self, data: bytes) -> record_image.RecordImage:
        """Decode a whole image file.

        Raises:
            ImageError: the file does not decode, crashed its process or took too long.
            sandbox.NotStarted: there is no process to decode it.
        """
        if not data:
            raise ImageError(Code.EMPTY, "empty file")
        child = self._idle.get()
        try:
            child.send({}, data, timeout_s=self._timeout_s)
            answer, encoded = child.receive()
        except sandbox.OutOfTime as error:
            message = f"takes longer than {self._timeout_s:g} s to decode"
            raise ImageError(Code.DECODER_TOO_SLOW, message) from error
        except sandbox.ChildEnded as error:
            message = "the decoder crashed on this file"
            raise ImageError(Code.DECODER_CRASHED, message) from error
        finally:
            self._idle.put(child)
        if "error" in answer:
            raise ImageError(Code(answer["kind"]), answer["error"])
        codes = tuple(map(Code, answer.pop("codes")))
        return record_image.RecordImage(
            encoded=bytes(encoded) or data, codes=codes, **answer
        )

    def close(self) -> None:
        """End the processes; photos that are being decoded count as crashed."""
        for child in self._children:
            child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
