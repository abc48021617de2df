"""Describe files that Graft does not read as weights, and what to do with them."""

import re
from collections.abc import Iterable
from pathlib import Path

_BEGINNING = 1 << 16
_KERAS = "Pass the Keras or PyTorch model that it was made from."
_ARCHIVE = "an archive. Unpack it and pass the weight file or folder in it."
_SIGNATURES = {  # regular expressions for the beginning of a file, ignoring case
    rb"[\xef\xbb\xbf\s]*<(!doctype html|html|head|\?xml)": "a web page. The address "
    "may need a login, or leads to a page about the file: download the file itself.",
    rb"....TFL3": f"a TensorFlow Lite file, made for phones. {_KERAS}",
    rb"GGUF": "a GGUF file, a language model.",
    rb"\s*\{.*\"(weightsManifest|modelTopology)\"": "a model of TensorFlow.js, whose "
    f"weights lie in other files. {_KERAS}",
    rb"\s*\{.{,200}\"class_name\"": "the configuration of a Keras network, without "
    "weights. Pass the file of its weights as --ckpt, and this one as --arch.",
    rb"\x1f\x8b|7z\xbc\xaf|Rar!|\xfd7zXZ|BZh|.{257}ustar": _ARCHIVE,
}
_ENDINGS = {  # of the names of files without a signature
    ".onnx": f"an ONNX file, made to run a network and not to train it. {_KERAS}",
    ".pb": "a graph of TensorFlow (a SavedModel or a frozen graph) without a folder of "
    f"variables. {_KERAS}",
}
TORCHSCRIPT = (
    "TorchScript, a program with its weights. Save the weights alone in PyTorch: "
    "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')."
)
_TENSORS = {  # regular expressions for the names of tensors
    r"lora_|\.(hada|lokr)_w|_lora\b": "LoRA: changes of another model's weights",
    r"model\.diffusion_model\.|(down|up)_blocks\.\d+\.|double_blocks\.\d+\.|"
    r"first_stage_model\.": "a part of a diffusion model, which makes images",
    r"model\.layers\.\d+\.(self_attn|mlp)\.|transformer\.h\.\d+\.": "a language model",
}


def describe(path: Path) -> str:
    """Return what a file is, and what to do; "" if that is unknown."""
    with path.open("rb") as file:
        start = file.read(_BEGINNING)
    for pattern, text in _SIGNATURES.items():
        if re.match(pattern, start, re.IGNORECASE | re.DOTALL):
            return text
    return _ENDINGS.get(path.suffix.lower(), "")


def describe_tensors(names: Iterable[str]) -> str:
    """Return the kind of model that has tensors of such names; "" if it is unknown."""
    text = "\n".join(names)
    found = (kind for pattern, kind in _TENSORS.items() if re.search(pattern, text))
    return next(found, "")
