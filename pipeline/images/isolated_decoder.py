"""Decode photos one at a time in child processes, which may crash or hang.

Input: the bytes of an image file. Output: the same record image as from a conversion. A
file that crashes its process or takes too long is refused, and a new process replaces
the old one. Predictions and the server decode this way, without `multiprocessing`,
which would start TensorFlow in each process.

A request is the bytes of a file. The answer is {"error": sentence, "kind": a Code of
manifest_row}, or the fields of record_image.RecordImage with the bytes of the image. No
bytes mean that the file itself is the image.
"""

import contextlib
import queue
import threading
from collections.abc import Iterator

from pipeline.images import file_headers, opencv, record_image
from pipeline.records.manifest_row import Code, ImageError
from pipeline.system import platform_support, sandbox

# Memory for libraries and their caches, and for each pixel in the worst case: two
# copies of 4 channels of 16 bits, and the results.
_LIBRARY_BYTES = 1 << 30
_BYTES_PER_PIXEL = 32


@contextlib.contextmanager
def refusals(limit: str) -> Iterator[None]:
    """Raise ImageError if a child process in the block crashes or exceeds `limit`."""
    try:
        yield
    except sandbox.OutOfTime as error:
        message = f"takes longer than {limit}"
        raise ImageError(Code.DECODER_TOO_SLOW, message) from error
    except sandbox.Killed:
        raise
    except sandbox.ChildEnded as error:
        message = "the decoder crashed on this file"
        raise ImageError(Code.DECODER_CRASHED, message) from error


class Decoders:
    """Processes that decode; several threads may use them at once."""

    def __init__(
        self,
        count: int,
        *,
        timeout_s: float,
        resize_min: int = file_headers.RESIZE_MIN,
        white_level: int = 0,
        max_pixels: int = file_headers.MAX_PIXELS,
    ) -> None:
        """Prepare `count` processes, each of which starts when it is needed.

        A file may take `timeout_s` (not counting the start of a process) and have
        `max_pixels`. Pixels equal those of a conversion with the same settings.
        """
        self._timeout_s = timeout_s
        self._settings = {"resize_min": resize_min, "white_level": white_level}
        self._lock = threading.Lock()  # for taking all processes, or two threads wait
        self._children = [
            sandbox.Child(
                __name__,
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
        """Start all processes and wait until they can decode, or raise NotStarted.

        Only one thread may call this, before the first photo.
        """
        for child in self._children:
            child.start()
        with self._taken(len(self._children)) as children:
            for child in children:
                child.wait_until_ready()

    @contextlib.contextmanager
    def _taken(self, count: int) -> Iterator[list[sandbox.Child]]:
        """Take processes from other threads, waiting until they are idle."""
        children = [self._idle.get() for _ in range(count)]
        try:
            yield children
        finally:
            for child in children:
                self._idle.put(child)

    def decode(self, data: bytes) -> record_image.RecordImage:
        """Decode a whole image file, or raise ImageError.

        Raises sandbox.NotStarted if no process starts or memory is too small.
        """
        try:
            answer, encoded = self._ask(data, 1)
        except sandbox.Killed:
            try:  # alone, so that no other photo takes memory
                with self._lock:
                    answer, encoded = self._ask(data, len(self._children))
            except sandbox.Killed as error:
                raise sandbox.NotStarted(
                    "The decoder of a photo was killed, even when it ran alone: this "
                    "machine has too little memory. Free memory and try again."
                ) from error
        if "error" in answer:
            raise ImageError(Code(answer["kind"]), answer["error"])
        codes = tuple(map(Code, answer.pop("codes")))
        return record_image.RecordImage(
            encoded=bytes(encoded) or data, codes=codes, **answer
        )

    def _ask(self, data: bytes, num_taken: int) -> tuple[sandbox.Header, memoryview]:
        """Let one process decode, while no other thread can use `num_taken` of them."""
        limit = f"{self._timeout_s:g} s to decode"
        with refusals(limit), self._taken(num_taken) as (child, *_):
            child.send(self._settings, data, timeout_s=self._timeout_s)
            return child.receive()

    def close(self) -> None:
        """End the processes; a photo in one of them counts as crashed."""
        for child in self._children:
            child.close()


def main() -> None:
    """Decode what the parent process sends, until the parent ends."""
    platform_support.collect_stderr()
    opencv.use_one_thread()
    platform_support.limit_memory(_LIBRARY_BYTES + _BYTES_PER_PIXEL * opencv.max_pixels)

    def answers(
        settings: sandbox.Header, data: bytes
    ) -> Iterator[tuple[sandbox.Header, bytes]]:
        del settings["timeout_s"]
        try:
            image = record_image.encode_for_record(data, **settings)
        except ImageError as error:
            yield {"error": str(error), "kind": error.kind}, b""
        else:
            fields = dict(vars(image))
            encoded = fields.pop("encoded")
            yield fields, b"" if image.action == "copied" else encoded

    sandbox.serve(answers)
