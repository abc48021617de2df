"""Define the results of Graft's functions, which notebooks show with pictures."""

import dataclasses
import functools
import html
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from markupsafe import Markup

from pipeline.records import manifest
from pipeline.system import config_flags, file_system, html_templates
from pipeline.system.errors import UsageError
from pipeline.system.remote import mirror

_Path = str | os.PathLike[str]
_THUMBNAIL_PX = 160
_MAX_SHOWN = 50  # predictions that a notebook shows
_MAX_REPORT_BYTES = 3 << 20  # of a larger report, a notebook shows the text
# Settings of model.predict that Run.predict has; others are for output and videos.
_SETTINGS = {"top", "unknown_below", "explain", "data", "batch_size"}


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Records:
    """A folder of records: the converted photos and their split."""

    manifest: manifest.Manifest

    @property
    def directory(self) -> Path:
        """Return the folder."""
        return self.manifest.directory

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, in label order."""
        return tuple(self.manifest.class_names)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Return {class: {split: number of photos}}."""
        return self.manifest.counts()

    @property
    def skipped(self) -> dict[str, str]:
        """Return {path: reason} of the files that were not converted."""
        rows = (r for r in self.manifest.rows if not (r.is_included or r.is_gone))
        return {row.path: row.reason for row in rows}

    def to_dict(self) -> dict[str, Any]:
        """Return folder, classes, numbers of photos and skipped files for JSON."""
        names = ("class_names", "counts", "skipped")
        return {"directory": str(self.directory)} | {n: getattr(self, n) for n in names}

    def __repr__(self) -> str:
        return (
            f"Records({str(self.directory)!r}: {len(self.manifest.included())} photos, "
            f"{len(self.class_names)} classes, {len(self.skipped)} files skipped)"
        )

    def _repr_html_(self) -> str:
        rows = [("class", *manifest.SPLITS)]
        for name, splits in self.counts.items():
            rows.append((name, *map(str, splits.values())))
        return f"{html.escape(repr(self))}{_table(rows)}"


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Prediction:
    """The predicted classes of a photo."""

    photo: str  # path
    # Most probable class, or "unknown" below `unknown_below`; None with a problem.
    answer: str | None
    probability: float | None  # of the most probable class, 0 to 1
    classes: Mapping[str, float]  # {class: probability}, the most probable first
    is_stranger: bool  # whether the photo looks like none of the classes
    stranger_score: float | None  # 1 or more: a stranger; None if the run has no scores
    problem: str  # why the photo cannot be read; "" if it can

    def to_dict(self) -> dict[str, Any]:
        """Return all fields for JSON."""
        return dataclasses.asdict(self)

    def __repr__(self) -> str:
        what = f"{self.answer} {self.probability:.4f}" if self.answer else self.problem
        question = ", none of these?" * self.is_stranger
        return f"Prediction({self.photo!r}: {what}{question})"

    def _repr_html_(self) -> str:
        from pipeline.images import photo_files, record_image
        from pipeline.review import photo_review

        def encoded(photo: str) -> bytes:
            return record_image.encode_for_record(photo_files.read(photo)).encoded

        shown = [] if self.problem else [mirror.localized(self.photo)]
        urls = photo_review.thumbnail_urls(encoded, shown, _THUMBNAIL_PX)
        pictures = (Markup('<img src="{}" alt=""><br>').format(url) for url in urls)
        rows = [(name, f"{value:.4f}") for name, value in self.classes.items()]
        return f"{Markup('').join(pictures)}{html.escape(repr(self))}{_table(rows)}"


