"""Say whether one of several runs is better, from predictions for the same photos.

Copies of a photo count one by one, as in an evaluation, and form a group. The verdict
is that of McNemar's test, which is more cautious than Tango's interval: with few photos
that only one run gets right, the interval may exclude zero where the test sees no
difference.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from model.evaluation import stored_logits
from model.evaluation.compare import paired_tests
from model.loop import metrics
from pipeline.system import command_line
from pipeline.system.errors import DataError

UNKNOWN_PROBABILITY = 1e-6  # of a class that a run does not know


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A run that takes part in a comparison, under a unique name."""

    name: str
    class_names: tuple[str, ...]
    examples: stored_logits.Examples
    temperature: float  # divisor of the logits that calibrates the probabilities
    model_bytes: int
    # Photos per second of its evaluation, or of its frozen layers alone.
    images_per_s: float | None = None

    def select(self, chosen: np.ndarray) -> "Candidate":
        """Return the run with only these photos: indices, or bool [num_examples]."""
        arrays = {name: values[chosen] for name, values in vars(self.examples).items()}
        return dataclasses.replace(self, examples=stored_logits.Examples(**arrays))

    @property
    def losses(self) -> np.ndarray:
        """Cross-entropy of the calibrated probabilities, float64 [num_examples]."""
        logits = self.examples.logits / self.temperature
        return metrics.losses(logits, self.examples.label)

    @property
    def correct(self) -> np.ndarray:
        """Whether the largest logit is that of the label, bool [num_examples]."""
        return np.asarray(self.examples.logits.argmax(axis=1) == self.examples.label)


def with_unknown_classes(
    logits: np.ndarray, columns: Sequence[int], num_classes: int, temperature: float
) -> np.ndarray:
    """Return logits for more classes, of which a run knows those in `columns`.

    Each of the others has UNKNOWN_PROBABILITY, relative to the classes that are known.
    """
    peak = logits.max(axis=1, keepdims=True)
    sums = np.exp((logits - peak) / temperature).sum(axis=1, keepdims=True)
    rest = peak + temperature * (np.log(sums) + math.log(UNKNOWN_PROBABILITY))
    result = np.repeat(rest, num_classes, axis=1).astype(np.float32)
    result[:, columns] = logits
    return result


