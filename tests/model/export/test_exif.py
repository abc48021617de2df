import cv2
import numpy as np
import pytest
import tensorflow as tf

from model.export import exif
from pipeline.images import record_image
from tests.exif_files import segment, tiff

PLAIN = cv2.imencode(".jpg", np.zeros((8, 12, 3), np.uint8))[1].tobytes()
orientation = tf.function(exif.orientation, autograph=False)


def with_segments(*segments):
    return PLAIN[:2] + b"".join(segments) + PLAIN[2:]


def exif_jpeg(value, order="<", **how):
    return with_segments(segment(b"Exif\0\0" + tiff(value, order, **how)))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("value", range(1, 9))
def test_orientations(value, order):
    found = orientation(tf.constant(exif_jpeg(value, order, before=value % 3)))
    assert (found.dtype, found.numpy()) == (tf.int32, value)


OTHERS = {
    "no EXIF": (PLAIN, 1),
    "no such tag": (exif_jpeg(6, tag=0x0111), 1),
    "zero": (exif_jpeg(0), 1),
    "nine": (exif_jpeg(9), 1),
    "behind other segments": (
        with_segments(
            segment(b"JFIF\0" + bytes(9), 0xE0),
            segment(b"http://ns.adobe.com/xap/1.0/\0"),
            b"\xff\xff\xff" + segment(b"Exif\0\0" + tiff(6)),
        ),
        6,
    ),
    "the first counts": (
        with_segments(*(segment(b"Exif\0\0" + tiff(value)) for value in (3, 6))),
        3,
    ),
    "more entries than there are": (exif_jpeg(8, count=60_000), 8),
    "fewer entries than there are": (exif_jpeg(8, before=2, count=2), 1),
    "directory beyond the end": (
        with_segments(segment(b"Exif\0\0II*\0\xff\xff\xff\xff" + tiff(6)[8:])),
        1,
    ),
    "other magic": (with_segments(segment(b"Exif\0\0XX*\0" + tiff(6)[4:])), 1),
    "only in the pixels": (PLAIN + segment(b"Exif\0\0" + tiff(6)), 1),
}


@pytest.mark.parametrize(("data", "expected"), OTHERS.values(), ids=OTHERS)
def test_others(data, expected):
    assert orientation(tf.constant(data)).numpy() == expected


HOSTILE = {
    "empty": b"",
    "start alone": b"\xff\xd8",
    "half a marker": b"\xff\xd8\xff",
    "no length": b"\xff\xd8\xff\xe1",
    "length zero": with_segments(segment(b"Exif\0\0" + tiff(6), length=0)),
    "fill bytes alone": b"\xff\xd8" + b"\xff" * 999,
    "restarts alone": b"\xff\xd8" + b"\xff\xd0" * 999,
    "EXIF alone": b"\xff\xd8" + segment(b"Exif\0\0"),
    "cut in the directory": b"\xff\xd8" + segment(b"Exif\0\0" + tiff(6)[:12]),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile(data):
    assert orientation(tf.constant(data)).numpy() == 1


def test_as_conversion_finds_it():
    """Damaged at random; both may call anything upright, but not turn differently."""
    random = np.random.default_rng(0)
    start = exif_jpeg(6, before=3)
    head = len(start) - len(PLAIN) + 2
    agree = 0
    for _ in range(200):
        data = bytearray(start)
        for place in random.integers(12, head, 2):
            data[place] = random.integers(256)
        try:
            theirs = record_image.encode_for_record(
                bytes(data), resize_min=512
            ).orientation
        except record_image.ImageError:
            continue
        agree += 1
        assert orientation(tf.constant(bytes(data))).numpy() == theirs
    assert agree > 100
