"""Conversions whose photos belong together: one split for each group, none leaks."""

import collections
import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest

from pipeline import split
from pipeline.check import verify_records
from pipeline.convert import conversion, convert_settings
from pipeline.records import manifest, manifest_row
from pipeline.records.row_codes import Code
from pipeline.system.errors import DataError
from tests.support import drawn_photos, files, old_manifest, processes


def run(source, out, **how):
    how.setdefault("workers", 1)
    summary = conversion.convert(
        convert_settings.Config(source=str(source), out=str(out), **how)
    )
    assert summary.manifest == manifest.read(out)
    return summary


def command(source, out, *flags):
    return processes.run_command(
        "-m", "pipeline.convert", source, f"--out={out}", "--workers=1", *flags
    )


def write(folder, name, pixels, quality=95):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return path


def half(pixels):
    return cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


@pytest.fixture
def scenes(tmp_path):
    """Thirty different photos in two classes."""
    for number in range(30):
        name = f"{'ab'[number % 2]}/scene{number:02d}.jpg"
        write(tmp_path / "photos", name, drawn_photos.draw_scene(number))
    return tmp_path / "photos"


def splits(found):
    return {row.path: row.split for row in found.included()}


def groups(found):
    """{group: [paths]}, in their order."""
    members = collections.defaultdict(list)
    for row in found.included():
        members[row.group].append(row.path)
    return members


def check_no_leak(found):
    for paths in groups(found).values():
        assert len({splits(found)[path] for path in paths}) == 1


def reasons(found):
    return {row.path: row.reason for row in found.rows if not row.is_included}


def codes(found):
    return {code for row in found.rows if not row.is_included for code in row.codes}


def of_split(found, name):
    """Path of a photo of class a in a split."""
    return next(r.path for r in found.included(name) if r.class_name == "a")


