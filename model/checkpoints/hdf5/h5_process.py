"""List the objects of an HDF5 file and read its arrays, as a child of isolated_h5.

A request is {"path", "limit_bytes": most bytes of all arrays, "cpu_s": time limit}. The
first answer is {"texts", "arrays", "others"}. One more follows for each of "arrays",
with its numbers in C order, little-endian. {"error": message, "unsafe": bool} is the
last answer. No other file is opened.
"""

import math
import re
import resource
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from model.checkpoints import bounds, errors
from pipeline.system import sandbox

_MAX_OBJECTS = 100_000
_MAX_LEVELS = 32
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
    sandbox.limit_memory(_WORKING_MEMORY + request["limit_bytes"])
    sandbox.lower_limit(resource.RLIMIT_CPU, request["cpu_s"])
    unsafe = False
    try:
        with h5py.File(request["path"], "r", locking=False) as file:
            yield from _read(file, request["limit_bytes"])
            return
    except errors.CheckpointError as error:
        message, unsafe = str(error), isinstance(error, errors.UnsafeCheckpoint)
    except MemoryError:
        message = "the HDF5 library asks for more memory than such a file needs"
    except (OSError, RuntimeError, LookupError, ValueError) as error:
        # Whatever h5py makes of the library's findings.
        text = bounds.printable(str(error), 300).strip("'\"")
        message = f"damaged HDF5 file ({text}); copy or download it again"
    yield {"error": message, "unsafe": unsafe}, b""


def _read(file: h5py.File, limit_bytes: int) -> Answers:
    listing = _Listing(file, limit_bytes)
    arrays = [(name, data.shape, dtype) for name, data, dtype in listing.datasets]
    texts, others = listing.texts, listing.others
    yield {"texts": texts, "arrays": arrays, "others": others}, b""
    for _, dataset, type_name in listing.datasets:
        # h5py knows bfloat16 as two bytes.
        stored = np.dtype("V2" if type_name == "bfloat16" else type_name)
        values = np.ascontiguousarray(dataset[()], stored.newbyteorder("<"))
        yield {}, values.reshape(-1).view(np.uint8).data


class _Listing:
    """All objects of a file, checked, before any array is read."""

    def __init__(self, file: h5py.File, limit_bytes: int) -> None:
        self.datasets: list[tuple[str, h5py.Dataset, str]] = []
        self.texts: dict[str, dict[str, str | list[str]]] = {}
        self.others: list[str] = []
        self._bytes_left = limit_bytes
        self._text_left = _MAX_TEXT
        self._addresses = {_address(file)}
        self._visit_group(file, ())

    def _visit_group(self, group: h5py.Group, path: tuple[str, ...]) -> None:
        if len(path) > _MAX_LEVELS:
            raise errors.CorruptCheckpoint(
                f"groups nested more than {_MAX_LEVELS} levels deep"
            )
        texts = dict(self._read_texts(group))
        if texts:
            self.texts["/".join(path)] = texts
        for name in group:
            self._visit(group, (*path, name))

    def _visit(self, group: h5py.Group, path: tuple[str, ...]) -> None:
        name, where = path[-1], "/".join(map(str, path))
        # h5py returns names that are not UTF-8 as bytes.
        if not isinstance(name, str) or "/" in name or not _is_name(where):
            raise errors.CorruptCheckpoint(f"an impossible name, {where[:100]!r}")
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink | h5py.SoftLink):
            raise errors.UnsafeCheckpoint(f"{where} is a link to elsewhere")
        item = group[name]
        if _address(item) in self._addresses:
            raise errors.CorruptCheckpoint(f"{where} is in the file under two names")
        self._addresses.add(_address(item))
        if len(self._addresses) > _MAX_OBJECTS:
            raise errors.CorruptCheckpoint(f"more than {_MAX_OBJECTS:,} objects")
        if isinstance(item, h5py.Group):
            self._visit_group(item, path)
        elif isinstance(item, h5py.Dataset) and path[0] not in _NOT_WEIGHTS:
            self._visit_dataset(item, where)
        else:
            self.others.append(where)

    def _visit_dataset(self, dataset: h5py.Dataset, where: str) -> None:
        _check_storage(dataset, where)
        dtype = _number_type(dataset)
        shape = dataset.shape
        if dtype is None or shape is None:
            self.others.append(where)
            return
        size_bytes = math.prod(shape) * dataset.dtype.itemsize
        self._bytes_left -= math.prod(n or 1 for n in shape) * dataset.dtype.itemsize
        if self._bytes_left < 0:
            raise errors.CorruptCheckpoint(
                f"{where}, of shape {shape}, is more than a file of this size can hold"
            )
        stored_bytes = dataset.id.get_storage_size()
        if dataset.id.get_create_plist().get_nfilters():
            size_bytes = min(size_bytes, 1)
        if stored_bytes < size_bytes:  # the library would make them up
            raise errors.CorruptCheckpoint(
                f"the numbers of {where} are not in the file"
            )
        self.datasets.append((where, dataset, dtype))

    def _read_texts(self, group: h5py.Group) -> Iterator[tuple[str, str | list[str]]]:
        """Yield the attributes that Keras writes, if they are text."""
        for name in group.attrs:
            if not isinstance(name, str) or not _ATTRIBUTES.fullmatch(name):
                continue
            attribute = h5py.h5a.open(group.id, name.encode())
            size = math.prod(attribute.shape) * attribute.dtype.itemsize
            if size > self._text_left:
                raise errors.CorruptCheckpoint(f"attribute {name} is too long")
            value = group.attrs[name]
            if isinstance(value, np.ndarray) and value.ndim == 1:
                text: str | list[str] = [_text(item) for item in value]
                if not all(map(_is_name, text)):
                    raise errors.CorruptCheckpoint(
                        f"attribute {name} lists impossible names"
                    )
                self._text_left -= sum(map(len, text)) + 10 * len(text)
            elif isinstance(value, str | bytes):
                text = _text(value)
                self._text_left -= len(text)
            else:
                continue
            if self._text_left < 0:
                raise errors.CorruptCheckpoint("its attributes hold too much text")
            yield name, text


def _address(item: h5py.HLObject) -> int:
    """Return the object's address in the file."""
    return h5py.h5o.get_info(item.id).addr


def _is_name(text: str) -> bool:
    return text.isprintable() and len(text) <= _MAX_NAME


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, str):
        return value
    raise errors.CorruptCheckpoint("a list of names holds something else than text")


def _check_storage(dataset: h5py.Dataset, where: str) -> None:
    """Check that the numbers are in the file itself, stored in a known way."""
    properties = dataset.id.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
        raise errors.UnsafeCheckpoint(f"{where} takes its numbers from other files")
    for number in range(properties.get_nfilters()):
        if properties.get_filter(number)[0] not in _FILTERS:
            raise errors.CorruptCheckpoint(
                f"{where} is compressed in a way that is not read; save it without"
            )


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
