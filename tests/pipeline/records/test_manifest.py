import dataclasses
import json
import re

import pytest

from pipeline.records import manifest, staging
from pipeline.records.manifest_row import Code, Row
from pipeline.system.errors import DataError
from tests.support import files, old_manifest


def make(directory, rows=None):
    if rows is None:
        rows = [row(f"a/{n}.jpg", sha256=f"{n:064x}") for n in range(3)]
    info = manifest.DatasetInfo(
        class_names=("a", "b"),
        seed=3,
        shares={"validation": 0.1, "test": 0.1},
        settings={"resize_min": 512},
        versions={"graft": "0"},
        ignored={"hidden": 2},
    )
    return manifest.Manifest(info=info, rows=tuple(rows), directory=directory)


def row(path, **how):
    base = {"class_name": "a", "sha256": "0" * 64, "source_bytes": 10}
    base |= {"format": "jpeg", "height": 4, "width": 6, "action": "copied"}
    base |= {"group": "0" * 64, "split": "train", "file": "a.tfrecord", "length": 7}
    return Row(path=path, **(base | how))


def write(found):
    with staging.staged(found.directory) as partial:
        found.stage(partial)
        staging.commit(found.directory)


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    odd = row(
        "a/\udcff \u00e4\n.jpg",
        sha256="f" * 64,
        fold=2,
        split="test",
        codes=(Code.CMYK, Code.SHRUNK),
        reason="CMYK JPEG, shrunk",
    )
    written = make(tmp_path, [row("a/1.jpg"), odd])
    write(written)
    assert manifest.read(tmp_path) == written


def test_the_digest_changes_with_the_data_and_not_with_the_words(tmp_path):
    first = make(tmp_path)

    def digest(**change):
        rows = (dataclasses.replace(first.rows[0], **change), *first.rows[1:])
        return dataclasses.replace(first, rows=rows).digest

    changes = ({"split": "test"}, {"offset": 1}, {"path": "b"}, {"fold": 1})
    for change in (*changes, {"sha256": "1" * 64}):
        assert digest(**change) != first.digest
    assert digest(codes=(Code.DECODER_WARNING,), reason="no end") == first.digest
    info = dataclasses.replace(first.info, class_names=("a", "c"))
    assert dataclasses.replace(first, info=info).digest != first.digest


class TestVersion1:
    """Rows without codes, and a digest that covers their reasons."""

    def test_version_1_is_read_with_the_digest_that_its_runs_have_stored(
        self, tmp_path
    ):
        written = make(tmp_path, [row("a/1.jpg", reason="PNG source"), row("a/2.jpg")])
        write(written)
        old_manifest.rewrite_as_version_1(tmp_path)
        head = json.loads((tmp_path / manifest.HEAD_NAME).read_text())
        old = manifest.read(tmp_path)
        assert old.rows == written.rows
        assert old.digest == head["digest"] != written.digest

    def test_an_edited_reason_is_refused(self, tmp_path):
        write(make(tmp_path, [row("a/1.jpg", reason="PNG source")]))
        old_manifest.rewrite_as_version_1(tmp_path)
        path = tmp_path / manifest.ROWS_NAME
        path.write_text(path.read_text().replace("PNG", "GIF"))
        with pytest.raises(DataError, match="does not belong"):
            manifest.read(tmp_path)

    def test_a_photo_that_bridges_splits_gets_its_code(self, tmp_path):
        words = "bridges train and test: in one group with a/2.jpg and a/3.jpg"
        bridge = row("a/1.jpg").skipped(Code.BRIDGES_SPLITS, words)
        write(make(tmp_path, [bridge]))
        old_manifest.rewrite_as_version_1(tmp_path)
        assert manifest.read(tmp_path).rows == (bridge,)

    def test_version_1_is_written_in_the_present_version(self, tmp_path):
        write(make(tmp_path))
        old_manifest.rewrite_as_version_1(tmp_path)
        write(manifest.read(tmp_path))
        assert manifest.read(tmp_path) == make(tmp_path)


