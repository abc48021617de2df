"""Format predictions as text, CSV or JSON lines."""

import csv
import dataclasses
import datetime
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from model.evaluation import strangers
from model.predict import classifier, similar_photos
from pipeline.system import command_line

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
        return classifier.UNKNOWN if self.unknown else best

    @property
    def probability(self) -> float | None:
        """Return the probability of the best class, also if the answer is unknown."""
        return self.classes[0][1] if self.classes else None

    @property
    def is_stranger(self) -> bool:
        """Return whether the photo is unlike the training photos: perhaps no class."""
        return strangers.is_stranger(self.stranger_score)


def stranger_json(score: float | None) -> dict[str, Any] | None:
    """Return a stranger score as a JSON object, or None without a score."""
    if score is None:
        return None
    return {
        "score": score,
        "threshold": strangers.THRESHOLD,
        "is_stranger": strangers.is_stranger(score),
    }


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
        line += (
            f"  ({prediction.num_frames:,} frame{'s' * (prediction.num_frames > 1)})"
        )
    return f"{name}  {when}  {line}\n"


def _as_text(prediction: Prediction) -> str:
    if prediction.time_s is not None:
        return _frame_as_text(prediction, prediction.time_s)
    name = command_line.one_line(prediction.photo)
    remarks = [classifier.UNKNOWN] if prediction.unknown else []
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
        "answer": prediction.answer or None,
        "probability": prediction.probability,
        "unknown": prediction.unknown,
        "classes": classes_json(prediction.classes),
        "problem": prediction.problem or None,
        "stranger": stranger_json(prediction.stranger_score),
    }
    if explained:
        fields["picture"] = command_line.as_utf8(prediction.picture) or None
        fields["nearest"] = list(map(similar_json, prediction.similar))
    return json.dumps(fields) + "\n"


def classes_json(classes: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    """Return classes and their probabilities as JSON objects."""
    return [
        {"class": command_line.as_utf8(name), "probability": probability}
        for name, probability in classes
    ]


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
        header = ["photo", *times, "answer", "probability", "problem"]
        header += ["stranger_score", "is_stranger"]
        for number in range(1, top + 1):
            header += [f"class_{number}", f"probability_{number}"]
        header += ["picture"] if num_similar else []
        for number in range(1, num_similar + 1):
            header += [f"nearest_{number}", f"similarity_{number}"]
        return _csv_line(header), lambda item: _as_csv(item, top, num_similar, times)
    if format_name == "jsonl":
        return "", lambda item: _as_json(item, times=times, explained=bool(num_similar))
    return "", _as_text


def _as_csv(
    prediction: Prediction, top: int, num_similar: int, times: Sequence[str]
) -> str:
    probability, score = prediction.probability, prediction.stranger_score
    cells: list[Any] = [
        prediction.photo,
        *("" if prediction.time_s is None else getattr(prediction, n) for n in times),
        prediction.answer,
        "" if probability is None else f"{probability:.6g}",
        prediction.problem,
        "" if score is None else f"{score:.6g}",
        "" if score is None else str(prediction.is_stranger).lower(),
        *_padded(prediction.classes, top),
    ]
    if num_similar:
        similar = [(photo.row.path, photo.similarity) for photo in prediction.similar]
        cells += [prediction.picture, *_padded(similar, num_similar)]
    return _csv_line(cells)


def _padded(pairs: Sequence[tuple[str, float]], count: int) -> list[str]:
    """Return names and numbers as `2 * count` cells, the last of which may be empty."""
    cells = []
    for name, number in pairs:
        cells += [name, f"{number:.6g}"]
    return cells + [""] * (2 * count - len(cells))


def _csv_line(cells: Sequence[Any]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
