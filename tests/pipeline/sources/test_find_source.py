import pytest

from pipeline.sources import find_source, source_settings
from pipeline.system.errors import DataError
from tests.pipeline.sources.test_class_folders import make


def test_content_decides_the_kind_of_a_folder(tmp_path):
    make(tmp_path, "one/a/1", "one/b/1", "one/x.tfrecord")
    make(tmp_path, "two/train/a/1", "two/train/b/1")
    assert find_source.list_source(tmp_path / "one").kind == "class folders"
    assert find_source.list_source(tmp_path / "two").kind == "split folders"


def test_lists_are_looked_for_here_and_in_the_source(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    make(tmp_path / "data", "a.jpg", "b.jpg")
    (tmp_path / "data" / "list.txt").write_text("a.jpg 0\nb.jpg 1\n")
    (tmp_path / "data" / "labels.txt").write_text("x\ny\n")
    monkeypatch.chdir(tmp_path)

    def listed(prefix):
        settings = source_settings.Settings(
            lists=f"{prefix}list.txt", labels=f"{prefix}labels.txt"
        )
        return find_source.list_source(tmp_path / "data", settings)

    for prefix in ("", "data/"):
        assert listed(prefix).class_names == ("x", "y")
    with pytest.raises(DataError, match="no such file, neither here nor in"):
        listed("other/")


def test_a_file_or_nothing_in_place_of_a_folder_is_refused(tmp_path):
    make(tmp_path, "file")
    with pytest.raises(DataError, match="is a file"):
        find_source.list_source(tmp_path / "file")
    with pytest.raises(DataError, match="no such folder"):
        find_source.list_source(tmp_path / "nothing")
