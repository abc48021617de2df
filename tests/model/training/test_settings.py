import dataclasses
import json

import pytest

from model.networks import head, registry
from model.training import recipe, settings, stages, starting_point
from model.weights import named_weights
from pipeline.system import config_flags
from pipeline.system.errors import DataError, UsageError
from tests.support import files


@pytest.fixture
def parse(tmp_path):
    """Return a function from the text of a recipe and flags to settings."""
    path = tmp_path / "recipe.toml"

    def parse(text, *flags):
        path.write_text(text)
        typed, unknown, _ = config_flags.parse(flags, settings.SETTINGS)
        assert not unknown
        return recipe.configure(typed | {"recipe": str(path)})

    return parse


RECIPES = sorted((files.ROOT / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_that_ships_can_be_trained(parse, path):
    """Each can be read, and names weights and layers that exist."""
    config = parse(path.read_text(encoding="utf-8"))
    names = [stage.stage for stage in config.in_stages()]
    assert len(set(names)) == len(names)
    assert config.ckpt in (*named_weights.NAMES, "none")
    by_weights = {"vgg16_conv": "vgg16", "alexnet_conv": "alexnet_owt"}
    network = registry.by_name(config.arch or by_weights.get(config.ckpt, config.ckpt))
    last = {"vgg16": "block5_pool", "alexnet_owt": "pool5"}.get(network.name, "head")
    start = starting_point.StartingPoint(
        network=network,
        spec=config.overrides.apply(network.input_spec),
        features=tuple((config.features or last).split(",")),
        pooling="average",
        train_from=head.FINAL_LAYER,
        restored=None,
        weights=None,
    )
    for stage in config.in_stages():
        assert stages.plan_stage(start, stage, 3).num_classes == 3


RECIPE = """
ckpt = "vgg16_conv"
image_size = 150
optimizer = "rmsprop"
learning_rate = 1e-3
[[stages]]
stage = "head"
epochs = 5
[[stages]]
train_from = "block5_conv1"
learning_rate = 1e-5
weight_decay = 0.1
start = "last"
"""


def test_a_setting_above_the_stages_holds_in_all_of_them(parse):
    config = parse(RECIPE)
    assert config.overrides.image_size == 150
    first, deeper = config.in_stages()
    assert (first.stage, first.epochs, first.train_from) == ("head", 5, "")
    assert (deeper.stage, deeper.epochs, deeper.start) == ("stage 2", 0, "last")
    assert deeper.train_from == "block5_conv1"
    assert [s.learning_rate for s in (first, deeper)] == [1e-3, 1e-5]
    assert {s.learning.optimizer for s in (first, deeper)} == {"rmsprop"}
    assert [s.learning.weight_decay for s in (first, deeper)] == [0.0, 0.1]
    assert {s.ckpt for s in (first, deeper)} == {"vgg16_conv"}
    assert {s.stages for s in (first, deeper)} == {()}


def test_flags_override_the_recipe_in_all_stages(parse):
    config = parse(RECIPE, "--epochs=2", "--ckpt=alexnet", "--weight_decay=0")
    assert config.ckpt == "alexnet"
    stages = config.in_stages()
    assert [stage.epochs for stage in stages] == [2, 2]
    assert [stage.learning.weight_decay for stage in stages] == [0.0, 0.0]
    assert stages[1].learning_rate == 1e-5


def test_what_holds_in_all_stages_is_checked_in_each(parse):
    """Alone it would not go together."""
    recipe = """
    start = "last"
    momentum = 0.9
    policy = "step"
    [[stages]]
    optimizer = "sgd"
    stepsize = 10
    [[stages]]
    optimizer = "rmsprop"
    stepsize = 20
    momentum = 0.5
    """
    first, second = parse(recipe).in_stages()
    assert [s.learning.momentum for s in (first, second)] == [0.9, 0.5]
    assert [s.learning.stepsize for s in (first, second)] == [10, 20]
    assert {s.start for s in (first, second)} == {"last"}
    with pytest.raises(
        DataError, match=r"stage 1: --momentum=0\.9: --optimizer=auto has no"
    ):
        parse(recipe.replace('optimizer = "sgd"', ""))


def test_an_end_in_epochs_replaces_one_in_steps(parse):
    recipe = "steps = 7\n[[stages]]\n[[stages]]\nepochs = 3\n"
    first, second = parse(recipe).in_stages()
    assert (first.steps, second.steps, second.epochs) == (7, 0, 3)
    stages = parse(recipe, "--epochs=2").in_stages()
    assert [(s.steps, s.epochs) for s in stages] == [(0, 2), (0, 2)]
    assert parse("steps = 7", "--epochs=2").steps == 0
    with pytest.raises(UsageError, match="--steps=5 and --epochs=2: expected only one"):
        parse(recipe, "--epochs=2", "--steps=5")


def test_without_stages_the_training_is_one(parse):
    config = parse("epochs = 3")
    assert config.in_stages() == (config,)
    assert config == settings.Config(epochs=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = -1", "recipe.toml: --epochs=-1: expected 0 or more"),
        ('precision = "float64"', r"--precision=float64: expected .* mean float16\?"),
        (
            '[[stages]]\nstage = "a"\nmomentum = 2.0',
            "stage 1: --momentum=2.0: expected 0",
        ),
        ('[[stages]]\noptimizer = "adma"', "stage 1: --optimizer=adma: expected"),
        ('train = "a"\ntrain_from = "b"', "--train and --train_from"),
        ('ckpt = "none"\ncompare = "scratch"', "--compare: expected weights"),
        ('ckpt = "none"\nskip = "fc6"', "--skip: expected weights"),
        (
            '[[stages]]\nstage = "a"\nstart = "last"',
            "a: start=last: expected a stage before",
        ),
        ('start = "last"', "start=last: expected a recipe with stages"),
        ("folds = 1", "--folds=1: expected 2 or more, or 0"),
        ("folds = 3\nseeds = 2", "--folds and --seeds: expected only one"),
        ('channel_order = "BGR"', "--channel_order=BGR: expected one of auto, rgb"),
        (
            "[[stages]]\nepochs = 3\nsteps = 3",
            "--steps=3 and --epochs=3: expected only one",
        ),
        ("batch_size = 100000", "--batch_size=100000: expected 1 to 16384"),
    ],
)
def test_impossible_settings_of_a_recipe_are_refused(parse, text, message):
    with pytest.raises(DataError, match=message):
        parse(text)


def test_a_recipe_is_named_when_flags_are_not_to_blame(parse):
    with pytest.raises(DataError, match=r"recipe\.toml: --learning_rate=nan: expected"):
        parse("learning_rate = nan", "--epochs=2")
    with pytest.raises(UsageError, match=r"only one of them, with --recipe=.*recipe"):
        parse('train = "a"', "--train_from=b")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--epochs=-1", "--epochs=-1: expected 0 or more"),
        ("--ema=nan", "--ema=nan: expected 0 or more, below 1"),
        ("--epochs=3.5", r"--epochs=3\.5: expected a whole number"),
    ],
)
def test_impossible_flags_are_refused(parse, flag, message):
    with pytest.raises(UsageError, match=message):
        parse("", flag)


