import csv
import io
import json
import os

import pytest

from model.predict import output_formats, similar_photos
from pipeline.records import manifest

ROW = manifest.Row(
    path="red/1.jpg", class_name="red", sha256="0" * 64, source_bytes=1, action="copied"
)
NEAR = (similar_photos.Neighbour(row=ROW, similarity=0.75),)
CLASSES = (("red", 0.75), ("blue, or\nso", 0.25))
HOSTILE = 'a\n"b",\r\x1b[31m' + os.fsdecode(b"\xff") + ".jpg"
READABLE = 'a\n"b",\r\x1b[31m\\xff.jpg'


def prediction(**changed):
    return output_formats.Prediction(**{"photo": HOSTILE, "classes": CLASSES} | changed)


def written(form, *predictions, top=2, neighbours_each=0):
    header, write = output_formats.writer(
        form, top=top, neighbours_each=neighbours_each
    )
    return header + "".join(map(write, predictions))


class TestJson:
    def test_a_line_for_each_whatever_the_name(self):
        text = written("jsonl", prediction(), prediction(unknown=True))
        text.encode("ascii")
        first, second = map(json.loads, text.splitlines())
        assert first == {
            "photo": READABLE,
            "answer": "red",
            "probability": 0.75,
            "unknown": False,
            "classes": [
                {"class": "red", "probability": 0.75},
                {"class": "blue, or\nso", "probability": 0.25},
            ],
            "problem": None,
        }
        assert (second["answer"], second["probability"]) == ("unknown", 0.75)
        assert second["unknown"] is True

    def test_a_problem(self):
        found = json.loads(written("jsonl", prediction(classes=(), problem="bad")))
        assert (found["answer"], found["probability"]) == (None, None)
        assert (found["problem"], found["classes"]) == ("bad", [])

    def test_explained(self):
        one = prediction(picture="why/1.png", nearest=NEAR)
        found = json.loads(written("jsonl", one, neighbours_each=5))
        assert found["picture"] == "why/1.png"
        assert found["nearest"] == [
            {"photo": "red/1.jpg", "class": "red", "similarity": 0.75}
        ]


class TestCsv:
    def test_whatever_the_name(self):
        text = written("csv", prediction(), prediction(classes=(), problem="a, b"))
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        assert rows[0] == {
            "photo": READABLE,
            "answer": "red",
            "probability": "0.75",
            "problem": "",
            "class_1": "red",
            "probability_1": "0.75",
            "class_2": "blue, or\nso",
            "probability_2": "0.25",
        }
        assert (rows[1]["problem"], rows[1]["answer"]) == ("a, b", "")
        assert rows[1]["probability_2"] == ""

    def test_explained(self):
        one = prediction(picture="why/1.png", nearest=NEAR)
        text = written("csv", one, prediction(classes=()), neighbours_each=2)
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        assert None not in rows[0]
        assert None not in rows[1].values()
        assert rows[0]["picture"] == "why/1.png"
        assert (rows[0]["nearest_1"], rows[0]["similarity_1"]) == ("red/1.jpg", "0.75")
        assert rows[0]["nearest_2"] == ""


class TestText:
    def test_one_line_for_the_name(self):
        lines = written("text", prediction(photo="a\nb.jpg")).splitlines()
        assert lines[:2] == ["a\\nb.jpg", "  0.7500  red"]

    def test_unknown(self):
        assert written("text", prediction(photo="a", unknown=True)).startswith(
            "a  unknown\n  0.7500  red\n"
        )

    def test_a_problem(self):
        one = prediction(photo="a", classes=(), problem="bad")
        assert written("text", one) == "a  bad\n"

    def test_explained(self):
        text = written("text", prediction(picture="p.png", nearest=NEAR))
        assert "\n    0.750  red: red/1.jpg\n  shown in p.png\n" in text


@pytest.mark.parametrize("name", ["ä.jpg", "花.jpg", "a b"])
def test_names_in_unicode_stay(name):
    assert output_formats.unicode_name(name) == name
