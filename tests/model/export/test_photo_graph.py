import contextlib

import cv2
import numpy as np
import pytest
import tensorflow as tf

from model.export import photo_graph
from model.predict import photo_batches
from pipeline.batches.input_spec import RESIZES, InputSpec
from pipeline.images import record_image
from pipeline.records.manifest_row import ImageError
from tests.support import drawn_photos

SPECS = {
    resize: InputSpec(size_px=40, short_side_px=48, resize=resize, source="test")
    for resize in RESIZES
}
_graphs = {
    name: tf.function(
        lambda photo, spec=spec: photo_graph.view_of_photo(photo, spec),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )
    for name, spec in SPECS.items()
}
_network_inputs = {
    name: photo_batches.NetworkInput(spec) for name, spec in SPECS.items()
}


def expected_view(data, resize="crop", **options):
    """The view that evaluation and prediction use."""
    return _network_inputs[resize](record_image.encode_for_record(data, **options))


def view(data, resize="crop"):
    return _graphs[resize](tf.constant(data)).numpy()


def distance(data):
    """Absolute differences from the expected view, int [40, 40, 3]."""
    expected = expected_view(data).astype(int)
    return np.abs(view(data) - expected)


def encode(pixels, kind=".jpg"):
    return cv2.imencode(kind, pixels)[1].tobytes()


@pytest.mark.parametrize("resize", SPECS)
@pytest.mark.parametrize("size", [(240, 320), (320, 240), (41, 97), (512, 512), (1, 1)])
def test_a_small_upright_jpeg_gives_the_same_pixels(size, resize):
    scene = drawn_photos.draw_scene(1, *size)
    for data in (encode(scene), encode(scene[..., 0])):
        np.testing.assert_array_equal(view(data, resize), expected_view(data, resize))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_turned_upright(orientation):
    data = drawn_photos.with_orientation(
        encode(drawn_photos.draw_scene(2, 130, 200)), orientation
    )
    assert distance(data).max() <= 1


@pytest.mark.parametrize("size", [(700, 900), (1100, 1024), (2100, 4300)])
def test_a_large_jpeg_is_shrunk_and_encoded_again(size):
    data = drawn_photos.with_orientation(encode(drawn_photos.draw_scene(3, *size)), 6)
    assert distance(data).max() <= 2
    assert distance(data).mean() < 0.1


def pngs():
    scene = drawn_photos.draw_scene(4, 90, 120)
    alpha = np.linspace(0, 255, 120).astype(np.uint8) * np.ones((90, 1), np.uint8)
    deep = scene.astype(np.uint16) * 257 + np.arange(120, dtype=np.uint16)[:, None]
    return {
        "colour": scene,
        "grey": scene[..., 0],
        "transparent": np.dstack([scene, alpha]),
        "16 bits": deep,
        "large": drawn_photos.draw_scene(5, 600, 1300),
    }


@pytest.mark.parametrize(("pixels"), pngs().values(), ids=pngs())
def test_a_png_of_any_kind_is_decoded_over_white(pixels):
    data = encode(pixels, ".png")
    assert distance(data).max() <= (1 if min(pixels.shape[:2]) > 512 else 0)