class Predictions(tuple[Prediction, ...]):
    """Predictions in the order of their photos."""

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the fields of each prediction."""
        return [prediction.to_dict() for prediction in self]

    def _repr_html_(self) -> str:
        shown = "".join(f"<p>{found._repr_html_()}</p>" for found in self[:_MAX_SHOWN])
        num_more = max(0, len(self) - _MAX_SHOWN)
        return shown + f"<p>and {num_more:,} more photos</p>" * bool(num_more)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation:
    """The figures of an evaluation and its report."""

    figures: Mapping[str, Any]  # content of evaluation/<split>.json

    @property
    def accuracy(self) -> float:
        """Return the share of photos with the right class, 0 to 1."""
        return float(self.figures["accuracy"])

    @property
    def interval(self) -> tuple[float, float]:
        """Return the bounds of the accuracy's 95 % confidence interval, 0 to 1."""
        low, high = self.figures["accuracy_ci95"]
        return float(low), float(high)

    @property
    def num_photos(self) -> int:
        """Return the number of evaluated photos."""
        return int(self.figures["num_examples"])

    @property
    def report(self) -> Path | None:
        """Return the path of the report, an HTML page; None if none was written."""
        path = self.figures.get("report")
        return Path(path) if path else None

    def to_dict(self) -> dict[str, Any]:
        """Return all figures for JSON."""
        return dict(self.figures)

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"Evaluation(accuracy {self.accuracy:.4f} on {self.num_photos} photos, "
            f"95 % interval {low:.4f} to {high:.4f})"
        )

    def _repr_html_(self) -> str:
        from model.reports import text_report

        path = self.report
        if path is None or not path.exists() or path.stat().st_size > _MAX_REPORT_BYTES:
            text = text_report.evaluation(dict(self.figures))
            return f"<pre>{html.escape(text)}</pre>"
        frame = '<iframe srcdoc="{}" width="100%" height="640"></iframe>'
        return Markup(frame).format(path.read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Run:
    """A trained classifier in its run folder."""

    directory: Path

    @functools.cached_property
    def _classifier(self) -> Any:
        from model.predict import classifier

        return classifier.load_run(str(self.directory))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, in label order."""
        return tuple(self._classifier.class_names)

    def evaluate(self, **settings: Any) -> Evaluation:
        """Evaluate the run as graft.evaluate does."""
        from graft.functions import evaluate

        return evaluate(self, **settings)

    @overload
    def predict(self, photos: _Path, **settings: Any) -> Prediction: ...
    @overload
    def predict(self, photos: Sequence[_Path], **settings: Any) -> Predictions: ...

    @mirror.copied_back()
    def predict(
        self, photos: _Path | Sequence[_Path], **settings: Any
    ) -> Prediction | Predictions:
        """Classify one photo, or several photos and folders of photos in their order.

        The settings are top, unknown_below, explain, data and batch_size.
        """
        from model.predict import predicting
        from model.predict.predict_settings import Config

        is_one = isinstance(photos, str | os.PathLike)
        several: Any = [photos] if is_one else photos
        try:
            names = tuple(config_flags.with_home(os.fsdecode(p)) for p in several)
        except TypeError as error:
            raise UsageError(
                "photos: expected the path of a photo or folder, or several, found "
                f"{type(photos).__name__}. Save pictures in memory as files first"
            ) from error
        if not all(names):
            raise UsageError("photos: '' is no path of a photo or folder")
        others = config_flags.settings_of(Config).keys() - _SETTINGS
        typed = config_flags.from_python(settings, Config, without=others)
        typed |= {"photos": names, "run_dir": str(self.directory)}
        config = config_flags.build(Config, mirror.localized(typed))
        answers = Predictions(
            Prediction(
                photo=file_system.named(found.photo),
                answer=found.answer or None,
                probability=found.probability,
                classes=dict(found.classes),
                is_stranger=found.is_stranger,
                stranger_score=found.stranger_score,
                problem=found.problem,
            )
            for found in (predicting.predict(config, self._classifier) if names else ())
        )
        is_one = is_one and not Path(config.photos[0]).is_dir()
        return answers[0] if is_one else answers

    @mirror.copied_back()
    def export(self, format: str = "saved_model", out: _Path = "", **more: Any) -> Path:
        """Export the classifier for other tools; return the path of the file or folder.

        `format` is saved_model, onnx, litert or keras.
        """
        from model.export import exporting
        from model.export.export_settings import Config

        settings = {**more, "format": format, "out": out, "run_dir": self.directory}
        typed = config_flags.from_python(settings, Config)
        return exporting.export_classifier(config_flags.build(Config, typed)).path

    def to_dict(self) -> dict[str, Any]:
        """Return the facts of `graft evaluate --list --json` about this run."""
        from model.runs import run_list

        return run_list.describe(self.directory)

    def __repr__(self) -> str:
        facts = self.to_dict()
        if problem := facts.get("problem"):
            return f"Run({problem})"
        accuracy = facts.get("accuracy")
        text = "not evaluated" if accuracy is None else f"accuracy {accuracy:.4f}"
        return f"Run({str(self.directory)!r}: {facts.get('network')}, {text})"

    def _repr_html_(self) -> str:
        facts = {n: v for n, v in self.to_dict().items() if n != "manifest_digest"}
        path = self.directory / "curves.png"
        picture = Markup()
        if path.exists():
            url = html_templates.picture_url(path.read_bytes(), "png")
            picture = Markup('<img src="{}" alt="curves">').format(url)
        return f"{_table((name, str(value)) for name, value in facts.items())}{picture}"


def _table(rows: Iterable[Sequence[str]]) -> Markup:
    """Return an HTML table with the texts of each row."""
    cell, row = Markup("<td>{}</td>"), Markup("<tr>{}</tr>")
    lines = (row.format(Markup().join(map(cell.format, texts))) for texts in rows)
    return Markup("<table>{}</table>").format(Markup().join(lines))
