import os

import pytest

from pipeline.sources import find_source, photo_source
from pipeline.system.errors import DataError


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def paths(found):
    return [photo.path for photo in found.photos]


def test_every_file_is_listed_with_its_class(tmp_path):
    make(tmp_path, "b/2.jpg", "b/deep/er/1.PNG", "a/x.jpeg", "LICENSE.txt", "a/notes")
    found = find_source.list_source(tmp_path)
    assert found.class_names == ("a", "b")
    assert (found.kind, found.given, found.settings) == ("class folders", (), {})
    assert [(photo.path, photo.class_name) for photo in found.photos] == [
        ("LICENSE.txt", ""),
        ("a/notes", "a"),
        ("a/x.jpeg", "a"),
        ("b/2.jpg", "b"),
        ("b/deep/er/1.PNG", "b"),
    ]
    assert found.ignored == {}


def test_hidden_and_system_files_are_counted(tmp_path):
    make(tmp_path, "a/1", "b/1", ".git/config", "a/.DS_Store", "b/Thumbs.db")
    make(tmp_path, "__MACOSX/a/1")
    found = find_source.list_source(tmp_path)
    assert paths(found) == ["a/1", "b/1"]
    assert found.ignored == {"hidden": 2, "system": 2}


def test_linked_folders_are_not_followed(tmp_path):
    make(tmp_path / "data", "a/1", "b/1")
    (tmp_path / "data" / "a" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "a" / "file").symlink_to(tmp_path / "data" / "b" / "1")
    found = find_source.list_source(tmp_path / "data")
    assert paths(found) == ["a/1", "a/file", "b/1"]
    assert found.ignored == {"linked folders": 1}
    assert len(found.notes) == 1


def test_names_that_are_not_utf8_are_kept(tmp_path):
    make(tmp_path, "a/1")
    folder = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(folder)  # noqa: PTH102 - bytes
    with open(folder + b"/\xe9.jpg", "wb") as file:  # noqa: PTH123
        file.write(b"x")
    found = find_source.list_source(tmp_path)
    assert found.class_names == ("a", "\udcff\udcfe")
    assert paths(found)[1] == "\udcff\udcfe/\udce9.jpg"


@pytest.mark.parametrize("name", ["two\nlines", "bell\a", "tab\tin"])
def test_class_names_with_control_characters_are_refused(tmp_path, name):
    make(tmp_path, "a/1", f"{name}/1")
    with pytest.raises(DataError, match="control character"):
        find_source.list_source(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds nothing"),
        (("1.jpg", "2.jpg"), r"files \(2\) but no folder"),
        (("a/1.jpg",), "one class only, 'a'"),
    ],
    ids=["empty", "no folders", "one class"],
)
def test_a_folder_without_two_classes_is_refused(tmp_path, names, message):
    make(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        find_source.list_source(tmp_path)


def test_an_empty_class_is_named(tmp_path):
    make(tmp_path, "a/1", "b/1")
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match="no files in class c"):
        find_source.list_source(tmp_path)


@pytest.mark.parametrize(("folder", "split"), [("Val", "validation"), ("test", "test")])
def test_split_folders_give_splits(tmp_path, folder, split):
    make(tmp_path, "train/b/1", "train/a/deep/2", f"{folder}/a/3", f"{folder}/b/4")
    make(tmp_path, f"{folder}/stray", "LICENSE", ".git/x/y", "train/.DS_Store")
    found = find_source.list_source(tmp_path)
    assert (found.kind, found.class_names) == ("split folders", ("a", "b"))
    assert {(p.path, p.class_name, p.split) for p in found.photos} == {
        ("LICENSE", "", ""),
        (f"{folder}/a/3", "a", split),
        (f"{folder}/b/4", "b", split),
        (f"{folder}/stray", "", ""),
        ("train/a/deep/2", "a", "train"),
        ("train/b/1", "b", "train"),
    }
    assert found.ignored == {"hidden": 2}
    assert found.settings == {
        "source": "split folders",
        "given_splits": ["train", split],
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/a/1", "test/a/1"), "one class only, 'a'"),
        (
            ("train/a/1", "train/b/1", "test/a/1"),
            r"no photo is given of b \(test\)\. .* --missing_classes=keep",
        ),
        (
            ("train/a/1", "train/b/1", "val/a/1", "val/b/1", "val/c/1"),
            r"no photo is given of c \(train\)",
        ),
        (
            ("train/a/1", "train/b/1", "test/a/1", "test/B/1"),
            r"no photo is given of B \(train\), b \(test\)",
        ),
        (("test/a/1", "test/b/1"), "given for test, none to train on"),
        (("val/a/1", "val/b/1", "test/a/1", "test/b/1"), "none to train on"),
    ],
    ids=lambda value: "" if isinstance(value, str) else ",".join(value),
)
def test_split_folders_with_other_classes_are_refused(tmp_path, names, message):
    make(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        photo_source.check_given(find_source.list_source(tmp_path))


@pytest.mark.parametrize("link", ["test/b", "other"])
def test_a_linked_class_is_refused(tmp_path, link):
    make(tmp_path, "data/train/a/1", "data/train/b/1", "data/test/a/1", "elsewhere/1")
    (tmp_path / "data" / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"{link}: is a link to a folder"):
        find_source.list_source(tmp_path / "data")