@pytest.mark.parametrize("white_level", [2000, 4095])
def test_white_of_sixteen_bits_is_that_of_conversion(white_level):
    pixels = drawn_photos.draw_scene(4, 90, 120).astype(np.uint16) * 16
    data = encode(np.dstack([pixels, np.full((90, 120), 50_000, np.uint16)]), ".png")
    result = photo_graph.view_of_photo(
        tf.constant(data), SPECS["crop"], white_level=white_level
    )
    expected = expected_view(data, white_level=white_level)
    np.testing.assert_array_equal(result.numpy(), expected)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"GIF89a", encode(np.zeros((9, 9, 3)))[:60]]
)
def test_other_files_are_refused(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        view(data)


@pytest.mark.parametrize("resize", SPECS)
@pytest.mark.parametrize(
    "view_of", [photo_graph.view_of_images, photo_graph.portable_view_of_images]
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_each_image_of_a_batch_gets_its_view(dtype, view_of, resize):
    scenes = [drawn_photos.draw_scene(number, 240, 320) for number in (7, 8)]
    data = [encode(scene, ".png") for scene in scenes]
    pixels = np.stack(scenes)[..., ::-1].astype(dtype)
    views = view_of(tf.constant(pixels), SPECS[resize]).numpy()
    expected = [expected_view(encoded, resize) for encoded in data]
    np.testing.assert_array_equal(views, expected)


def test_large_images_are_shrunk_first_except_in_portable_graphs():
    pixels = drawn_photos.draw_scene(9, 700, 900)
    expected = expected_view(encode(pixels, ".png")).astype(int)
    batch = tf.constant(pixels[None, ..., ::-1].astype(np.float32))
    shrunk = photo_graph.view_of_images(batch, SPECS["crop"]).numpy()[0]
    assert np.abs(shrunk - expected).max() <= 1
    halved = photo_graph.portable_view_of_images(batch, SPECS["crop"]).numpy()[0]
    assert 1 < np.abs(halved - expected).max() < 40


@pytest.mark.parametrize("resize_min", [0, 300])
def test_photos_are_shrunk_to_the_size_that_the_records_have(resize_min):
    pixels = drawn_photos.draw_scene(9, 700, 900)
    for data in (encode(pixels), encode(pixels, ".png")):
        expected = expected_view(data, resize_min=resize_min).astype(int)
        result = photo_graph.view_of_photo(tf.constant(data), SPECS["crop"], resize_min)
        assert np.abs(result.numpy() - expected).max() <= (8 if resize_min else 0)
        assert np.abs(expected_view(data) - expected).max() > 8
    batch = tf.constant(pixels[None, ..., ::-1].astype(np.float32))
    (result,) = photo_graph.view_of_images(batch, SPECS["crop"], resize_min).numpy()
    assert np.abs(result - expected).max() <= (1 if resize_min else 0)


PLAIN = cv2.imencode(".jpg", np.zeros((8, 12, 3), np.uint8))[1].tobytes()
orientation = tf.function(photo_graph.orientation, autograph=False)


TIFF = drawn_photos.exif_tiff(6)


def with_segments(*segments):
    return PLAIN[:2] + b"".join(segments) + PLAIN[2:]


def exif(tiff, **options):
    return drawn_photos.jpeg_segment(b"Exif\0\0" + tiff, **options)


def exif_jpeg(value, order="<", **tags):
    return with_segments(exif(drawn_photos.exif_tiff(value, order, **tags)))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("value", range(1, 9))
def test_every_orientation_is_read_in_either_byte_order(value, order):
    result = orientation(tf.constant(exif_jpeg(value, order, before=value % 3)))
    assert (result.dtype, result.numpy()) == (tf.int32, value)


OTHERS = {
    "no EXIF": (PLAIN, 1),
    "no such tag": (exif_jpeg(6, tag=0x0111), 1),
    "zero": (exif_jpeg(0), 1),
    "nine": (exif_jpeg(9), 1),
    "behind other segments": (
        with_segments(
            drawn_photos.jpeg_segment(b"JFIF\0" + bytes(9), 0xE0),
            drawn_photos.jpeg_segment(b"http://ns.adobe.com/xap/1.0/\0"),
            b"\xff\xff\xff" + exif(TIFF),
        ),
        6,
    ),
    "the first counts": (with_segments(exif(drawn_photos.exif_tiff(3)), exif(TIFF)), 3),
    "more entries than there are": (exif_jpeg(8, count=60_000), 8),
    "fewer entries than there are": (exif_jpeg(8, before=2, count=2), 1),
    "directory beyond the end": (
        with_segments(exif(b"II*\0\xff\xff\xff\xff" + TIFF[8:])),
        1,
    ),
    "other magic": (with_segments(exif(b"XX*\0" + TIFF[4:])), 1),
    "only in the pixels": (PLAIN + exif(TIFF), 1),
    "empty": (b"", 1),
    "start alone": (b"\xff\xd8", 1),
    "half a marker": (b"\xff\xd8\xff", 1),
    "no length": (b"\xff\xd8\xff\xe1", 1),
    "length zero": (with_segments(exif(TIFF, length=0)), 1),
    "fill bytes alone": (b"\xff\xd8" + b"\xff" * 999, 1),
    "restarts alone": (b"\xff\xd8" + b"\xff\xd0" * 999, 1),
    "EXIF alone": (b"\xff\xd8" + exif(b""), 1),
    "cut in the directory": (b"\xff\xd8" + exif(TIFF[:12]), 1),
}


@pytest.mark.parametrize(("data", "expected"), OTHERS.values(), ids=OTHERS)
def test_the_first_valid_orientation_counts(data, expected):
    assert orientation(tf.constant(data)).numpy() == expected


def test_conversion_reads_the_same_orientation_of_damaged_files():
    random = np.random.default_rng(0)
    start = exif_jpeg(6, before=3)
    head = len(start) - len(PLAIN) + 2
    agree = 0
    for _ in range(200):
        data = bytearray(start)
        for place in random.integers(12, head, 2):
            data[place] = random.integers(256)
        with contextlib.suppress(ImageError):
            stored = record_image.encode_for_record(bytes(data), resize_min=512)
            result = orientation(tf.constant(bytes(data)))
            assert result.numpy() == stored.orientation
            agree += 1
    assert agree > 100
