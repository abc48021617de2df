import cv2
import numpy as np
import pytest
import tensorflow as tf

from model import curves, loop


def result(epoch, **figures):
    figures = {
        "loss": 1 / epoch,
        "accuracy": 1 - 0.5 / epoch,
        "validation_loss": 1.2 / epoch,
        "validation_accuracy": 1 - 0.6 / epoch,
        "learning_rate": 0.1 / epoch,
        "images_per_s": 100.0 * epoch,
        "seconds": 2.0,
    } | figures
    return loop.EpochResult(epoch=epoch, **figures)


def colours(image):
    """Pixels of the two curves' colours: blue is training, orange validation."""
    blue, red = image[..., 0].astype(int), image[..., 2].astype(int)
    return int((blue - red > 100).sum()), int((red - blue > 100).sum())


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_png(tmp_path, epochs):
    path = tmp_path / "curves.png"
    curves.draw([result(epoch) for epoch in range(1, epochs + 1)], path)
    image = cv2.imread(str(path))
    assert image.shape == (350, 900, 3)
    left, right = image[:, :450], image[:, 450:]
    for half in (left, right):  # both curves beyond what the legend draws of them
        assert min(colours(half)) > 100


def test_png_shows_the_figures(tmp_path):
    """Other figures, another picture; the same figures, the same bytes."""
    first = [result(1), result(2)]
    curves.draw(first, tmp_path / "one.png")
    curves.draw(first, tmp_path / "again.png")
    curves.draw([result(1), result(2, accuracy=0.1)], tmp_path / "other.png")
    one, again, other = (
        (tmp_path / f"{name}.png").read_bytes() for name in ("one", "again", "other")
    )
    assert one == again != other


def test_png_of_figures_that_are_no_numbers(tmp_path):
    curves.draw([result(1, validation_loss=np.nan), result(2)], tmp_path / "a.png")
    assert cv2.imread(str(tmp_path / "a.png")) is not None


def read_events(folder):
    """{name: [(step, value)]} of all event files of a folder."""
    found = {}
    for path in folder.iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                number = float(tf.make_ndarray(value.tensor))
                found.setdefault(value.tag, []).append((event.step, number))
    return found


def test_scalars_can_be_read_back(tmp_path):
    scalars = curves.Scalars(tmp_path)
    scalars.write(result(1))
    scalars.write(result(2))
    assert read_events(tmp_path / "training") == {
        "loss": [(1, 1.0), (2, 0.5)],
        "accuracy": [(1, 0.5), (2, 0.75)],
        "learning_rate": [(1, pytest.approx(0.1)), (2, pytest.approx(0.05))],
        "images_per_s": [(1, 100.0), (2, 200.0)],
    }
    assert read_events(tmp_path / "validation") == {
        "loss": [(1, pytest.approx(1.2)), (2, pytest.approx(0.6))],
        "accuracy": [(1, pytest.approx(0.4)), (2, pytest.approx(0.7))],
    }
