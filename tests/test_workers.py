"""Two processes, and two devices of one, train as one does."""

import json
import random
import types

import numpy as np
import pytest

from model.loop import distributed
from model.runs import finished_run
from pipeline.system.errors import DataError
from tests.support import cases, processes


@pytest.fixture
def start_both(shared_records, weights_cache):
    """Return a function that starts both processes of a training, the chief first."""

    def start(*flags):
        # Below the ports that the system gives to connections of others.
        ports = random.sample(range(20_000, 32_000), 2)
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        tasks = [{"type": "worker", "index": rank} for rank in range(2)]
        return [
            processes.start_command(
                *("train.py", f"--data={shared_records}", *SETTINGS, *flags),
                cache=weights_cache,
                TF_CONFIG=json.dumps({"cluster": cluster, "task": task}),
            )
            for task in tasks
        ]

    return start


# Steps of 13 photos of 48, so that the last is smaller; nothing is random.
SETTINGS = (
    *("--ckpt=alexnet", "--train_from=conv5", "--views=1", "--batch_size=13"),
    *("--dropout=0", "--precision=float32", "--learning_rate=1e-4"),
)


@pytest.mark.slow
def test_two_processes_train_as_one_does(
    start_both, shared_records, weights_cache, tmp_path
):
    alone, joint = tmp_path / "alone", tmp_path / "joint"
    flags = ("--epochs=3", f"--run_dir={alone}", f"--data={shared_records}")
    done = processes.run_command("train.py", *SETTINGS, *flags, cache=weights_cache)
    assert done.returncode == 0, done.stderr
    both = start_both("--epochs=3", f"--run_dir={joint}")
    (chief_out, chief_err), other = [p.communicate(timeout=180) for p in both]
    assert [process.returncode for process in both] == [0, 0], (chief_err, other)
    assert "process 1 of 2" in chief_err
    assert "process 2 of 2" in other[1]
    assert "best epoch" in chief_out
    assert other[0] == ""  # the chief alone reports the result
    names = ("loss", "accuracy", "validation_loss", "validation_accuracy")
    results = [finished_run.read(str(path)).results() for path in (alone, joint)]
    for expected, result in zip(*results, strict=True):
        for name in names:
            assert result[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5)
    assert {p.name for p in joint.iterdir()} == {p.name for p in alone.iterdir()}


@pytest.mark.slow
def test_a_process_that_dies_stops_the_others(start_both, tmp_path):
    directory = tmp_path / "run"
    chief, other = start_both(
        "--epochs=100000", "--snapshot_steps=5", f"--run_dir={directory}"
    )
    try:
        processes.wait_until(chief, lambda: list(directory.glob("checkpoints/*.npz")))
        other.kill()
        _, stderr = chief.communicate(timeout=120)
    finally:
        chief.kill()
        other.kill()
        other.communicate()
    assert chief.returncode == 2, stderr
    assert "another process of this training does not answer" in stderr
    assert f"--resume={directory}" in stderr
    assert "Traceback" not in stderr


ON_TWO_DEVICES = """
import sys
import tensorflow as tf
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
import numpy as np
import keras
from model.loop import distributed, optimization, train_step
from model.training import trunk_and_tail
from model.weights import model_variables

def train(devices, trained=False):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(5, activation="relu")(inputs)
    norm = keras.layers.BatchNormalization(trainable=trained)(hidden)
    model = keras.Model(inputs, keras.layers.Dense(3)(norm))
    settings = optimization.Settings()
    setup = train_step.LearningSetup(
        update=train_step.ParameterUpdate(
            model_variables.trainable(model), settings
        ),
        schedule=settings, base_rate=0.1, epochs=1, total_steps=9,
        process_group=distributed.ProcessGroup(devices=devices),
        statistics=trunk_and_tail.statistics(model),
    )
    step = train_step.TrainStep(model, setup)
    random = np.random.default_rng(0)
    figures = []
    for size in (7, 8, 1):
        images = random.normal(size=(size, 6)).astype(np.float32)
        labels = random.integers(0, 3, size).astype(np.int32)
        figures.append([float(figure) for figure in step(images, labels)])
    return figures, [v.numpy() for v in model.weights]

one, two = train(("",)), train(("/CPU:0", "/CPU:1"))
np.testing.assert_allclose(one[0], two[0], rtol=1e-5)
for first, second in zip(one[1], two[1], strict=True):
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)
# The batch of one leaves a device with nothing, whose mean is no number.
figures, weights = train(("/CPU:0", "/CPU:1"), trained=True)
assert np.isfinite(figures).all()
assert all(np.isfinite(weight).all() for weight in weights)
"""


