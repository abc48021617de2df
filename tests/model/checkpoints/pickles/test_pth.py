import copy
import functools
import zipfile

import ml_dtypes
import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from model.checkpoints import errors
from model.checkpoints.pickles import pth
from tests.support import cases
from tests.support.weights import arrays, damage, memory, torch_files
from tests.support.weights.torch_files import (
    call,
    integer,
    name,
    ordered_dict,
    storage,
    tensor,
    text,
    tuple_of,
)

BASE = np.arange(24, dtype=np.float32)
BASE_STORAGE = storage("FloatStorage", "0", 24)
WHOLE = tensor(BASE_STORAGE, 0, (24,), (1,))
WEIGHTS = ordered_dict({"w": WHOLE})
STORED = {"0": BASE.tobytes()}


def as_zip(path, opcodes, storages=STORED, **options):
    path.write_bytes(torch_files.zip_file(opcodes, storages, **options))
    return pth.read_zip(path)


def as_legacy(path, opcodes, storages=STORED, **options):
    sized = {key: (data, 4) for key, data in storages.items()}
    path.write_bytes(torch_files.legacy_file(opcodes, sized, **options))
    return pth.read_legacy(path)


@pytest.fixture(params=[as_zip, as_legacy], ids=["zip", "legacy"])
def read(request, tmp_path):
    """Return a function that writes a file of one kind and reads it."""
    return functools.partial(request.param, tmp_path / "w.pth")


@pytest.fixture
def refuse(read, tmp_path):
    """Return a function that expects an error of a kind, which names the file."""

    def check(kind, message, *arguments, **options):
        with pytest.raises(kind, match=message) as caught:
            read(*arguments, **options)
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
    def test_tensors_of_every_type_are_read_from_both_kinds_of_file(self, tmp_path):
        path = tmp_path / "w.pth"
        path.write_bytes(torch_files.state_dict_file(VALUES))
        arrays.assert_same(pth.read_zip(path), VALUES)
        path.write_bytes(torch_files.legacy_state_dict_file(VALUES))
        arrays.assert_same(pth.read_legacy(path), VALUES)

    @cases.table(
        "view",
        {
            "transposed": lambda base: base.reshape(4, 6).T,
            "axes turned": lambda base: base.reshape(2, 3, 4).transpose(2, 0, 1),
            "every other": lambda base: base.reshape(4, 6)[1:, ::2],
            "from 5": lambda base: base[5:],
            "last": lambda base: base[23:],
            "every fifth": lambda base: base[::5],
            "column": lambda base: base.reshape(4, 6)[:, 3],
            "one number": lambda base: base[3:4].reshape(()),
            "nothing": lambda base: base[:0].reshape(0, 7),
            "overlapping": lambda base: as_strided(base, (3, 4), (4, 8)),
            "a row repeated": lambda base: as_strided(base, (3, 4), (0, 4)),
        },
    )
    def test_views_of_a_storage_have_the_values_of_numpy(self, read, view):
        expected = view(BASE)
        offset = (expected.ctypes.data - BASE.ctypes.data) // 4 if expected.size else 0
        strides = [stride // 4 for stride in expected.strides]
        opcodes = tensor(BASE_STORAGE, offset, expected.shape, strides)
        arrays.assert_same(read(ordered_dict({"w": opcodes})), {"w": expected})

    def test_tensors_may_share_a_storage(self, read):
        front = tensor(BASE_STORAGE, 0, (3, 4), (4, 1))
        tensors = read(ordered_dict({"front": front, "whole": WHOLE, "same": WHOLE}))
        expected = {"front": BASE[:12].reshape(3, 4), "whole": BASE, "same": BASE}
        arrays.assert_same(tensors, expected)

    @pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
    def test_state_dicts_are_taken_out_of_their_wrapper(self, read, wrapper):
        saved = {"epoch": integer(3), wrapper: WEIGHTS, "arch": text("alexnet")}
        assert read(ordered_dict(saved)).keys() == {"w"}

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (["module.a.w", "module.module.b"], {"a.w", "module.b"}),
            (["module.a", "b"], {"module.a", "b"}),
        ],
        ids=["all", "some"],
    )
    def test_the_prefix_of_parallel_training_is_removed_from_all_or_none(
        self, read, names, expected
    ):
        assert read(ordered_dict(dict.fromkeys(names, WHOLE))).keys() == expected

    @cases.table(
        "weight",
        {
            "parameter": call(
                name("torch._utils", "_rebuild_parameter"),
                *(WHOLE, b"\x88", ordered_dict({})),
            ),
            "old tensor": call(
                name("torch._utils", "_rebuild_tensor"),
                *(BASE_STORAGE, integer(0), *map(tuple_of, map(integer, (24, 1)))),
            ),
        },
    )
    def test_other_forms_of_tensors_are_read(self, read, weight):
        arrays.assert_same(read(ordered_dict({"w": weight})), {"w": BASE})

    def test_what_is_no_tensor_is_left_out(self, read):
        """state_dict() adds the versions of modules to its OrderedDict."""
        versions = ordered_dict({"": ordered_dict({"version": integer(1)})})
        state = b"}" + text("_metadata") + versions + b"sb"
        weights = ordered_dict({"w": WHOLE, "n": integer(1)})
        assert read(weights + state).keys() == {"w"}

    @cases.table(
        "opcodes",
        {
            "tensor": WHOLE,
            "empty": ordered_dict({}),
            "no tensor": ordered_dict({"epoch": integer(3)}),
            "list": b"](" + WHOLE + b"e",
            "None": b"N",
        },
    )
    def test_files_without_a_state_dict_are_refused(self, refuse, opcodes):
        storages = STORED if BASE_STORAGE in opcodes else {}
        message = r"holds no state dict; save model\.state_dict\(\)"
        refuse(errors.UnknownFormat, message, opcodes, storages)


