import cv2
import numpy as np
import pytest

from model.loop import training_loop
from model.runs import learning_curves


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
    return training_loop.EpochResult(epoch=epoch, **figures)


def colours(image):
    """Pixels of the two curves' colours: blue is training, orange validation."""
    blue, red = image[..., 0].astype(int), image[..., 2].astype(int)
    return int((blue - red > 100).sum()), int((red - blue > 100).sum())


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_png(tmp_path, epochs):
    path = tmp_path / "curves.png"
    learning_curves.draw({"": [result(epoch) for epoch in range(1, epochs + 1)]}, path)
    image = cv2.imread(str(path))
    assert image.shape == (350, 900, 3)
    left, right = image[:, :450], image[:, 450:]
    for half in (left, right):  # both curves beyond what the legend draws of them
        assert min(colours(half)) > 30


def test_png_shows_the_figures(tmp_path):
    """Other figures, another picture; the same figures, the same bytes."""
    first = [result(1), result(2)]
    learning_curves.draw({"": first}, tmp_path / "one.png")
    learning_curves.draw({"": first}, tmp_path / "again.png")
    other = {"": [result(1), result(2, accuracy=0.1)]}
    learning_curves.draw(other, tmp_path / "other.png")
    one, again, other = (
        (tmp_path / f"{name}.png").read_bytes() for name in ("one", "again", "other")
    )
    assert one == again != other


def test_png_of_figures_that_are_no_numbers(tmp_path):
    results = [result(1, validation_loss=np.nan), result(2)]
    learning_curves.draw({"": results}, tmp_path / "a.png")
    assert cv2.imread(str(tmp_path / "a.png")) is not None


def test_smoothing_by_hand():
    assert learning_curves.smoothed([1.0, 2.0, 0.0]) == pytest.approx(
        [1, 0.8 + 0.4, 0.8 * 1.2 + 0]
    )
    assert learning_curves.smoothed([]) == []


def test_png_of_two_networks_in_stages(tmp_path):
    epochs = [result(n, stage="head" if n < 3 else "all") for n in range(1, 6)]
    learning_curves.draw(
        {"pretrained": epochs, "scratch": epochs[:4]}, tmp_path / "a.png"
    )
    learning_curves.draw({"pretrained": epochs}, tmp_path / "b.png")
    first, second = (cv2.imread(str(tmp_path / name)) for name in ("a.png", "b.png"))
    assert first.shape == second.shape == (350, 900, 3)
    assert (first != second).any()
