import cv2
import pytest

from model.reports import comparison_picture


def run(name, accuracy=0.9):
    return {
        "run": name,
        "accuracy": accuracy,
        "accuracy_ci95": [accuracy - 0.05, min(1.0, accuracy + 0.05)],
        "model_bytes": 10_000_000,
        "images_per_s": None,
    }


def compared(*runs, p=0.5):
    return {"runs": runs, "pairs": [{"p_holm": p}] * (len(runs) - 1)}


CURVE = [(1, 0.5), (2, 0.7), (3, 0.8)]


@pytest.mark.parametrize("count", [2, 12])
def test_png(tmp_path, count):
    runs = [run(f"run {number}", 0.5 + 0.04 * number) for number in range(count)]
    comparison_picture.draw(compared(*runs), [CURVE] * count, tmp_path / "a.png")
    image = cv2.imread(str(tmp_path / "a.png"))
    assert image.shape[1] == 1100
    assert image.shape[0] >= 350


def test_png_shows_the_figures(tmp_path):
    def draw(runs, curves, p=0.5):
        comparison_picture.draw(compared(*runs, p=p), curves, tmp_path / "a.png")
        return (tmp_path / "a.png").read_bytes()

    two = [run("a"), run("b", 1.0)]
    one = draw(two, [CURVE, []])
    assert draw(two, [CURVE, []]) == one
    assert draw(two, [CURVE, [(1, 0.5)]]) != one
    assert draw([run("a"), run("b", 0.8)], [CURVE, []]) != one
    assert draw([run("a"), run("c", 1.0)], [CURVE, []]) != one
    assert draw(two, [CURVE, []], p=0.04) != one
    assert draw([run("a"), run("b", 1.0) | {"model_bytes": 1}], [CURVE, []]) != one
    assert draw([run("a"), run("b", 1.0) | {"images_per_s": 7}], [CURVE, []]) != one


def test_names_that_fonts_and_formulas_cannot_hold(tmp_path):
    names = ["_a", "$x$ $\\frac", "a\nb", "\udcff", "木", "x" * 255, "\x1b[2J", ""]
    runs = [run(name) for name in names]
    comparison_picture.draw(compared(*runs), [[]] * len(runs), tmp_path / "a.png")
    assert cv2.imread(str(tmp_path / "a.png")) is not None


def test_curves_that_are_no_numbers(tmp_path):
    nan = [(1, float("nan")), (2, 0.5)]
    figures = compared(run("a"), run("b"))
    comparison_picture.draw(figures, [nan, CURVE], tmp_path / "a.png")
