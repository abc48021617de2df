import time

import cv2
import numpy as np
import pytest

from model.runs import image_grid

NAMES = ("daisy", "rose", "tulip")


def batch(count, height=32, width=None, seed=0):
    random = np.random.default_rng(seed)
    shape = (count, height, width or height, 3)
    return random.integers(0, 200, shape, np.uint8)


def labels_of(count):
    return np.arange(count, dtype=np.int32) % 3


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)


@pytest.mark.parametrize("count", [1, 3, 8, 9, 40, 64])
def test_the_png_is_the_sheet_with_names_below(tmp_path, count):
    path = tmp_path / "sheet.png"
    found = image_grid.draw(batch(count), labels_of(count), NAMES, path)
    picture = read(path)
    assert picture.shape == found.shape
    assert found.dtype == np.uint8
    # Where the two differ, the sheet is white and the picture has text.
    differs = (picture != found).any(axis=2)
    assert differs.any()
    assert (found[differs] == 255).all()


def test_images_lie_in_rows_of_eight(tmp_path):
    images = batch(10)
    found = image_grid.draw(images, labels_of(10), NAMES, tmp_path / "a.png")
    # 32 pixels become 96, with 6 between and 12 for a line of text.
    assert found.shape == (2 * (96 + 12 + 6), 8 * (96 + 6) + 6, 3)
    for number, (row, column) in enumerate(divmod(n, 8) for n in range(10)):
        top, left = 6 + row * 114, 6 + column * 102
        tile = found[top : top + 96, left : left + 96]
        assert (tile[::3, ::3] == images[number]).all()
    assert (found[6 + 114 :, 6 + 2 * 102 :] == 255).all()  # no more images


def test_large_images_become_means(tmp_path):
    images = batch(2, height=224, width=300)
    found = image_grid.draw(images, labels_of(2), NAMES, tmp_path / "a.png")
    # By 3: 300 are more than twice 112.
    assert found.shape == (74 + 12 + 6, 2 * 106 + 6, 3)
    expected = images[0, :222].reshape(74, 3, 100, 3, 3).mean(axis=(1, 3))
    assert np.abs(found[6:80, 6:106] - expected).max() <= 0.51


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (113, 57)])
def test_odd_shapes(tmp_path, shape):
    found = image_grid.draw(batch(3, *shape), labels_of(3), NAMES, tmp_path / "a.png")
    assert read(tmp_path / "a.png").shape == found.shape


def test_the_canvas_has_every_size(tmp_path):
    """29 / 100 * 100 is below 29."""
    for count in (1, 2, 5):
        for width in range(57, 113, 5):
            images = batch(count, 60, width)
            found = image_grid.draw(images, labels_of(count), NAMES, tmp_path / "a.png")
            assert read(tmp_path / "a.png").shape == found.shape


def texts(labels, names=NAMES):
    """What stands under the images."""
    return [image_grid.caption(label, names) for label in np.asarray(labels)]


def test_mixed_labels_have_two_names(tmp_path):
    shares = np.array([[0.25, 0, 0.75], [0, 1, 0], [0.5, 0.5, 0]], np.float32)
    assert texts(shares) == [
        [("tulip", " 75 %"), ("daisy", " 25 %")],
        [("rose", "")],
        [("daisy", " 50 %"), ("rose", " 50 %")],
    ]
    images = batch(3)
    two = image_grid.draw(images, shares, NAMES, tmp_path / "a.png")
    one = image_grid.draw(images, labels_of(3), NAMES, tmp_path / "b.png")
    assert len(two) == len(one) + 12
    assert texts(np.float32([[1.0]]), ("all",)) == [[("all", "")]]


def test_long_names_end_in_an_ellipsis():
    name = "Taraxacum officinale"
    assert image_grid.shorten(name, "", 21) == name
    assert image_grid.shorten(name, "", 12) == "Taraxacum o…"
    assert image_grid.shorten(name, " 75 %", 12) == "Taraxa… 75 %"
    assert image_grid.shorten("rose", " 75 %", 3) == "… 75 %"


def test_a_name_stays_under_its_image(tmp_path):
    """The longest of the first column end before the second begins."""
    names = ("W" * 200, "x", "y")
    path = tmp_path / "a.png"
    found = image_grid.draw(batch(2), np.array([0, 1]), names, path)
    text = (read(path) != found).any(axis=(0, 2))
    assert text[6:102].any()
    assert not text[103:107].any()


@pytest.mark.parametrize(
    "name", ["$x_", "\\frac", "花", "a\nb", "\x1b[31m", "%", "é", "b\udcff"]
)
def test_odd_names(tmp_path, name):
    image_grid.draw(batch(1), np.array([0]), (name,), tmp_path / "a.png")
    assert read(tmp_path / "a.png") is not None


def test_same_batch_same_bytes(tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        image_grid.draw(batch(3, seed=seed), labels_of(3), NAMES, tmp_path / name)
    one, same, other = ((tmp_path / n).read_bytes() for n in ("one", "same", "other"))
    assert one == same != other


def test_takes_no_second(tmp_path):
    images = batch(64, 224)
    image_grid.draw(images, labels_of(64), NAMES, tmp_path / "a.png")
    start = time.perf_counter()
    image_grid.draw(images, labels_of(64), NAMES, tmp_path / "a.png")
    assert time.perf_counter() - start < 1
