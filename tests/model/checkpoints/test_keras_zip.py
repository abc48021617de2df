"""Models of Keras 3, which are zip files."""

import json
import zipfile

import keras
import numpy as np
import pytest

from model.checkpoints import errors, reading
from tests.support.weights import arrays, damage

NAMES = ("config.json", "metadata.json", "model.weights.h5")


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Conv2D(2, 3, name="left")(inputs)
    outputs = keras.layers.BatchNormalization(scale=False, name="norm")(outputs)
    made = keras.Model(inputs, keras.layers.Dense(3, name="out")(outputs))
    rng = np.random.default_rng(0)
    for variable in made.weights:
        variable.assign(rng.random(variable.shape))
    return made


@pytest.fixture(scope="module")
def members(model, tmp_path_factory):
    """{name: content} of what Keras wrote."""
    path = tmp_path_factory.mktemp("keras") / "m.keras"
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.keras"


def write(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def assert_is(content, model):
    expected = {
        f"{layer.name}/{variable.name}": variable.numpy()
        for layer in model.layers
        for variable in layer.weights
    }
    assert len(expected) == 7
    arrays.assert_same(content.tensors, expected)


class TestRead:
    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_weights_have_the_names_and_values_of_keras(
        self, path, model, members, method
    ):
        content = reading.read(write(path, members, method))
        assert_is(content, model)
        assert content.format == "Keras 3 model"
        assert content.metadata == {"keras_version": keras.__version__}
        assert content.keras_config.encode() == members["config.json"]
        assert content.ignored_entries == ()

    def test_metadata_that_graft_wrote_are_read(self, path, model, members):
        own = {reading.OWN_MEMBER: json.dumps({"network": "alexnet"})}
        write(path, {**members, **own})
        assert reading.read(path).metadata["network"] == "alexnet"
        keras.models.load_model(path)  # which ignores it

    def test_other_members_are_not_unpacked(self, path, model, members):
        others = {"../outside": b"x", "assets/a": b"y", "b.pkl": b"\x80"}
        assert_is(reading.read(write(path, {**others, **members})), model)
        assert sorted(path.parent.iterdir()) == [path]
        assert not (path.parents[1] / "outside").exists()

    def test_code_in_a_lambda_layer_is_not_run(self, path, model, members, tmp_path):
        changed = json.loads(members["config.json"])
        code = f"lambda x: open({str(tmp_path / 'trace')!r}, 'w')"
        layer = {"class_name": "Lambda", "config": {"name": "l", "function": code}}
        changed["config"]["layers"].append(layer)
        config = {"config.json": json.dumps(changed)}
        assert_is(reading.read(write(path, {**members, **config})), model)
        assert not (tmp_path / "trace").exists()


def corrupt(message):
    return pytest.raises(errors.CorruptCheckpoint, match=message)


class TestHostile:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_zip_file_of_something_else_is_named(self, path, members, name):
        write(path, {key: members[key] for key in members if key != name})
        with pytest.raises(errors.UnknownFormat, match=f"no {name}"):
            reading.read(path)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_zip_bomb_is_refused(self, path, members, name):
        """72 MB of zeros, 70 kB in the file."""
        zeros = {name: bytes(72_000_000)}
        write(path, {**members, **zeros}, zipfile.ZIP_DEFLATED)
        with corrupt("bytes unpacked, in"):
            reading.read(path)

    def test_another_compression_is_refused(self, path, members):
        write(path, members, zipfile.ZIP_BZIP2)
        with corrupt("stored or deflated"):
            reading.read(path)

    def test_an_encrypted_file_is_refused(self, path, members):
        data = bytearray(write(path, members).read_bytes())
        data[data.index(b"PK\x01\x02") + 8] |= 1
        data[data.index(b"PK\x03\x04") + 6] |= 1
        path.write_bytes(data)
        with corrupt("encrypted"):
            reading.read(path)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("config.json", b"{", "configuration is not JSON"),
            ("config.json", b"\xff", r"damaged zip file \('utf-8' codec"),
            ("metadata.json", b"[]", "is a list"),
            (reading.OWN_MEMBER, b"\xff", "Graft's description of the file is not"),
        ],
        ids=["no JSON", "no text", "no dict", "of Graft"],
    )
    def test_damaged_texts_are_refused(self, path, members, name, content, message):
        write(path, {**members, name: content})
        with corrupt(message):
            reading.read(path)

    def test_weights_that_are_not_hdf5_are_refused(self, path, members):
        write(path, {**members, "model.weights.h5": b"x"})
        with pytest.raises(errors.UnknownFormat, match=r"m\.keras:model.*not an HDF5"):
            reading.read(path)

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_damage_is_found_or_harmless(self, path, members, tmp_path, method):
        """Members have checksums, so only damage to the zip itself may go unnoticed."""
        data = write(path, members, method).read_bytes()
        headers = [
            at + step
            for mark in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")
            for at in range(len(data))
            if data.startswith(mark, at)
            for step in range(min(46, len(data) - at))
        ]

        def read(copy):
            path.write_bytes(copy)
            config, _ = reading._unpack_keras_zip(path, tmp_path / "w.h5")
            weights = (tmp_path / "w.h5").read_bytes()
            # Whoever sets the size to 0 gets nothing, and no checksum is compared.
            assert config.encode() in (b"", members["config.json"])
            assert weights in (b"", members["model.weights.h5"])

        counts = damage.outcomes(read, data, 400, aims=headers)
        assert 50 < counts["read"] < 350
