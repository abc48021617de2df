import dataclasses
import hashlib
import json
import re

import keras
import numpy as np
import pytest

from model.loop import training_loop
from model.runs import run_folder
from model.weights import restore
from pipeline.batches import preprocess

SPEC = preprocess.InputSpec(
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
    record = run_folder.Run(directory=directory)
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
    def test_is_named_by_time_and_weights(self, ckpt, stem):
        found = run_folder.new_directory("", ckpt)
        assert found.parent.name == "runs"
        assert re.fullmatch(rf"\d{{8}}-\d{{6}}-{stem}", found.name)
        assert not found.exists()

    def test_is_the_one_asked_for(self, tmp_path):
        new = tmp_path / "deep" / "run"
        assert run_folder.new_directory(str(new), "alexnet") == new
        assert not new.exists()

    def test_may_exist_if_empty(self, tmp_path):
        assert run_folder.new_directory(str(tmp_path), "alexnet") == tmp_path

    @pytest.mark.parametrize("kind", ["full folder", "file"])
    def test_is_not_overwritten(self, tmp_path, kind):
        path = tmp_path / "run"
        if kind == "file":
            path.write_text("mine")
        else:
            path.mkdir()
            (path / "mine").write_text("mine")
        with pytest.raises(
            run_folder.RunError,
            match=r"run: exists and is not empty; remove it, or choose",
        ):
            run_folder.new_directory(str(path), "alexnet")

    def test_a_stopped_training_is_told(self, tmp_path):
        (tmp_path / "checkpoints").mkdir()
        with pytest.raises(run_folder.RunError, match=r"--resume=.* goes on"):
            run_folder.new_directory(str(tmp_path), "alexnet")

    def test_is_not_the_link(self, tmp_path):
        """The link could not be put in its place when training is over."""
        with pytest.raises(
            run_folder.RunError, match="the link to the newest run; choose"
        ):
            run_folder.new_directory(str(tmp_path / "latest"), "alexnet")


class TestWriting:
    def test_start(self, tmp_path):
        record = run_folder.Run(directory=tmp_path / "runs" / "a")
        record.start({"network": "alexnet"}, ["dog", "cat", "ä \udcff"])
        assert names_in(record.directory) == ["config.json", "labels.txt"]
        labels = (record.directory / "labels.txt").read_bytes()
        assert labels == b"dog\ncat\n\xc3\xa4 \xff\n"  # label order; names as on disk
        config = json.loads((record.directory / "config.json").read_text())
        assert config == {"network": "alexnet"}
        assert not (tmp_path / "runs" / "latest").exists()

    def test_two_trainings_that_chose_one_folder(self, tmp_path):
        """Both were started in the same second, when it did not exist yet."""
        first, second = (
            run_folder.Run(directory=run_folder.new_directory(str(tmp_path / "a"), ""))
            for _ in "12"
        )
        first.start({"seed": 1}, ["cat"])
        with pytest.raises(
            run_folder.RunError, match="another training has begun here"
        ):
            second.start({"seed": 2}, ["cat"])
        config = json.loads((tmp_path / "a" / "config.json").read_text())
        assert config == {"seed": 1}

    def test_metrics_are_appended(self, tmp_path):
        record = finish(tmp_path / "a")
        record.append_metrics(result(2, loss=0.25))
        results = run_folder.read(str(tmp_path / "a")).results()
        assert [found["epoch"] for found in results] == [1, 2]
        assert results[1] == dataclasses.asdict(result(2, loss=0.25))

    def test_latest_is_the_newest_finished_run(self, tmp_path):
        latest = tmp_path / "latest"
        finish(tmp_path / "a")
        assert latest.is_symlink()
        assert latest.readlink().name == str(latest.readlink()) == "a"
        run_folder.Run(directory=tmp_path / "b").start(CONFIG, ["cat"])
        assert latest.readlink().name == "a"
        finish(tmp_path / "c")
        assert latest.readlink().name == "c"
        assert names_in(tmp_path) == ["a", "b", "c", "latest"]
        assert run_folder.read(str(latest)).directory == tmp_path / "c"

    def test_the_link_survives_moving_all_runs(self, tmp_path):
        finish(tmp_path / "runs" / "a")
        (tmp_path / "runs").rename(tmp_path / "kept")
        assert run_folder.read(str(tmp_path / "kept" / "latest")).directory.name == "a"

    def test_the_link_is_put_right_when_it_leads_nowhere(self, tmp_path):
        (tmp_path / "latest").symlink_to("gone")
        finish(tmp_path / "a")
        assert (tmp_path / "latest").readlink().name == "a"

    def test_no_link_inside_another_run(self, tmp_path):
        finish(tmp_path / "a")
        finish(tmp_path / "a" / "scratch")
        assert "latest" not in names_in(tmp_path / "a")
        several = run_folder.Run(directory=tmp_path / "b")
        several.directory.mkdir()
        several.write_json(run_folder.REPEATS, {})
        several.point_latest()
        finish(several.directory / "seed-0")
        assert names_in(several.directory) == [run_folder.REPEATS, "seed-0"]
        with pytest.raises(
            run_folder.RunError, match=r"several runs; name one .*latest/seed-0"
        ):
            run_folder.read(str(tmp_path / "latest"))

    def test_in_the_working_folder(self, tmp_path, monkeypatch):
        (tmp_path / "a").mkdir()
        monkeypatch.chdir(tmp_path / "a")
        finish(run_folder.new_directory(".", "alexnet"))
        assert (tmp_path / "latest").readlink().name == "a"

    def test_saving_again_replaces_the_model(self, tmp_path):
        record = finish(tmp_path / "a", seed=0)
        found = run_folder.read(str(tmp_path / "a"))
        before = found.model_digest()
        record.save_model(small_network(seed=1), ABOUT)
        assert found.model_digest() != before
        kernel = found.load_model().get_layer("conv1").kernel.numpy()
        assert (kernel == small_network(seed=1).get_layer("conv1").kernel.numpy()).all()

    def test_discard(self, tmp_path):
        record = finish(tmp_path / "a")
        record.discard()
        assert not (tmp_path / "a").exists()
        record.discard()


class TestLedger:
    entries = (
        restore.Entry(
            status="restored",
            variable="conv1/bias",
            shape=(2,),
            tensor="features.0.bias",
            file_shape=(2,),
            file_dtype="float32",
        ),
        restore.Entry(status="new", variable="logits/bias", shape=(3,)),
    )

    def test_content(self, tmp_path):
        before = {"conv1/kernel": "aa", "conv1/bias": "bb"}
        run_folder.Run(directory=tmp_path).write_ledger(
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
            run_folder.Run(directory=tmp_path).write_ledger(
                [], {}, before={"a": "1", "b": "2"}, after=after
            )
        assert names_in(tmp_path) == []


def test_json_that_cannot_be_written_keeps_what_was_there(tmp_path):
    record = run_folder.Run(directory=tmp_path)
    record.write_json("a.json", {"loss": 1.5})
    with pytest.raises(TypeError):
        record.write_json("a.json", {"loss": np.float32(1)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": 1.5}
    assert names_in(tmp_path) == ["a.json"]


class TestReading:
    @pytest.fixture
    def directory(self, tmp_path):
        return finish(tmp_path / "a").directory

    def test_everything(self, directory):
        found = run_folder.read(str(directory))
        assert found.directory == directory
        assert found.class_names == ("cat", "dog")
        assert found.spec == SPEC
        assert found.temperature == 1.5
        model = directory / "model.keras"
        assert found.model_digest() == hashlib.sha256(model.read_bytes()).hexdigest()
        image = np.arange(192.0).reshape(1, 8, 8, 3)
        expected = small_network()(image)
        assert np.array_equal(found.load_model()(image), expected)

    @pytest.mark.parametrize("kind", ["missing", "link", "file", "empty"])
    def test_no_run(self, tmp_path, kind):
        path = tmp_path / "runs" / "latest"
        path.parent.mkdir()
        if kind == "link":
            path.symlink_to("gone")
        elif kind == "file":
            path.write_text("x")
        elif kind == "empty":
            path.mkdir()
        expected = {
            "missing": r"latest: no such run; train one first: python train\.py",
            "link": "latest: no such run",
            "file": r"latest: config\.json is missing; .* or this is no run folder",
            "empty": r"latest: config\.json is missing; .* or this is no run folder",
        }
        with pytest.raises(run_folder.RunError, match=expected[kind]):
            run_folder.read(str(path))

    def test_half_made_run(self, tmp_path):
        run_folder.Run(directory=tmp_path).start(CONFIG, ["cat", "dog"])
        with pytest.raises(
            run_folder.RunError,
            match=r"model\.keras is missing; the run was stopped before",
        ):
            run_folder.read(str(tmp_path))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "7",
            "null",
            "\xff",
            "{}",
            json.dumps(CONFIG | {"data": []}),
            json.dumps(CONFIG | {"data": {"class_names": ["a"], "path": "b"}}),
            json.dumps(CONFIG | {"data": {"class_names": [], "manifest_digest": ""}}),
            json.dumps(CONFIG | {"data": {**CONFIG["data"], "resize_min": -1}}),
            json.dumps(CONFIG | {"input_spec": {"size_px": 8}}),
            json.dumps(CONFIG | {"input_spec": {**CONFIG["input_spec"], "mean": 1}}),
            json.dumps(CONFIG | {"input_spec": {**CONFIG["input_spec"], "size": 1}}),
            json.dumps(CONFIG | {"input_spec": {**CONFIG["input_spec"], "scale": 0}}),
        ],
        ids=range(15),
    )
    def test_damaged_config(self, directory, text):
        (directory / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(
            run_folder.RunError, match=r"a/config\.json: damaged \(.+\); train again"
        ):
            run_folder.read(str(directory))

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", "{}", '{"temperature": "x"}', '{"temperature": null}'],
    )
    def test_damaged_calibration(self, directory, text):
        (directory / "calibration.json").write_text(text)
        found = run_folder.read(str(directory))
        with pytest.raises(
            run_folder.RunError,
            match=r"a/calibration\.json: cannot be read \(.+\); train ag",
        ):
            _ = found.temperature

    @pytest.mark.parametrize("value", ["0", "-1", "NaN", "Infinity"])
    def test_impossible_temperature(self, directory, value):
        (directory / "calibration.json").write_text(f'{{"temperature": {value}}}')
        with pytest.raises(
            run_folder.RunError, match=r"temperature .+, expected above 0"
        ):
            _ = run_folder.read(str(directory)).temperature

    def test_missing_calibration(self, directory):
        (directory / "calibration.json").unlink()
        with pytest.raises(
            run_folder.RunError, match=r"calibration\.json: cannot be read"
        ):
            _ = run_folder.read(str(directory)).temperature

    @pytest.mark.parametrize("text", ["{", '{"epoch": 1}\n{"epo', "7", "\0"])
    def test_damaged_metrics(self, directory, text):
        (directory / "metrics.jsonl").write_text(text)
        line = text.count("\n") + 1
        with pytest.raises(
            run_folder.RunError, match=rf"a/metrics\.jsonl line {line}: "
        ):
            run_folder.read(str(directory)).results()

    def test_validation_curve(self, directory):
        run_folder.Run(directory=directory).append_metrics(
            result(2, validation_accuracy=0.7)
        )
        found = run_folder.read(str(directory))
        assert found.validation_curve() == [(1, 0.1), (2, 0.7)]
        (directory / "metrics.jsonl").unlink()
        assert found.validation_curve() == []

    @pytest.mark.parametrize("value", ['"much"', "null", "[]"])
    def test_damaged_validation_curve(self, directory, value):
        line = f'{{"epoch": 1, "validation_accuracy": {value}}}'
        (directory / "metrics.jsonl").write_text(line)
        with pytest.raises(run_folder.RunError, match=r"a/metrics\.jsonl: damaged"):
            run_folder.read(str(directory)).validation_curve()

    def test_evaluation_path(self, directory):
        found = run_folder.read(str(directory))
        folder = found.directory / "evaluation"
        assert found.evaluation_path("test", "0" * 64) == folder / "test.json"
        other = found.evaluation_path("test", "1234567890")
        assert other == folder / "test-12345678.json"

    def test_several(self, directory, tmp_path):
        finish(tmp_path / "b")
        found = run_folder.read_several([str(tmp_path / "b"), str(directory)])
        assert list(found) == ["b", "a"]
        assert found["a"].directory == directory.resolve()

    def test_several_of_one_name(self, directory, tmp_path):
        finish(tmp_path / "deeper" / "a")
        names = [str(directory.resolve()), str((tmp_path / "deeper" / "a").resolve())]
        assert list(run_folder.read_several(names)) == names

    def test_one_twice(self, directory, tmp_path):
        """Also by the link to the newest."""
        with pytest.raises(
            run_folder.RunError, match=r"a: named twice .* as .*latest;"
        ):
            run_folder.read_several([str(directory), str(tmp_path / "latest")])

    @pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
    def test_model_that_was_cut_off(self, directory, share):
        path = directory / "model.keras"
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(
            run_folder.RunError,
            match=r"a/model\.keras: cut off, or no Keras model; train ag",
        ):
            run_folder.read(str(directory)).load_model()

    def test_model_with_a_flipped_byte(self, directory):
        """Wherever it is: an error of ours, or it did not matter to the model."""
        path = directory / "model.keras"
        data = path.read_bytes()
        expected = small_network().get_weights()
        errors = 0
        for place in range(0, len(data), len(data) // 60):
            changed = bytearray(data)
            changed[place] ^= 0xFF
            path.write_bytes(changed)
            try:
                model = run_folder.read(str(directory)).load_model()
            except run_folder.RunError as error:
                errors += 1
                assert str(path) in str(error)
            else:
                assert all(map(np.array_equal, model.get_weights(), expected))
        assert errors > 50

    def test_model_with_code_in_it_is_refused(self, directory):
        """A Lambda layer could run anything when the model is loaded."""
        image = keras.Input((8, 8, 3))
        bad = keras.Model(image, keras.layers.Lambda(lambda x: x * 2)(image))
        bad.save(directory / "model.keras")
        with pytest.raises(
            run_folder.RunError, match=r"a/model\.keras: cannot be read"
        ):
            run_folder.read(str(directory)).load_model()
