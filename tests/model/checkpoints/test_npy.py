import io
import pickle
import zipfile

import numpy as np
import pytest

from model.checkpoints import errors, npy, reading
from tests.support.weights import arrays, damage, torch_files

KERNEL = np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2)
BIAS = np.array([0.5, -1], np.float32)


def npy_bytes(value):
    """Return what numpy.save writes; dicts are wrapped and pickled."""
    buffer = io.BytesIO()
    array = value if isinstance(value, np.ndarray) else np.array(value, dtype=object)
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz_bytes(compression=zipfile.ZIP_STORED, **members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, value in members.items():
            data = value if isinstance(value, bytes) else npy_bytes(value)
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


@pytest.fixture
def write(tmp_path):
    def write(data, name="w.npy"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


class TestPickled:
    def test_dicts_of_named_arrays_are_read(self, write):
        """As caffe-tensorflow writes them."""
        path = write(npy_bytes({"conv1": {"weights": KERNEL, "biases": BIAS}}))
        tensors, kind, _ = npy.read(path)
        assert kind == "NumPy, pickled dict of arrays"
        arrays.assert_same(tensors, {"conv1/weights": KERNEL, "conv1/biases": BIAS})

    @pytest.mark.parametrize(
        ("rest", "expected"),
        [(npy.OWN_MARK + b"{}", b"{}"), (b"more", b""), (b"", b"")],
        ids=["of Graft", "of others", "none"],
    )
    def test_metadata_after_the_pickle_are_returned(self, write, rest, expected):
        path = write(npy_bytes({"conv1": {"biases": BIAS}}) + rest)
        tensors, _, metadata = npy.read(path)
        arrays.assert_same(tensors, {"conv1/biases": BIAS})
        assert metadata == expected

    def test_lists_of_arrays_are_numbered(self, write):
        """As the weights of Toronto's AlexNet are."""
        path = write(npy_bytes({"conv1": [KERNEL, BIAS]}))
        arrays.assert_same(npy.read(path)[0], {"conv1/0": KERNEL, "conv1/1": BIAS})

    @pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
    def test_every_protocol_is_read(self, write, protocol):
        """Python 2 wrote 2; numpy.save writes 4."""
        header = npy_bytes({})
        header = header[: 10 + int.from_bytes(header[8:10], "little")]
        wrapped = np.array({"a": {"weights": BIAS}}, dtype=object)
        path = write(header + pickle.dumps(wrapped, protocol))
        arrays.assert_same(npy.read(path)[0], {"a/weights": BIAS})

    def test_code_in_a_pickle_is_not_run(self, write, tmp_path):
        evil = b"\x80\x02cos\nsystem\n" + torch_files.text(f"touch {tmp_path}/evil")
        header = npy_bytes({})
        header = header[: 10 + int.from_bytes(header[8:10], "little")]
        with pytest.raises(errors.UnsafeCheckpoint, match=r"asks for os\.system"):
            npy.read(write(header + evil + b"\x85R."))
        assert not (tmp_path / "evil").exists()

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (3, "expected a dict of arrays"),
            ({"a": "text"}, "expected a dict of arrays"),
            (np.array([{}, {}], dtype=object), "2 objects, expected one dict"),
        ],
        ids=["number", "text", "two dicts"],
    )
    def test_other_objects_are_refused(self, write, value, message):
        with pytest.raises(errors.CorruptCheckpoint, match=message):
            npy.read(write(npy_bytes(value)))


