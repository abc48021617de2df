"""Draw the diagrams of the HTML report as SVG in the colours of the page.

Colours are CSS variables, so that a diagram is dark if the page is; text stays text, so
that it can be read aloud, searched and enlarged.
"""

import io
import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import markupsafe

from model.runs import pictures

# {placeholder colour in matplotlib: CSS colour of the page}
_COLOURS = {
    "#010101": "currentColor",
    "#020202": "var(--muted)",
    "#030303": "var(--series-1)",
    "#040404": "var(--series-2)",
}
_INK, _MUTED, _FIRST, _SECOND = _COLOURS
_HEAD = re.compile(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<style.*?</style>", re.S)
_SIZE = re.compile(r'(<svg[^>]*?) width="[^"]*"| height="[^"]*"(?=[^>]*version=)')
_REFERENCE = re.compile(r'(\bid="|href="#|url\(#)')


class Drawings:
    """Draws diagrams, each with unique ids in the page."""

    def __init__(self) -> None:
        """Import matplotlib, which takes half a second."""
        import matplotlib as mpl

        self._settings = mpl.rc_context
        self._number = itertools.count(1)

    def _axes(self, **labels: Any) -> tuple[Any, Any]:
        figure = pictures.empty_figure(4.4, 3.2)
        # An automatic layout would double the time.
        figure.subplots_adjust(left=0.13, right=0.97, bottom=0.15, top=0.96)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.grid(color=_MUTED, alpha=0.3)
        for spine in axes.spines.values():
            spine.set_color(_MUTED)
        axes.tick_params(color=_MUTED, labelcolor=_INK)
        axes.set(**labels)
        return figure, axes

    def reliability(self, calibration: Mapping[str, Any]) -> list[markupsafe.Markup]:
        """Draw accuracy over confidence, and the distribution of the confidence."""
        with self._settings(_TEXT):
            first, left = self._axes(
                xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02)
            )
            second, right = self._axes(
                xlabel="confidence", ylabel="photos", xlim=(0, 1)
            )
            left.plot([0, 1], [0, 1], "--", color=_MUTED, label="ideal")
            for name, label, colour in (
                ("bins_before", "before temperature", _SECOND),
                ("bins", "after", _FIRST),
            ):
                bins = calibration[name]
                rows = [row for row in bins if row["num_examples"]]
                points = [[r[n] for r in rows] for n in ("confidence", "accuracy")]
                counts = [row["num_examples"] for row in bins]
                edges = [bins[0]["low"], *(row["high"] for row in bins)]
                style = {"color": colour, "label": label}
                left.plot(*points, "o-", markersize=4, **style)
                right.stairs(counts, edges, linewidth=1.5, **style)
            right.yaxis.get_major_locator().set_params(integer=True)
            text = (
                "Reliability diagram: accuracy against confidence before and after "
                "temperature scaling, beside the ideal diagonal. The expected "
                f"calibration error is {calibration['ece_before']:.3f} before and "
                f"{calibration['ece']:.3f} after."
            )
            photos = "Number of photos by confidence."
            return [self._svg(first, text), self._svg(second, photos)]

    def coverage(self, points: Sequence[Mapping[str, float]]) -> markupsafe.Markup:
        """Draw accuracy over the share of photos that are classified."""
        with self._settings(_TEXT):
            figure, axes = self._axes(
                xlabel="photos classified, %", ylabel="of these correct, %"
            )
            shares = [100 * point["coverage"] for point in points]
            accuracies = [100 * point["accuracy"] for point in points]
            marker = "o" if len(points) == 1 else None
            axes.plot(shares, accuracies, color=_FIRST, marker=marker)
            axes.set(xlim=(0, 102), ylim=(max(0, min(accuracies) - 3), 101))
            nearest = min(points, key=lambda point: abs(point["coverage"] - 0.8))
            return self._svg(
                figure,
                "Accuracy against coverage: of all photos "
                f"{accuracies[-1]:.1f} % are correct; of the most confident "
                f"{100 * nearest['coverage']:.0f} % "
                f"{100 * nearest['accuracy']:.1f} % are.",
            )

    def training(self, results: Sequence[Mapping[str, Any]]) -> list[markupsafe.Markup]:
        """Draw loss and accuracy over the epochs, from the lines of metrics.jsonl.

        For a head that was solved, draw them over its L2 penalties.
        """
        is_solved = all("l2" in result for result in results)
        name, count = ("l2", "L2 penalties") if is_solved else ("epoch", "epochs")
        places = [result[name] for result in results]
        marker = "o" if is_solved or len(places) == 1 else None
        best = min(results, key=lambda result: result["validation_loss"])
        diagrams = []
        for field, unit in (("loss", ", nats"), ("accuracy", "")):
            with self._settings(_TEXT):
                xlabel = pictures.PENALTY_AXIS if is_solved else "epoch"
                figure, axes = self._axes(xlabel=xlabel, ylabel=field + unit)
                for prefix, label, style, colour in (
                    ("", "training", "--", _SECOND),
                    ("validation_", "validation", "-", _FIRST),
                ):
                    values = [result[prefix + field] for result in results]
                    look = {"color": colour, "label": label, "marker": marker}
                    axes.plot(places, values, style, **look)
                if is_solved:
                    axes.set_xscale("log")
                    axes.invert_xaxis()
                else:
                    axes.xaxis.get_major_locator().set_params(integer=True)
                last, validation = results[-1], f"validation_{field}"
                text = (
                    f"Training curve over {len(results)} {count}: the {field} ends at "
                    f"{last[field]:.3f} on training photos and at "
                    f"{last[validation]:.3f} on validation photos; with the best "
                    f"{'L2 penalty' if is_solved else 'epoch'}, {best[name]:g}, it was "
                    f"{best[validation]:.3f} on validation photos."
                )
                diagrams.append(self._svg(figure, text))
        return diagrams

    def _svg(self, figure: Any, text: str) -> markupsafe.Markup:
        """Return the diagram as markup, with a description in words."""
        (axes,) = figure.axes
        if len(axes.get_legend_handles_labels()[0]) > 1:
            axes.legend(fontsize="small", frameon=False)
        written = io.StringIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about missing glyphs
            figure.savefig(written, format="svg", metadata={"Date": None})
        svg = _SIZE.sub(r"\1", _HEAD.sub("", written.getvalue()))
        for stand_in, name in _COLOURS.items():
            svg = svg.replace(stand_in, name)
        svg = _REFERENCE.sub(rf"\g<1>drawing-{next(self._number)}-", svg)
        tag = f'<svg role="img" aria-label="{markupsafe.escape(text)}" '
        # Written by matplotlib, which escapes text; it holds no names from strangers.
        return markupsafe.Markup(svg.replace("<svg ", tag, 1))


_TEXT: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": _INK,
    "axes.labelcolor": _INK,
}
