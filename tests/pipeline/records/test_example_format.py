import dataclasses
import os

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
RECORD = example_format.Record(
    encoded=b"\xff\xd8\xff\xd9",
    format="jpeg",
    height=3,
    width=5,
    label=1,
    class_name="roses",
    path="roses/1.jpg",
    sha256="0" * 64,
)


def test_tensorflow_reads_what_we_write():
    example = tf.train.Example.FromString(example_format.serialize(RECORD))
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
    assert example_format.parse(example.SerializeToString(), "here") == RECORD


@given(
    st.binary(max_size=300),
    st.integers(min_value=-(2**63), max_value=2**63 - 1),
    st.binary(max_size=20),
)
def test_round_trip(encoded, label, filename):
    record = dataclasses.replace(
        RECORD, encoded=encoded, label=label, path=os.fsdecode(filename)
    )
    assert example_format.parse(example_format.serialize(record), "here") == record


@pytest.mark.parametrize("name", example_format.FEATURES)
@pytest.mark.parametrize("count", [0, 2])
def test_a_feature_that_is_not_there_once_is_an_error(name, count):
    example = example_format.Example.FromString(example_format.serialize(RECORD))
    feature = example.features.feature[name]
    if count:
        feature.bytes_list.value.extend([b"1"] * count)
    else:
        del example.features.feature[name]
    with pytest.raises(DataError, match=f"here: feature {name}"):
        example_format.parse(example.SerializeToString(), "here")


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\xff", b""])
def test_garbage_is_an_error(data):
    with pytest.raises(DataError, match="here: "):
        example_format.parse(data, "here")
