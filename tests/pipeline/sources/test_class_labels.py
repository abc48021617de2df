import pytest

from pipeline.sources import class_labels
from pipeline.system.errors import DataError


def names(tmp_path, body="daisy\nroses\ntulips\n"):
    (tmp_path / "labels.txt").write_bytes(body.encode())
    return class_labels.read(tmp_path / "labels.txt")


def where(*found):
    """{label: where it stands first}."""
    return {label: f"list line {line}" for line, label in enumerate(found, start=1)}


class TestFile:
    @pytest.mark.parametrize(
        "body",
        ["a\nb b, c\n", "a\r\nb b, c\r\n\r\n\n", "\ufeffa\n b b, c \n \n"],
        ids=["plain", "CRLF and blank lines", "BOM and spaces"],
    )
    def test_a_name_is_a_line(self, tmp_path, body):
        assert names(tmp_path, body).names == ("a", "b b, c")

    def test_as_caffe_has_them(self, tmp_path):
        line = "n01440764 tench, Tinca tinca"
        assert names(tmp_path, line).names == (line,)

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("", "no class names"),
            ("\n\n", "no class names"),
            ("a\n\nb\n", "line 2: blank, before 'b'"),
            ("a\nb\na\n", "'a' stands in lines 1 and 3"),
        ],
    )
    def test_what_is_no_list_of_names(self, tmp_path, body, message):
        with pytest.raises(DataError, match=message):
            names(tmp_path, body)


class TestNumbers:
    @pytest.mark.parametrize(
        ("found", "expected", "note"),
        [
            ("012", [0, 1, 2], "labels 0-based"),
            ("0", [0], "labels 0-based"),
            ("12", [1, 2], "labels 0-based"),
            ("123", [0, 1, 2], "labels 1-based"),
            ("3", [2], "labels 1-based"),
        ],
    )
    def test_from_0_or_1(self, tmp_path, found, expected, note):
        classes = class_labels.resolve(where(*found), names(tmp_path))
        assert [classes.label_of[label] for label in found] == expected
        assert classes.names == ("daisy", "roses", "tulips")
        assert classes.note == note

    def test_written_in_two_ways(self, tmp_path):
        classes = class_labels.resolve(where("1", "01", "0"), names(tmp_path))
        assert classes.label_of == {"1": 1, "01": 1, "0": 0}

    @pytest.mark.parametrize(
        ("found", "message"),
        [
            (("0", "3"), "line 2: label 3; expected 0 to 2, or 1 to 3 without any 0"),
            (("1", "4"), r"line 2: label 4; .*labels\.txt has 3 names"),
            (("0", "-1"), "line 2: label '-1'; expected a number from 0 to 2"),
            (("0", "1.0"), "line 2: label '1.0'"),
            (("daisy", "0"), "line 1: label 'daisy'"),
            (("0", "9" * 5000), "line 2: label '9+'; expected"),
            (("0", "\u0661"), "line 2: label '\u0661'"),
            (("Daisy",), "'Daisy'; expected .* or one of the 3 names"),
        ],
        ids=["K", "K+1", "negative", "float", "mixed", "huge", "Arabic", "other name"],
    )
    def test_others_are_named(self, tmp_path, found, message):
        with pytest.raises(DataError, match=message):
            class_labels.resolve(where(*found), names(tmp_path))


def test_names_in_the_order_of_the_file(tmp_path):
    classes = class_labels.resolve(where("tulips", "daisy"), names(tmp_path))
    assert classes.label_of == {"daisy": 0, "roses": 1, "tulips": 2}


def test_names_without_a_file_are_sorted():
    assert class_labels.as_names(where("b", "a")).names == ("a", "b")
    assert class_labels.as_names(where("10", "9", "0")).names == ("0", "9", "10")


class TestFolders:
    def test_one_for_each_label(self):
        found = class_labels.by_folder(where("1", "0"), {"0": "b", "1": "a"})
        assert found.names == ("b", "a")
        assert found.label_of == {"0": 0, "1": 1}
        found = class_labels.by_folder(where("1", "2"), {"1": "b", "2": "a"})
        assert found.names == ("b", "a")

    @pytest.mark.parametrize(
        ("found", "folders", "message"),
        [
            (("0", "1"), {}, "not one for each label; name the classes with --labels"),
            (("0", "2"), {"0": "a", "2": "b"}, "label 2; expected 0 to 1.* --labels"),
            (("0", "x"), {}, "line 2: label 'x'; expected a number"),
        ],
        ids=["no folders", "a number left out", "no number"],
    )
    def test_what_does_not_tell(self, found, folders, message):
        with pytest.raises(DataError, match=message):
            class_labels.by_folder(where(*found), folders)
