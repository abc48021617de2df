import dataclasses

import cv2
import numpy as np
import pytest

from model.predict import photo_batches
from pipeline.batches import image_batches
from pipeline.batches.input_spec import RESIZES, InputSpec
from pipeline.images import record_image
from pipeline.records.manifest_row import ImageError
from tests.support import conversions, drawn_photos

SPEC = InputSpec(size_px=20, short_side_px=24, source="test")


@pytest.mark.parametrize("resize", RESIZES)
def test_a_photo_gives_the_pixels_that_its_record_gives(photos, tmp_path, resize):
    large = cv2.resize(drawn_photos.draw_photo("red", 1), (900, 700))
    cv2.imwrite(str(photos / "red" / "large.jpg"), large)
    cv2.imwrite(str(photos / "red" / "other.bmp"), drawn_photos.draw_photo("red", 2))
    spec = dataclasses.replace(SPEC, resize=resize)
    converted = conversions.convert(photos, tmp_path / "out").manifest
    images = image_batches.Images(converted, converted.included(), spec, batch_size=5)
    network_input = photo_batches.NetworkInput(spec)
    rows = iter(images.rows)
    for batch in images:
        for pixels in batch["image"].numpy():
            data = (photos / next(rows).path).read_bytes()
            stored = record_image.encode_for_record(data)
            np.testing.assert_array_equal(network_input(stored), pixels)
    assert not list(rows)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(90, 60), (40, 61), (21, 20)])
def test_pixels_give_what_a_photo_of_them_gives(resize, size):
    network_input = photo_batches.NetworkInput(dataclasses.replace(SPEC, resize=resize))
    bgr = cv2.resize(drawn_photos.draw_photo("red", 1), size)
    stored = record_image.encode_for_record(cv2.imencode(".png", bgr)[1].tobytes())
    pixels = network_input.of_pixels(bgr[..., ::-1])
    np.testing.assert_array_equal(pixels, network_input(stored))


def test_an_image_that_tensorflow_refuses_is_an_image_error():
    stored = record_image.RecordImage(
        encoded=b"\xff\xd8\xff\xd9",
        format="jpeg",
        height=30,
        width=30,
        orientation=1,
        action="copied",
        phash="",
    )
    with pytest.raises(ImageError, match="JPEG that TensorFlow does not decode"):
        photo_batches.NetworkInput(SPEC)(stored)
