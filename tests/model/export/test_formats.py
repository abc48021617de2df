"""Every format, with a small network; files that do not agree are refused."""

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.evaluation import run_evaluation, stored_logits, strangers
from model.evaluation.evaluation_settings import Config
from model.evaluation.run_evaluation import EvaluationData
from model.export import (
    export_settings,
    exportable,
    exporting,
    photo_graph,
    verify_file,
)
from model.export.formats import litert
from model.networks import architecture, head
from model.predict import photo_batches
from model.runs import finished_run
from pipeline.images import opencv, record_image
from pipeline.system.errors import DataError
from tests.support import drawn_photos, small_runs
from tests.support.exports import encode, export, scene

SPEC = small_runs.SPEC
NETWORK_INPUT = photo_batches.NetworkInput(SPEC)


@pytest.fixture
def copy(small_run, tmp_path):
    """A run that a test may change."""
    folder = shutil.copytree(
        small_run.directory, tmp_path / "run", ignore=shutil.ignore_patterns("exp*")
    )
    return finished_run.read(str(folder))


def names_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_the_run_of_these_tests_tells_photos_apart(small_run):
    """Probabilities that hardly differ between photos would prove nothing."""
    heldout = exportable.load_heldout(small_run)
    assert heldout.probabilities.std(axis=0).min() > 0.1
    assert heldout.accuracy(heldout.probabilities) > 0.9


@pytest.mark.parametrize("form", export_settings.FORMATS)
def test_a_file_of_each_format_agrees_with_the_run(exported, small_run, form):
    done = exported(form)
    assert done.path.exists()
    assert done.tolerance == (1e-3 if form == "onnx" else 1e-4)
    assert done.num_photos == len(exportable.load_heldout(small_run).rows)
    first, *others = done.models
    assert (first.name, first.takes) == ("model.keras of the run", "views")
    assert len(others) == (2 if form == "saved_model" else 1)
    assert all(facts.difference < 1e-4 for facts in others)
    assert all(facts.latency_s > 0 for facts in done.models)
    assert all(facts.size_bytes > 1000 for facts in done.models)
    of_keras = ["README.md", "a-strangers.keras", "labels.txt"]
    beside = {"keras": of_keras, "saved_model": []}
    names = [done.path.name, *beside.get(form, ["README.md"])]
    assert names_in(done.path.parent) == sorted(names)


@pytest.mark.usefixtures("proof_here")
@pytest.mark.parametrize("form", ["keras", "onnx"])
def test_a_run_without_stranger_scores_is_exported_as_it_was(copy, form, tmp_path):
    (copy.directory / strangers.FILE_NAME).unlink()
    done = export(copy, form, tmp_path / "a.keras")
    assert done.models[-1].difference < 1e-4
    beside = ["labels.txt"] * (form == "keras")
    assert names_in(tmp_path) == sorted(["README.md", "a.keras", *beside, "run"])
    assert "stranger_score" not in done.card.read_text()
    if form == "onnx":
        import onnxruntime

        (output,) = onnxruntime.InferenceSession(done.path).get_outputs()
        assert output.name == "probabilities"


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_the_proof_sends_the_pixels_that_the_run_decodes_at_the_edges_of_its_window(
    resize,
):
    """Colours of a JPEG are stored at half the size, so a crop changes its edges."""
    spec = dataclasses.replace(SPEC, resize=resize)
    network_input = photo_batches.NetworkInput(spec)
    whole, as_run = [], []
    for width in range(140, 148):
        noise = np.random.default_rng(0).integers(0, 256, (90, width, 3), np.uint8)
        jpeg = encode(noise, ".jpg")
        seen = network_input(record_image.encode_for_record(jpeg))
        images = opencv.decode_rgb(jpeg), verify_file.decode_as_run(jpeg, False, spec)
        for results, image in zip((whole, as_run), images, strict=True):
            view = photo_graph.view_of_images(image[None], spec).numpy()[0]
            results.append(np.array_equal(view, seen))
    assert not all(whole)
    assert all(as_run)


def test_saved_model_takes_photos_as_they_are(exported, small_run, expected):
    loaded = tf.saved_model.load(exported("saved_model").path)
    jpeg = encode(scene(2), ".jpg")
    photos = [encode(scene(), ".jpg"), encode(scene(3, 600, 700))]
    photos += [drawn_photos.with_orientation(jpeg, number) for number in range(1, 9)]
    outputs = loaded.signatures["serving_default"](image_bytes=tf.constant(photos))
    names = [name.encode() for name in small_run.class_names]
    assert outputs["classes"].numpy().tolist() == [names] * len(photos)
    for photo, row in zip(photos, outputs["probabilities"].numpy(), strict=True):
        np.testing.assert_allclose(row, expected(photo), atol=1e-4)
    rgb = scene()[None, ..., ::-1].astype(np.float32)
    outputs = loaded.signatures["float_image"](image=tf.constant(rgb))
    result = outputs["probabilities"][0]
    np.testing.assert_allclose(result, expected(encode(scene())), atol=1e-5)


