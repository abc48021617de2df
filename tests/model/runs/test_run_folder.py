import contextlib
import dataclasses
import json
import re

import numpy as np
import pytest

from model.runs import finished_run, run_folder
from model.runs.run_folder import RunError, RunFolder
from model.weights.restore import Entry
from tests.support import small_runs


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
        directory = run_folder.new_directory("", ckpt)
        assert directory.parent.name == "runs"
        assert re.fullmatch(rf"\d{{8}}-\d{{6}}-{stem}", directory.name)
        assert not directory.exists()

    def test_runs_that_start_in_one_second_have_different_names(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(run_folder.time, "strftime", lambda _: "now")
        with contextlib.ExitStack() as stack:
            reserved = run_folder.reserved
            first = stack.enter_context(reserved("", "a"))
            second, third = (stack.enter_context(reserved("", "a")) for _ in range(2))
            (second / "mine").touch()
            assert (second.name, third.name) == ("now-a-2", "now-a-3")
            assert names_in(first.parent) == ["now-a", "now-a-2", "now-a-3"]
        assert names_in(first.parent) == ["now-a-2"]  # the others are empty

    def test_a_new_or_empty_folder_is_used(self, tmp_path):
        new = tmp_path / "deep" / "run"
        assert run_folder.new_directory(str(new), "alexnet") == new
        assert run_folder.new_directory(str(tmp_path), "alexnet") == tmp_path
        assert names_in(tmp_path) == []  # nothing is created yet

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("file", "file: already exists and is not an empty folder"),
            ("full", "full: already exists and is not an empty folder"),
            ("stopped", "Continue it with --resume="),
            ("latest", "the link to the newest run"),
        ],
    )
    def test_other_places_are_refused(self, tmp_path, path, message):
        (tmp_path / "file").write_text("mine")
        (tmp_path / "full" / "mine").mkdir(parents=True)
        (tmp_path / "stopped" / "checkpoints").mkdir(parents=True)
        with pytest.raises(RunError, match=message):
            run_folder.new_directory(str(tmp_path / path), "alexnet")


class TestWriting:
    def test_start_writes_config_and_labels(self, tmp_path):
        record = RunFolder(directory=tmp_path / "runs" / "a")
        record.start({"network": "alexnet"}, ["dog", "cat", "ä \udcff"])
        assert names_in(record.directory) == ["config.json", "labels.txt"]
        labels = (record.directory / "labels.txt").read_bytes()
        assert labels == b"dog\ncat\n\xc3\xa4 \xff\n"  # label order; names as on disk
        config = json.loads((record.directory / "config.json").read_text())
        assert config == {"network": "alexnet"}
        assert not (tmp_path / "runs" / "latest").exists()

    def test_two_trainings_cannot_start_in_one_folder(self, tmp_path):
        """The folder did not exist yet when the second one chose it."""
        first, second = RunFolder(directory=tmp_path), RunFolder(directory=tmp_path)
        first.start({"seed": 1}, ["cat"])
        with pytest.raises(RunError, match="another training has started here"):
            second.start({"seed": 2}, ["cat"])
        assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 1}

    def test_metrics_are_appended(self, tmp_path):
        second = small_runs.epoch_result(2, loss=0.25)
        small_runs.write_bare_run(tmp_path / "a").append_metrics(second)
        results = finished_run.read(str(tmp_path / "a")).results()
        assert [result["epoch"] for result in results] == [1, 2]
        assert results[1] == second.as_dict()

    def test_saving_again_replaces_the_model(self, tmp_path):
        record = small_runs.write_bare_run(tmp_path / "a")
        run = finished_run.read(str(tmp_path / "a"))
        before, model = run.model_digest(), small_runs.one_layer_model(seed=1)
        record.save_model(model, {"network": "tiny"})
        assert run.model_digest() != before
        for value, expected in zip(
            run.load_model().get_weights(), model.get_weights(), strict=True
        ):
            assert (value == expected).all()

    def test_json_that_cannot_be_written_keeps_what_was_there(self, tmp_path):
        record = RunFolder(directory=tmp_path)
        record.write_json("a.json", {"loss": 1.5})
        with pytest.raises(TypeError):
            record.write_json("a.json", {"loss": np.float32(1)})
        assert json.loads((tmp_path / "a.json").read_text()) == {"loss": 1.5}
        assert names_in(tmp_path) == ["a.json"]

    def test_discard_removes_the_folder(self, tmp_path):
        record = small_runs.write_bare_run(tmp_path / "a")
        for _ in range(2):
            record.discard()
            assert not (tmp_path / "a").exists()

    def test_a_process_that_is_not_the_chief_writes_nothing(self, tmp_path):
        record = RunFolder(directory=tmp_path, writes=False)
        record.start({}, ["cat"])
        record.append_metrics(small_runs.epoch_result(1))
        record.write_ledger([], {}, before={}, after={})
        record.point_latest()
        record.discard()
        assert names_in(tmp_path) == []


