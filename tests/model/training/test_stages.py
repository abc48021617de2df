import pytest

from model.checkpoints import errors
from model.loop import learning_rate, optimization
from model.networks import head, registry
from model.training import settings, stages, starting_point

# Network -> {lowest layer that trains: layer whose output the trunk computes}, with the
# new final layer on fc7.
CUTS = {
    "alexnet": {
        "conv1": "image",
        "conv2": "pool1",
        "conv3": "pool2",
        "conv4": "conv3",
        "conv5": "conv4",
        "fc6": "flatten",
        "fc7": "fc6",
        "logits": "fc7",
    },
    "alexnet_owt": {
        "conv1": "image",
        "conv2": "pool1",
        "conv3": "pool2",
        "conv4": "conv3",
        "conv5": "conv4",
        "fc6": "flatten",
        "fc7": "fc6",
        "logits": "fc7",
    },
}


@pytest.mark.parametrize("name", CUTS)
def test_the_cut_lies_below_the_lowest_layer_that_trains(name):
    chosen = registry.NETWORKS[name]
    found = {
        train_from: stages.cut_below(chosen, train_from, ("fc7",))
        for train_from in CUTS[name]
    }
    assert found == CUTS[name]


@pytest.mark.parametrize("features", ["pool5", "fc6", "fc7"])
def test_a_head_that_trains_alone_cuts_at_its_features(features):
    chosen = registry.NETWORKS["alexnet"]
    assert stages.cut_below(chosen, head.FINAL_LAYER, (features,)) == features


@pytest.mark.parametrize(
    "train_from", ["fc6", "fc7", "fc8", "pool5", "flatten", "image", "", "nonsense"]
)
def test_layers_that_cannot_train_are_refused(train_from):
    chosen = registry.NETWORKS["alexnet"]
    with pytest.raises(
        errors.MismatchedCheckpoint,
        match=rf"--train_from={train_from}: .* Expected one of "
        r"conv1, conv2, conv3, conv4, conv5 or logits\.$",
    ):
        stages.cut_below(chosen, train_from, ("pool5",))


@pytest.mark.parametrize(
    ("train_from", "cut", "frozen"),
    [
        ("logits", "pool5", set()),
        ("conv5", "conv3", {"conv4"}),
        ("conv4", "conv3", set()),
        ("conv3", "pool2", set()),
        ("conv1", "image", set()),
    ],
)
def test_what_a_head_on_several_layers_sees_lies_above_the_cut(train_from, cut, frozen):
    chosen = registry.NETWORKS["alexnet_owt"]
    start = starting_point.StartingPoint(
        network=chosen,
        spec=chosen.input_spec,
        features=("conv3", "conv4", "pool5"),
        pooling="average",
        train_from=head.FINAL_LAYER,
        restored=None,
        weights=None,
    )
    found = stages.plan_stage(start, settings.Config(train_from=train_from), 3)
    assert (found.train_from, found.cut, found.frozen) == (train_from, cut, frozen)
    by_name = "conv*,logits" if train_from == "conv1" else f"{train_from},logits"
    if train_from != "logits":
        found = stages.plan_stage(start, settings.Config(train=by_name), 3)
        assert (found.train_from, found.cut) == (train_from, cut)
        if train_from == "conv1":
            assert not found.frozen
        else:  # and what lies above the one that trains
            upper = [n for n in ("conv3", "conv4", "conv5") if n > train_from]
            assert found.frozen == frozen | set(upper)


@pytest.fixture
def start():
    network = registry.NETWORKS["alexnet_owt"]
    return starting_point.StartingPoint(
        network=network,
        spec=network.input_spec,
        features=("pool5",),
        pooling="average",
        train_from=head.FINAL_LAYER,
        restored=None,
        weights=None,
    )


def stage_of(start, num_training=23, **changes):
    config = settings.Config(batch_size=5, **changes)
    (stage,) = stages.plan_stages(
        start, config, num_classes=3, num_training=num_training
    )
    return stage


def test_an_epoch_ends_with_a_step_on_the_photos_that_are_left(start):
    stage = stage_of(start, epochs=3)
    assert (stage.steps_per_epoch, stage.steps, stage.epochs) == (5, 15, 3)
    assert stage.photos == 3 * 23


def test_steps_end_a_stage_within_an_epoch(start):
    stage = stage_of(start, steps=7)
    assert (stage.steps, stage.epochs, stage.photos) == (7, 2, 23 + 2 * 5)


def test_accumulated_batches_make_fewer_steps(start):
    learning = optimization.Settings(iter_size=2)
    stage = stage_of(start, epochs=2, learning=learning)
    assert (stage.steps_per_epoch, stage.steps) == (3, 6)
    assert stage_of(start, steps=4, learning=learning).photos == 23 + 10


def test_the_learning_rate_suits_the_features_unless_it_is_given(start):
    assert stage_of(start).base_rate == learning_rate.suitable(256)
    assert stage_of(start, train_from="conv5").base_rate == learning_rate.suitable(0)
    assert stage_of(start, learning_rate=0.5).base_rate == 0.5


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
def test_a_plan_says_what_trains(start, changes, words):
    assert stage_of(start, **changes).plan.describe() == words
