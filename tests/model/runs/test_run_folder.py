import dataclasses
import json
import re

import keras
import numpy as np
import pytest

from model.loop import training_loop
from model.runs import finished_run, run_folder
from model.weights import weight_ledger
from pipeline.batches.input_spec import InputSpec

SPEC = InputSpec(
    size_px=8, short_side_px=9, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), source="test"
)
CONFIG = {
    "settings": {"seed": 0},
    "input_spec": dataclasses.asdict(SPEC),
    "data": {
        "path": "records",
        "manifest_digest": "0" * 64,
        "class_names": ["cat", "dog"],
    },
}


def small_network(seed=0):
    image = keras.Input((8, 8, 3))
    kernel = keras.initializers.RandomNormal(0, 1, seed=seed)
    layer = keras.layers.Conv2D(2, 8, kernel_initializer=kernel, name="conv1")
    return keras.Model(image, keras.layers.Flatten()(layer(image)))


ABOUT = {"network": "tiny"}


def result(epoch, **figures):
    names = [field.name for field in dataclasses.fields(training_loop.EpochResult)]
    values = dict.fromkeys(names, 0.1) | {"epoch": epoch} | figures
    return training_loop.EpochResult(**values)


def finish(directory, seed=0):
    """A run folder with everything that judging needs."""
    record = run_folder.RunFolder(directory=directory)
    record.start(CONFIG, ["cat", "dog"])
    record.append_metrics(result(1))
    record.write_json("calibration.json", {"temperature": 1.5})
    record.save_model(small_network(seed), ABOUT)
    record.point_latest()
    return record


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


class TestNewDirectory:
    @pytest.mark.parametrize(
        ("ckpt", "stem"),
        [
            ("alexnet", "alexnet"),
            ("weights/my model.v2.pth", "my-model"),
            ("/somewhere/bvlc.ckpt-1000.index", "bvlc"),
            ("ä/ö.npy", "-"),
            ("..", "run"),
            (".hidden", "run"),
        ],
    )
    def test_a_new_run_is_named_by_time_and_weights(self, ckpt, stem):
        found = run_folder.new_directory("", ckpt)
        assert found.parent.name == "runs"
        assert re.fullmatch(rf"\d{{8}}-\d{{6}}-{stem}", found.name)
        assert not found.exists()

    def test_the_requested_folder_is_not_created_yet(self, tmp_path):
        new = tmp_path / "deep" / "run"
        assert run_folder.new_directory(str(new), "alexnet") == new
        assert not new.exists()

    def test_an_empty_folder_is_used(self, tmp_path):
        assert run_folder.new_directory(str(tmp_path), "alexnet") == tmp_path

    @pytest.mark.parametrize("kind", ["full folder", "file"])
    def test_a_file_or_full_folder_is_not_overwritten(self, tmp_path, kind):
        path = tmp_path / "run"
        if kind == "file":
            path.write_text("mine")
        else:
            path.mkdir()
            (path / "mine").write_text("mine")
        with pytest.raises(
            run_folder.RunError,
            match=r"run: already exists and is not an empty folder",
        ):
            run_folder.new_directory(str(path), "alexnet")

    def test_the_folder_of_a_stopped_training_can_be_resumed(self, tmp_path):
        (tmp_path / "checkpoints").mkdir()
        with pytest.raises(run_folder.RunError, match=r"Continue it with --resume="):
            run_folder.new_directory(str(tmp_path), "alexnet")

    def test_the_name_of_the_link_is_refused(self, tmp_path):
        """The link could not be put in its place when training is over."""
        with pytest.raises(run_folder.RunError, match="the link to the newest run"):
            run_folder.new_directory(str(tmp_path / "latest"), "alexnet")


