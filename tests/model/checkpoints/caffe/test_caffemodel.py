"""Caffe's files in every form they have had; written here field by field."""

import contextlib
import random
import struct

import numpy as np
import pytest

from model.checkpoints import errors, reading
from model.checkpoints.caffe import caffemodel, mean_file
from model.weights import identify_network

KERNEL = np.arange(2 * 3 * 5 * 4, dtype=np.float32).reshape(2, 3, 5, 4)
BIAS = np.array([0.5, -1.25], np.float32)
DENSE = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def varint(number):
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def message(field, body):
    return varint(field << 3 | 2) + varint(len(body)) + body


def number(field, value):
    return varint(field << 3) + varint(value)


def text(field, value):
    return message(field, value.encode())


def blob(array, *, packed=True, legacy=False, double=False):
    """A BlobProto; legacy: four axes in fields of their own."""
    if legacy:
        axes = (1,) * (4 - array.ndim) + array.shape
        body = b"".join(number(n, size) for n, size in enumerate(axes, start=1))
    else:
        body = message(7, message(1, b"".join(map(varint, array.shape))))
    field, code, kind = (8, "<f8", 1) if double else (5, "<f4", 5)
    values = array.astype(code).ravel()
    if packed:
        return body + message(field, values.tobytes())
    return body + b"".join(bytes([field << 3 | kind]) + v.tobytes() for v in values)


def layer(name, kind, *blobs):
    body = text(1, name) + text(2, kind)
    return message(100, body + b"".join(message(7, one) for one in blobs))


def layer_v1(name, kind, *blobs):
    body = text(2, "bottom") + text(4, name) + number(5, kind)
    return message(2, body + b"".join(message(6, one) for one in blobs))


def network(**how):
    """A convolution and a dense layer between layers without weights."""
    return b"".join(
        [
            text(1, "net"),
            layer("data", "Data"),
            layer("conv1", "Convolution", blob(KERNEL, **how), blob(BIAS, **how)),
            layer("relu1", "ReLU"),
            layer("fc6", "InnerProduct", blob(DENSE, **how)),
        ]
    )


def network_v1(**how):
    return b"".join(
        [
            text(1, "net"),
            number(4, 3),  # input_dim
            layer_v1("data", 5),
            layer_v1("conv1", 4, blob(KERNEL, **how), blob(BIAS, **how)),
            layer_v1("relu1", 18),
            layer_v1("fc6", 14, blob(DENSE, **how)),
        ]
    )


FORMS = {
    "new, packed": network(),
    "new, unpacked": network(packed=False),
    "new, legacy axes": network(legacy=True),
    "new, double": network(double=True),
    "new, double, unpacked": network(double=True, packed=False),
    "old, packed, legacy axes": network_v1(legacy=True),
    "old, unpacked": network_v1(packed=False),
}
ALL = pytest.mark.parametrize("form", FORMS)


