import dataclasses
import types

import pytest

from model.checkpoints import errors
from model.loop import optimization
from model.networks import head, registry
from model.training import settings, stages, starting_point
from pipeline.system.errors import UsageError

# Lowest layer that trains -> layer whose output the trunk computes, with the new final
# layer on fc7.
CUTS = {
    "conv1": "image",
    "conv2": "pool1",
    "conv3": "pool2",
    "conv4": "conv3",
    "conv5": "conv4",
    "fc6": "flatten",
    "fc7": "fc6",
    "logits": "fc7",
}


def starting_from(*features):
    """Return a random start of alexnet_owt with a pooling head on these layers."""
    network = registry.NETWORKS["alexnet_owt"]
    return starting_point.StartingPoint(
        network=network,
        spec=network.input_spec,
        features=features,
        pooling="average",
        train_from=head.FINAL_LAYER,
        restored=None,
        weights=None,
    )


@pytest.mark.parametrize("name", ["alexnet", "alexnet_owt"])
def test_the_cut_lies_below_the_lowest_layer_that_trains(name):
    network = registry.NETWORKS[name]
    cuts = {layer: stages.cut_below(network, layer, ("fc7",)) for layer in CUTS}
    assert cuts == CUTS


def test_restored_batch_normalisation_keeps_its_statistics():
    network = registry.NETWORKS["efficientnet_lite0"]
    restored = types.SimpleNamespace(is_complete=lambda layer: layer != "head_bn")
    start = dataclasses.replace(
        starting_from("pool"), network=network, spec=network.input_spec
    )
    config = settings.Config(train_from="block_15")
    scratch = stages.plan_stage(start, config, 3)
    plan = stages.plan_stage(dataclasses.replace(start, restored=restored), config, 3)
    assert scratch.trains("block_15_project_bn")
    assert not plan.trains("block_15_project_bn")
    assert plan.trains("block_15_project_conv")
    assert plan.trains("head_bn")
    assert plan.describe().endswith("above it; frozen: batch normalisation")


@pytest.mark.parametrize("features", ["pool5", "fc6", "fc7"])
def test_a_head_that_trains_alone_cuts_at_its_features(features):
    network = registry.NETWORKS["alexnet"]
    assert stages.cut_below(network, head.FINAL_LAYER, (features,)) == features


@pytest.mark.parametrize(
    "train_from", ["fc6", "fc7", "fc8", "pool5", "flatten", "image", "", "nonsense"]
)
def test_layers_that_cannot_train_are_refused(train_from):
    layers = r"conv1, conv2, conv3, conv4, conv5, logits[;.]"
    message = rf"--train_from={train_from}: .* Expected one of {layers}"
    with pytest.raises(errors.MismatchedCheckpoint, match=message):
        stages.cut_below(registry.NETWORKS["alexnet"], train_from, ("pool5",))


@pytest.mark.parametrize(
    ("changes", "train_from", "cut", "frozen"),
    [
        ({"train_from": "logits"}, "logits", "pool5", ""),
        ({"train_from": "conv5"}, "conv5", "conv3", "conv4"),
        ({"train_from": "conv4"}, "conv4", "conv3", ""),
        ({"train_from": "conv3"}, "conv3", "pool2", ""),
        ({"train_from": "conv1"}, "conv1", "image", ""),
        ({"train": "conv5,logits"}, "conv5", "conv3", "conv4"),
        ({"train": "conv4,logits"}, "conv4", "conv3", "conv5"),
        ({"train": "conv3,logits"}, "conv3", "pool2", "conv4 conv5"),
        ({"train": "conv*,logits"}, "conv1", "image", ""),
    ],
    ids=str,
)
def test_the_cut_lies_below_all_layers_of_a_head(changes, train_from, cut, frozen):
    start = starting_from("conv3", "conv4", "pool5")
    plan = stages.plan_stage(start, settings.Config(**changes), 3)
    assert (plan.train_from, plan.cut) == (train_from, cut)
    assert plan.frozen == set(frozen.split())


