"""Decode frames of videos at regular times, in a child process that may crash or hang.

Input: paths of videos. Output: upright frames with their times, shrunk as conversion
shrinks photos. Decoding runs ahead of the caller by at most a fixed number of frames,
so memory does not grow with the length of a video.

A request to the child names a video. Each answer is a frame with its time and shape.
The last answer is {"error": sentence, "kind": a Code of manifest_row}, or {}.
"""

import collections
import concurrent.futures
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pipeline.images import (
    decode_files,
    file_headers,
    isolated_decoder,
    opencv,
    photo_files,
)
from pipeline.records.manifest_row import Code, ImageError
from pipeline.system import command_line, platform_support, sandbox

import cv2  # isort: skip # after the limits that opencv.py sets
import numpy as np

_ENDING = re.compile(
    r".*\.(?:3gp|asf|avi|flv|m2ts|m4v|mkv|mov|mp4|mpe?g|mts|ogv|webm|wmv)",
    re.DOTALL | re.IGNORECASE,
)
# FFmpeg opens no other file or address than the video itself.
_OPTIONS = (
    "protocol_whitelist;file|"
    "format_whitelist;mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
)
_MAX_PIXELS = 1 << 26  # of a frame; 8K has half of that
# Memory for the frames that a codec keeps: 16 frames of 10 bits, in several threads.
_BYTES_PER_PIXEL, _LIBRARY_BYTES = 64, 1 << 30
_MAX_THREADS = 16
_TIMEOUT_S = 60  # for each frame of the file, whether it is used or not
_FRAMES_AHEAD = 64  # 1.4 MB each
_ROUNDING_S = 1e-6
_JUMP_FRAMES = 17  # OpenCV seeks a key frame that lies at least this far before
_MIN_SHARE, _MISSING_S = 0.95, 1  # share of the stated time to read; s it may lack


def find(names: Sequence[str], *, in_folders: bool) -> list[str]:
    """Return the videos, by their endings, among files, and on request in folders."""
    paths = photo_files.find(names, collections.Counter()) if in_folders else names
    return list(filter(_ENDING.fullmatch, paths))


class Frame(NamedTuple):
    """A frame of a video, or the problem that ends the video before its last frame."""

    video: str
    time_s: float = 0.0  # since the first frame
    pixels: np.ndarray = np.zeros((0, 0, 3), np.uint8)  # [height, width, 3], RGB
    problem: ImageError | None = None


class VideoFrames:
    """Frames of videos at regular times: the first frame at or after each time.

    A frame that is the first after several times comes once.
    """

    def __init__(
        self,
        videos: Sequence[str],
        *,
        every_s: float,
        resize_min: int = file_headers.RESIZE_MIN,
    ) -> None:
        """Start decoding, at most `resize_min` pixels for the short side; 0: any."""
        self.videos = videos
        self._settings: dict[str, Any] = {"every_s": every_s, "resize_min": resize_min}
        self._child = sandbox.Child(__name__, task="decode videos", environment={})
        self._frames = (frame for video in videos for frame in self._decode(video))
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._waiting = collections.deque(map(self._submit, range(_FRAMES_AHEAD)))

    def _submit(self, _: int = 0) -> "concurrent.futures.Future[Frame | None]":
        return self._thread.submit(next, self._frames, None)

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self._waiting.popleft().result()) is not None:
            self._waiting.append(self._submit())
            yield frame

    def _decode(self, video: str) -> Iterator[Frame]:
        """Yield the frames of a video, and the problem that ends it, if any."""
        request = {"video": video, **self._settings}
        try:
            with isolated_decoder.refusals(f"{_TIMEOUT_S} s to decode a frame"):
                self._child.send(request, timeout_s=_TIMEOUT_S)
                while "shape" in (answer := self._child.receive())[0]:
                    header, data = answer
                    pixels = np.frombuffer(data, np.uint8).reshape(header["shape"])
                    yield Frame(video, header["time_s"], pixels)
            if "error" in answer[0]:
                raise ImageError(Code(answer[0]["kind"]), answer[0]["error"])
        except ImageError as error:
            yield Frame(video, problem=error)
        except sandbox.Killed:
            text = "its decoder was killed: this machine has too little memory"
            yield Frame(video, problem=ImageError(Code.OUT_OF_MEMORY, text))

    def resized(self, resize_min: int) -> "VideoFrames":
        """Return the same frames with this short side; start again if it differs."""
        if resize_min == self._settings["resize_min"]:
            return self
        self.close()
        return VideoFrames(self.videos, **self._settings | {"resize_min": resize_min})

    def close(self) -> None:
        """End the process."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._child.close()


def main() -> None:
    """Decode the videos that a parent process names, until that ends."""
    opencv.use_one_thread()  # of its own; FFmpeg has others
    platform_support.limit_memory(_LIBRARY_BYTES + _BYTES_PER_PIXEL * _MAX_PIXELS)

    def answers(
        request: sandbox.Header, _: bytes
    ) -> Iterator[tuple[sandbox.Header, bytes | memoryview]]:
        try:
            for time_s, pixels in _frames(**request):
                yield {"time_s": time_s, "shape": pixels.shape}, pixels.data.cast("B")
            yield {}, b""
        except ImageError as error:
            yield {"error": str(error), "kind": error.kind}, b""

    sandbox.serve(answers)


def _frames(
    video: str, every_s: float, resize_min: int, timeout_s: float
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield times in seconds, and frames in RGB that OpenCV has turned upright.

    A second reader decodes only key frames, and shows those that are wanted. For other
    frames, the first reader jumps ahead where that leaves fewer frames to decode.
    """
    try:
        file = open(video, "rb", opener=decode_files.open_regular)  # noqa: SIM115
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise ImageError(Code.UNREADABLE, message) from error
    reader, keys = _Reader(file), _Reader(file, "nonkey")
    jump_s, may_jump = _JUMP_FRAMES / reader.rate, True
    last_s, last_key_s, between_keys_s, next_s = -1.0, -1.0, 0.0, 0.0
    while True:
        platform_support.end_after(timeout_s)
        while keys.time_s < next_s - _ROUNDING_S:
            between_keys_s, last_key_s = keys.time_s - last_key_s, keys.time_s
            keys.grab()
        source = keys if keys.time_s <= next_s + _ROUNDING_S else reader
        is_far = next_s - last_key_s > jump_s
        start_s = last_key_s if is_far else next_s - jump_s - between_keys_s
        if source is reader and may_jump and start_s > max(reader.time_s, 0):
            reader.jump(next_s)
            is_last = next_s > reader.stated_s - 1 / reader.rate
            if reader.time_s > next_s + _ROUNDING_S and not is_last:
                # The frame rate varies, or the file is cut off: read on without jumps.
                source = reader = _Reader(file)
                may_jump = False
        while source.time_s < next_s - _ROUNDING_S:
            platform_support.end_after(timeout_s)
            source.grab()
        if math.isinf(source.time_s):
            break
        shown = source.frame(resize_min)
        platform_support.end_after(0)  # the parent may be busy
        last_s = source.time_s
        yield last_s, shown
        next_s = (math.floor((last_s + _ROUNDING_S) / every_s) + 1) * every_s
    # The stated duration may include longer sound, or a last frame that is held.
    least_s = min(_MIN_SHARE * reader.stated_s, reader.stated_s - _MISSING_S)
    is_cut = next_s < reader.stated_s and reader.last_s < least_s and not reader.is_full
    if last_s < 0 or is_cut:
        text = f"ends at {max(reader.last_s, 0):.1f} s of {reader.stated_s:.1f} s"
        raise ImageError(Code.UNDECODABLE, f"{text}: cut off or damaged")