@pytest.fixture
def write(tmp_path):
    def write(data, name="net"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


@ALL
def test_every_form(write, form):
    path = write(FORMS[form])
    assert caffemodel.recognises(path)
    tensors, about = caffemodel.read(path)
    kind = np.float64 if "double" in form else np.float32
    expected = {"conv1/0": KERNEL, "conv1/1": BIAS, "fc6/0": DENSE}
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert tensors[name].dtype == kind
        assert tensors[name].shape == array.shape
        np.testing.assert_array_equal(tensors[name], array)
    assert about["name"] == "net"
    assert about["layers"].splitlines() == [
        "data Data",
        "conv1 Convolution",
        "relu1 ReLU",
        "fc6 InnerProduct",
    ]


def test_one_filter_keeps_its_axes(write):
    kernel = KERNEL[:1]
    data = layer("c", "Convolution", blob(kernel, legacy=True))
    data += layer("d", "InnerProduct", blob(DENSE[:1], legacy=True))
    tensors, _ = caffemodel.read(write(data))
    assert tensors["c/0"].shape == (1, 3, 5, 4)
    assert tensors["d/0"].shape == (1, 4)


def test_data_in_several_pieces(write):
    """As a stream may have them: packed, then one by one, then packed."""
    values = DENSE.ravel()
    body = message(7, message(1, b"\3\4")) + message(5, values[:5].tobytes())
    body += b"".join(b"\x2d" + v.tobytes() for v in values[5:7])
    body += message(5, values[7:].tobytes())
    tensors, _ = caffemodel.read(write(layer("d", "InnerProduct", body)))
    np.testing.assert_array_equal(tensors["d/0"], DENSE)


def test_diffs_and_unknown_fields_are_left_out(write):
    body = blob(BIAS) + message(6, bytes(8)) + message(99, b"later") + number(98, 7)
    tensors, _ = caffemodel.read(write(layer("d", "InnerProduct", body)))
    np.testing.assert_array_equal(tensors["d/0"], BIAS)


class TestOrderOfLayers:
    """What tells CaffeNet from AlexNet: pooling before normalisation, or after."""

    @pytest.mark.parametrize(
        ("order", "expected"),
        [(("pool1", "norm1"), "caffenet"), (("norm1", "pool1"), "bvlc_alexnet")],
    )
    def test_decides(self, write, order, expected):
        kernel = np.zeros((96, 3, 11, 11), np.float32)
        data = layer("conv1", "Convolution", blob(kernel))
        data += b"".join(layer(name, "Pooling") for name in order)
        checkpoint = reading.read(write(data))
        assert checkpoint.format == "Caffe"
        assert identify_network.identify(checkpoint, "file").network.name == expected

    def test_without_them(self, write):
        kernel = np.zeros((96, 3, 11, 11), np.float32)
        checkpoint = reading.read(write(layer("conv1", "Convolution", blob(kernel))))
        with pytest.raises(
            errors.MismatchedCheckpoint,
            match=r"fit bvlc_alexnet and caffenet equally well.*--",
        ):
            identify_network.identify(checkpoint, "file")
        found = identify_network.identify(checkpoint, "file", arch="caffenet")
        assert found.network.name == "caffenet"


class TestRefused:
    @pytest.mark.parametrize(
        ("data", "kind", "message"),
        [
            (message(2, message(1, b"")), errors.UnknownFormat, "upgrade_net_proto_bi"),
            (layer("data", "Data"), errors.UnknownFormat, "without weights"),
            (network()[:-1], errors.CorruptCheckpoint, "runs past its message"),
            (network()[:40], errors.CorruptCheckpoint, "runs past its message"),
            (
                layer("d", "InnerProduct", blob(DENSE)) * 2,
                errors.CorruptCheckpoint,
                "a second layer 'd' with weights",
            ),
            (
                layer("d", "InnerProduct", message(7, message(1, b"\5"))),
                errors.CorruptCheckpoint,
                r"shape \[5\] with 0 numbers",
            ),
            (
                layer("d", "X", message(7, message(1, b"\1" * 33)) + blob(BIAS)),
                errors.CorruptCheckpoint,
                "more than 32 axes",
            ),
            (
                layer("d", "X", message(7, message(1, b"\0" + b"\xff" * 8 + b"\x7f"))),
                errors.CorruptCheckpoint,
                "a blob of shape",
            ),
            (
                layer("d", "X", message(5, b"123")),
                errors.CorruptCheckpoint,
                "3 bytes of float32 numbers",
            ),
            (
                layer("d", "X", number(5, 3)),
                errors.CorruptCheckpoint,
                "numbers of another kind",
            ),
            (
                layer("d" * 1001, "X", blob(BIAS)),
                errors.CorruptCheckpoint,
                "a name of 1,001 bytes",
            ),
            (
                layer("d", "X", blob(BIAS)) + number(4, 3) * 500_001,
                errors.CorruptCheckpoint,
                "more than 500,000 fields",
            ),
            (number(100, 5), errors.CorruptCheckpoint, "no message"),
            (text(1, "x") + b"\xa7\x06", errors.CorruptCheckpoint, "unknown kind 7"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_named(self, write, data, kind, message):
        with pytest.raises(kind, match=message) as caught:
            caffemodel.read(write(data))
        assert "net" in str(caught.value)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b'name: "CaffeNet"\nlayer {\n  name: "data"\n}\n',
            blob(KERNEL),
            blob(KERNEL, legacy=True),
            b"\x89HDF\r\n\x1a\n" + bytes(50),
            bytes(100),
            text(1, "only a name"),
            message(9, b"x") + network(),
            number(100, 5),
        ],
    )
    def test_not_recognised(self, write, data):
        assert not caffemodel.recognises(write(data))

    def test_a_size_that_no_file_has(self, write):
        """Told without asking for the memory."""
        data = varint(100 << 3 | 2) + varint(1 << 60) + b"x"
        with pytest.raises(errors.CorruptCheckpoint, match="runs past its message"):
            caffemodel.read(write(data))


class TestMean:
    IMAGE = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)

    @pytest.mark.parametrize(
        "data",
        [
            blob(IMAGE),
            blob(IMAGE, legacy=True),
            blob(IMAGE, legacy=True, packed=False),
            blob(IMAGE, double=True),
            blob(IMAGE[None]),
        ],
        ids=["new", "legacy", "unpacked", "double", "of one image"],
    )
    def test_binaryproto(self, write, data):
        found = mean_file.read(write(data))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, self.IMAGE.transpose(1, 2, 0))

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (IMAGE, IMAGE.transpose(1, 2, 0)),
            (IMAGE.transpose(1, 2, 0), IMAGE.transpose(1, 2, 0)),
            (np.array([1, 2, 3]), [1, 2, 3]),
            (np.array([1.0, 2, 3]).reshape(3, 1, 1), [1, 2, 3]),
        ],
        ids=["CHW", "HWC", "per channel", "per channel, 3 x 1 x 1"],
    )
    def test_npy(self, tmp_path, values, expected):
        np.save(tmp_path / "mean.npy", values)
        np.testing.assert_array_equal(mean_file.read(tmp_path / "mean.npy"), expected)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "with 0 numbers"),
            (b"no proto", "damaged"),
            (blob(IMAGE[:2]), r"holds float32 \[2, 4, 5\]; expected a mean of three"),
            (blob(IMAGE * np.nan), "not finite"),
            (blob(IMAGE)[:-2], "runs past"),
        ],
    )
    def test_refused(self, write, data, message):
        with pytest.raises(errors.CorruptCheckpoint, match=message):
            mean_file.read(write(data))

    def test_missing(self, tmp_path):
        with pytest.raises(errors.MissingCheckpoint, match=r"x\.binaryproto: no such"):
            mean_file.read(tmp_path / "x.binaryproto")


