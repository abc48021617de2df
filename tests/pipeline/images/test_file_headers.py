import io
import random
import time

import cv2
import numpy as np
import PIL.Image
import pytest

from pipeline.images import file_headers


def pillow(kind, frames=1, size=(20, 16)):
    """A file of several frames, all different."""
    shape = (frames, *size[::-1], 3)
    pixels = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    first, *others = map(PIL.Image.fromarray, pixels)
    options = {"save_all": True, "append_images": others} if others else {}
    buffer = io.BytesIO()
    first.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WebP", "JPEG 2000", "PDF"]
)
def test_formats_are_detected_by_their_first_bytes(name):
    data = pillow(name.replace(" ", ""))
    assert file_headers.sniff(data) == name
    assert file_headers.count_frames(data) == 1


@pytest.mark.parametrize("data", [b"", b"\xff", b"text", bytes(100)])
def test_other_bytes_are_of_unknown_format(data):
    assert file_headers.sniff(data) == "unknown"
    assert file_headers.count_frames(data) == 1


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("count", [2, 5])
def test_frames_are_counted_in_files_that_pillow_writes(kind, count):
    assert file_headers.count_frames(pillow(kind, count)) == count


def test_frames_are_counted_in_files_that_opencv_writes():
    animation = cv2.Animation()
    animation.frames = [np.full((20, 20, 3), n * 60, np.uint8) for n in range(3)]
    animation.durations = [50] * 3
    for ending in (".gif", ".png", ".webp"):
        done, data = cv2.imencodeanimation(ending, animation)
        assert done
        assert file_headers.count_frames(data.tobytes()) == 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_damaged_files_still_have_a_number_of_frames(kind):
    data = pillow(kind, 4)
    chosen = random.Random(0)
    for _ in range(500):
        damaged = bytearray(data)
        for _ in range(chosen.choice((1, 3, 20))):
            damaged[chosen.randrange(len(damaged))] = chosen.randrange(256)
        cut = bytes(damaged[: chosen.randrange(8, len(damaged) + 1)])
        assert 1 <= file_headers.count_frames(cut) <= 1_000_000


def test_tiff_directories_in_a_circle_are_counted_once():
    """The second TIFF directory names the first as the next one."""
    data = bytearray(pillow("TIFF", 2))
    first = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[first : first + 2], "little")
    link = first + 2 + 12 * entries
    data[link : link + 4] = first.to_bytes(4, "little")
    assert file_headers.count_frames(bytes(data)) == 1


@pytest.mark.parametrize(
    ("path", "kind", "wrong"),
    [
        ("a/b.JPEG", "JPEG", False),
        ("a/b.jfif", "JPEG", False),
        ("a/b.png", "JPEG", True),
        ("a/b.jpg", "WebP", True),
        ("a/b", "JPEG", False),
        ("a/b.photo", "JPEG", False),
        ("a.png/b", "JPEG", False),
        ("a/b.jpg", "PDF", False),
    ],
)
def test_a_wrong_ending_is_noticed(path, kind, wrong):
    assert file_headers.has_wrong_ending(path, kind) == wrong


@pytest.mark.parametrize("size", [(20, 16), (1, 300), (3000, 2)])
def test_the_size_of_a_jpeg_is_read(size):
    header = file_headers.JpegHeader.read(pillow("JPEG", size=size))
    assert (header.width, header.height, header.oddity) == (*size, None)


def test_megabytes_of_fill_bytes_are_skipped_at_once():
    data = pillow("JPEG")
    filled = data[:2] + bytes([0xFF]) * (20 << 20) + data[2:]
    start = time.monotonic()
    header = file_headers.JpegHeader.read(filled)
    assert (header.width, header.height) == (20, 16)
    assert file_headers.JpegHeader.read(filled[: 20 << 20]) is None
    assert time.monotonic() - start < 1