class TestWriting:
    def test_start_writes_config_and_labels(self, tmp_path):
        record = run_folder.RunFolder(directory=tmp_path / "runs" / "a")
        record.start({"network": "alexnet"}, ["dog", "cat", "ä \udcff"])
        assert names_in(record.directory) == ["config.json", "labels.txt"]
        labels = (record.directory / "labels.txt").read_bytes()
        assert labels == b"dog\ncat\n\xc3\xa4 \xff\n"  # label order; names as on disk
        config = json.loads((record.directory / "config.json").read_text())
        assert config == {"network": "alexnet"}
        assert not (tmp_path / "runs" / "latest").exists()

    def test_two_trainings_cannot_start_in_one_folder(self, tmp_path):
        """Both were started in the same second, when it did not exist yet."""
        first, second = (
            run_folder.RunFolder(
                directory=run_folder.new_directory(str(tmp_path / "a"), "")
            )
            for _ in "12"
        )
        first.start({"seed": 1}, ["cat"])
        with pytest.raises(
            run_folder.RunError, match="another training has started here"
        ):
            second.start({"seed": 2}, ["cat"])
        config = json.loads((tmp_path / "a" / "config.json").read_text())
        assert config == {"seed": 1}

    def test_metrics_are_appended(self, tmp_path):
        record = finish(tmp_path / "a")
        record.append_metrics(result(2, loss=0.25))
        results = finished_run.read(str(tmp_path / "a")).results()
        assert [found["epoch"] for found in results] == [1, 2]
        assert results[1] == dataclasses.asdict(result(2, loss=0.25))

    def test_latest_is_the_newest_finished_run(self, tmp_path):
        latest = tmp_path / "latest"
        finish(tmp_path / "a")
        assert latest.is_symlink()
        assert latest.readlink().name == str(latest.readlink()) == "a"
        run_folder.RunFolder(directory=tmp_path / "b").start(CONFIG, ["cat"])
        assert latest.readlink().name == "a"
        finish(tmp_path / "c")
        assert latest.readlink().name == "c"
        assert names_in(tmp_path) == ["a", "b", "c", "latest"]
        assert finished_run.read(str(latest)).directory == tmp_path / "c"

    def test_the_link_survives_moving_all_runs(self, tmp_path):
        finish(tmp_path / "runs" / "a")
        (tmp_path / "runs").rename(tmp_path / "kept")
        assert (
            finished_run.read(str(tmp_path / "kept" / "latest")).directory.name == "a"
        )

    def test_the_link_is_put_right_when_it_leads_nowhere(self, tmp_path):
        (tmp_path / "latest").symlink_to("gone")
        finish(tmp_path / "a")
        assert (tmp_path / "latest").readlink().name == "a"

    def test_no_link_inside_another_run(self, tmp_path):
        finish(tmp_path / "a")
        finish(tmp_path / "a" / "scratch")
        assert "latest" not in names_in(tmp_path / "a")
        several = run_folder.RunFolder(directory=tmp_path / "b")
        several.directory.mkdir()
        several.write_json(run_folder.REPEATS, {})
        several.point_latest()
        finish(several.directory / "seed-0")
        assert names_in(several.directory) == [run_folder.REPEATS, "seed-0"]
        with pytest.raises(
            run_folder.RunError, match=r"several runs\. Name one .*latest/seed-0"
        ):
            finished_run.read(str(tmp_path / "latest"))

    def test_a_run_in_the_working_folder_gets_a_link(self, tmp_path, monkeypatch):
        (tmp_path / "a").mkdir()
        monkeypatch.chdir(tmp_path / "a")
        finish(run_folder.new_directory(".", "alexnet"))
        assert (tmp_path / "latest").readlink().name == "a"

    def test_saving_again_replaces_the_model(self, tmp_path):
        record = finish(tmp_path / "a", seed=0)
        found = finished_run.read(str(tmp_path / "a"))
        before = found.model_digest()
        record.save_model(small_network(seed=1), ABOUT)
        assert found.model_digest() != before
        kernel = found.load_model().get_layer("conv1").kernel.numpy()
        assert (kernel == small_network(seed=1).get_layer("conv1").kernel.numpy()).all()

    def test_discard_removes_the_folder(self, tmp_path):
        record = finish(tmp_path / "a")
        record.discard()
        assert not (tmp_path / "a").exists()
        record.discard()


class TestLedger:
    entries = (
        weight_ledger.Entry(
            status="restored",
            variable="conv1/bias",
            shape=(2,),
            tensor="features.0.bias",
            file_shape=(2,),
            file_dtype="float32",
        ),
        weight_ledger.Entry(status="new", variable="logits/bias", shape=(3,)),
    )

    def test_the_ledger_lists_tensors_and_frozen_variables(self, tmp_path):
        before = {"conv1/kernel": "aa", "conv1/bias": "bb"}
        run_folder.RunFolder(directory=tmp_path).write_ledger(
            self.entries,
            {"ckpt": "alexnet"},
            before=before,
            after=before | {"logits/bias": "cc"},
        )
        assert json.loads((tmp_path / "ledger.json").read_text()) == {
            "ckpt": "alexnet",
            "tensors": [
                {
                    "status": "restored",
                    "variable": "conv1/bias",
                    "shape": [2],
                    "tensor": "features.0.bias",
                    "file_shape": [2],
                    "file_dtype": "float32",
                },
                {
                    "status": "new",
                    "variable": "logits/bias",
                    "shape": [3],
                    "tensor": "",
                    "file_shape": [],
                    "file_dtype": "",
                },
            ],
            "frozen": [
                {"variable": "conv1/bias", "sha256_before": "bb", "sha256_after": "bb"},
                {
                    "variable": "conv1/kernel",
                    "sha256_before": "aa",
                    "sha256_after": "aa",
                },
            ],
        }

    @pytest.mark.parametrize("after", [{"a": "1", "b": "other"}, {"a": "1"}])
    def test_a_frozen_variable_that_moved_is_a_bug(self, tmp_path, after):
        with pytest.raises(RuntimeError, match=r"changed in training: \['b'\]"):
            run_folder.RunFolder(directory=tmp_path).write_ledger(
                [], {}, before={"a": "1", "b": "2"}, after=after
            )
        assert names_in(tmp_path) == []


def test_json_that_cannot_be_written_keeps_what_was_there(tmp_path):
    record = run_folder.RunFolder(directory=tmp_path)
    record.write_json("a.json", {"loss": 1.5})
    with pytest.raises(TypeError):
        record.write_json("a.json", {"loss": np.float32(1)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": 1.5}
    assert names_in(tmp_path) == ["a.json"]
