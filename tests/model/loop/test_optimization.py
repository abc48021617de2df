import math

import pytest

from model.checkpoints import errors
from model.loop import optimization
from model.loop.optimization import Settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "lion"}, "expected one of auto, lbfgs, adam, adamw, sgd"),
        ({"momentum": 0.9}, "--optimizer=auto has none"),
        ({"optimizer": "sgd", "momentum": 1.0}, "expected 0 or more, below 1"),
        ({"optimizer": "sgd", "nesterov": True}, "and --momentum"),
        ({"weight_decay": -1.0}, "expected 0 or more"),
        ({"clip_norm": math.nan}, "expected 0 or more"),
        ({"iter_size": 0}, "expected 1 or more"),
        ({"ema": 1.0}, "expected 0 or more, below 1"),
        ({"label_smoothing": -0.1}, "expected 0 or more, below 1"),
        ({"policy": "linear"}, "expected one of constant, fixed, step"),
        ({"policy": "step"}, "expected --stepsize"),
        ({"policy": "sigmoid"}, "--policy=sigmoid: expected --stepsize"),
        ({"policy": "multistep"}, "expected --milestones"),
        ({"policy": "multistep", "milestones": "3,2"}, "expected rising"),
        ({"policy": "multistep", "milestones": "-1"}, "expected rising"),
        ({"policy": "multistep", "milestones": "soon"}, "such as 1000,2000"),
        ({"warmup_steps": -1}, "expected 0 or more"),
        ({"gamma": 0.0}, "expected above 0"),
        ({"gamma": math.nan}, "expected above 0"),
        ({"power": math.inf}, "expected 0 or more"),
        ({"gamma": 0.5}, "gamma=0.5: not used by --policy=cosine; expected .*step or"),
        ({"policy": "exp", "power": 2.0}, "power=2.0: not used by --policy=exp"),
        ({"policy": "poly", "stepsize": 5}, "expected --policy=step"),
        ({"policy": "step", "stepsize": 5, "milestones": "5"}, "--policy=multistep"),
        ({"rates": "fc8/*"}, "expected pattern=lr_mult"),
        ({"rates": "fc8/*=-1"}, "fc8/\\*=-1: expected .* factors of 0 or more"),
        ({"rates": "fc8/*=1:inf"}, "fc8/\\*=1:inf: expected .* factors of 0 or more"),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Settings(**values)


def test_the_last_layer_rate_that_fits_counts():
    settings = Settings(rates="fc/*=10,*/bias=2:0")
    bias, kernel = map(settings.layer_rate_of, ("fc/bias", "fc/kernel"))
    assert (bias.lr_mult, bias.decay_mult) == (2, 0)
    assert (kernel.lr_mult, kernel.decay_mult) == (10, 1)
    assert settings.layer_rate_of("conv/kernel") == optimization.LayerRate(pattern="*")


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ("fc8/*=2,fc/*=1", r"fc8/\* fits no variable that trains .* mean fc/\*\?"),
        ("*=0", "no variable learns"),
    ],
)
def test_layer_rates_that_fit_no_variable_are_refused(rates, message):
    with pytest.raises(errors.MismatchedCheckpoint, match=message):
        Settings(rates=rates).check_rates(["fc/kernel", "fc/bias"])
