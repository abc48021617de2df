"""Caffe's files in every form they have had; written here field by field."""

import numpy as np
import pytest

from model.checkpoints import caffemodel, errors, reading
from tests.support import cases
from tests.support.weights import arrays, damage
from tests.support.weights.protobuf import message, number, text, varint

KERNEL = np.arange(2 * 3 * 5 * 4, dtype=np.float32).reshape(2, 3, 5, 4)
BIAS = np.array([0.5, -1.25], np.float32)
DENSE = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def blob(array, *, legacy=False, double=False):
    """A BlobProto; legacy: four axes in fields of their own."""
    if legacy:
        axes = (1,) * (4 - array.ndim) + array.shape
        body = b"".join(number(n, size) for n, size in enumerate(axes, start=1))
    else:
        body = message(7, message(1, b"".join(map(varint, array.shape))))
    field, code = (8, "<f8") if double else (5, "<f4")
    return body + message(field, array.astype(code).tobytes())


def layer(name, kind, *blobs):
    body = text(1, name) + text(2, kind)
    return message(100, body + b"".join(message(7, blob) for blob in blobs))


def layer_v1(name, kind, *blobs):
    body = text(2, "bottom") + text(4, name) + number(5, kind)
    return message(2, body + b"".join(message(6, blob) for blob in blobs))


def network(**options):
    """A convolution and a dense layer between layers without weights."""
    kernel, bias, dense = (blob(a, **options) for a in (KERNEL, BIAS, DENSE))
    data = text(1, "net") + layer("data", "Data")
    data += layer("conv1", "Convolution", kernel, bias) + layer("relu1", "ReLU")
    return data + layer("fc6", "InnerProduct", dense)


def network_v1(**options):
    kernel, bias, dense = (blob(a, **options) for a in (KERNEL, BIAS, DENSE))
    data = text(1, "net") + number(4, 3) + layer_v1("data", 5)  # 4 is input_dim
    data += layer_v1("conv1", 4, kernel, bias) + layer_v1("relu1", 18)
    return data + layer_v1("fc6", 14, dense)


FORMS = {
    "new": network(),
    "new, legacy axes": network(legacy=True),
    "new, double": network(double=True),
    "old": network_v1(),
    "old, legacy axes": network_v1(legacy=True),
}
ALL = pytest.mark.parametrize("form", FORMS)


@pytest.fixture
def write(tmp_path):
    def write(data):
        (tmp_path / "net").write_bytes(data)
        return tmp_path / "net"

    return write


@pytest.fixture
def read(write):
    return lambda data: caffemodel.read(write(data))


@ALL
def test_every_form_gives_the_same_weights_and_layers(write, form):
    path = write(FORMS[form])
    assert caffemodel.recognises(path)
    content = caffemodel.read(path)
    kind = np.float64 if "double" in form else np.float32
    expected = {"conv1/0": KERNEL, "conv1/1": BIAS, "fc6/0": DENSE}
    expected = {name: array.astype(kind) for name, array in expected.items()}
    arrays.assert_same(content.tensors, expected)
    assert content.metadata == {"name": "net"}
    layers = "data Data, conv1 Convolution, relu1 ReLU, fc6 InnerProduct"
    assert ", ".join(map(" ".join, content.layers)) == layers


def test_a_kernel_of_one_filter_keeps_its_axes(read):
    data = layer("c", "Convolution", blob(KERNEL[:1], legacy=True))
    data += layer("d", "InnerProduct", blob(DENSE[:1], legacy=True))
    tensors = read(data).tensors
    assert tensors["c/0"].shape == (1, 3, 5, 4)
    assert tensors["d/0"].shape == (1, 4)


def test_numbers_in_several_pieces_are_joined(read):
    values = DENSE.ravel()
    body = message(7, message(1, b"\3\4")) + message(5, values[:5].tobytes())
    body += message(5, values[5:].tobytes())
    tensors = read(layer("d", "InnerProduct", body)).tensors
    arrays.assert_same(tensors, {"d/0": DENSE})


def test_sizes_may_be_a_field_each(read):
    body = message(7, number(1, 3) + number(1, 4)) + message(5, DENSE.tobytes())
    tensors = read(layer("d", "InnerProduct", body)).tensors
    arrays.assert_same(tensors, {"d/0": DENSE})


