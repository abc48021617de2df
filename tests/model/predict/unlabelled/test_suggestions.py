"""Which photos are suggested, and the way from the page to new records."""

import csv
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from model.predict import classifier, predict_settings, predicting
from model.predict.unlabelled import sorted_photos, suggestions
from pipeline.images import isolated_decoder
from pipeline.records import manifest
from pipeline.system.errors import DataError
from tests.support import browser, conversions, drawn_photos


def unit(*degrees):
    """Vectors of length 1 in these directions."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


class TestChoose:
    def test_the_most_uncertain_photo_comes_first_then_uncertain_ones_unlike_it(self):
        uncertainties = np.array([0.5, 0.9, 0.8, 0.1])
        vectors = unit(90, 0, 40, 180)
        # Squared distances from the second photo are 2, 0, 0.47 and 4.
        assert suggestions.choose(uncertainties, vectors, 2) == [1, 0]
        # From the nearer of two: 0.71 for the third, 2 for the last.
        assert suggestions.choose(uncertainties, vectors, 4) == [1, 0, 2, 3]

    def test_copies_of_a_chosen_photo_are_never_chosen(self):
        uncertainties = np.array([0.9, 0.8, 0.7, 0.01])
        vectors = unit(0, 3, 90, 93)
        assert suggestions.choose(uncertainties, vectors, 4) == [0, 2]

    def test_certain_photos_are_chosen_by_their_distance(self):
        assert suggestions.choose(np.zeros(3), unit(0, 45, 120), 3) == [0, 2, 1]

    @pytest.mark.parametrize("number", [1, 2])
    def test_few_photos_are_all_chosen(self, number):
        uncertainties, vectors = np.array([0.1, 0.2])[:number], unit(0, 90)[:number]
        expected = [1, 0][-number:]
        assert suggestions.choose(uncertainties, vectors, 5) == expected


@pytest.fixture
def trained(shared_run, monkeypatch):
    monkeypatch.setattr(isolated_decoder, "Decoders", conversions.Decoders)
    return classifier.load_run(str(shared_run))


@pytest.fixture
def new(tmp_path, shared_records):
    """Six photos of a scene each, two copies, a photo of the records, a bad file."""
    folder = tmp_path / "new"
    folder.mkdir()
    for number in range(6):
        scene = drawn_photos.draw_scene(number, 120, 160)
        cv2.imwrite(str(folder / f"{number}.jpg"), scene)
    shutil.copy(folder / "0.jpg", folder / "copy.jpg")
    mirrored = cv2.imread(str(folder / "1.jpg"))
    cv2.imwrite(str(folder / "slightly brighter.jpg"), cv2.add(mirrored, 2))
    known = shared_records.parent / "photos" / "red" / "red003.jpg"
    shutil.copy(known, folder / "known.jpg")
    (folder / "bad.jpg").write_text("no photo")
    return folder


def suggest(trained, new, out, count, **settings):
    config = predict_settings.Config(
        photos=(str(new),), suggest=count, suggest_into=str(out), **settings
    )
    pool = suggestions.Pool(config, trained)
    predictions = list(predicting.predict(config, trained, pool=pool))
    return predictions, pool.suggest()


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TestPool:
    def test_new_photos_are_suggested_once_and_others_are_counted(
        self, trained, new, tmp_path, capsys
    ):
        out = tmp_path / "out"
        predictions, suggested = suggest(trained, new, out, 10, batch_size=4)
        assert [photo.photo for photo in predictions] == [str(new / "bad.jpg")]
        names = [Path(photo.photo).name for photo in suggested]
        pair = {"1.jpg", "slightly brighter.jpg"}
        assert len(names) == 6
        assert len(pair & {*names}) == 1
        assert {*names} | pair == pair | {f"{number}.jpg" for number in range(6)}
        lines = capsys.readouterr().err
        assert "left out: 1 photo, in the records of the run\n" in lines
        assert "left out: 1 photo, exact copies of others\n" in lines
        assert "all other photos look like copies of those suggested\n" in lines
        assert (
            f"suggested: 6 of 7 photos without a label. To label them, open {out}"
            in (lines)
        )
        rows = table(out / "suggestions.csv")
        assert [row["photo"] for row in rows] == names
        assert [row["answer"] for row in rows] == [photo.answer for photo in suggested]
        config = predict_settings.Config(photos=(str(new),))
        margins = [
            photo.classes[0][1] - photo.classes[1][1]
            for photo in (suggested[0], *predicting.predict(config, trained))
            if not photo.problem and Path(photo.photo).name != "known.jpg"
        ]
        assert margins[0] == pytest.approx(min(margins), rel=1e-3)

    def test_memory_holds_the_most_uncertain_photos_only(
        self, trained, new, tmp_path, monkeypatch
    ):
        expected = suggest(trained, new, tmp_path / "out", 1, batch_size=1)
        monkeypatch.setattr(suggestions, "_MOST_BYTES", 1)
        assert suggest(trained, new, tmp_path / "out", 1, batch_size=1) == expected

    def test_a_photo_of_the_records_alone_leaves_nothing_to_suggest(
        self, trained, new, tmp_path
    ):
        with pytest.raises(DataError, match="no photos without a label"):
            suggest(trained, new / "known.jpg", tmp_path / "out", 1)


@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())
def test_photos_labelled_on_the_page_become_part_of_the_records(
    trained, new, photos, tmp_path
):
    (new / "0.jpg").rename(new / 'a, "b" <i>.jpg')
    _, suggested = suggest(trained, new, tmp_path / "out", 3)
    saved = tmp_path / "saved"
    with browser.opened() as page:
        page.execute_cdp_cmd(
            "Browser.setDownloadBehavior",
            {"behavior": "allow", "downloadPath": str(saved)},
        )
        page.get((tmp_path / "out" / "suggestions.html").as_uri())
        cards = page.find_elements("css selector", "[data-review]")
        assert len(cards) == 3
        for card, photo in zip(cards, suggested, strict=True):
            assert f". {Path(photo.photo).name}\n" in card.text
            image = card.find_element("css selector", "img")
            assert image.get_property("naturalWidth") == 160
        cards[0].find_element("css selector", "p").click()
        from selenium.webdriver import ActionChains

        ActionChains(page).send_keys("1", "x", "i").perform()
        page.find_element("id", "review-save").click()
        assert "--sort_by=labels.csv" in page.find_element("id", "review-next").text
        for _ in range(100):
            if (saved / "labels.csv").exists():
                break
            time.sleep(0.05)
        assert page.get_log("browser") == []
    first, _, third = [Path(photo.photo).name for photo in suggested]
    expected = [(first, trained.class_names[0]), (third, suggested[2].answer)]
    rows = table(saved / "labels.csv")
    assert [(row["path"], row["label"]) for row in rows] == expected
    config = predict_settings.Config(
        photos=(str(new),),
        sort_into=str(photos),
        sort_by=str(saved / "labels.csv"),
    )
    sorted_photos.by_labels(config)
    conversions.convert(photos, tmp_path / "records")
    found = manifest.read(tmp_path / "records")
    rows = [row for row in found.included() if not row.path.endswith("/copy.jpg")]
    added = {(row.path, row.class_name) for row in rows}
    assert {(f"{label}/{name}", label) for name, label in expected} <= added
    assert len(rows) == 36 + 2
