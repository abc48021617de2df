"""Photos with one fault each, and what is said of them."""

import html.parser
import io
import json
import re
import shutil

import cv2
import numpy as np
import PIL.Image
import pytest

from pipeline.check import check_settings, checking, photo_findings
from pipeline.images import opencv
from pipeline.records.manifest_row import Code, ImageError
from pipeline.sources import photo_source
from pipeline.system import config_flags
from pipeline.system.errors import DataError
from tests.support import conversions, drawn_photos, processes


@pytest.fixture
def scenes(tmp_path):
    """Two classes of twelve photos, no two alike."""
    for name, first in (("ants", 0), ("bees", 50)):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(12):
            picture = drawn_photos.draw_scene(first + number)
            cv2.imwrite(str(folder / f"{number:02d}.jpg"), picture)
    return tmp_path / "photos"


def run(source, tmp_path, **how):
    paths = {"source": str(source), "out": str(tmp_path / "check")}
    with conversions.in_this_process(**how):
        return checking.check(config_flags.build(check_settings.Config, paths | how))


def found(report):
    """{kind: groups} of the findings."""
    return {finding.kind: finding.groups for finding in report.findings}


def test_good_photos_give_no_finding(scenes, tmp_path):
    report = run(scenes, tmp_path)
    assert report.findings == ()
    assert not report.is_bad(strict=True)
    assert report.counts == {
        name: {"photos": 12, "usable": 12} for name in ("ants", "bees")
    }
    assert json.loads((tmp_path / "check" / "check.json").read_text())["findings"] == []
    page = (tmp_path / "check" / "check.html").read_text()
    assert "<p>Nothing found: all 24 photos decode, and nothing about them" in page
    assert "nothing found: all 24 photos decode" in checking.summary(report)


def saved(mode, kind, **how):
    scene = PIL.Image.fromarray(drawn_photos.draw_scene(99)[..., ::-1])
    file = io.BytesIO()
    scene.convert(mode).save(file, kind, **how)
    return file.getvalue()


def png(*shape, dtype=np.uint8):
    white = np.iinfo(dtype).max
    return cv2.imencode(".png", np.eye(*shape, dtype=dtype) * white)[1].tobytes()


TURNED = PIL.Image.Exif()
TURNED[0x0112] = 6
BLUE = PIL.Image.new("RGB", (320, 240), "blue")


UNUSUAL = {
    "damaged": [("x.jpg", saved("RGB", "JPEG")[:400]), ("empty.jpg", b"")],
    "not an image": [("text.jpg", b"hello")],
    "wrong ending": [
        ("jpeg.png", saved("RGB", "JPEG")),
        ("png.jpg", saved("RGB", "PNG")),
    ],
    "CMYK": [("cmyk.jpg", saved("CMYK", "JPEG"))],
    "16-bit": [("deep.png", png(50, dtype=np.uint16))],
    "refused": [("float.tif", saved("F", "TIFF"))],
    "wide gamut": [("wide.jpg", saved("RGB", "JPEG", icc_profile=b"Display P3"))],
    "transparent": [("clear.png", saved("RGBA", "PNG"))],
    "turned": [("turned.jpg", saved("RGB", "JPEG", exif=TURNED))],
    "tiny": [("tiny.png", png(20))],
    "extreme aspect": [("long.png", png(50, 300))],
    "too large": [("large.png", png(500))],
    "animated": [
        ("moving.gif", saved("RGB", "GIF", save_all=True, append_images=[BLUE]))
    ],
}


def test_photos_of_each_kind(scenes, tmp_path):
    for files in UNUSUAL.values():
        for name, data in files:
            (scenes / "bees" / name).write_bytes(data)
    report = run(scenes, tmp_path, max_pixels=200_000, workers=1)
    kinds = found(report)
    for kind, files in UNUSUAL.items():
        assert set(kinds[kind]) == {(f"bees/{name}",) for name, _ in files}
    assert report.is_bad(strict=True)
    assert not report.is_bad(strict=False)