class _Reader:
    """A video that is read frame by frame: all frames, or key frames only."""

    def __init__(self, file: BinaryIO, discard: str = "none") -> None:
        """Open a file again, or raise ImageError.

        On Linux, FFmpeg gets no file name, which it could mistake for an address or a
        pattern. Elsewhere, /dev/fd has one position for all readers, or is missing.
        """
        name = f"/dev/fd/{file.fileno()}"
        if not Path("/proc/self/fd").exists():
            name = f"file:{Path(file.name).absolute()}"
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = f"{_OPTIONS}|avdiscard;{discard}"
        threads = min(command_line.available_cpus(), _MAX_THREADS)
        options = [cv2.CAP_PROP_N_THREADS, threads]
        self._capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, options)
        self.time_s = self.last_s = -1.0  # of the frame; infinity after the last one
        self._num_frames, self._stated = 0.0, self._fact("FRAME_COUNT")
        self.rate = max(self._fact("FPS"), 1e-3)  # mean frames per second
        self.stated_s = self._stated / self.rate
        if not self._capture.isOpened():
            text = "not a video that FFmpeg decodes, cut off or damaged"
            raise ImageError(Code.UNDECODABLE, text)
        if self._fact("FRAME_WIDTH") * self._fact("FRAME_HEIGHT") > _MAX_PIXELS:
            text = f"frames above {_MAX_PIXELS:,} pixels"
            raise ImageError(Code.TOO_MANY_PIXELS, text)

    def _fact(self, name: str) -> float:
        return float(self._capture.get(getattr(cv2, f"CAP_PROP_{name}")))

    @property
    def is_full(self) -> bool:
        """Whether as many frames were read as the header states."""
        return self._num_frames >= _MIN_SHARE * self._stated

    def grab(self) -> None:
        """Decode the next frame."""
        self.time_s = math.inf
        if self._capture.grab():
            self.time_s = self.last_s = round(self._fact("POS_MSEC") / 1000, 6)
            self._num_frames += 1

    def jump(self, time_s: float) -> None:
        """Decode a frame shortly before a time, or at any later one."""
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, int(time_s * self.rate) - 1)
        self._num_frames = -math.inf
        self.grab()

    def frame(self, resize_min: int) -> np.ndarray:
        """Return the frame in RGB, with square pixels, shrunk as photos are.

        Whole blocks of pixels are averaged first: other areas take ten times as long.
        """
        done, pixels = self._capture.retrieve()
        if not done:
            raise ImageError(Code.UNDECODABLE, f"damaged at {self.time_s:.3f} s")
        height, width = pixels.shape[:2]
        stretch = self._fact("SAR_NUM") / (self._fact("SAR_DEN") or 1) or 1
        stretch = min(max(stretch, 0.1), 10)
        factor = min(1, (resize_min or math.inf) / min(height, width * stretch))
        size = (max(1, round(width * stretch * factor)), max(1, round(height * factor)))
        if (blocks := opencv.reduction(min(height, width), resize_min)) > 1:
            small = (width // blocks, height // blocks)
            pixels = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
        if size != pixels.shape[1::-1]:
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
