import json

import pytest

from pipeline.sources.lists import label_files
from pipeline.system.errors import DataError

NAMES = ("daisy", "rose, red", "tulip")


def read(tmp_path, body, name="labels.txt"):
    path = tmp_path / name
    path.write_bytes(body.encode() if isinstance(body, str) else body)
    return label_files.read(path)


@pytest.mark.parametrize(
    ("name", "body", "first"),
    [
        ("l.txt", "daisy\nrose, red\ntulip\n", None),
        ("l.txt", "\ufeffdaisy\r\n rose, red \r\ntulip\r\n\r\n\n", None),
        ("l.txt", "daisy\nrose, red\ntulip".encode("utf-16"), None),
        ("l.txt", "0 daisy\n1 rose, red\n2 tulip\n", 0),
        ("l.txt", "2: tulip\n0: daisy\n1: rose, red", 0),
        ("l.txt", "1. daisy\n2. rose, red\n3. tulip", 1),
        ("l", "0,daisy\n1,rose, red\n2,tulip", 0),
        ("class_indices.json", '{"daisy": 0, "tulip": 2, "rose, red": 1}', 0),
        ("l.json", '{"0": "daisy", "2": "tulip", "1": "rose, red"}', 0),
        ("l.txt", '\ufeff{"daisy": 1, "tulip": 3, "rose, red": 2}', 1),
        ("l.json", '["daisy", "rose, red", "tulip"]', 0),
        (
            "config.json",
            '{"x": 1, "id2label": {"0": "daisy", "1": "rose, red", "2": "tulip"}}',
            0,
        ),
        ("l.csv", 'index,name\n1,"rose, red"\n0,daisy\n2,tulip\n', 0),
        ("l.csv", "Name;ID\ndaisy;1\nrose, red;2\ntulip;3\n", 1),
        ("l.csv", '0,daisy\n1,"rose, red"\n2,tulip\n', 0),
        ("l.tsv", "id\tclass\n0\tdaisy\n1\trose, red\n2\ttulip", 0),
    ],
    ids=lambda value: None,
)
def test_every_form_gives_the_same_names(tmp_path, name, body, first):
    labels = read(tmp_path, body, name)
    assert labels.names == NAMES
    assert labels.first == first


@pytest.mark.parametrize(
    ("name", "body", "names"),
    [
        ("l", "n01440764 tench, Tinca tinca\nn01443537 goldfish\n", None),
        ("l", "0\n1\n2\n", None),
        ("l", "2 wheeler\ncar\n", None),
        ("l", "[unknown]\ncat\n", None),
        ("l.csv", "crane\ncrane\n", None),
        ("l.json", '{"0": 1, "1": 0}', ("1", "0")),
        ("l.csv", "index,name\n1,0\n0,1\n", ("1", "0")),
        ("l.json", '{"0": ["n01440764", "tench"]}', ("n01440764 tench",)),
    ],
)
def test_names_that_look_like_something_else_are_kept(tmp_path, name, body, names):
    assert read(tmp_path, body, name).names == (names or tuple(body.splitlines()))


def test_what_was_guessed_is_said(tmp_path, capsys):
    read(tmp_path, "1 Daisy\n2 G\xe4nse\n".encode("cp1252"))
    encoding, form, first = capsys.readouterr().err.splitlines()
    assert "read as Windows-1252" in encoding
    assert form.endswith("its lines are numbered, so '1 Daisy' is class 'Daisy'")
    assert first.endswith("its numbers begin with 1")


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("l", "", "line 1: is blank. Expected"),
        ("l", "\n \n", "line 1: is blank. Expected"),
        ("l", "a\n\nb\n", "line 2: is blank. Expected"),
        ("l", "\na\n", "line 1: is blank. Expected"),
        ("l", "0 a\n2 b\n", "expected number 1, found 2 \\('b'\\).* part of the name"),
        ("l", "2 a\n3 b\n", "expected number 0, found 2"),
        ("l", "0 a\n1 b\n1 c\n", "expected number 2, found 1"),
        ("l.json", '{"a": 0, "b": 0}', "expected number 1, found 0"),
        ("l.json", '{"a": 0, "a": 1, "b": 3}', "expected number 2, found 3"),
        ("l.json", '{"a": 0, "b": true}', "found 'b': True"),
        ("l.json", '{"a": -1, "b": 0}', "expected number 0, found -1"),
        ("l.json", '{"a": "b"}', "found 'a': 'b'"),
        ("l.json", "{}", "expected JSON"),
        ("l.json", "7", "expected JSON"),
        ("l.json", '["a", 7]', "expected JSON .* found '1': .7"),
        ("l.json", "[" * 100_000, "expected JSON"),
        ("l.json", '{"a": ' + "9" * 5000 + "}", "expected JSON"),
        ("l.json", "daisy\nrose\n", "expected JSON"),
        ("l.csv", "path,label\na.jpg,daisy\n", "expected two columns"),
        ("l.csv", "index,x,y\n0,a,b\n", "expected two columns"),
        ("l.csv", "index,name\n", "expected two columns"),
        ("l.csv", "index,name\n0,a\n1,\n", "found 1 \\(''\\)"),
        ("l.csv", "index,name\n0,a\n0,b\n", "expected number 1, found 0"),
    ],
    ids=range(23),
)
def test_another_file_is_refused(tmp_path, name, body, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, body, name)


def test_what_keras_writes_is_read(tmp_path):
    indices = {name: label for label, name in enumerate(sorted(NAMES))}
    assert read(tmp_path, json.dumps(indices)).names == NAMES
