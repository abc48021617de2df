import pickle
import random
import struct
import tracemalloc
import zipfile
import zlib

import ml_dtypes
import numpy as np
import pytest

from model.checkpoints import errors
from model.checkpoints.pickles import pth
from tests import torch_files
from tests.torch_files import (
    call,
    integer,
    name,
    ordered_dict,
    parameter,
    storage,
    tensor,
    text,
    tuple_of,
)

BASE = np.arange(24, dtype=np.float32)
BASE_STORAGE = storage("FloatStorage", "0", 24)


def as_zip(path, opcodes, storages=None, **how):
    storages = {"0": BASE.tobytes()} if storages is None else storages
    path.write_bytes(torch_files.zip_file(opcodes, storages, **how))
    return pth.read_zip(path)


def as_legacy(path, opcodes, storages=None, **how):
    storages = {"0": BASE.tobytes()} if storages is None else storages
    sized = {key: (data, 4) for key, data in storages.items()}
    path.write_bytes(torch_files.legacy_file(opcodes, sized, **how))
    return pth.read_legacy(path)


@pytest.fixture(params=[as_zip, as_legacy], ids=["zip", "legacy"])
def read(request, tmp_path):
    """(opcodes, storages) -> what the reader makes of a file with them."""
    return lambda *what, **how: request.param(tmp_path / "w.pth", *what, **how)


@pytest.fixture
def refuse(read, tmp_path):
    """Expects an error that names the file and says what is given."""

    def check(kind, message, *what, **how):
        with pytest.raises(kind, match=message) as caught:
            read(*what, **how)
        assert str(caught.value).startswith(f"{tmp_path / 'w.pth'}")
        assert type(caught.value) is kind

    return check


