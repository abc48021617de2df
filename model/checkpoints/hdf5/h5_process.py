"""List the objects of an HDF5 file and read its arrays, as a child of isolated_h5.

A request is {"path", "limit_bytes": most bytes of all arrays, "cpu_s": time limit}. The
first answer is {"texts", "arrays", "others"}. One more follows for each of "arrays",
with its numbers in C order, little-endian. {"error": message} is the last answer. No
other file is opened.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, TypeGuard

import h5py
import numpy as np

from model.checkpoints import bounds, errors
from pipeline.system import platform_support, sandbox

_MAX_OBJECTS = 100_000
_MAX_NAME = 1000  # characters
_MAX_TEXT = 32 << 20  # characters of all attributes together
_WORKING_MEMORY = 256 << 20  # bytes, in addition to the array that is being read
# What Keras writes about layers, and h5py about types.
_ATTRIBUTES = re.compile(
    r"(layer_names|weight_names)\d*|model_config|keras_version|backend|name|graft"
)
# Groups that hold no weights; their numbers are not read.
_NOT_WEIGHTS = ("optimizer_weights", "optimizer", "diff")
# Others would have to be loaded from plug-ins. 32000 is h5py's LZF.
_FILTERS = (
    *(h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32),
    32000,
)

Answers = Iterator[tuple[sandbox.Header, bytes | memoryview]]


def main() -> None:
    """Answer the request of isolated_h5."""
    sandbox.serve(answers)


def answers(request: sandbox.Header, _: bytes) -> Answers:
    """Read a file, and limit the memory and CPU time of this process for good."""
    platform_support.limit_memory(_WORKING_MEMORY + request["limit_bytes"])
    platform_support.lower_limit("RLIMIT_CPU", request["cpu_s"])
    try:
        with h5py.File(request["path"], "r", locking=False) as file:
            yield from _read(file, request["limit_bytes"])
            return
    except errors.CheckpointError as error:
        message = str(error)
    except MemoryError:
        message = "the HDF5 library asks for more memory than such a file needs"
    except (OSError, RuntimeError, LookupError, ValueError) as error:
        # Whatever h5py makes of the library's findings.
        text = bounds.printable(str(error), 300).strip("'\"")
        message = f"damaged HDF5 file ({text}); copy or download it again"
    yield {"error": message}, b""


def _read(file: h5py.File, limit_bytes: int) -> Answers:
    """Check all objects, then yield the header and each array."""
    datasets: list[tuple[str, h5py.Dataset, str]] = []
    texts: dict[str, dict[str, str | list[str]]] = {}
    others: list[str] = []
    for path, item in _objects(file):
        if isinstance(item, h5py.Group):
            if attributes := dict(_read_texts(item)):
                texts[path] = attributes
            continue
        type_name = None
        if isinstance(item, h5py.Dataset) and path.split("/")[0] not in _NOT_WEIGHTS:
            _check_storage(item, path)
            type_name = _number_type(item) if item.shape is not None else None
        if type_name is None:
            others.append(path)
            continue
        limit_bytes -= math.prod(n or 1 for n in item.shape) * item.dtype.itemsize
        if limit_bytes < 0:
            raise errors.CorruptCheckpoint(
                f"{path}, of shape {item.shape}, is more than such a file can hold"
            )
        datasets.append((path, item, type_name))
    if len(str(texts)) > _MAX_TEXT:
        raise errors.CorruptCheckpoint("its attributes hold too much text")
    arrays = [(path, data.shape, type_name) for path, data, type_name in datasets]
    yield {"texts": texts, "arrays": arrays, "others": others}, b""
    for _, dataset, type_name in datasets:
        # h5py knows bfloat16 as two bytes.
        stored = np.dtype("V2" if type_name == "bfloat16" else type_name)
        values = np.ascontiguousarray(dataset[()], stored.newbyteorder("<"))
        yield {}, values.reshape(-1).view(np.uint8).data


def _objects(file: h5py.File) -> Iterator[tuple[str, Any]]:
    """Yield the path of each object, "" for the root, and the object."""
    paths: list[Any] = [""]

    def add(path: str) -> bool | None:
        paths.append(path)
        return True if len(paths) > _MAX_OBJECTS else None  # which ends the visit

    file.visit_links(add)
    if len(paths) > _MAX_OBJECTS:
        raise errors.CorruptCheckpoint(f"more than {_MAX_OBJECTS:,} objects")
    addresses = set()
    for path in paths:
        if not _is_name(path):  # h5py returns names that are not UTF-8 as bytes
            raise errors.CorruptCheckpoint(f"an impossible name, {path[:100]!r}")
        if path and not isinstance(file.get(path, getlink=True), h5py.HardLink):
            raise errors.CorruptCheckpoint(f"{path} is a link to elsewhere")
        item = file[path or "/"]
        address = h5py.h5o.get_info(item.id).addr
        if address in addresses:
            raise errors.CorruptCheckpoint(f"{path} is in the file under two names")
        addresses.add(address)
        yield path, item


def _read_texts(group: h5py.Group) -> Iterator[tuple[str, str | list[str]]]:
    """Yield the attributes that Keras writes, if they are text."""
    for name in group.attrs:
        if not isinstance(name, str) or not _ATTRIBUTES.fullmatch(name):
            continue
        value = group.attrs[name]
        if isinstance(value, str | bytes):
            yield name, _text(value)
        elif isinstance(value, np.ndarray) and value.ndim == 1:
            texts = [_text(item) for item in value]
            if not all(map(_is_name, texts)):
                raise errors.CorruptCheckpoint(f"attribute {name} has impossible names")
            yield name, texts


def _is_name(text: Any) -> TypeGuard[str]:
    is_text = isinstance(text, str)
    return is_text and text.isprintable() and len(text) <= _MAX_NAME


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, str):
        return value
    raise errors.CorruptCheckpoint("a list of names does not hold text")


def _check_storage(dataset: h5py.Dataset, where: str) -> None:
    """Check that the numbers are in the file itself, stored in a known way."""
    properties = dataset.id.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
        raise errors.CorruptCheckpoint(f"{where} takes its numbers from other files")
    for number in range(properties.get_nfilters()):
        if properties.get_filter(number)[0] not in _FILTERS:
            raise errors.CorruptCheckpoint(
                f"{where} is compressed in a way that is not read; save it without"
            )
    # HDF5 would fill in numbers that are missing. Compressed ones may take one byte.
    size_bytes = dataset.size * dataset.id.get_type().get_size() if dataset.size else 0
    if dataset.id.get_storage_size() < (
        min(size_bytes, 1) if properties.get_nfilters() else size_bytes
    ):
        raise errors.CorruptCheckpoint(f"the numbers of {where} are not in the file")


def _number_type(dataset: h5py.Dataset) -> str | None:
    """Return the type's name, or None if the dataset holds no numbers."""
    try:
        dtype = dataset.dtype
    except TypeError:  # NumPy has no such type
        return None
    if dtype == np.dtype("V2"):  # as Keras writes it
        return "bfloat16"
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        return None
    return dtype.newbyteorder("=").name
