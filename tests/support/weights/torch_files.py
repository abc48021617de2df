"""Files as torch.save writes them, made by hand: without PyTorch, and free to lie."""

import io
import zipfile

import ml_dtypes
import numpy as np

KINDS = {
    np.float64: "Double", np.float32: "Float", np.float16: "Half", np.int64: "Long",
    np.int32: "Int", np.int16: "Short", np.int8: "Char", np.uint8: "Byte",
    np.bool_: "Bool", ml_dtypes.bfloat16: "BFloat16",
}  # fmt: skip

# The functions below return the opcodes of a pickle of protocol 2 that make one object.


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def text(value):
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def integer(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def call(function, *arguments):
    return function + tuple_of(*arguments) + b"R"


def calling(module, attribute, argument):
    """The bytes of a pickle that calls a function with a text."""
    return b"\x80\x02" + call(name(module, attribute), text(argument)) + b"."


def ordered_dict(items):
    """{text: opcodes} -> an OrderedDict."""
    content = b"".join(text(key) + value for key, value in items.items())
    return call(name("collections", "OrderedDict")) + b"(" + content + b"u"


def storage(kind, key, count):
    """A reference to a storage of `count` numbers."""
    reference = (text("storage"), name("torch", kind), text(key), text("cpu"))
    return tuple_of(*reference, integer(count)) + b"Q"


def tensor(of, offset, shape, strides):
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        of,
        integer(offset),
        tuple_of(*map(integer, shape)),
        tuple_of(*map(integer, strides)),
        b"\x89",
        ordered_dict({}),
    )


def tensors(arrays):
    """{name: array} -> {name: opcodes of a tensor}, {key: bytes of a storage}."""
    opcodes, storages = {}, {}
    for key, (label, array) in enumerate(arrays.items()):
        strides = [n // array.itemsize for n in np.empty_like(array, order="C").strides]
        of = storage(f"{KINDS[array.dtype.type]}Storage", str(key), array.size)
        opcodes[label] = tensor(of, 0, array.shape, strides)
        storages[str(key)] = array.tobytes()
    return opcodes, storages


def zip_file(opcodes, storages, *, prefix="archive", byteorder=b"little"):
    """The bytes of a file of PyTorch 1.6 and later."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{prefix}/data.pkl", b"\x80\x02" + opcodes + b".")
        if byteorder:
            archive.writestr(f"{prefix}/byteorder", byteorder)
        for key, data in storages.items():
            archive.writestr(f"{prefix}/data/{key}", data)
        archive.writestr(f"{prefix}/version", b"3\n")
    return buffer.getvalue()


def legacy_file(opcodes, storages, *, magic=0x1950A86A20F9469CFC6C, counts=None):
    """The bytes of a file before PyTorch 1.6.

    Args:
        opcodes: opcodes of the object.
        storages: {key: (bytes, size of a number)}.
        magic: number at the beginning.
        counts: {key: wrong count of numbers to write for a storage}.
    """
    keys = b"](" + b"".join(map(text, storages)) + b"e"
    system = b"}(" + text("little_endian") + b"\x88u"
    parts = (integer(magic), integer(1001), system, opcodes, keys)
    data = b"".join(b"\x80\x02" + part + b"." for part in parts)
    for key, (content, size) in storages.items():
        count = (counts or {}).get(key, len(content) // size)
        data += count.to_bytes(8, "little") + content
    return data


def state_dict_file(arrays):
    """The bytes of a file with a plain state dict."""
    opcodes, storages = tensors(arrays)
    return zip_file(ordered_dict(opcodes), storages)


def legacy_state_dict_file(arrays):
    opcodes, storages = tensors(arrays)
    sizes = [array.itemsize for array in arrays.values()]
    sized = {key: (data, sizes[int(key)]) for key, data in storages.items()}
    return legacy_file(ordered_dict(opcodes), sized)
