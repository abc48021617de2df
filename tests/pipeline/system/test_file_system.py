"""What a folder and a bucket have in common, tested with TensorFlow's ram:// store."""

import errno
import io
import os
import pickle
from pathlib import Path

import pytest

from pipeline.system import file_system
from pipeline.system.errors import DataError
from tests.support import files, processes


@pytest.fixture(params=["local", "bucket"])
def folder(request, tmp_path):
    is_local = request.param == "local"
    place = str(tmp_path) if is_local else f"ram://{tmp_path.name}"
    folder = file_system.path(f"{place}/a")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read(path):
    with path.open("rb") as file:
        return file.read()


def write(path, content):
    with path.open("wb") as file:
        file.write(content)


def test_an_address_with_a_scheme_is_in_a_bucket():
    assert file_system.is_remote("gs://bucket/a")
    assert not file_system.is_remote("/a://b")
    assert isinstance(file_system.path("a/b"), Path)
    with pytest.raises(DataError, match="hdfs:///a: names no bucket"):
        file_system.path("hdfs:///a")


def test_a_path_has_the_attributes_of_pathlib(folder):
    file = folder / "x.txt"
    assert file.name == "x.txt"
    assert file.parent == folder
    assert file.with_name("y") == folder / "y"
    assert str(file) == f"{folder}/x.txt" == os.fspath(file)
    assert file_system.path(str(file)) == file
    assert pickle.loads(pickle.dumps(file)) == file
    assert file.is_relative_to(folder)
    assert not folder.with_name("ab").is_relative_to(folder)
    assert {file: 1}[folder / "x.txt"] == 1


def test_a_file_is_written_read_renamed_and_removed(folder):
    file, other = folder / "x.bin", folder / "y.bin"
    assert not file.exists()
    write(file, b"abc")
    write(other, b"other")
    assert file.exists()
    assert file.is_file()
    assert not file.is_dir()
    assert folder.is_dir()
    assert not folder.is_file()
    assert file.stat().st_size == 3
    file_system.sync(file)
    file_system.sync(folder)
    file.replace(other)
    assert read(other) == b"abc"
    assert not file.exists()
    other.unlink()
    other.unlink(missing_ok=True)


def test_text_keeps_its_line_ends(folder):
    file = folder / "x.txt"
    file.write_text("über\nz\r\n", encoding="utf-8")
    with file.open(encoding="utf-8", newline="\n") as opened:
        assert [*opened] == ["über\n", "z\r\n"]
    with file.open("a", encoding="utf-8") as opened:
        opened.write("end")
    assert file.read_text(encoding="utf-8") == "über\nz\nend"


def test_a_file_is_read_from_any_place(folder):
    file = folder / "x.bin"
    write(file, b"".join(number.to_bytes(4, "little") for number in range(1000)))
    with file.open("rb") as opened:
        opened.seek(4 * 700)
        assert int.from_bytes(opened.read(4), "little") == 700
        assert opened.tell() == 4 * 701
        assert opened.seek(0, io.SEEK_END) == 4000
        assert opened.read(1) == b""
        opened.seek(8)
        assert opened.read(4) == b"\2\0\0\0"


def test_a_folder_is_listed_walked_and_removed(folder):
    (folder / "inner").mkdir(exist_ok=True)
    for name in ("a.part", "b.part", "c.txt", "inner/d"):
        write(folder / name, b"x")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["a.part", "b.part", "c.txt", "inner"]
    assert sorted(folder.glob("*.part")) == [folder / "a.part", folder / "b.part"]
    walked = []
    for inside, folders, file_names in file_system.walk(folder):
        walked.append(
            (os.path.relpath(inside, folder), sorted(folders), sorted(file_names))
        )
    top = (".", ["inner"], ["a.part", "b.part", "c.txt"])
    assert walked == [top, ("inner", [], ["d"])]
    for _, folders, _ in file_system.walk(folder):
        walked.append(sorted(folders))
        folders.clear()
    assert walked[2:] == [["inner"]]
    file_system.remove_tree(folder)
    assert not (folder / "c.txt").exists()
    file_system.remove_tree(folder)


@pytest.mark.parametrize(
    "use",
    [
        lambda file: file.open("rb"),
        lambda file: file.stat(),
        lambda file: file.unlink(),
        lambda file: file.replace(file.with_name("x")),
    ],
    ids=["open", "stat", "unlink", "replace"],
)
def test_a_file_that_is_not_there_is_named(folder, use):
    with pytest.raises(FileNotFoundError) as caught:
        use(folder / "none")
    assert os.fsdecode(caught.value.filename) == str(folder / "none")


def test_an_unknown_scheme_is_an_os_error():
    with pytest.raises(OSError, match="nowhere"):
        file_system.path("nowhere://a/b").open("rb")


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
