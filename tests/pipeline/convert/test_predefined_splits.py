import json
import shutil

import cv2
import pytest

from pipeline.convert import conversion, convert_settings
from pipeline.grouping import split_assignment
from pipeline.records import manifest
from pipeline.records.row_codes import Code
from pipeline.system.errors import DataError
from tests.support import drawn_photos, files, processes


def run(source, out, **how):
    how = {"missing_classes": "keep"} | how
    config = convert_settings.Config(source=str(source), out=str(out), workers=1, **how)
    return conversion.convert(config)


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
        assert summary.manifest.counts()["red"] == {
            "train": 6,
            "validation": 3,
            "test": 3,
        }
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

    def test_a_given_split_gets_no_other_photos(self, photos, tmp_path):
        """However small it is, and whatever is given for nothing."""

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
        done = processes.run_command(
            *("-m", "pipeline.convert", photos, "--lists=train.txt,test.txt"),
            *(f"--out={tmp_path / 'out'}", "--workers=1"),
        )
        assert done.returncode == 0, done.stderr
        found = manifest.read(tmp_path / "out")
        assert found.class_names == ("red", "green", "blue")
        assert found.counts()["blue"] == {"train": 7, "validation": 1, "test": 4}
        assert "lists: 37 photos in 2 lists, labels 0-based" in done.stdout
        assert "skipped red/missing.jpg: cannot be read: No such file" in done.stdout


class TestCopies:
    def copy(self, photos, name, number):
        shutil.copy(
            photos / "red" / "red000.jpg", photos / name / f"{name}{number}.jpg"
        )

    @pytest.mark.parametrize(
        ("given", "stays"),
        [
            ({0: "train", 900: "test"}, {"red/red900.jpg"}),
            ({0: "test", 900: "train"}, {"red/red000.jpg"}),
            ({0: "val", 900: "train"}, {"red/red000.jpg"}),
            ({0: "val", 900: "test"}, {"red/red900.jpg"}),
            ({0: "", 900: "test"}, {"red/red900.jpg"}),
            ({0: "train", 900: "train"}, {"red/red000.jpg", "red/red900.jpg"}),
            ({0: "train", 900: ""}, {"red/red000.jpg", "red/red900.jpg"}),
            ({0: "test", 900: "test"}, {"red/red000.jpg", "red/red900.jpg"}),
        ],
    )
    def test_only_the_last_split_keeps_a_copied_photo(
        self, photos, tmp_path, given, stays
    ):
        self.copy(photos, "red", 900)

        def splits(name, number):
            if name == "red" and number in given:
                return given[number]
            return all_three(name, number)

        how = write_csv(photos, splits)
        summary = run(photos, tmp_path / "out", **how)
        rows = {row.path: row for row in summary.manifest.rows}
        two = {"red/red000.jpg", "red/red900.jpg"}
        assert {path for path in two if rows[path].is_included} == stays
        for path in two - stays:
            (other,) = stays
            assert rows[path].reason == f"also in {rows[other].split}: {other}"
        assert {
            path for path, row in rows.items() if not row.is_included
        } == two - stays
        manifest.check(summary.manifest)
        assert not run(photos, tmp_path / "out", **how).changed

    def test_a_class_whose_training_photos_are_all_test_photos_is_a_warning(
        self, photos, tmp_path
    ):
        """Its training photos are all test photos: nothing to train on is a warning."""
        source = tmp_path / "splits"
        shutil.copytree(photos, source / "train")
        shutil.copytree(photos, source / "test")
        for path in (source / "test").rglob("*.*"):
            if path.parent.name != "red" and int(path.stem[-3:]):
                path.unlink()
        done = processes.run_command(
            *("-m", "pipeline.convert", source),
            *(f"--out={tmp_path / 'out'}", "--workers=1"),
        )
        assert done.returncode == 0, done.stderr
        assert "warning: class red: no photo for train and validation" in done.stdout
        assert "skipped train/red/red000.jpg: also in test: test/red/" in done.stdout


class TestLacking:
    """A class that the list of a split has no photo of."""

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
        with pytest.raises(
            DataError,
            match=r"1 photos are known in another.*red/red000\.jpg first \(known in te"
            r"st, given for train\).*new folder with --out",
        ):
            run(photos, tmp_path / "out", **how)
        assert files.folder_digest(tmp_path / "out") == before
        run(photos, tmp_path / "new", **how)

    def test_a_split_by_shares_is_not_replaced(self, photos, tmp_path):
        run(photos, tmp_path / "out")
        with pytest.raises(DataError, match="known in another split"):
            run(photos, tmp_path / "out", **write_csv(photos, all_three))

    def test_new_photos_get_their_split_and_removed_ones_keep_a_row(
        self, photos, tmp_path
    ):
        before = split_of(
            run(photos, tmp_path / "out", **write_csv(photos, all_three)).manifest
        )
        pixels = drawn_photos.draw_photo("red", 500)
        cv2.imwrite(str(photos / "red" / "red501.jpg"), pixels)
        how = write_csv(photos, all_three)
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

    def test_photos_drawn_for_validation_stay_there(self, photos, tmp_path):
        def two(name, number):
            return "test" if number % 4 == 0 else "train"

        how = write_csv(photos, two)
        before = split_of(run(photos, tmp_path / "out", **how).manifest)
        assert set(before.values()) == set(manifest.SPLITS)
        cv2.imwrite(
            str(photos / "red" / "red501.jpg"), drawn_photos.draw_photo("red", 500)
        )
        after = split_of(
            run(photos, tmp_path / "out", **write_csv(photos, two)).manifest
        )
        assert before.items() <= after.items()

    def test_split_names_the_given_splits_that_it_replaces(self, photos, tmp_path):
        how = write_csv(photos, all_three)
        before = run(photos, tmp_path / "out", **how).manifest
        done = processes.run_command(
            "-m", "pipeline.split", tmp_path / "out", "--seed=3"
        )
        assert done.returncode == 0, done.stderr
        assert (
            "replaced the split that the photos came with (train, validation, test)"
            in done.stdout
        )
        after = manifest.read(tmp_path / "out")
        assert after.counts()["red"]["test"] == 1
        assert after.records_digest == before.records_digest
        with pytest.raises(DataError, match="known in another split"):
            run(photos, tmp_path / "out", **how)

    def test_split_of_records_without_given_splits_names_none(self, photos, tmp_path):
        run(photos, tmp_path / "out")
        done = processes.run_command(
            "-m", "pipeline.split", tmp_path / "out", "--seed=3"
        )
        assert "replaced" not in done.stdout
        assert split_assignment.DEFAULT_SHARES == {"validation": 0.1, "test": 0.1}


def test_out_may_lie_beside_listed_photos(photos):
    """Folders are searched for photos, lists are not."""
    how = write_csv(photos, all_three)
    assert run(photos, photos / "out", **how).written
    assert not run(photos, photos / "out", **how).changed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--lists=a.txt,b.txt",), "the name of a.txt does not give its split"),
        (("--lists=a.txt", "--csv=b.csv"), "expected only one of them"),
        (("--labels=a.txt",), "--labels: expected --lists or --csv"),
    ],
)
def test_wrong_flags_are_refused(photos, flags, message):
    done = processes.run_command("-m", "pipeline.convert", photos, *flags)
    assert done.returncode == 1
    assert message in done.stderr
