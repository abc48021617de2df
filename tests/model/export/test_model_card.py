"""The card of an exported file: its programs run, and no user's file is replaced."""

import dataclasses
import io
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from model.export import exportable, model_card, verify_file
from model.predict import classifier, photo_batches
from pipeline.images import record_image
from pipeline.system.errors import DataError
from tests.support import drawn_photos, evaluated_runs, small_runs
from tests.support.exports import encode, export, scene

FACTS = {"takes": "views", "size_bytes": 1_250_000, "latency_s": 0.01}


def done(kind="onnx", name="a.onnx", **values):
    models = tuple(
        verify_file.ModelFacts(
            name=name, difference=difference, score_difference=difference, **FACTS
        )
        for difference in (None, 2.4e-6)
    )
    fixed = {"card": Path("README.md"), "models": models, "num_photos": 32}
    return verify_file.Exported(
        path=Path(name), kind=kind, tolerance=1e-3, **fixed | values
    )


def render(run, exported=None, **changes):
    source = dataclasses.replace(exportable.load_run(run), **changes)
    heldout = exportable.load_heldout(run)
    return model_card.render(run, source, heldout, exported or done())


def program(card, number=0):
    return re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)[number]


def head(card):
    return yaml.safe_load(card.split("---\n")[1])


def run_afresh(script, paths):
    """Run a program in a fresh process; return what it prints."""
    ran = subprocess.run(
        [sys.executable, "-I", str(script), *paths],
        cwd=Path(paths[0]).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def run_here(script, paths):
    """Run a program in this process, which has imported TensorFlow already."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", printed)
        patch.setattr(sys, "argv", [str(script), *paths])
        runpy.run_path(str(script), run_name="__main__")
    printed.flush()
    return printed.buffer.getvalue().decode()


@pytest.mark.parametrize(
    ("form", "run"),
    [
        ("onnx", run_afresh),
        ("litert", run_afresh),
        ("saved_model", run_here),
        ("keras", run_here),
        pytest.param("saved_model", run_afresh, marks=pytest.mark.slow),
        pytest.param("keras", run_afresh, marks=pytest.mark.slow),
    ],
)
def test_the_program_answers_as_the_run_alone(
    exported, expected, small_run, form, run, tmp_path
):
    card = exported(form).card
    jpeg = encode(scene(2, 75, 51), ".jpg")
    transparent = np.dstack([scene(3, 90, 61), scene(4, 90, 61)[..., 0]])
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 1), np.uint8)
    photos = {
        "stranger.png": encode(noise.repeat(3, axis=2)),
        "red.jpg": encode(drawn_photos.draw_photo("red", 100), ".jpg"),
        "turned.jpg": drawn_photos.with_orientation(jpeg, 6),
        "large.png": encode(scene(1, 600, 640)),
        "transparent.png": encode(transparent),
    }
    for name, content in photos.items():
        (tmp_path / name).write_bytes(content)
    script = exported(form).path.parent / "classify.py"
    code = program(card.read_text())
    assert not re.search(r"^(import|from) (model|pipeline)\b", code, re.M)
    script.write_text(code)
    paths = [str(tmp_path / name) for name in photos]
    printed = run(script, paths)
    script.unlink()
    of_run = classifier.load_run(str(small_run.directory))
    step, network_input = of_run.predict_step(), photo_batches.NetworkInput(of_run.spec)
    lines = iter(printed.splitlines())
    for path, photo in zip(paths, photos.values(), strict=True):
        assert next(lines) == path
        view = network_input(record_image.encode_for_record(photo))
        _, (score,) = step(view[None].astype(np.float32))
        if score >= 1:
            remark, result = next(lines).rsplit(maxsplit=1)
            assert remark == "none of these? stranger score"
            # One pixel halfway between two levels matters with so few features.
            assert float(result) == pytest.approx(score, rel=0.02)
        words = [next(lines).split() for _ in small_run.class_names]
        answers = {name: float(probability) for probability, name in words}
        result = [answers[name] for name in small_run.class_names]
        np.testing.assert_allclose(result, expected(photo), atol=1e-3)
    assert not list(lines)
    assert "none of these?" in printed.splitlines()[1]
    assert printed.count("none of these?") < len(photos)


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(60, 90), (91, 47), (200, 131), (20, 15)])
def test_the_program_prepares_the_pixels_that_the_network_sees(
    small_run, tmp_path, monkeypatch, resize, size
):
    spec = dataclasses.replace(small_runs.SPEC, resize=resize)
    code = program(render(small_run, done("litert", "a.tflite"), spec=spec))
    code = (
        "import sys\nimport numpy as np\nfrom PIL import Image, ImageOps\n"
        + (code[code.index("def reduce") : code.index("    image = ")])
    )
    path = tmp_path / "a.png"
    path.write_bytes(encode(scene(1, *size)))
    monkeypatch.setattr(sys, "argv", ["classify.py", str(path)])
    names: dict = {}
    exec(code, names)
    record = record_image.encode_for_record(path.read_bytes())
    view = photo_batches.NetworkInput(spec)(record).astype(int)
    differences = np.abs(np.floor(names["view"] + 0.5) - view)
    assert differences.max() == 0


def test_grey_pictures_of_16_bits_are_not_classified_as_white(small_run):
    code = program(render(small_run))
    assert 'sys.exit(f"{path}: expected 8 bits a pixel")' in code
    code = program(render(small_run, white_level=4095))
    lines = code[code.index("    if photo.mode") : code.index("    photo = ImageOps")]
    grey = np.array([[0, 2047, 4095, 5000]], np.uint16)
    names = {"np": np, "Image": Image, "photo": Image.fromarray(grey)}
    exec(re.sub("^    ", "", lines, flags=re.MULTILINE), names)
    assert np.asarray(names["photo"]).tolist() == [[0, 127, 255, 255]]


def test_the_head_is_that_of_a_model_card(small_run):
    evaluation = small_run.directory / "evaluation" / "test.json"
    card = render(small_run)
    figures = json.loads(evaluation.read_text())
    (entry,) = head(card)["model-index"]
    (result,) = entry["results"]
    assert head(card)["pipeline_tag"] == "image-classification"
    assert head(card)["library_name"] == "onnx"
    assert head(card)["tags"] == ["image-classification", "onnx"]
    assert "license" not in head(card)
    assert entry["name"] == small_run.directory.name
    assert result["task"] == {"type": "image-classification"}
    assert result["dataset"]["split"] == "test"
    (metric,) = result["metrics"]
    assert metric["type"] == "accuracy"
    assert metric["value"] == pytest.approx(figures["accuracy"], abs=1e-4)
    low, high = figures["accuracy_ci95"]
    assert f"95 % interval {low:.4f} to {high:.4f}" in metric["name"]


def test_the_card_has_the_account_of_the_data_and_the_proof(small_run):
    card = render(small_run)
    records = exportable.load_heldout(small_run).records
    for label, (name, counts) in enumerate(records.counts().items()):
        numbers = " | ".join(map(str, counts.values()))
        assert f"| {label} | {name} | {numbers} |" in card
    assert f"{len(records.rows)} files" in card
    assert "32 test photos" in card
    assert "2.4e-06 (0.001 is allowed), no stranger score by more than 2.4e-06" in card
    cost = verify_file.QuantizationCost(
        num_photos=112, run_accuracy=0.875, file_accuracy=0.85, allowed_loss=0.1
    )
    models = (*done().models, *done().models[1:])
    card = render(small_run, done("litert", quantize="int8", cost=cost, models=models))
    assert "8-bit integers" in card
    assert "accuracy on 112 test photos is 0.8500, the run's\n0.8750" in card
    assert str(small_run.directory.parent) not in card  # no paths of this machine


def test_names_from_strangers_mean_nothing_to_markdown_and_yaml(found, tmp_path):
    names = ("a|b ![x](http://evil)", "<script>*\u202e\n---", "\udcff_`@c`")
    run = small_runs.write_run(
        tmp_path / 'r"\n---\nb', found, small_runs.colour_model()
    )
    heldout = exportable.load_heldout(run)
    heldout = dataclasses.replace(
        heldout, records=evaluated_runs.renamed(heldout.records, names)
    )
    source = dataclasses.replace(exportable.load_run(run), class_names=names)
    card = model_card.render(run, source, heldout, done(name='a"\n`<b>'))
    card.encode()
    assert head(card)["model-index"][0]["name"] == 'r"\\n---\\nb'
    rows = re.findall(r"^\| (\d) \| (.*) \| \d+ \| \d+ \| \d+ \| .* \|$", card, re.M)
    assert rows == [
        ("0", r"a\|b !\[x\](http\://evil)"),
        ("1", r"\<script\>\*\\u202e\\n---"),
        ("2", r"\\xff\_\`\@c\`"),
    ]
    assert r"""with_name('a"\n`<b>')""" in program(card)
    assert not re.search(r"(?<!\\)<script", card)


class TestPlace:
    @pytest.fixture
    def place(self, small_run, tmp_path):
        """A function that writes a file and its card as an export does."""

        def write(name="a.onnx", run=small_run):
            path = tmp_path / name
            card = model_card.choose(path, "onnx")
            card.write_text(render(run, done(name=path, card=card)))
            path.touch()
            return card.name, re.findall(r"^### (.*)$", card.read_text(), re.M)

        return write

    @pytest.fixture
    def other_run(self, found, tmp_path):
        model = small_runs.colour_model()
        return small_runs.write_run(tmp_path / "other", found, model, note="other")

    def test_files_of_one_run_share_a_card(self, place, tmp_path):
        assert place("a.onnx") == ("README.md", ["a.onnx"])
        assert place("b.onnx") == ("README.md", ["a.onnx", "b.onnx"])
        assert place("a.onnx") == ("README.md", ["a.onnx", "b.onnx"])
        (tmp_path / "b.onnx").unlink()
        assert place("a.onnx") == ("README.md", ["a.onnx"])

    def test_a_card_is_about_one_run(self, place, other_run, capsys):
        place("a.onnx")
        place("b.onnx")
        assert place("a.onnx", other_run) == ("README.md", ["a.onnx"])
        noted = "README.md: is about a.onnx now, and no longer about b.onnx"
        assert noted in capsys.readouterr().err
        assert place("b.onnx", other_run) == ("README.md", ["a.onnx", "b.onnx"])

    @pytest.mark.parametrize("edited", [True, False])
    def test_a_users_file_is_not_replaced(self, place, tmp_path, edited):
        text = "My notes\n"
        if edited:
            place()
            text = (tmp_path / "README.md").read_text().replace("licence", "MIT")
        (tmp_path / "README.md").write_text(text)
        assert place() == ("README-a.onnx.md", ["a.onnx"])
        assert (tmp_path / "README.md").read_text() == text
        (tmp_path / "README-a.onnx.md").write_text("Mine, too")
        with pytest.raises(DataError, match=r"README-a\.onnx\.md: no export wrote"):
            place()

    def test_a_link_is_not_followed(self, place, tmp_path):
        (tmp_path / "README.md").symlink_to(tmp_path / "elsewhere")
        assert place()[0] == "README-a.onnx.md"
        assert not (tmp_path / "elsewhere").exists()

    def test_the_card_of_a_saved_model_lies_in_its_folder(self, small_run, tmp_path):
        def choose():
            return model_card.choose(tmp_path / "a", "saved_model")

        card = tmp_path / "a" / "README.md"
        assert choose() == card
        card.parent.mkdir()
        card.write_text(render(small_run, done("saved_model", "a")))
        assert choose() == card
        card.write_text("My notes")
        with pytest.raises(DataError, match=r"a/README\.md: no export wrote this file"):
            choose()


def test_an_export_without_a_place_for_its_card_is_refused_at_once(
    small_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(exportable, "load_run", lambda _: pytest.fail("too late"))
    for name in ("README.md", "README-a.keras.md"):
        (tmp_path / name).write_text("My notes")
    with pytest.raises(DataError, match=r"README-a\.keras\.md: no export wrote"):
        export(small_run, "keras", tmp_path / "a.keras")
    assert {path.read_text() for path in tmp_path.iterdir()} == {"My notes"}
