import dataclasses
import json
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from model.checkpoints import errors, reading
from tests.support import cases
from tests.support.weights import arrays, damage, torch_files

WEIGHTS = {
    "conv1/weights": np.arange(12, dtype=np.float32).reshape(2, 2, 3, 1),
    "conv1/biases": np.array([-0.5], np.float32),
    "half": np.array([1.5, -2], np.float16),
    "steps": np.array(7),
}


def torch_legacy():
    tensors, storages = torch_files.tensors(WEIGHTS)
    sizes = [array.itemsize for array in WEIGHTS.values()]
    sized = {key: (storages[key], sizes[int(key)]) for key in storages}
    return torch_files.legacy_file(torch_files.ordered_dict(tensors), sized)


# {format: function that returns the bytes of WEIGHTS in it}.
FILES = {
    "PyTorch (zip)": lambda: torch_files.state_dict_file(WEIGHTS),
    "PyTorch (legacy)": torch_legacy,
    "safetensors": lambda: safetensors.numpy.save(WEIGHTS),
    "pickled dict of arrays": lambda: pickle.dumps(WEIGHTS),
}


class TestFormats:
    @pytest.mark.parametrize("suffix", ["", ".pth", ".safetensors", ".ckpt", ".txt"])
    @pytest.mark.parametrize("kind", FILES)
    def test_the_content_decides_and_not_the_name(self, tmp_path, kind, suffix):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(FILES[kind]())
        checkpoint = reading.read(path)
        assert checkpoint.format == kind
        arrays.assert_same(checkpoint.tensors, WEIGHTS)

    @pytest.mark.parametrize("kind", FILES)
    def test_the_digest_is_the_same_in_every_format(self, tmp_path, kind):
        (tmp_path / "w").write_bytes(FILES[kind]())
        prefix = str(tmp_path / "tf")
        shapes = [""] * len(WEIGHTS)
        tf.raw_ops.SaveV2(
            prefix=prefix,
            tensor_names=list(WEIGHTS),
            shape_and_slices=shapes,
            tensors=list(WEIGHTS.values()),
        )
        expected = reading.read(Path(prefix)).digest()
        assert reading.read(tmp_path / "w").digest() == expected

    def test_names_in_a_nested_pickle_are_paths(self, tmp_path):
        layers = {"conv1": [np.zeros(2), np.ones(3)], "conv2": {"kernel": np.ones(1)}}
        (tmp_path / "w").write_bytes(pickle.dumps(layers))
        assert reading.read(tmp_path / "w").tensors.keys() == {
            "conv1/0",
            "conv1/1",
            "conv2/kernel",
        }

    def test_safetensors_may_hold_bfloat16(self, tmp_path):
        values = np.array([1.5, -3e38], ml_dtypes.bfloat16)
        safetensors.numpy.save_file({"a": values}, tmp_path / "w")
        arrays.assert_same(reading.read(tmp_path / "w").tensors, {"a": values})

    @pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
    def test_eight_bit_floats_in_safetensors_are_refused(self, tmp_path, dtype):
        data = header({"a": entry(end=2, dtype=dtype)}, bytes(2))
        (tmp_path / "w").write_bytes(data)
        with pytest.raises(errors.UnknownFormat, match="w: holds numbers of a kind"):
            reading.read(tmp_path / "w")

    def test_a_safetensors_header_may_begin_like_a_pickle(self, tmp_path):
        """Its length, which comes first, ends in the byte 0x80: one in 32 does."""
        for number in range(256):
            safetensors.numpy.save_file(WEIGHTS, tmp_path / "w", {"a": "x" * number})
            if (tmp_path / "w").read_bytes()[0] == 0x80:
                break
        assert reading.read(tmp_path / "w").format == "safetensors"

    def test_metadata_of_safetensors_are_read(self, tmp_path):
        metadata = {"variant": "x", "note": "\u00e4"}
        safetensors.numpy.save_file(WEIGHTS, tmp_path / "w", metadata)
        assert reading.read(tmp_path / "w").metadata == metadata

    @cases.table(
        "data",
        {
            "short": b"PNG",
            "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
            "gzip": b"\x1f\x8b\x08" + bytes(100),
            "web page": b"<!DOCTYPE html><html>404</html>",
            "pickle of text": pickle.dumps({"a": 1}, 0),
            "zeros": bytes(100),
            "braces": b"{" * 100,
            "header beyond the limit": struct.pack("<Q", 100_000_001)
            + b"{"
            + bytes(100),
            "empty zip": b"PK\5\6" + bytes(18),
        },
    )
    def test_an_unknown_format_is_named(self, tmp_path, data):
        (tmp_path / "w.pth").write_bytes(data)
        with pytest.raises(
            errors.UnknownFormat,
            match=r"w\.pth: not a weight file .*it reads TensorFlow",
        ):
            reading.read(tmp_path / "w.pth")

    def test_another_zip_file_is_named(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
            archive.writestr("notes.txt", "no weights")
        with pytest.raises(errors.UnknownFormat, match=r"w\.zip: a zip file, but"):
            reading.read(tmp_path / "w.zip")

    def test_an_empty_file_is_named(self, tmp_path):
        (tmp_path / "w").write_bytes(b"")
        with pytest.raises(errors.CorruptCheckpoint, match="w: is empty"):
            reading.read(tmp_path / "w")

    @pytest.mark.parametrize("name", ["no/where.pth", "where.pth", "where.index"])
    def test_a_missing_file_is_named(self, tmp_path, name):
        with pytest.raises(errors.MissingCheckpoint, match="no such file"):
            reading.read(tmp_path / name)

    def test_code_in_a_pickle_is_not_run(self, tmp_path):
        data = b"\x80\x02cos\nsystem\n" + torch_files.text(f"mkdir {tmp_path}/evil")
        (tmp_path / "w.pth").write_bytes(data + b"\x85R.")
        with pytest.raises(
            errors.UnsafeCheckpoint, match=r"w\.pth: .*asks for os\.syst"
        ):
            reading.read(tmp_path / "w.pth")
        assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def header(entries, data=b"", *, size=None):
    """Return a safetensors file; `entries` are its header, as JSON or bytes."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(shape=(2,), begin=0, end=8, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


class TestHostileSafetensors:
    def test_a_good_file_of_the_same_making_is_read(self, tmp_path):
        (tmp_path / "w").write_bytes(header({"a": entry()}, struct.pack("<2f", 1, 2)))
        assert reading.read(tmp_path / "w").tensors["a"].tolist() == [1, 2]

    @cases.table(
        "data",
        {
            "cut off": header({"a": entry()}, bytes(8))[:-1],
            "more bytes than stated": header({"a": entry()}, bytes(9)),
            "header beyond the file": header({"a": entry()}, bytes(8), size=99_999_999),
            "not UTF-8": header(b'{"\xff\xfe": 1}'),
            "cut JSON": header(b'{"a": '),
            "deep JSON": header(b"{" * 10_000),
            "overlap": header({"a": entry(), "b": entry(begin=4, end=12)}, bytes(12)),
            "gap": header({"a": entry(), "b": entry(begin=12, end=20)}, bytes(20)),
            "negative": header({"a": entry(begin=-8, end=0)}, bytes(8)),
            "far beyond": header({"a": entry(end=2**40)}, bytes(8)),
            "shape overflows": header({"a": entry(shape=(2**62, 2**62))}, bytes(8)),
            "unknown dtype": header({"a": entry(dtype="OBJECT")}, bytes(8)),
            "nothing": header({"a": {}}, bytes(8)),
        },
    )
    def test_every_fault_is_named_and_takes_no_memory(self, tmp_path, data):
        (tmp_path / "w").write_bytes(data)
        tracemalloc.start()
        try:
            with pytest.raises(
                errors.CorruptCheckpoint, match=r"w: not a readable safetensors file \("
            ):
                reading.read(tmp_path / "w")
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()

    def test_damaged_files_are_read_or_refused(self, tmp_path):
        def read(copy):
            (tmp_path / "w").write_bytes(copy)
            reading.read(tmp_path / "w")

        data = safetensors.numpy.save(WEIGHTS)
        assert damage.outcomes(read, data, 400)["CorruptCheckpoint"]


class TestDigest:
    def digest(self, tensors):
        return reading.Checkpoint(tensors=tensors, format="x").digest()

    def test_only_tensors_count(self):
        whole = reading.Checkpoint(tensors=WEIGHTS, format="x", metadata={"a": "b"})
        assert whole.digest() == self.digest(dict(reversed(WEIGHTS.items())))
        assert (
            dataclasses.replace(whole, ignored_entries=("Adam",)).digest()
            == whole.digest()
        )

    @cases.table(
        "change",
        {
            "value": {"half": np.array([1.5, 2], np.float16)},
            "shape": {"half": np.array([[1.5, -2]], np.float16)},
            "dtype and bytes": {"half": np.array([1.5, -2], np.float32)},
            "dtype": {"half": WEIGHTS["half"].view(np.int16)},
            "one more": {"other": np.zeros(0)},
        },
    )
    def test_values_shapes_and_types_count(self, change):
        assert self.digest(WEIGHTS | change) != self.digest(WEIGHTS)

    def test_names_count(self):
        assert self.digest({"a": np.zeros(1)}) != self.digest({"b": np.zeros(1)})

    def test_the_layout_in_memory_does_not_count(self):
        kernel = np.arange(6.0).reshape(2, 3)
        turned = np.asfortranarray(kernel)
        assert self.digest({"a": kernel}) == self.digest({"a": turned})

    def test_a_name_that_is_no_unicode_has_a_digest(self, tmp_path):
        (tmp_path / "w").write_bytes(pickle.dumps({"\ud800": np.zeros(1)}))
        assert len(reading.read(tmp_path / "w").digest()) == 64