def planned_stage(**changes):
    """Return the only stage of a training on 23 photos."""
    config = settings.Config(batch_size=5, **changes)
    start = starting_from("pool5")
    (stage,) = stages.plan_stages(start, config, num_classes=3, num_training=23)
    return stage


def test_an_epoch_ends_with_a_step_on_the_photos_that_are_left():
    stage = planned_stage(epochs=3)
    assert (stage.steps_per_epoch, stage.steps, stage.epochs) == (5, 15, 3)
    assert stage.photos == 3 * 23


def test_steps_end_a_stage_within_an_epoch():
    stage = planned_stage(steps=7)
    assert (stage.steps, stage.epochs, stage.photos) == (7, 2, 23 + 2 * 5)


def test_accumulated_batches_make_fewer_steps():
    learning = optimization.Settings(iter_size=2)
    stage = planned_stage(epochs=2, learning=learning)
    assert (stage.steps_per_epoch, stage.steps) == (3, 6)
    assert planned_stage(steps=4, learning=learning).photos == 23 + 10


def test_the_learning_rate_suits_the_features_unless_it_is_given():
    assert planned_stage().base_rate == optimization.suitable_rate(256)
    assert planned_stage(train_from="conv5").base_rate == optimization.suitable_rate(0)
    assert planned_stage(learning_rate=0.5).base_rate == 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "the head (logits)"),
        ({"hidden": 7}, "the head (head_hidden, logits)"),
        ({"train_from": "conv4"}, "conv4 and the layers above it"),
        ({"train": "conv4,logits"}, "conv4 and the layers above it; frozen: conv5"),
        ({"train_from": "conv1"}, "all layers"),
    ],
    ids=str,
)
def test_a_plan_says_what_trains(changes, words):
    assert planned_stage(**changes).plan.describe() == words


@pytest.mark.parametrize(
    ("changes", "optimizer", "flags"),
    [
        ({}, "lbfgs", []),
        ({"learning": optimization.Settings(class_weights="balanced")}, "lbfgs", []),
        ({"epochs": 3}, "adam", ["--epochs"]),
        (
            {"learning_rate": 0.1, "dropout": 0.0},
            "adam",
            ["--learning_rate", "--dropout"],
        ),
        ({"learning": optimization.Settings(policy="poly")}, "adam", ["--policy"]),
        ({"learning": optimization.Settings(optimizer="sgd")}, "sgd", []),
        ({"hidden": 9}, "adam", ["--hidden"]),
        ({"train_from": "conv5"}, "adam", []),
        ({"views": 0}, "adam", []),
    ],
)
def test_a_head_is_solved_unless_settings_ask_for_steps(changes, optimizer, flags):
    config = settings.Config(**changes)
    (stage,) = plan(config, 600)
    assert stage.config.learning.optimizer == optimizer
    assert list(stage.step_flags) == flags
    is_solved = optimizer == "lbfgs"
    assert stage.is_solved == is_solved
    assert stage.plan.scaling == ("roots" if is_solved else "none")
    assert (stage.plan.dropout == 0) == (is_solved or config.dropout == 0)
    if is_solved:
        assert (stage.config.num_views, plan(config, 400)[0].config.num_views) == (1, 2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": 5}, "--steps is given"),
        ({"train_from": "conv5"}, "conv5 trains"),
        ({"views": 0}, "no features are cached"),
    ],
)
def test_what_cannot_be_solved_is_refused(changes, reason):
    learning = optimization.Settings(optimizer="lbfgs")
    config = settings.Config(learning=learning, **changes)
    with pytest.raises(UsageError, match=f"--optimizer=lbfgs: .* but {reason}"):
        plan(config, 600)


def test_features_that_do_not_fit_into_memory_are_trained_by_steps():
    (stage,) = plan(settings.Config(), 10_000_000)
    assert stage.config.learning.optimizer == "adam"


def plan(config, num_training):
    return stages.plan_stages(
        starting_from("pool5"), config, num_classes=3, num_training=num_training
    )
