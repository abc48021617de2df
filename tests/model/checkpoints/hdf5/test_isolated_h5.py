import contextlib
import subprocess
import sys

import h5py
import ml_dtypes
import numpy as np
import pytest

from model.checkpoints import errors
from model.checkpoints.hdf5 import isolated_h5
from pipeline.system import sandbox
from tests.support import cases, files
from tests.support.weights import arrays

MB = 1 << 20
ARRAYS = {
    "bfloat16": np.array([1.5, -3e38], ml_dtypes.bfloat16),
    "big_endian": np.array([1, -2, 3.5], ">f8"),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "float16": np.array([[0.5], [-1]], np.float16),
    "float32": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "int64": np.array(-7),
    "inner/uint8": np.arange(5, dtype=np.uint8),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.h5"


def write(path, datasets, **options):
    with h5py.File(path, "w") as file:
        for name, array in datasets.items():
            file.create_dataset(name, data=array, **options)
    return path


class TestContent:
    def test_arrays_of_every_type_and_shape_come_over(self, path):
        arrays.assert_same(isolated_h5.read(write(path, ARRAYS)).arrays, ARRAYS)

    @pytest.mark.parametrize("compression", ["gzip", "lzf"])
    def test_compressed_arrays_are_read(self, path, compression):
        expected = {"a": np.arange(6000, dtype=np.float32).reshape(60, 100)}
        write(path, expected, compression=compression, shuffle=True, fletcher32=True)
        arrays.assert_same(isolated_h5.read(path).arrays, expected)

    def test_texts_of_keras_and_names_of_other_data_are_listed(self, path):
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = "{}"
            file.attrs["backend"] = np.bytes_(b"th\xc3\xa9ano")
            file.attrs["something"] = "else"
            file["words"] = np.array([b"a", b"b"])
            file["structure"] = np.zeros(2, [("a", "f4"), ("b", "i4")])
            file["optimizer_weights/m"] = np.ones(3)
            group = file.create_group("layer")
            group.attrs["weight_names"] = [b"a:0", b"b:0"]
            group.attrs["layer_names0"] = np.array(["c"], dtype=object)
            file.create_group("empty").attrs["weight_names"] = []
        content = isolated_h5.read(path)
        assert content.texts == {
            "": {"model_config": "{}", "backend": "théano"},
            "layer": {"weight_names": ["a:0", "b:0"], "layer_names0": ["c"]},
            "empty": {"weight_names": []},
        }
        assert not content.arrays
        assert sorted(content.others) == ["optimizer_weights/m", "structure", "words"]

    def test_arrays_are_limited_by_the_size_of_the_file(self):
        assert isolated_h5.limit_for(100) == 64 * MB
        assert isolated_h5.limit_for(10 * MB) == 200 * MB
        assert isolated_h5.limit_for(600 * MB) == 4096 * MB
        assert isolated_h5.limit_for(5000 * MB) == 5000 * MB


def virtual(file):
    layout = h5py.VirtualLayout((3,), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "a", (3,))
    file.create_virtual_dataset("a", layout)


def cycle(file):
    file["a/b"] = file["/"]


def two_names(file):
    file["a"] = np.ones(3)
    file["b"] = file["a"]


def name_list(file):
    file.attrs["layer_names"] = ["a\x1b[2J"]


def items(datasets):
    """Return a function that stores {name: array or link} in a file."""
    return lambda file: [file.__setitem__(*item) for item in datasets.items()]


def dataset(**options):
    """Return a function that creates the dataset "a"."""
    return lambda file: file.create_dataset("a", **options)


ZEROS = np.zeros(20_000_000, np.float32)
CORRUPT = {
    "external link": (
        items({"a": h5py.ExternalLink("/etc/passwd", "/")}),
        "a is a link to elsewhere",
    ),
    "soft link": (
        items({"a": h5py.SoftLink("/b"), "b": np.ones(3)}),
        "a is a link to elsewhere",
    ),
    "virtual": (virtual, "a takes its numbers from other files"),
    "external": (
        dataset(shape=3, dtype=np.uint8, external=[("/etc/passwd", 0, 3)]),
        "a takes its numbers from other files",
    ),
    "cycle": (cycle, "a/b is in the file under two names"),
    "two names": (two_names, "b is in the file under two names"),
    "fill value": (
        dataset(shape=ZEROS.shape, dtype="f4", compression="gzip", fillvalue=0),
        "the numbers of a are not in the file",
    ),
    "sum": (
        lambda file: [
            file.create_dataset(name, data=ZEROS[:6_000_000], compression="gzip")
            for name in "abc"
        ],
        "c, of shape (6000000,), is more than such a file can hold",
    ),
    "zeros": (
        dataset(data=ZEROS, chunks=(1_000_000,), compression="gzip"),
        "a, of shape (20000000,), is more than",
    ),
    "never written": (
        dataset(shape=(1000,), dtype="f4"),
        "the numbers of a are not in the file",
    ),
    "scaled": (
        dataset(data=np.ones(100), scaleoffset=4),
        "a is compressed in a way that is not read; save it without",
    ),
    "control": (items({"a\nb": np.ones(3)}), "an impossible name, 'a\\nb'"),
    "no text": (items({b"\xff": np.ones(3)}), "an impossible name, "),
    "name list": (name_list, "attribute layer_names has impossible names"),
}


class TestHostile:
    @cases.table(("make", "message"), CORRUPT)
    def test_data_elsewhere_and_false_claims_are_refused(self, path, make, message):
        with h5py.File(path, "w") as file:
            make(file)
        with pytest.raises(errors.CorruptCheckpoint) as caught:
            isolated_h5.read(path)
        assert str(caught.value).startswith(f"{path}: {message}")

    @pytest.mark.parametrize("data", [b"", b"\x89HDF", b"x" * 1000])
    def test_a_file_of_another_format_is_named(self, path, data):
        path.write_bytes(data)
        with pytest.raises(errors.UnknownFormat, match=r"v\.zip: not an HDF5 file"):
            isolated_h5.read(path, where="v.zip")

    def test_a_file_that_is_cut_off_is_named(self, path):
        write(path, ARRAYS)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(errors.CorruptCheckpoint, match=r"\(.*truncated file"):
            isolated_h5.read(path)

    def test_a_crash_of_the_library_costs_the_file_only(self, path):
        """The library descends without end into a B-tree that is its own child."""
        data = bytearray(write(path, ARRAYS).read_bytes())
        tree = data.index(b"TREE")
        data[tree + 5] = 1  # its level
        data[tree + 32 : tree + 40] = tree.to_bytes(8, "little")
        path.write_bytes(data)
        with pytest.raises(errors.CorruptCheckpoint, match=r"crashed|recursion|depth"):
            isolated_h5.read(path)

    def test_a_hang_of_the_library_costs_the_file_only(self, path):
        """The library walks without end along a B-tree that is its own neighbour."""
        data = bytearray(write(path, ARRAYS).read_bytes())
        tree = data.index(b"TREE")
        data[tree + 16 : tree + 24] = tree.to_bytes(8, "little")
        path.write_bytes(data)
        module = "model.checkpoints.hdf5.h5_process"
        child = sandbox.Child(module, task="test", environment={})
        with contextlib.closing(child), pytest.raises(sandbox.OutOfTime):
            request = {"path": str(path), "limit_bytes": 64 * MB, "cpu_s": 1}
            child.send(request, timeout_s=60)
            isolated_h5.receive(child.receive, "w")


def test_hdf5_is_read_without_tensorflow():
    program = (
        "import sys\n"
        "from model.checkpoints import reading\n"
        "assert not {'tensorflow', 'keras', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=files.ROOT, check=True)