class TestLatest:
    def test_latest_is_the_newest_finished_run(self, tmp_path):
        latest = tmp_path / "latest"
        latest.symlink_to("gone")
        small_runs.write_bare_run(tmp_path / "a")
        assert str(latest.readlink()) == "a"  # relative, so that folders can move
        RunFolder(directory=tmp_path / "b").start(small_runs.CONFIG, ["cat"])
        assert latest.readlink().name == "a"
        small_runs.write_bare_run(tmp_path / "c")
        assert names_in(tmp_path) == ["a", "b", "c", "latest"]
        assert finished_run.read(str(latest)).directory == tmp_path / "c"

    def test_no_link_is_made_inside_another_run(self, tmp_path):
        small_runs.write_bare_run(tmp_path / "a")
        small_runs.write_bare_run(tmp_path / "a" / "scratch")
        assert "latest" not in names_in(tmp_path / "a")
        several = RunFolder(directory=tmp_path / "b")
        several.directory.mkdir()
        several.write_json(run_folder.REPEATS, {})
        several.point_latest()
        small_runs.write_bare_run(several.directory / "seed-0")
        assert names_in(several.directory) == [run_folder.REPEATS, "seed-0"]
        with pytest.raises(RunError, match=r"epoch: .*latest/seed-0$"):
            finished_run.read(str(tmp_path / "latest"))

    def test_a_run_in_the_working_folder_gets_a_link(self, tmp_path, monkeypatch):
        (tmp_path / "a").mkdir()
        monkeypatch.chdir(tmp_path / "a")
        small_runs.write_bare_run(run_folder.new_directory(".", "alexnet"))
        assert (tmp_path / "latest").readlink().name == "a"


class TestLedger:
    ENTRIES = (
        Entry(
            status="restored",
            variable="conv1/bias",
            shape=(2,),
            tensor="features.0.bias",
            file_shape=(2,),
            file_dtype="float32",
        ),
        Entry(status="new", variable="logits/bias", shape=(3,)),
    )

    def test_the_ledger_lists_tensors_and_frozen_variables(self, tmp_path):
        before = {"conv1/kernel": "aa", "conv1/bias": "bb"}
        RunFolder(directory=tmp_path).write_ledger(
            self.ENTRIES,
            {"ckpt": "alexnet"},
            before=before,
            after=before | {"logits/bias": "cc"},
        )
        ledger = json.loads((tmp_path / "ledger.json").read_text())
        entries = [dataclasses.asdict(entry) for entry in self.ENTRIES]
        assert ledger == {
            "ckpt": "alexnet",
            "tensors": json.loads(json.dumps(entries)),
            "frozen": [
                {"variable": name, "sha256_before": digest, "sha256_after": digest}
                for name, digest in (("conv1/bias", "bb"), ("conv1/kernel", "aa"))
            ],
        }

    @pytest.mark.parametrize("after", [{"a": "1", "b": "other"}, {"a": "1"}])
    def test_a_frozen_variable_that_changed_is_a_bug(self, tmp_path, after):
        with pytest.raises(RuntimeError, match=r"changed in training: \['b'\]"):
            RunFolder(directory=tmp_path).write_ledger(
                [], {}, before={"a": "1", "b": "2"}, after=after
            )
        assert names_in(tmp_path) == []
