import dataclasses
import html.parser
import json
import re
import shutil

import numpy as np
import pytest

from model.loop import metrics
from model.reports import html_report, report_photos, text_report
from model.runs import run_folder
from tests.model.conftest import HOSTILE
from tests.support import evaluated_runs


class Reader(html.parser.HTMLParser):
    """Collects the elements of a page, and the text in them."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.found = []
        self.texts = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag, **attributes):
        return [
            about
            for name, about in self.found
            if name == tag
            and all(about.get(n.replace("_", "-")) == v for n, v in attributes.items())
        ]


@pytest.fixture(scope="module")
def found(hostile_records):
    return hostile_records


@pytest.fixture(scope="module")
def evaluation(hostile_judged):
    return hostile_judged


@pytest.fixture(scope="module")
def page(evaluation):
    path = html_report.write(evaluation, "python evaluate.py --run_dir='<b>'")
    assert path == evaluation.path.with_suffix(".html")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reader(page):
    return Reader(page)


def test_a_guess_of_the_preprocessing_is_warned_of_once(evaluation, page):
    spec = evaluation.run.config["input_spec"] | {"source": "assumed"}
    config = evaluation.run.config | {"input_spec": spec}
    run = dataclasses.replace(evaluation.run, config=config)
    guessed = html_report.render(dataclasses.replace(evaluation, run=run), "")
    pages = (page, guessed)
    line = "the preprocessing of pixels is a guess: "
    assert [text.count(line) for text in pages] == [0, 1]


def test_facts_have_names_of_their_own_and_few_photos_no_speed(evaluation, page):
    section = page[page.index('<section id="made">') :]
    names = re.findall(r"<dt>(.*?)</dt>", section)
    assert names == [
        *("versions in the evaluation", "versions in training"),
        *("versions in the conversion", "SHA-256 of model.keras"),
        "photos evaluated per second",
    ]
    titles = re.findall(r'<p class="muted">(.*?)</p>', section)
    assert titles[0] == "Command of the evaluation"
    assert "<dd>not measured on so few photos</dd>" in section
    figures = evaluation.figures | {"num_examples": 200, "images_per_s": 1234.4}
    page = html_report.render(dataclasses.replace(evaluation, figures=figures), "")
    assert "<dd>1,234</dd>" in page


def test_networks_that_were_compared_are_shown(evaluation, tmp_path):
    figures = {
        "run": "<b>best</b>, crop",
        "accuracy": 0.75,
        "accuracy_ci95": [0.5, 0.875],
        "balanced_accuracy": 0.7,
        "top5_accuracy": 1.0,
        "calibrated_loss": 0.625,
        "calibrated_loss_ci95": [0.5, 0.75],
        "model_bytes": 12_340_000,
        "images_per_s": 1234.4,
    }
    other = figures | {"run": "other", "images_per_s": None}
    pair = {"first": figures["run"], "second": "other", "verdict": "no difference"}
    content = {
        "split": "validation",
        "num_examples": 1200,
        "class_names": ["a", "b"],
        "runs": [figures, other],
        "pairs": [pair],
    }
    run = dataclasses.replace(evaluation.run, directory=tmp_path / "run")
    shutil.copytree(evaluation.run.directory, run.directory)
    path = run.directory / "comparison.json"
    path.write_text(json.dumps(content))
    text = html_report.render(dataclasses.replace(evaluation, run=run), "")
    section = text[text.index('<section id="training">') :].split("</section>")[0]
    page = Reader(section)
    assert not page.all("b")
    texts = " ".join("".join(page.texts).split())
    assert "lowest log loss on 1,200 photos (validation)" in texts
    for value in ("<b>best</b>, crop", "0.5000 to 0.8750", "0.6250", "12.3", "1,234"):
        assert value in page.texts
    assert "other compared with <b>best</b>, crop: no difference." in texts
    path.write_text("{}")
    with pytest.raises(run_folder.RunError, match=r"comparison\.json: damaged"):
        html_report.render(dataclasses.replace(evaluation, run=run), "")


def photo_data(page):
    data, photos = (
        json.loads(re.search(rf'id="{name}">(.*?)</script>', page, re.S)[1])
        for name in ("photo-data", "page-photos")
    )
    return data | {"photos": photos}


def test_the_evaluation_has_what_the_page_shows(evaluation):
    misfiled = {
        f"{name}/{name}{number:03d}.jpg"
        for name, others in evaluated_runs.MISFILED.items()
        for number in range(len(others))
    }
    errors, doubts = evaluation.figures["errors"], evaluation.figures["label_doubts"]
    assert {error["path"] for error in errors} == misfiled
    assert {photo["path"] for photo in doubts["photos"]} == misfiled


def test_names_of_strangers_are_text(page, reader):
    assert "<script>alert" not in page
    assert len(reader.all("script")) == 4
    assert not [about for _, about in reader.found if "onerror" in about]
    assert not reader.all("img", src="x")
    shown = "".join(reader.texts)
    for name in HOSTILE:
        assert name in shown
    assert photo_data(page)["classes"] == list(HOSTILE)


def test_the_page_loads_nothing(reader):
    for tag, about in reader.found:
        for name in ("src", "href", "srcset", "action", "poster"):
            value = about.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, about)
    (policy,) = reader.all("meta", http_equiv="Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'; img-src data:")
    assert re.search(r"script-src 'sha256-[\w+/]{43}='$", policy["content"])


def test_the_page_states_accuracy_and_figures(page, evaluation):
    figures = evaluation.figures
    share = f"{100 * figures['accuracy']:.1f} %"
    assert f'<span class="value" id="accuracy">{share}</span>' in page
    low, high = figures["accuracy_ci95"]
    assert f"95 % interval {100 * low:.1f} % to {100 * high:.1f} %, N = 60" in page
    assert f"{figures['calibration']['ece']:.3f}</strong>" in page
    assert f"chance alone gives {figures['calibration']['ece_by_chance']:.3f}" in page
    assert '<span class="label">calibration error' not in page
    balanced = f"{100 * figures['balanced_accuracy']:.1f} %"
    assert f'balanced accuracy</span><span class="value">{balanced}</span>' in page
    assert "the temperature 1.500, which was fitted on the validation split" in page
    assert "1 variables were frozen; all have the same SHA-256" in page
    assert "&lt;i&gt;fc8&lt;/i&gt;" in page
    assert "--run_dir=&#39;&lt;b&gt;&#39;" in page


def test_every_photo_of_a_cell_is_behind_it(page, evaluation):
    """And each photo's bytes are there once."""
    data = photo_data(page)
    predictions = evaluation.predictions
    confusion = np.array(evaluation.figures["confusion_matrix"])
    predicted = predictions.logits.argmax(axis=1)
    for true in range(3):
        for guess in range(3):
            cell = data["cells"].get(f"{true},{guess}")
            if not confusion[true, guess]:
                assert cell is None
                continue
            assert len(cell["photos"]) + cell["more"] == confusion[true, guess]
            paths = {photo["path"] for photo in cell["photos"]}
            inside = (predictions.labels == true) & (predicted == guess)
            behind = {predictions.rows[n].path for n in np.flatnonzero(inside)}
            assert paths <= behind
            for photo in cell["photos"]:
                assert data["photos"][photo["id"]].startswith("data:image/jpeg;base64,")
    for source in data["photos"].values():
        assert page.count(source) == 1


