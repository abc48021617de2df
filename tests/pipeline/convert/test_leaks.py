"""Conversions whose photos belong together: one split for each group, none leaks."""

import collections
import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest

from pipeline import split
from pipeline.check import checking
from pipeline.records import manifest, manifest_row
from pipeline.records.manifest_row import Code
from pipeline.system.errors import DataError
from tests.support import conversions, drawn_photos, files, old_manifest


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
    draw(tmp_path / "photos", range(30), "scene{}.jpg")
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


def draw(folder, numbers, name, change=lambda pixels: pixels, quality=95):
    """Write scenes that are changed, under names of their class and number."""
    for number in numbers:
        path = f"{'ab'[number % 2]}/{name.format(f'{number:02d}')}"
        write(folder, path, change(drawn_photos.draw_scene(number)), quality)


def mirrored(pixels):
    return pixels[:, ::-1]


class TestNearDuplicates:
    def add_copies(self, scenes):
        draw(scenes, range(0, 30, 3), "copy{}-turned.png", np.rot90)
        draw(scenes, range(0, 30, 3), "copy{}-small.jpg", half, 70)

    def test_near_duplicates_share_group_and_split(self, scenes, tmp_path):
        self.add_copies(scenes)
        summary = conversions.convert(scenes, tmp_path / "out")
        found = summary.manifest
        check_no_leak(found)
        assert {len(row.phash) for row in found.rows} == {16}
        sizes = collections.Counter(map(len, groups(found).values()))
        assert sizes == {1: 20, 3: 10}
        for name, members in groups(found).items():
            hashes = {row.sha256 for row in found.rows if row.path in members}
            assert name == min(hashes)
        assert any("near-duplicates: 10 (" in line for line in summary.findings)
        conversions.convert(scenes, tmp_path / "workers", workers=3)
        first, second = (files.folder_digest(tmp_path / n) for n in ("out", "workers"))
        assert first == second

    @pytest.mark.parametrize("folds", [0, 3])
    def test_a_later_copy_joins_its_original(self, scenes, tmp_path, folds):
        out = tmp_path / "out"
        conversions.convert(scenes, out)
        split.resplit(split.Config(data=str(out), folds=folds))
        before = {row.path: row for row in manifest.read(out).rows}
        draw(scenes, range(30), "later{}.jpg", mirrored, 80)
        after = conversions.convert(scenes, out).manifest
        assert len(after.included()) == 60
        for row in after.included():
            first = before[row.path.replace("later", "scene")]
            assert (row.split, row.fold) == (first.split, first.fold)

    def test_a_new_split_and_folds_keep_near_duplicates_together(
        self, scenes, tmp_path
    ):
        self.add_copies(scenes)
        out = tmp_path / "out"
        conversions.convert(scenes, out)
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
        summary = conversions.convert(scenes, tmp_path / "out")
        found = summary.manifest
        assert ["a/scene00.jpg", "b/again.jpg"] in groups(found).values()
        check_no_leak(found)
        assert any(
            line.startswith("warning") and "a/scene00.jpg and b/again.jpg" in line
            for line in summary.findings
        )

    def test_a_damaged_record_of_a_candidate_is_written_again(self, scenes, tmp_path):
        out = tmp_path / "out"
        found = conversions.convert(scenes, out).manifest
        row = found.included()[0]
        with (out / row.file).open("r+b") as file:
            file.seek(row.offset + row.length // 2)
            file.write(b"damaged")
        write(scenes, "a/copy.jpg", half(drawn_photos.draw_scene(0)))
        assert conversions.convert(scenes, out).written
        assert checking.verify(manifest.read(out), num_workers=1) == []


class TestContradictions:
    def lossless(self, path):
        return cv2.imread(str(path), cv2.IMREAD_COLOR)

    def test_the_same_pixels_under_two_classes_are_left_out(self, scenes, tmp_path):
        pixels = self.lossless(scenes / "a" / "scene00.jpg")
        write(scenes, "b/lossless.png", pixels)
        write(scenes, "a/another.bmp", pixels)
        summary = conversions.convert(scenes, tmp_path / "out")
        assert reasons(summary.manifest) == dict.fromkeys(
            ("a/another.bmp", "a/scene00.jpg", "b/lossless.png"),
            "the same photo is filed under a, b",
        )
        assert any("several classes: 3 (" in line for line in summary.findings)
        assert not conversions.convert(scenes, tmp_path / "out").changed

    @pytest.mark.parametrize("orientation", [1, 6])
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
        found = conversions.convert(scenes, tmp_path / "out").manifest
        assert set(reasons(found)) == {"a/turned.jpg", "b/upright.png"}

    def test_contradicting_photos_can_be_kept(self, scenes, tmp_path):
        shutil.copy(scenes / "a" / "scene00.jpg", scenes / "b" / "same.jpg")
        pixels = self.lossless(scenes / "a" / "scene02.jpg")
        write(scenes, "b/lossless.png", pixels)
        summary = conversions.convert(scenes, tmp_path / "out", conflicts="keep")
        found = summary.manifest
        assert not reasons(found)
        assert ["a/scene00.jpg", "b/same.jpg"] in groups(found).values()
        assert ["a/scene02.jpg", "b/lossless.png"] in groups(found).values()
        check_no_leak(found)
        changed = conversions.convert(scenes, tmp_path / "out")
        assert changed.changed
        assert len(reasons(changed.manifest)) == 4


class TestGroupBy:
    @pytest.fixture
    def patients(self, tmp_path):
        """Twelve patients with three photos each, of both classes."""
        for number in range(36):
            name = f"{'ab'[number % 2]}/p{number // 3:02d}_{number}.jpg"
            write(tmp_path / "photos", name, drawn_photos.draw_scene(number, 60, 80))
        return tmp_path / "photos"

    def test_photos_with_the_same_match_share_a_split(self, patients, tmp_path):
        summary = conversions.convert(patients, tmp_path / "out", group_by=r"p\d+_")
        found = summary.manifest
        assert [len(paths) for paths in groups(found).values()] == [3] * 12
        for paths in groups(found).values():
            assert len({path.split("/")[1][:3] for path in paths}) == 1
        check_no_leak(found)
        for counts in found.counts().values():
            assert all(counts.values())
        assert "given groups: 12, of 36 photos" in summary.findings

    def test_photos_of_one_group_in_a_table_share_a_split(self, patients, tmp_path):
        paths = sorted(path.relative_to(patients) for path in patients.rglob("*.jpg"))
        rows = [f"{path};{path.parts[0]};{path.stem[:3]}" for path in paths]
        table = tmp_path / "table.csv"
        table.write_text("\n".join(["file;class;patient", *rows]))
        columns = "path:file,label:class,group:patient"
        summary = conversions.convert(
            patients, tmp_path / "out", csv=str(table), columns=columns
        )
        by_pattern = conversions.convert(patients, tmp_path / "b", group_by=r"p\d+_")
        assert groups(summary.manifest) == groups(by_pattern.manifest)
        assert "given groups: 12, of 36 photos" in summary.findings

    def test_a_copy_joins_the_groups_of_two_patterns(self, patients, tmp_path):
        write(patients, "a/p11_copy.jpg", drawn_photos.draw_scene(0, 60, 80)[:, ::-1])
        found = conversions.convert(
            patients, tmp_path / "out", group_by=r"p\d+"
        ).manifest
        assert sorted(map(len, groups(found).values())) == [3] * 10 + [7]

    def test_photos_that_come_later_join_their_group(self, patients, tmp_path):
        out = tmp_path / "out"
        before = conversions.convert(patients, out, group_by=r"p\d+").manifest
        for number in range(12):
            pixels = drawn_photos.draw_scene(50 + number, 60, 80)
            write(patients, f"b/p{number:02d}_new.jpg", pixels)
        after = conversions.convert(patients, out, group_by=r"p\d+").manifest
        assert splits(before).items() <= splits(after).items()
        assert [len(paths) for paths in groups(after).values()] == [4] * 12
        check_no_leak(after)

    def test_a_pattern_that_matches_no_path_is_refused(self, patients, tmp_path):
        with pytest.raises(DataError, match=r"--group_by=patient\\d: matches no"):
            conversions.convert(patients, tmp_path / "a" / "out", group_by=r"patient\d")
        assert not (tmp_path / "a").exists()  # nor is an empty folder left

    def test_another_pattern_changes_the_settings_but_no_record(
        self, patients, tmp_path
    ):
        out = tmp_path / "out"
        before = conversions.convert(patients, out, group_by=r"p\d+")
        assert not conversions.convert(patients, out, group_by=r"p\d+").changed
        after = conversions.convert(patients, out)
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
        before = conversions.convert(patients, out).manifest
        done = conversions.command(patients, out, r"--group_by=p\d+")
        assert done.returncode == 0
        assert "known photos in several splits" in done.stdout
        assert splits(manifest.read(out)) == splits(before)
        split.resplit(split.Config(data=str(out), seed=1))
        check_no_leak(manifest.read(out))


class TestLaterConversions:
    def test_a_photo_between_two_splits_is_left_out(self, scenes, tmp_path):
        out = tmp_path / "out"
        before = conversions.convert(scenes, out).manifest
        train, test = of_split(before, "train"), of_split(before, "test")
        numbers = [int(path[-6:-4]) for path in (train, test)]
        draw(scenes, numbers, "x{}.jpg", half)
        summary = conversions.convert(scenes, out, group_by="/(x)")
        found = summary.manifest
        assert set(reasons(found)) == {f"a/x{number:02d}.jpg" for number in numbers}
        assert codes(found) == {Code.BRIDGES_SPLITS}
        for reason in reasons(found).values():
            assert train in reason
            assert test in reason
        assert splits(found) == splits(before)
        assert any("in several splits: 2 (" in line for line in summary.findings)
        assert not conversions.convert(scenes, out, group_by="/(x)").changed

    def test_a_photo_between_two_folds_is_left_out(self, scenes, tmp_path):
        out = tmp_path / "out"
        conversions.convert(scenes, out)
        split.resplit(split.Config(data=str(out), folds=5))
        rows = [r for r in manifest.read(out).included("train") if r.class_name == "a"]
        one = rows[0]
        other = next(row for row in rows if row.fold != one.fold)
        numbers = [int(row.path[-6:-4]) for row in (one, other)]
        draw(scenes, numbers, "x{}.jpg", half)
        found = conversions.convert(scenes, out, group_by="/(x)").manifest
        assert len(reasons(found)) == 2
        assert f"(fold {one.fold})" in next(iter(reasons(found).values()))

    def test_an_edited_photo_keeps_the_split_of_its_path(self, scenes, tmp_path):
        out = tmp_path / "out"
        before = conversions.convert(scenes, out).manifest
        for path in splits(before):
            write(scenes, path, drawn_photos.draw_scene(1000 + int(path[-6:-4])))
        after = conversions.convert(scenes, out).manifest
        assert splits(after) == splits(before)
        known = {row.sha256 for row in before.rows}
        assert known.isdisjoint(row.sha256 for row in after.included())
        assert codes(after) == {Code.REPLACED}
        assert not conversions.convert(scenes, out).changed

    def test_a_photo_that_was_replaced_is_known_when_it_comes_back(
        self, scenes, tmp_path
    ):
        out = tmp_path / "out"
        path = of_split(conversions.convert(scenes, out).manifest, "test")
        (scenes / path).rename(tmp_path / "kept.jpg")
        write(scenes, path, drawn_photos.draw_scene(1000))
        found = conversions.convert(scenes, out).manifest
        assert list(reasons(found)) == [path]
        assert codes(found) == {Code.REPLACED}
        assert splits(found)[path] == "test"
        assert len(found.rows) == 31
        assert not conversions.convert(scenes, out).changed
        (scenes / path).unlink()
        assert list(reasons(conversions.convert(scenes, out).manifest)) == [
            path
        ]  # both are gone
        for number in range(3):  # and others before and behind it
            write(scenes, f"a/{number}.jpg", drawn_photos.draw_scene(2000 + number))
        (tmp_path / "kept.jpg").rename(scenes / "a" / "z.jpg")
        assert splits(conversions.convert(scenes, out).manifest)["a/z.jpg"] == "test"

    def test_photos_that_swap_names_keep_their_splits(self, scenes, tmp_path):
        out = tmp_path / "out"
        before = conversions.convert(scenes, out).manifest
        train, test = of_split(before, "train"), of_split(before, "test")
        (scenes / train).rename(scenes / "a" / "t")
        (scenes / test).rename(scenes / train)
        (scenes / "a" / "t").rename(scenes / test)
        after = splits(conversions.convert(scenes, out).manifest)
        assert (after[train], after[test]) == ("test", "train")

    @pytest.mark.parametrize("version", [1, manifest_row.FORMAT_VERSION])
    def test_an_edited_photo_cannot_change_sides(self, scenes, tmp_path, version):
        """Edited to look like a test photo, a training photo is left out for good."""
        out = tmp_path / "out"
        before = conversions.convert(scenes, out).manifest
        train, test = of_split(before, "train"), of_split(before, "test")
        write(scenes, train, half(drawn_photos.draw_scene(int(test[-6:-4]))))
        found = conversions.convert(scenes, out).manifest
        assert set(reasons(found)) == {train}
        assert splits(found)[test] == "test"
        if version == 1:
            old_manifest.rewrite_as_version_1(out)
        for _ in range(2):
            assert not conversions.convert(scenes, out).changed
        write(scenes, train, drawn_photos.draw_scene(int(train[-6:-4])))
        assert splits(conversions.convert(scenes, out).manifest) == splits(before)

    def test_a_data_set_of_version_1_stays_until_a_photo_changes(
        self, scenes, tmp_path
    ):
        out = tmp_path / "out"
        write(scenes, "a/other.png", drawn_photos.draw_scene(99))
        before = conversions.convert(scenes, out).manifest
        old_manifest.rewrite_as_version_1(out)
        digest = files.folder_digest(out)
        assert not conversions.convert(scenes, out).changed
        assert files.folder_digest(out) == digest
        write(scenes, "b/new.png", drawn_photos.draw_scene(100))
        summary = conversions.convert(scenes, out)
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
        draw(scenes, range(30), "copy{}.jpg", mirrored)
        found = conversions.convert(scenes, out).manifest
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
        old.stage(out)
        return old

    def test_a_data_set_without_hashes_gets_them_and_keeps_its_splits(
        self, scenes, tmp_path
    ):
        out = tmp_path / "out"
        old = self.from_before(scenes, out)
        summary = conversions.convert(scenes, out)
        found = summary.manifest
        assert splits(found) == splits(old)
        assert all(row.phash for row in found.rows)
        assert found.records_digest == old.records_digest
        assert any(
            "known photos in several splits" in line for line in summary.findings
        )
        split.resplit(split.Config(data=str(out), seed=1))
        check_no_leak(manifest.read(out))
        assert sorted(map(len, groups(found).values())) == [2] * 30

    def test_a_photo_of_a_group_on_several_sides_is_left_out(self, scenes, tmp_path):
        out = tmp_path / "out"
        old = splits(self.from_before(scenes, out))
        draw(scenes, range(30), "new{}.jpg", half)
        found = conversions.convert(scenes, out).manifest
        for number in range(30):
            name = f"{'ab'[number % 2]}/{{}}{number:02d}.jpg"
            one, other = old[name.format("scene")], old[name.format("copy")]
            assert (name.format("new") in reasons(found)) == (one != other)
            if one == other:
                assert splits(found)[name.format("new")] == one


def test_the_summary_is_compact(scenes, tmp_path):
    draw(scenes, range(30), "copy{}.jpg", mirrored)
    draw(scenes, range(30), "copy{}-same.jpg", mirrored)
    done = conversions.command(scenes, tmp_path / "out", r"--group_by=copy(\d\d)")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (copies,) = (line for line in lines if line.startswith("exact copies: 30 ("))
    (near,) = (line for line in lines if "near-duplicates: 30 (" in line)
    assert copies.count(".jpg") == 5
    assert near.count(".jpg") == 10
    assert copies.endswith("...)")
    assert any(line == "given groups: 30, of 60 photos" for line in lines)
    assert len(lines) < 12
    head = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert head["settings"]["group_by"] == r"copy(\d\d)"
