import io
import json
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from model.checkpoints import errors, reading
from model.checkpoints.checkpoint import Checkpoint
from pipeline.system.errors import DataError
from tests.support import cases, files
from tests.support.weights import arrays, damage, memory, torch_files

WEIGHTS = {
    "conv1/weights": np.arange(12, dtype=np.float32).reshape(2, 2, 3, 1),
    "conv1/biases": np.array([-0.5], np.float32),
    "half": np.array([1.5, -2], np.float16),
    "steps": np.array(7),
}


# {format: function that returns the bytes of WEIGHTS in it}.
FILES = {
    "PyTorch (zip)": lambda: torch_files.state_dict_file(WEIGHTS),
    "PyTorch (legacy)": lambda: torch_files.legacy_state_dict_file(WEIGHTS),
    "safetensors": lambda: safetensors.numpy.save(WEIGHTS),
    "pickled dict of arrays": lambda: pickle.dumps(WEIGHTS),
}


@pytest.fixture
def read(tmp_path):
    """Return a function that writes a file and reads it."""

    def read(data, name="w"):
        (tmp_path / name).write_bytes(data)
        return reading.read(tmp_path / name)

    return read


class TestFormats:
    @pytest.mark.parametrize("suffix", ["", ".pth", ".safetensors", ".ckpt", ".txt"])
    @pytest.mark.parametrize("kind", FILES)
    def test_the_content_decides_and_not_the_name(self, read, kind, suffix):
        checkpoint = read(FILES[kind](), f"weights{suffix}")
        assert checkpoint.format == kind
        arrays.assert_same(checkpoint.tensors, WEIGHTS)

    def test_the_digest_is_the_same_in_every_format(self, read, tmp_path):
        tf.raw_ops.SaveV2(
            prefix=str(tmp_path / "tf"),
            tensor_names=list(WEIGHTS),
            shape_and_slices=[""] * len(WEIGHTS),
            tensors=list(WEIGHTS.values()),
        )
        digests = {read(make()).digest() for make in FILES.values()}
        assert digests == {reading.read(tmp_path / "tf").digest()}

    def test_safetensors_may_hold_bfloat16(self, read):
        values = np.array([1.5, -3e38], ml_dtypes.bfloat16)
        tensors = read(safetensors.numpy.save({"a": values})).tensors
        arrays.assert_same(tensors, {"a": values})

    def test_eight_bit_floats_in_safetensors_are_refused(self, read):
        with pytest.raises(errors.UnknownFormat, match="w: holds numbers of a kind"):
            read(header({"a": entry(end=2, dtype="F8_E5M2")}, bytes(2)))

    def test_a_safetensors_header_may_begin_like_a_pickle(self, read):
        """Its length, which comes first, ends in the byte 0x80: one in 32 does."""
        files = [safetensors.numpy.save(WEIGHTS, {"a": "x" * n}) for n in range(256)]
        data = next(data for data in files if data[0] == 0x80)
        assert read(data).format == "safetensors"

    def test_metadata_of_safetensors_are_read(self, read):
        metadata = {"variant": "x", "note": "\u00e4"}
        assert read(safetensors.numpy.save(WEIGHTS, metadata)).metadata == metadata

    @cases.table(
        "data",
        {
            "short": b"PNG",
            "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
            "pickle of text": pickle.dumps({"a": 1}, 0),
            "zeros": bytes(100),
            "braces": b"{" * 100,
            "too long a header": struct.pack("<Q", 100_000_001) + b"{" + bytes(100),
            "empty zip": b"PK\5\6" + bytes(18),
        },
    )
    def test_an_unknown_format_is_named(self, read, data):
        message = r"w\.pth: not a weight file .*it reads TensorFlow"
        with pytest.raises(errors.UnknownFormat, match=message):
            read(data, "w.pth")

    @pytest.mark.parametrize(
        "name", ["w.h5", "w.keras", "w.pth", "w.safetensors", "w.npz", "w.ckpt.index"]
    )
    def test_a_pointer_of_git_lfs_is_called_that(self, read, name):
        with pytest.raises(DataError, match=f"{name}: .*Git LFS.* Run git lfs pull"):
            read(files.LFS_POINTER, name)

    def test_an_empty_file_is_named(self, read):
        with pytest.raises(errors.CorruptCheckpoint, match="w: is empty"):
            read(b"")

    @pytest.mark.parametrize("name", ["no/where.pth", "where.pth", "where.index"])
    def test_a_missing_file_is_named(self, tmp_path, name):
        with pytest.raises(errors.MissingCheckpoint, match="no such file"):
            reading.read(tmp_path / name)

    def test_code_in_a_pickle_is_not_run(self, read, tmp_path):
        evil = torch_files.calling("os", "system", f"mkdir {tmp_path}/evil")
        message = r"w\.pth: .*asks for os\.syst"
        with pytest.raises(errors.UnsafeCheckpoint, match=message):
            read(evil, "w.pth")
        assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def header(entries, data=b"", *, size=None):
    """Return a safetensors file; `entries` are its header, as JSON or bytes."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(shape=(2,), begin=0, end=8, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


class TestHostileSafetensors:
    def test_a_good_file_of_the_same_making_is_read(self, read):
        content = read(header({"a": entry()}, struct.pack("<2f", 1, 2)))
        assert content.tensors["a"].tolist() == [1, 2]

    @cases.table(
        "data",
        {
            "cut off": header({"a": entry()}, bytes(8))[:-1],
            "header beyond the file": header({"a": entry()}, bytes(8), size=9_999_999),
            "not UTF-8": header(b'{"\xff\xfe": 1}'),
            "deep JSON": header(b"{" * 10_000),
            "overlap": header({"a": entry(), "b": entry(begin=4, end=12)}, bytes(12)),
            "far beyond": header({"a": entry(end=2**40)}, bytes(8)),
            "shape overflows": header({"a": entry(shape=(2**62, 2**62))}, bytes(8)),
        },
    )
    def test_every_fault_is_named_and_takes_no_memory(self, read, data):
        message = r"w: not a readable safetensors file \("
        with (
            memory.at_most(1 << 20),
            pytest.raises(errors.CorruptCheckpoint, match=message),
        ):
            read(data)

    def test_damaged_files_are_read_or_refused(self, read):
        data = safetensors.numpy.save(WEIGHTS)
        assert damage.outcomes(read, data, 400)["CorruptCheckpoint"]


class TestDigest:
    def digest(self, tensors, **others):
        return Checkpoint(tensors=tensors, format="x", **others).digest()

    def test_only_tensors_count(self):
        turned = dict(reversed(WEIGHTS.items()))
        others = {"metadata": {"a": "b"}, "ignored_entries": ("Adam",)}
        assert self.digest(WEIGHTS) == self.digest(turned, **others)

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

    def test_a_name_that_is_no_unicode_has_a_digest(self, read):
        assert len(read(pickle.dumps({"\ud800": np.zeros(1)})).digest()) == 64


def zip_of(*names):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in names:
            file.writestr(name, b"x")
    return data.getvalue()


@cases.table(
    "data, message",
    {
        "web page": (b"\n<!DOCTYPE html><html>", "is a web page.*download the file"),
        "TensorFlow's graph": (b"\n\x05\n\x03abc", "SavedModel or a frozen graph"),
        "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + bytes(100), "TensorFlow Lite"),
        "TensorFlow.js": (
            json.dumps({"modelTopology": {}, "weightsManifest": []}).encode(),
            r"a model of TensorFlow\.js",
        ),
        "configuration": (
            json.dumps({"class_name": "Sequential", "config": {}}).encode(),
            "without weights.*--arch",
        ),
        "tar.gz": (b"\x1f\x8b" + bytes(100), "is an archive. Unpack it"),
        "TorchScript": (
            zip_of("m/data.pkl", "m/constants.pkl", "m/code/a.py"),
            r"TorchScript.*state_dict\(\)",
        ),
    },
)
def test_a_file_is_called_what_it_is(tmp_path, data, message):
    (tmp_path / "w.pb").write_bytes(data)
    with pytest.raises(errors.UnknownFormat, match=rf"w\.pb: .*{message}"):
        reading.read(tmp_path / "w.pb")


def test_onnx_is_known_by_its_name(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    with pytest.raises(errors.UnknownFormat, match=r"model\.onnx: is an ONNX file"):
        reading.read(tmp_path / "model.onnx")


@pytest.mark.parametrize("data", [b"{}", b"{" * 9000, b"\x08", b"\x0a\xff", b"[1]"])
def test_others_are_not_guessed(tmp_path, data):
    (tmp_path / "w").write_bytes(data + bytes(30))
    assert reading.describe(tmp_path / "w") == ""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lora_unet_down.lora_down.weight", "LoRA"),
        ("model.diffusion_model.input_blocks.0.0.weight", "a diffusion model"),
        ("model.layers.0.self_attn.q_proj.weight", "a language model"),
        ("features.0.weight", ""),
    ],
)
def test_models_of_other_kinds_are_known_by_their_tensors(name, kind):
    found = reading.describe_tensors({name: np.zeros(1)})
    assert kind in found and bool(kind) == bool(found)
