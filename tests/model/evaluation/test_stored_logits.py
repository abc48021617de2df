import io
import json
import types
import zipfile

import numpy as np
import pytest

from model.evaluation import stored_logits
from pipeline.system.errors import DataError

ARRAYS = {
    "sha256": np.array([f"{number:064x}" for number in range(3)]),
    "path": np.array(["a/ä.jpg", "a/\udcff.jpg", "b/1.jpg"]),
    "group": np.array([f"{number:064x}" for number in (0, 0, 2)]),
    "label": np.array([0, 0, 1]),
    "logits": np.array([[2, 1], [0, 3], [1, 1]], np.float32),
}


def npy_bytes(array, **how):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **how)
    return file.getvalue()


def write(path, arrays=ARRAYS, /, **replaced):
    """The .npz of arrays, some replaced by others or by raw bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in (arrays | replaced).items():
            data = array if isinstance(array, bytes) else npy_bytes(array)
            file.writestr(f"{name}.npy", data)
    return path


def test_what_is_written_reads_back(tmp_path):
    with (tmp_path / "test.npz").open("wb") as file:
        np.savez_compressed(file, **ARRAYS)
    examples = stored_logits.read(tmp_path / "test.npz", 2)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(getattr(examples, name), array)


LABEL = npy_bytes(ARRAYS["label"])
PICKLE = npy_bytes(np.array([{}, {}, {}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"label": ARRAYS["label"][:2]}, "different length"),
        ({"label": np.array([0, 1, 2])}, "labels beyond 0 to 1"),
        ({"label": np.array([0, 1, -1])}, "labels beyond"),
        ({"label": np.zeros(3)}, "label is float64"),
        ({"label": np.zeros((3, 1), np.int64)}, "with 2 axes"),
        ({"logits": np.zeros((3, 3), np.float32)}, r"\[3, 3\], expected \[3, 2\]"),
        ({"logits": np.full((3, 2), np.nan, np.float32)}, "not finite"),
        ({"logits": np.zeros((3, 2))}, "logits is float64"),
        ({"sha256": np.array(["0"] * 3)}, "sha256 is <U1"),
        ({"sha256": np.array(["g" * 64] * 3)}, "sha256 that are not hex digits"),
        ({"group": np.array(["g" * 64] * 3)}, "group that are not hex digits"),
        ({"path": np.array([b"a"] * 3)}, "expected numbers or text"),
        ({"path": PICKLE}, "expected numbers or text"),
        ({"path": np.full(3, 0x110000, "<u4").view("<U1")}, "not text"),
        ({name: array[:0] for name, array in ARRAYS.items()}, "no photos"),
        ({"more": np.zeros(3)}, "expected the arrays sha256"),
        ({"label": LABEL[:-1]}, "23 bytes of values, expected 24"),
        ({"label": LABEL.replace(b"(3,), }   ", b"(1<<9,), }")}, "cannot be parsed"),
        ({"label": LABEL.replace(b"(3,), } ", b"(-3,), }")}, "and shape"),
        (
            {"label": LABEL.replace(b"(3,), }          ", b"(99999999999,), }")},
            "24 bytes of values, expected 799,999,999,992",
        ),
        ({"label": LABEL.replace(b"{'descr'", b"{[]    }")}, "cannot be parsed"),
        ({"label": b"\x93NUMPY\x02\x00" + LABEL[8:]}, "a header of version 2"),
        ({"label": b"nothing"}, "expected NumPy's mark"),
    ],
)
def test_a_damaged_file_is_a_named_error(tmp_path, replaced, message):
    path = write(tmp_path / "test.npz", **replaced)
    with pytest.raises(
        DataError, match=rf"test\.npz: the file is damaged.*{message}.*again"
    ):
        stored_logits.read(path, 2)


def test_a_zip_bomb_is_refused_before_it_is_inflated(tmp_path):
    path = write(tmp_path / "test.npz", label=bytes(100 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match=r"104,\d+,\d+ bytes in a file of"):
        stored_logits.read(path, 2)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-30],
        lambda data: b"text",
        lambda data: data[:80] + bytes([data[80] ^ 0xFF]) + data[81:],
    ],
    ids=["cut", "text", "flipped"],
)
def test_a_damaged_zip_is_a_named_error(tmp_path, damage):
    path = write(tmp_path / "test.npz")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"test\.npz: the file is damaged"):
        stored_logits.read(path, 2)


FIGURES = {
    "model_sha256": "m",
    "data": {"manifest_digest": "d"},
    "images_per_s": 9.5,
    "num_groups": 2,
}


class TestFind:
    def find(self, tmp_path, model="m", digest="d", **options):
        run = types.SimpleNamespace(
            model_digest=lambda: model,
            evaluation_path=lambda split, digest: tmp_path / f"{split}.json",
        )
        return stored_logits.find(run, "test", digest, **options)

    def test_both_files_must_be_of_this_model_on_these_records(self, tmp_path):
        assert not self.find(tmp_path)
        write(tmp_path / "test.npz")
        assert not self.find(tmp_path)
        (tmp_path / "test.json").write_text(json.dumps(FIGURES))
        assert self.find(tmp_path)
        assert not self.find(tmp_path, model="other")
        assert not self.find(tmp_path, digest="other")
        earlier = {name: FIGURES[name] for name in FIGURES if name != "num_groups"}
        (tmp_path / "test.json").write_text(json.dumps(earlier))
        assert not self.find(tmp_path)

    @pytest.mark.parametrize(
        "change", ["logits", "figures", "no seal", "another user", "no home", ""]
    )
    def test_only_what_this_user_has_written_is_own(
        self, tmp_path, monkeypatch, change
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        if change == "no home":
            (tmp_path / "cache").touch()
        path = write(tmp_path / "test.npz")
        stored_logits.write_sealed(tmp_path / "test.json", FIGURES)
        figures = json.loads((tmp_path / "test.json").read_text())
        if change == "logits":
            write(path, logits=np.ones((3, 2), np.float32))
        if change == "figures":
            figures["images_per_s"] = 95.0
        if change == "no seal":
            del figures["seal"]
        if change == "another user":
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "others"))
        (tmp_path / "test.json").write_text(json.dumps(figures))
        assert self.find(tmp_path)
        own = self.find(tmp_path, only_own=True)
        assert own == (None if change else path)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "3", "{}", '{"data": 3}', "[" * 9**5]
    )
    def test_damaged_figures_are_a_named_error(self, tmp_path, text):
        write(tmp_path / "test.npz")
        (tmp_path / "test.json").write_text(text)
        with pytest.raises(DataError, match=r"test\.json: damaged .* evaluated again"):
            self.find(tmp_path)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(9.5, 9.5), (None, None), ("9", None), (float("nan"), None), (-1.0, None)],
)
def test_images_per_s_is_a_finite_number_or_none(tmp_path, rate, expected):
    path = tmp_path / "test.json"
    path.write_text(json.dumps(FIGURES | {"images_per_s": rate}))
    assert stored_logits.images_per_s(path) == expected
