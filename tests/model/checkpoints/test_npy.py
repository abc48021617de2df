import io
import pickle
import zipfile

import numpy as np
import pytest

from model.checkpoints import errors, npy
from tests.support.weights import arrays, damage

KERNEL = np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2)
BIAS = np.array([0.5, -1], np.float32)


def npy_bytes(value):
    """Return what numpy.save writes; dicts are wrapped and pickled."""
    buffer = io.BytesIO()
    array = value if isinstance(value, np.ndarray) else np.array(value, dtype=object)
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def with_pickle(data):
    """Return an .npy whose header announces an object, with another pickle."""
    header = npy_bytes({})
    return header[: 10 + int.from_bytes(header[8:10], "little")] + data


def npz_bytes(compression=zipfile.ZIP_STORED, **members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, value in members.items():
            data = value if isinstance(value, bytes) else npy_bytes(value)
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


@pytest.fixture
def read(tmp_path):
    """Return a function that writes a file and reads it."""

    def read(data):
        (tmp_path / "w").write_bytes(data)
        return npy.read(tmp_path / "w")

    return read


class TestPickled:
    def test_dicts_of_named_arrays_are_read(self, read):
        """As caffe-tensorflow writes them."""
        content = read(npy_bytes({"conv1": {"weights": KERNEL, "biases": BIAS}}))
        assert content.format == "NumPy, pickled dict of arrays"
        expected = {"conv1/weights": KERNEL, "conv1/biases": BIAS}
        arrays.assert_same(content.tensors, expected)

    @pytest.mark.parametrize(
        ("rest", "expected"),
        [(npy.OWN_MARK + b'{"a": 1}', {"a": "1"}), (b"more", {}), (b"", {})],
        ids=["of Graft", "of others", "none"],
    )
    def test_metadata_after_the_pickle_are_read(self, read, rest, expected):
        content = read(npy_bytes({"conv1": {"biases": BIAS}}) + rest)
        arrays.assert_same(content.tensors, {"conv1/biases": BIAS})
        assert content.metadata == expected

    @pytest.mark.parametrize("text", [b"{", b"[]", b"\xff"])
    def test_damaged_metadata_are_refused(self, read, text):
        data = npy_bytes({"conv1": {"biases": BIAS}}) + npy.OWN_MARK + text
        with pytest.raises(errors.CorruptCheckpoint, match="Graft's description of"):
            read(data)

    def test_lists_of_arrays_are_numbered(self, read):
        """As the weights of Toronto's AlexNet are."""
        tensors = read(npy_bytes({"conv1": [KERNEL, BIAS]})).tensors
        arrays.assert_same(tensors, {"conv1/0": KERNEL, "conv1/1": BIAS})

    @pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
    def test_every_protocol_is_read(self, read, protocol):
        """Python 2 wrote 2; numpy.save writes 4."""
        wrapped = np.array({"a": {"weights": BIAS}}, dtype=object)
        tensors = read(with_pickle(pickle.dumps(wrapped, protocol))).tensors
        arrays.assert_same(tensors, {"a/weights": BIAS})

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (3, "expected a dict of arrays"),
            ({"a": "text"}, "expected a dict of arrays"),
            (np.array([{}, {}], dtype=object), "2 objects, expected one dict"),
        ],
        ids=["number", "text", "two dicts"],
    )
    def test_other_objects_are_refused(self, read, value, message):
        with pytest.raises(errors.CorruptCheckpoint, match=message):
            read(npy_bytes(value))


class TestPlain:
    @pytest.mark.parametrize(
        "array",
        [
            *(KERNEL, np.asfortranarray(KERNEL[0]), BIAS.astype(">f8"), np.array(7)),
            *(np.zeros((0, 3), np.float16), np.array([True, False])),
        ],
        ids=lambda array: f"{array.dtype.str} {array.shape}",
    )
    def test_one_array_is_called_array(self, read, array):
        content = read(npy_bytes(array))
        assert content.format == "NumPy array"
        arrays.assert_same(content.tensors, {"array": array})

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (npy_bytes(BIAS)[:-1], "7 bytes of values, expected 8"),
            (npy_bytes(BIAS) + b"x", "9 bytes of values, expected 8"),
            (npy_bytes(BIAS)[:60], "a header that cannot be parsed"),
            (npy_bytes(BIAS).replace(b"'<f4'", b"'<U1'"), "expected numbers"),
            (npy_bytes(BIAS).replace(b"(2,), }", b"(-2,)} "), "of shape"),
            (npy_bytes(BIAS).replace(b"{", b"["), "a header that cannot be parsed"),
            (npy.SIGNATURE + b"\x09\x00" + bytes(20), "cannot be parsed"),
            (npy.SIGNATURE + b"\x02\x00\xff\xff\xff\x7f", "cannot be parsed"),
            (
                npy_bytes(BIAS).replace(b"(2,), }        ", b"(99999999999,)}"),
                "expected 399,999,999,996",
            ),
        ],
        ids=str,
    )
    def test_damage_is_named(self, read, data, message):
        with pytest.raises(errors.CorruptCheckpoint, match=message):
            read(data)


class TestNpz:
    @pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_arrays_have_the_names_of_their_members(self, read, kind):
        content = read(npz_bytes(kind, conv1_W=KERNEL, conv1_b=BIAS))
        assert content.format == "NumPy archive (.npz)"
        arrays.assert_same(content.tensors, {"conv1_W": KERNEL, "conv1_b": BIAS})

    def test_members_that_are_pickled_are_refused(self, read):
        with pytest.raises(errors.CorruptCheckpoint, match="expected numbers"):
            read(npz_bytes(arr_0={"conv1": {"weights": KERNEL}}))

    def test_a_zip_bomb_is_refused(self, read):
        """200 MB in 200 KB."""
        data = npz_bytes(zipfile.ZIP_DEFLATED, a=np.zeros(50_000_000, np.float32))
        message = "200,000,128 bytes unpacked"
        with pytest.raises(errors.CorruptCheckpoint, match=message):
            read(data)

    def test_a_zip_bomb_that_states_another_size_is_refused(self, read):
        data = npz_bytes(zipfile.ZIP_DEFLATED, a=np.zeros(1000, np.float32))
        size = len(npy_bytes(np.zeros(1000, np.float32))).to_bytes(4, "little")
        assert data.count(size) == 2
        data = data.replace(size, (200).to_bytes(4, "little"))
        message = r"damaged|is not of the size"
        with pytest.raises(errors.CorruptCheckpoint, match=message):
            read(data)


@pytest.mark.parametrize(
    "data",
    [
        npy_bytes({"conv1": {"weights": KERNEL, "biases": BIAS}}),
        npy_bytes(KERNEL),
        npz_bytes(a=KERNEL, b=BIAS),
        npz_bytes(zipfile.ZIP_DEFLATED, a=KERNEL, b=BIAS),
    ],
    ids=["pickled", "plain", "npz", "npz, deflated"],
)
def test_damaged_files_are_read_or_refused(read, data):
    assert damage.outcomes(read, data, 400)["CorruptCheckpoint"]