class TestNearDuplicates:
    def add_copies(self, scenes):
        for number in range(0, 30, 3):
            pixels = drawn_photos.draw_scene(number)
            name = f"{'ab'[number % 2]}/copy{number:02d}"
            write(scenes, f"{name}-turned.png", np.rot90(pixels))
            write(scenes, f"{name}-small.jpg", half(pixels), 70)

    def test_near_duplicates_share_group_and_split(self, scenes, tmp_path):
        self.add_copies(scenes)
        summary = run(scenes, tmp_path / "out")
        found = summary.manifest
        check_no_leak(found)
        sizes = collections.Counter(map(len, groups(found).values()))
        assert sizes == {1: 20, 3: 10}
        for name, members in groups(found).items():
            hashes = {row.sha256 for row in found.rows if row.path in members}
            assert name == min(hashes)
        assert any("near-duplicates: 10 (" in line for line in summary.findings)

    def test_every_photo_with_a_record_has_a_hash(self, scenes, tmp_path):
        (scenes / "a" / "bad.jpg").write_text("x")
        for row in run(scenes, tmp_path / "out").manifest.rows:
            assert len(row.phash) == (16 if row.is_included else 0)

    def test_the_number_of_workers_changes_nothing(self, scenes, tmp_path):
        self.add_copies(scenes)
        for workers in (1, 2, 3):
            run(scenes, tmp_path / f"{workers}", workers=workers)
        one, two, three = (
            files.folder_digest(tmp_path / name) for name in ("1", "2", "3")
        )
        assert one == two == three

    def test_a_second_conversion_changes_nothing(self, scenes, tmp_path):
        self.add_copies(scenes)
        run(scenes, tmp_path / "out")
        before = files.folder_digest(tmp_path / "out")
        assert not run(scenes, tmp_path / "out").changed
        assert files.folder_digest(tmp_path / "out") == before

    def test_a_later_copy_joins_the_split_of_its_original(self, scenes, tmp_path):
        before = run(scenes, tmp_path / "out").manifest
        for number in range(30):
            name = f"{'ab'[number % 2]}/later{number:02d}.jpg"
            write(scenes, name, drawn_photos.draw_scene(number)[:, ::-1], 80)
        after = run(scenes, tmp_path / "out").manifest
        check_no_leak(after)
        assert len(after.included()) == 60
        for path, name in splits(before).items():
            assert splits(after)[path] == name
            assert splits(after)[path.replace("scene", "later")] == name

    def test_a_later_copy_joins_the_fold_of_its_original(self, scenes, tmp_path):
        out = tmp_path / "out"
        run(scenes, out)
        split.resplit(split.Config(data=str(out), folds=3))
        before = {row.path: row for row in manifest.read(out).rows}
        for number in range(30):
            name = f"{'ab'[number % 2]}/later{number:02d}.jpg"
            write(scenes, name, drawn_photos.draw_scene(number)[:, ::-1], 80)
        for row in run(scenes, out).manifest.included():
            first = before[row.path.replace("later", "scene")]
            assert (row.split, row.fold) == (first.split, first.fold)

    def test_a_new_split_and_folds_keep_near_duplicates_together(
        self, scenes, tmp_path
    ):
        self.add_copies(scenes)
        out = tmp_path / "out"
        run(scenes, out)
        for how in ({"seed": 5}, {"folds": 4, "fold": 1}):
            split.resplit(split.Config(data=str(out), **how))
            found = manifest.read(out)
            check_no_leak(found)
            folds = {row.path: row.fold for row in found.included()}
            for paths in groups(found).values():
                assert len({folds[path] for path in paths}) == 1

    def test_near_duplicates_in_two_classes_are_grouped_and_reported(
        self, scenes, tmp_path
    ):
        write(scenes, "b/again.jpg", half(drawn_photos.draw_scene(0)))
        summary = run(scenes, tmp_path / "out")
        found = summary.manifest
        assert ["a/scene00.jpg", "b/again.jpg"] in groups(found).values()
        check_no_leak(found)
        assert any(
            line.startswith("warning") and "a/scene00.jpg and b/again.jpg" in line
            for line in summary.findings
        )

    def test_a_damaged_record_of_a_candidate_is_written_again(self, scenes, tmp_path):
        out = tmp_path / "out"
        found = run(scenes, out).manifest
        row = found.included()[0]
        with (out / row.file).open("r+b") as file:
            file.seek(row.offset + row.length // 2)
            file.write(b"damaged")
        write(scenes, "a/copy.jpg", half(drawn_photos.draw_scene(0)))
        assert run(scenes, out).written
        assert verify_records.verify(manifest.read(out), num_workers=1) == []


class TestContradictions:
    def lossless(self, path):
        return cv2.imread(str(path), cv2.IMREAD_COLOR)

    def test_the_same_pixels_under_two_classes_are_left_out(self, scenes, tmp_path):
        pixels = self.lossless(scenes / "a" / "scene00.jpg")
        write(scenes, "b/lossless.png", pixels)
        write(scenes, "a/another.bmp", pixels)
        summary = run(scenes, tmp_path / "out")
        assert reasons(summary.manifest) == dict.fromkeys(
            ("a/another.bmp", "a/scene00.jpg", "b/lossless.png"),
            "the same photo is filed under a, b",
        )
        assert any("several classes: 3 (" in line for line in summary.findings)
        assert not run(scenes, tmp_path / "out").changed

    @pytest.mark.parametrize("orientation", [1, 6, 7])
    def test_orientation_does_not_hide_the_same_pixels(
        self, scenes, tmp_path, orientation
    ):
        """However large: what the record holds is shrunk and encoded anew."""
        path = write(scenes, "a/turned.jpg", drawn_photos.draw_scene(99, 700, 900))
        tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0%c\0\0\0\0\0\0"
        exif = b"Exif\0\0" + tiff % orientation
        data = path.read_bytes()
        marker = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
        path.write_bytes(data[:2] + marker + data[2:])
        write(scenes, "b/upright.png", self.lossless(path))
        found = run(scenes, tmp_path / "out").manifest
        assert set(reasons(found)) == {"a/turned.jpg", "b/upright.png"}

    def test_contradicting_photos_can_be_kept(self, scenes, tmp_path):
        shutil.copy(scenes / "a" / "scene00.jpg", scenes / "b" / "same.jpg")
        pixels = self.lossless(scenes / "a" / "scene02.jpg")
        write(scenes, "b/lossless.png", pixels)
        summary = run(scenes, tmp_path / "out", conflicts="keep")
        found = summary.manifest
        assert not reasons(found)
        assert ["a/scene00.jpg", "b/same.jpg"] in groups(found).values()
        assert ["a/scene02.jpg", "b/lossless.png"] in groups(found).values()
        check_no_leak(found)
        changed = run(scenes, tmp_path / "out")
        assert changed.changed
        assert len(reasons(changed.manifest)) == 4

    def test_a_class_that_is_left_out_as_a_whole_is_an_error(self, scenes, tmp_path):
        (scenes / "c").mkdir()
        shutil.copy(scenes / "a" / "scene00.jpg", scenes / "c")
        with pytest.raises(DataError, match="c: none of 1 files"):
            run(scenes, tmp_path / "out")


class TestGroupBy:
    @pytest.fixture
    def patients(self, tmp_path):
        """Twelve patients with three photos each, of both classes."""
        for number in range(36):
            name = f"{'ab'[number % 2]}/p{number // 3:02d}_{number}.jpg"
            write(tmp_path / "photos", name, drawn_photos.draw_scene(number, 60, 80))
        return tmp_path / "photos"

    @pytest.mark.parametrize("pattern", [r"p\d+_", r"(p)(\d+)", "p.."])
    def test_photos_with_the_same_match_share_a_split(
        self, patients, tmp_path, pattern
    ):
        summary = run(patients, tmp_path / "out", group_by=pattern)
        found = summary.manifest
        assert [len(paths) for paths in groups(found).values()] == [3] * 12
        for paths in groups(found).values():
            assert len({path.split("/")[1][:3] for path in paths}) == 1
        check_no_leak(found)
        for counts in found.counts().values():
            assert all(counts.values())
        assert "groups by path: 12, of 36 photos" in summary.findings

    def test_a_pattern_groups_within_a_class_and_across_classes(
        self, patients, tmp_path
    ):
        found = run(patients, tmp_path / "out", group_by=r"^./p00").manifest
        assert sorted(map(len, groups(found).values())) == [1] * 33 + [1, 2]

    def test_a_copy_joins_the_groups_of_two_patterns(self, patients, tmp_path):
        write(patients, "a/p11_copy.jpg", drawn_photos.draw_scene(0, 60, 80)[:, ::-1])
        found = run(patients, tmp_path / "out", group_by=r"p\d+").manifest
        assert sorted(map(len, groups(found).values())) == [3] * 10 + [7]

    def test_new_splits_and_folds_keep_groups_together(self, patients, tmp_path):
        out = tmp_path / "out"
        run(patients, out, group_by=r"p\d+")
        for how in ({"seed": 5}, {"folds": 4, "fold": 1}):
            split.resplit(split.Config(data=str(out), **how))
            check_no_leak(manifest.read(out))
            for counts in manifest.read(out).counts().values():
                assert counts["test"]
                assert counts["train"]

    def test_photos_that_come_later_join_their_group(self, patients, tmp_path):
        out = tmp_path / "out"
        before = run(patients, out, group_by=r"p\d+").manifest
        for number in range(12):
            write(
                patients,
                f"b/p{number:02d}_new.jpg",
                drawn_photos.draw_scene(50 + number, 60, 80),
            )
        after = run(patients, out, group_by=r"p\d+").manifest
        assert splits(before).items() <= splits(after).items()
        assert [len(paths) for paths in groups(after).values()] == [4] * 12
        check_no_leak(after)

    def test_a_pattern_that_matches_no_path_is_refused(self, patients, tmp_path):
        with pytest.raises(DataError, match=r"--group_by=patient\\d: matches no"):
            run(patients, tmp_path / "out", group_by=r"patient\d")
        assert not list((tmp_path / "out").iterdir())

    def test_wrong_flags_are_refused(self, patients, tmp_path):
        for flag in ("--group_by=p(", "--group_by=*", "--conflicts=none"):
            done = command(patients, tmp_path / "out", flag)
            assert done.returncode == 1
            assert flag in done.stderr
            assert "Traceback" not in done.stderr
        with pytest.raises(ValueError, match="--conflicts"):
            convert_settings.Config(source="", conflicts="none")

    def test_another_pattern_changes_the_settings_but_no_record(
        self, patients, tmp_path
    ):
        out = tmp_path / "out"
        before = run(patients, out, group_by=r"p\d+")
        assert not run(patients, out, group_by=r"p\d+").changed
        after = run(patients, out)
        assert after.changed
        assert not after.written
        assert splits(after.manifest) == splits(before.manifest)
        assert after.manifest.info.settings["group_by"] == ""
        # The records are the same, and so are features made of them.
        assert before.manifest.records_digest == after.manifest.records_digest

    def test_known_photos_of_a_divided_group_stay_and_are_reported(
        self, patients, tmp_path
    ):
        out = tmp_path / "out"
        before = run(patients, out).manifest
        done = command(patients, out, r"--group_by=p\d+")
        assert done.returncode == 0
        assert "known photos on several sides of the split" in done.stdout
        assert splits(manifest.read(out)) == splits(before)
        split.resplit(split.Config(data=str(out), seed=1))
        check_no_leak(manifest.read(out))


class TestLaterConversions:
    def test_a_photo_between_two_splits_is_left_out(self, scenes, tmp_path):
        out = tmp_path / "out"
        before = run(scenes, out).manifest
        train, test = of_split(before, "train"), of_split(before, "test")
        numbers = [int(path[-6:-4]) for path in (train, test)]
        for index, number in enumerate(numbers):
            write(scenes, f"a/x{index}.jpg", half(drawn_photos.draw_scene(number)))
        summary = run(scenes, out, group_by=r"x\d")
        assert reasons(summary.manifest) == {}
        # Two that were one group from the start.
        shutil.rmtree(out)
        for path in scenes.glob("a/x*"):
            path.unlink()
        run(scenes, out)
        for index, number in enumerate(numbers):
            write(scenes, f"a/x{index}.jpg", half(drawn_photos.draw_scene(number)))
        summary = run(scenes, out, group_by="/(x)")
        found = summary.manifest
        assert set(reasons(found)) == {"a/x0.jpg", "a/x1.jpg"}
        assert codes(found) == {Code.BRIDGES_SPLITS}
        for reason in reasons(found).values():
            assert train in reason
            assert test in reason
        assert splits(found) == splits(before)
        assert any("both sides of the split: 2 (" in line for line in summary.findings)
        assert not run(scenes, out, group_by="/(x)").changed

    def test_a_photo_between_two_folds_is_left_out(self, scenes, tmp_path):
        out = tmp_path / "out"
        run(scenes, out)
        split.resplit(split.Config(data=str(out), folds=5))
        rows = [r for r in manifest.read(out).included("train") if r.class_name == "a"]
        one = rows[0]
        other = next(row for row in rows if row.fold != one.fold)
        for row in (one, other):
            pixels = drawn_photos.draw_scene(int(row.path[-6:-4]))
            write(scenes, f"a/x{row.path[-6:-4]}.jpg", half(pixels))
        found = run(scenes, out, group_by="/(x)").manifest
        assert len(reasons(found)) == 2
        assert f"(fold {one.fold})" in next(iter(reasons(found).values()))

    def test_an_edited_photo_keeps_the_split_of_its_path(self, scenes, tmp_path):
        out = tmp_path / "out"
        before = run(scenes, out).manifest
        for path in splits(before):
            write(scenes, path, drawn_photos.draw_scene(1000 + int(path[-6:-4])))
        after = run(scenes, out).manifest
        assert splits(after) == splits(before)
        known = {row.sha256 for row in before.rows}
        assert known.isdisjoint(row.sha256 for row in after.included())
        assert codes(after) == {Code.REPLACED}
        assert not run(scenes, out).changed

    def test_a_photo_that_was_replaced_is_known_when_it_comes_back(
        self, scenes, tmp_path
    ):
        out = tmp_path / "out"
        path = of_split(run(scenes, out).manifest, "test")
        (scenes / path).rename(tmp_path / "kept.jpg")
        write(scenes, path, drawn_photos.draw_scene(1000))
        found = run(scenes, out).manifest
        assert list(reasons(found)) == [path]
        assert codes(found) == {Code.REPLACED}
        assert splits(found)[path] == "test"
        assert len(found.rows) == 31
        assert not run(scenes, out).changed
        (scenes / path).unlink()
        assert list(reasons(run(scenes, out).manifest)) == [path]  # both are gone
        for number in range(3):  # and others before and behind it
            write(scenes, f"a/{number}.jpg", drawn_photos.draw_scene(2000 + number))
        (tmp_path / "kept.jpg").rename(scenes / "a" / "z.jpg")
        assert splits(run(scenes, out).manifest)["a/z.jpg"] == "test"

    def test_photos_that_swap_names_keep_their_splits(self, scenes, tmp_path):
        out = tmp_path / "out"
        before = run(scenes, out).manifest
        train, test = of_split(before, "train"), of_split(before, "test")
        (scenes / train).rename(scenes / "a" / "t")
        (scenes / test).rename(scenes / train)
        (scenes / "a" / "t").rename(scenes / test)
        after = splits(run(scenes, out).manifest)
        assert (after[train], after[test]) == ("test", "train")

    @pytest.mark.parametrize("version", [1, manifest_row.FORMAT_VERSION])
    def test_an_edited_photo_cannot_change_sides(self, scenes, tmp_path, version):
        """Edited to look like a test photo, a training photo is left out for good."""
        out = tmp_path / "out"
        before = run(scenes, out).manifest
        train, test = of_split(before, "train"), of_split(before, "test")
        write(scenes, train, half(drawn_photos.draw_scene(int(test[-6:-4]))))
        found = run(scenes, out).manifest
        assert set(reasons(found)) == {train}
        assert splits(found)[test] == "test"
        if version == 1:
            old_manifest.rewrite_as_version_1(out)
        for _ in range(2):
            assert not run(scenes, out).changed
        write(scenes, train, drawn_photos.draw_scene(int(train[-6:-4])))
        assert splits(run(scenes, out).manifest) == splits(before)

    def test_a_data_set_of_version_1_stays_until_a_photo_changes(
        self, scenes, tmp_path
    ):
        out = tmp_path / "out"
        write(scenes, "a/other.png", drawn_photos.draw_scene(99))
        before = run(scenes, out).manifest
        old_manifest.rewrite_as_version_1(out)
        digest = files.folder_digest(out)
        assert not run(scenes, out).changed
        assert files.folder_digest(out) == digest
        write(scenes, "b/new.png", drawn_photos.draw_scene(100))
        summary = run(scenes, out)
        assert summary.written == ("b.tfrecord",)
        after = summary.manifest
        assert after.format_version == manifest_row.FORMAT_VERSION
        known = {row.path: row for row in after.rows}
        assert {path: known[path].split for path in splits(before)} == splits(before)
        # Of a record that is kept, no more is known than the sentence.
        assert (known["a/other.png"].codes, known["b/new.png"].codes) == (
            (),
            (Code.NOT_JPEG,),
        )
        assert known["a/other.png"].reason == "PNG source"

    def from_before(self, scenes, out):
        """A data set of the time before photos had hashes; copies in every split."""
        for number in range(30):
            name = f"{'ab'[number % 2]}/copy{number:02d}.jpg"
            write(scenes, name, drawn_photos.draw_scene(number)[::-1])
        found = run(scenes, out).manifest
        random = np.random.default_rng(0)
        rows = [
            dataclasses.replace(
                row,
                phash="",
                group=row.sha256,
                split=manifest.SPLITS[random.integers(0, 3)],
            )
            for row in found.rows
        ]
        settings = {"resize_min": 512, "shard_mb": 128}
        info = dataclasses.replace(found.info, settings=settings)
        old = dataclasses.replace(found, info=info, rows=tuple(rows))
        folder = out / "old"
        folder.mkdir()
        old.stage(folder)
        for path in folder.iterdir():
            path.replace(out / path.name)
        folder.rmdir()
        return old

    def test_a_data_set_without_hashes_gets_them_and_keeps_its_splits(
        self, scenes, tmp_path
    ):
        out = tmp_path / "out"
        old = self.from_before(scenes, out)
        summary = run(scenes, out)
        found = summary.manifest
        assert splits(found) == splits(old)
        assert all(row.phash for row in found.rows)
        assert found.records_digest == old.records_digest
        assert any(
            "known photos on several sides of the split" in line
            for line in summary.findings
        )
        split.resplit(split.Config(data=str(out), seed=1))
        check_no_leak(manifest.read(out))
        assert sorted(map(len, groups(found).values())) == [2] * 30

    def test_a_photo_of_a_group_on_several_sides_is_left_out(self, scenes, tmp_path):
        out = tmp_path / "out"
        old = splits(self.from_before(scenes, out))
        for number in range(30):
            name = f"{'ab'[number % 2]}/new{number:02d}.jpg"
            write(scenes, name, half(drawn_photos.draw_scene(number)))
        found = run(scenes, out).manifest
        for number in range(30):
            name = f"{'ab'[number % 2]}/{{}}{number:02d}.jpg"
            one, other = old[name.format("scene")], old[name.format("copy")]
            assert (name.format("new") in reasons(found)) == (one != other)
            if one == other:
                assert splits(found)[name.format("new")] == one


def test_the_summary_is_compact(scenes, tmp_path):
    for number in range(30):
        name = f"{'ab'[number % 2]}/copy{number:02d}"
        write(scenes, f"{name}.jpg", drawn_photos.draw_scene(number)[::-1])
        shutil.copy(scenes / f"{name}.jpg", scenes / f"{name}-same.jpg")
    done = command(scenes, tmp_path / "out", r"--group_by=copy(\d\d)")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (copies,) = (line for line in lines if line.startswith("exact copies: 30 ("))
    (near,) = (line for line in lines if "near-duplicates: 30 (" in line)
    assert copies.count(".jpg") == 5
    assert near.count(".jpg") == 10
    assert copies.endswith("...)")
    assert any(line == "groups by path: 30, of 60 photos" for line in lines)
    assert len(lines) < 12
    head = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert head["settings"]["group_by"] == r"copy(\d\d)"
