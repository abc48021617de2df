"""Which learning rate suits: the range test.

The rate grows evenly on a logarithmic scale, step by step, until the loss runs away.
Suggested is the rate at which the smoothed loss fell fastest.

Source: L. N. Smith, Cyclical Learning Rates for Training Neural Networks, 2017,
section 3.3; smoothing and the stop at four times the lowest loss as in fastai.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.loop import optimization, training_loop
from model.runs import learning_curves

LOWEST, HIGHEST = 1e-7, 10.0
STEPS = 100
_SMOOTHING = 0.9
_RAN_AWAY = 4.0  # times the lowest loss
_LEAST = 10  # steps without which nothing can be said
_FALL = 0.01  # of the first loss; less is noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """What a range test found.

    Attributes:
        rates: of each step, ascending.
        losses: mean over the batch of each step, in nats.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def smoothed(self) -> np.ndarray:
        """float64 [num_steps]: moving average, freed of its start at zero."""
        found, average = [], 0.0
        for number, loss in enumerate(self.losses, start=1):
            average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
            found.append(average / (1 - _SMOOTHING**number))
        return np.array(found)

    @property
    def suggestion(self) -> float | None:
        """The rate at which the loss fell fastest; None if it did not fall."""
        losses = self.smoothed
        if len(losses) < _LEAST:
            return None
        # What comes after the lowest point is the way up.
        lowest = int(losses.argmin())
        if lowest < 2 or losses[lowest] > (1 - _FALL) * losses[0]:
            return None
        slopes = np.gradient(losses[: lowest + 1], np.log(self.rates[: lowest + 1]))
        return self.rates[int(slopes.argmin())]


def search(
    model: Any,
    learning: training_loop.Learning,
    source: training_loop.Source,
    *,
    on_step: Callable[[int], object],
    steps: int = STEPS,
) -> Curve:
    """Makes the test; the model's weights are of no use afterwards.

    Args:
        model: keras.Model, inputs -> logits.
        learning: of its variables; rate and schedule do not matter.
        source: of training batches.
        on_step: told the number of examples of each batch.
        steps: of the whole range.
    """
    gamma = (HIGHEST / LOWEST) ** (1 / (steps - 1))
    learning = dataclasses.replace(
        learning,
        rate=LOWEST,
        schedule=optimization.Settings(policy="exp", gamma=gamma),
        total_steps=steps,
    )
    step = training_loop.TrainStep(model, learning)
    rates: list[float] = []
    losses: list[float] = []
    batches = itertools.chain.from_iterable(map(source.training, itertools.count()))
    for inputs, labels in batches:
        rate, before = step.rate, step.steps
        loss = float(step(inputs, labels)[0])
        on_step(len(labels))
        if not math.isfinite(loss):
            break
        if step.steps > before:
            rates.append(rate)
            losses.append(loss)
            curve = Curve(rates=tuple(rates), losses=tuple(losses))
            smoothed = curve.smoothed
            if len(rates) == steps or smoothed[-1] > _RAN_AWAY * smoothed.min():
                break
    return Curve(rates=tuple(rates), losses=tuple(losses))


def draw(curve: Curve, path: Path) -> None:
    """Draws the losses over the rates as a PNG, with the suggestion."""
    figure, (axes,) = learning_curves.figure(1)
    axes.semilogx(curve.rates, curve.losses, alpha=0.35)
    axes.semilogx(curve.rates, curve.smoothed, color="C0", label="loss, smoothed")
    if curve.suggestion:
        label = f"{curve.suggestion:.1e}, where it falls fastest"
        axes.axvline(curve.suggestion, color="C1", linestyle="--", label=label)
    axes.set(xlabel="learning rate", title="loss (nats)")
    if curve.losses:
        axes.set_ylim(0, 2 * float(curve.smoothed[0]))
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=100, format="png")


def as_text(curve: Curve) -> str:
    """What the test says, in a line."""
    if curve.suggestion is None:
        return (
            "no learning rate can be suggested: the loss did not fall; look at the "
            "curve, or try other settings"
        )
    return f"--learning_rate={curve.suggestion:.1e} is where the loss fell fastest"


def as_json(curve: Curve) -> dict[str, Any]:
    """The same for find_rate.json."""
    smoothed: Sequence[float] = curve.smoothed.tolist()
    return {
        "suggestion": curve.suggestion,
        "rates": curve.rates,
        "losses": curve.losses,
        "smoothed": smoothed,
    }
