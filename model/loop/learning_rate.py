"""Compute how the learning rate changes during a training: Caffe's policies, cosine.

Sources: GetLearningRate in caffe/src/caffe/solvers/sgd_solver.cpp; I. Loshchilov and F.
Hutter, SGDR, 2017 (cosine); P. Goyal et al., Accurate, Large Minibatch SGD, 2017
(warm-up).
"""

import math
from collections.abc import Callable

from model.loop import optimization


def share(settings: optimization.Settings, step: int, total: int) -> float:
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


_SHARES: dict[str, Callable[[optimization.Settings, int, int], float]] = {
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


def suitable(num_features: int) -> float:
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
