"""Folders of records that somebody else has made: nothing outside them changes."""

import hashlib
import itertools
import json
import os
import pathlib
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
        (tmp_path / name).write_text('{"obsolete": []}')
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
    out = str(records.parent / "report")
    config = check_settings.Config(source=str(records), out=out)
    for command in (
        lambda: manifest.check_files(manifest.read(records)),
        lambda: checking.check(config),
        lambda: split.resplit(split.Config(data=str(records), seed=7)),
        lambda: conversions.convert(photos, records),
    ):
        try:
            with conversions.in_this_process():
                command()
            yield ""
        except (DataError, OSError) as error:
            assert "\n" not in str(error)
            yield str(error)


def commit(text):
    def apply(records):
        (records / staging.PARTIAL_NAME).mkdir()
        (records / staging.PARTIAL_NAME / staging.COMMIT_NAME).write_text(text)

    return apply


def obsolete(*names):
    return commit(json.dumps({"obsolete": names}))


def staged(name, make=pathlib.Path.touch):
    """Put something beside a COMMIT in the staging folder."""

    def apply(records):
        obsolete()(records)
        make(records / staging.PARTIAL_NAME / name)

    return apply


def link_partial(records):
    (records / staging.PARTIAL_NAME).symlink_to(records.parent / "victim")


def link_commit(records):
    commit("")(records)
    path = records / staging.PARTIAL_NAME / staging.COMMIT_NAME
    path.unlink()
    path.symlink_to(records.parent / "victim" / "COMMIT")


@cases.table(
    "spoil",
    {
        "obsolete above": obsolete("../victim.txt"),
        "obsolete deep": obsolete("red.tfrecord", "x/../../victim.txt"),
        "obsolete absolute": obsolete("/etc/hostname"),
        "obsolete folder": obsolete(".."),
        "obsolete nothing": obsolete(""),
        "obsolete with zero byte": obsolete("a\0b"),
        "obsolete no text": obsolete("\ud800"),
        "obsolete number": obsolete(3),
        "garbage": commit("\x80garbage"),
        "empty": commit(""),
        "list": commit("[]"),
        "number": commit('{"obsolete": 3}'),
        "brackets": commit("[" * 100_000),
        "linked staging folder": link_partial,
        "linked marker": link_commit,
        "linked file": staged(
            "red.tfrecord", lambda path: path.symlink_to("../../victim.txt")
        ),
        "folder": staged("red.tfrecord", pathlib.Path.mkdir),
        "file of the user": staged("notes.txt"),
        "case": staged("MANIFEST.JSON"),
        "look-alike": staged("red\uff0etfrecord"),
        "Windows path": staged("..\\red.tfrecord.txt"),
        "pipe": staged("red.tfrecord", os.mkfifo),
        "hard link": staged(
            "red.tfrecord",
            lambda path: path.hardlink_to(path.parents[2] / "victim.txt"),
        ),
        "obsolete file of the user": obsolete("notes.txt"),
        "obsolete Windows path": obsolete("C:\\notes.txt"),
        "obsolete case": obsolete("NOTES.TXT", "Manifest.json"),
        "obsolete long": obsolete("x" * 10**6),
    },
)
def test_a_staging_folder_of_a_stranger_is_refused(records, spoil):
    """And a commit moves and removes records and manifests alone."""
    (records / "notes.txt").write_text("the user's")
    spoil(records)
    before = outside(records), sorted(path.name for path in records.iterdir())
    assert all(use(records))
    assert before == (outside(records), sorted(path.name for path in records.iterdir()))
    assert (records / "notes.txt").read_text() == "the user's"


def in_place_of(name, make):
    """Replace a file of the records by what `make` puts under its name."""

    def apply(records):
        path = records / name
        path.rename(records.parent / "moved")
        make(path)

    return apply


def make_link(target):
    return lambda path: path.symlink_to(target)


def make_hard_link(path):
    path.hardlink_to(path.parent.parent / "moved")


def make_sparse(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)


def deepen(records):
    """Put folders into one another, as deep as a path may be long."""
    folder = records
    for _ in range(400):
        folder /= "deep"
        folder.mkdir()


HEAD, ROWS, RECORD = manifest.HEAD_NAME, manifest.ROWS_NAME, "red.tfrecord"


@cases.table(
    "spoil",
    {
        **{
            f"{name} {kind}": in_place_of(name, make)
            for name in (HEAD, ROWS, RECORD)
            for kind, make in {
                "is a pipe": os.mkfifo,
                "is a folder": pathlib.Path.mkdir,
                "is endless": make_link("/dev/zero"),
                "is a link": make_link("../victim.txt"),
                "is a link to itself": lambda path: path.symlink_to(path.name),
                "is a dangling link": make_link("../created"),
                "is a hard link": make_hard_link,
                "has a terabyte": make_sparse,
            }.items()
        },
        "deep JSON": in_place_of(HEAD, lambda path: path.write_text("[" * 10**6)),
        "deep line": in_place_of(ROWS, lambda path: path.write_text("[" * 10**6)),
        "deep folders": deepen,
        "class above": lambda r: forge_head(r, class_names=["../victim", "red"]),
        "class absolute": lambda r: forge_head(r, class_names=["/etc", "red"]),
        "class long": lambda r: forge_head(r, class_names=["x" * 10**6, "red"]),
        "class look-alike": lambda r: forge_head(r, class_names=["r\u0435d", "red"]),
        "path above": lambda r: forge_row(r, path="../victim.txt"),
        "path absolute": lambda r: forge_row(r, path="/etc/hostname"),
        "class of a row above": lambda r: forge_row(r, class_name="../victim"),
        "folder of record files is a link": lambda r: (r / "red").symlink_to(
            "../victim"
        ),
        "staging folder is a file": lambda r: (r / staging.PARTIAL_NAME).touch(),
        "staging folder is a pipe": lambda r: os.mkfifo(r / staging.PARTIAL_NAME),
        "leftover is a link": lambda r: (r / ".x.00000000-1.partial").symlink_to(
            "../victim"
        ),
    },
)
def test_what_a_stranger_put_there_changes_nothing_outside(records, spoil, impatient):
    spoil(records)
    before = outside(records)
    list(use(records))
    assert outside(records) == before


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
        "phash long": {"phash": "1" * 40},
        "sha256 short": {"sha256": "1"},
        "group word": {"group": "all"},
        "height endless": {"height": 10**30},
        "width 0": {"width": 0},
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
        "shares of all": {"shares": {"validation": 0.5, "test": 0.5}},
        "shares endless": {"shares": {"validation": 10**400, "test": 0.1}},
        "shares NaN": {"shares": {"validation": 0.1, "test": float("nan")}},
        "shares above 1": {"shares": {"validation": 0.1, "test": 1.5}},
        "given_splits a number": {"settings": {"given_splits": 3}},
        "given_splits numbers": {"settings": {"given_splits": [1, 2]}},
        "max_pixels below 0": {"settings": {"max_pixels": -1}},
        "max_pixels a text": {"settings": {"max_pixels": "x"}},
        "resize_min a text": {"settings": {"resize_min": "abc"}},
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
