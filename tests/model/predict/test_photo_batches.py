from pathlib import Path

import numpy as np

from model.predict import photo_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.images import isolated_decoder, record_image
from tests.support import conversions

SPEC = InputSpec(size_px=20, short_side_px=24, source="test")


def test_photos_come_in_order_and_problems_with_them(photos, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    paths = sorted(map(str, photos.rglob("*.jpg")))[:11]
    paths[4:4] = [str(tmp_path / "bad.jpg"), str(tmp_path / "gone.jpg")]
    batches = list(photo_batches.read(iter(paths), SPEC, batch_size=5))
    assert [len(batch.photos) for batch in batches] == [5, 5, 3]
    assert [photo for batch in batches for photo in batch.photos] == paths
    problems = [problem for batch in batches for problem in batch.problems]
    assert [number for number, problem in enumerate(problems) if problem] == [4, 5]
    assert "not an image" in str(problems[4])
    network_input = photo_batches.NetworkInput(SPEC)
    good = [path for path, problem in zip(paths, problems, strict=True) if not problem]
    images = np.concatenate([batch.images for batch in batches])
    assert len(images) == len(good)
    for path, pixels in zip(good, images, strict=True):
        stored = record_image.encode_for_record(Path(path).read_bytes())
        np.testing.assert_array_equal(pixels, network_input(stored))


def test_only_two_batches_are_read_ahead(photos, monkeypatch):
    monkeypatch.setattr(isolated_decoder, "Decoders", conversions.Decoders)
    requested = []

    def names():
        for number in range(10_000):
            requested.append(number)
            yield str(photos / "red" / "red000.jpg")

    batches = photo_batches.read(names(), SPEC, batch_size=4)
    next(batches)
    assert len(requested) <= 12
    next(batches)
    assert len(requested) <= 16
    batches.close()


def test_no_photos_are_no_batches():
    assert list(photo_batches.read([], SPEC, batch_size=4)) == []
