import cv2
import numpy as np
import pytest
import tensorflow as tf

from model.export import photo_graph
from pipeline.batches import preprocess
from pipeline.batches import single_photo as views
from tests import conftest, exif_files

SPECS = {
    resize: preprocess.InputSpec(
        size_px=40, short_side_px=48, resize=resize, source="test"
    )
    for resize in ("crop", "squash")
}
_graphs = {
    name: tf.function(
        lambda photo, spec=spec: photo_graph.view_of_photo(photo, spec),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )
    for name, spec in SPECS.items()
}


_viewers = {name: views.Viewer(spec) for name, spec in SPECS.items()}


def seen(data, resize="crop"):
    """As records and predictions are seen."""
    return _viewers[resize].of_file(data)


def view(data, resize="crop"):
    return _graphs[resize](tf.constant(data)).numpy()


def distance(data):
    """How far the graph's pixels are from prediction's, int [40, 40, 3]."""
    expected = seen(data).astype(int)
    return np.abs(view(data) - expected)


def encode(pixels, kind=".jpg"):
    return cv2.imencode(kind, pixels)[1].tobytes()


@pytest.mark.parametrize("resize", SPECS)
@pytest.mark.parametrize("size", [(240, 320), (320, 240), (41, 97), (512, 512), (1, 1)])
def test_taken_as_they_are(size, resize):
    """To the bit: the same bytes are decoded by the same decoder."""
    data = encode(conftest.draw_scene(1, *size))
    expected = seen(data, resize)
    np.testing.assert_array_equal(view(data, resize), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(orientation):
    data = exif_files.turned(encode(conftest.draw_scene(2, 130, 200)), orientation)
    assert distance(data).max() <= 1


@pytest.mark.parametrize("size", [(700, 900), (1100, 1024), (2100, 4300)])
def test_large(size):
    """Shrunk and encoded anew, as conversion does, by other code."""
    data = exif_files.turned(encode(conftest.draw_scene(3, *size)), 6)
    assert distance(data).max() <= 2
    assert distance(data).mean() < 0.1


def pngs():
    scene = conftest.draw_scene(4, 90, 120)
    alpha = np.linspace(0, 255, 120).astype(np.uint8) * np.ones((90, 1), np.uint8)
    deep = scene.astype(np.uint16) * 257 + np.arange(120, dtype=np.uint16)[:, None]
    return {
        "colour": scene,
        "grey": scene[..., 0],
        "transparent": np.dstack([scene, alpha]),
        "16 bits": deep,
        "large": conftest.draw_scene(5, 600, 1300),
    }


@pytest.mark.parametrize(("pixels"), pngs().values(), ids=pngs())
def test_png(pixels):
    data = encode(pixels, ".png")
    assert distance(data).max() <= (1 if min(pixels.shape[:2]) > 512 else 0)


def test_grey_jpeg():
    data = encode(conftest.draw_scene(6)[..., 0])
    np.testing.assert_array_equal(view(data), seen(data))


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"GIF89a", encode(np.zeros((9, 9, 3)))[:60]]
)
def test_no_photo(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        view(data)


@pytest.mark.parametrize("resize", SPECS)
@pytest.mark.parametrize(
    "view_of", [photo_graph.view_of_images, photo_graph.portable_view_of_images]
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_images_of_a_batch(dtype, view_of, resize):
    """As records are seen; the second image is another one of the same size."""
    scenes = [conftest.draw_scene(number, 240, 320) for number in (7, 8)]
    data = [encode(scene, ".png") for scene in scenes]
    pixels = np.stack(scenes)[..., ::-1].astype(dtype)
    found = view_of(tf.constant(pixels), SPECS[resize]).numpy()
    for number in range(2):
        expected = seen(data[number], resize)
        np.testing.assert_array_equal(found[number], expected)


def test_large_images():
    pixels = conftest.draw_scene(9, 700, 900)
    expected = seen(encode(pixels, ".png"))
    expected = expected.astype(int)
    batch = tf.constant(pixels[None, ..., ::-1].astype(np.float32))
    found = photo_graph.view_of_images(batch, SPECS["crop"]).numpy()[0]
    assert np.abs(found - expected).max() <= 1
    halved = photo_graph.portable_view_of_images(batch, SPECS["crop"]).numpy()[0]
    assert 1 < np.abs(halved - expected).max() < 40


@pytest.mark.parametrize("resize_min", [0, 300])
def test_large_photos_of_records_that_were_converted_otherwise(resize_min):
    pixels = conftest.draw_scene(9, 700, 900)
    for data in (encode(pixels), encode(pixels, ".png")):
        expected = _viewers["crop"].of_file(data, resize_min).astype(int)
        found = photo_graph.view_of_photo(
            tf.constant(data), SPECS["crop"], resize_min
        ).numpy()
        assert np.abs(found - expected).max() <= (8 if resize_min else 0)
        usual = _viewers["crop"].of_file(data).astype(int)
        assert np.abs(usual - expected).max() > 8
    batch = tf.constant(pixels[None, ..., ::-1].astype(np.float32))
    found = photo_graph.view_of_images(batch, SPECS["crop"], resize_min).numpy()[0]
    assert np.abs(found - expected).max() <= (1 if resize_min else 0)
