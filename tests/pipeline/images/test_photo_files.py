import collections
import os

import pytest

from pipeline.images import photo_files
from pipeline.records.manifest_row import ImageError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.png", ".hidden.jpg", "sub/c.jpg", ".git/d.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "photos" / "Thumbs.db").touch()
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    return tmp_path / "photos"


def find(*names, without=""):
    ignored = collections.Counter()
    return list(photo_files.find(map(str, names), ignored, without)), dict(ignored)


def test_a_folder_is_walked_in_order(folder):
    paths, ignored = find(folder)
    assert paths == [f"{folder}/{name}" for name in ("a.png", "b.jpg", "sub/c.jpg")]
    assert ignored == {"hidden": 2, "system": 1, "linked folders": 1}


def test_names_of_files_are_returned_unchanged(folder):
    names = [f"{folder}/b.jpg", f"{folder}/.hidden.jpg", "gone.jpg"]
    assert find(*names)[0] == names


def test_a_link_that_is_named_is_followed(folder):
    (folder.parent / "link").symlink_to(folder / "sub")
    assert find(folder.parent / "link")[0] == [f"{folder.parent}/link/c.jpg"]


def test_the_output_folder_is_skipped(folder):
    paths, _ = find(folder, without=f"{folder}/../photos/sub")
    assert paths == [f"{folder}/a.png", f"{folder}/b.jpg"]


def test_names_may_be_any_bytes(tmp_path):
    name = os.fsdecode(b"\xff\n,.jpg")
    (tmp_path / name).touch()
    assert find(tmp_path)[0] == [str(tmp_path / name)]


def test_only_regular_files_are_read(folder):
    assert photo_files.read(str(folder / "b.jpg")) == b"b.jpg"
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        photo_files.read(str(folder / "gone.jpg"))
    os.mkfifo(folder / "pipe")
    for other in (folder, folder / "pipe"):
        with pytest.raises(ImageError, match="not a regular file"):
            photo_files.read(str(other))
