"""What a network says of photos, one by one -> text, CSV or JSON lines."""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from model.predict import classifier, similar_photos
from pipeline.system import command_line

FORMATS = ("text", "csv", "jsonl")
TOP = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network says of a photo.

    Attributes:
        photo: the file.
        classes: the most likely, with their probabilities; the likeliest first.
        problem: why there is none; "" if there is.
        unknown: the likeliest is not likely enough to be an answer.
        picture: file that shows where the network looked; "" if none was asked for.
        nearest: the training photos that it finds most alike, the likest first.
    """

    photo: str
    classes: tuple[tuple[str, float], ...] = ()
    problem: str = ""
    unknown: bool = False
    picture: str = ""
    nearest: Sequence[similar_photos.Neighbour] = ()

    @property
    def answer(self) -> str:
        """The likeliest class, or that it is unknown; "" of what cannot be read."""
        if not self.classes:
            return ""
        return classifier.UNKNOWN if self.unknown else unicode_name(self.classes[0][0])

    @property
    def probability(self) -> float | None:
        """Of the likeliest class, also where it is no answer."""
        return self.classes[0][1] if self.classes else None


def unicode_name(name: str) -> str:
    r"""The name of a file or class in Unicode: bytes that are no UTF-8 become \xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def as_text(prediction: Prediction) -> str:
    """Lines for people to read."""
    name = command_line.one_line(unicode_name(prediction.photo))
    said = classifier.UNKNOWN if prediction.unknown else prediction.problem
    lines = [f"{name}  {said}".rstrip()]
    lines += [
        f"  {share:.4f}  {unicode_name(one)}" for one, share in prediction.classes
    ]
    if prediction.nearest:
        lines.append("  most like, of the training photos:")
    for near in prediction.nearest:
        path = command_line.one_line(unicode_name(near.row.path))
        lines.append(
            f"    {near.similarity:.3f}  {unicode_name(near.row.class_name)}: {path}"
        )
    if prediction.picture:
        lines.append(f"  shown in {unicode_name(prediction.picture)}")
    return "\n".join(lines)


def as_json(prediction: Prediction, *, explained: bool) -> dict[str, Any]:
    """An object of JSON.

    Args:
        prediction: of a photo.
        explained: whether explanations were asked for.
    """
    found: dict[str, Any] = {
        "photo": unicode_name(prediction.photo),
        "answer": prediction.answer or None,
        "probability": prediction.probability,
        "unknown": prediction.unknown,
        "classes": classes_json(prediction.classes),
        "problem": prediction.problem or None,
    }
    if explained:
        found["picture"] = unicode_name(prediction.picture) or None
        found["nearest"] = [
            {
                "photo": unicode_name(near.row.path),
                "class": unicode_name(near.row.class_name),
                "similarity": near.similarity,
            }
            for near in prediction.nearest
        ]
    return found


def classes_json(classes: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    """Classes with their probabilities, as JSON has them."""
    return [
        {"class": unicode_name(name), "probability": share} for name, share in classes
    ]


def writer(
    form: str, *, top: int, neighbours_each: int
) -> tuple[str, Callable[[Prediction], str]]:
    """What comes before all predictions, and what makes one of them text.

    Args:
        form: one of FORMATS.
        top: classes that each photo gets.
        neighbours_each: training photos that each photo gets; 0: not asked for.

    Returns:
        A header, "" or one line with its end; and a function of a prediction, which
        gives one or more lines with their end.
    """
    if form == "csv":
        header = ["photo", "answer", "probability", "problem"]
        for number in range(1, top + 1):
            header += [f"class_{number}", f"probability_{number}"]
        if neighbours_each:
            header.append("picture")
        for number in range(1, neighbours_each + 1):
            header += [f"nearest_{number}", f"similarity_{number}"]
        return _csv_line(header), lambda one: _as_csv(one, top, neighbours_each)
    if form == "jsonl":
        explained = bool(neighbours_each)
        return "", lambda one: json.dumps(as_json(one, explained=explained)) + "\n"
    return "", lambda one: as_text(one) + "\n"


def _as_csv(prediction: Prediction, top: int, neighbours_each: int) -> str:
    share = prediction.probability
    cells = [
        unicode_name(prediction.photo),
        prediction.answer,
        "" if share is None else f"{share:.6g}",
        prediction.problem,
    ]
    shares = [
        (unicode_name(name), f"{share:.6g}") for name, share in prediction.classes
    ]
    cells += _padded(shares, top)
    if neighbours_each:
        cells.append(unicode_name(prediction.picture))
    likest = [
        (unicode_name(near.row.path), f"{near.similarity:.6g}")
        for near in prediction.nearest
    ]
    return _csv_line(cells + _padded(likest, neighbours_each))


def _padded(pairs: Sequence[tuple[str, str]], count: int) -> list[str]:
    flat = [cell for pair in pairs for cell in pair]
    return flat + [""] * (2 * count - len(flat))


def _csv_line(cells: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def define_flags() -> None:
    """Declares --top and --unknown_below."""
    flags.DEFINE_integer("top", TOP, "Number of classes to tell.", lower_bound=1)
    flags.DEFINE_float(
        "unknown_below",
        0.0,
        "Answer unknown where the likeliest class is less probable than this, 0..1.",
        lower_bound=0,
        upper_bound=1,
    )
