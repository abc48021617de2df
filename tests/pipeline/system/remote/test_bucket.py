"""Places in buckets, tested with servers of S3's and Google's protocols."""

import errno
import io
import os
import pickle
import subprocess
import sys
import time

import pytest

from pipeline.system import file_system
from pipeline.system.errors import DataError
from pipeline.system.remote import bucket
from tests.support import files, stores


@pytest.fixture(params=["local", *stores.SCHEMES])
def folder(request, tmp_path, new_bucket):
    is_local = request.param == "local"
    place = str(tmp_path) if is_local else new_bucket(request.param)
    folder = file_system.path(f"{place}/a [1]#b")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read(path):
    with path.open("rb") as file:
        return file.read()


def write(path, content):
    with path.open("wb") as file:
        file.write(content)


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
    assert "z" in file.read_text(encoding="utf-8")
    file.write_text("", encoding="utf-8")
    assert file.read_text(encoding="utf-8") == ""


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
    assert [*(folder / "none").glob("*")] == []
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
        lambda file: file.replace(file.with_name("x")),
        lambda file: [*file.iterdir()],
    ],
    ids=["open", "stat", "replace", "iterdir"],
)
def test_a_file_that_is_not_there_is_named(folder, use):
    with pytest.raises(FileNotFoundError) as caught:
        use(folder / "none")
    assert os.fsdecode(caught.value.filename) == str(folder / "none")


def test_a_marker_of_an_empty_folder_is_no_file(new_bucket):
    folder = file_system.path(new_bucket("s3") + "/photos")
    for name in ("", "red/", "red/1.jpg"):
        stores.store("s3").pipe_file(f"{folder}/{name}", b"")
    assert [*file_system.walk(folder)] == [
        (str(folder), ["red"], []),
        (f"{folder}/red", [], ["1.jpg"]),
    ]


def test_an_unknown_kind_of_store_is_refused():
    with pytest.raises(DataError, match=r"nowhere://a/b: .*nowhere\. Expected s3://"):
        file_system.path("nowhere://a/b").open("rb")


def test_a_missing_package_is_named_with_the_extra():
    program = """
import sys
sys.modules["s3fs"] = None
from pipeline.system import file_system
try:
    file_system.path("s3://a/b").exists()
except Exception as error:
    print(type(error).__name__, error)
"""
    words = [sys.executable, "-c", program]
    said = subprocess.run(words, cwd=files.ROOT, capture_output=True, text=True).stdout
    assert said.startswith("DataError s3://a/b: ")
    assert said.endswith("packages for them: pip install 'graft-photos[cloud]'\n")


class TestFailures:
    @pytest.fixture
    def answers(self, new_bucket, monkeypatch):
        """Errors for the next calls of cat_file, and the list of the pauses taken."""
        file = file_system.path(new_bucket("s3") + "/x")
        write(file, b"abc")
        errors, pauses = [], []
        system = bucket._file_system(str(file))
        cat_file = system.cat_file

        def fail(*words, **settings):
            if errors:
                raise errors.pop(0)
            return cat_file(*words, **settings)

        monkeypatch.setattr(system, "cat_file", fail)
        monkeypatch.setattr(time, "sleep", pauses.append)
        return file, errors, pauses

    def test_a_read_that_fails_twice_is_repeated_with_longer_pauses(self, answers):
        file, errors, pauses = answers
        errors += [ConnectionResetError("reset"), OSError(errno.EIO, "internal error")]
        assert file.read(0, 3) == b"abc"
        assert pauses == [0.5, 2.0]

    def test_after_the_third_failure_one_line_names_the_place(self, answers):
        file, errors, pauses = answers
        errors += [RuntimeError("slow\ndown")] * 3
        with pytest.raises(DataError, match=f"^{file}: slow down$"):
            file.read(0, 3)
        assert pauses == [0.5, 2.0]

    @pytest.mark.parametrize(
        "error",
        [PermissionError("Forbidden"), OSError("Forbidden: x"), ValueError(", 401")],
    )
    def test_what_is_denied_is_not_repeated(self, answers, error):
        file, errors, pauses = answers
        errors.append(error)
        with pytest.raises(PermissionError) as caught:
            file.read(0, 3)
        assert caught.value.filename == str(file)
        assert not pauses


@pytest.mark.parametrize("scheme", stores.SCHEMES)
def test_without_a_network_the_answer_comes_soon(
    scheme, new_bucket, closed_url, monkeypatch
):
    monkeypatch.setattr(bucket, "_PAUSES_S", (0, 0))
    monkeypatch.setenv("AWS_ENDPOINT_URL", closed_url)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", closed_url.rstrip("/"))
    stores.forget()
    start = time.monotonic()
    with pytest.raises(DataError, match=f"^{scheme}://bucket/x: .*onnect"):
        file_system.path(f"{scheme}://bucket/x").stat()
    assert time.monotonic() - start < 15
    stores.forget()