# All of a reference to a storage but its size.
FLOATS = (text("storage"), name("torch", "FloatStorage"), text("0"), b"N")


class TestLies:
    @cases.table(
        ("offset", "shape", "strides"),
        {
            "offset by one": (1, (24,), (1,)),
            "offset at the end": (24, (1,), (1,)),
            "offset far": (2**40, (1,), (1,)),
            "offset beyond 64 bits": (2**70, (1,), (1,)),
            "negative offset": (-1, (2,), (1,)),
            "shape": (0, (25,), (1,)),
            "row stride": (0, (2, 12), (13, 1)),
            "column stride": (0, (2, 2), (1, 23)),
            "negative size": (0, (-1,), (1,)),
            "negative sizes": (0, (-1, -1), (1, 1)),
            "negative stride": (12, (2,), (-1,)),
            "stride far": (0, (2,), (2**62,)),
            "bomb of one number": (0, (2**62, 2**62), (0, 0)),
            "a number repeated too often": (0, (25,), (0,)),
            "huge and empty": (0, (2**31, 2**31, 2**31, 0), (0, 0, 0, 0)),
            "stride missing": (0, (2, 3), (1,)),
            "stride too many": (0, (2,), (1, 1)),
            "100 dimensions": (0, (1,) * 100, (1,) * 100),
        },
    )
    def test_a_tensor_beyond_its_storage_is_refused(
        self, refuse, offset, shape, strides
    ):
        opcodes = ordered_dict({"w": tensor(BASE_STORAGE, offset, shape, strides)})
        refuse(errors.CorruptCheckpoint, "not a readable pickle .* a tensor ", opcodes)

    @pytest.mark.parametrize(
        "size", [b"N", b"\x88", text("24"), b"G" + bytes(8), b"]", tuple_of()]
    )
    def test_sizes_that_are_no_numbers_are_refused(self, refuse, size):
        function = name("torch._utils", "_rebuild_tensor_v2")
        unit = tuple_of(integer(1))
        for sizes in ((size, unit, unit), (integer(0), tuple_of(size), unit)):
            opcodes = ordered_dict({"w": call(function, BASE_STORAGE, *sizes)})
            refuse(errors.CorruptCheckpoint, "not a readable pickle", opcodes)

    @pytest.mark.parametrize("stored", [0, 1, 92, 95, 100])
    def test_a_storage_of_another_length_is_refused(self, refuse, stored):
        data = (BASE.tobytes() + b"more")[:stored]
        refuse(errors.CorruptCheckpoint, "storage '?0'? has", WEIGHTS, {"0": data})

    @pytest.mark.parametrize("key", ["0", "../../../secret"])
    def test_a_missing_storage_is_named(self, tmp_path, refuse, key):
        """A key is never a path in the file system."""
        (tmp_path / "secret").write_bytes(bytes(4))
        of = storage("FloatStorage", key, 1)
        opcodes = ordered_dict({"w": tensor(of, 0, (1,), (1,))})
        refuse(errors.CorruptCheckpoint, f"{key}'? is missing", opcodes, {})

    def test_a_storage_of_two_types_is_refused(self, refuse):
        other = tensor(storage("IntStorage", "0", 24), 0, (1,), (1,))
        opcodes = ordered_dict({"w": WHOLE, "v": other})
        refuse(errors.CorruptCheckpoint, "storage '0' with two kinds", opcodes)

    @pytest.mark.parametrize("count", [-1, 2**62, 2**64, 2**90])
    def test_a_storage_of_impossible_size_is_refused(self, refuse, count):
        of = storage("FloatStorage", "0", count)
        opcodes = ordered_dict({"w": tensor(of, 0, (1,), (1,))})
        refuse(errors.CorruptCheckpoint, "storage '0' with an impossible", opcodes)

    def test_a_storage_that_claims_terabytes_takes_no_memory(self, refuse):
        of = storage("FloatStorage", "0", 2**40)
        opcodes = ordered_dict({"w": tensor(of, 0, (2**40,), (1,))})
        with memory.at_most(1 << 20):
            refuse(errors.CorruptCheckpoint, "storage '?0'? has", opcodes)

    @cases.table(
        "reference",
        {
            "empty": tuple_of(),
            "short": tuple_of(text("storage")),
            "module": tuple_of(text("module"), *[b"N"] * 4),
            "kind as text": tuple_of(
                text("storage"), text("FloatStorage"), text("0"), b"N", b"K\x01"
            ),
            "no count": tuple_of(*FLOATS, b"N"),
            "view": tuple_of(
                *FLOATS, b"K\x18", tuple_of(text("1"), b"K\x00", b"K\x01")
            ),
            "text": text("storage"),
            "number": integer(5),
            "None": b"N",
        },
    )
    def test_a_reference_that_makes_no_sense_is_refused(self, refuse, reference):
        opcodes = ordered_dict({"w": tensor(reference + b"Q", 0, (1,), (1,))})
        refuse(errors.CorruptCheckpoint, "not a readable pickle", opcodes)

    def test_thousands_of_tensors_cannot_share_a_storage(self, read, refuse):
        """Each may take memory of its own; tied weights are a few."""
        data = {"0": np.zeros(10_000, np.float32).tobytes()}
        whole = tensor(storage("FloatStorage", "0", 10_000), 0, (10_000,), (1,))
        assert len(read(ordered_dict({str(n): whole for n in range(8)}), data)) == 8
        memo = whole + b"q\x01"
        many = {"0": memo, **{str(n): b"h\x01" for n in range(1, 2000)}}
        message = "2000 tensors share storages, 80,000,000 bytes in all"
        refuse(errors.CorruptCheckpoint, message, ordered_dict(many), data)

    def test_a_name_that_is_no_text_is_refused(self, refuse):
        opcodes = b"}" + tuple_of(text("a")) + WHOLE + b"s"
        refuse(errors.CorruptCheckpoint, "expected text, found tuple", opcodes)


