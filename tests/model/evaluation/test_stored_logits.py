import json
import types

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


def write(path, **replaced):
    np.savez(path, **ARRAYS | replaced)
    return path


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
        assert not self.find(tmp_path, by_anybody=True)
        write(tmp_path / "test.npz")
        assert not self.find(tmp_path, by_anybody=True)
        (tmp_path / "test.json").write_text(json.dumps(FIGURES))
        assert self.find(tmp_path, by_anybody=True)
        assert not self.find(tmp_path, model="other", by_anybody=True)
        assert not self.find(tmp_path, digest="other", by_anybody=True)
        earlier = {name: FIGURES[name] for name in FIGURES if name != "num_groups"}
        (tmp_path / "test.json").write_text(json.dumps(earlier))
        assert not self.find(tmp_path, by_anybody=True)

    @pytest.mark.parametrize(
        "change",
        ["logits", "cut", "figures", "no seal", "another user", "no home", ""],
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
        if change == "cut":
            path.write_bytes(path.read_bytes()[:-30])
        if change == "figures":
            figures["images_per_s"] = 95.0
        if change == "no seal":
            del figures["seal"]
        if change == "another user":
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "others"))
        (tmp_path / "test.json").write_text(json.dumps(figures))
        assert self.find(tmp_path, by_anybody=True)
        assert self.find(tmp_path) == (None if change else path)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "3", "{}", '{"data": 3}', "[" * 9**5]
    )
    def test_damaged_figures_are_a_named_error(self, tmp_path, text):
        write(tmp_path / "test.npz")
        (tmp_path / "test.json").write_text(text)
        with pytest.raises(DataError, match=r"test\.json: damaged .* evaluated again"):
            self.find(tmp_path)
