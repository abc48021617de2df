"""Read any weight file as tensors by name; its content decides which reader does it.

Files that are not read as weights are described, with what to do with them.
"""

import dataclasses
import re
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

import safetensors
import safetensors.numpy

from model.checkpoints import bounds, caffemodel, errors, npy
from model.checkpoints.checkpoint import Checkpoint, parse_dict, parse_metadata
from model.checkpoints.hdf5 import h5, isolated_h5
from model.checkpoints.pickles import pth, unpickle
from model.checkpoints.tensorflow import ckpt, saved_model_folder
from pipeline.sources.lists import label_files
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError

_MAX_TENSORS = 100_000
_MAX_HEADER_BYTES = 16 << 20  # of safetensors, which as many tensors need
# Members of a model of Keras 3, and the one with the metadata of Graft.
_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
OWN_MEMBER = f"{h5.OWN_MARK}.json"
_MAX_TEXT_BYTES = 32 << 20
# Entries that make a folder one model: those that Teachable Machine writes, with the
# class names in LABELS beside them, or those of an unpacked .keras file of Keras 3.
_KERAS_2_FILE, _SAVED_MODEL = "keras_model.h5", "model.savedmodel"
_IN_FOLDER = (_KERAS_2_FILE, _SAVED_MODEL, _WEIGHTS)
LABELS = "labels.txt"
_MAX_LABELS_BYTES = 1 << 20
# Members of a zip file that are unpacked, by the end of their paths.
_ZIPPED_FILE = re.compile(rf"(?:.*/)?({re.escape(_KERAS_2_FILE)}|{re.escape(LABELS)})")
_ZIPPED_SAVED_MODEL = re.compile(
    r"(?:.*/)?((?:saved_model|keras_metadata)\.pb|"
    r"variables/variables\.(?:index|data-\d{5}-of-\d{5}))"
)
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
_TORCHSCRIPT = (
    "TorchScript, a program with its weights. Save the weights alone in PyTorch: "
    "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')."
)
_TENSORS = {  # regular expressions for the names of tensors
    r"lora_|\.(hada|lokr)_w|_lora\b": "LoRA: changes of another model's weights",
    r"model\.diffusion_model\.|(down|up)_blocks\.\d+\.|double_blocks\.\d+\.|"
    r"first_stage_model\.": "a part of a diffusion model, which makes images",
    r"model\.layers\.\d+\.(self_attn|mlp)\.|transformer\.h\.\d+\.": "a language model",
}


def read(path: Path, *, keras_config: str = "") -> Checkpoint:
    """Read a weight file; nothing in it is executed.

    `path` is a file, the prefix of a TensorFlow checkpoint, or a folder with a
    checkpoint or model; `keras_config` the JSON text of the network's configuration, if
    it is not in the file.
    """
    has_graph = (path.parent / saved_model_folder.GRAPH).is_file()
    if path.is_file() and path.name in saved_model_folder.NAMES and has_graph:
        path = path.parent
    inside = next((path / n for n in _IN_FOLDER if (path / n).exists()), path)
    checkpoint = _read(inside, keras_config)
    if len(checkpoint.tensors) > _MAX_TENSORS:
        raise errors.CorruptCheckpoint(
            f"{path}: {len(checkpoint.tensors):,} tensors, more than any network has"
        )
    metadata = dict(checkpoint.metadata)
    # Beside a file of any other name, the labels may belong to another model.
    if inside.name in (_KERAS_2_FILE, _SAVED_MODEL):
        metadata = _read_class_names(inside.parent / LABELS) | metadata
    # Where model/export/exporting.py keeps it for files of other formats than Keras'.
    config = metadata.pop("keras_config", "")
    return dataclasses.replace(
        checkpoint,
        where=str(path),
        metadata=metadata,
        keras_config=keras_config or checkpoint.keras_config or config,
    )


def read_keras_config(path: Path) -> str:
    """Read the configuration of a network from a JSON or Keras file."""
    if path.suffix != ".json":
        config = read(path).keras_config
    elif path.stat().st_size <= _MAX_HEADER_BYTES:
        config = path.read_text("utf-8", errors="replace")
    else:
        config = ""
    if "class_name" not in config:
        raise errors.UnknownFormat(
            f"{path}: does not hold the configuration of a Keras network. Save it by "
            "model.to_json(), or pass a model that Keras saved as .keras or .h5"
        )
    return config


def _read_class_names(path: Path) -> dict[str, str]:
    """Return the class names beside a model as metadata; nothing if there are none."""
    if not path.is_file() or path.stat().st_size > _MAX_LABELS_BYTES:
        return {}
    try:
        names = label_files.read(path, is_quiet=True).names
    except DataError as error:
        command_line.note(f"class names are not read, because {error}")
        return {}
    return {"class_names": "\n".join(names)}


def _read(path: Path, keras_config: str) -> Checkpoint:
    if (path / saved_model_folder.GRAPH).is_file():
        return saved_model_folder.read(path)
    prefix = ckpt.prefix_of(path)
    if prefix is not None:
        return ckpt.read(prefix)
    if not path.is_file():
        problem = "a folder without one checkpoint" if path.is_dir() else "no such file"
        raise errors.MissingCheckpoint(
            f"{path}: {problem}; expected a weight file, or the prefix of a TensorFlow "
            "checkpoint"
        )
    file_system.refuse_lfs_pointer(path)
    return _read_file(path, keras_config)


