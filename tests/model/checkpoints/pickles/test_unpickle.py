import collections
import io
import os
import pickle
import struct

import numpy as np
import pytest

from model.checkpoints import errors, npy
from model.checkpoints.pickles import unpickle
from tests.support import cases
from tests.support.weights import arrays, damage, memory
from tests.support.weights.torch_files import name, text

# Pickle opcodes, as pickletools names them.
PROTO2, STOP, MARK, NONE = b"\x80\x02", b".", b"(", b"N"
REDUCE, BUILD, OBJ, NEWOBJ, POP = b"R", b"b", b"o", b"\x81", b"0"
DICT, LIST, TUPLE1, TUPLE = b"}", b"]", b"\x85", b"t"
SETITEMS, APPENDS = b"u", b"e"


def number(value):
    return b"J" + struct.pack("<i", value)


def put(index):
    return b"r" + struct.pack("<I", index)


def get(index):
    return b"j" + struct.pack("<I", index)


def empty(kind):
    """Return the opcodes of an object of a class, before it is filled."""
    function = name("numpy.core.multiarray", "_reconstruct")
    return function + kind + b"K\x00\x85U\x01b\x87" + REDUCE


BYTES = b"U\x08" + bytes(8)


def array(data, shape=b"K\x02\x85", dtype=b"f4"):
    """Return the opcodes of an array; `data` and `shape` are opcodes, too."""
    return (
        empty(name("numpy", "ndarray")) + MARK + b"K\x01" + shape
        + name("numpy", "dtype") + b"U" + bytes([len(dtype)]) + dtype
        + b"K\x00K\x01\x87" + REDUCE
        + b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t" + BUILD
        + b"\x89" + data + TUPLE + BUILD
    )  # fmt: skip


def in_dict(content):
    return PROTO2 + DICT + MARK + text("a") + content + SETITEMS + STOP


def ordered(pairs):
    """Return the pickle of an OrderedDict that is made from pairs in lists."""
    function = PROTO2 + name("collections", "OrderedDict")
    return function + pickle.dumps(pairs, 1)[:-1] + TUPLE1 + REDUCE + STOP


def corrupt(message):
    return pytest.raises(errors.CorruptCheckpoint, match=message)


def loads(data, **options):
    return unpickle.loads(data, "w.pkl", **options)[0]


ARRAYS = {
    "float16": np.array([[1.5, -2], [3, 65504]], np.float16),
    "float32": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
    "float64": np.array([np.pi, np.inf, -0.0]),
    "int8": np.array([-128, 127], np.int8),
    "int64": np.array([-(2**63), 2**63 - 1]),
    "uint16": np.array([65535], np.uint16),
    "bool": np.array([True, False]),
    "big-endian": np.array([1, 2, 3], ">f4"),
    "Fortran order": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "every other": np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2],
    "no dimension": np.array(7, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "all bytes": np.arange(256, dtype=np.uint8),
}


EVERY_PROTOCOL = pytest.mark.parametrize("protocol", range(6))


