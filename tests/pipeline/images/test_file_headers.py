import io
import time

import PIL.Image
import pytest

from pipeline.images import file_headers


def pillow(kind, size=(20, 16)):
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WebP", "JPEG 2000", "PDF"]
)
def test_formats_are_detected_by_their_first_bytes(name):
    data = pillow(name.replace(" ", ""))
    assert file_headers.sniff(data) == name


@pytest.mark.parametrize("data", [b"", b"\xff", b"text", bytes(100)])
def test_other_bytes_are_of_unknown_format(data):
    assert file_headers.sniff(data) == "unknown"


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
    start = time.process_time()
    header = file_headers.JpegHeader.read(filled)
    assert (header.width, header.height) == (20, 16)
    assert file_headers.JpegHeader.read(filled[: 20 << 20]) is None
    assert time.process_time() - start < 1
