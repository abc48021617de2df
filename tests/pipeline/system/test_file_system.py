"""Files and folders that are replaced, locked and removed."""

import errno
import os
from pathlib import Path

import pytest

from pipeline.system import file_system
from pipeline.system.errors import DataError
from tests.support import files, processes


def test_an_address_with_a_scheme_is_in_a_bucket():
    assert file_system.is_remote("gs://bucket/a")
    assert not file_system.is_remote("/a://b")
    assert isinstance(file_system.path("a/b"), Path)
    for odd in ("hdfs:///a", "s3://b/a/../c"):
        with pytest.raises(DataError, match=f"{odd}: names no bucket"):
            file_system.path(odd)


class TestReplacing:
    def test_the_file_appears_when_it_is_complete(self, tmp_path):
        path = tmp_path / "a.json"
        with file_system.replacing(path) as partial:
            assert partial.parent == tmp_path  # so that renaming copies nothing
            partial.write_text("new")
            assert not path.exists()
        assert [*tmp_path.iterdir()] == [path]

    @pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
    def test_a_failure_keeps_what_was_there(self, tmp_path, kind):
        path = tmp_path / "a.json"
        path.write_text("old")
        with pytest.raises(kind), file_system.replacing(path) as partial:
            partial.write_text("half")
            raise kind
        assert path.read_text() == "old"
        assert [*tmp_path.iterdir()] == [path]

    @pytest.mark.parametrize("is_named", [True, False])
    def test_an_error_names_the_finished_file(self, tmp_path, is_named):
        path = tmp_path / "a.json"
        with pytest.raises(OSError) as caught, file_system.replacing(path) as partial:
            raise OSError(errno.ENOSPC, "full", *[str(partial)] * is_named)
        assert caught.value.filename == str(path)

    def test_a_killed_process_of_the_same_number_is_no_obstacle(self, tmp_path):
        path = tmp_path / "a.json"
        with file_system.replacing(path) as partial:
            partial.write_text("x")
        partial.write_text("left over by a process of the same number")
        with file_system.replacing(path) as again:
            assert not again.exists()
            again.write_text("new")
        assert path.read_text() == "new"


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "model"
    for name in ("first", "second"):
        with file_system.replacing_folder(folder) as partial:
            partial.mkdir()
            (partial / name).touch()
        assert [path.name for path in folder.iterdir()] == [name]
    with pytest.raises(KeyError), file_system.replacing_folder(folder) as partial:
        partial.mkdir()
        raise KeyError
    assert [path.name for path in folder.iterdir()] == ["second"]
    assert [*tmp_path.iterdir()] == [folder]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("{}/x", "x/graft"), ("", ".cache/graft"), (None, ".cache/graft")],
    ids=["set", "empty", "not set"],
)
def test_the_cache_is_in_the_folder_of_the_environment(
    monkeypatch, tmp_path, value, expected
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value.format(tmp_path))
    assert file_system.cache_folder() == tmp_path / expected


PROGRAM = """
import os, pathlib, signal, sys
from pipeline.system import file_system
with (
    file_system.replacing(pathlib.Path("a.onnx"), ".partial.onnx") as file,
    file_system.replacing_folder(pathlib.Path("model")) as folder,
    file_system.scratch_folder(".") as scratch,
):
    file.touch()
    folder.mkdir()
    (folder / "half").touch()
    (scratch / "x").touch()
    if sys.argv[1] == "between":
        pathlib.Path.rename = lambda path, target: (
            os.rename(path, target), os.kill(os.getpid(), signal.SIGKILL)
        )
    else:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["within", "between"])
def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path, moment):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "whole").touch()
    processes.run_command(
        "-c", PROGRAM, moment, cwd=tmp_path, PYTHONPATH=str(files.ROOT)
    )
    assert len(list(tmp_path.iterdir())) == (4 if moment == "within" else 3)
    file_system.prepare_folder(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "whole"]


def test_what_is_not_a_leftover_stays(tmp_path):
    """Files that live processes write, of other machines too, and links' targets."""
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "precious").touch()
    (tmp_path / ".model.00000000-999999999.partial").touch()
    (tmp_path / ".mine.partial").touch()
    with file_system.replacing(tmp_path / "a") as partial:
        partial.touch()
        names = {path.name for path in tmp_path.rglob("*")}
        link = partial.with_name(partial.name.replace(str(os.getpid()), "999999999"))
        link.symlink_to("target")
        file_system.prepare_folder(tmp_path)
        assert {path.name for path in tmp_path.rglob("*")} == names