def test_photos_that_are_looked_at_have_words_and_heat(page, reader, evaluation):
    data = photo_data(page)
    images = [about for about in reader.all("img") if "data-photo" in about]
    heats = [about for about in reader.all("img") if "data-heat" in about]
    assert len(images) == len(heats) >= 20
    assert {about["data-heat"] for about in heats} <= set(data["heats"])
    for about in images:
        assert about["alt"]
        assert about["data-photo"] in data["photos"]
    worst = evaluation.figures["errors"][0]
    expected = f"{worst['true']}, predicted as {worst['predicted']}: {worst['path']}"
    assert images[0]["alt"] == expected
    # 16 of 18 parts of the short side, in the middle.
    row = next(r for r in evaluation.predictions.rows if r.path == worst["path"])
    side = round(min(row.height, row.width) * 16 / 18)
    assert f"width:{100 * side / row.width:.2f}%" in heats[0]["style"]


def test_seen_photos_are_a_warning(found, tmp_path):
    seen = {row.sha256 for row in found.included()}
    evaluation = evaluated_runs.judged(tmp_path / "run", found, seen=seen)
    text = html_report.render(evaluation, "")
    assert "60 of these photos were seen in training." in text
    assert "None can be found: all of these photos were seen in training" in text


def test_other_photos_are_not_described_as_the_runs_own(found, tmp_path):
    evaluation = evaluated_runs.judged(tmp_path / "run", found, split="test")
    evaluation.run.config["data"]["manifest_digest"] = "of other records"
    evaluation.figures["data"]["path"] = "holiday/photos"
    text = html_report.render(evaluation, "")
    assert '<button type="button">train</button>' not in text
    assert '<button type="button">evaluated</button>' in text
    assert "Photos other than the run&#39;s: <span class" in text
    assert ">holiday/photos</span>" in text


