import os
import shutil
from pathlib import Path

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from model.checkpoints import errors, reading
from model.checkpoints.tensorflow import bundle_index, ckpt
from pipeline.records import tfrecord
from pipeline.system.errors import DataError
from tests.support import cases, files
from tests.support.weights import arrays, damage, memory

KERNEL = np.arange(12, dtype=np.float32).reshape(2, 2, 3, 1)
BIASES = np.array([-0.5], np.float32)
WEIGHTS = {"conv1/weights": KERNEL, "conv1/biases": BIASES}


def save(prefix, tensors):
    """Write a checkpoint of named tensors."""
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    return prefix


def read(prefix):
    """Return the tensors of a checkpoint, and what is ignored."""
    checkpoint = ckpt.read(prefix)
    return checkpoint.tensors, checkpoint.ignored_entries


@pytest.fixture
def prefix(tmp_path):
    """A checkpoint with WEIGHTS."""
    return save(tmp_path / "model.ckpt", WEIGHTS)


def data_file(prefix):
    return prefix.with_name(prefix.name + ".data-00000-of-00001")


def index_file(prefix):
    return prefix.with_name(prefix.name + ".index")


@pytest.fixture(scope="module")
def saved_by_tf1(tmp_path_factory):
    """A folder as training of TF1 leaves it: two steps, two optimizers, averages."""
    folder = tmp_path_factory.mktemp("tf1")
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        with v1.variable_scope("conv1"):
            kernel = v1.get_variable("weights", initializer=KERNEL)
            biases = v1.get_variable("biases", initializer=BIASES)
        step = v1.train.get_or_create_global_step()
        loss = tf.reduce_sum(kernel) * tf.reduce_sum(biases)
        train = [
            v1.train.MomentumOptimizer(0.0, 0.9).minimize(loss),
            v1.train.AdamOptimizer(0.0).minimize(loss, global_step=step),
            v1.train.RMSPropOptimizer(0.0).minimize(loss),
            tf.train.ExponentialMovingAverage(0.9).apply([kernel, biases]),
        ]
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver()
        for number in (1, 2):
            session.run(train)
            saver.save(session, str(folder / "model.ckpt"), global_step=number)
    return folder


class TestTf1:
    @pytest.mark.parametrize("name", ["", ".index", ".meta", "/..", "/../checkpoint"])
    def test_prefix_files_and_folder_name_a_checkpoint(self, saved_by_tf1, name):
        prefix = f"{saved_by_tf1}/model.ckpt-2"
        checkpoint = reading.read(Path(os.path.normpath(prefix + name)))
        assert checkpoint.format == "TensorFlow checkpoint"
        arrays.assert_same(checkpoint.tensors, WEIGHTS)

    def test_slots_and_counters_are_listed_as_ignored(self, saved_by_tf1):
        ignored_entries = reading.read(saved_by_tf1).ignored_entries
        both = ("conv1/biases/", "conv1/weights/")
        slots = {"Momentum", "Adam", "Adam_1", "RMSProp", "RMSProp_1"}
        expected = {name + slot for name in both for slot in slots}
        expected |= {name + "ExponentialMovingAverage" for name in both}
        expected |= {"global_step", "beta1_power", "beta2_power"}
        assert set(ignored_entries) == expected

    def test_a_copy_of_a_folder_does_not_lead_to_the_original(
        self, saved_by_tf1, tmp_path
    ):
        """TF1 writes absolute paths, here of the folder that was copied."""
        folder = shutil.copytree(saved_by_tf1, tmp_path / "copy")
        assert str(saved_by_tf1) in (folder / "checkpoint").read_text()
        assert ckpt.prefix_of(folder) == folder / "model.ckpt-2"

    @pytest.mark.parametrize(
        "state",
        [
            *(None, "", "no protocol buffer {", "\udcff"),
            'model_checkpoint_path: "/gone/x"',
            f'model_checkpoint_path: "{"x" * 5000}"',
            'model_checkpoint_path: "a\0b"',
        ],
    )
    def test_a_folder_is_read_without_a_good_state_file(self, prefix, state):
        """The file `checkpoint` is lost, broken, or names a file that is gone."""
        if state is not None:
            (prefix.parent / "checkpoint").write_text(state, errors="surrogateescape")
        arrays.assert_same(reading.read(prefix.parent).tensors, WEIGHTS)