def test_gradients_and_unknown_fields_are_left_out(read):
    body = blob(BIAS) + message(6, bytes(8)) + message(99, b"later") + number(98, 7)
    tensors = read(layer("d", "InnerProduct", body)).tensors
    arrays.assert_same(tensors, {"d/0": BIAS})


def in_layer(body):
    return layer("d", "X", body)


class TestRefused:
    @cases.table(
        ("data", "message"),
        {
            "cut": (network()[:-1], "runs past its message"),
            "cut early": (network()[:40], "runs past its message"),
            "exabyte": (varint(802) + varint(1 << 60) + b"x", "runs past its message"),
            "two layers": (
                layer("d", "InnerProduct", blob(DENSE)) * 2,
                "a second layer 'd' with weights",
            ),
            "no numbers": (
                in_layer(message(7, message(1, b"\5"))),
                r"shape \[5\] with 0 numbers",
            ),
            "axes": (
                in_layer(message(7, message(1, b"\1" * 33)) + message(5, bytes(4))),
                r"shape \[1, 1, 1, 1, 1, 1, 1, 1, 1\] with 1 n",
            ),
            "size": (
                in_layer(message(7, message(1, b"\0" + b"\xff" * 8 + b"\x7f"))),
                "a blob of shape",
            ),
            "odd bytes": (in_layer(message(5, b"123")), "3 bytes of float32 numbers"),
            "integer": (in_layer(number(5, 3)), "that is not a message"),
            "many fields": (
                in_layer(blob(BIAS)) + number(4, 3) * 1_000_001,
                "more than 1,000,000 fields",
            ),
            "number for a layer": (number(100, 5), "is not a message"),
            "kind": (text(1, "x") + b"\xa7\x06", "unknown kind 7"),
        },
    )
    def test_a_wrong_file_is_refused_by_name(self, read, data, message):
        with pytest.raises(errors.CorruptCheckpoint, match=f"net: .*{message}"):
            read(data)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (message(2, message(1, b"")), "without weights, or of Caffe.s version 0"),
            (layer("data", "Data"), "without weights"),
        ],
    )
    def test_a_network_without_weights_is_named(self, read, data, message):
        with pytest.raises(errors.UnknownFormat, match=f"net: .*{message}"):
            read(data)

    @pytest.mark.parametrize(
        "data",
        [
            *(b"", b'name: "CaffeNet"\nlayer {\n  name: "data"\n}\n', blob(KERNEL)),
            *(blob(KERNEL, legacy=True), b"\x89HDF\r\n\x1a\n" + bytes(50), bytes(100)),
            *(text(1, "only a name"), message(9, b"x") + network(), number(100, 5)),
        ],
    )
    def test_other_files_are_not_recognised(self, write, data):
        assert not caffemodel.recognises(write(data))


class TestMean:
    IMAGE = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)

    @cases.table(
        "data",
        {
            "new": blob(IMAGE),
            "legacy": blob(IMAGE, legacy=True),
            "double": blob(IMAGE, double=True),
            "of one image": blob(IMAGE[None]),
        },
    )
    def test_every_form_of_binaryproto_gives_the_same_image(self, write, data):
        mean = caffemodel.read_mean(write(data))
        assert mean.dtype == np.float32
        np.testing.assert_array_equal(mean, self.IMAGE.transpose(1, 2, 0))

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
    def test_npy_files_may_have_channels_first_or_last(
        self, tmp_path, values, expected
    ):
        np.save(tmp_path / "mean.npy", values)
        np.testing.assert_array_equal(
            caffemodel.read_mean(tmp_path / "mean.npy"), expected
        )

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
    def test_a_wrong_mean_is_refused_by_name(self, write, data, message):
        with pytest.raises(errors.CorruptCheckpoint, match=message):
            caffemodel.read_mean(write(data))

    def test_a_missing_mean_is_named(self, tmp_path):
        with pytest.raises(errors.MissingCheckpoint, match=r"x\.binaryproto: no such"):
            caffemodel.read_mean(tmp_path / "x.binaryproto")


@ALL
def test_damaged_files_are_read_or_refused(write, form):
    def read(copy):
        reading.read(write(copy))

    counts = damage.outcomes(read, FORMS[form], 400, aims=range(60))
    assert counts["read"]
    assert counts["CorruptCheckpoint"]
