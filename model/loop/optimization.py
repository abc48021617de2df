"""Define how a training learns: optimizer, learning rates, schedule and loss.

Sources: GetLearningRate in caffe/src/caffe/solvers/sgd_solver.cpp; I. Loshchilov and F.
Hutter, SGDR, 2017 (cosine); P. Goyal et al., Accurate, Large Minibatch SGD, 2017
(warm-up).
"""

import dataclasses
import difflib
import fnmatch
import functools
import math
from collections.abc import Callable, Sequence

from model.checkpoints import errors
from pipeline.system import config_flags

# Settings that only some schedules use.
_USED_BY = {
    "gamma": ("step", "multistep", "inv", "exp", "sigmoid"),
    "power": ("poly", "inv"),
    "stepsize": ("step", "sigmoid"),
    "milestones": ("multistep",),
}
SOLVER = "lbfgs"  # the optimizer that solves a linear head
SOLVER_SETTINGS = ("optimizer", "label_smoothing", "class_weights")
_setting = functools.partial(config_flags.setting, per_stage=True)
_update = functools.partial(_setting, group="Optimizer")
_schedule = functools.partial(_setting, group="Learning rate")
_loss = functools.partial(_setting, group="Loss")
_share = functools.partial(_setting, 0.0, group="Optimizer", lower=0, below=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerRate:
    """Caffe's factors, 0 or more, for the variables that match a pattern."""

    pattern: str  # for "layer/variable", with * and ?, such as "fc8/*" or "*/bias"
    lr_mult: float = 1.0  # of the learning rate; 0 freezes
    decay_mult: float = 1.0  # of the weight decay

    def fits(self, variable: str) -> bool:
        """Return whether the pattern fits a variable, named "layer/variable"."""
        return fnmatch.fnmatchcase(variable, self.pattern)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of optimizer, learning rates, schedule and loss."""

    optimizer: str = _update(
        "auto",
        "Rule that updates the weights; auto is lbfgs, which solves a linear head, or "
        "adam.",
        choices=("auto", "lbfgs", "adam", "adamw", "sgd", "rmsprop"),
        basic=True,
    )
    momentum: float = _share("Momentum of sgd and rmsprop, such as 0.9.")
    nesterov: bool = _update(False, "Uses Nesterov's momentum, with --optimizer=sgd.")
    weight_decay: float = _update(
        0.0,
        "Strength that pulls weights towards 0: decoupled for adamw, an L2 term of the "
        "gradient for the others.",
        lower=0,
        basic=True,
    )
    clip_norm: float = _update(
        0.0,
        "Largest norm of the gradient, summed over --iter_size batches as in Caffe; 0 "
        "leaves gradients alone.",
        lower=0,
    )
    iter_size: int = _update(
        1,
        "Batches per update, to train with more photos a step than memory holds.",
        lower=1,
    )
    ema: float = _share(
        "Share that a moving average of the weights keeps at each step, such as 0.999; "
        "less in the first steps. The average is validated and saved; 0 turns it off."
    )
    rates: str = _schedule(
        "",
        "Factors for single layers: pattern=lr_mult[:decay_mult], with commas, such as "
        "*/bias=2:0,logits/kernel=10. The last pattern that fits counts; 0 freezes.",
    )
    policy: str = _schedule(
        "cosine",
        "How the learning rate changes during training; cosine falls smoothly to 0. "
        "fixed is Caffe's name for constant.",
        choices=(
            *("constant", "fixed", "step", "multistep", "poly", "inv", "exp"),
            *("sigmoid", "cosine"),
        ),
    )
    gamma: float = _schedule(
        0.1,
        "Decay factor, for --policy=step, multistep, inv and exp; slope of sigmoid.",
        above=0,
    )
    power: float = _schedule(1.0, "Exponent, for --policy=poly and inv.", lower=0)
    stepsize: int = _schedule(
        0,
        "Steps between decays, for --policy=step; steps to half the rate, for sigmoid.",
        lower=0,
    )
    milestones: str = _schedule(
        "", "Steps of the decays, for --policy=multistep, such as 1000,2000."
    )
    warmup_steps: int = _schedule(
        0, "Steps over which the learning rate first rises to its full value.", lower=0
    )
    label_smoothing: float = _share(
        "Share of each label that is spread evenly over all classes, against "
        "overconfident predictions.",
        group="Loss",
    )
    class_weights: str = _loss(
        "none",
        "Weight of each class: balanced gives rare ones the same total weight as "
        "common ones; none counts every photo the same.",
        choices=("none", "balanced"),
        basic=True,
    )
    early_stopping: int = _loss(
        0,
        "Epochs without a lower validation loss after which training ends; 0 trains "
        "all epochs.",
        lower=0,
    )

    def __post_init__(self) -> None:
        config_flags.check(self)
        _ = self.layer_rates
        if self.momentum and self.optimizer not in ("sgd", "rmsprop"):
            raise ValueError(
                f"--momentum={self.momentum}: --optimizer={self.optimizer} has none; "
                "expected --optimizer=sgd or rmsprop"
            )
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            raise ValueError("--nesterov: expected --optimizer=sgd and --momentum")
        if self.policy in _USED_BY["stepsize"] and not self.stepsize:
            raise ValueError(f"--policy={self.policy}: expected --stepsize, in steps")
        milestones = self.milestone_steps
        if self.policy == "multistep" and not milestones:
            raise ValueError("--policy=multistep: expected --milestones, in steps")
        if [0, *milestones] != sorted([0, *milestones]):
            raise ValueError(f"--milestones={self.milestones}: expected rising steps")
        for name, policies in _USED_BY.items():
            value = getattr(self, name)
            if value != getattr(type(self), name) and self.policy not in policies:
                raise ValueError(
                    f"--{name}={value}: not used by --policy={self.policy}; expected "
                    f"--policy={' or '.join(policies)}"
                )

    @property
    def milestone_steps(self) -> tuple[int, ...]:
        """Steps at which the policy multistep decays the rate."""
        try:
            return tuple(map(int, filter(None, self.milestones.split(","))))
        except ValueError:
            raise ValueError(
                f"--milestones={self.milestones}: expected steps, such as 1000,2000"
            ) from None

    @property
    def layer_rates(self) -> tuple[LayerRate, ...]:
        """Factors for single layers, in the order of --rates."""
        return tuple(map(_layer_rate, filter(None, self.rates.split(","))))

    def layer_rate_of(self, variable: str) -> LayerRate:
        """Return the last layer rate that fits a variable, named "layer/variable"."""
        fitting = [rate for rate in self.layer_rates if rate.fits(variable)]
        return fitting[-1] if fitting else LayerRate(pattern="*")

    def check_rates(self, variables: Sequence[str]) -> None:
        """Refuse layer rates that fit no variable that trains, or freeze all."""
        for rate in self.layer_rates:
            if not any(map(rate.fits, variables)):
                layers = sorted({name.split("/")[0] for name in variables})
                layer = rate.pattern.split("/")[0]
                close = difflib.get_close_matches(layer, layers, n=1)
                hint = f"Did you mean {close[0]}/*?" if close else "Expected layer/*."
                raise errors.MismatchedCheckpoint(
                    f"--rates: {rate.pattern} fits no variable that trains ("
                    f"{', '.join(variables[:4])}, ...). {hint}"
                )
        if not any(self.layer_rate_of(name).lr_mult for name in variables):
            raise errors.MismatchedCheckpoint(
                f"--rates={self.rates}: no variable learns; expected an lr_mult above 0"
            )


def _layer_rate(text: str) -> LayerRate:
    pattern, _, values = text.strip().partition("=")
    numbers = values.split(":")
    try:
        lr_mult, decay_mult = (*map(float, numbers), 1.0)[:2]
        is_right = 0 <= lr_mult < math.inf and 0 <= decay_mult < math.inf
        if not pattern or len(numbers) > 2 or not is_right:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"--rates: {text}: expected pattern=lr_mult or pattern=lr_mult:decay_mult "
            "with factors of 0 or more, such as logits/*=10 or */bias=2:0"
        ) from None
    return LayerRate(pattern=pattern, lr_mult=lr_mult, decay_mult=decay_mult)


DEFAULTS = Settings()


def rate_share(settings: Settings, step: int, total: int) -> float:
    """Return the share of the base rate that a step learns at.

    With t for the step: constant, fixed: 1. step: gamma^floor(t / stepsize). multistep:
    gamma^(number of milestones that t has reached). poly: (1 - t / total)^power. inv:
    (1 + gamma t)^-power. exp: gamma^t. sigmoid: 1 / (1 + exp(-gamma (t - stepsize))),
    which rises. cosine: (1 + cos(pi t / total)) / 2. During warm-up this is multiplied
    by (t + 1) / warmup_steps.

    Steps count from 0; the training has `total` of them.
    """
    decayed = _SHARES[settings.policy](settings, step, max(1, total))
    return decayed * min(1.0, (step + 1) / max(1, settings.warmup_steps))


_SHARES: dict[str, Callable[[Settings, int, int], float]] = {
    "constant": lambda s, t, total: 1.0,
    "fixed": lambda s, t, total: 1.0,
    "step": lambda s, t, total: s.gamma ** (t // s.stepsize),
    "multistep": lambda s, t, total: s.gamma ** sum(t >= m for m in s.milestone_steps),
    "poly": lambda s, t, total: (1 - min(1.0, t / total)) ** s.power,
    "inv": lambda s, t, total: (1 + s.gamma * t) ** -s.power,
    "exp": lambda s, t, total: s.gamma**t,
    # Its hyperbolic form does not overflow.
    "sigmoid": lambda s, t, total: (1 + math.tanh(s.gamma * (t - s.stepsize) / 2)) / 2,
    "cosine": lambda s, t, total: (1 + math.cos(math.pi * min(1.0, t / total))) / 2,
}


def suitable_rate(num_features: int) -> float:
    """Return a learning rate of Adam for a new final layer.

    Adam moves every weight by the same amount, so that the effect of a step on the
    logits grows with the number of features. 1e-4 was the best of five rates for
    AlexNet's 9,216 features of pool5; by this rule EfficientNet's 1,280 get 7e-4. The
    features of several layers are much alike, so that the number of one layer counts:
    for the 896 of AlexNet's conv3, conv4 and pool5, three times the rate was the best
    of 1, 2, 4 and 8 times, by log loss. Of means and deviations, only one kind counts,
    too. 0 features stand for a training of deeper layers, and give 1e-4.
    """
    return 0.9216 / num_features if num_features else 1e-4
