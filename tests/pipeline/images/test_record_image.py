"""What becomes of a file's bytes; TensorFlow's decoder is the judge of copies."""

import os
import pickle
import struct
import zlib

import cv2
import numpy as np
import pytest
import tensorflow as tf

from pipeline.images import opencv, record_image
from pipeline.records.manifest_row import Code, ImageError
from pipeline.system import platform_support
from tests.support import drawn_photos


def jpeg(pixels, flags=()):
    return bytes(cv2.imencode(".jpg", pixels, flags)[1])


def png(pixels):
    return bytes(cv2.imencode(".png", pixels)[1])


def photo(height=120, width=160):
    return drawn_photos.draw_photo("red", 1, height, width)


encode = record_image.encode_for_record


def encode_as_worker(data):
    """Encode with stderr as workers use it, which is given back afterwards."""
    stderr = os.dup(2)
    platform_support.collect_stderr()
    try:
        return encode(data)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def decoded_by_tensorflow(data):
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()


@pytest.mark.parametrize(
    "data",
    [
        jpeg(photo()),
        jpeg(photo(), flags=[cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        jpeg(photo(), flags=[cv2.IMWRITE_JPEG_RST_INTERVAL, 4]),
        jpeg(photo(), flags=[cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]),
        jpeg(photo()[..., 0]),
        jpeg(photo()[:1, :1]),
        drawn_photos.with_orientation(jpeg(photo()), 1),
    ],
    ids=["plain", "progressive", "restarts", "4:4:4", "grey", "one pixel", "upright"],
)
def test_plain_jpeg_is_copied_byte_for_byte(data):
    found = encode(data)
    assert (found.action, found.format, found.encoded) == ("copied", "jpeg", data)
    assert (found.codes, found.reason) == ((), "")
    pixels = decoded_by_tensorflow(found.encoded)
    assert pixels.shape == (found.height, found.width, 3)
    np.testing.assert_array_equal(pixels, opencv.decode_rgb(found.encoded))


def png_chunk(kind, body):
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
def test_a_turned_jpeg_is_encoded_upright(order):
    pixels = cv2.GaussianBlur(photo(), (0, 0), 2)
    exif = drawn_photos.jpeg_segment(b"Exif\0\0" + drawn_photos.exif_tiff(6, order))
    data = jpeg(pixels)
    found = encode(data[:2] + exif + data[2:])
    assert (found.height, found.width, found.orientation) == (160, 120, 6)
    assert found.codes == (Code.TURNED_UPRIGHT,)
    assert found.reason == "turned upright (EXIF orientation 6)"
    upright = np.rot90(pixels, -1)[..., ::-1].astype(int)
    assert np.abs(opencv.decode_rgb(found.encoded) - upright).mean() < 2


@pytest.mark.parametrize(
    "tiff",
    [
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        b"MM\0*\0\0\0\x08\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x63\0\0",
        b"what is this",
    ],
)
def test_damaged_exif_means_upright(tiff):
    data = jpeg(photo())
    segment = drawn_photos.jpeg_segment(b"Exif\0\0" + tiff)
    found = encode(data[:2] + segment + data[2:])
    assert (found.action, found.orientation) == ("copied", 1)


def test_png_stays_lossless():
    pixels = photo()
    found = encode(png(pixels))
    assert (found.format, found.action) == ("png", "reencoded")
    np.testing.assert_array_equal(
        tf.io.decode_png(found.encoded, channels=3), pixels[..., ::-1]
    )


@pytest.mark.parametrize("extension", [".bmp", ".webp", ".tiff", ".ppm"])
def test_other_formats_become_jpeg(extension):
    pixels = cv2.GaussianBlur(photo(), (0, 0), 2)
    found = encode(bytes(cv2.imencode(extension, pixels)[1]))
    assert (found.format, found.action) == ("jpeg", "reencoded")
    assert found.codes == (Code.NOT_JPEG,)
    assert found.reason.endswith(" source")
    difference = decoded_by_tensorflow(found.encoded)[..., ::-1].astype(int) - pixels
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(600, 900, (256, 384)), (900, 600, (384, 256)), (257, 257, (256, 256))],
)
def test_large_photos_are_shrunk_by_their_short_side(height, width, expected):
    found = encode(jpeg(photo(height, width)), resize_min=256)
    assert (found.height, found.width) == expected
    assert found.codes == (Code.SHRUNK,)
    assert found.reason == "shrunk to short side 256"
    assert decoded_by_tensorflow(found.encoded).shape[:2] == expected