class TestUnsafe:
    @cases.table(
        "target",
        {
            "kind": name("torch", "FloatStorage"),
            "storage": BASE_STORAGE,
            "tensor": WHOLE,
        },
    )
    @pytest.mark.parametrize("slots", [False, True])
    def test_a_file_cannot_spoil_the_reading_of_the_next(
        self, read, refuse, target, slots
    ):
        """By a change of the objects that stand in for PyTorch's."""
        state = b"}(" + text("dtype") + text("x") + text("shape") + text("y") + b"u"
        state = tuple_of(b"N", state) if slots else state
        changed = ordered_dict({"w": target + state + b"b"})
        refuse(errors.CorruptCheckpoint, "not a readable pickle", changed)
        arrays.assert_same(read(WEIGHTS), {"w": BASE})


def corrupt(message):
    return pytest.raises(errors.CorruptCheckpoint, match=message)


class TestZip:
    @pytest.fixture
    def path(self, tmp_path):
        """A file that can be read."""
        as_zip(tmp_path / "w", WEIGHTS)
        return tmp_path / "w"

    @pytest.mark.parametrize("prefix", ["archive", "alexnet-owt", "a/b", "\u00e4 b"])
    def test_the_folder_inside_may_have_any_name(self, tmp_path, prefix):
        tensors = as_zip(tmp_path / "w", WEIGHTS, prefix=prefix)
        arrays.assert_same(tensors, {"w": BASE})

    def test_files_without_a_byte_order_are_read(self, tmp_path):
        assert as_zip(tmp_path / "w", WEIGHTS, byteorder=None).keys() == {"w"}

    def test_big_endian_files_are_refused(self, tmp_path):
        with corrupt("w: big-endian data are no"):
            as_zip(tmp_path / "w", WEIGHTS, byteorder=b"big")

    def test_a_file_with_two_pickles_is_refused(self, path):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("other/data.pkl", b"N.")
        with pytest.raises(errors.UnknownFormat, match="not of torch"):
            pth.read_zip(path)

    def test_a_zip_bomb_takes_no_memory(self, tmp_path):
        """100 MB of zeros in 100 KB."""
        path = tmp_path / "w"
        of = storage("FloatStorage", "0", 25_000_000)
        opcodes = ordered_dict({"w": tensor(of, 0, (25_000_000,), (1,))})
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", b"\x80\x02" + opcodes + b".")
            archive.writestr("a/data/0", bytes(100_000_000))
        assert path.stat().st_size < 200_000
        with memory.at_most(1 << 20), corrupt("is compressed"):
            pth.read_zip(path)

    def test_members_that_overlap_are_refused(self, tmp_path):
        """A hundred storages of 30 kB are the same bytes of a file of 40 kB."""
        path = tmp_path / "w"
        storages = {str(n): storage("ByteStorage", str(n), 30_000) for n in range(100)}
        tensors = {key: tensor(of, 0, (1,), (1,)) for key, of in storages.items()}
        opcodes = ordered_dict(tensors)
        path.write_bytes(torch_files.zip_file(opcodes, {"0": bytes(30_000)}))
        with zipfile.ZipFile(path, "a") as archive:
            for key in range(1, 100):
                member = copy.copy(archive.getinfo("archive/data/0"))
                member.filename = f"archive/data/{key}"
                archive.filelist.append(member)
            archive.writestr("last", "")  # so that the list is written
        assert path.stat().st_size < 60_000
        with corrupt("bytes unpacked, in a file"):
            pth.read_zip(path)

    def test_a_wrong_checksum_is_found(self, path):
        data = bytearray(path.read_bytes())
        data[data.index(BASE.tobytes()) + 5] ^= 1
        path.write_bytes(data)
        with corrupt(r"damaged zip file .*CRC"):
            pth.read_zip(path)