class TestTf2:
    def test_keys_of_objects_are_the_names(self, tmp_path):
        layer = tf.Module()
        layer.kernel, layer.bias = tf.Variable(KERNEL), tf.Variable(BIASES)
        optimizer = tf.keras.optimizers.Adam(0.0)
        optimizer.build([layer.kernel, layer.bias])
        everything = tf.train.Checkpoint(conv1=layer, optimizer=optimizer)
        prefix = everything.save(str(tmp_path / "ckpt"))
        tensors, ignored = read(ckpt.prefix_of(tmp_path))
        assert prefix == str(ckpt.prefix_of(tmp_path))
        arrays.assert_same(tensors, {"conv1/kernel": KERNEL, "conv1/bias": BIASES})
        assert {"_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter"} < set(ignored)
        assert any(name.startswith("optimizer/") for name in ignored)

    def test_slots_of_older_optimizers_are_ignored(self, tmp_path):
        slot = "conv1/kernel/.OPTIMIZER_SLOT/optimizer/m"
        name = f"{slot}/.ATTRIBUTES/VARIABLE_VALUE"
        tensors, ignored = read(save(tmp_path / "x", WEIGHTS | {name: KERNEL}))
        arrays.assert_same(tensors, WEIGHTS)
        assert ignored == (slot,)


@pytest.mark.parametrize("name", ["optimizer", "opt", "a"])
def test_weights_of_keras_have_their_full_names(tmp_path, name):
    """Keys number the layers, and the shortest may lead through the optimizer."""
    model = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 2, name="conv1")]
    )
    model.compile(keras.optimizers.Adam(), "mse")
    model.fit(np.ones((1, 4, 4, 3)), np.ones((1, 3, 3, 2)), verbose=0)
    objects = {"model": model, name: model.optimizer}
    tf.train.Checkpoint(**objects).write(str(tmp_path / "x"))
    keys = tf.train.load_checkpoint(str(tmp_path / "x")).get_variable_to_shape_map()
    assert not any("conv1" in key for key in keys)
    tensors, ignored = read(tmp_path / "x")
    layer = model.get_layer("conv1")
    expected = {f"conv1/{v.name}": v.numpy() for v in layer.weights}
    arrays.assert_same(tensors, expected)
    assert f"{name}/_iterations" in ignored


def test_variables_in_parts_are_listed_as_ignored(tmp_path):
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable(
            "conv1/weights",
            shape=(4, 2),
            partitioner=v1.fixed_size_partitioner(2),
            initializer=v1.ones_initializer(),
        )
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "x"))
    tensors, ignored = read(tmp_path / "x")
    assert tensors == {}
    assert ignored == (f"conv1/weights{ckpt.IN_PARTS}",)


class TestVariables:
    def test_names_that_resemble_a_slot_are_weights(self, tmp_path):
        names = ("Adam_layer/w", "conv1/Momentum2", "my_global_step", "AdamNet/conv1/w")
        tensors, _ = read(save(tmp_path / "x", dict.fromkeys(names, KERNEL)))
        assert tensors.keys() == {*names}

    def test_numbers_of_every_type_are_read(self, tmp_path):
        values = {
            "float64": np.array([[1.5]]),
            "float16": np.array([1.5], np.float16),
            "int64": np.array(-(2**63)),
            "uint8": np.array([255], np.uint8),
            "bool": np.array([True, False]),
            "empty": np.zeros((0, 3), np.float32),
            "bfloat16": np.array([1.5, -3e38], ml_dtypes.bfloat16),
        }
        arrays.assert_same(read(save(tmp_path / "x", values))[0], values)

    def test_strings_are_ignored(self, tmp_path):
        words = tf.constant(["daisy", "roses"])
        tensors, ignored = read(save(tmp_path / "x", WEIGHTS | {"labels": words}))
        arrays.assert_same(tensors, WEIGHTS)
        assert ignored == ("labels",)


def missing(message):
    return pytest.raises(errors.MissingCheckpoint, match=message)


