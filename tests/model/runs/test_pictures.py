import cv2
import numpy as np
import pytest

from model.runs import pictures
from tests.support import small_runs

NAMES = ("daisy", "rose", "tulip")
result = small_runs.epoch_result


def batch(count, height=32, width=None, seed=0):
    random = np.random.default_rng(seed)
    shape = (count, height, width or height, 3)
    return random.integers(0, 200, shape, np.uint8)


@pytest.fixture
def draw(tmp_path):
    """Return a function that draws images; it returns the sheet and the PNG."""
    path = tmp_path / "sheet.png"

    def draw(images, labels=None, names=NAMES):
        labels = np.arange(len(images)) % 3 if labels is None else np.array(labels)
        sheet = pictures.draw_grid(images, labels, names, path)
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        assert picture.shape == sheet.shape
        return sheet, picture

    return draw


@pytest.mark.parametrize("count", [1, 9, 40])
def test_the_png_is_the_sheet_with_names_below(draw, count):
    sheet, picture = draw(batch(count))
    assert sheet.dtype == np.uint8
    # Where the two differ, the sheet is white and the picture has text.
    differs = (picture != sheet).any(axis=2)
    assert differs.any()
    assert (sheet[differs] == 255).all()


def test_images_lie_in_rows_of_eight(draw):
    images = batch(10)
    sheet, _ = draw(images)
    # 32 pixels become 96, with 6 between and 12 for a line of text.
    assert sheet.shape == (2 * (96 + 12 + 6), 8 * (96 + 6) + 6, 3)
    for number, (row, column) in enumerate(divmod(n, 8) for n in range(10)):
        top, left = 6 + row * 114, 6 + column * 102
        tile = sheet[top : top + 96, left : left + 96]
        assert (tile[::3, ::3] == images[number]).all()
    assert (sheet[6 + 114 :, 6 + 2 * 102 :] == 255).all()  # no more images


def test_large_images_become_means(draw):
    images = batch(2, height=224, width=300)
    sheet, _ = draw(images)
    # By 3: 300 are more than twice 112.
    assert sheet.shape == (74 + 12 + 6, 2 * 106 + 6, 3)
    expected = images[0, :222].reshape(74, 3, 100, 3, 3).mean(axis=(1, 3))
    assert np.abs(sheet[6:80, 6:106] - expected).max() <= 0.51


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (113, 57)])
def test_images_of_any_shape_are_drawn(draw, shape):
    draw(batch(3, *shape))


def test_the_png_has_the_size_of_the_sheet(draw):
    """In floating point 29 / 100 * 100 is below 29."""
    for width in range(57, 113, 8):
        draw(batch(5, 60, width))


def test_mixed_labels_have_two_names(draw):
    shares = np.array([[0.25, 0, 0.75], [0, 1, 0], [0.5, 0.5, 0]], np.float32)
    assert [pictures.caption(label, NAMES, 10) for label in shares] == [
        "tulip 75 %\ndaisy 25 %",
        "rose",
        "daisy 50 %\nrose 50 %",
    ]
    assert len(draw(batch(3), shares)[0]) == len(draw(batch(3))[0]) + 12
    assert pictures.caption(np.float32([1]), ("all",), 10) == "all"
    assert pictures.caption(np.int32(2), NAMES, 4) == "tul…"


def test_long_names_end_in_an_ellipsis():
    name = "Taraxacum officinale"
    assert pictures.shorten(name, "", 21) == name
    assert pictures.shorten(name, "", 12) == "Taraxacum o…"
    assert pictures.shorten(name, " 75 %", 12) == "Taraxa… 75 %"
    assert pictures.shorten("rose", " 75 %", 3) == "… 75 %"


def test_a_long_name_ends_before_the_next_image(draw):
    sheet, picture = draw(batch(2), [0, 1], ("W" * 200, "x", "y"))
    has_text = (picture != sheet).any(axis=(0, 2))
    assert has_text[6:102].any()
    assert not has_text[103:107].any()


def test_unusual_names_are_drawn(draw):
    names = ("$x_", "\\frac", "花", "a\nb", "\x1b[31m", "%", "é", "b\udcff")
    draw(batch(8), range(8), names)


def test_the_same_batch_gives_the_same_bytes(tmp_path):
    for name, seed in (("first", 0), ("same", 0), ("other", 1)):
        pictures.draw_grid(batch(3, seed=seed), np.arange(3), NAMES, tmp_path / name)
    first, same, other = (
        (tmp_path / name).read_bytes() for name in ("first", "same", "other")
    )
    assert first == same != other


@pytest.fixture
def curves(tmp_path):
    """Return a function that draws curves; it returns the PNG, BGR."""

    def draw(results):
        pictures.draw_curves(results, tmp_path / "curves.png")
        picture = cv2.imread(str(tmp_path / "curves.png"))
        assert picture.shape == (350, 900, 3)
        return picture

    return draw


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_both_diagrams_show_both_splits(curves, epochs):
    picture = curves({"": [result(n + 1) for n in range(epochs)]}).astype(int)
    for half in (picture[:, :450], picture[:, 450:]):
        # Blue is training, orange validation: more of both than the legend has.
        more_blue = half[..., 0] - half[..., 2]
        assert (more_blue > 100).sum() > 30
        assert (more_blue < -100).sum() > 30


def test_the_picture_depends_on_the_figures(curves):
    first = curves({"": [result(1), result(2)]})
    assert (first == curves({"": [result(1), result(2)]})).all()
    assert (first != curves({"": [result(1), result(2, accuracy=0.1)]})).any()


def test_figures_that_are_not_numbers_are_left_out(curves):
    curves({"": [result(1, validation_loss=np.nan), result(2)]})


def test_smoothing_by_hand():
    expected = [1, 0.8 + 0.4, 0.8 * 1.2 + 0]
    assert pictures.smoothed([1.0, 2.0, 0.0]) == pytest.approx(expected)


def test_two_networks_are_drawn_in_stages(curves):
    epochs = [result(n, stage="head" if n < 3 else "all") for n in range(1, 6)]
    both = curves({"pretrained": epochs, "scratch": epochs[:4]})
    assert (both != curves({"pretrained": epochs})).any()
