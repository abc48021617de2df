"""What is predicted is seen as what was trained on."""

import cv2
import numpy as np
import pytest

from pipeline.batches import dataset, single_photo
from pipeline.batches.input_spec import InputSpec
from pipeline.convert import conversion, convert_settings
from pipeline.images import isolated_decoder, record_image
from pipeline.images.errors import ImageError
from pipeline.records import manifest
from tests.support import drawn_photos

SPEC = InputSpec(size_px=20, short_side_px=24, source="test")


@pytest.fixture(scope="module")
def running():
    with isolated_decoder.Decoders(1, timeout_s=30) as found:
        yield found


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_a_photo_gives_the_pixels_that_its_record_gives(
    photos, tmp_path, running, resize
):
    """The pixels are those that evaluation looks at, format and size whatever."""
    large = cv2.resize(drawn_photos.draw_photo("red", 1), (900, 700))
    cv2.imwrite(str(photos / "red" / "large.jpg"), large)
    cv2.imwrite(str(photos / "red" / "other.bmp"), drawn_photos.draw_photo("red", 2))
    out = tmp_path / "out"
    conversion.convert(
        convert_settings.Config(source=str(photos), out=str(out), workers=1)
    )
    spec = InputSpec(size_px=20, short_side_px=24, resize=resize, source="test")
    found = manifest.read(out)
    split = dataset.Evaluation(found, "", spec, batch_size=5)
    network_input = single_photo.NetworkInput(spec)
    seen = 0
    for batch in split:
        for index, pixels in zip(
            batch["row"].numpy(), batch["image"].numpy(), strict=True
        ):
            data = (photos / split.images.rows[index].path).read_bytes()
            np.testing.assert_array_equal(network_input(running.decode(data)), pixels)
            seen += 1
    assert seen == len(found.included())


def turned_away(pixels, orientation):
    """Stored pixels that a viewer who heeds the orientation shows as `pixels`.

    Source: CIPA DC-008 (Exif 2.32): which of the image's sides row 0 and column 0 are.
    """
    return {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: p.swapaxes(0, 1)[::-1],
        7: lambda p: p.swapaxes(0, 1)[::-1, ::-1],
        8: lambda p: p.swapaxes(0, 1)[:, ::-1],
    }[orientation](pixels)


def png_with_orientation(pixels, orientation):
    """A PNG, whose pixels are exact, with an EXIF chunk."""
    import zlib

    data = cv2.imencode(".png", np.ascontiguousarray(pixels))[1].tobytes()
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01" + bytes([0, orientation, 0, 0])
    exif = b"MM\0*\0\0\0\x08\0\x01" + entry + b"\0\0\0\0"
    chunk = b"eXIf" + exif
    whole = len(exif).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return data[:33] + whole + data[33:]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_turned_by_exif_are_seen_upright(running, orientation):
    upright = drawn_photos.draw_photo("blue", 3, 60, 90)
    data = png_with_orientation(turned_away(upright, orientation), orientation)
    network_input = single_photo.NetworkInput(SPEC)
    expected = running.decode(cv2.imencode(".png", upright)[1].tobytes())
    np.testing.assert_array_equal(
        network_input(running.decode(data)), network_input(expected)
    )


def test_an_image_that_tensorflow_refuses_is_an_image_error(running):
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
        single_photo.NetworkInput(SPEC)(stored)
