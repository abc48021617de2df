import os

import pytest

from pipeline.records import manifest
from pipeline.sources import photo_source
from pipeline.sources.lists import label_files, listed_photos
from pipeline.system.errors import DataError
from tests.pipeline.sources.test_class_folders import make

TRAIN, VALIDATION, TEST = manifest.SPLITS
PHOTOS = ("1", "1.jpg", "a.jpg", "a/1", "a/1.jpg", "b.jpg", "z/1")


def listed(root, body, *more, names=("a", "b"), split=TRAIN):
    """The source of list files with these bodies, the later ones of the next splits."""
    splits = manifest.SPLITS[manifest.SPLITS.index(split) :] if split else [""]
    make(root, *PHOTOS)
    paths = []
    for number, text in enumerate((body, *more)):
        paths.append(root / f"{number}.list")
        paths[-1].write_bytes(text if isinstance(text, bytes) else text.encode())
    named = label_files.Names(root / "labels", names) if names else None
    entries = listed_photos.read_lists(zip(paths, splits, strict=False))
    source = listed_photos.list_photos(root, "lists", paths, entries, named)
    return photo_source.check(source)


def rows(found):
    return [(photo.path, photo.class_name, photo.split) for photo in found.photos]


def paths(found):
    return [photo.path for photo in found.photos]


class TestNames:
    @pytest.mark.parametrize(
        ("names", "paths", "splits"),
        [
            ("", "", ""),
            ("all.txt", "all.txt", "-"),
            ("train/all.txt", "train/all.txt", "-"),
            ("train.txt", "train.txt", "train"),
            ("a/train.txt,a/val.txt", "a/train.txt a/val.txt", "train validation"),
            (
                "bees_train.txt, valid-2.txt ,TEST.lst",
                "bees_train.txt valid-2.txt TEST.lst",
                "train validation test",
            ),
            ("train=x.txt,test=y.txt", "x.txt y.txt", "train test"),
            ("validation=train.txt,train=b=c", "train.txt b=c", "validation train"),
            ("train1.txt,train2.txt", "train1.txt train2.txt", "train train"),
        ],
    )
    def test_names_of_lists_give_the_split(self, names, paths, splits):
        parsed = [
            (path, split or "-") for path, split in listed_photos.parse_lists(names)
        ]
        assert parsed == list(zip(paths.split(), splits.split(), strict=True))

    @pytest.mark.parametrize(
        "names", ["a.txt,test.txt", "trainval.txt,test.txt", "train.txt,test_val.txt"]
    )
    def test_several_lists_without_a_split_in_their_names_are_refused(self, names):
        with pytest.raises(ValueError, match=r"does not give its split.*train=a\.txt"):
            listed_photos.parse_lists(names)


class TestLines:
    def test_lines_hold_a_path_and_a_label(self, tmp_path):
        found = listed(
            tmp_path,
            "b/a photo, with 2 spaces.jpg 1\na/1.jpg 0\n",
            "\ufeff  a/tab.jpg\t0 \r\n\r\nb//x/../2.jpg   1",
        )
        assert rows(found) == [
            ("a/1.jpg", "a", TRAIN),
            ("a/tab.jpg", "a", VALIDATION),
            ("b/2.jpg", "b", VALIDATION),
            ("b/a photo, with 2 spaces.jpg", "b", TRAIN),
        ]
        assert found.kind == "lists"
        assert found.given == ("train", "validation")
        assert found.notes == (
            "lists: 4 photos in 2 lists, labels 0-based; 2 train, 2 validation",
        )

    def test_classes_are_in_the_order_of_the_names(self, tmp_path):
        found = listed(tmp_path, "1.jpg 1\n2.jpg 2\n", names=("z", "a"))
        assert found.class_names == ("z", "a")
        assert rows(found) == [("1.jpg", "z", TRAIN), ("2.jpg", "a", TRAIN)]
        assert "labels 1-based" in found.notes[0]

    def test_paths_that_are_not_utf8_are_kept(self, tmp_path):
        make(tmp_path, os.fsdecode(b"\xe9.jpg"))
        found = listed(tmp_path, b"\xe9.jpg 0\nb.jpg 1\n")
        assert paths(found) == ["b.jpg", os.fsdecode(b"\xe9.jpg")]

    def test_one_list_may_give_no_split(self, tmp_path):
        found = listed(tmp_path, "a.jpg 0\nb.jpg 1\n", split="")
        assert found.given == ()
        assert found.settings == {"source": "lists"}

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("", r"0\.list: no photos listed"),
            ("a 0\nb\n", "line 2: expected a path, a space and a label, found 'b'"),
            ("a.jpg 0\n 1\n", "line 2: expected a path.*found '1'"),
            ("a.jpg 0\nb.jpg 2\n", r"0\.list line 2: label 2 is out of range"),
            ("a.jpg 0\nb.jpg 0\n", "no files in class b"),
        ],
        ids=["nothing", "no label", "no path", "too high", "empty"],
    )
    def test_a_wrong_line_is_named(self, tmp_path, body, message):
        with pytest.raises(DataError, match=message):
            listed(tmp_path, body)


class TestPaths:
    def test_absolute_paths_inside_the_root_are_accepted(self, tmp_path):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        body = f"{tmp_path}/link/a.jpg 0\n/{tmp_path}/real/./b.jpg 1\nc.jpg 0\n"
        found = listed(tmp_path / "link", body)
        assert paths(found) == ["a.jpg", "b.jpg", "c.jpg"]

    @pytest.mark.parametrize(
        "path",
        ["/etc/passwd", "..", "../a.jpg", "a/../../b.jpg", "{root}2/a.jpg", "a/.."],
    )
    def test_a_path_that_is_not_in_the_root_is_refused(self, tmp_path, path):
        body = f"{path.format(root=tmp_path)} 0\nb.jpg 1\n"
        with pytest.raises(DataError, match=r"line 1: .* is not a path inside"):
            listed(tmp_path, body)


class TestRepetition:
    def test_repeated_rows_are_counted(self, tmp_path, capsys):
        found = listed(tmp_path, "a.jpg 0\nb.jpg 1\n./a.jpg 0\na.jpg 0\n")
        assert paths(found) == ["a.jpg", "b.jpg"]
        assert "2 rows repeat another row" in capsys.readouterr().err

    def test_a_photo_with_two_labels_is_refused(self, tmp_path):
        message = r"0\.list line 3: a\.jpg has label '1'.*'0'.* in .*0\.list line 1"
        with pytest.raises(DataError, match=message):
            listed(tmp_path, "a.jpg 0\nb.jpg 1\na.jpg 1\n")

    def test_a_photo_in_two_splits_is_refused(self, tmp_path):
        message = r"1\.list line 1: .*split 'validation', but .*'train' in .*line 1"
        with pytest.raises(DataError, match=message):
            listed(tmp_path, "a.jpg 0\nb.jpg 1\n", "a.jpg 0\n")


class TestWithoutNames:
    def test_folders_name_the_classes(self, tmp_path):
        found = listed(tmp_path, "z/1 0\na/2 1\nz/3/4 0\n", names=None)
        assert found.class_names == ("z", "a")
        assert "class names are those of the folders" in found.notes[0]

    @pytest.mark.parametrize(
        "body",
        ["a/1 0\na/2 1\n", "a/1 0\nb/2 0\nb/3 1\n", "1 0\nb/2 1\n"],
        ids=["one folder", "two folders", "no folder"],
    )
    def test_folders_that_fit_no_label_are_refused(self, tmp_path, body):
        with pytest.raises(DataError, match="--labels=FILE"):
            listed(tmp_path, body, names=None)
