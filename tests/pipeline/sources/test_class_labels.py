import pytest

from pipeline.sources import class_labels
from pipeline.system.errors import DataError


def names(tmp_path, body="daisy\nroses\ntulips\n"):
    (tmp_path / "labels.txt").write_bytes(body.encode())
    return class_labels.read(tmp_path / "labels.txt")


def places(*labels):
    """{label: line of its first use}."""
    return {label: f"list line {line}" for line, label in enumerate(labels, start=1)}


class TestFile:
    @pytest.mark.parametrize(
        "body",
        ["a\nb b, c\n", "a\r\nb b, c\r\n\r\n\n", "\ufeffa\n b b, c \n \n"],
        ids=["plain", "CRLF and blank lines", "BOM and spaces"],
    )
    def test_a_name_is_a_line(self, tmp_path, body):
        assert names(tmp_path, body).names == ("a", "b b, c")

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("", "no class names"),
            ("\n\n", "no class names"),
            ("a\n\nb\n", "line 2: is blank, but 'b' follows"),
            ("a\nb\na\n", "'a' is in line 1 and in line 3"),
        ],
    )
    def test_a_file_without_one_name_per_line_is_refused(self, tmp_path, body, message):
        with pytest.raises(DataError, match=message):
            names(tmp_path, body)


class TestNumbers:
    @pytest.mark.parametrize(
        ("labels", "expected", "note"),
        [
            ("012", [0, 1, 2], "labels 0-based"),
            ("0", [0], "labels 0-based"),
            ("12", [1, 2], "labels 0-based"),
            ("123", [0, 1, 2], "labels 1-based"),
            ("3", [2], "labels 1-based"),
        ],
    )
    def test_numbers_may_begin_with_0_or_1(self, tmp_path, labels, expected, note):
        classes = class_labels.resolve(places(*labels), names(tmp_path))
        assert [classes.label_of[label] for label in labels] == expected
        assert classes.names == ("daisy", "roses", "tulips")
        assert classes.note == note

    def test_a_number_may_have_leading_zeros(self, tmp_path):
        classes = class_labels.resolve(places("1", "01", "0"), names(tmp_path))
        assert classes.label_of == {"1": 1, "01": 1, "0": 0}

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (("0", "3"), "line 2: label 3 is out of range. Expected 0 to 2, or"),
            (("1", "4"), r"line 2: label 4 .*labels\.txt has 3 names"),
            (("0", "-1"), "line 2: label '-1' .*a number from 0 to 2"),
            (("0", "1.0"), "line 2: label '1.0'"),
            (("daisy", "0"), "line 1: label 'daisy'"),
            (("0", "9" * 5000), "line 2: label '9+' is unknown"),
            (("0", "\u0661"), "line 2: label '\u0661'"),
            (("Daisy",), "'Daisy' .* or one of the 3 names"),
        ],
        ids=["K", "K+1", "negative", "float", "mixed", "huge", "Arabic", "other name"],
    )
    def test_other_labels_are_refused_with_their_line(self, tmp_path, labels, message):
        with pytest.raises(DataError, match=message):
            class_labels.resolve(places(*labels), names(tmp_path))


def test_names_without_a_file_are_sorted():
    assert class_labels.as_names(places("b", "a")).names == ("a", "b")
    assert class_labels.as_names(places("10", "9", "0")).names == ("0", "9", "10")


class TestFolders:
    @pytest.mark.parametrize("first", [0, 1])
    def test_folders_name_the_labels(self, first):
        low, high = str(first), str(first + 1)
        classes = class_labels.by_folder(places(high, low), {low: "b", high: "a"})
        assert classes.names == ("b", "a")
        assert classes.label_of == {low: 0, high: 1}

    @pytest.mark.parametrize(
        ("labels", "folders", "message"),
        [
            (("0", "1"), {}, "not one for each label. .* --labels"),
            (("0", "2"), {"0": "a", "2": "b"}, "label 2 .*Expected 0 to 1.* --labels"),
            (("0", "x"), {}, "line 2: label 'x' is not a number"),
        ],
        ids=["no folders", "a number left out", "no number"],
    )
    def test_labels_without_their_folders_are_refused(self, labels, folders, message):
        with pytest.raises(DataError, match=message):
            class_labels.by_folder(places(*labels), folders)
