import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from pipeline.grouping import photo_selection
from pipeline.records import manifest
from pipeline.records.manifest_row import Code, Row
from pipeline.sources.photo_source import Source, SourcePhoto
from pipeline.system.errors import DataError
from tests.support import conversions, drawn_photos, files, processes


def run(source, out, **settings):
    settings = {"missing_classes": "keep"} | settings
    return conversions.convert(source, out, **settings)


def write_csv(folder, splits):
    """photos.csv of class folders; `splits` gives the split of a class and a number."""
    lines = ["path,label,split"]
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".jpg", ".png"):
            name = path.parent.name
            number = int(path.stem.removeprefix(name))
            where = path.relative_to(folder).as_posix()
            lines.append(f"{where},{name},{splits(name, number)}")
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")
    return {"csv": str(folder / "photos.csv")}


def all_three(name, number):
    return "test" if number % 4 == 0 else "val" if number % 4 == 1 else "train"


def split_of(found):
    return {row.path: row.split for row in found.included()}


class TestKept:
    def test_three_given_splits_are_kept(self, photos, tmp_path):
        how = write_csv(photos, all_three)
        summary = run(photos, tmp_path / "out", **how)
        counts = summary.manifest.counts()["red"]
        assert counts == {"train": 6, "validation": 3, "test": 3}
        for path, name in split_of(summary.manifest).items():
            number = int(path.split("/")[1][-7:-4])
            assert name == all_three("", number).replace("val", "validation")
        assert summary.notes[1] == "given splits: train, validation, test"
        head = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert head["settings"]["given_splits"] == ["train", "validation", "test"]
        assert not run(photos, tmp_path / "out", **how).changed

    def test_a_missing_split_is_filled_from_training_photos(self, photos, tmp_path):
        def two(name, number):
            return "test" if number < 3 else "train"

        summary = run(photos, tmp_path / "out", **write_csv(photos, two))
        for counts in summary.manifest.counts().values():
            assert counts == {"train": 8, "validation": 1, "test": 3}
        for path, name in split_of(summary.manifest).items():
            assert (name == "test") == (int(path.split("/")[1][-7:-4]) < 3)
        assert "validation (0.1) is taken from the rest" in summary.notes[1]
        photo = drawn_photos.encode_photo("red", 500)
        (photos / "red" / "red501.jpg").write_bytes(photo)
        after = run(photos, tmp_path / "out", **write_csv(photos, two)).manifest
        assert split_of(summary.manifest).items() <= split_of(after).items()

    def test_a_given_split_gets_no_other_photos(self, photos, tmp_path):
        def few(name, number):
            return "test" if number == 0 and name == "red" else ""

        found = run(photos, tmp_path / "out", **write_csv(photos, few)).manifest
        assert [r.path for r in found.included("test")] == ["red/red000.jpg"]
        assert found.counts()["red"]["validation"] == 1

    def test_split_folders_give_the_splits(self, photos, tmp_path):
        source = tmp_path / "splits"
        shutil.copytree(photos, source / "train")
        shutil.copytree(photos, source / "val")
        for folder, keep in (("train", range(8)), ("val", range(8, 12))):
            for path in (source / folder).rglob("*.*"):
                if int(path.stem[-3:]) not in keep:
                    path.unlink()
        found = run(source, tmp_path / "out").manifest
        assert found.counts()["red"] == {"train": 7, "validation": 4, "test": 1}
        assert {r.path.split("/")[0] for r in found.included("validation")} == {"val"}
        assert {r.path.split("/")[0] for r in found.included("test")} == {"train"}

    def test_a_refused_layout_is_read_with_the_flag_that_the_error_names(
        self, photos, tmp_path
    ):
        source, out = tmp_path / "zip", tmp_path / "out"
        for name, numbers in (("Train set", range(8)), ("Test set", range(8, 12))):
            for path in photos.rglob("*.*"):
                if int(path.stem[-3:]) in numbers:
                    copy = source / name / path.relative_to(photos)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, copy)
        with pytest.raises(DataError) as refused:
            run(source, out)
        advice = re.search(r"If they are splits, pass (.*?)\. If", str(refused.value))
        (flag,) = shlex.split(advice[1])
        done = conversions.command(source, out, flag)
        assert done.returncode == 0, done.stderr
        converted = manifest.read(out)
        assert converted.counts()["red"] == {"train": 7, "validation": 1, "test": 4}
        layout = flag.removeprefix("--layout=")
        assert converted.info.settings["layout"] == layout
        assert not run(source, out, layout=layout).changed

    def test_a_layout_is_needed_again_for_the_same_records(self, photos, tmp_path):
        for name in ("red", "green"):
            for year in ("2023", "2024"):
                shutil.copytree(photos / name, tmp_path / "all" / name / year)
        run(tmp_path / "all", tmp_path / "out", layout="class")
        with pytest.raises(DataError, match="was converted with --layout=class"):
            run(tmp_path / "all", tmp_path / "out")

    def test_lists_give_the_splits(self, photos, tmp_path):
        for name, numbers in (("train", range(8)), ("test", range(8, 12))):
            lines = [
                f"{path.relative_to(photos)} {label}"
                for label, folder in enumerate(("red", "green", "blue"))
                for path in sorted((photos / folder).iterdir())
                if int(path.stem[-3:]) in numbers
            ]
            lines += ["red/missing.jpg 0"] if name == "train" else []
            (photos / f"{name}.txt").write_text("\n".join(lines))
        summary = run(photos, tmp_path / "out", lists="train.txt,test.txt")
        found = summary.manifest
        assert found.class_names == ("red", "green", "blue")
        assert found.counts()["blue"] == {"train": 7, "validation": 1, "test": 4}
        assert "lists: 37 photos in 2 lists, labels 0-based" in summary.notes[0]
        (row,) = (row for row in found.rows if row.path == "red/missing.jpg")
        assert "cannot be read: No such file" in row.reason


