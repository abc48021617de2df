import dataclasses
import json
import os
import shutil

import pytest

from pipeline.check import checking
from pipeline.records import manifest, stored_photo, tfrecord
from tests.support import conversions, drawn_photos


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A data set of two classes, one record file each."""
    folder = tmp_path_factory.mktemp("verify")
    photos = drawn_photos.write_photos(folder / "photos", per_class=6)
    return conversions.convert(photos, folder / "rec").manifest.directory


@pytest.fixture
def processes():
    """Without this, blocks are checked in the tests' own process, which is faster."""


@pytest.fixture
def found(converted, tmp_path, monkeypatch, request):
    """A copy of it, to be damaged."""
    if "processes" not in request.fixturenames:
        monkeypatch.setattr(
            checking.process_pool,
            "map_blocks",
            lambda check, tasks, **_: zip(tasks, check(tasks), strict=True),
        )
    shutil.copytree(converted, tmp_path / "rec")
    return manifest.read(tmp_path / "rec")


def faults_of(found):
    return checking.verify(manifest.read(found.directory), num_workers=1)


def rows_of(found):
    """The rows of the first record file, in its order."""
    name = min(row.file for row in found.included())
    rows = [row for row in found.included() if row.file == name]
    return sorted(rows, key=lambda row: row.offset)


def rewrite(found, row, change):
    """Change attributes of a record; checksums are right, the length is the same."""
    path = found.directory / row.file
    data = bytearray(path.read_bytes())
    record = bytes(data[row.offset : row.offset + row.length])
    stored = stored_photo.parse(tfrecord.unframe(record, ""), "")
    other = dataclasses.replace(stored, **change(stored))
    changed = tfrecord.frame(stored_photo.serialize(other))
    assert len(changed) == row.length
    data[row.offset : row.offset + row.length] = changed
    path.write_bytes(data)


@pytest.mark.parametrize("at", [0, 8, 12, 200, -1], ids=str)
def test_one_changed_bit_is_a_fault_of_its_record(found, at):
    """The first fault is named by file and number of the record."""
    row = rows_of(found)[2]
    path = found.directory / row.file
    data = bytearray(path.read_bytes())
    data[row.offset + at % row.length] ^= 1
    path.write_bytes(data)
    (fault,) = faults_of(found)
    assert fault.startswith(f"{row.file} record 2: {row.path}: ")
    assert "checksum" in fault


def other_letter(text):
    return chr(ord(text[0]) ^ 1) + text[1:]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("image/class/label", lambda value: 1 - value),
        ("image/class/text", other_letter),
        ("image/filename", other_letter),
        ("image/sha256", lambda value: value[::-1]),
        ("image/height", lambda value: value + 1),
        ("image/format", other_letter),
    ],
)
def test_a_feature_that_differs_from_the_manifest_is_a_fault(found, name, change):
    row = next(r for r in found.included() if found.labels[r.class_name] == 1)
    attribute = stored_photo.FEATURES[name]
    rewrite(found, row, lambda stored: {attribute: change(getattr(stored, attribute))})
    (fault,) = faults_of(found)
    assert f" {row.path}: {name} is " in fault


def test_the_bytes_of_another_photo_are_a_fault(found):
    """Right checksums, right features, and bytes that are not the photo's."""
    row = next(row for row in found.included() if row.action == "copied")
    rewrite(found, row, lambda stored: {"encoded": stored.encoded[:-2] + b"\xff\xd8"})
    (fault,) = faults_of(found)
    assert row.path in fault
    assert "SHA-256" in fault


def test_an_image_that_does_not_decode_is_a_fault(found):
    row = next(row for row in found.included() if row.action == "copied")
    rewrite(found, row, lambda stored: {"encoded": bytes(len(stored.encoded))})
    # As if it had been encoded again, so that its hash says nothing.
    rows = [other for other in found.rows if other is not row]
    rows.append(dataclasses.replace(row, action="reencoded"))
    edited = dataclasses.replace(found, rows=tuple(rows))
    (fault,) = checking.verify(edited, num_workers=1)[-1:]
    assert "does not decode" in fault


def test_more_pixels_than_conversion_allowed_are_a_fault(processes, found):
    settings = found.info.settings | {"max_pixels": 100}
    info = dataclasses.replace(found.info, settings=settings)
    faults = checking.verify(dataclasses.replace(found, info=info), num_workers=1)
    assert len(faults) == len(found.included())
    assert "larger than 100 pixels" in faults[0]


@pytest.mark.parametrize(
    ("change", "beginnings"),
    [
        (lambda path: path.unlink(), [": missing, with "]),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), [": has "]),
        (
            lambda path: os.truncate(path, path.stat().st_size - 1),
            [": has ", " record "],
        ),
    ],
    ids=["missing", "longer", "cut"],
)
def test_a_file_of_another_size_is_a_fault(found, change, beginnings):
    path = found.directory / rows_of(found)[0].file
    change(path)
    for fault, beginning in zip(faults_of(found), beginnings, strict=True):
        assert fault.startswith(path.name + beginning)


def test_a_gap_between_records_is_a_fault(found):
    rows = tuple(row for row in found.rows if row != rows_of(found)[1])
    found = dataclasses.replace(found, rows=rows)
    faults = checking.verify(found, num_workers=1)
    assert any("starts at byte" in fault for fault in faults)


def test_edited_counts_are_a_fault(found):
    path = found.directory / manifest.HEAD_NAME
    head = json.loads(path.read_text())
    head["files"]["total"] += 1
    path.write_text(json.dumps(head))
    (fault,) = faults_of(found)
    assert fault == "manifest.json: its files are not those of manifest.jsonl"


def test_several_processes_find_the_same_faults(processes, found):
    for row in rows_of(found)[::2]:
        path = found.directory / row.file
        data = bytearray(path.read_bytes())
        data[row.offset + 50] ^= 255
        path.write_bytes(data)
    faults = faults_of(found)  # with one process
    assert [fault.split()[2] for fault in faults] == ["0:", "2:", "4:"]
    assert checking.verify(found, num_workers=2) == faults