@pytest.mark.parametrize("kind", [as_zip, as_legacy], ids=["zip", "legacy"])
def test_damaged_files_are_read_or_refused_and_cut_ones_are_refused(tmp_path, kind):
    path = tmp_path / "w.pth"
    kind(path, WEIGHTS)
    data = path.read_bytes()
    reader = pth.read_zip if kind is as_zip else pth.read_legacy

    def read(copy):
        path.write_bytes(copy)
        assert all(isinstance(array, np.ndarray) for array in reader(path).values())

    assert damage.outcomes(read, data, 800)["CorruptCheckpoint"]
    for length in range(0, len(data), 7):
        with corrupt(f"^{path}: "):
            read(data[:length])


class TestLegacy:
    @cases.table(
        ("options", "message"),
        {
            "magic number": ({"magic": 7}, "not the parts that torch"),
            "no numbers": ({"counts": {"0": 0}}, "'0' has another size"),
            "fewer": ({"counts": {"0": 23}}, "'0' has another size"),
            "too many": ({"counts": {"0": 2**63}}, "'0' has another size"),
            "unknown": ({"storages": {**STORED, "x": b"more"}}, "'x' is missing"),
        },
    )
    def test_a_file_of_wrong_parts_is_refused(self, tmp_path, options, message):
        with corrupt(message):
            as_legacy(tmp_path / "w", WEIGHTS, **options)
