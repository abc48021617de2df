"""Two processes, and two devices of one, train as one does."""

import json
import os
import socket
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from model.loop import distributed
from model.runs import finished_run
from pipeline.system.errors import DataError
from tests.support import files, processes


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start(rank, ports, cache, *arguments):
    """A process of a training, as the first worker's is the chief."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    task = {"type": "worker", "index": rank}
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=files.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "XDG_CACHE_HOME": str(cache),
            "TF_CONFIG": json.dumps({"cluster": cluster, "task": task}),
        },
    )


def results(directory):
    return finished_run.read(str(directory)).results()


def small_training(records, directory, *more):
    """Steps of 13 photos of 48, so that the last is smaller; nothing is random."""
    return (
        *(f"--data={records}", f"--run_dir={directory}", "--train_from=conv5"),
        *("--views=1", "--batch_size=13", "--dropout=0", "--precision=float32"),
        *("--learning_rate=1e-4", *more),
    )


def same_losses(first, second):
    names = ("loss", "accuracy", "validation_loss", "validation_accuracy")
    for one, two in zip(first, second, strict=True):
        for name in names:
            assert one[name] == pytest.approx(two[name], rel=1e-3, abs=1e-5), name


@pytest.mark.slow
def test_two_processes_train_as_one_does(shared_records, weights_cache, tmp_path):
    arguments = small_training(shared_records, tmp_path / "one", "--epochs=3")
    alone = processes.run_command("train.py", *arguments, cache=weights_cache)
    assert alone.returncode == 0, alone.stderr
    directory = tmp_path / "two"
    arguments = small_training(shared_records, directory, "--epochs=3")
    ports = free_ports(2)
    both = [start(rank, ports, weights_cache, *arguments) for rank in range(2)]
    said = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "process 1 of 2" in said[0][1]
    assert "process 2 of 2" in said[1][1]
    assert "best epoch" in said[0][0]
    assert said[1][0] == ""  # the chief alone says what came of it
    same_losses(results(directory), results(tmp_path / "one"))
    names = {path.name for path in directory.iterdir()}
    assert names == {path.name for path in (tmp_path / "one").iterdir()}


@pytest.mark.slow
def test_a_process_that_dies_stops_the_others(shared_records, weights_cache, tmp_path):
    directory = tmp_path / "run"
    arguments = small_training(
        shared_records, directory, "--epochs=100000", "--snapshot_steps=5"
    )
    ports = free_ports(2)
    chief, other = (start(rank, ports, weights_cache, *arguments) for rank in range(2))
    try:
        deadline = time.monotonic() + 120
        while not list(directory.glob("checkpoints/*.npz")):
            assert chief.poll() is None, chief.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        other.kill()
        _, said = chief.communicate(timeout=120)
    finally:
        chief.kill()
        other.kill()
        other.communicate()
    assert chief.returncode == 2, said
    assert "another process of this training does not answer" in said
    assert f"--resume={directory}" in said
    assert "Traceback" not in said


ON_TWO_DEVICES = """
import sys
import tensorflow as tf
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
import numpy as np
import keras
from model.loop import distributed, optimization, parameter_update, train_step
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
        update=parameter_update.ParameterUpdate(
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
    done = subprocess.run(
        [sys.executable, "-c", ON_TWO_DEVICES],
        cwd=files.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


class TestGPUs:
    """Without any: what TensorFlow would list, and what its strategy would have."""

    GPUS = (
        "/job:worker/replica:0/task:0/device:GPU:0",
        "/job:worker/replica:0/task:0/device:GPU:1",
    )
    ANOTHERS = ("/job:worker/replica:0/task:1/device:GPU:0",)

    @staticmethod
    def one_of_two(gpus):
        """A process of two, whose strategy knows these GPUs of its own."""
        extended = types.SimpleNamespace(worker_devices=gpus)
        strategy = types.SimpleNamespace(extended=extended)
        return distributed.ProcessGroup(size=2, strategy=strategy)

    def test_a_single_process_uses_all_gpus(self):
        alone = distributed.ProcessGroup()
        assert alone.on_gpus(self.GPUS[:1]).devices == ("",)
        both = alone.on_gpus(self.GPUS)
        assert (both.devices, both.num_replicas) == (self.GPUS, 2)

    def test_gpus_of_other_processes_are_left_to_them(self):
        group = self.one_of_two(self.GPUS[:1])
        group = group.on_gpus((*self.GPUS[:1], *self.ANOTHERS))
        assert (group.devices, group.num_replicas) == (("",), 2)

    def test_several_gpus_in_each_of_several_processes_are_refused(self):
        group = self.one_of_two(self.GPUS)
        with pytest.raises(DataError, match="2 processes, and 2 GPUs in this"):
            group.on_gpus((*self.GPUS, *self.ANOTHERS))


@pytest.mark.parametrize(
    ("tf_config", "expected"),
    [
        ("", (0, 1)),
        ("{}", (0, 1)),
        ('{"cluster": {}, "task": {"type": "worker", "index": 0}}', (0, 1)),
        (
            '{"cluster": {"worker": ["a:1", "b:1"]}, '
            '"task": {"type": "worker", "index": 1}}',
            (1, 2),
        ),
        (
            '{"cluster": {"worker": ["a:1", "b:1"], "chief": ["c:1"]}, '
            '"task": {"type": "worker", "index": "1"}}',
            (2, 3),
        ),
    ],
)
def test_rank_and_size_come_from_tf_config(tf_config, expected):
    assert distributed.rank_and_size(tf_config) == expected


@pytest.mark.parametrize(
    "tf_config",
    [
        "nonsense",
        "[1]",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": 3}, "task": {"type": "worker", "index": 1}}',
    ],
)
def test_a_tf_config_without_this_process_is_refused(tf_config):
    with pytest.raises(DataError, match="TF_CONFIG: expected"):
        distributed.rank_and_size(tf_config)


@pytest.mark.parametrize("count", [0, 1, 2, 13, 64])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_shares_of_all_processes_are_the_batch(count, size):
    shared = []
    for rank in range(size):
        group = distributed.ProcessGroup(rank=rank, size=size)
        shared += np.arange(count)[group.share(count)].tolist()
    assert shared == list(range(count))