class TestFiles:
    @pytest.mark.parametrize("file", [index_file, data_file])
    def test_a_pointer_of_git_lfs_is_called_that(self, prefix, file):
        file(prefix).write_bytes(files.LFS_POINTER)
        with pytest.raises(DataError, match=f"{file(prefix)}: .*Git LFS"):
            reading.read(prefix)

    @pytest.mark.parametrize(
        ("file", "message"),
        [
            (index_file, r"ckpt\.index: no such file"),
            (
                data_file,
                r"no data file model\.ckpt\.data-00000-of-00001; copy it beside",
            ),
        ],
        ids=["index", "data"],
    )
    def test_a_missing_file_is_named(self, prefix, file, message):
        file(prefix).unlink()
        with missing(message):
            reading.read(index_file(prefix))

    def test_each_of_two_data_files_is_needed(self, tmp_path):
        parts = [
            str(save(tmp_path / f"part{number}", {name: value}))
            for number, (name, value) in enumerate(WEIGHTS.items())
        ]
        prefix = tmp_path / "both"
        tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=parts, destination_prefix=str(prefix)
        )
        arrays.assert_same(reading.read(prefix).tensors, WEIGHTS)
        (tmp_path / "both.data-00001-of-00002").unlink()
        with missing(r"no data file both\.data-00001-of-00002"):
            reading.read(prefix)

    @pytest.mark.parametrize("name", [".", ""])
    def test_the_working_folder_may_be_the_checkpoint(self, prefix, monkeypatch, name):
        monkeypatch.chdir(prefix.parent)
        arrays.assert_same(reading.read(Path(name)).tensors, WEIGHTS)
        index_file(prefix).unlink()
        with missing("a folder without one checkpoint"):
            reading.read(Path(name))

    def test_a_folder_with_several_checkpoints_is_refused(self, prefix):
        save(prefix.with_name("other"), WEIGHTS)
        with missing("a folder without one checkpoint"):
            reading.read(prefix.parent)


def corrupt(message):
    return pytest.raises(errors.CorruptCheckpoint, match=message)


class TestDamaged:
    @pytest.mark.parametrize("length", [0, 1, 40, 51])
    def test_a_data_file_that_is_cut_off_is_refused(self, prefix, length):
        data = data_file(prefix).read_bytes()
        assert len(data) == 13 * 4
        data_file(prefix).write_bytes(data[:length])
        with corrupt(f"52 bytes, its data files only {length}; "):
            reading.read(prefix)

    def test_a_changed_data_file_is_refused(self, prefix):
        data = bytearray(data_file(prefix).read_bytes())
        data[5] ^= 1
        data_file(prefix).write_bytes(data)
        with corrupt("not a readable TensorFlow"):
            reading.read(prefix)

    @cases.table(
        "change",
        {
            "empty": lambda data: b"",
            "cut": lambda data: data[:-1],
            "half": lambda data: data[: len(data) // 2],
            "something else": lambda data: b"x" * 500,
            "one bit": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
        },
    )
    def test_a_damaged_index_is_refused(self, prefix, change):
        index_file(prefix).write_bytes(change(index_file(prefix).read_bytes()))
        with corrupt(f"^{prefix}: not a readable"):
            reading.read(prefix)

    HEADER = (0, b"", b"\x08\x01")  # one data file

    def forged(self, prefix, entries):
        """Write an index of these (shared, added, value) entries, with checksums."""

        def varint(n):
            return bytes([n & 0x7F | 0x80, n >> 7 & 0x7F | 0x80, n >> 14])

        def block(entries):
            data = b""
            for shared, added, value in entries:
                data += varint(shared) + varint(len(added)) + varint(len(value))
                data += added + value
            data += bytes(4) + (1).to_bytes(4, "little") + b"\0"
            return data + tfrecord.masked_crc(data).to_bytes(4, "little")

        first = block(entries)
        handle = varint(0) + varint(len(first) - 5)
        second = block([(0, b"z", handle)])
        footer = bytes(2) + varint(len(first)) + varint(len(second) - 5)
        data = first + second + footer.ljust(40, b"\0") + bundle_index.MAGIC
        index_file(prefix).write_bytes(data)

    @pytest.mark.parametrize("length", [5000, 4096])
    def test_names_that_grow_without_end_are_refused(self, prefix, length):
        """Each begins as the one before, and so takes a few bytes of the file."""
        start = [self.HEADER, (0, b"a" * length, b"")]
        self.forged(prefix, [*start, *[(length - 1, b"b", b"")] * 30_000])
        with corrupt("longer than any variable's"):
            reading.read(prefix)

    def test_a_forged_index_without_faults_is_read(self, prefix):
        """So the forged files above are refused for their faults."""
        self.forged(prefix, [self.HEADER])
        assert reading.read(prefix).tensors == {}

    def test_an_index_that_claims_terabytes_takes_no_memory(self, prefix):
        """16 TB in six axes of 127 numbers."""
        shape = b"\x12\x18" + b"\x12\x02\x08\x7f" * 6
        self.forged(prefix, [self.HEADER, (0, b"a", b"\x08\x01" + shape + b"\x28\x04")])
        with corrupt(r"127\] in 4 bytes"), memory.at_most(1 << 20):
            reading.read(prefix)

    def test_damaged_files_are_read_or_refused(self, prefix):
        for file in (index_file(prefix), data_file(prefix)):
            data = file.read_bytes()

            def read(copy, file=file):
                file.write_bytes(copy)
                reading.read(prefix)

            assert damage.outcomes(read, data, 300)["CorruptCheckpoint"] > 100
            file.write_bytes(data)