def test_shrinking_while_decoding_gives_the_same_picture():
    pixels = cv2.GaussianBlur(photo(2100, 2400), (0, 0), 9)
    found = decoded_by_tensorflow(encode(jpeg(pixels), resize_min=256).encoded)
    size = (found.shape[1], found.shape[0])
    expected = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)[..., ::-1]
    assert np.abs(found.astype(int) - expected).mean() < 2


def test_without_a_limit_large_photos_are_copied():
    data = jpeg(photo(600, 900))
    assert encode(data, resize_min=0).encoded == data


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("resize_min", [512, 16], ids=["full", "reduced"])
def test_a_jpeg_that_is_cut_off_is_refused(share, resize_min):
    data = jpeg(photo(300, 400))
    with pytest.raises(ImageError):
        encode(data[: int(len(data) * share)], resize_min=resize_min)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"", Code.EMPTY, "empty file"),
        (b"hello, I am a text", Code.NOT_AN_IMAGE, "not an image"),
        (b"%PDF-1.4 and so on", Code.NOT_AN_IMAGE, "a PDF file"),
        (b"\0\0\0\x18ftypheic" + bytes(40), Code.UNDECODABLE, "HEIC"),
        (b"\xff\xd8\xff\xe0", Code.UNDECODABLE, "JPEG that does not decode"),
        (png(photo())[:200], Code.UNDECODABLE, "PNG that does not decode"),
    ],
    ids=["empty", "text", "pdf", "heic", "jpeg start", "cut png"],
)
def test_a_file_that_is_no_image_is_refused(data, kind, message):
    with pytest.raises(ImageError, match=message) as raised:
        encode(data)
    assert raised.value.kind is kind


def test_an_error_comes_whole_out_of_another_process():
    error = ImageError(Code.EMPTY, "empty file")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.kind, str(copy)) == (Code.EMPTY, "empty file")


def test_bombs_are_refused_before_decoding():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = png(photo())
    with pytest.raises(ImageError, match="larger than") as raised:
        encode(data[:8] + png_chunk(b"IHDR", header) + data[33:])
    assert raised.value.kind is Code.TOO_MANY_PIXELS


@pytest.mark.parametrize("seed", range(2))
def test_tensorflow_and_opencv_decode_copied_files_alike(seed):
    """Damaged at random, a file is refused, or encoded again, or decodes the same."""
    random = np.random.default_rng(seed)
    original = jpeg(photo(64, 80))
    outcomes = set()
    for _ in range(150):
        data = bytearray(original)
        for position in random.integers(2, len(data), int(random.integers(1, 4))):
            data[position] = random.integers(256)
        try:
            found = encode_as_worker(bytes(data))
        except ImageError:
            outcomes.add("refused")
            continue
        outcomes.add(found.action)
        pixels = decoded_by_tensorflow(found.encoded)
        assert pixels.shape == (found.height, found.width, 3)
        difference = pixels.astype(int) - opencv.decode_rgb(found.encoded)
        assert np.abs(difference).max() <= (0 if found.action == "copied" else 1)
    assert {"copied", "refused"} <= outcomes


def test_a_picture_of_fewer_bits_needs_a_white_level():
    numbers = np.array([[0, 1500, 4095]], np.uint16)
    with pytest.raises(ImageError, match="uses 12 of its 16 bits") as raised:
        encode(png(numbers))
    assert raised.value.kind is Code.UNSUPPORTED_PIXELS
    found = encode(png(numbers), white_level=3000)
    assert opencv.decode_rgb(found.encoded)[0, :, 0].tolist() == [0, 128, 255]


def without_fine_scans(data):
    """TensorFlow smooths such a progressive file, and OpenCV does not."""
    second_scan = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    return data[:second_scan] + b"\xff\xd9"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (jpeg(photo()) + b"more", "JPEG with data after its end"),
        (
            without_fine_scans(jpeg(photo(), flags=[cv2.IMWRITE_JPEG_PROGRESSIVE, 1])),
            "progressive JPEG that ends after its first scan",
        ),
    ],
    ids=["more data", "one scan"],
)
def test_unusual_jpegs_are_not_copied(data, reason):
    found = encode(data)
    assert (found.codes, found.reason) == ((Code.UNUSUAL_JPEG,), reason)
    assert found.encoded.endswith(b"\xff\xd9")
