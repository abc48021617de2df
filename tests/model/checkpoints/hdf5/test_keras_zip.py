import json
import random
import zipfile

import keras
import numpy as np
import pytest

from model.checkpoints import errors, reading
from model.checkpoints.hdf5 import keras_zip

NAMES = ("config.json", "metadata.json", "model.weights.h5")


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((8, 8, 3))
    left = keras.layers.Conv2D(2, 3, name="left")(inputs)
    right = keras.layers.Conv2D(2, 3, name="right")(inputs)
    both = keras.layers.Concatenate()([right, left])
    both = keras.layers.BatchNormalization(scale=False, name="norm")(both)
    made = keras.Model(inputs, keras.layers.Dense(3, name="out")(both))
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


def assert_is(found, model):
    expected = {
        f"{layer.name}/{variable.name}": variable.numpy()
        for layer in model.layers
        for variable in layer.weights
    }
    assert len(expected) == 9
    assert found.tensors.keys() == expected.keys()
    assert all((found.tensors[name] == expected[name]).all() for name in expected)


class TestRead:
    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_names_and_values(self, path, model, members, method):
        found = keras_zip.read(write(path, members, method))
        assert_is(found, model)
        assert found.format == "Keras 3 model"
        assert found.metadata == {"keras_version": keras.__version__}
        assert found.keras_config.encode() == members["config.json"]
        assert found.ignored_entries == ()

    def test_what_a_file_of_ours_says_of_itself(self, path, model, members):
        own = {keras_zip.OWN_NAME: json.dumps({"network": "alexnet"})}
        write(path, {**members, **own})
        assert reading.read(path).metadata["network"] == "alexnet"
        keras.models.load_model(path)  # which passes over it

    def test_other_members_are_let_be(self, path, model, members):
        others = {"../outside": b"x", "assets/a": b"y", "b.pkl": b"\x80"}
        assert_is(keras_zip.read(write(path, {**others, **members})), model)
        assert sorted(path.parent.iterdir()) == [path]
        assert not (path.parents[1] / "outside").exists()

    def test_code_is_not_run(self, path, model, members, tmp_path):
        """A Lambda is a name among others."""
        about = json.loads(members["config.json"])
        code = f"lambda x: open({str(tmp_path / 'trace')!r}, 'w')"
        layer = {"class_name": "Lambda", "config": {"name": "l", "function": code}}
        about["config"]["layers"].append(layer)
        config = {"config.json": json.dumps(about)}
        assert_is(keras_zip.read(write(path, {**members, **config})), model)
        assert not (tmp_path / "trace").exists()


class TestHostile:
    def test_missing(self, path):
        with pytest.raises(errors.MissingCheckpoint, match="no such file"):
            keras_zip.read(path)

    @pytest.mark.parametrize("name", NAMES)
    def test_something_else(self, path, members, name):
        write(path, {key: members[key] for key in members if key != name})
        with pytest.raises(errors.UnknownFormat, match=f"no {name}"):
            keras_zip.read(path)

    @pytest.mark.parametrize("name", NAMES)
    def test_bomb(self, path, members, name):
        """72 MB of zeros, 70 kB in the file."""
        zeros = {name: bytes(72_000_000)}
        write(path, {**members, **zeros}, zipfile.ZIP_DEFLATED)
        with pytest.raises(errors.CorruptCheckpoint, match="bytes unpacked, in"):
            keras_zip.read(path)

    def test_another_compression(self, path, members):
        write(path, members, zipfile.ZIP_BZIP2)
        with pytest.raises(errors.CorruptCheckpoint, match="stored or deflated"):
            keras_zip.read(path)

    def test_encrypted(self, path, members):
        data = bytearray(write(path, members).read_bytes())
        data[data.index(b"PK\x01\x02") + 8] |= 1
        data[data.index(b"PK\x03\x04") + 6] |= 1
        path.write_bytes(data)
        with pytest.raises(errors.CorruptCheckpoint, match="encrypted"):
            keras_zip.read(path)

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("config.json", b"{", "configuration is not JSON"),
            ("config.json", b"\xff", r"damaged zip file \('utf-8' codec"),
            ("metadata.json", b"[]", "is a list"),
        ],
        ids=["no JSON", "no text", "no dict"],
    )
    def test_texts(self, path, members, name, content, said):
        write(path, {**members, name: content})
        with pytest.raises(errors.CorruptCheckpoint, match=said):
            keras_zip.read(path)

    def test_no_hdf5(self, path, members):
        write(path, {**members, "model.weights.h5": b"x"})
        with pytest.raises(errors.UnknownFormat, match=r"m\.keras:model.*not an HDF5"):
            keras_zip.read(path)

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_mutations(self, path, members, tmp_path, method):
        """Its checksums find all; so only damage to the zip itself comes through."""
        data = write(path, members, method).read_bytes()
        headers = [
            at + step
            for mark in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")
            for at in range(len(data))
            if data.startswith(mark, at)
            for step in range(46)
            if at + step < len(data)
        ]
        rng = random.Random(2)
        read = 0
        for _ in range(400):
            copy = bytearray(data)
            at = rng.choice(headers) if rng.random() < 0.6 else rng.randrange(len(data))
            kind = rng.randrange(4)
            if kind == 0:
                copy[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                size = rng.choice((2, 4))
                value = rng.choice((0, 1, 256**size - 1, 256**size // 2))
                copy[at : at + size] = value.to_bytes(size, "little")
            elif kind == 2:
                copy[at] = rng.randrange(256)
            else:
                del copy[at:]
            path.write_bytes(copy)
            try:
                config, _ = keras_zip.unpack(path, tmp_path / "w.h5")
            except errors.CheckpointError as error:
                assert str(path) in str(error)
            else:
                read += 1
                assert config.encode() == members["config.json"]
                found = (tmp_path / "w.h5").read_bytes()
                assert found == members["model.weights.h5"]
        assert 50 < read < 350