def test_onnx_takes_images_of_any_size(exported, small_run, expected):
    path = exported("onnx").path
    import onnx
    import onnxruntime

    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == list(small_run.class_names)
    assert "square window of 0.857143" in metadata["input"]
    for size in ((60, 90), (400, 300), (24, 24), (1, 5)):
        scenes = [scene(number, *size) for number in (1, 2)]
        pixels = np.stack(scenes)[..., ::-1]
        (probabilities,) = session.run(["probabilities"], {"image": pixels})
        pngs = [expected(encode(pixels)) for pixels in scenes]
        np.testing.assert_allclose(probabilities, pngs, atol=1e-3)


def test_litert_holds_its_labels(exported):
    path = exported("litert").path
    from ai_edge_litert import interpreter

    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode() == "blue\ngreen\nred\n"
    loaded = interpreter.Interpreter(str(path))
    details = loaded.get_input_details()[0]
    assert (details["dtype"], *details["shape"][1:]) == (np.uint8, 24, 24, 3)
    kernels = {op["op_name"] for op in loaded._get_ops_details()}
    assert not [name for name in kernels if name.startswith("Flex")]
    sizes = [[*output["shape"]] for output in loaded.get_output_details()]
    assert sizes == [[1, 3], [1]], "probabilities are output 0, the stranger score 1"


def test_keras_loads_in_plain_keras(exported, expected):
    path = exported("keras").path
    model = keras.models.load_model(path, safe_mode=True)
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
    png = encode(scene())
    view = NETWORK_INPUT(record_image.encode_for_record(png))[None].astype(np.float32)
    np.testing.assert_allclose(model.predict(view, verbose=0)[0], expected(png), 1e-5)
    assert path.with_name("labels.txt").read_text() == "blue\ngreen\nred\n"


@pytest.mark.usefixtures("proof_here")
class TestQuantized:
    @pytest.mark.parametrize("quantize", ["float16", "int8"])
    def test_a_smaller_file_costs_little_accuracy(self, small_run, quantize, tmp_path):
        path = tmp_path / "a.tflite"
        limits = {"quantize": quantize, "max_accuracy_loss": 0.2}
        done = export(small_run, "litert", path, **limits)
        assert done.cost.num_photos == len(exportable.load_heldout(small_run).rows)
        assert done.cost.run_accuracy - done.cost.file_accuracy <= 0.2
        run, exact, smaller = done.models
        assert exact.difference < 1e-5
        assert exact.difference < smaller.difference < 0.1
        assert smaller.size_bytes < exact.size_bytes
        assert names_in(tmp_path) == ["README.md", "a.tflite"]
        assert run.difference is None

    def test_deviations_stay_in_float32(self, found, tmp_path):
        """Whole numbers would lose a channel that is active in one place only."""
        kinds = keras.layers
        image = keras.Input((SPEC.size_px, SPEC.size_px, 3), name=architecture.INPUT)
        x = architecture.normalisation(SPEC)(image)
        x = kinds.Conv2D(3, 1, padding="same", activation="relu", name="conv")(x)
        features = head.pool_features({"conv": x}, ("conv",), "statistics")
        logits = kinds.Dense(3, name="logits")
        model = keras.Model(image, logits(features))
        model.get_layer("conv").set_weights([np.eye(3)[None, None], np.full(3, -1.0)])
        # Means and deviations both count, so an error of either is visible.
        kernel = np.concatenate([np.eye(3)[::-1], -2 * np.eye(3)[::-1]])
        logits.set_weights([kernel, np.zeros(3)])
        finished = small_runs.write_run(tmp_path / "run", found, model)
        out = tmp_path / "a.tflite"
        limits = {"quantize": "int8", "max_accuracy_loss": 1.0}
        done = export(finished, "litert", out, **limits)
        assert done.models[-1].difference < 0.02
        from ai_edge_litert import interpreter

        loaded = interpreter.Interpreter(str(out))
        types = {
            details["name"]: details["dtype"] for details in loaded.get_tensor_details()
        }
        assert np.int8 in types.values()
        deviations = {types[name] for name in types if head.SPREAD_PREFIX in name}
        assert deviations == {np.float32}

    def test_a_file_that_costs_too_much_accuracy_is_refused(
        self, small_run, tmp_path, monkeypatch
    ):
        """The file is as good as the run, says a comparison that takes no time."""
        monkeypatch.setattr(litert, "write", lambda _, path, *more: path.touch())
        monkeypatch.setattr(verify_file, "compare", lambda *_: [])
        monkeypatch.setattr(verify_file, "accuracy", lambda *_: 0.5)
        with pytest.raises(DataError, match=r"0\.5000 .* --max_accuracy_loss=0\.02"):
            export(small_run, "litert", tmp_path / "a.tflite", quantize="int8")
        assert names_in(tmp_path) == []