def test_photos_that_are_alike_are_shown_together(scenes, tmp_path):
    shutil.copy(scenes / "ants" / "00.jpg", scenes / "ants" / "copy.jpg")
    small = cv2.resize(drawn_photos.draw_scene(1), None, fx=0.5, fy=0.5)
    cv2.imwrite(str(scenes / "ants" / "small.jpg"), small)
    shutil.copy(scenes / "ants" / "02.jpg", scenes / "bees" / "stray.jpg")
    small = cv2.resize(drawn_photos.draw_scene(53), None, fx=0.5, fy=0.5)
    cv2.imwrite(str(scenes / "ants" / "other.jpg"), small)
    kinds = found(run(scenes, tmp_path))
    assert kinds["exact copies"] == (("ants/00.jpg", "ants/copy.jpg"),)
    assert ("ants/01.jpg", "ants/small.jpg") in kinds["near-duplicates"]
    assert kinds["conflicting labels"] == (("ants/02.jpg", "bees/stray.jpg"),)
    assert kinds["one picture in several classes"] == (
        ("ants/other.jpg", "bees/03.jpg"),
    )


def test_what_does_not_decode_a_second_time_is_named(scenes, tmp_path, monkeypatch):
    """It was changed, or is larger than this process may decode."""
    shutil.copy(scenes / "ants" / "01.jpg", scenes / "ants" / "same.jpg")
    picture = cv2.imread(str(scenes / "ants" / "01.jpg"))
    cv2.imwrite(str(scenes / "ants" / "near.png"), picture)

    def refuse(*_, **__):
        raise ImageError(Code.TOO_MANY_PIXELS, "PNG larger than")

    monkeypatch.setattr(opencv, "thumbnail", refuse)
    with pytest.raises(DataError, match=r"ants/01\.jpg: cannot be compared"):
        run(scenes, tmp_path)


def test_the_same_photo_in_two_given_splits_is_an_error(scenes, tmp_path):
    for split, numbers in (("train", range(9)), ("test", range(8, 12))):
        for name in ("ants", "bees"):
            folder = tmp_path / "given" / split / name
            folder.mkdir(parents=True)
            for number in numbers:
                shutil.copy(scenes / name / f"{number:02d}.jpg", folder)
    report = run(tmp_path / "given", tmp_path)
    assert found(report)["across splits"] == tuple(
        (f"test/{name}/08.jpg", f"train/{name}/08.jpg") for name in ("ants", "bees")
    )
    assert report.is_bad(strict=False)


def test_a_class_that_one_given_split_lacks_is_an_error(scenes, tmp_path):
    rows = [
        f"{name}/{number:02d}.jpg {label}"
        for label, name in enumerate(("ants", "bees"))
        for number in range(12)
    ]
    (scenes / "train.txt").write_text("\n".join(rows[:20]))
    (scenes / "val.txt").write_text("\n".join(rows[20:]))
    report = run(scenes, tmp_path, lists="train.txt,val.txt")
    assert report.findings[0].kind == "class missing from a split"
    assert report.findings[0].meaning.endswith(": ants (validation)")
    assert report.is_bad(strict=False)


def test_class_names_that_are_nearly_the_same_are_warned_of():
    names = ("Ants", "ants", "ant", "caf\u00e9", "cafe\u0301")
    names += ("a_b", "a-b", "a b", "A+")
    ((kind, meaning),) = photo_source.describe_names(names).items()
    assert kind == "class names alike"
    twins = meaning.partition("? ")[2].split("; ")
    assert twins == [
        *("Ants and ants and ant", "caf\u00e9 and cafe\u0301", "a_b and a-b and a b")
    ]
    others = ("ants", "bees", "1", "-1", "1-2", "skipped")
    assert photo_source.describe_names(others) == {}


def test_class_names_that_mean_something_else_elsewhere_are_warned_of(
    photos, tmp_path, capsys
):
    for name, new in (("blue", "None"), ("red", "skip")):
        (photos / name).rename(photos / new)
    meaning = (
        "None (model.predict --sort_into puts photos without a class into such a "
        "folder; --layout=none=none leaves it out), "
        "skip (in corrections.csv, skip leaves photos out; rename the class)"
    )
    report = run(photos, tmp_path)
    findings = {finding.kind: finding for finding in report.findings}
    finding = findings["class names with another meaning"]
    assert (finding.severity, finding.meaning) == ("warning", meaning)
    notes = conversions.convert(photos, tmp_path / "records").notes
    assert f"warning: class names with another meaning: {meaning}" in notes


