import unicodedata

import pytest

from pipeline.sources.lists import listed_photos
from pipeline.sources.lists.listed_photos import Entry
from pipeline.system.errors import DataError
from tests.pipeline.sources.test_class_folders import make

ACCENTED = "Häuser/Café.jpg"
DECOMPOSED = unicodedata.normalize("NFD", ACCENTED)


def listed(root, *paths):
    lines = [
        Entry(path, "x", "", "", f"list line {n}") for n, path in enumerate(paths, 1)
    ]
    return [entry.path for entry in listed_photos.find_files(root, lines)]


@pytest.mark.parametrize(
    ("path", "file", "note"),
    [
        (r"a\1.jpg", "a/1.jpg", "have backslashes"),
        (r".\a\b\..\1.jpg", "a/1.jpg", "have backslashes"),
        (r"a\1.jpg", r"a\1.jpg", ""),
        ("a/1", "a/1.jpg", "lack the ending"),
        ("a/1.5", "a/1.5.PNG", "lack the ending"),
        ("A/IMG.JPG", "a/img.jpg", "differ in case or encoding"),
        (ACCENTED, DECOMPOSED, "differ in case or encoding"),
        (ACCENTED, "H\udce4user/Caf\udce9.jpg", "differ in case or encoding"),
        (r"A\1", "a/1.jpg", "lack the ending"),
    ],
    ids=range(9),
)
def test_a_path_means_the_file_that_is_there(tmp_path, capsys, path, file, note):
    make(tmp_path, file)
    assert listed(tmp_path, path) == [file]
    logged = capsys.readouterr().err
    assert bool(logged) == bool(note)
    if note:
        assert f"note: 1 of 1 paths {note}, as {path} for " in logged


@pytest.mark.parametrize(
    ("paths", "files", "expected"),
    [
        (["1", "2.jpg"], ["1.jpg", "2.jpg"], ["1", "2.jpg"]),
        (["1", "2"], ["1.jpg", "1.png", "2.jpg"], ["1", "2.jpg"]),
        (["1", "2"], ["1.xml", "1.jpg", "2.txt"], ["1.jpg", "2"]),
        (["a.jpg", "b.jpg"], ["A.jpg", "A.JPG", "b.jpg"], ["a.jpg", "b.jpg"]),
        (["x" * 5000, "a/" * 5000 + "b", "1.jpg"], ["1.jpg"], None),
    ],
    ids=["some have endings", "two photos", "no photo", "two cases", "too long"],
)
def test_a_path_that_could_mean_several_files_or_none_stays(
    tmp_path, paths, files, expected
):
    make(tmp_path, *files)
    assert listed(tmp_path, *paths) == (expected or sorted(paths))


@pytest.mark.parametrize(
    "path",
    [
        r"..\out.jpg",
        r"a\..\..\out.jpg",
        r"\out.jpg",
        r"C:\a\1.jpg",
        "C:/a/1.jpg",
        r"\\s\x",
    ],
)
def test_backslashes_and_drives_lead_nowhere_else(tmp_path, path):
    make(tmp_path, "root/a/1.jpg", "out.jpg")
    with pytest.raises(DataError, match=r"list line 2: .* is not a path inside"):
        listed(tmp_path / "root", "a/1.jpg", path)


def test_spellings_of_one_file_are_one_photo(tmp_path, capsys):
    make(tmp_path, "a/1.jpg")
    spellings = ("a/1.jpg", r"a\1.jpg", "A/1.JPG", "./a//1.jpg")
    assert listed(tmp_path, *spellings) == ["a/1.jpg"]
    assert "3 rows repeat another row" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("root", "path", "place"),
    [
        ("data/photos", "photos/1.jpg", ": .*data/photos/[.][.]"),
        ("data", "1.jpg", ": .*data/photos"),
        ("data", r"sub\1.jpg", ": .*data/photos"),
        ("data", "3.jpg", ""),
    ],
)
def test_the_folder_that_paths_start_from_is_named(tmp_path, root, path, place):
    make(tmp_path, "data/photos/1.jpg", "data/photos/sub/1.jpg", "data/x.txt")
    message = (
        f"list line 1: .*{root} has no photo .*any other of the 2 .*the source{place}$"
    )
    with pytest.raises(DataError, match=message):
        listed(tmp_path / root, path, "4.jpg")