@pytest.mark.usefixtures("proof_here")
@pytest.mark.parametrize(
    "form", [pytest.param("onnx", marks=pytest.mark.slow), "litert"]
)
def test_a_file_is_refused_if_one_logit_differs(copy, form, tmp_path):
    exportable.load_heldout(copy)
    path = copy.directory / "evaluation" / "test.npz"
    stored = dict(np.load(path))
    stored["logits"][-1, 0] += 0.5
    np.savez_compressed(path, **stored)
    figures = json.loads(path.with_suffix(".json").read_text())
    del figures["seal"]
    stored_logits.write_sealed(path.with_suffix(".json"), figures)
    out = tmp_path / "out" / "a"
    with pytest.raises(DataError, match="differs from the run's by"):
        export(copy, form, out)
    assert names_in(out.parent) == []


@pytest.mark.slow
def test_a_file_that_mixes_up_the_photos_of_a_batch_is_refused(
    small_run, monkeypatch, tmp_path
):
    right = photo_graph.view_of_images
    monkeypatch.setattr(
        photo_graph, "view_of_images", lambda *images: tf.reverse(right(*images), [0])
    )
    with pytest.raises(DataError, match=r"float_image: .* differs from the run's by"):
        export(small_run, "saved_model", tmp_path / "a")
    assert names_in(tmp_path) == []


def test_a_run_that_was_not_evaluated_is_evaluated(copy):
    shutil.rmtree(copy.directory / "evaluation", ignore_errors=True)
    heldout = exportable.load_heldout(copy)
    assert (copy.directory / "evaluation" / "test.npz").exists()
    temperature = small_runs.TEMPERATURE
    assert copy.temperature == temperature
    model = copy.load_model()
    predictions = run_evaluation.evaluate_split(
        model,
        EvaluationData(records=heldout.records, split="test"),
        SPEC,
        Config(),
    )
    logits = predictions.logits.astype(np.float64) / temperature
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(heldout.probabilities, expected, atol=1e-6)


def test_records_that_were_moved_are_read_from_data(copy, shared_records):
    copy.config["data"]["path"] = "gone"
    with pytest.raises(DataError, match=r"gone: manifest\.json is missing.*--data="):
        exportable.load_heldout(copy)
    heldout = exportable.load_heldout(copy, str(shared_records))
    assert len(heldout.rows) == len(heldout.probabilities) > 0


class TestPath:
    @staticmethod
    def choose(form, out="", quantize="none"):
        config = export_settings.Config(format=form, out=str(out), quantize=quantize)
        return exporting.choose_path(Path("/runs/a"), config)

    def test_each_format_has_a_default_name(self):
        names = [self.choose(form).name for form in export_settings.FORMATS]
        assert names == ["saved_model", "model.onnx", "model.tflite", "model.keras"]
        path = self.choose("litert", quantize="int8")
        assert path == Path("/runs/a/exported/model-int8.tflite")

    def test_a_name_that_does_not_suit_the_format_is_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"ends in \.keras"):
            self.choose("keras", "model.h5")
        with pytest.raises(DataError, match="is a folder"):
            self.choose("onnx", tmp_path)

    def test_only_a_saved_model_or_an_empty_folder_is_replaced(self, tmp_path):
        folder = tmp_path / "mine"
        folder.mkdir()
        with pytest.raises(DataError, match="exists and is not a SavedModel"):
            self.choose("saved_model", tmp_path)
        assert self.choose("saved_model", folder) == folder
        (folder / "saved_model.pb").touch()
        assert self.choose("saved_model", folder) == folder
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="exists and is not a SavedModel"):
            self.choose("saved_model", tmp_path / "file")

    def test_labels_of_other_classes_are_not_replaced(self, tmp_path):
        path = tmp_path / "labels.txt"
        for _ in range(2):
            with exporting.replacing_labels(path, b"a\nb\n") as partial:
                assert partial.read_bytes() == b"a\nb\n"
        with (
            pytest.raises(DataError, match="other class names"),
            exporting.replacing_labels(path, b"c\n"),
        ):
            pass
        assert path.read_bytes() == b"a\nb\n"
        assert names_in(tmp_path) == ["labels.txt"]
