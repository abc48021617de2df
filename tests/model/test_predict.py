import cv2
import numpy as np
import pytest

from model import predict, run
from pipeline import dataset, manifest, preprocess
from tests import conftest

SPEC = preprocess.InputSpec(size_px=20, short_side_px=24, source="test")


def test_a_photo_is_seen_as_records_are(photos, tmp_path):
    """The pixels are those that evaluation looks at, format and size whatever."""
    from pipeline import convert

    large = cv2.resize(conftest.draw_photo("red", 1), (900, 700))
    cv2.imwrite(str(photos / "red" / "large.jpg"), large)
    cv2.imwrite(str(photos / "red" / "other.bmp"), conftest.draw_photo("red", 2))
    out = tmp_path / "out"
    convert.convert(convert.Config(source=str(photos), out=str(out), workers=1))
    for resize in ("crop", "squash"):
        spec = preprocess.InputSpec(
            size_px=20, short_side_px=24, resize=resize, source="test"
        )
        found = manifest.read(out)
        split = dataset.Evaluation(found, "", spec, batch_size=5)
        for batch in split:
            for index, image in zip(
                batch["row"].numpy(), batch["image"].numpy(), strict=True
            ):
                data = (photos / split.images.rows[index].path).read_bytes()
                np.testing.assert_array_equal(predict.view(data, spec), image)


class TestPredict:
    def test_run(self, shared_run, photos):
        paths = tuple(map(str, sorted(photos.rglob("*.jpg"))))
        found = predict.predict(predict.Config(photos=paths, run_dir=str(shared_run)))
        assert [prediction.photo for prediction in found] == list(paths)
        names = run.read(str(shared_run)).class_names
        for prediction in found:
            classes = dict(prediction.classes)
            assert {*classes} == {*names}
            assert sum(classes.values()) == pytest.approx(1)
            assert list(classes.values()) == sorted(classes.values(), reverse=True)
        right = [p.classes[0][0] in p.photo.rsplit("/", 1)[-1] for p in found]
        assert np.mean(right) > 0.9

    def test_top(self, shared_run, photos):
        photo = str(next(photos.rglob("*.jpg")))
        config = predict.Config(photos=(photo,), run_dir=str(shared_run), top=2)
        assert len(predict.predict(config)[0].classes) == 2

    def test_one_bad_photo_does_not_stop_the_others(self, shared_run, photos, tmp_path):
        (tmp_path / "bad.jpg").write_bytes(b"no photo")
        good = str(next(photos.rglob("*.jpg")))
        names = (str(tmp_path / "bad.jpg"), str(tmp_path / "gone.jpg"), good)
        found = predict.predict(predict.Config(photos=names, run_dir=str(shared_run)))
        assert [bool(p.problem) for p in found] == [True, True, False]
        assert found[2].classes
        done = conftest.run_command(
            "-m", "model.predict", f"--run_dir={shared_run}", *names
        )
        assert done.returncode == 2
        assert "2 of 3 photos could not be read, the first: " in done.stderr
        assert f"{good}\n  " in done.stdout