class TestData:
    @EVERY_PROTOCOL
    @pytest.mark.parametrize("key", ARRAYS)
    def test_arrays_of_every_type_are_read(self, key, protocol):
        array = loads(pickle.dumps(ARRAYS[key], protocol))
        arrays.assert_same({key: array}, {key: ARRAYS[key]})

    @EVERY_PROTOCOL
    def test_nested_dicts_lists_and_scalars_are_read(self, protocol):
        kernel, bias = ARRAYS["float32"], ARRAYS["int8"]
        layers = collections.OrderedDict(conv1=[kernel, bias], conv2=(kernel,))
        plain = {"step": 3, "name": "x", "none": None, "loss": np.float32(2.5)}
        value = loads(pickle.dumps({"params": layers, **plain}, protocol))
        tensors = {
            "params/conv1/0": kernel,
            "params/conv1/1": bias,
            "params/conv2/0": kernel,
        }
        arrays.assert_same(npy.flatten(value, "w.pkl"), tensors)
        assert value.pop("params").keys() == layers.keys()
        assert value == plain

    def test_pickles_of_python_2_are_read(self):
        """They write bytes as text, and NumPy's modules had other names."""
        values = np.array([1.5, -2], "<f4").tobytes()
        value = loads(in_dict(array(b"U\x08" + values)))
        assert value["a"].tolist() == [1.5, -2]

    def test_an_array_in_two_places_stays_one_array(self):
        shared = np.arange(3.0)
        value = loads(pickle.dumps({"a": shared, "b": [shared]}))
        assert value["a"] is value["b"][0]

    def test_only_the_first_of_several_pickles_is_read(self):
        first, second = pickle.dumps([1, 2]), pickle.dumps("more")
        assert unpickle.loads(first + second, "w.pkl") == ([1, 2], len(first))

    def test_references_are_resolved_by_the_caller(self):
        class Pickler(pickle.Pickler):
            def persistent_id(self, value):
                return ("key", 7) if value is ARRAYS else None

        buffer = io.BytesIO()
        Pickler(buffer).dump([ARRAYS])
        value = loads(buffer.getvalue(), persistent_load=lambda pid: pid[1] * 2)
        assert value == [14]
        with corrupt("data outside the pickle"):
            loads(buffer.getvalue())

    @pytest.mark.parametrize(
        "value", [[1], {}, {"a": 1}, None, {"a": {"b": []}}, np.zeros(3)]
    )
    def test_values_without_named_arrays_are_refused(self, value):
        with corrupt("expected a dict of arrays"):
            npy.flatten(value, "w.pkl")


class Reduced:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class WithState:
    """Runs code when it is filled."""

    def __setstate__(self, state):
        os.mkdir(state["folder"])  # noqa: PTH102

    def __init__(self, folder):
        self.folder = folder


# {name that a pickle asks for: an object whose pickle makes a folder when it is run}.
EVIL = {
    "posix.system": lambda path: Reduced(os.system, f"mkdir {path}"),
    "builtins.eval": lambda path: Reduced(eval, f"__import__('os').mkdir({path!r})"),
    "builtins.exec": lambda path: Reduced(exec, f"import os; os.mkdir({path!r})"),
    f"{__name__}.WithState": WithState,
}


