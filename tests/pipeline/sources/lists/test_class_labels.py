from pathlib import Path

import pytest

from pipeline.sources.lists import label_files
from pipeline.system.errors import DataError


def names(*class_names, first=None):
    class_names = class_names or ("daisy", "roses", "tulips")
    return label_files.Names(Path("labels.txt"), class_names, first)


def places(*labels):
    """{label: line of its first use}."""
    return {label: f"list line {line}" for line, label in enumerate(labels, start=1)}


class TestNumbers:
    @pytest.mark.parametrize(
        ("labels", "expected", "note"),
        [
            ("012", "daisy roses tulips", "labels 0-based"),
            ("0", "daisy", "labels 0-based"),
            ("12", "roses tulips", "labels 0-based"),
            ("123", "daisy roses tulips", "labels 1-based"),
            ("3", "tulips", "labels 1-based"),
        ],
    )
    def test_numbers_may_begin_with_0_or_1(self, capsys, labels, expected, note):
        classes = label_files.resolve(places(*labels), names())
        assert classes.name_of == dict(zip(labels, expected.split(), strict=True))
        assert classes.names == ("daisy", "roses", "tulips")
        assert classes.note == note
        logged = capsys.readouterr().err
        assert ("note: labels are 1-based: 1 means daisy" in logged) == ("1" in note)

    def test_a_number_may_have_leading_zeros(self):
        classes = label_files.resolve(places("1", "01", "0"), names())
        assert classes.name_of == {"1": "roses", "01": "roses", "0": "daisy"}

    @pytest.mark.parametrize(
        ("first", "expected"), [(0, ("roses", "tulips")), (1, ("daisy", "roses"))]
    )
    def test_numbers_in_the_file_of_names_say_where_numbers_begin(
        self, first, expected
    ):
        classes = label_files.resolve(places("1", "2"), names(first=first))
        assert tuple(classes.name_of.values()) == expected
        outside = str(3 * (1 - first))
        with pytest.raises(DataError, match=f"Expected {first} to {first + 2}: "):
            label_files.resolve(places(outside, "2"), names(first=first))

    def test_two_classes_of_one_name_are_refused(self):
        with pytest.raises(DataError, match="'a' is the name of 0 and of 2"):
            label_files.resolve(places("0"), names("a", "b", "a"))

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (("0", "3"), "line 2: label 3 is out of range. Expected 0 to 2 or 1 to 3"),
            (("1", "4"), r"line 2: label 4 .*labels\.txt has 3 names"),
            (("0", "-1"), "line 2: label '-1' .*a number from 0 to 2"),
            (("0", "1.0"), "line 2: label '1.0'"),
            (("daisy", "0"), "line 2: label '0' is not one of the 3 .* but 'daisy' is"),
            (("0", "9" * 5000), "line 2: label '9+' is unknown"),
            (("0", "\u0661"), "line 2: label '\u0661'"),
            (("Daisy",), "'Daisy' .* or one of the 3 names"),
        ],
        ids=["K", "K+1", "negative", "float", "mixed", "huge", "Arabic", "other name"],
    )
    def test_other_labels_are_refused_with_their_line(self, labels, message):
        with pytest.raises(DataError, match=message):
            label_files.resolve(places(*labels), names())


def test_names_without_a_file_are_sorted():
    assert label_files.resolve(places("b", "a"), None).names == ("a", "b")
    numbers = label_files.resolve(places("10", "9", "0"), None)
    assert numbers.names == ("0", "9", "10")


class TestFolders:
    @pytest.mark.parametrize("first", [0, 1])
    def test_folders_name_the_labels(self, first):
        low, high = str(first), str(first + 1)
        classes = label_files.by_folder(places(high, low), {low: "b", high: "a"})
        assert classes.names == ("b", "a")
        assert classes.name_of == {low: "b", high: "a"}

    @pytest.mark.parametrize(
        ("labels", "folders", "message"),
        [
            (("0", "1"), {}, "not every label has one folder of its own. .* --labels"),
            (("0", "2"), {"0": "a", "2": "b"}, "label 2 .*Expected 0 to 1.* --labels"),
            (("0", "x"), {}, "line 2: label 'x' is not a number"),
        ],
        ids=["no folders", "a number left out", "no number"],
    )
    def test_labels_without_their_folders_are_refused(self, labels, folders, message):
        with pytest.raises(DataError, match=message):
            label_files.by_folder(places(*labels), folders)
