"""Files that people take for weights are called what they are."""

import io
import json
import zipfile

import numpy as np
import pytest

from model.checkpoints import errors, other_formats, reading
from tests.support import cases


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
    assert other_formats.describe(tmp_path / "w") == ""


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
    found = other_formats.describe_tensors({name: np.zeros(1)})
    assert kind in found and bool(kind) == bool(found)