def test_out_may_not_become_a_class(scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(scenes)
    with pytest.raises(DataError, match="check: lies inside the source"):
        checking.check(check_settings.Config(source="."))
    assert sorted(path.name for path in scenes.iterdir()) == ["ants", "bees"]


def test_small_and_unequal_classes_are_named():
    numbers = {"a": 0, "b": 2, "c": 3, "d": 9, "e": 10, "f": 30}
    counts = {name: {"usable": number} for name, number in numbers.items()}
    findings = photo_findings.find_small_classes(counts)
    assert {f.kind: f.meaning.rpartition(": ")[2] for f in findings} == {
        "empty class": "a (0)",
        "class too small to split": "b (2)",
        "small class": "c (3), d (9)",
        "imbalance": "b (2), c (3)",
    }
    del counts["a"], counts["b"], counts["c"], counts["d"]
    assert photo_findings.find_small_classes(counts) == []


class Page(html.parser.HTMLParser):
    """What a page refers to, shows and says."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.text = [], [], ""
        self.feed(text)
        photos = re.search(r'id="page-photos">(.*?)</script>', text, re.S)[1]
        self.pictures = [source for source in json.loads(photos) if source]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [v for n, v in attrs if n in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_is_self_contained_and_harmless(scenes, tmp_path):
    """Names are from strangers; one thumbnail is there, one cannot be."""
    evil = "<script>alert(1)</script>"
    (scenes / "bees" / f"{evil[:8]}.jpg").write_text("x")
    (scenes / "bees").rename(scenes / "<b onload=x>")
    (scenes / "ants" / "<img>.png").write_bytes(saved("RGBA", "PNG"))
    run(scenes, tmp_path)
    text = (tmp_path / "check" / "check.html").read_text()
    page = Page(text)
    assert page.tags.count("script") == 3  # our own
    assert "b" not in page.tags
    assert page.sources == ["data:,"]
    assert page.pictures
    assert all(text.startswith("data:image/jpeg;base64,") for text in page.pictures)
    assert "ants/<img>.png" in page.text
    assert "no picture" in page.text
    assert not re.search(r"https?://", text)


def test_a_page_of_many_findings_stays_small():
    groups = tuple((f"{n}.jpg",) for n in range(60))
    finding = photo_findings.Finding("tiny", "warning", "", groups)
    counts = {"bees": {"photos": 60}}
    text = checking.render(
        photo_findings.Report(source="", counts=counts, findings=(finding,), notes=()),
        [],
        lambda path: drawn_photos.encode_photo(),
    )
    assert "and 36 more, in check.json" in text
    assert text.count("<img data-photo") == 24


def test_what_takes_a_decoder_down_is_not_decoded_for_the_page(
    scenes, tmp_path, monkeypatch
):
    kinds_of = photo_findings.kinds_of
    monkeypatch.setattr(
        photo_findings,
        "kinds_of",
        lambda row: ["crashed"] if row.path == "ants/03.jpg" else kinds_of(row),
    )
    assert found(run(scenes, tmp_path))["crashed"] == (("ants/03.jpg",),)
    page = Page((tmp_path / "check" / "check.html").read_text())
    assert page.pictures == []
    assert "no picture" in page.text


class TestRecords:
    def test_a_fault_names_file_and_record(self, scenes, tmp_path):
        records = tmp_path / "records"
        conversions.convert(scenes, records)
        report = run(records, tmp_path)
        assert not report.is_bad(strict=True)
        assert report.counts["ants"]["train"] == 10
        path = records / "bees.tfrecord"
        data = bytearray(path.read_bytes())
        data[20] ^= 1
        path.write_bytes(data)
        (finding,) = run(records, tmp_path).findings
        assert finding.severity == "error"
        assert finding.meaning.startswith("bees.tfrecord record 0: bees/00.jpg: ")

    def test_a_class_that_a_split_lacks_is_warned_of(self, scenes, tmp_path):
        for path in sorted((scenes / "bees").iterdir())[1:]:
            path.unlink()
        conversions.convert(scenes, tmp_path / "records")
        report = run(tmp_path / "records", tmp_path)
        (finding,) = (f for f in report.findings if "missing" in f.kind)
        assert finding.severity == "warning"
        assert finding.meaning.endswith(": bees (validation), bees (test)")


def test_the_command_prints_findings_and_fails_on_request(scenes, tmp_path):
    (scenes / "bees" / "x.jpg").write_text("x")
    words = ("-m", "pipeline.check", scenes, f"--out={tmp_path / 'c'}", "--workers=1")
    done = processes.run_command(*words)
    assert done.returncode == 0, done.stderr
    assert "warning: not an image" in done.stdout
    strict = processes.run_command(*words, "--strict")
    assert strict.returncode == 2
    assert "error: " in strict.stderr
    assert "check.html shows it" in strict.stderr
