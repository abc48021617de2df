import dataclasses
from pathlib import Path

import pytest

from model.export import export_settings, exporting, verify_file
from pipeline.system.errors import DataError
from tests.support import evaluated_runs, processes, small_runs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "a.npy", "format": "onnx"}, "--format: expected only one"),
        ({"quantize": "int8", "format": "onnx"}, "expected --format=litert"),
        ({"quantize": "int8"}, "expected --format=litert"),
        ({}, r"expected --format \(saved_model, .*\) or --weights"),
        ({"weights": "a.npy", "out": "a"}, "--out: expected --format"),
        ({"weights": "a.npy", "data": "a"}, "--data: expected --format"),
        ({"format": "litert", "max_accuracy_loss": 2.0}, "expected 0 to 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        export_settings.Config(**settings)


def test_the_table_compares_the_file_with_the_run():
    def facts(name, difference):
        numbers = {"size_bytes": 1_250_000, "latency_s": 0.0123}
        return verify_file.ModelFacts(
            name=name, takes="views", difference=difference, **numbers
        )

    models = (facts("model.keras of the run", None), facts("a.onnx", 3e-7))
    done = verify_file.Exported(
        path=Path("a.onnx"),
        card=Path("README.md"),
        kind="onnx",
        models=models,
        num_photos=32,
        tolerance=1e-4,
    )
    head, first, second, _, explanation, described, written = exporting.as_text(
        done
    ).splitlines()
    assert head.split()[:3] == ["model", "takes", "MB"]
    assert first.split()[-4:] == ["views", "1.2", "12.3", "-"]
    assert second.split() == ["a.onnx", "views", "1.2", "12.3", "3.0e-07"]
    assert "on 32 held-out photos; at most 0.0001 is allowed" in explanation
    assert (described, written) == ("described in: README.md", "written: a.onnx")
    cost = verify_file.QuantizationCost(
        num_photos=112, run_accuracy=0.875, file_accuracy=0.85, allowed_loss=0.1
    )
    int8 = dataclasses.replace(done, tolerance=1.0, cost=cost)
    *_, explanation, accuracy, _, _ = exporting.as_text(int8).splitlines()
    assert "its accuracy is limited instead" in explanation
    assert accuracy == (
        "accuracy on 112 test photos: 0.8500 (run: 0.8750, change -0.0250); a loss of "
        "0.1 is allowed"
    )


@pytest.mark.slow
def test_the_command_needs_a_run(tmp_path):
    done = processes.run_command(
        "-m", "model.export", "--format=keras", f"--run_dir={tmp_path}/no"
    )
    assert done.returncode == 2
    assert "no such run" in done.stderr


def test_an_export_needs_a_run(tmp_path):
    config = export_settings.Config(run_dir=f"{tmp_path}/no", format="keras")
    with pytest.raises(DataError, match="no such run"):
        exporting.export_classifier(config)


def test_the_records_are_read_from_data(small_run, tmp_path):
    config = export_settings.Config(
        run_dir=str(small_run.directory), format="keras", data=str(tmp_path / "moved")
    )
    with pytest.raises(DataError, match=r"moved: manifest\.json is missing"):
        exporting.export_classifier(config)


@pytest.mark.parametrize("name", ["a.safetensors", "a.npy", "a.h5", "a.weights.h5"])
def test_class_names_that_are_not_utf8_can_be_exported(found, tmp_path, name):
    records = evaluated_runs.renamed(found, ("b\udcff", "green", "red"))
    model = small_runs.colour_model()
    small_runs.write_run(tmp_path / "run", records, model)
    path = tmp_path / name
    exporting.export_weights(
        export_settings.Config(run_dir=str(tmp_path / "run"), weights=str(path))
    )
    assert path.stat().st_size > 100
