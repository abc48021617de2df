"""Labels that a person has corrected, in manifest and records, now and later."""

import csv
import dataclasses
import hashlib
import json
import os
import shutil
import struct

import cv2
import pytest

from pipeline.check import checking
from pipeline.records import manifest, staging, stored_photo, tfrecord
from pipeline.records.manifest_row import Code
from pipeline.sources import source_settings
from pipeline.system.errors import DataError
from tests.support import cases, conversions, drawn_photos, files

HEADER = ("path", "label", "note", "sha256")


@pytest.fixture
def scenes(tmp_path):
    """Three classes of ten photos, no two alike."""
    for first, name in enumerate(("ants", "bees", "wasps")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            picture = drawn_photos.draw_scene(20 * first + number, 96, 128)
            cv2.imwrite(str(tmp_path / "photos" / name / f"{number}.jpg"), picture)
    return tmp_path / "photos"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "records"


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(tmp_path, *rows, name="corrections.csv", header=HEADER):
    """Write corrections; missing fields are empty."""
    with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([*row, *[""] * (len(header) - len(row))] for row in rows)
    return str(tmp_path / name)


def rows_of(summary):
    """{path: row}, of the file that is there where one was replaced."""
    return {row.path: row for row in reversed(summary.manifest.rows)}


def line(summary, beginning):
    """The one finding that begins so; "" for none."""
    return "".join(text for text in summary.findings if text.startswith(beginning))


def test_a_label_is_corrected_in_manifest_and_record(scenes, tmp_path, out):
    before = rows_of(conversions.convert(scenes, out))
    content = files.folder_digest(scenes)
    digest = manifest.read(out).digest
    corrections = write(tmp_path, ("ants/3.jpg", "bees"), ("wasps/0.jpg", "ants"))
    summary = conversions.convert(scenes, out, corrections=corrections)
    assert line(summary, "corrected") == (
        "corrected labels: 2 (ants/3.jpg, wasps/0.jpg)"
    )
    rows = rows_of(summary)
    row = rows["ants/3.jpg"]
    assert (row.class_name, row.corrected_from) == ("bees", "ants")
    assert row.file == "bees.tfrecord"
    record = stored_photo.StoredPhotos(out).record(row)
    assert (record.class_name, record.label) == ("bees", 1)
    assert record.encoded == (scenes / "ants" / "3.jpg").read_bytes()
    assert {p: r.split for p, r in rows.items()} == {
        p: r.split for p, r in before.items()
    }
    assert summary.manifest.digest != digest
    assert checking.verify(summary.manifest) == []
    assert files.folder_digest(scenes) == content
    # Rows without a correction have no such key.
    lines = (out / "manifest.jsonl").read_text().splitlines()
    assert sum("corrected_from" in text for text in lines) == 2


def test_the_first_conversion_may_correct_and_gives_the_same_as_a_later_one(
    scenes, tmp_path, out
):
    corrections = write(tmp_path, ("ants/3.jpg", "bees"))
    conversions.convert(scenes, out)
    conversions.convert(scenes, out, corrections=corrections)
    conversions.convert(scenes, tmp_path / "at once", corrections=corrections)
    later, first = map(files.folder_content, (out, tmp_path / "at once"))
    assert later["bees.tfrecord"] == first["bees.tfrecord"]
    assert later["ants.tfrecord"] == first["ants.tfrecord"]


def test_later_conversions_keep_corrections_of_renamed_photos_too(
    scenes, tmp_path, out
):
    corrections = write(
        tmp_path,
        ("ants/3.jpg", "bees"),
        ("ants/4.jpg", "skip", "a drawing"),
        ("ants/5.jpg", "skip"),
    )
    conversions.convert(scenes, out, corrections=corrections)
    content = files.folder_content(out)
    assert not conversions.convert(scenes, out, corrections=corrections).changed
    assert not conversions.convert(scenes, out).changed
    assert files.folder_content(out) == content
    (scenes / "ants" / "3.jpg").rename(scenes / "ants" / "new.jpg")
    (scenes / "ants" / "4.jpg").rename(scenes / "ants" / "z.jpg")
    summary = conversions.convert(scenes, out)
    rows = rows_of(summary)
    assert rows["ants/new.jpg"].class_name == "bees"
    for path in ("ants/z.jpg", "ants/5.jpg"):
        assert rows[path].codes == (Code.LEFT_OUT_BY_CORRECTION,)
    assert rows["ants/z.jpg"].reason == "left out by a correction: a drawing"
    assert line(summary, "left out by c").endswith(": 2 (ants/5.jpg, ants/z.jpg)")
    assert line(summary, "corrections that") == ""
    assert not conversions.convert(scenes, out).changed


@pytest.mark.parametrize("label", ["bees", "skip"])
def test_a_photo_that_was_away_comes_back_corrected(scenes, tmp_path, out, label):
    path = scenes / "ants" / "3.jpg"
    corrections = write(tmp_path, ("ants/3.jpg", label))
    conversions.convert(scenes, out, corrections=corrections)
    data = path.read_bytes()
    path.unlink()
    for _ in range(2):
        conversions.convert(scenes, out)
    path.write_bytes(data)
    row = rows_of(conversions.convert(scenes, out))["ants/3.jpg"]
    assert row.class_name == ("bees" if label == "bees" else "ants")
    assert row.is_included == (label == "bees")


def test_the_label_of_the_source_takes_a_correction_back(scenes, tmp_path, out):
    conversions.convert(scenes, out)
    content = files.folder_content(out)
    corrections = write(tmp_path, ("ants/3.jpg", "bees"), ("ants/4.jpg", "skip"))
    conversions.convert(scenes, out, corrections=corrections)
    assert files.folder_content(out) != content
    back = write(tmp_path, ("ants/3.jpg", "ants"), ("ants/4.jpg", "ants"))
    summary = conversions.convert(scenes, out, corrections=back)
    assert line(summary, "corrected") == line(summary, "left out") == ""
    assert files.folder_content(out) == content


def test_what_the_user_does_in_the_source_since_is_right(scenes, tmp_path, out):
    corrections = write(tmp_path, ("ants/3.jpg", "bees"), ("ants/4.jpg", "skip"))
    conversions.convert(scenes, out, corrections=corrections)
    for number, folder in ((3, "wasps"), (4, "bees")):
        (scenes / "ants" / f"{number}.jpg").rename(scenes / folder / "moved.jpg")
    summary = conversions.convert(scenes, out)
    rows = rows_of(summary)
    assert rows["wasps/moved.jpg"].class_name == "wasps"
    assert rows["bees/moved.jpg"].is_included
    assert line(summary, "corrections that") == (
        "corrections that no longer fit: 2 (ants/3.jpg: has another label in the "
        "source now; ants/4.jpg: has another label in the source now)"
    )


def test_a_class_that_is_renamed_or_gone(scenes, tmp_path, out):
    corrections = write(tmp_path, ("ants/3.jpg", "bees"), ("bees/1.jpg", "wasps"))
    conversions.convert(scenes, out, corrections=corrections)
    (scenes / "ants").rename(scenes / "formicae")
    shutil.rmtree(scenes / "wasps")
    summary = conversions.convert(scenes, out)
    rows = rows_of(summary)
    row = rows["formicae/3.jpg"]
    assert (row.class_name, row.corrected_from) == ("bees", "formicae")
    assert rows["bees/1.jpg"].class_name == "bees"
    assert line(summary, "corrections that") == (
        "corrections that no longer fit: 1 "
        "(bees/1.jpg: class wasps is not in the source)"
    )


def test_a_photo_in_two_classes_is_settled_by_corrections(scenes, tmp_path, out):
    for target in ("wasps/copy.jpg", "bees/copy.jpg"):
        shutil.copy(scenes / "ants" / "0.jpg", scenes / target)
    summary = conversions.convert(scenes, out)
    assert line(summary, "left out, filed under several classes: 3")
    corrections = write(tmp_path, ("wasps/copy.jpg", "ants"), ("bees/copy.jpg", "skip"))
    summary = conversions.convert(scenes, out, corrections=corrections)
    rows = rows_of(summary)
    assert rows["ants/0.jpg"].is_included
    assert rows["wasps/copy.jpg"].class_name == "ants"
    assert not rows["bees/copy.jpg"].is_included
    assert line(summary, "left out, filed") == ""
    # A copy that is corrected into another class makes a conflict.
    corrections = write(tmp_path, ("wasps/copy.jpg", "bees"))
    summary = conversions.convert(scenes, out, corrections=corrections)
    assert line(summary, "left out, filed under several classes: 2 (ants/0.jpg, wasps")
    row = rows_of(summary)["wasps/copy.jpg"]
    assert row.codes == (Code.CONFLICTING_LABELS,)
    # ... which the next answer settles.
    corrections = write(tmp_path, ("wasps/copy.jpg", "ants"))
    rows = rows_of(conversions.convert(scenes, out, corrections=corrections))
    assert rows["wasps/copy.jpg"].class_name == "ants"
    assert rows["wasps/copy.jpg"].is_included


def test_a_copy_that_was_there_keeps_its_own_answer(scenes, tmp_path, out):
    shutil.copy(scenes / "ants" / "0.jpg", scenes / "bees" / "copy.jpg")
    corrections = write(tmp_path, ("bees/copy.jpg", "skip"))
    conversions.convert(scenes, out, corrections=corrections)
    (scenes / "bees" / "copy.jpg").unlink()
    rows = rows_of(conversions.convert(scenes, out))
    assert rows["ants/0.jpg"].is_included


def test_what_no_longer_fits_is_counted_on_a_line(scenes, tmp_path, out):
    drawing = drawn_photos.draw_scene(777, 96, 128)
    old = sha256(scenes / "ants" / "3.jpg")
    cv2.imwrite(str(scenes / "ants" / "3.jpg"), drawing)
    (scenes / "stray.jpg").write_bytes((scenes / "ants" / "4.jpg").read_bytes())
    corrections = write(
        tmp_path,
        ("ants/3.jpg", "bees", "", old),
        ("ants/gone.jpg", "bees"),
        ("ants/also gone.jpg", "skip", "", "a" * 64),
        ("stray.jpg", "bees"),
        ("ants/5.jpg", "bees", "", sha256(scenes / "ants" / "5.jpg").upper()),
    )
    summary = conversions.convert(scenes, out, corrections=corrections)
    assert line(summary, "corrections") == (
        "corrections that no longer fit: 4 ("
        "ants/3.jpg: not in the source, or replaced by another photo; "
        "ants/gone.jpg: not in the source, or replaced by another photo; "
        "ants/also gone.jpg: not in the source, or replaced by another photo; "
        "stray.jpg: in no class of the source)"
    )
    assert line(summary, "corrected labels: 1 (ants/5.jpg)")
    cv2.imwrite(str(scenes / "ants" / "5.jpg"), drawn_photos.draw_scene(778, 96, 128))
    summary = conversions.convert(scenes, out)
    assert rows_of(summary)["ants/5.jpg"].class_name == "ants"
    assert line(summary, "corrections that no longer fit: 1 (ants/5.jpg: ")
    assert line(conversions.convert(scenes, out), "corrections that") == ""


def test_several_files_may_repeat_but_not_contradict_each_other(scenes, tmp_path, out):
    one = write(tmp_path, ("ants/3.jpg", "bees"), ("ants/4.jpg", "skip"))
    digest = sha256(scenes / "ants" / "3.jpg")
    two = write(tmp_path, ("ants/3.jpg", "bees", "sure", digest), name="two.csv")
    rows = rows_of(conversions.convert(scenes, out, corrections=f"{one},{two}"))
    assert rows["ants/3.jpg"].class_name == "bees"
    assert not rows["ants/4.jpg"].is_included
    content = files.folder_content(out)
    three = write(tmp_path, ("ants/5.jpg", "bees"), ("ants/3.jpg", "wasps"), name="3")
    with pytest.raises(DataError) as caught:
        conversions.convert(scenes, out, corrections=f"{one},{two},{three}")
    assert str(caught.value) == (
        f"{three} line 3: ants/3.jpg has the label 'wasps', but 'bees' in {one} line 2"
        ". Remove one of them"
    )
    assert files.folder_content(out) == content
    twice = write(tmp_path, ("ants/3.jpg", "skip"), ("ants/3.jpg", "bees"))
    with pytest.raises(DataError, match=r"line 3: .*'bees', but 'skip' in .* line 2"):
        conversions.convert(scenes, out, corrections=twice)


@cases.table(
    "content, message",
    {
        "a class that is spelled wrong": (
            "path,label\nants/1.jpg,wsaps\n",
            r"line 2: class 'wsaps' is unknown\. .*, such as wasps\. For a new class,",
        ),
        "no label": ("path,label\nants/1.jpg,\n", "line 2: class '' is unknown"),
        "a number for a class": ("path,label\nants/1.jpg,1\n", "class '1' is unknown"),
        "no column of labels": (
            "path,class\na,b\n",
            "expected one column label, found",
        ),
        "two columns of paths": (
            "path,path,label\na,b,c\n",
            "expected one column path",
        ),
        "an open quote": ('path,label\n"ants/1.jpg,bees\n', "a quote is not closed"),
        "a run's doubts.csv": (
            "path,label,suggested\nants/1.jpg,ants,bees\n",
            "has a column `suggested`",
        ),
        "a field too many": ("path,label\na,bees,\n", "line 2: has 3 fields"),
        "nothing": ("", "is empty"),
        "a zero byte": ("path,label\na\0,bees\n", "line 2: has a zero byte"),
    },
)
def test_a_file_that_is_wrong_is_refused_and_nothing_written(
    scenes, tmp_path, out, content, message
):
    (tmp_path / "c.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        conversions.convert(scenes, out, corrections=str(tmp_path / "c.csv"))
    assert not out.exists() or not any(out.iterdir())


def test_a_class_called_skip_makes_the_answer_ambiguous(scenes, tmp_path, out):
    (scenes / "ants").rename(scenes / "skip")
    corrections = write(tmp_path, ("bees/1.jpg", "skip"))
    with pytest.raises(DataError, match=r"line 2: skip leaves photos out, but a class"):
        conversions.convert(scenes, out, corrections=corrections)


def test_corrections_may_not_empty_a_class(scenes, tmp_path, out):
    corrections = write(tmp_path, *((f"ants/{n}.jpg", "bees") for n in range(10)))
    with pytest.raises(DataError, match="class ants: the corrections leave no photo"):
        conversions.convert(scenes, out, corrections=corrections)


def test_a_file_in_the_home_folder_is_found(scenes, tmp_path, out, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, ("ants/3.jpg", "bees"), name="saved.csv")
    rows = rows_of(conversions.convert(scenes, out, corrections="~/saved.csv"))
    assert rows["ants/3.jpg"].class_name == "bees"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_files_of_spreadsheets_are_read(scenes, tmp_path, out, encoding):
    (scenes / "ants").rename(scenes / "Bl\u00fcten")
    text = "label;path;who\r\nBl\u00fcten;bees/1.jpg;me\r\nbees;Bl\u00fcten/1.jpg;\r\n"
    (tmp_path / "c.csv").write_bytes(text.encode(encoding))
    summary = conversions.convert(scenes, out, corrections=str(tmp_path / "c.csv"))
    rows = rows_of(summary)
    assert rows["bees/1.jpg"].class_name == "Bl\u00fcten"
    assert rows["Bl\u00fcten/1.jpg"].class_name == "bees"


def test_a_class_with_a_space_at_its_end_takes_corrections(scenes, tmp_path, out):
    (scenes / "bees").rename(scenes / "bees ")
    corrections = write(tmp_path, ("ants/1.jpg", "bees "))
    rows = rows_of(conversions.convert(scenes, out, corrections=corrections))
    assert rows["ants/1.jpg"].class_name == "bees "


def test_odd_names_survive_the_way_through_a_page_and_csv(scenes, tmp_path, out):
    names = ["a,b.jpg", '"q".jpg', "n\nl.jpg", "c\rr.jpg", " s .jpg ", "<b>.jpg"]
    names.append(os.fsdecode(b"\xff.jpg"))
    for number, name in enumerate(names):
        (scenes / "ants" / f"{number}.jpg").rename(scenes / "ants" / name)
    shown = [name.replace("\udcff", "\\xff") for name in names]
    corrections = write(tmp_path, *((f"ants/{name}", "bees") for name in shown))
    rows = rows_of(conversions.convert(scenes, out, corrections=corrections))
    for name in names:
        assert rows[f"ants/{name}"].corrected_from == "ants", name
    assert rows_of(conversions.convert(scenes, out)) == rows


def test_photos_that_an_earlier_version_left_out_stay_out(scenes, tmp_path, out):
    skip = write(tmp_path, ("ants/3.jpg", "skip"))
    converted = conversions.convert(scenes, out, corrections=skip).manifest
    rows = [
        dataclasses.replace(row, codes=(Code.LEFT_OUT_BY_LIST,), reason="listed")
        if row.path == "ants/3.jpg"
        else row
        for row in converted.rows
    ]
    before = dataclasses.replace(converted, rows=tuple(rows))
    with staging.staged(before.directory) as partial:
        before.stage(partial)
        staging.commit(before.directory)
    row = rows_of(conversions.convert(scenes, out))["ants/3.jpg"]
    assert row.action == "skipped"


def as_csv(scenes):
    lines = [f"{p.relative_to(scenes)},{p.parent.name}" for p in scenes.glob("*/*")]
    (scenes / "all.csv").write_text("path,label\n" + "\n".join(lines))
    return scenes, source_settings.Settings(csv="all.csv"), "ants/3.jpg"


def as_lists(scenes):
    names = ("ants", "bees", "wasps")
    lines = [
        f"{p.relative_to(scenes)} {names.index(p.parent.name)}"
        for p in scenes.glob("*/*")
    ]
    (scenes / "all.txt").write_text("\n".join(lines))
    return scenes, source_settings.Settings(lists="all.txt"), "ants/3.jpg"


def as_split_folders(scenes):
    root = scenes.parent / "splits"
    for path in scenes.glob("*/*"):
        split = "test" if path.stem in "89" else "train"
        (root / split / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / split / path.parent.name)
    return root, source_settings.Settings(), "train/ants/3.jpg"


def as_old_records(scenes):
    root = scenes.parent / "old"
    root.mkdir()
    for label, folder in enumerate(sorted(scenes.iterdir())):
        with (root / f"{folder.name}.tfrecord").open("wb") as file:
            for path in sorted(folder.iterdir()):
                example = stored_photo.Example()
                feature = example.features.feature
                feature["image"].bytes_list.value.append(path.read_bytes())
                feature["label"].bytes_list.value.append(struct.pack("<q", label))
                file.write(tfrecord.frame(example.SerializeToString()))
    return root, source_settings.Settings(), "ants.tfrecord/000003.jpg"


@pytest.mark.parametrize(
    "make",
    [as_csv, as_lists, as_split_folders, as_old_records],
    ids=lambda f: f.__name__,
)
def test_every_kind_of_source_is_corrected(scenes, tmp_path, out, make):
    root, labelling, path = make(scenes)
    corrections = write(tmp_path, (path, "bees"))
    settings = {"labelling": labelling}
    before = rows_of(conversions.convert(root, out, **settings))
    settings["corrections"] = corrections
    row = rows_of(conversions.convert(root, out, **settings))[path]
    assert (row.class_name, row.corrected_from) == ("bees", "ants")
    assert row.split == before[path].split
    assert not conversions.convert(root, out, labelling=labelling).changed


@cases.table(
    "value, message",
    {
        "a number": (7, "a value has the wrong type"),
        "half a character": ("\ud800", "surrogates not allowed"),
        "another class": ("wasps", "does not belong to manifest.json"),
    },
)
def test_a_correction_in_a_manifest_from_elsewhere_is_checked(
    scenes, tmp_path, out, value, message
):
    corrections = write(tmp_path, ("ants/3.jpg", "bees"))
    conversions.convert(scenes, out, corrections=corrections)
    path = out / "manifest.jsonl"
    text = path.read_text().replace(
        '"corrected_from":"ants"', f'"corrected_from":{json.dumps(value)}'
    )
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        manifest.read(out)
    with pytest.raises(DataError, match=message):
        conversions.convert(scenes, out)


def test_the_command_says_how_many_labels_it_corrected(scenes, tmp_path, out):
    corrections = write(tmp_path, ("ants/3.jpg", "bees"), ("wasps/1.jpg", "skip"))
    done = conversions.command(scenes, out, f"--corrections={corrections}")
    assert done.returncode == 0, done.stderr
    assert "\ncorrected labels: 1 (ants/3.jpg)\n" in done.stdout
    assert "\nleft out by corrections: 1 (wasps/1.jpg)\n" in done.stdout
    assert "skipped wasps/1.jpg: left out by a correction\n" in done.stdout
    done = conversions.command(scenes, out, "--corrections=nowhere.csv")
    assert done.returncode == 2
    assert "nowhere.csv" in done.stderr