def test_a_run_without_ledger_curves_and_maps_has_a_report(
    found, tmp_path, monkeypatch
):
    """As one that was copied without them, of a network without convolutions."""
    evaluation = evaluated_runs.judged(
        tmp_path / "run", found, split="test", tta="flip"
    )

    def no_map(_):
        raise report_photos.grad_cam.NoSpatialLayer("none")

    monkeypatch.setattr(report_photos.grad_cam, "mapped_layer", no_map)
    for name in ("ledger.json", "metrics.jsonl"):
        (evaluation.run.directory / name).unlink()
    text = html_report.render(evaluation, "")
    assert "ledger.json is missing from the run" in text
    assert "metrics.jsonl is missing from the run" in text
    assert "predictions averaged over the photo and its mirror image" in text
    assert "where it looked" not in text
    assert "Show where" not in text


class TestManyClasses:
    def figures(self, num_classes):
        random = np.random.default_rng(0)
        confusion = np.diag(random.integers(50, 90, num_classes))
        confusion[3, 7] = 20
        confusion[num_classes - 1, 0] = 30
        return {"confusion_matrix": confusion.tolist()}

    def test_a_small_matrix_shows_all_classes(self):
        found = text_report.class_matrix(self.figures(12)["confusion_matrix"])
        assert found["labels"] == list(range(12))
        assert found["left_out"] == 0

    def test_a_large_matrix_shows_the_most_confused_classes(self):
        found = text_report.class_matrix(self.figures(200)["confusion_matrix"])
        assert len(found["labels"]) == 40
        assert {3, 7, 199, 0} <= set(found["labels"])
        assert found["left_out"] == 160
        assert found["mixed_up"] == [
            {"true": 199, "predicted": 0, "count": 30},
            {"true": 3, "predicted": 7, "count": 20},
        ]


class TestCoverageTable:
    def test_rows_match_those_computed_by_hand(self):
        points = [
            {"threshold": 0.9, "coverage": 0.5, "accuracy": 0.96},
            {"threshold": 0.4, "coverage": 1.0, "accuracy": 0.8},
        ]
        confidence = np.array([0.9] * 25 + [0.4] * 25)
        found = text_report.coverage_table(points, confidence)
        rows = {row["goal"]: row for row in found}
        assert rows["classify 100 % of the photos"]["accuracy"] == 0.8
        half = rows["classify 50 % of the photos"]
        assert (half["threshold"], half["answered"]) == ("0.900", 25)
        low, high = metrics.wilson_interval(24, 25)
        assert (half["low"], half["high"]) == (low, high)
        assert rows["be right for 95 % of them"]["coverage"] == 0.5
        assert rows["be right for 99 % of them"]["threshold"] is None

    def test_thresholds_answer_what_the_table_says(self, page, evaluation):
        """By what stands there, as --unknown_below takes it."""
        confidence = evaluation.predictions.probabilities().max(axis=1)
        cells = re.findall(
            r"<td>([\d.]+)</td><td>[\d.]+ % \((\d+)\)</td><td>[\d.]+ % <span", page
        )
        assert len(cells) >= 5
        for threshold, answered in cells:
            assert (confidence >= float(threshold)).sum() == int(answered)
        assert "thresholds were chosen on these photos" in page


def test_groups_take_turns():
    assert report_photos.take_turns([[1, 2, 3], [4], [], [5, 6]]) == [1, 4, 5, 2, 6, 3]
    assert report_photos.take_turns([]) == []


def test_thumbnails_stop_at_their_total_size(found, monkeypatch):
    monkeypatch.setattr(report_photos, "MAX_BYTES", 20_000)
    thumbnails = report_photos.Thumbnails(found)
    thumbnails.add(found.included(), large=False)
    assert len(thumbnails.sources) < len(found.included())
    assert 0 < sum(map(len, thumbnails.sources.values())) <= 20_000
    before = dict(thumbnails.sources)
    thumbnails.add(found.included()[:3], large=True)
    assert thumbnails.sources == before  # made once


def test_near_copies_are_shown_with_their_training_photos(evaluation, found):
    first, second = (row.path for row in found.included()[:2])
    photos = [{"path": first, "similar_to": second, "similarity": 0.875}]
    content = {"photos": photos, "chance": 0.0}
    content |= {"num_training": 40, "num_training_in_all": 40}
    figures = evaluation.figures | {"near_copies": content}
    page = html_report.render(dataclasses.replace(evaluation, figures=figures), "")
    section = page[page.index('<section id="near">') :]
    pictures = re.findall('data-photo="([0-9a-f]{64})"', section)
    assert pictures == [row.sha256 for row in found.included()[:2]]
    assert set(pictures) <= photo_data(page)["photos"].keys()
    assert "similarity 0.875" in section