def compare(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Compare the first run with each of the others; return figures for the .json."""
    paired = pair(candidates)
    first, others = paired[0], paired[1:]
    # Runs on records of their own may know the groups differently.
    groups = min((run.examples.group for run in paired), key=lambda g: len(set(g)))
    pairs = [_compare_two(first, other, groups) for other in others]
    corrected = paired_tests.holm([figures["p"] for figures in pairs])
    total = len(first.examples.label)
    for figures, p_corrected in zip(pairs, corrected, strict=True):
        figures["p_holm"] = p_corrected
        figures["photos_needed"] = paired_tests.photos_needed(
            (figures["only_first"] + figures["only_second"]) / total,
            alpha=paired_tests.ALPHA / len(pairs),
            effective_share=figures["effective_examples"] / total,
        )
        figures["verdict"] = verdict(figures)
    return {
        "num_examples": total,
        "num_groups": len(set(groups)),
        "class_names": list(first.class_names),
        "alpha": paired_tests.ALPHA,
        "runs": [_describe(candidate, groups) for candidate in paired],
        "pairs": pairs,
    }


def pair(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Bring the photos of all runs into the same order.

    Photos are identified by the SHA-256 of their file and by their class. Runs with
    different classes or photos are refused.
    """
    first, *others = paired = list(map(_sorted, candidates))
    for other in others:
        if other.class_names != first.class_names:
            raise DataError(
                f"{first.name} has the classes {', '.join(first.class_names)}, but "
                f"{other.name} has {', '.join(other.class_names)}. Only runs with the "
                "same classes in the same order can be compared."
            )
    for other in others:
        for name in ("sha256", "label"):
            if not np.array_equal(*(vars(r.examples)[name] for r in (other, first))):
                raise DataError(
                    f"{other.name} and {first.name} were evaluated on different photos "
                    "or labels. Evaluate them on the same: --data=FOLDER "
                    "--another_dataset"
                )
    return paired


def _sorted(candidate: Candidate) -> Candidate:
    """Sort by SHA-256 and label."""
    examples = candidate.examples
    order = np.lexsort((examples.path, examples.label, examples.sha256))
    return candidate.select(order)


def _describe(candidate: Candidate, groups: np.ndarray) -> dict[str, Any]:
    logits, label = candidate.examples.logits, candidate.examples.label
    correct = candidate.correct
    confusion = metrics.confusion_matrix(label, logits.argmax(axis=1), logits.shape[1])
    per_class = metrics.per_class(confusion)
    return {
        "run": candidate.name,
        "accuracy": float(correct.mean()),
        "accuracy_ci95": metrics.accuracy_interval(correct, groups),
        "balanced_accuracy": metrics.mean_over_classes(per_class, "recall"),
        "top5_accuracy": metrics.top_k_accuracy(logits, label, 5),
        "loss": metrics.mean_loss(logits, label),
        "calibrated_loss": float(candidate.losses.mean()),
        "calibrated_loss_ci95": metrics.mean_interval(candidate.losses, groups),
        "temperature": candidate.temperature,
        "model_bytes": candidate.model_bytes,
        "images_per_s": candidate.images_per_s,
    }


def _compare_two(
    first: Candidate, second: Candidate, groups: np.ndarray
) -> dict[str, Any]:
    only_first = first.correct & ~second.correct
    only_second = second.correct & ~first.correct
    counts = int(only_first.sum()), int(only_second.sum())
    total = len(only_first)
    differences = only_second.astype(np.int64) - only_first
    effective = metrics.effective_number(differences, groups)
    worth = [number * effective / total for number in (*counts, total)]
    return {
        "first": first.name,
        "second": second.name,
        "num_examples": total,
        "effective_examples": effective,
        "only_first": counts[0],
        "only_second": counts[1],
        "both_right": int((first.correct & second.correct).sum()),
        "p": paired_tests.mcnemar_p(metrics.sum_groups(differences, groups)),
        "difference": (counts[1] - counts[0]) / total,
        "difference_ci95": list(paired_tests.tango_interval(*worth)),
        "photos_only_first": first.examples.path[only_first].tolist(),
        "photos_only_second": first.examples.path[only_second].tolist(),
    }


def verdict(pair_figures: dict[str, Any]) -> str:
    """Return the conclusion from the figures of a pair, in words."""
    p = pair_figures["p_holm"]
    if p < paired_tests.ALPHA:
        is_second = pair_figures["difference"] > 0
        better = pair_figures["second" if is_second else "first"]
        return f"{better} is better ({describe_p(p)})"
    if not pair_figures["only_first"] + pair_figures["only_second"]:
        return "no difference: both runs are right, and wrong, on the same photos"
    text = f"no significant difference ({describe_p(p)}); "
    needed = pair_figures["photos_needed"]
    points = f"{paired_tests.POINT * 100:g} point"
    if needed <= pair_figures["num_examples"]:
        return text + f"a difference of {points} would probably have shown"
    unit = 10 ** max(0, len(str(needed)) - 2)  # rounded up to two digits
    return text + (
        f"to see a difference of {points}, about {-(-needed // unit) * unit:,} photos "
        "are needed"
    )


def describe_p(p: float) -> str:
    """Return a p value as text, with no more digits than are meaningful."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def as_text(figures: dict[str, Any]) -> str:
    """Return the figures of evaluation/compare-<split>.json as text.

    The log loss is that of the calibrated probabilities.
    """
    pairs = figures["pairs"]
    has_groups = figures["num_groups"] < figures["num_examples"]
    test = "sign test of groups," if has_groups else "McNemar's exact"
    lines = [
        f"{figures.get('title') or figures['split'] + ' split'}, "
        f"{figures['num_examples']} photos that none of the runs was trained on",
        *map(command_line.one_line, figures.get("scope", ())),
        *groups_in_words(figures),
        "",
        *command_line.table(*run_table(figures)),
    ]
    for pair in pairs:
        first, second = map(command_line.one_line, (pair["first"], pair["second"]))
        low, high = pair["difference_ci95"]
        p = f"{pair['p']:.3g}"
        if pair["p_holm"] != pair["p"]:
            p += f", corrected by Holm for several comparisons {pair['p_holm']:.3g}"
        lines += [
            "",
            f"{second} compared with {first}",
            f"  photos that only this run gets right: {pair['only_second']}, only the "
            f"other: {pair['only_first']}; {test} p {p}",
            f"  accuracy {pair['difference']:+.4f}, 95 % interval {low:+.4f} to "
            f"{high:+.4f}",
            f"  {command_line.one_line(pair['verdict'])}",
        ]
    if "shared_classes" in figures:
        lines += ["", as_text(figures["shared_classes"])]
    if "written" in figures:
        lines += ["", f"written: {figures['written']}"]
    return "\n".join(lines)


def groups_in_words(figures: dict[str, Any]) -> list[str]:
    """Return how intervals and tests allow for groups, as a line; [] without groups."""
    total, num_groups = figures["num_examples"], figures["num_groups"]
    if num_groups == total:
        return []
    groups = (
        f"{total:,} photos in {num_groups:,} groups (copies, near-duplicates, "
        "--group_by)"
    )
    worth = figures.get("effective_examples")
    if worth is None:
        return [f"Intervals and tests allow for groups: {groups}."]
    return [f"In the interval, {groups} count as {worth:,.0f} independent photos."]


def run_table(figures: dict[str, Any]) -> tuple[tuple[str, ...], list[Any]]:
    """Return the column titles and the rows of a comparison: texts, or None."""
    rows = []
    for run in figures["runs"]:
        low, high = run["accuracy_ci95"]
        least, most = run["calibrated_loss_ci95"]
        few, rate = len(figures["class_names"]) <= 5, run["images_per_s"]
        rows.append(
            (
                command_line.one_line(run["run"]),
                f"{run['accuracy']:.4f}",
                f"{low:.4f} to {high:.4f}",
                f"{run['balanced_accuracy']:.4f}",
                None if few else f"{run['top5_accuracy']:.4f}",
                f"{run['calibrated_loss']:.4f}",
                f"{least:.4f} to {most:.4f}",
                f"{run['model_bytes'] / 1e6:.1f}",
                None if rate is None else f"{rate:,.0f}",
            )
        )
    columns = ("run", "accuracy", "95 % interval", "balanced", "top-5", "log loss")
    return (*columns, "95 % interval", "MB", "photos/s"), rows