class TestUnsafe:
    def test_the_message_is_one_printable_line_for_every_name(self):
        module = "os\x1b[31m\u2028" + "x" * 1000
        with pytest.raises(errors.UnsafeCheckpoint) as caught:
            loads(PROTO2 + text(module) + text("a") + b"\x93" + STOP)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500

    @EVERY_PROTOCOL
    @pytest.mark.parametrize("function", EVIL)
    def test_code_is_not_run(self, tmp_path, function, protocol):
        evil = EVIL[function](str(tmp_path / "evil"))
        data = pickle.dumps({"weights": np.zeros(3), "more": [evil]}, protocol)
        attribute = function.split(".")[-1]
        message = (
            rf"^w\.pkl: its pickle asks for (\w+\.{attribute}|copy_?reg\.\w+), "
            "which is not plain data; nothing was run"
        )
        with pytest.raises(errors.UnsafeCheckpoint, match=message):
            loads(data)
        assert list(tmp_path.iterdir()) == []
        # Python's own reader runs it, so this test can fail.
        pickle.loads(data)
        assert (tmp_path / "evil").is_dir()

    @cases.table(
        "opcodes",
        {
            "GLOBAL": name("os", "system") + b"(S'mkdir evil'\nt" + REDUCE,
            "INST": b"(S'mkdir evil'\nios\nsystem\n",
            "OBJ": MARK + name("os", "system") + b"S'mkdir evil'\n" + OBJ,
            "STACK_GLOBAL": text("os") + text("system") + b"\x93)" + REDUCE,
            "NEWOBJ": name("os", "system") + b")" + NEWOBJ,
            "NEWOBJ_EX": name("os", "system") + b")}\x92",
            "BUILD": name("os", "environ") + b"}" + BUILD,
            "not even called": name("os", "system") + POP + NONE,
        },
    )
    def test_no_opcode_reaches_a_function(self, tmp_path, monkeypatch, opcodes):
        monkeypatch.chdir(tmp_path)
        message = r"asks for os\.(system|environ), which"
        with pytest.raises(errors.UnsafeCheckpoint, match=message):
            loads(PROTO2 + opcodes + STOP)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "full_name",
        [
            *("numpy.ndarray.tofile", "numpy.dtype.__init__.__globals__"),
            *("collections.OrderedDict.fromkeys", "numpy.core.multiarray.fromfile"),
            *("numpy.load", "torch.FloatStorage", "_codecs.decode", ".", ""),
            "model.checkpoints.pickles.unpickle.loads",
        ],
    )
    @pytest.mark.parametrize("cut", [0, -1], ids=["first dot", "last dot"])
    def test_names_that_resemble_an_allowed_one_are_refused(self, full_name, cut):
        """A name with dots could reach attributes of what is allowed."""
        dots = [at for at, letter in enumerate(full_name) if letter == "."] or [0]
        module, attribute = full_name[: dots[cut]], full_name[dots[cut] + 1 :]
        opcodes = text(module) + text(attribute) + b"\x93"
        with pytest.raises(errors.UnsafeCheckpoint, match="is not plain data"):
            loads(b"\x80\x04" + opcodes + STOP)

    def test_names_of_one_format_are_refused_in_others(self):
        opcodes = PROTO2 + name("torch", "Size") + b"K\x02\x85" + REDUCE + STOP
        assert loads(opcodes, names={"torch.Size": lambda size: [size]}) == [2]
        with pytest.raises(errors.UnsafeCheckpoint):
            loads(opcodes)


class TestDamaged:
    @pytest.mark.parametrize(
        "data",
        [
            *(b"", b".", b"N", b"\x80\x02", b"\x80\xff.", b"<html>", b"\xff" * 20),
            *(PROTO2 + b"R.", PROTO2 + b"(.", PROTO2 + b"e.", PROTO2 + get(5) + STOP),
            *(PROTO2 + b"\x82\x07.", PROTO2 + b"\x97.", PROTO2 + b"]}]."),
            *(PROTO2 + b"}]Ns.", PROTO2 + b"Lone\n."),
            PROTO2 + b"I" + b"9" * 10_000 + b"\n.",
        ],
    )
    def test_bytes_that_are_no_pickle_are_refused(self, data):
        with corrupt(r"^w\.pkl: "):
            npy.flatten(loads(data), "w.pkl")

    @EVERY_PROTOCOL
    def test_a_pickle_that_is_cut_off_anywhere_is_refused(self, protocol):
        data = pickle.dumps({"a": ARRAYS["float32"], "b": [1, "x"]}, protocol)
        for length in range(len(data)):
            with corrupt(r"^w\.pkl: not a read"):
                loads(data[:length])

    @pytest.mark.parametrize("protocol", [0, 2, 4, 5])
    def test_damaged_pickles_are_read_or_refused(self, protocol):
        layers = collections.OrderedDict(conv1=[ARRAYS["float32"], ARRAYS["int8"]])
        data = pickle.dumps({"a": layers, "n": np.float64(3)}, protocol)

        def read(copy):
            tensors = npy.flatten(loads(copy), "w.pkl")
            assert all(isinstance(array, np.ndarray) for array in tensors.values())

        assert damage.outcomes(read, data, 1500)["CorruptCheckpoint"]

    @cases.table(
        "content",
        {
            "fewer bytes": array(BYTES, shape=b"K\x03\x85"),
            "more bytes": array(BYTES, shape=b"K\x01\x85"),
            "negative": array(BYTES, shape=number(-2) + b"\x85"),
            "text as size": array(BYTES, shape=text("2") + b"\x85"),
            "size for shape": array(BYTES, shape=b"K\x02"),
            "none as size": array(BYTES, shape=b"N\x85"),
            "41 dimensions": array(BYTES, shape=MARK + b"K\x01" * 40 + b"K\x02t"),
            "objects": array(BYTES, dtype=b"O8"),
            "strings": array(BYTES, dtype=b"S4"),
            "void": array(BYTES, dtype=b"V4"),
            "dates": array(BYTES, dtype=b"M8"),
            "complex": array(BYTES, dtype=b"c8"),
            "structure": array(BYTES, dtype=b"f,f"),
            "array of arrays": array(BYTES, dtype=b"2f4"),
            "long dtype": array(BYTES, dtype=b"f4,f4,f4,f4"),
            "euro signs": array(text("\u20ac" * 8)),
            "no data": array(NONE),
            "a list as data": array(LIST),
            "of another class": empty(name("collections", "OrderedDict")),
            "never filled": empty(name("numpy", "ndarray")),
            "no __init__": name("numpy", "ndarray") + b")" + NEWOBJ,
            "dtype without __init__": name("numpy", "dtype")
            + (b")" + NEWOBJ + b"(K\x03U\x01<t" + BUILD),
            "another encoding": name("_codecs", "encode")
            + (text("a") + text("rot13") + b"\x86" + REDUCE),
        },
    )
    def test_arrays_that_cannot_be_are_refused(self, content):
        """A good one of the same making is in test_pickles_of_python_2_are_read."""
        with corrupt(r"^w\.pkl: not a readable"):
            loads(in_dict(content))

    def test_a_pickle_cannot_replace_methods(self):
        """A state becomes attributes of an OrderedDict, which hide its methods."""
        made = name("collections", "OrderedDict") + b")" + REDUCE
        state = DICT + text("items") + text("not to be called") + b"s"
        assert loads(in_dict(made + state + BUILD)) == {"a": {}}