VALUES = {
    "float64": np.array([np.pi, -np.inf]),
    "float32": np.array([[1.5, -2, 3e38]], np.float32),
    "float16": np.array([1.5, 65504], np.float16),
    "bfloat16": np.array([[1.5], [-3e38]], ml_dtypes.bfloat16),
    "int64": np.array([-(2**63), 2**63 - 1]),
    "int32": np.array([-(2**31)], np.int32),
    "int16": np.array([-(2**15)], np.int16),
    "int8": np.array([-128, 127], np.int8),
    "uint8": np.array([255], np.uint8),
    "bool": np.array([True, False]),
    "no dimension": np.array(7, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}


class TestStateDict:
    @pytest.mark.parametrize("key", VALUES)
    def test_values(self, tmp_path, key):
        """Through both kinds of file."""
        expected = VALUES[key]
        found, storages = torch_files.tensors({"w": expected, "v": BASE})
        sizes = {"0": expected.itemsize, "1": 4}
        sized = {number: (data, sizes[number]) for number, data in storages.items()}
        opcodes = ordered_dict(found)
        path = tmp_path / "w.pth"
        path.write_bytes(torch_files.zip_file(opcodes, storages))
        first = pth.read_zip(path)
        path.write_bytes(torch_files.legacy_file(opcodes, sized))
        for tensors in (first, pth.read_legacy(path)):
            assert list(tensors) == ["w", "v"]
            assert tensors["w"].dtype == expected.dtype
            assert tensors["w"].shape == expected.shape
            assert (tensors["w"] == expected).all()
            assert (tensors["v"] == BASE).all()

    @pytest.mark.parametrize(
        "view",
        [
            lambda base: base.reshape(4, 6).T,
            lambda base: base.reshape(2, 3, 4).transpose(2, 0, 1),
            lambda base: base.reshape(4, 6)[1:, ::2],
            lambda base: base[5:],
            lambda base: base[23:],
            lambda base: base[::5],
            lambda base: base.reshape(4, 6)[:, 3],
            lambda base: base[3:4].reshape(()),
            lambda base: base[:0].reshape(0, 7),
            lambda base: np.lib.stride_tricks.as_strided(base, (3, 4), (4, 8)),
            lambda base: np.lib.stride_tricks.as_strided(base, (3, 4), (0, 4)),
        ],
        ids=[
            "transposed", "axes turned", "every other", "from 5", "last", "every fifth",
            "column", "one number", "nothing", "overlapping", "a row repeated",
        ],
    )  # fmt: skip
    def test_views(self, read, view):
        """A storage is read by offset and strides, as NumPy does."""
        expected = view(BASE)
        offset = (expected.ctypes.data - BASE.ctypes.data) // 4 if expected.size else 0
        strides = [stride // 4 for stride in expected.strides]
        opcodes = tensor(BASE_STORAGE, offset, expected.shape, strides)
        found = read(ordered_dict({"w": opcodes}))["w"]
        assert found.shape == expected.shape
        assert (found == expected).all()

    def test_shared_storage(self, read):
        found = read(
            ordered_dict(
                {
                    "front": tensor(BASE_STORAGE, 0, (3, 4), (4, 1)),
                    "whole": tensor(BASE_STORAGE, 0, (24,), (1,)),
                    "same": tensor(BASE_STORAGE, 0, (24,), (1,)),
                }
            )
        )
        assert (found["front"] == np.arange(12).reshape(3, 4)).all()
        assert (found["whole"] == BASE).all()
        assert (found["same"] == BASE).all()

    @pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
    def test_wrapped(self, read, wrapper):
        weights = ordered_dict({"w": tensor(BASE_STORAGE, 0, (24,), (1,))})
        what = {"epoch": integer(3), wrapper: weights, "arch": text("alexnet")}
        assert read(ordered_dict(what)).keys() == {"w"}

    def test_prefix_of_parallel_training(self, read):
        whole = tensor(BASE_STORAGE, 0, (24,), (1,))
        found = read(ordered_dict({"module.a.w": whole, "module.module.b": whole}))
        assert found.keys() == {"a.w", "module.b"}

    def test_prefix_of_some_is_a_name(self, read):
        whole = tensor(BASE_STORAGE, 0, (24,), (1,))
        assert read(ordered_dict({"module.a": whole, "b": whole})).keys() == {
            "module.a",
            "b",
        }

    def test_parameters(self, read):
        whole = parameter(tensor(BASE_STORAGE, 0, (24,), (1,)))
        assert (read(ordered_dict({"w": whole}))["w"] == BASE).all()

    def test_old_function_for_tensors(self, read):
        function = name("torch._utils", "_rebuild_tensor")
        shape = tuple_of(integer(24))
        strides = tuple_of(integer(1))
        old = call(function, BASE_STORAGE, integer(0), shape, strides)
        assert (read(ordered_dict({"w": old}))["w"] == BASE).all()

    def test_metadata_of_modules(self, read):
        """state_dict() hangs versions to its OrderedDict."""
        versions = ordered_dict({"": ordered_dict({"version": integer(1)})})
        state = b"}" + text("_metadata") + versions + b"sb"
        weights = ordered_dict({"w": tensor(BASE_STORAGE, 0, (24,), (1,))})
        assert read(weights + state).keys() == {"w"}

    def test_what_is_no_tensor_is_left_out(self, read):
        whole = tensor(BASE_STORAGE, 0, (24,), (1,))
        assert read(ordered_dict({"w": whole, "n": integer(1)})).keys() == {"w"}

    @pytest.mark.parametrize(
        "opcodes",
        [
            tensor(BASE_STORAGE, 0, (24,), (1,)),
            ordered_dict({}),
            ordered_dict({"epoch": integer(3)}),
            b"](" + tensor(BASE_STORAGE, 0, (24,), (1,)) + b"e",
            b"N",
        ],
        ids=["tensor", "empty", "no tensor", "list", "None"],
    )
    def test_no_state_dict(self, refuse, opcodes):
        storages = {} if BASE_STORAGE not in opcodes else None
        message = r"holds no state dict; save model\.state_dict\(\)"
        refuse(errors.UnknownFormat, message, opcodes, storages)


class TestLies:
    @pytest.mark.parametrize(
        ("offset", "shape", "strides"),
        [
            (1, (24,), (1,)),
            (24, (1,), (1,)),
            (2**40, (1,), (1,)),
            (2**70, (1,), (1,)),
            (-1, (2,), (1,)),
            (0, (25,), (1,)),
            (0, (2, 12), (13, 1)),
            (0, (2, 2), (1, 23)),
            (0, (-1,), (1,)),
            (0, (-1, -1), (1, 1)),
            (12, (2,), (-1,)),
            (0, (2,), (2**62,)),
            (0, (2**62, 2**62), (0, 0)),
            (0, (25,), (0,)),
            (0, (2**31, 2**31, 2**31, 0), (0, 0, 0, 0)),
            (0, (2, 3), (1,)),
            (0, (2,), (1, 1)),
            (0, (1,) * 100, (1,) * 100),
        ],
        ids=[
            "offset by one", "offset at the end", "offset far", "offset beyond 64 bits",
            "negative offset", "shape", "row stride", "column stride",
            "negative size", "negative sizes", "negative stride", "stride far",
            "bomb of one number", "a number repeated too often", "huge and empty",
            "stride missing", "stride too many", "100 dimensions",
        ],
    )  # fmt: skip
    def test_tensor_beyond_its_storage(self, refuse, offset, shape, strides):
        opcodes = ordered_dict({"w": tensor(BASE_STORAGE, offset, shape, strides)})
        refuse(errors.CorruptCheckpoint, "not a readable pickle .* a tensor ", opcodes)

    @pytest.mark.parametrize(
        "size", [b"N", b"\x88", text("24"), b"G" + bytes(8), b"]", tuple_of()]
    )
    def test_sizes_that_are_no_numbers(self, refuse, size):
        function = name("torch._utils", "_rebuild_tensor_v2")
        one = tuple_of(integer(1))
        for sizes in ((size, one, one), (integer(0), tuple_of(size), one)):
            opcodes = ordered_dict({"w": call(function, BASE_STORAGE, *sizes)})
            refuse(errors.CorruptCheckpoint, "not a readable pickle", opcodes)

    @pytest.mark.parametrize("stored", [0, 1, 92, 95, 100])
    def test_storage_of_another_length(self, refuse, stored):
        data = (BASE.tobytes() + b"more")[:stored]
        opcodes = ordered_dict({"w": tensor(BASE_STORAGE, 0, (1,), (1,))})
        how = {"storages": {"0": data}}
        refuse(errors.CorruptCheckpoint, "storage '?0'? has", opcodes, **how)

    def test_storage_that_is_missing(self, refuse):
        opcodes = ordered_dict({"w": tensor(BASE_STORAGE, 0, (1,), (1,))})
        refuse(errors.CorruptCheckpoint, "0'? is missing", opcodes, {})

    def test_storage_of_two_kinds(self, refuse):
        other = storage("IntStorage", "0", 24)
        opcodes = ordered_dict(
            {
                "w": tensor(BASE_STORAGE, 0, (1,), (1,)),
                "v": tensor(other, 0, (1,), (1,)),
            }
        )
        refuse(errors.CorruptCheckpoint, "storage '0' is of two kinds", opcodes)

    @pytest.mark.parametrize("count", [-1, 2**62, 2**64, 2**90])
    def test_storage_of_impossible_size(self, refuse, count):
        of = storage("FloatStorage", "0", count)
        opcodes = ordered_dict({"w": tensor(of, 0, (1,), (1,))})
        refuse(errors.CorruptCheckpoint, "storage '0' with an impossible", opcodes)

    def test_large_storage_takes_no_memory(self, refuse):
        of = storage("FloatStorage", "0", 2**40)
        opcodes = ordered_dict({"w": tensor(of, 0, (2**40,), (1,))})
        tracemalloc.start()
        try:
            refuse(errors.CorruptCheckpoint, "storage '?0'? has", opcodes)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize(
        "reference",
        [
            tuple_of(),
            tuple_of(text("storage")),
            tuple_of(text("module"), *[b"N"] * 4),
            tuple_of(text("storage"), text("FloatStorage"), text("0"), b"N", b"K\x01"),
            tuple_of(
                text("storage"), name("torch", "FloatStorage"), text("0"), b"N", b"N"
            ),
            tuple_of(
                text("storage"), name("torch", "FloatStorage"), text("0"), b"N",
                b"K\x18", tuple_of(text("1"), b"K\x00", b"K\x01"),
            ),
            text("storage"),
            integer(5),
            b"N",
        ],
        ids=[
            "empty", "short", "module", "kind as text", "no count", "view", "text",
            "number", "None",
        ],
    )  # fmt: skip
    def test_odd_reference(self, refuse, reference):
        opcodes = ordered_dict({"w": tensor(reference + b"Q", 0, (1,), (1,))})
        refuse(errors.CorruptCheckpoint, "not a readable pickle", opcodes)

    def test_storage_elsewhere(self, tmp_path, refuse):
        """A key is a member's name, and never a path."""
        (tmp_path / "secret").write_bytes(bytes(4))
        of = storage("FloatStorage", "../../../secret", 1)
        opcodes = ordered_dict({"w": tensor(of, 0, (1,), (1,))})
        refuse(errors.CorruptCheckpoint, "secret'? is missing", opcodes, {})

    def test_many_names_for_one_storage(self, read, refuse):
        """Each is read into memory of its own; tied weights have a few."""
        data = {"0": np.zeros(10_000, np.float32).tobytes()}
        whole = tensor(storage("FloatStorage", "0", 10_000), 0, (10_000,), (1,))
        assert len(read(ordered_dict({str(n): whole for n in range(8)}), data)) == 8
        memo = whole + b"q\x01"
        many = {"0": memo, **{str(n): b"h\x01" for n in range(1, 2000)}}
        message = "2000 tensors share storages, 80,000,000 bytes in all"
        refuse(errors.CorruptCheckpoint, message, ordered_dict(many), data)

    def test_name_that_is_no_text(self, refuse):
        whole = tensor(BASE_STORAGE, 0, (24,), (1,))
        opcodes = b"}" + tuple_of(text("a")) + whole + b"s"
        refuse(errors.CorruptCheckpoint, "names in text, found a tuple", opcodes)


class TestUnsafe:
    @pytest.mark.parametrize(
        ("module", "attribute"),
        [
            ("torch.nn.modules.conv", "Conv2d"),
            ("torch", "load"),
            ("torch.storage", "_load_from_bytes"),
            ("argparse", "Namespace"),
            ("os", "system"),
            ("__builtin__", "eval"),
        ],
    )
    def test_name(self, tmp_path, monkeypatch, refuse, module, attribute):
        monkeypatch.chdir(tmp_path)
        evil = call(name(module, attribute), text("mkdir evil"))
        weights = tensor(BASE_STORAGE, 0, (24,), (1,))
        message = f"asks for {module}.{attribute}, which is not plain data; nothing was"
        opcodes = ordered_dict({"w": weights, "evil": evil})
        refuse(errors.UnsafeCheckpoint, message, opcodes)
        assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]

    @pytest.mark.parametrize(
        "target",
        [
            name("torch", "FloatStorage"),
            BASE_STORAGE,
            tensor(BASE_STORAGE, 0, (1,), (1,)),
        ],
        ids=["kind", "storage", "tensor"],
    )
    @pytest.mark.parametrize("slots", [False, True])
    def test_stand_ins_cannot_be_changed(self, read, refuse, target, slots):
        """Else a file could spoil the reading of those after it."""
        state = b"}(" + text("dtype") + text("x") + text("shape") + text("y") + b"u"
        state = tuple_of(b"N", state) if slots else state
        good = ordered_dict({"w": tensor(BASE_STORAGE, 0, (24,), (1,))})
        changed = ordered_dict({"w": target + state + b"b"})
        refuse(errors.CorruptCheckpoint, "a change of _", changed)
        assert (read(good)["w"] == BASE).all()


class TestZip:
    WEIGHTS = ordered_dict({"w": tensor(BASE_STORAGE, 0, (24,), (1,))})

    @pytest.mark.parametrize("prefix", ["archive", "alexnet-owt", "a/b", "\u00e4 b"])
    def test_name_inside(self, tmp_path, prefix):
        found = as_zip(tmp_path / "w", self.WEIGHTS, prefix=prefix)
        assert (found["w"] == BASE).all()

    def test_before_byte_order_was_written(self, tmp_path):
        assert as_zip(tmp_path / "w", self.WEIGHTS, byteorder=None).keys() == {"w"}

    def test_big_endian(self, tmp_path):
        with pytest.raises(
            errors.CorruptCheckpoint, match=r"w: big-endian data are no"
        ):
            as_zip(tmp_path / "w", self.WEIGHTS, byteorder=b"big")

    def test_another_zip_file(self, tmp_path):
        for how in (np.savez, np.savez_compressed):
            how(tmp_path / "w.npz", a=BASE)
            with pytest.raises(
                errors.UnknownFormat, match=r"w\.npz: a zip file, but no"
            ):
                pth.read_zip(tmp_path / "w.npz")

    def test_two_pickles(self, tmp_path):
        path = tmp_path / "w"
        as_zip(path, self.WEIGHTS)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("other/data.pkl", b"N.")
        with pytest.raises(errors.UnknownFormat, match="not of torch"):
            pth.read_zip(path)

    def test_compressed(self, tmp_path):
        """A small file cannot become a large one: 100 MB of zeros in 100 KB."""
        path = tmp_path / "w"
        of = storage("FloatStorage", "0", 25_000_000)
        opcodes = ordered_dict({"w": tensor(of, 0, (25_000_000,), (1,))})
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", b"\x80\x02" + opcodes + b".")
            with archive.open("a/data/0", "w") as file:
                for _ in range(100):
                    file.write(bytes(1_000_000))
        assert path.stat().st_size < 200_000
        tracemalloc.start()
        try:
            with pytest.raises(errors.CorruptCheckpoint, match="is compressed"):
                pth.read_zip(path)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()

    def test_members_in_one_another(self, tmp_path):
        """Each storage is all that follows: 60 kB claim to be 100 times 30 kB."""
        tail, entries = bytes(30_000), []
        for key in range(100):
            member = f"a/data/{key}".encode()
            sizes = struct.pack("<3I", zlib.crc32(tail), len(tail), len(tail))
            start = struct.pack("<5H", 20, 0, 0, 0, 33) + sizes
            entries.append((member, start, len(tail)))
            lengths = struct.pack("<2H", len(member), 0)
            tail = b"PK\3\4" + start + lengths + member + tail
        names = {}
        for member, _, size in entries:
            key = member.decode().split("/")[-1]
            of = storage("ByteStorage", key, size)
            names[key] = tensor(of, 0, (size,), (1,))
        opcodes = b"\x80\x02" + ordered_dict(names) + b"."
        sizes = struct.pack("<3I", zlib.crc32(opcodes), len(opcodes), len(opcodes))
        start = struct.pack("<5H", 20, 0, 0, 0, 33) + sizes
        front = b"PK\3\4" + start + struct.pack("<2H", 10, 0) + b"a/data.pkl" + opcodes
        entries.append((b"a/data.pkl", start, None))
        directory = b""
        for member, start, size in entries:
            begins = 0 if size is None else len(front) + len(tail) - size - (
                30 + len(member)
            )  # fmt: skip
            lengths = struct.pack("<5H2I", len(member), 0, 0, 0, 0, 0, begins)
            directory += b"PK\1\2" + struct.pack("<H", 20) + start + lengths + member
        end = struct.pack("<4H2I", 0, 0, 101, 101, len(directory), len(front + tail))
        path = tmp_path / "w"
        path.write_bytes(front + tail + directory + b"PK\5\6" + end + b"\0\0")
        assert path.stat().st_size < 60_000
        with pytest.raises(
            errors.CorruptCheckpoint, match="bytes unpacked, in a file of"
        ):
            pth.read_zip(path)

    def test_checksum(self, tmp_path):
        path = tmp_path / "w"
        as_zip(path, self.WEIGHTS)
        data = bytearray(path.read_bytes())
        data[data.index(BASE.tobytes()) + 5] ^= 1
        path.write_bytes(data)
        with pytest.raises(errors.CorruptCheckpoint, match=r"damaged zip file .*CRC"):
            pth.read_zip(path)

    def test_encrypted(self, tmp_path):
        path = tmp_path / "w"
        as_zip(path, self.WEIGHTS)
        data = bytearray(path.read_bytes())
        for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            at = data.index(mark)
            data[at + place] |= 1
        path.write_bytes(data)
        with pytest.raises(errors.CorruptCheckpoint, match="encrypted"):
            pth.read_zip(path)

    def test_cut_anywhere(self, tmp_path):
        path = tmp_path / "w"
        as_zip(path, self.WEIGHTS)
        data = path.read_bytes()
        for length in range(0, len(data), 7):
            path.write_bytes(data[:length])
            with pytest.raises(errors.CorruptCheckpoint, match="damaged zip file"):
                pth.read_zip(path)


@pytest.mark.parametrize("kind", [as_zip, as_legacy], ids=["zip", "legacy"])
def test_any_byte_changed(tmp_path, kind):
    """Whatever it comes to, it is arrays or a named error."""
    path = tmp_path / "w.pth"
    kind(path, TestZip.WEIGHTS)
    data = path.read_bytes()
    chance = random.Random(1)
    reader = pth.read_zip if kind is as_zip else pth.read_legacy
    readable = 0
    for _ in range(1500):
        changed = bytearray(data)
        for _ in range(chance.choice([1, 1, 2, 5])):
            changed[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(changed)
        try:
            tensors = reader(path)
        except errors.CheckpointError as error:
            assert str(error).startswith(str(path))
            continue
        assert all(isinstance(found, np.ndarray) for found in tensors.values())
        readable += 1
    assert readable < 1500


class TestLegacy:
    WEIGHTS = TestZip.WEIGHTS

    def test_cut_anywhere(self, tmp_path):
        path = tmp_path / "w"
        as_legacy(path, self.WEIGHTS)
        data = path.read_bytes()
        for length in range(0, len(data), 5):
            path.write_bytes(data[:length])
            with pytest.raises(errors.CorruptCheckpoint, match=f"^{path}: "):
                pth.read_legacy(path)

    def test_magic_number(self, tmp_path):
        with pytest.raises(errors.CorruptCheckpoint, match="not the parts that torch"):
            as_legacy(tmp_path / "w", self.WEIGHTS, magic=7)

    @pytest.mark.parametrize("count", [0, 23, 25, 2**63])
    def test_count_before_the_data(self, tmp_path, count):
        with pytest.raises(errors.CorruptCheckpoint, match="'0' has another size"):
            as_legacy(tmp_path / "w", self.WEIGHTS, counts={"0": count})

    def test_data_of_no_storage(self, tmp_path):
        storages = {"0": BASE.tobytes(), "other": BASE.tobytes()}
        with pytest.raises(errors.CorruptCheckpoint, match="'other' is missing"):
            as_legacy(tmp_path / "w", self.WEIGHTS, storages)

    def test_pickles_of_something_else(self, tmp_path):
        path = tmp_path / "w"
        path.write_bytes(pickle.dumps(1) * 5)
        with pytest.raises(errors.CorruptCheckpoint, match="not the parts that torch"):
            pth.read_legacy(path)