class TestCopies:
    @pytest.mark.parametrize(
        ("given", "stays"),
        [
            ({"a": "train", "b": "test"}, "b"),
            ({"a": "test", "b": "train"}, "a"),
            ({"a": "validation", "b": "train"}, "a"),
            ({"a": "validation", "b": "test"}, "b"),
            ({"a": "", "b": "test"}, "b"),
            ({"a": "train", "b": ""}, "ab"),
            ({"a": "test", "b": "test"}, "ab"),
        ],
    )
    def test_only_the_last_split_keeps_a_copied_photo(self, given, stays):
        photos = [
            SourcePhoto(path=path, class_name="red", split=split)
            for path, split in given.items()
        ]
        source = Source(kind="CSV", root=Path(), class_names=("red",), photos=photos)
        facts = {"class_name": "red", "sha256": "1", "source_bytes": 1}
        rows = [Row(path=path, action="copied", **facts) for path in given]
        photo_selection.leave_out_copies(rows, source, [[0, 1]])
        assert {row.path for row in rows if row.is_included} == set(stays)
        for row in rows:
            if not row.is_included:
                split = given[stays]
                assert (row.reason, row.split) == (f"also in {split}: {stays}", split)

    def test_a_class_whose_training_photos_are_all_test_photos_is_a_warning(
        self, photos, tmp_path
    ):
        source = tmp_path / "splits"
        shutil.copytree(photos, source / "train")
        shutil.copytree(photos, source / "test")
        for path in (source / "test").rglob("*.*"):
            if path.parent.name != "red" and int(path.stem[-3:]):
                path.unlink()
        done = conversions.command(source, tmp_path / "out")
        assert done.returncode == 0, done.stderr
        assert "warning: class red: no photo for train and validation" in done.stdout
        assert "skipped train/red/red000.jpg: also in test: test/red/" in done.stdout
        assert not run(source, tmp_path / "out").changed


class TestLacking:
    def lists(self, photos):
        files = {}
        for name, classes in (("train", "blue green red"), ("test", "blue green")):
            lines = [
                f"{class_name}/{class_name}00{number}.jpg {label}"
                for label, class_name in enumerate(classes.split())
                for number in ((0, 1, 2) if name == "train" else (3,))
            ]
            files[name] = photos / f"{name}.txt"
            files[name].write_text("\n".join(lines))
        return f"{files['train']},{files['test']}"

    def test_a_class_missing_from_a_split_is_refused(self, photos, tmp_path):
        with pytest.raises(
            DataError, match=r"photo is given of red \(test\).*--missing_classes=keep"
        ):
            lists = self.lists(photos)
            run(photos, tmp_path / "out", lists=lists, missing_classes="refuse")
        assert not (tmp_path / "out").exists()

    def test_a_class_missing_from_a_split_can_be_kept(self, photos, tmp_path):
        found = run(photos, tmp_path / "out", lists=self.lists(photos)).manifest
        assert found.counts()["red"]["test"] == 0
        assert found.counts()["blue"]["test"] == 1


class TestLater:
    def test_known_photos_do_not_change_sides(self, photos, tmp_path):
        run(photos, tmp_path / "out", **write_csv(photos, all_three))
        before = files.folder_digest(tmp_path / "out")

        def other(name, number):
            return "train" if (name, number) == ("red", 0) else all_three(name, number)

        how = write_csv(photos, other)
        message = (
            r"gives: 1, .*red/red000\.jpg first \(known in test, given for train\)"
        )
        with pytest.raises(DataError, match=message):
            run(photos, tmp_path / "out", **how)
        assert files.folder_digest(tmp_path / "out") == before
        run(photos, tmp_path / "new", **how)

    def test_new_photos_get_their_split_and_removed_ones_keep_a_row(
        self, photos, tmp_path
    ):
        how = write_csv(photos, all_three)
        before = split_of(run(photos, tmp_path / "out", **how).manifest)
        photo = drawn_photos.encode_photo("red", 500)
        (photos / "red" / "red501.jpg").write_bytes(photo)
        write_csv(photos, all_three)
        lines = (photos / "photos.csv").read_text().splitlines()
        (photos / "photos.csv").write_text(
            "\n".join(line for line in lines if not line.startswith("blue/blue003"))
        )
        after = run(photos, tmp_path / "out", **how).manifest
        rows = {row.path: row for row in after.rows}
        assert rows["red/red501.jpg"].split == "validation"
        assert rows["blue/blue003.jpg"].codes == (Code.REMOVED,)
        del before["blue/blue003.jpg"]
        assert before.items() <= split_of(after).items()

    def test_split_names_the_given_splits_that_it_replaces(self, photos, tmp_path):
        how = write_csv(photos, all_three)
        before = run(photos, tmp_path / "out", **how).manifest
        words = ("-m", "pipeline.split", tmp_path / "out", "--seed=3")
        done = processes.run_command(*words)
        assert done.returncode == 0, done.stderr
        replaced = "the split that the photos came with (train, validation, test)"
        assert f"replaced {replaced}" in done.stdout
        after = manifest.read(tmp_path / "out")
        assert after.counts()["red"]["test"] == 1
        assert after.records_digest == before.records_digest
        with pytest.raises(DataError, match="known in another split"):
            run(photos, tmp_path / "out", **how)


def test_out_may_lie_beside_listed_photos(photos):
    how = write_csv(photos, all_three)
    assert run(photos, photos / "out", **how).written
    assert not run(photos, photos / "out", **how).changed
