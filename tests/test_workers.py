"""Two processes, and two devices of one, train as one does."""

import json
import random
import types
import zipfile

import numpy as np
import pytest

from model.loop import distributed
from model.runs import finished_run
from pipeline.system.errors import DataError
from tests.support import cases, processes


@pytest.fixture
def start(weights_cache):
    """Return a function that starts the processes of a training, the chief first."""

    def start_processes(number, *flags):
        # Below the ports that the system gives to connections of others.
        ports = random.sample(range(20_000, 32_000), number)
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        tasks = [{"type": "worker", "index": rank} for rank in range(number)]
        return [
            processes.start_command(
                *("train.py", *flags),
                cache=weights_cache,
                TF_CONFIG=json.dumps({"cluster": cluster, "task": task}),
            )
            for task in tasks
        ]

    return start_processes


# Steps of 13 photos of 48, so that the last is smaller; nothing is random.
SETTINGS = (
    *("--ckpt=alexnet", "--train_from=conv5", "--views=1", "--batch_size=13"),
    *("--dropout=0", "--precision=float32", "--learning_rate=1e-4"),
)


def finish(started):
    """Return exit codes, what is on stdout, and the lines of stderr."""
    texts = [process.communicate(timeout=180) for process in started]
    codes = [process.returncode for process in started]
    outputs, errors = zip(*texts, strict=True)
    return codes, outputs, [[*filter(None, error.split("\n"))] for error in errors]


@pytest.mark.slow
def test_two_processes_train_as_one_does(
    start, shared_records, weights_cache, tmp_path
):
    alone, joint = tmp_path / "alone", tmp_path / "joint"
    flags = (*SETTINGS, "--epochs=3", f"--data={shared_records}")
    done = processes.run_command(
        "train.py", *flags, f"--run_dir={alone}", cache=weights_cache
    )
    assert done.returncode == 0, done.stderr
    both = start(2, *flags, f"--run_dir={joint}")
    codes, outputs, errors = finish(both)
    assert codes == [0, 0], errors
    assert "best epoch" in outputs[0]
    assert any("process 1 of 2" in line for line in errors[0])
    assert "waiting until 2 processes have started (TF_CONFIG)" in errors[0]
    assert not [line for line in errors[0] if "WARNING" in line]
    assert (outputs[1], errors[1]) == ("", [])  # the chief alone speaks
    names = ("loss", "accuracy", "validation_loss", "validation_accuracy")
    results = [finished_run.read(str(path)).results() for path in (alone, joint)]
    for expected, result in zip(*results, strict=True):
        for name in names:
            assert result[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5)
    assert {p.name for p in joint.iterdir()} == {p.name for p in alone.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1], ids=["chief", "worker"])
def test_a_process_that_is_killed_stops_the_others_and_all_resume(
    start, shared_records, tmp_path, victim
):
    """Three end with the same weights, to the bit, as three that were never killed."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = (*SETTINGS, "--epochs=6", f"--data={shared_records}", "--snapshot_steps=3")
    assert finish(start(3, *flags, f"--run_dir={whole}"))[0] == [0, 0, 0]
    three = start(3, *flags, f"--run_dir={killed}")
    try:
        snapshots = killed / "checkpoints"
        processes.wait_until(three[0], lambda: [*snapshots.glob("*.npz")])
        three[victim].kill()
        codes, _, errors = finish(three)
    finally:
        for process in three:
            process.kill()
    assert codes == [-9 if rank == victim else 2 for rank in range(3)], errors
    for rank in {0, 1, 2} - {victim}:
        line = errors[rank][-1]
        assert line.startswith(f"error: process {rank + 1} of 3: {killed}: another ")
        assert "does not answer (" in line
        assert line.endswith("). Start all of them again with --resume.")
        assert "defined at" not in line
        assert rank == 0 or errors[rank] == [line]
    codes, outputs, errors = finish(start(3, f"--resume={killed}"))
    assert codes == [0, 0, 0], errors
    assert sum("resumed after step" in line for line in errors[0]) == 1
    assert (outputs[1:], errors[1:]) == (("", ""), [[], []])
    assert weights(killed) == weights(whole)


def weights(directory):
    with zipfile.ZipFile(directory / "model.keras") as archive:
        return archive.read("model.weights.h5")


@pytest.mark.slow
def test_an_error_is_one_line_of_each_process(start, tmp_path):
    codes, outputs, errors = finish(start(3, f"--data={tmp_path}"))
    assert (codes, outputs) == ([2, 2, 2], ("", "", ""))
    for rank, lines in enumerate(errors):
        assert lines[-1].startswith(f"error: process {rank + 1} of 3: {tmp_path}: ")
        assert len(lines) == (2 if rank == 0 else 1)  # the chief: a note on --ckpt


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


def test_a_number_that_another_process_cannot_compute_does_not_reach_the_chiefs():
    import tensorflow as tf

    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")  # sums this process alone
    other = distributed.ProcessGroup(rank=1, size=2, strategy=strategy)
    assert other.of_chief(np.array([np.nan, 1.0], np.float32)).tolist() == [0.0, 0.0]
