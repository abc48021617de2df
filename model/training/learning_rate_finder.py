"""Find a learning rate by the range test.

The rate grows evenly on a logarithmic scale, step by step, until the loss diverges. The
suggestion is the rate at which the smoothed loss fell fastest.

Source: L. N. Smith, Cyclical Learning Rates for Training Neural Networks, 2017,
section 3.3; smoothing and the stop at four times the lowest loss as in fastai.
"""

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from model.loop import optimization, train_step
from model.loop.training_loop import Source, StepwiseTraining
from model.runs import pictures, run_folder
from model.training import settings, train_run
from pipeline.system import command_line, file_system
from pipeline.system.errors import UsageError

LOWEST, HIGHEST = 1e-7, 10.0
STEPS = 100
_SMOOTHING = 0.9
_DIVERGED = 4.0  # times the lowest loss
_LEAST_STEPS = 10  # for a suggestion
_LEAST_FALL = 0.01  # share of the first loss; less is noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """Result of a range test."""

    rates: tuple[float, ...] = ()  # of each step, ascending
    losses: tuple[float, ...] = ()  # mean of each step's photos, in nats

    @property
    def smoothed(self) -> np.ndarray:
        """Moving average of the losses, float64 [num_steps], unbiased at the start."""
        values, average = [], 0.0
        for number, loss in enumerate(self.losses, start=1):
            average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
            values.append(average / (1 - _SMOOTHING**number))
        return np.array(values)

    @property
    def suggestion(self) -> float | None:
        """Rate at which the loss fell fastest; None if it did not fall."""
        losses = self.smoothed
        if len(losses) < _LEAST_STEPS:
            return None
        # After the lowest point the loss rises.
        lowest = int(losses.argmin())
        if lowest < 2 or losses[lowest] > (1 - _LEAST_FALL) * losses[0]:
            return None
        slopes = np.gradient(losses[: lowest + 1], np.log(self.rates[: lowest + 1]))
        return self.rates[int(slopes.argmin())]


def find_rate(config: settings.Config) -> Path:
    """Test learning rates for the first stage; return the folder of the result."""
    if config.learning.optimizer == "auto":
        config = config.with_optimizer("adam")
    records = train_run.read_records(config.data)
    with run_folder.reserved(config.run_dir, config.ckpt) as directory:
        network, *_ = train_run.prepare(config, records, directory)
        with command_line.graceful():
            network.begin()
            training = network.training
            if not isinstance(training, StepwiseTraining):
                raise UsageError(
                    "--find_rate: the first stage is solved without a learning rate. "
                    "Expected another --optimizer, such as adam."
                )
            curve = search(training.model, training.setup, training.source)
        train_run.start_folder(config, network)
        default = network.stage.default_rate
        network.folder.write_json(
            "find_rate.json",
            dataclasses.asdict(curve)
            | {"smoothed": curve.smoothed.tolist()}
            | {"suggestion": curve.suggestion, "default": default},
        )
        with file_system.replacing(directory / "find_rate.png") as partial:
            draw(curve, partial)
    command_line.say(as_text(curve))
    command_line.say(
        f"the default here is --learning_rate={default:.1e}, which suits "
        "--optimizer=adam"
    )
    command_line.say(f"curve: {directory / 'find_rate.png'}")
    return directory


def search(
    model: Any, setup: train_step.LearningSetup, source: Source, steps: int = STEPS
) -> Curve:
    """Run the test in steps from LOWEST to HIGHEST.

    The model's weights are useless afterwards. The learning rate of `setup` is not
    used.
    """
    gamma = (HIGHEST / LOWEST) ** (1 / (steps - 1))
    setup = dataclasses.replace(
        setup,
        base_rate=LOWEST,
        schedule=optimization.Settings(policy="exp", gamma=gamma),
        total_steps=steps,
    )
    step = train_step.TrainStep(model, setup)
    curve = Curve()
    batches = itertools.chain.from_iterable(map(source.training, itertools.count()))
    with command_line.progress(steps, "step", "learning rates") as progress:
        for inputs, labels in batches:
            rate, before = step.rate, step.steps
            loss = float(step(inputs, labels).loss)
            if not math.isfinite(loss):
                break
            if step.steps > before:
                progress.update(1)
                curve = Curve(rates=(*curve.rates, rate), losses=(*curve.losses, loss))
                smoothed = curve.smoothed
                if step.steps == steps or smoothed[-1] > _DIVERGED * smoothed.min():
                    break
    return curve


def draw(curve: Curve, path: Path) -> None:
    """Draw the losses over the rates as a PNG, with the suggestion."""
    figure, (axes,) = pictures.figure(1)
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
    """Return the result in one line."""
    if curve.suggestion is None:
        return (
            "no learning rate can be suggested: the loss did not fall. Look at the "
            "curve, or try other settings."
        )
    return f"--learning_rate={curve.suggestion:.1e} is where the loss fell fastest"