def test_a_run_keeps_its_settings(parse, tmp_path):
    config = parse(RECIPE, "--mean=1,2,3")
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    assert settings.from_run(tmp_path, values) == config


@pytest.mark.parametrize("change", [{"epochs": -1}, {"new": 1}, {"stages": 3}], ids=str)
def test_a_run_of_another_version_is_refused(tmp_path, change):
    values = dataclasses.asdict(settings.Config()) | change
    with pytest.raises(DataError, match="another version of Graft"):
        settings.from_run(tmp_path, values)


def test_resume_takes_no_other_flags():
    typed = {"resume": "runs/latest"}
    assert str(settings.run_to_resume(typed)) == "runs/latest"
    assert settings.run_to_resume({"epochs": 3}) is None
    with pytest.raises(UsageError, match="--epochs: expected no other flag"):
        settings.run_to_resume(typed | {"epochs": 3})


@pytest.mark.parametrize("name", ["recipe", "resume"])
def test_an_empty_value_does_not_start_another_training(name):
    with pytest.raises(UsageError, match=f"--{name}=: a value is missing"):
        settings.run_to_resume({name: ""})


@pytest.mark.parametrize(
    ("given", "allows"),
    [
        ({}, True),
        ({"ckpt": "none"}, False),
        ({"epochs": 3}, False),
        ({"views": 0}, False),
        ({"train_from": "conv5"}, False),
        ({"train": "conv5"}, False),
    ],
)
def test_only_a_new_head_on_cached_features_is_solved(given, allows):
    assert settings.Config(**given).allows_solver == allows
    solved = settings.Config(ckpt="alexnet").with_optimizer("lbfgs")
    assert solved.allows_solver
    assert not solved.with_optimizer("adam").allows_solver