def _read_file(path: Path, keras_config: str) -> Checkpoint:
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise errors.CorruptCheckpoint(f"{path}: is empty; copy or download it again")
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(path, keras_config)
    if start.startswith(isolated_h5.SIGNATURE):
        return h5.read(path, keras_config=keras_config)
    if start.startswith(npy.SIGNATURE):
        return npy.read(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _MAX_HEADER_BYTES:
        return _read_safetensors(path)
    if start[:1] == b"\x80":
        return _read_pickle(path)
    if kind := describe(path):
        raise errors.UnknownFormat(f"{path}: is {kind}")
    if caffemodel.recognises(path):
        return caffemodel.read(path)
    raise errors.UnknownFormat(
        f"{path}: not a weight file that Graft reads; it reads TensorFlow's .index, "
        "Caffe's .caffemodel, PyTorch's .pth and .pt, Keras' .keras and .h5, "
        ".safetensors, .npy, .npz and pickled dicts of arrays"
    )


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


def _read_zip(path: Path, keras_config: str) -> Checkpoint:
    with bounds.open_zip(path) as file:
        names = file.namelist()
    if any(_ZIPPED_SAVED_MODEL.fullmatch(name) for name in names) or any(
        name.rpartition("/")[2] == _KERAS_2_FILE for name in names
    ):
        return _read_zipped_model(path, keras_config)
    if any(name.endswith("/constants.pkl") for name in names):
        raise errors.UnknownFormat(f"{path}: is {_TORCHSCRIPT}")
    if any(name.endswith(".npy") for name in names):
        return npy.read(path)
    if any(name.endswith("/data.pkl") for name in names):
        return Checkpoint(tensors=pth.read_zip(path), format="PyTorch (zip)")
    return _read_keras_zip(path)


def _read_keras_zip(path: Path) -> Checkpoint:
    """Read a model file of Keras 3 (.keras), of which only a few members are read.

    Source: keras/src/saving/saving_lib.py.
    """
    with file_system.scratch_folder() as folder:
        weights = folder / _WEIGHTS
        config, metadata = _unpack_keras_zip(path, weights)
        where = f"{path}:{_WEIGHTS}"
        hdf5 = isolated_h5.read(weights, where=where)
    content = h5.interpret(hdf5, keras_config=config)
    return dataclasses.replace(content, format="Keras 3 model", metadata=metadata)


def _unpack_keras_zip(path: Path, weights: Path) -> tuple[str, dict[str, str]]:
    """Write the HDF5 file inside a model file to `weights`.

    Return the JSON text of the model's configuration, and metadata: the version of
    Keras and what a file that Graft wrote says about itself.
    """
    with bounds.open_zip(path) as file:
        members = {info.filename: info for info in file.infolist()}
        for name in (_CONFIG, _METADATA, _WEIGHTS):
            if name not in members:
                raise errors.UnknownFormat(
                    f"{path}: a zip file, but not of a Keras model (no {name})"
                )
        infos = [members[n] for n in (_CONFIG, _METADATA, OWN_MEMBER) if n in members]
        bounds.check_zip_members(infos, path, max_bytes=_MAX_TEXT_BYTES)
        limit = isolated_h5.limit_for(path.stat().st_size)
        bounds.check_zip_members([members[_WEIGHTS]], path, max_bytes=limit)
        config, of_keras, *own = (bounds.read_zip_member(file, info) for info in infos)
        text = config.decode()
        with file.open(_WEIGHTS) as source, weights.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    metadata = parse_metadata(b"".join(own), str(path))
    version = parse_dict(of_keras, str(path), _METADATA).get("keras_version")
    if isinstance(version, str) and version.isprintable() and len(version) <= 50:
        metadata.setdefault("keras_version", version)
    return text, metadata


def _read_zipped_model(path: Path, keras_config: str) -> Checkpoint:
    """Read a zip file with keras_model.h5 or a SavedModel, and class names."""
    with file_system.scratch_folder() as folder, bounds.open_zip(path) as file:
        members: dict[Path, zipfile.ZipInfo] = {}
        for info in file.infolist():
            place = folder
            match = _ZIPPED_FILE.fullmatch(info.filename)
            if not match and (match := _ZIPPED_SAVED_MODEL.fullmatch(info.filename)):
                place = folder / _SAVED_MODEL
            if match and members.setdefault(place / match[1], info) is not info:
                raise errors.UnknownFormat(
                    f"{path}: holds several models ({match[1]} twice). Unpack it and "
                    "pass one of them"
                )
        limit = isolated_h5.limit_for(path.stat().st_size)
        bounds.check_zip_members(members.values(), path, max_bytes=limit)
        for target, info in members.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            with file.open(info) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        try:
            return read(folder, keras_config=keras_config)
        except errors.CheckpointError as error:
            raise type(error)(str(error).replace(str(folder), str(path))) from error


def _read_pickle(path: Path) -> Checkpoint:
    data = path.read_bytes()
    if pth.LEGACY_MAGIC.to_bytes(10, "little") in data[:32]:
        return Checkpoint(tensors=pth.read_legacy(path), format="PyTorch (legacy)")
    value, _ = unpickle.loads(data, str(path))
    tensors = npy.flatten(value, str(path))
    return Checkpoint(tensors=tensors, format="pickled dict of arrays")


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            # The library returns metadata in a random order.
            metadata = dict(sorted((file.metadata() or {}).items()))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except AttributeError as error:  # the library looks the type up in NumPy
        raise errors.UnknownFormat(
            f"{path}: holds numbers of a kind that Graft does not read ({error}); save "
            "them as float32 or bfloat16"
        ) from error
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise errors.CorruptCheckpoint(
            f"{path}: not a readable safetensors file ({bounds.printable(str(error))})"
        ) from error
    return Checkpoint(tensors=tensors, format="safetensors", metadata=metadata)