class TestBombs:
    @cases.table(
        "data",
        {
            "BINBYTES8": b"\x8e" + struct.pack("<Q", 2**62) + b"x" + STOP,
            "BINUNICODE8": b"\x8d" + struct.pack("<Q", 2**40) + b"x" + STOP,
            "BYTEARRAY8": b"\x96" + struct.pack("<Q", 2**36) + b"x" + STOP,
            "BINBYTES": b"B" + struct.pack("<I", 2**32 - 1) + b"x" + STOP,
            "BINSTRING": b"T" + struct.pack("<i", 2**31 - 1) + b"x" + STOP,
            "LONG4": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x" + STOP,
        },
    )
    def test_a_claim_of_gigabytes_takes_no_memory(self, data):
        with memory.at_most(1 << 20), corrupt("not a readable pickle"):
            loads(b"\x80\x05" + data)

    @pytest.mark.parametrize(
        "data", [put(2**32 - 1), b"p100000000\n", b"\x95" + struct.pack("<Q", 2**60)]
    )
    def test_large_places_in_the_memo_and_large_frames_take_no_memory(self, data):
        with memory.at_most(1 << 20):
            assert loads(b"\x80\x05" + LIST + data + STOP) == []

    @pytest.mark.parametrize("levels", [30, 4000])
    @pytest.mark.parametrize(
        ("begin", "end"),
        [(LIST, b"a"), (DICT + text("a"), b"s"), (b"", TUPLE1)],
        ids=["lists", "dicts", "tuples"],
    )
    def test_deep_nesting_is_refused(self, begin, end, levels):
        with corrupt("nested more than 20 levels"):
            loads(PROTO2 + begin * levels + NONE + end * levels + STOP)

    @pytest.mark.parametrize("wrap", [TUPLE1, b"2\x86"], ids=["deep", "doubled"])
    def test_tuples_that_cannot_be_hashed_are_refused(self, wrap):
        """A deep one's hash would crash Python, that of a doubled one never end."""
        data = PROTO2 + DICT + NONE + wrap * 90_000 + NONE + b"s" + STOP
        with corrupt("expected text, found tuple"):
            loads(data)

    @cases.table(
        "data",
        {
            "long integer": pickle.dumps({1 << 64: None}),
            "tuple": pickle.dumps({(1, 2): None}),
            "in protocol 0": pickle.dumps({(1, 2): None}, 0),
            "DICT": PROTO2 + MARK + NONE + TUPLE1 + NONE + b"d" + STOP,
            "ordered dict": ordered([[1 << 64, 0]]),
            "copied": ordered({1 << 64: 0}),
        },
    )
    def test_keys_whose_hashes_may_be_equal_are_refused(self, data):
        """A dict of n such keys takes n * n / 2 comparisons."""
        with corrupt("expected text, found "):
            loads(data)

    @pytest.mark.parametrize("kind", [set, frozenset])
    def test_sets_become_lists(self, kind):
        assert sorted(loads(pickle.dumps(kind([(1, 2), (3, 4)]), 4))) == [
            [1, 2],
            [3, 4],
        ]

    def test_lists_that_multiply_are_refused(self):
        """Each of 18 lists names the one before ten times: 10**18 entries."""
        data = PROTO2 + LIST + put(0) + POP
        for level in range(1, 19):
            data += LIST + put(level) + MARK + get(level - 1) * 10 + APPENDS + POP
        data += DICT + text("a") + get(18) + b"s" + STOP
        with corrupt("than 1,000,000 entries"):
            npy.flatten(loads(data), "w.pkl")

    def test_copies_of_a_dict_are_limited(self):
        """A thousand names and a million copies of them would take an hour."""
        items = b"".join(text(f"{n}") + NONE for n in range(1000))
        copy = name("collections", "OrderedDict") + get(0) + TUPLE1 + REDUCE + POP
        data = PROTO2 + DICT + put(0) + MARK + items + b"u" + copy * 2000 + STOP
        with corrupt("than 1,000,000 entries"):
            loads(data)

    @pytest.mark.parametrize("call", [REDUCE, NEWOBJ], ids=["REDUCE", "NEWOBJ"])
    def test_calls_with_many_arguments_are_refused(self, call):
        """Python copies them for each of many calls."""
        data = PROTO2 + name("numpy", "ndarray") + MARK + NONE * 21 + b"t" + call
        with corrupt("more than 20 arguments"):
            loads(data + STOP)

    def test_a_list_that_holds_itself_is_refused(self):
        data = PROTO2 + LIST + put(0) + MARK + get(0) * 10 + APPENDS + STOP
        with corrupt("nested"):
            loads(data)

    @pytest.mark.parametrize("place", ["state", "encode"])
    def test_text_that_multiplies_takes_no_memory(self, place):
        """200 arrays over the same megabyte of text, which each would encode."""
        shape = number(1 << 18) + b"\x85"
        once = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + put(0)
        again = get(0)
        if place == "encode":
            call = name("_codecs", "encode") + b"%b" + text("latin1") + b"\x86" + REDUCE
            once, again = call.replace(b"%b", once), call.replace(b"%b", again)
        data = PROTO2 + DICT + text("a") + LIST + MARK + array(once, shape)
        data += array(again, shape) * 200 + APPENDS + b"s" + STOP
        with memory.at_most(8 << 20), corrupt("arrays that share their text"):
            loads(data)

    def test_names_that_multiply_take_no_memory(self):
        """1,000 arrays in a list with a name of 100,000 letters."""
        data = pickle.dumps({"n" * 100_000: [np.zeros(1)] * 1000})
        with memory.at_most(8 << 20), corrupt("names longer than 500"):
            npy.flatten(loads(data), "w.pkl")

    def test_too_many_parts_are_refused(self):
        with corrupt("more than 2,000,000 parts"):
            loads(PROTO2 + b"N0" * 1_000_000 + LIST + STOP)
