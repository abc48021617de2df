import csv
import io
import json
import os

from model.predict import output_formats, similar_photos
from pipeline.records.manifest_row import Row
from pipeline.system import command_line

ROW = Row(
    path="red/1.jpg", class_name="red", sha256="0" * 64, source_bytes=1, action="copied"
)
SIMILAR = (similar_photos.SimilarPhoto(row=ROW, similarity=0.75),)
CLASSES = (("red", 0.75), ("blue, or\nso", 0.25))
HOSTILE = 'a\n"b",\r\x1b[31m' + os.fsdecode(b"\xff") + ".jpg"
READABLE = 'a\n"b",\r\x1b[31m\\xff.jpg'


def prediction(**changed):
    return output_formats.Prediction(**{"photo": HOSTILE, "classes": CLASSES} | changed)


def formatted(form, *predictions, top=2, num_similar=0):
    header, write = output_formats.writer(form, top=top, num_similar=num_similar)
    # As the streams of a command print it.
    return command_line.as_utf8(header + "".join(map(write, predictions)))


class TestJson:
    def test_a_line_for_each_whatever_the_name(self):
        bad = prediction(classes=(), problem="bad")
        text = formatted("jsonl", prediction(), prediction(unknown=True), bad)
        text.encode("ascii")
        first, second, third = map(json.loads, text.splitlines())
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
            "stranger": None,
        }
        assert (second["answer"], second["probability"]) == ("unknown", 0.75)
        assert second["unknown"] is True
        assert (third["answer"], third["probability"]) == (None, None)
        assert (third["problem"], third["classes"]) == ("bad", [])

    def test_the_stranger_score_has_its_threshold(self):
        strange, known = prediction(stranger_score=1.0), prediction(stranger_score=0.99)
        lines = formatted("jsonl", strange, known).splitlines()
        assert [json.loads(line)["stranger"] for line in lines] == [
            {"score": 1.0, "threshold": 1.0, "is_stranger": True},
            {"score": 0.99, "threshold": 1.0, "is_stranger": False},
        ]

    def test_an_explanation_adds_picture_and_training_photos(self):
        explained = prediction(picture="why/1.png", similar=SIMILAR)
        fields = json.loads(formatted("jsonl", explained, num_similar=5))
        assert fields["picture"] == "why/1.png"
        assert fields["nearest"] == [
            {"photo": "red/1.jpg", "class": "red", "similarity": 0.75}
        ]


class TestCsv:
    def test_a_row_for_each_photo_whatever_its_name(self):
        text = formatted("csv", prediction(), prediction(classes=(), problem="a, b"))
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        assert rows[0] == {
            "photo": READABLE,
            "answer": "red",
            "probability": "0.75",
            "problem": "",
            "stranger_score": "",
            "is_stranger": "",
            "class_1": "red",
            "probability_1": "0.75",
            "class_2": "blue, or\nso",
            "probability_2": "0.25",
        }
        assert (rows[1]["problem"], rows[1]["answer"]) == ("a, b", "")
        assert rows[1]["probability_2"] == ""

    def test_the_stranger_score_has_two_columns(self):
        strange, known = prediction(stranger_score=1.37), prediction(stranger_score=0.5)
        rows = csv.DictReader(io.StringIO(formatted("csv", strange, known), newline=""))
        assert [(row["stranger_score"], row["is_stranger"]) for row in rows] == [
            ("1.37", "true"),
            ("0.5", "false"),
        ]

    def test_an_explanation_adds_picture_and_training_photos(self):
        explained = prediction(picture="why/1.png", similar=SIMILAR)
        text = formatted("csv", explained, prediction(classes=()), num_similar=2)
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        assert None not in rows[0]
        assert None not in rows[1].values()
        assert rows[0]["picture"] == "why/1.png"
        assert (rows[0]["nearest_1"], rows[0]["similarity_1"]) == ("red/1.jpg", "0.75")
        assert rows[0]["nearest_2"] == ""


class TestText:
    def test_a_name_with_a_line_break_is_on_one_line(self):
        lines = formatted("text", prediction(photo="a\nb.jpg")).splitlines()
        assert lines[:2] == ["a\\nb.jpg", "  0.7500  red"]

    def test_an_unknown_answer_keeps_the_probabilities_and_a_problem_is_named(self):
        unreadable = prediction(photo="b", classes=(), problem="bad")
        text = formatted("text", prediction(photo="a", unknown=True), unreadable)
        assert text.startswith("a  unknown\n  0.7500  red\n")
        assert text.endswith("\nb  bad\n")

    def test_none_of_these_is_the_answer_for_a_stranger_alone(self):
        strange = prediction(photo="dog.jpg", stranger_score=1.372)
        known = prediction(photo="red.jpg", stranger_score=0.6)
        doubted = prediction(photo="x.jpg", stranger_score=2, unknown=True)
        lines = formatted("text", strange, known, doubted).splitlines()
        reason = "1.00 or more is unlike the training photos"
        assert lines[::4] == [
            f"dog.jpg  none of these? stranger score 1.37, {reason}",
            "red.jpg",
            f"x.jpg  unknown; none of these? stranger score 2.00, {reason}",
        ]

    def test_an_explanation_adds_picture_and_training_photos(self):
        text = formatted("text", prediction(picture="p.png", similar=SIMILAR))
        assert "\n    0.750  red: red/1.jpg\n  picture: p.png\n" in text
