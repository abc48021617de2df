"""Format predictions as text, CSV or JSON lines."""

import csv
import dataclasses
import datetime
import functools
import io
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from model.evaluation import strangers
from model.predict import similar_photos
from pipeline.system import command_line

_UNKNOWN = "unknown"  # the answer when no class is probable enough
# Columns of a frame of a video, and of a span of frames with the same answer.
FRAME, SPAN = ("time_s",), ("time_s", "until_s", "num_frames")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction for a photo."""

    photo: str
    classes: tuple[tuple[str, float], ...] = ()  # most probable ones, best first
    problem: str = ""  # why the photo cannot be read
    unknown: bool = False  # whether the best class is not probable enough to be named
    # Distance to the training photos in units of the threshold; None if unknown.
    stranger_score: float | None = None
    picture: str = ""  # file with the explanation
    similar: Sequence[similar_photos.SimilarPhoto] = ()  # best first
    time_s: float | None = None  # of a frame in its video, or of a span's first frame
    until_s: float | None = None  # of the last frame of a span
    num_frames: int = 0  # of a span, which has one answer

    @property
    def answer(self) -> str:
        """Return the best class or "unknown"; "" if the photo cannot be read."""
        if not self.classes:
            return ""
        best = command_line.as_utf8(self.classes[0][0])
        return _UNKNOWN if self.unknown else best

    @property
    def probability(self) -> float | None:
        """Return the probability of the best class, also if the answer is unknown."""
        return self.classes[0][1] if self.classes else None

    @property
    def is_stranger(self) -> bool:
        """Return whether the photo is unlike the training photos of all classes."""
        return strangers.is_stranger(self.stranger_score)


def _clock(time_s: float) -> str:
    seconds, milliseconds = divmod(round(1000 * time_s), 1000)
    return f"{datetime.timedelta(seconds=seconds)}.{milliseconds:03}"


def _frame_as_text(prediction: Prediction, time_s: float) -> str:
    """Return one line for a frame or a span of a video."""
    name, when = command_line.one_line(prediction.photo), _clock(time_s)
    line = f"{prediction.probability:.4f}  {prediction.answer}"
    line += "  none of these?" * prediction.is_stranger
    if prediction.until_s is not None:
        when += f" to {_clock(prediction.until_s)}"
        count = prediction.num_frames
        line += f"  ({count:,} frame{'s' * (count > 1)})"
    return f"{name}  {when}  {line}\n"


def _as_text(prediction: Prediction) -> str:
    if prediction.time_s is not None:
        return _frame_as_text(prediction, prediction.time_s)
    name = command_line.one_line(prediction.photo)
    remarks = [_UNKNOWN] if prediction.unknown else []
    if prediction.is_stranger:
        remarks.append(
            f"none of these? stranger score {prediction.stranger_score:.2f}, "
            f"{strangers.THRESHOLD:.2f} or more is unlike the training photos"
        )
    remark = "; ".join(remarks) or prediction.problem
    lines = [f"{name}  {remark}".rstrip()]
    for class_name, probability in prediction.classes:
        lines.append(f"  {probability:.4f}  {class_name}")
    lines += ["  most similar training photos:"] if prediction.similar else []
    for similar in prediction.similar:
        path = command_line.one_line(similar.row.path)
        lines.append(f"    {similar.similarity:.3f}  {similar.row.class_name}: {path}")
    if prediction.picture:
        lines.append(f"  picture: {prediction.picture}")
    return "\n".join([*lines, ""])


def _as_json(prediction: Prediction, *, times: Sequence[str], explained: bool) -> str:
    fields: dict[str, Any] = {
        "photo": command_line.as_utf8(prediction.photo),
        **{name: getattr(prediction, name) for name in times},
        **answer_json(prediction),
        "problem": prediction.problem or None,
    }
    if explained:
        fields["picture"] = command_line.as_utf8(prediction.picture) or None
        fields["nearest"] = list(map(similar_json, prediction.similar))
    return json.dumps(fields) + "\n"


def answer_json(prediction: Prediction) -> dict[str, Any]:
    """Return classes, probabilities and stranger score as fields of a JSON object."""
    score = prediction.stranger_score
    return {
        "answer": prediction.answer or None,
        "probability": prediction.probability,
        "unknown": prediction.unknown,
        "classes": [
            {"class": command_line.as_utf8(name), "probability": probability}
            for name, probability in prediction.classes
        ],
        "stranger": None
        if score is None
        else {
            "score": score,
            "threshold": strangers.THRESHOLD,
            "is_stranger": prediction.is_stranger,
        },
    }


def similar_json(similar: similar_photos.SimilarPhoto) -> dict[str, Any]:
    """Return a training photo as a JSON object."""
    return {
        "photo": command_line.as_utf8(similar.row.path),
        "class": command_line.as_utf8(similar.row.class_name),
        "similarity": similar.similarity,
    }


def writer(
    format_name: str, *, top: int, num_similar: int, times: Sequence[str] = ()
) -> tuple[str, Callable[[Prediction], str]]:
    """Return a header, and a function that formats one prediction as lines.

    `format_name` is text, csv or jsonl; `num_similar` is 0 without explanations.
    `times` are the fields of FRAME or SPAN if there are videos.
    """
    if format_name == "csv":
        cells = functools.partial(_cells, top=top, num_similar=num_similar, times=times)
        header = _csv_line(cells(Prediction(photo="")).keys())
        return header, lambda item: _csv_line(cells(item).values())
    if format_name == "jsonl":
        return "", lambda item: _as_json(item, times=times, explained=bool(num_similar))
    return "", _as_text


def _cells(
    prediction: Prediction, *, top: int, num_similar: int, times: Sequence[str]
) -> dict[str, Any]:
    """Return a row of CSV as {title: value}."""
    score, has_time = prediction.stranger_score, prediction.time_s is not None
    is_stranger = "" if score is None else str(prediction.is_stranger).lower()
    cells: dict[str, Any] = {
        "photo": prediction.photo,
        **{name: getattr(prediction, name) if has_time else "" for name in times},
        "answer": prediction.answer,
        "probability": _number(prediction.probability),
        "problem": prediction.problem,
        "stranger_score": _number(score),
        "is_stranger": is_stranger,
        **_numbered("class", "probability", prediction.classes, top),
    }
    if num_similar:
        similar = [(photo.row.path, photo.similarity) for photo in prediction.similar]
        cells["picture"] = prediction.picture
        cells |= _numbered("nearest", "similarity", similar, num_similar)
    return cells


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _numbered(
    name: str, value_name: str, pairs: Sequence[tuple[str, float]], count: int
) -> dict[str, str]:
    """Return names and numbers as the cells of `count` pairs of columns."""
    cells: dict[str, str] = {}
    for n in range(count):
        text, value = pairs[n] if n < len(pairs) else ("", None)
        cells |= {f"{name}_{n + 1}": text, f"{value_name}_{n + 1}": _number(value)}
    return cells


def _csv_line(cells: Iterable[Any]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
