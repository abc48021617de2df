"""How the learning rate changes over the steps of a training: Caffe's policies, cosine.

Sources: GetLearningRate in caffe/src/caffe/solvers/sgd_solver.cpp; I. Loshchilov and F.
Hutter, SGDR, 2017 (cosine); P. Goyal et al., Accurate, Large Minibatch SGD, 2017
(warm-up).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, get_args

Policy = Literal["constant", "step", "multistep", "poly", "inv", "exp", "cosine"]
POLICIES: tuple[str, ...] = get_args(Policy)
_USED_BY = {
    "gamma": ("step", "multistep", "inv", "exp"),
    "power": ("poly", "inv"),
    "stepsize": ("step",),
    "milestones": ("multistep",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The share of the base rate that each step learns at, `t` counted from 0.

    constant: 1. step: gamma^floor(t / stepsize). multistep: gamma^(number of
    milestones that t has reached). poly: (1 - t / total)^power. inv:
    (1 + gamma t)^-power. exp: gamma^t. cosine: (1 + cos(pi t / total)) / 2.

    Attributes:
        policy: one of POLICIES.
        gamma: of step, multistep, inv and exp; above 0.
        power: of poly and inv; 0 or more.
        stepsize: of step, in steps.
        milestones: of multistep, in steps, ascending.
        warmup_steps: in which the rate climbs evenly from 1 / warmup_steps of itself;
            the policy goes on meanwhile.
    """

    policy: Policy = "cosine"
    gamma: float = 0.1
    power: float = 1.0
    stepsize: int = 0
    milestones: tuple[int, ...] = ()
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(
                f"policy={self.policy!r}: expected one of {', '.join(POLICIES)}"
            )
        if not 0 < self.gamma < math.inf or not 0 <= self.power < math.inf:
            raise ValueError(
                f"gamma={self.gamma}, power={self.power}: expected above 0"
            )
        if self.policy == "step" and self.stepsize < 1:
            raise ValueError("policy=step: expected stepsize, in steps")
        if self.policy == "multistep" and not self.milestones:
            raise ValueError("policy=multistep: expected milestones, in steps")
        if min((self.warmup_steps, self.stepsize, *self.milestones)) < 0:
            raise ValueError("warmup_steps, stepsize, milestones: expected 0 or more")
        if tuple(sorted(self.milestones)) != self.milestones:
            raise ValueError(f"milestones={self.milestones}: expected ascending steps")
        for name, policies in _USED_BY.items():
            value = getattr(self, name)
            unset = Schedule.__dataclass_fields__[name].default
            if value != unset and self.policy not in policies:
                raise ValueError(
                    f"{name}={value}: policy={self.policy} has none; expected policy="
                    + " or ".join(policies)
                )

    def share(self, step: int, total: int) -> float:
        """The share of the base rate at a step.

        Args:
            step: from 0.
            total: number of steps of the training, at least 1.

        Returns:
            0 or more; for inv and exp with gamma above 1, more than 1 too.
        """
        share = _SHARES[self.policy](self, step, max(1, total))
        return share * min(1.0, (step + 1) / max(1, self.warmup_steps))


def _done(step: int, total: int) -> float:
    return min(1.0, step / total)


_SHARES: dict[str, Callable[[Schedule, int, int], float]] = {
    "constant": lambda s, t, total: 1.0,
    "step": lambda s, t, total: s.gamma ** (t // s.stepsize),
    "multistep": lambda s, t, total: s.gamma ** sum(t >= m for m in s.milestones),
    "poly": lambda s, t, total: (1 - _done(t, total)) ** s.power,
    "inv": lambda s, t, total: (1 + s.gamma * t) ** -s.power,
    "exp": lambda s, t, total: s.gamma**t,
    "cosine": lambda s, t, total: (1 + math.cos(math.pi * _done(t, total))) / 2,
}
