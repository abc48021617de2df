import math

import pytest

from model.loop import optimization
from model.loop.optimization import Settings
from pipeline.system import config_flags


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        (Settings(policy="constant"), {0: 1, 50: 1, 99: 1}),
        (Settings(policy="fixed"), {0: 1, 99: 1}),
        (
            Settings(policy="step", gamma=0.1, stepsize=20),
            {0: 1, 19: 1, 20: 0.1, 39: 0.1, 40: 0.01},
        ),
        (
            Settings(policy="multistep", gamma=0.5, milestones="10,30"),
            {9: 1, 10: 0.5, 29: 0.5, 30: 0.25},
        ),
        (Settings(policy="poly", power=2.0), {0: 1, 50: 0.25, 100: 0, 200: 0}),
        (Settings(policy="inv", gamma=1.0, power=0.5), {0: 1, 3: 0.5, 99: 0.1}),
        (Settings(policy="exp", gamma=0.5), {0: 1, 1: 0.5, 10: 2**-10}),
        (
            Settings(policy="sigmoid", gamma=0.1, stepsize=20),
            {0: 1 / (1 + math.exp(2)), 20: 0.5, 30: 1 / (1 + math.exp(-1))},
        ),
        (Settings(policy="sigmoid", gamma=9.0, stepsize=20_000), {0: 0, 40_000: 1}),
        (Settings(policy="cosine"), {0: 1, 50: 0.5, 100: 0, 200: 0}),
        (
            Settings(policy="constant", warmup_steps=4),
            {0: 0.25, 1: 0.5, 2: 0.75, 3: 1, 4: 1},
        ),
        (
            Settings(policy="cosine", warmup_steps=100),
            {49: 0.25 * (1 + math.cos(0.49 * math.pi)), 100: 0},
        ),
    ],
    ids=lambda value: getattr(value, "policy", ""),
)
def test_shares_of_each_policy_match_those_computed_by_hand(schedule, shares):
    for step, share in shares.items():
        assert optimization.rate_share(schedule, step, 100) == pytest.approx(
            share, abs=1e-12
        )


POLICIES = {*config_flags.settings_of(Settings)["policy"].choices} - {"sigmoid"}


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_training_of_one_step_has_the_full_rate(policy):
    own = {"step": {"stepsize": 5}, "multistep": {"milestones": "5"}}
    schedule = Settings(policy=policy, **own.get(policy, {}))
    for total in (0, 1):
        assert optimization.rate_share(schedule, 0, total) == 1


@pytest.mark.parametrize(
    ("num_features", "rate"), [(9216, 1e-4), (1280, 7.2e-4), (0, 1e-4)]
)
def test_more_features_suit_a_lower_rate(num_features, rate):
    assert optimization.suitable_rate(num_features) == pytest.approx(rate)
