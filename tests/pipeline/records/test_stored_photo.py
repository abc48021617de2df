import concurrent.futures
import dataclasses
import os

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import stored_photo
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
RECORD = stored_photo.Record(
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
    example = tf.train.Example.FromString(stored_photo.serialize(RECORD))
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
    assert stored_photo.parse(example.SerializeToString(), "here") == RECORD


@given(
    st.binary(max_size=300),
    st.integers(min_value=-(2**63), max_value=2**63 - 1),
    st.binary(max_size=20),
)
def test_round_trip(encoded, label, filename):
    record = dataclasses.replace(
        RECORD, encoded=encoded, label=label, path=os.fsdecode(filename)
    )
    assert stored_photo.parse(stored_photo.serialize(record), "here") == record


@pytest.mark.parametrize("name", stored_photo.FEATURES)
@pytest.mark.parametrize("count", [0, 2])
def test_a_feature_that_is_not_there_once_is_an_error(name, count):
    example = stored_photo.Example.FromString(stored_photo.serialize(RECORD))
    feature = example.features.feature[name]
    if count:
        feature.bytes_list.value.extend([b"1"] * count)
    else:
        del example.features.feature[name]
    with pytest.raises(DataError, match=f"here: (lacks )?feature {name}"):
        stored_photo.parse(example.SerializeToString(), "here")


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\xff", b""])
def test_garbage_is_an_error(data):
    with pytest.raises(DataError, match="here: "):
        stored_photo.parse(data, "here")


def test_threads_share_a_reader(found):
    photos = stored_photo.StoredPhotos(found.directory)
    rows = found.included()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        records = list(pool.map(photos.record, rows * 5))
    assert [record.sha256 for record in records] == [row.sha256 for row in rows * 5]


def test_another_photo_than_the_rows_is_an_error(found):
    photos = stored_photo.StoredPhotos(found.directory)
    row = dataclasses.replace(found.included()[0], sha256="0" * 64)
    with pytest.raises(DataError, match=rf"{row.file} .*{row.path}.*differs from"):
        photos.image(row)


def test_a_record_file_that_is_gone_is_named(found, tmp_path):
    with pytest.raises(FileNotFoundError, match=found.included()[0].file):
        stored_photo.StoredPhotos(tmp_path).image(found.included()[0])