def test_records_digest_does_not_change_with_the_split(tmp_path):
    first = make(tmp_path)

    def digest(**change):
        rows = tuple(dataclasses.replace(row, **change) for row in first.rows)
        return dataclasses.replace(first, rows=rows).records_digest

    assert digest(split="test", fold=1) == first.records_digest != digest(offset=1)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda text: text.replace('"train"', '"test"', 1), "does not belong"),
        (lambda text: text.partition("\n")[2], "does not belong"),
        (lambda text: text[:-20], "line 3: damaged"),
    ],
    ids=["edited", "a line missing", "cut off"],
)
def test_edited_rows_are_refused_with_a_way_out(tmp_path, edit, problem):
    write(make(tmp_path))
    path = tmp_path / manifest.ROWS_NAME
    path.write_text(edit(path.read_text()))
    with pytest.raises(DataError, match=f"{problem}.* --out=NEW_FOLDER"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("name", [manifest.HEAD_NAME, manifest.ROWS_NAME, "a.tfrecord"])
def test_a_pointer_of_git_lfs_is_called_that(tmp_path, name):
    converted = make(tmp_path)
    write(converted)
    (tmp_path / name).write_bytes(files.LFS_POINTER)
    with pytest.raises(DataError, match=f"{name}: .*Git LFS.* Run git lfs pull"):
        manifest.check_files(manifest.read(tmp_path))


def test_a_missing_manifest_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"python -m pipeline.convert"):
        manifest.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("{", "not a manifest"),
        ("[" * 100_000, "not a manifest"),
        ("[]", "not a manifest"),
        ('{"format_version": 99}', "version 99"),
        ('{"format_version": 1}', "class_names is missing"),
    ],
    ids=["cut", "endless brackets", "a list", "version", "keys"],
)
def test_a_damaged_head_is_refused(tmp_path, head, message):
    write(make(tmp_path))
    (tmp_path / manifest.HEAD_NAME).write_text(head)
    with pytest.raises(DataError, match=f"{message}.* --out=NEW_FOLDER"):
        manifest.read(tmp_path)


@pytest.mark.parametrize(
    "line",
    ["{", '{"path": 1}', "7", '{"unknown": 1}', "[" * 100_000],
    ids=["cut", "another type", "a number", "another key", "endless brackets"],
)
def test_a_damaged_row_is_named_by_its_line(tmp_path, line):
    write(make(tmp_path))
    path = tmp_path / manifest.ROWS_NAME
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"line 4: .* --out=NEW_FOLDER"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("value", [None, 1.5, [], {}, True, "\ud800"])
def test_values_of_another_type_are_refused(tmp_path, value):
    write(make(tmp_path))
    path = tmp_path / manifest.ROWS_NAME
    text = path.read_text()
    first, *others = text.splitlines(keepends=True)
    for name in json.loads(first).keys() - {"fold", "codes"}:
        edited = json.dumps(json.loads(first) | {name: value}) + "\n"
        path.write_text(edited + "".join(others))
        with pytest.raises(DataError, match=r"line 1|does not belong"):
            manifest.read(tmp_path)
    path.write_text(text)
    path = tmp_path / manifest.HEAD_NAME
    head = json.loads(path.read_text())
    for name in ("class_names", "seed", "shares", "settings", "ignored"):
        if not isinstance(value, type(head[name])):
            path.write_text(json.dumps(head | {name: value}))
            with pytest.raises(DataError, match=f"{name} is "):
                manifest.read(tmp_path)


@pytest.mark.parametrize("codes", ["cmyk", None, 1, [1], [None], ["\ud800"]])
def test_codes_that_are_no_list_of_texts_are_refused(tmp_path, codes):
    write(make(tmp_path))
    path = tmp_path / manifest.ROWS_NAME
    text = path.read_text()
    path.write_text(text.replace('"codes":[]', f'"codes":{json.dumps(codes)}', 1))
    with pytest.raises(DataError, match="line 1"):
        manifest.read(tmp_path)