def mutations(data, count, seed):
    """Bits, bytes and cuts anywhere, and in the headers, where lengths are."""
    chosen = random.Random(seed)
    for _ in range(count):
        found = bytearray(data)
        for _ in range(chosen.choice([1, 1, 2, 4])):
            end = len(found) if chosen.random() < 0.5 else min(60, len(found))
            place = chosen.randrange(end)
            found[place] = chosen.choice(
                [found[place] ^ 1 << chosen.randrange(8), 0, 127, 128, 255]
            )
        yield bytes(found if chosen.random() < 0.9 else found[: chosen.randrange(end)])


@ALL
def test_mutations(write, form):
    """A result or a named error."""
    outcomes = set()
    for data in mutations(FORMS[form], 400, seed=len(form)):
        try:
            reading.read(write(data))
            outcomes.add("read")
        except errors.CheckpointError as error:
            outcomes.add(type(error).__name__)
    assert {"read", "CorruptCheckpoint"} <= outcomes


def test_mutated_means(write):
    for data in mutations(blob(TestMean.IMAGE), 400, seed=1):
        with contextlib.suppress(errors.CheckpointError):
            assert mean_file.read(write(data)).shape[-1] == 3


def test_floats_are_as_the_bytes_say(write):
    body = message(7, message(1, b"\1")) + message(5, struct.pack("<f", 0.1))
    tensors, _ = caffemodel.read(write(layer("d", "X", body)))
    assert tensors["d/0"][0] == np.float32(0.1)