def test_two_devices_train_as_one_does():
    done = processes.run_command("-c", ON_TWO_DEVICES)
    assert done.returncode == 0, done.stderr


class TestGPUs:
    """Without any: what TensorFlow would list, and what its strategy would have."""

    GPUS = tuple(f"/job:worker/replica:0/task:0/device:GPU:{n}" for n in range(2))
    GPU_OF_ANOTHER = "/job:worker/replica:0/task:1/device:GPU:0"

    @staticmethod
    def group_of_two(gpus):
        """Return the group of a process that has these GPUs and another beside it."""
        extended = types.SimpleNamespace(worker_devices=gpus)
        strategy = types.SimpleNamespace(extended=extended)
        return distributed.ProcessGroup(size=2, strategy=strategy)

    def test_a_single_process_uses_all_gpus(self):
        alone = distributed.ProcessGroup()
        assert alone.on_gpus(self.GPUS[:1]).devices == ("",)
        both = alone.on_gpus(self.GPUS)
        assert (both.devices, both.num_replicas) == (self.GPUS, 2)

    def test_gpus_of_other_processes_are_left_to_them(self):
        group = self.group_of_two(self.GPUS[:1])
        group = group.on_gpus((self.GPUS[0], self.GPU_OF_ANOTHER))
        assert (group.devices, group.num_replicas) == (("",), 2)

    def test_several_gpus_in_each_of_several_processes_are_refused(self):
        group = self.group_of_two(self.GPUS)
        with pytest.raises(DataError, match="2 processes, and 2 GPUs in this"):
            group.on_gpus((*self.GPUS, self.GPU_OF_ANOTHER))


def tf_config(cluster, index, kind="worker"):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@cases.table(
    ("text", "expected"),
    {
        "unset": ("", (0, 1)),
        "empty": ("{}", (0, 1)),
        "alone": (tf_config({}, 0), (0, 1)),
        "second": (tf_config({"worker": ["a:1", "b:1"]}, 1), (1, 2)),
        "chief": (tf_config({"worker": ["a:1", "b:1"], "chief": ["c:1"]}, "1"), (2, 3)),
    },
)
def test_rank_and_size_come_from_tf_config(text, expected):
    assert distributed.rank_and_size(text) == expected


@cases.table(
    "text",
    {
        "no JSON": "nonsense",
        "list": "[1]",
        "no task": '{"cluster": {"worker": ["a:1"]}}',
        "parameter server": tf_config({"worker": ["a:1"]}, 0, kind="ps"),
        "no such worker": tf_config({"worker": ["a:1"]}, 1),
        "no addresses": tf_config({"worker": 3}, 1),
    },
)
def test_a_tf_config_without_this_process_is_refused(text):
    with pytest.raises(DataError, match="TF_CONFIG: expected"):
        distributed.rank_and_size(text)


@pytest.mark.parametrize("count", [0, 1, 2, 13, 64])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_shares_of_all_processes_are_the_batch(count, size):
    photos = np.arange(count)
    groups = [distributed.ProcessGroup(rank=rank, size=size) for rank in range(size)]
    shares = [photos[group.share(count)] for group in groups]
    assert np.concatenate(shares).tolist() == list(range(count))