class TestPlain:
    @pytest.mark.parametrize(
        "array",
        [
            KERNEL,
            np.asfortranarray(KERNEL[0]),
            BIAS.astype(">f8"),
            np.array(7),
            np.zeros((0, 3), np.float16),
            np.array([True, False]),
        ],
        ids=lambda array: f"{array.dtype.str} {array.shape}",
    )
    def test_one_array_is_called_array(self, write, array):
        tensors, kind, _ = npy.read(write(npy_bytes(array)))
        assert kind == "NumPy array"
        np.testing.assert_array_equal(tensors["array"], array)
        assert tensors["array"].shape == array.shape

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (npy.SIGNATURE, "expected NumPy's mark"),
            (npy_bytes(BIAS)[:-1], "7 bytes of values, expected 8"),
            (npy_bytes(BIAS) + b"x", "9 bytes of values, expected 8"),
            (npy_bytes(BIAS)[:60], "a header of version 1"),
            (npy_bytes(BIAS).replace(b"(2,)", b"(9,)"), "expected 36"),
            (npy_bytes(BIAS).replace(b"'<f4'", b"'<U1'"), "no numbers"),
            (npy_bytes(BIAS).replace(b"(2,)", b"(-2)"), "and shape"),
            (npy_bytes(BIAS).replace(b"{", b"["), "a header that cannot be parsed"),
            (npy.SIGNATURE + b"\x09\x00" + bytes(20), "a header of version 9"),
            (npy.SIGNATURE + b"\x02\x00\xff\xff\xff\x7f", "and 2,147,483,647 bytes"),
        ],
        ids=str,
    )
    def test_damage_is_named(self, write, data, message):
        with pytest.raises(errors.CorruptCheckpoint, match=message):
            npy.read(write(data))

    def test_a_shape_beyond_memory_is_refused(self, write):
        data = npy_bytes(BIAS).replace(b"(2,), }        ", b"(99999999999,)}")
        assert b"99999999999" in data
        with pytest.raises(errors.CorruptCheckpoint, match="expected 399,999,999,996"):
            npy.read(write(data))


class TestNpz:
    @pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_arrays_have_the_names_of_their_members(self, write, kind):
        path = write(npz_bytes(kind, conv1_W=KERNEL, conv1_b=BIAS), "w.npz")
        checkpoint = reading.read(path)
        assert checkpoint.format == "NumPy archive (.npz)"
        arrays.assert_same(checkpoint.tensors, {"conv1_W": KERNEL, "conv1_b": BIAS})

    def test_members_that_are_pickled_dicts_are_read(self, write):
        layers = {"conv1": {"weights": KERNEL}}
        path = write(npz_bytes(arr_0=layers), "w.npz")
        arrays.assert_same(npy.read(path)[0], {"conv1/weights": KERNEL})
        path = write(npz_bytes(arr_0=layers, b=BIAS), "w.npz")
        arrays.assert_same(
            npy.read(path)[0], {"arr_0/conv1/weights": KERNEL, "b": BIAS}
        )

    def test_a_zip_bomb_is_refused(self, write):
        """200 MB in 200 KB."""
        data = npz_bytes(zipfile.ZIP_DEFLATED, a=np.zeros(50_000_000, np.float32))
        with pytest.raises(
            errors.CorruptCheckpoint, match="200,000,128 bytes unpacked"
        ):
            npy.read(write(data, "w.npz"))

    def test_a_zip_bomb_that_states_another_size_is_refused(self, write):
        data = npz_bytes(zipfile.ZIP_DEFLATED, a=np.zeros(1000, np.float32))
        size = len(npy_bytes(np.zeros(1000, np.float32))).to_bytes(4, "little")
        assert data.count(size) == 2
        data = data.replace(size, (200).to_bytes(4, "little"))
        with pytest.raises(
            errors.CorruptCheckpoint, match=r"damaged|is not of the size"
        ):
            npy.read(write(data, "w.npz"))

    def test_code_in_a_member_is_not_run(self, write):
        evil = npy_bytes({})[:128] + b"\x80\x02cos\nsystem\n."
        with pytest.raises(errors.UnsafeCheckpoint, match=r"w\.npz:a\.npy: .*os\.sys"):
            npy.read(write(npz_bytes(a=evil), "w.npz"))


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
def test_damaged_files_are_read_or_refused(write, data):
    counts = damage.outcomes(lambda copy: reading.read(write(copy)), data, 400)
    assert counts["CorruptCheckpoint"]
