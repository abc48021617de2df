import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import example_format
from pipeline.system.errors import DataError

VALUES = {
    "image/encoded": b"\xff\xd8\xff\xd9",
    "image/format": b"jpeg",
    "image/height": 3,
    "image/width": 5,
    "image/class/label": 1,
    "image/class/text": b"roses",
    "image/filename": b"roses/1.jpg",
    "image/sha256": b"0" * 64,
}


def test_tensorflow_reads_what_we_write():
    example = tf.train.Example.FromString(example_format.serialize(VALUES))
    found = {
        name: (feature.bytes_list.value or feature.int64_list.value)[0]
        for name, feature in example.features.feature.items()
    }
    assert found == VALUES


def test_we_read_what_tensorflow_writes():
    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    features = {name: feature(value) for name, value in VALUES.items()}
    features["another"] = feature(7)
    example = tf.train.Example(features=tf.train.Features(feature=features))
    assert example_format.parse(example.SerializeToString()) == VALUES


@given(
    st.binary(max_size=300),
    st.integers(min_value=-(2**63), max_value=2**63 - 1),
    st.binary(max_size=20),
)
def test_round_trip(encoded, label, filename):
    values = VALUES | {
        "image/encoded": encoded,
        "image/class/label": label,
        "image/filename": filename,
    }
    assert example_format.parse(example_format.serialize(values)) == values


def test_same_values_same_bytes():
    reordered = dict(reversed(VALUES.items()))
    assert example_format.serialize(VALUES) == example_format.serialize(reordered)


@pytest.mark.parametrize("name", example_format.FEATURES)
def test_missing_feature_is_an_error(name):
    rest = {key: value for key, value in VALUES.items() if key != name}
    with pytest.raises(DataError, match=name):
        example_format.serialize(rest)
    example = example_format.Example.FromString(example_format.serialize(VALUES))
    del example.features.feature[name]
    with pytest.raises(DataError, match=f"feature {name} is missing"):
        example_format.parse(example.SerializeToString())


def test_unknown_feature_is_an_error():
    with pytest.raises(DataError, match="image/colour"):
        example_format.serialize(VALUES | {"image/colour": b"red"})


def test_wrong_kind_is_an_error():
    with pytest.raises(DataError, match="image/height: expected int"):
        example_format.serialize(VALUES | {"image/height": b"3"})


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\xff", b""])
def test_garbage_is_an_error(data):
    with pytest.raises(DataError):
        example_format.parse(data)
