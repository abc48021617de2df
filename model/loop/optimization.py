"""How a training learns, as flags say it: optimizer, rates, schedule, loss."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.checkpoints import errors
from model.loop import learning_rate, losses, parameter_update
from pipeline.system import config_flags

CLASS_WEIGHTS = ("none", "balanced")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """Settings; each is a flag of that name.

    Attributes:
        optimizer: one of update.OPTIMIZERS.
        momentum: see update.Settings; so are the next five.
        nesterov: likewise.
        weight_decay: likewise.
        clip_norm: likewise.
        iter_size: likewise.
        ema: likewise.
        rates: rules with commas between them, "pattern=lr_mult" or
            "pattern=lr_mult:decay_mult", as "logits/*=10,*/bias=2:0".
        policy: one of schedules.POLICIES.
        gamma: see schedules.Schedule; so are the next four.
        power: likewise.
        stepsize: likewise.
        milestones: likewise; steps with commas between them.
        warmup_steps: likewise.
        label_smoothing: see losses.Loss.
        class_weights: "balanced" lets all classes count alike.
        early_stopping: epochs without a lower validation loss after which training
            ends; 0: never.
    """

    optimizer: str = "adam"
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    iter_size: int = 1
    ema: float = 0.0
    rates: str = ""
    policy: str = "cosine"
    gamma: float = 0.1
    power: float = 1.0
    stepsize: int = 0
    milestones: str = ""
    warmup_steps: int = 0
    label_smoothing: float = 0.0
    class_weights: str = "none"
    early_stopping: int = 0

    def __post_init__(self) -> None:
        config_flags.check_choice("class_weights", self.class_weights, CLASS_WEIGHTS)
        if self.early_stopping < 0:
            raise ValueError(
                f"--early_stopping={self.early_stopping}: expected 0 or more"
            )
        _ = self.settings, self.schedule, self.loss(np.ones(2))

    @property
    def settings(self) -> parameter_update.Settings:
        """Of the updates.

        Raises:
            ValueError: they cannot be.
        """
        return parameter_update.Settings(
            optimizer=self.optimizer,  # type: ignore[arg-type]
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            iter_size=self.iter_size,
            ema=self.ema,
            rules=tuple(map(_rule, filter(None, self.rates.split(",")))),
        )

    @property
    def schedule(self) -> learning_rate.Schedule:
        """Of the rate.

        Raises:
            ValueError: it cannot be.
        """
        try:
            milestones = tuple(map(int, filter(None, self.milestones.split(","))))
        except ValueError:
            raise ValueError(
                f"milestones={self.milestones}: expected steps, as 1000,2000"
            ) from None
        return learning_rate.Schedule(
            policy=self.policy,  # type: ignore[arg-type]
            gamma=self.gamma,
            power=self.power,
            stepsize=self.stepsize,
            milestones=milestones,
            warmup_steps=self.warmup_steps,
        )

    def loss(self, counts: np.ndarray) -> losses.Loss:
        """What is made small.

        Args:
            counts: int [num_classes], training photos of each class.
        """
        weights = losses.balanced(counts) if self.class_weights == "balanced" else ()
        return losses.Loss(label_smoothing=self.label_smoothing, class_weights=weights)

    def updates(
        self, variables: Mapping[str, Any], *, float16: bool
    ) -> parameter_update.Update:
        """What moves some variables.

        Args:
            variables: {"layer/variable": Keras variable} that train.
            float16: their gradients are computed in float16.

        Raises:
            errors.MismatchedCheckpoint: a pattern of `rates` fits none of them.
        """
        self.check_rates(list(variables))
        return parameter_update.Update(variables, self.settings, float16=float16)

    def check_rates(self, variables: Sequence[str]) -> None:
        """Refuses rates that are not of these variables.

        Args:
            variables: "layer/variable" of those that train.

        Raises:
            errors.MismatchedCheckpoint: a pattern fits none of them, or none learns.
        """
        settings = self.settings
        if unused := settings.unused_rules(variables):
            layers = sorted({name.split("/")[0] for name in variables})
            close = difflib.get_close_matches(unused[0].split("/")[0], layers, n=1)
            hint = f"did you mean {close[0]}/*?" if close else "as in layer/*, */bias"
            raise errors.MismatchedCheckpoint(
                f"--rates: {unused[0]} fits no variable that trains ("
                f"{', '.join(variables[:4])}, ...); {hint}"
            )
        if not any(settings.rule_of(name).lr_mult for name in variables):
            raise errors.MismatchedCheckpoint(
                f"--rates={self.rates}: no variable learns; expected an lr_mult above 0"
            )


def _rule(text: str) -> parameter_update.Rule:
    pattern, _, values = text.strip().partition("=")
    numbers = values.split(":")
    try:
        lr_mult, decay_mult = (*map(float, numbers), 1.0)[:2]
        if not pattern or len(numbers) > 2:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"rates: {text}: expected pattern=lr_mult or pattern=lr_mult:decay_mult, "
            "as logits/*=10 or */bias=2:0"
        ) from None
    return parameter_update.Rule(
        pattern=pattern, lr_mult=lr_mult, decay_mult=decay_mult
    )


PLAIN = Method()
HELP = {
    "optimizer": "What moves the weights.",
    "momentum": "Of sgd and rmsprop, 0..1.",
    "nesterov": "Of sgd with momentum.",
    "weight_decay": "Of adamw decoupled, of the others L2 in the gradient, as Caffe's.",
    "clip_norm": "Largest norm of the gradient over all variables; 0: any.",
    "iter_size": "Batches whose gradients make one step.",
    "ema": "Share that a moving average of the weights keeps at each step, as 0.999; "
    "the average is judged and saved. 0: none.",
    "rates": "How single layers or biases learn: pattern=lr_mult[:decay_mult], with "
    "commas, as logits/*=10,*/bias=2:0; of several that fit the last holds; lr_mult 0 "
    "freezes.",
    "policy": "How the learning rate changes over the steps.",
    "gamma": "Of policies step, multistep, inv and exp.",
    "power": "Of policies poly and inv.",
    "stepsize": "Of policy step, in steps.",
    "milestones": "Of policy multistep, in steps, as 1000,2000.",
    "warmup_steps": "Steps in which the learning rate climbs from 0.",
    "label_smoothing": "Share of the label that all classes get alike, 0..1.",
    "class_weights": "balanced: all classes count alike, whatever their numbers.",
    "early_stopping": "Epochs without a lower validation loss that end it; 0: none do.",
}
CHOICES: dict[str, Sequence[str]] = {
    "optimizer": parameter_update.OPTIMIZERS,
    "policy": learning_rate.POLICIES,
    "class_weights": CLASS_WEIGHTS,
}