def test_one_photo_in_two_splits_is_refused(tmp_path):
    rows = [row("a/1.jpg"), row("a/2.jpg", split="test")]
    write(make(tmp_path, rows))
    with pytest.raises(DataError, match=r"a/1\.jpg \(train\) and a/2\.jpg"):
        manifest.read(tmp_path)


def test_the_head_counts_photos_by_split_and_action(tmp_path):
    rows = [
        row("a/1.jpg"),
        row("a/2.jpg", sha256="1" * 64, split="test"),
        row("a/3.jpg", sha256="2" * 64, action="skipped", split=""),
    ]
    write(make(tmp_path, rows))
    head = json.loads((tmp_path / manifest.HEAD_NAME).read_text())
    assert head["counts"]["a"] == {"train": 1, "validation": 0, "test": 1}
    assert head["files"] == {"total": 3, "copied": 2, "skipped": 1}


def marker(*obsolete):
    return json.dumps({"obsolete": obsolete})


class TestCommit:
    def stage_new(self, tmp_path):
        old = make(tmp_path)
        write(old)
        (tmp_path / "a.tfrecord").write_text("old")
        (tmp_path / "gone.tfrecord").write_text("old")
        new = dataclasses.replace(old, info=dataclasses.replace(old.info, seed=99))
        partial = tmp_path / staging.PARTIAL_NAME
        partial.mkdir()
        new.stage(partial)
        (partial / "a.tfrecord").write_text("new")
        return old, new, partial

    def test_before_the_marker_nothing_has_happened(self, tmp_path):
        old, _, _ = self.stage_new(tmp_path)
        assert manifest.read(tmp_path) == old
        with staging.staged(tmp_path) as partial:
            assert list(partial.iterdir()) == []
        assert manifest.read(tmp_path) == old

    def test_after_the_marker_it_is_completed(self, tmp_path):
        _, new, partial = self.stage_new(tmp_path)
        (partial / staging.COMMIT_NAME).write_text(marker("gone.tfrecord"))
        (partial / "a.tfrecord").rename(tmp_path / "a.tfrecord")  # killed here
        with pytest.raises(DataError, match="interrupted"):
            manifest.read(tmp_path)
        staging.finish(tmp_path)
        assert manifest.read(tmp_path) == new
        assert (tmp_path / "a.tfrecord").read_text() == "new"
        assert not (tmp_path / "gone.tfrecord").exists()
        assert not partial.exists()

    def test_killed_after_the_last_rename(self, tmp_path):
        _, new, partial = self.stage_new(tmp_path)
        (partial / staging.COMMIT_NAME).write_text(marker())
        for path in list(partial.iterdir()):
            if path.name != staging.COMMIT_NAME:
                path.replace(tmp_path / path.name)
        staging.finish(tmp_path)
        assert manifest.read(tmp_path) == new

    def test_a_failure_leaves_nothing_behind(self, tmp_path):
        with pytest.raises(RuntimeError), staging.staged(tmp_path) as partial:
            (partial / "half").write_text("x")
            raise RuntimeError
        assert list(tmp_path.iterdir()) == []

    def test_two_at_once_are_refused(self, tmp_path):
        with (
            staging.staged(tmp_path),
            pytest.raises(DataError, match="another conversion"),
            staging.staged(tmp_path),
        ):
            pass


def test_the_page_on_the_format_explains_every_code():
    text = (files.ROOT / "tfrecords" / "README.md").read_text()
    tables = "".join(line for line in text.splitlines(True) if line.startswith("| `"))
    codes = {code.value for code in Code}
    assert codes <= set(re.findall("`([^`]+)`", tables))
