import os
from pathlib import Path

import pytest

from model.predict import output_formats, predict_settings
from model.predict.unlabelled import sorted_photos
from pipeline.system.errors import DataError


def photo(path, content=b"photo"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


@pytest.fixture
def new(tmp_path):
    """A folder of two photos."""
    photo(tmp_path / "new" / "a.jpg", b"one")
    photo(tmp_path / "new" / "deep" / "b.jpg", b"two")
    return tmp_path / "new"


def sort(new, out, placed, **settings):
    """Add photos of `new`, {path: folder}, to the folder `out`."""
    config = predict_settings.Config(photos=(str(new),), sort_into=str(out), **settings)
    folder = sorted_photos.SortedPhotos(config)
    for path, name in placed.items():
        folder.add(str(new / path), name)
    folder.log()


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class TestSortedPhotos:
    def test_photos_are_copied_and_stay_where_they_were(self, new, tmp_path, capsys):
        out, before = tmp_path / "out", content(new)
        (out / "roses").mkdir(parents=True)
        os.utime(new / "a.jpg", (1e9, 1e9))
        sort(new, out, {"a.jpg": "roses", "deep/b.jpg": "unsure"})
        assert content(out) == {"roses/a.jpg": b"one", "unsure/b.jpg": b"two"}
        assert content(new) == before
        assert (out / "roses" / "a.jpg").stat().st_mtime == 1e9
        assert {path.name for path in out.iterdir()} == {"roses", "unsure"}
        assert capsys.readouterr().err.splitlines() == [
            f"sorted into {out}: 1 roses, 1 unsure",
            "note: new class folders: unsure",
        ]

    def test_a_second_time_adds_nothing(self, new, tmp_path, capsys):
        out, placed = tmp_path / "out", {"a.jpg": "roses", "deep/b.jpg": "roses"}
        sort(new, out, placed)
        before = content(out)
        capsys.readouterr()
        sort(new, out, placed)
        assert content(out) == before
        assert capsys.readouterr().err == f"sorted into {out}: 2 already there\n"

    def test_a_photo_that_was_moved_by_hand_stays_there_alone(
        self, new, tmp_path, capsys
    ):
        out = tmp_path / "out"
        photo(out / "daisy" / "2024" / "mine.jpg", b"one")
        sort(new, out, {"a.jpg": "roses", "deep/b.jpg": "roses"})
        assert content(out) == {
            "daisy/2024/mine.jpg": b"one",
            "roses/b.jpg": b"two",
        }
        line = f"sorted into {out}: 1 already in another folder, 1 roses\n"
        assert line in capsys.readouterr().err

    def test_other_photos_of_the_same_name_get_a_number(self, tmp_path):
        new, out = tmp_path / "new", tmp_path / "out"
        for number in range(4):
            photo(new / str(number) / "IMG 1.JPG", bytes([number]))
        photo(out / "roses" / "IMG 1.JPG", b"\1")
        photo(out / "roses" / "IMG 1-3.JPG", b"mine")
        placed = {f"{number}/IMG 1.JPG": "roses" for number in range(4)}
        for _ in range(2):
            sort(new, out, placed)
            assert content(out) == {
                "roses/IMG 1.JPG": b"\1",
                "roses/IMG 1-2.JPG": b"\0",
                "roses/IMG 1-3.JPG": b"mine",
                "roses/IMG 1-4.JPG": b"\2",
                "roses/IMG 1-5.JPG": b"\3",
            }

    def test_links_point_to_the_photos(self, new, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        out = Path("out")
        for _ in range(2):
            sort(Path("new"), out, {"a.jpg": "roses"}, sort_as="links")
            (link,) = (out / "roses").iterdir()
            assert link.readlink() == new / "a.jpg"

    def test_a_link_in_the_folder_is_neither_followed_nor_replaced(self, new, tmp_path):
        out, victim = tmp_path / "out", tmp_path / "victim"
        victim.mkdir()
        (out / "roses").mkdir(parents=True)
        (out / "roses" / "a.jpg").symlink_to(tmp_path / "later.jpg")
        (out / "daisy").symlink_to(victim)
        sort(new, out, {"a.jpg": "roses"})
        assert (out / "roses" / "a-2.jpg").read_bytes() == b"one"
        assert not (tmp_path / "later.jpg").exists()
        with pytest.raises(DataError, match="daisy: is a link"):
            sort(new, out, {"deep/b.jpg": "daisy"})
        assert content(victim) == {}

    @pytest.mark.parametrize("out", ["new", "new/out", "new/deep/../../new/out", "."])
    def test_a_folder_that_overlaps_with_the_photos_is_refused(
        self, new, tmp_path, out
    ):
        with pytest.raises(DataError, match=r"overlaps with .*/new, which holds"):
            sort(new, tmp_path / out, {})
        assert {path.name for path in new.iterdir()} == {"a.jpg", "deep"}


class TestFolderOf:
    def test_a_photo_goes_to_its_best_class_or_to_the_two_other_folders(self):
        def folder(**changed):
            classes = (("roses", 0.6), ("tulips", 0.4))
            return sorted_photos.folder_of(
                output_formats.Prediction(photo="a.jpg", classes=classes, **changed)
            )

        assert folder() == "roses"
        assert folder(unknown=True) == "unsure"
        assert folder(stranger_score=1.5) == "none"
        assert folder(stranger_score=1.5, unknown=True) == "none"
        assert folder(stranger_score=0.5, unknown=True) == "unsure"

    @pytest.mark.parametrize(
        ("class_name", "expected"),
        [
            ("Gänseblümchen, wild 100%", "Gänseblümchen, wild 100%"),
            (os.fsdecode(b"fl\xfcr"), os.fsdecode(b"fl\xfcr")),
            ("a/../b", "a%2F..%2Fb"),
            ("..", "%2E."),
            (".git", "%2Egit"),
            ("unsure", "%75nsure"),
            ("None", "%4Eone"),
            ("unsure ones", "unsure ones"),
        ],
    )
    def test_class_folders_have_safe_names(self, class_name, expected):
        assert sorted_photos.class_folder(class_name) == expected

    def test_long_names_are_cut(self):
        name = sorted_photos.class_folder("é" * 128)
        assert len(os.fsencode(name)) <= 255
        assert name != sorted_photos.class_folder("é" * 129)


class TestByLabels:
    def sort(self, new, labels, **settings):
        path = new.parent / "labels.csv"
        path.write_text(labels)
        out = new.parent / "flowers"
        config = predict_settings.Config(
            photos=(str(new),), sort_into=str(out), sort_by=str(path), **settings
        )
        sorted_photos.by_labels(config)
        return content(out)

    def test_photos_are_copied_to_the_folders_of_their_labels(self, new, capsys):
        photo(new.parent / "flowers" / "roses" / "a.jpg", b"older")
        labels = f"path,label,note\na.jpg,roses,\n{new}/deep/b.jpg,none,\n"
        expected = {
            "roses/a.jpg": b"older",
            "roses/a-2.jpg": b"one",
            "%6Eone/b.jpg": b"two",
        }
        assert self.sort(new, labels) == expected
        assert "1 roses, 1 %6Eone\nnote: new class folders: %6Eone" in (
            capsys.readouterr().err
        )
        assert self.sort(new, labels) == expected

    def test_missing_photos_are_an_error_after_the_others_are_sorted(self, new):
        with pytest.raises(
            DataError, match=r"photos that do not exist: 1, first .*new/no\.jpg"
        ):
            self.sort(new, "path,label\nno.jpg,roses\na.jpg,roses\n")
        assert content(new.parent / "flowers") == {"roses/a.jpg": b"one"}

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ("path,label\n", "no photos listed"),
            ("path,label\n../x.jpg,roses\n", "is not a path inside"),
            ("path,label\na.jpg,roses\na.jpg,tulips\n", "Remove one of them"),
        ],
    )
    def test_wrong_lists_are_refused(self, new, labels, message):
        with pytest.raises(DataError, match=message):
            self.sort(new, labels)
        assert not (new.parent / "flowers").exists()

    def test_a_photo_in_place_of_their_folder_is_refused(self, new):
        with pytest.raises(DataError, match=r"--sort_by: .*a\.jpg is not a folder"):
            self.sort(new / "a.jpg", "path,label\na.jpg,roses\n")
