import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import tfrecord
from pipeline.system.errors import DataError


def write(path, payloads):
    path.write_bytes(b"".join(map(tfrecord.frame, payloads)))
    return path


def test_tensorflow_reads_what_we_write(tmp_path):
    payloads = [b"", b"a", b"x" * 100_000]
    path = write(tmp_path / "a.tfrecord", payloads)
    found = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    assert found == payloads


def test_we_read_what_tensorflow_writes(tmp_path):
    path = tmp_path / "a.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for payload in (b"one", b"two" * 1000):
            writer.write(payload)
    assert [payload for _, payload in tfrecord.scan(path)] == [b"one", b"two" * 1000]


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_records_are_scanned_with_their_offsets(tmp_path_factory, payloads):
    path = write(tmp_path_factory.mktemp("r") / "a.tfrecord", payloads)
    data = path.read_bytes()
    scanned = list(tfrecord.scan(path))
    assert [payload for _, payload in scanned] == payloads
    for offset, payload in scanned:
        end = offset + len(payload) + tfrecord.OVERHEAD_BYTES
        assert tfrecord.unframe(data[offset:end], "here") == payload


@pytest.mark.parametrize("byte", range(40))
def test_every_damaged_byte_is_noticed(tmp_path, byte):
    path = write(tmp_path / "a.tfrecord", [b"some payload of 24 bytes"])
    data = bytearray(path.read_bytes())
    assert len(data) == 40
    data[byte] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.tfrecord"):
        list(tfrecord.scan(path))


@pytest.mark.parametrize("length", [1, 11, 12, 20, 39])
def test_cut_file_is_noticed(tmp_path, length):
    path = write(tmp_path / "a.tfrecord", [b"some payload of 24 bytes"])
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError):
        list(tfrecord.scan(path))


def test_length_is_checked_before_memory_is_taken(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes((1 << 62).to_bytes(8, "little") + bytes(20))
    with pytest.raises(DataError, match="28 left"):
        list(tfrecord.scan(path))


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [(3, 24, "no record starts"), (0, 25, "5 bytes"), (40, 50, "ends inside")],
)
def test_bytes_that_are_not_one_record_are_refused(start, end, message):
    data = b"".join(map(tfrecord.frame, (b"first", b"second")))
    with pytest.raises(DataError, match=f"here: .*{message}"):
        tfrecord.unframe(data[start:end], "here")
