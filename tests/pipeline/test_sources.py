import os

import pytest

from pipeline import schema, sources


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def test_lists_every_file_with_its_class(tmp_path):
    make(tmp_path, "b/2.jpg", "b/deep/er/1.PNG", "a/x.jpeg", "LICENSE.txt", "a/notes")
    found = sources.list_class_folders(tmp_path)
    assert found.class_names == ("a", "b")
    assert [(p, found.class_name(n)) for n, p in enumerate(found.paths)] == [
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
    found = sources.list_class_folders(tmp_path)
    assert found.paths == ["a/1", "b/1"]
    assert found.ignored == {"hidden": 2, "system": 2}


def test_linked_folders_are_not_followed(tmp_path):
    make(tmp_path / "data", "a/1", "b/1")
    (tmp_path / "data" / "a" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "a" / "file").symlink_to(tmp_path / "data" / "b" / "1")
    found = sources.list_class_folders(tmp_path / "data")
    assert found.paths == ["a/1", "a/file", "b/1"]
    assert found.ignored == {"linked folders": 1}


def test_names_that_are_no_text(tmp_path):
    make(tmp_path, "a/1")
    folder = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(folder)  # noqa: PTH102 - bytes
    with open(folder + b"/\xe9.jpg", "wb") as file:  # noqa: PTH123
        file.write(b"x")
    found = sources.list_class_folders(tmp_path)
    assert found.class_names == ("a", "\udcff\udcfe")
    assert found.paths[1] == "\udcff\udcfe/\udce9.jpg"


@pytest.mark.parametrize("name", ["two\nlines", "bell\a", "tab\tin"])
def test_class_names_that_break_a_list_of_labels(tmp_path, name):
    make(tmp_path, "a/1", f"{name}/1")
    with pytest.raises(schema.DataError, match="control character"):
        sources.list_class_folders(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds nothing"),
        (("1.jpg", "2.jpg"), "2 files but no folder"),
        (("a/1.jpg",), "one class only, 'a'"),
        (("train/a/1.jpg", "test/a/2.jpg"), "look like splits"),
    ],
    ids=["empty", "no folders", "one class", "splits"],
)
def test_what_is_no_data_set(tmp_path, names, message):
    make(tmp_path, *names)
    with pytest.raises(schema.DataError, match=message):
        sources.list_class_folders(tmp_path)


def test_empty_class_is_named(tmp_path):
    make(tmp_path, "a/1", "b/1")
    (tmp_path / "c").mkdir()
    with pytest.raises(schema.DataError, match="no files in class folder c"):
        sources.list_class_folders(tmp_path)


def test_file_or_nothing_instead_of_a_folder(tmp_path):
    make(tmp_path, "file")
    with pytest.raises(schema.DataError, match="is a file"):
        sources.list_class_folders(tmp_path / "file")
    with pytest.raises(schema.DataError, match="no such folder"):
        sources.list_class_folders(tmp_path / "nothing")
