"""Folders of records that somebody else has made: nothing outside them changes."""

import hashlib
import itertools
import json
import shutil

import pytest

from pipeline import split
from pipeline.check import check_settings, checking
from pipeline.records import manifest, manifest_row, staging
from pipeline.system.errors import DataError
from tests.support import cases, conversions, drawn_photos


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Photos of two classes and their records; not to be changed by a test."""
    folder = tmp_path_factory.mktemp("original")
    drawn_photos.write_photos(folder / "photos", per_class=4, classes=("blue", "red"))
    conversions.convert(folder / "photos", folder / "home" / "records")
    return folder


@pytest.fixture
def records(original, tmp_path):
    (tmp_path / "victim").mkdir()
    for name in ("victim.txt", "victim/COMMIT", "victim/a.tfrecord"):
        (tmp_path / name).write_text('{"last": [], "obsolete": []}')
    shutil.copytree(original / "photos", tmp_path / "photos")
    shutil.copytree(original / "home" / "records", tmp_path / "records")
    return tmp_path / "records"


def outside(records):
    """Return {path: content, or target of a link} of all files beside the records."""
    return {
        str(path): path.readlink() if path.is_symlink() else path.read_bytes()
        for path in records.parent.rglob("*")
        if not path.is_dir()
        and records not in (path, *path.parents)
        and "report" not in path.parts
    }


def use(records):
    """Yield what each command says of records: an error, or "" for none."""
    photos = records.parent / "photos"
    config = check_settings.Config(
        source=str(records), out=str(records.parent / "report"), workers=1
    )
    for command in (
        lambda: manifest.check_files(manifest.read(records)),
        lambda: checking.check(config),
        lambda: split.resplit(split.Config(data=str(records), seed=7)),
        lambda: conversions.convert(photos, records),
    ):
        try:
            command()
            yield ""
        except DataError as error:
            assert "\n" not in str(error)
            yield str(error)


def commit(text):
    def apply(records):
        (records / staging.PARTIAL_NAME).mkdir()
        (records / staging.PARTIAL_NAME / staging.COMMIT_NAME).write_text(text)

    return apply


def obsolete(*names):
    return commit(json.dumps({"last": [], "obsolete": names}))


def link_partial(records):
    (records / staging.PARTIAL_NAME).symlink_to(records.parent / "victim")


def link_commit(records):
    commit("")(records)
    path = records / staging.PARTIAL_NAME / staging.COMMIT_NAME
    path.unlink()
    path.symlink_to(records.parent / "victim" / "COMMIT")


def stage_link(records):
    obsolete()(records)
    link = records / staging.PARTIAL_NAME / "red.tfrecord"
    link.symlink_to(records.parent / "victim.txt")


def stage_folder(records):
    obsolete()(records)
    (records / staging.PARTIAL_NAME / "red.tfrecord").mkdir()


@cases.table(
    "spoil",
    {
        "obsolete above": obsolete("../victim.txt"),
        "obsolete deep": obsolete("red.tfrecord", "x/../../victim.txt"),
        "obsolete absolute": obsolete("/etc/hostname"),
        "obsolete folder": obsolete(".."),
        "obsolete itself": obsolete("."),
        "obsolete nothing": obsolete(""),
        "obsolete with zero byte": obsolete("a\0b"),
        "obsolete no text": obsolete("\ud800"),
        "obsolete number": obsolete(3),
        "last above": commit('{"last": ["../victim.txt"], "obsolete": []}'),
        "garbage": commit("\x80garbage"),
        "empty": commit(""),
        "list": commit("[]"),
        "object": commit("{}"),
        "number": commit('{"last": 3}'),
        "brackets": commit("[" * 100_000),
        "linked staging folder": link_partial,
        "linked marker": link_commit,
        "linked file in the staging folder": stage_link,
        "folder in the staging folder": stage_folder,
    },
)
def test_a_staging_folder_of_a_stranger_is_refused(records, spoil):
    spoil(records)
    before = outside(records), sorted(path.name for path in records.iterdir())
    assert all(use(records))
    assert before == (outside(records), sorted(path.name for path in records.iterdir()))


def forge_row(records, **values):
    """Change the first row, which has a record, and make the digest fit."""
    path = records / manifest.ROWS_NAME
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0] |= values
    path.write_text("".join(map(line_of, rows)))
    head = json.loads((records / manifest.HEAD_NAME).read_text())
    for row, name in itertools.product(rows, manifest_row.NOT_IN_DIGEST[2]):
        row.pop(name, None)
    text = json.dumps(head["class_names"]) + "\n" + "".join(map(line_of, rows))
    forge_head(records, digest=hashlib.sha256(text.encode()).hexdigest())


def line_of(row):
    return json.dumps(row, separators=(",", ":")) + "\n"


def forge_head(records, settings=None, **values):
    path = records / manifest.HEAD_NAME
    head = json.loads(path.read_text()) | values
    head["settings"] |= settings or {}
    path.write_text(json.dumps(head))


def test_a_forged_row_that_is_in_range_passes_as_genuine(records):
    forge_row(records, height=120)
    assert manifest.read(records).rows[0].height == 120


@cases.table(
    "values",
    {
        "file above": {"file": "../victim.txt"},
        "file in a folder": {"file": "victim/a.tfrecord"},
        "file absolute": {"file": "/etc/hostname"},
        "file folder": {"file": ".."},
        "file zero byte": {"file": "a\0b"},
        "phash letters": {"phash": "zzzz"},
        "phash not ascii": {"phash": "\u00e9"},
        "phash long": {"phash": "1" * 40},
        "sha256 short": {"sha256": "1"},
        "group word": {"group": "all"},
        "height endless": {"height": 10**30},
        "width 0": {"width": 0},
        "offset below 0": {"offset": -1},
        "offset endless": {"offset": 10**30},
        "length 0": {"length": 0},
        "length endless": {"length": 10**12},
        "orientation 9": {"orientation": 9},
        "fold below 0": {"fold": -1},
        "action unknown": {"action": "stolen"},
        "format unknown": {"format": "gif"},
        "split unknown": {"split": "../x"},
    },
)
def test_a_row_beyond_its_range_is_refused_by_its_line(records, values):
    forge_row(records, **values)
    before = outside(records)
    assert all("line 1: " in message for message in use(records))
    assert outside(records) == before


@cases.table(
    "values",
    {
        "shares without test": {"shares": {"validation": 0.1}},
        "shares of train": {"shares": {"validation": 0.1, "test": 0.1, "train": 0.1}},
        "shares of all": {"shares": {"validation": 0.5, "test": 0.5}},
        "shares endless": {"shares": {"validation": 10**400, "test": 0.1}},
        "shares a text": {"shares": {"validation": 0.1, "test": "half"}},
        "shares NaN": {"shares": {"validation": 0.1, "test": float("nan")}},
        "shares above 1": {"shares": {"validation": 0.1, "test": 1.5}},
        "given_splits a number": {"settings": {"given_splits": 3}},
        "given_splits numbers": {"settings": {"given_splits": [1, 2]}},
        "max_pixels below 0": {"settings": {"max_pixels": -1}},
        "max_pixels a text": {"settings": {"max_pixels": "x"}},
        "resize_min a text": {"settings": {"resize_min": "abc"}},
        "resize_min below 0": {"settings": {"resize_min": -5}},
        "resize_min a truth": {"settings": {"resize_min": True}},
        "ignored a text": {"ignored": {"a": "b"}},
        "versions a list": {"versions": {"graft": []}},
        "seed below 0": {"seed": -1},
        "class twice": {"class_names": ["blue", "blue"]},
        "class a number": {"class_names": ["blue", 1]},
        "class no text": {"class_names": ["blue", "\ud800"]},
        "digest no text": {"digest": "\ud800"},
    },
)
def test_a_head_beyond_its_range_is_refused_by_the_name_of_the_value(records, values):
    forge_head(records, **values)
    name = next(iter(values.get("settings", values)))
    assert all(f"{name} is " in message for message in use(records))
