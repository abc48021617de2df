import math

import pytest

from model.loop import learning_rate
from model.loop.learning_rate import Schedule


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        (Schedule(policy="constant"), {0: 1, 50: 1, 99: 1}),
        (
            Schedule(policy="step", gamma=0.1, stepsize=20),
            {0: 1, 19: 1, 20: 0.1, 39: 0.1, 40: 0.01},
        ),
        (
            Schedule(policy="multistep", gamma=0.5, milestones=(10, 30)),
            {9: 1, 10: 0.5, 29: 0.5, 30: 0.25},
        ),
        (Schedule(policy="poly", power=2.0), {0: 1, 50: 0.25, 100: 0, 200: 0}),
        (Schedule(policy="inv", gamma=1.0, power=0.5), {0: 1, 3: 0.5, 99: 0.1}),
        (Schedule(policy="exp", gamma=0.5), {0: 1, 1: 0.5, 10: 2**-10}),
        (Schedule(policy="cosine"), {0: 1, 50: 0.5, 100: 0, 200: 0}),
        (
            Schedule(policy="constant", warmup_steps=4),
            {0: 0.25, 1: 0.5, 2: 0.75, 3: 1, 4: 1},
        ),
        (
            Schedule(policy="cosine", warmup_steps=100),
            {49: 0.25 * (1 + math.cos(0.49 * math.pi)), 100: 0},
        ),
    ],
    ids=lambda value: getattr(value, "policy", ""),
)
def test_shares(schedule, shares):
    for step, share in shares.items():
        assert schedule.share(step, 100) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("policy", learning_rate.POLICIES)
def test_one_step(policy):
    own = {"step": {"stepsize": 5}, "multistep": {"milestones": (5,)}}
    schedule = Schedule(policy=policy, **own.get(policy, {}))
    assert schedule.share(0, 1) == schedule.share(0, 0) == 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"policy": "linear"}, "expected one of constant, step"),
        ({"policy": "step"}, "expected stepsize"),
        ({"policy": "multistep"}, "expected milestones"),
        ({"policy": "multistep", "milestones": (3, 2)}, "expected ascending"),
        ({"milestones": (-1,)}, "expected 0 or more"),
        ({"warmup_steps": -1}, "expected 0 or more"),
        ({"gamma": 0.0}, "expected above 0"),
        ({"gamma": math.nan}, "expected above 0"),
        ({"power": math.inf}, "expected above 0"),
        ({"gamma": 0.5}, "gamma=0.5: policy=cosine has none; expected policy=step or"),
        ({"policy": "exp", "power": 2.0}, "power=2.0: policy=exp has none"),
        ({"policy": "poly", "stepsize": 5}, "expected policy=step"),
        ({"policy": "step", "stepsize": 5, "milestones": (5,)}, "policy=multistep"),
    ],
    ids=str,
)
def test_what_makes_no_schedule(how, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**how)
