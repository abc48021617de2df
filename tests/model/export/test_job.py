"""Every format, with a small network; what must be refused is refused."""

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

from model.evaluation import evaluate_split
from model.export import errors, exportable, heldout_photos, job, litert, verify_file
from model.networks import architecture, head
from model.runs import finished_run
from pipeline.batches import single_photo
from pipeline.system.errors import DataError
from tests import conftest, exif_files, small_runs

SPEC = small_runs.SPEC
VIEWER = single_photo.Viewer(SPEC)
PACKAGES = {
    "onnx": ("onnx", "onnxruntime", "tf2onnx"),
    "litert": ("ai_edge_litert",),
}


@pytest.fixture(scope="session")
def expected(small_run):
    """Encoded image -> probabilities, by the run's own model and preprocessing."""
    model = exportable.of_run(small_run).model

    def ask(data):
        seen = VIEWER.of_file(data)
        return model(seen[None].astype(np.float32), training=False).numpy()[0]

    return ask


@pytest.fixture(scope="session")
def exported(small_run, tmp_path_factory):
    """Format -> what came of it, made once: a process with TensorFlow takes seconds."""
    done = {}

    def export(form):
        for name in PACKAGES.get(form, ()):
            pytest.importorskip(name)
        if form not in done:
            name = {"keras": "a.keras"}.get(form, "a")
            out = tmp_path_factory.mktemp(form) / name
            done[form] = job.export(small_run, form, out=str(out))
        return done[form]

    return export


@pytest.fixture
def copy(small_run, tmp_path):
    """A run that a test may spoil."""
    folder = shutil.copytree(
        small_run.directory, tmp_path / "run", ignore=shutil.ignore_patterns("exp*")
    )
    return finished_run.read(str(folder))


def scene(number=1, height=60, width=90):
    return conftest.draw_scene(number, height, width)


def jpeg(pixels):
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def left_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_the_run_is_worth_comparing(small_run):
    """Probabilities that hardly differ between photos would prove nothing."""
    held = heldout_photos.of_run(small_run)
    assert held.probabilities.std(axis=0).min() > 0.1
    assert held.accuracy > 0.9


@pytest.mark.parametrize("form", job.FORMATS)
def test_every_format(exported, small_run, form):
    done = exported(form)
    assert done.path.exists()
    assert done.tolerance == (1e-3 if form == "onnx" else 1e-4)
    assert done.num_photos == len(heldout_photos.of_run(small_run).rows)
    first, *others = done.lines
    assert (first.name, first.takes) == ("model.keras of the run", "views")
    assert len(others) == (2 if form == "saved_model" else 1)
    assert all(line.difference < 1e-4 for line in others)
    assert all(line.latency_s > 0 and line.size_bytes > 1000 for line in done.lines)
    beside = ["labels.txt"] if form == "keras" else []
    assert left_in(done.path.parent) == sorted([done.path.name, *beside])


def test_saved_model_takes_photos_as_they_are(exported, small_run, expected):
    loaded = tf.saved_model.load(exported("saved_model").path)
    photos = [
        jpeg(
            scene(),
        )
        for _ in range(1)
    ]
    photos += [exif_files.turned(jpeg(scene(2)), number) for number in range(1, 9)]
    photos += [cv2.imencode(".png", scene(3, 600, 700))[1].tobytes()]
    answers = loaded.signatures["serving_default"](image_bytes=tf.constant(photos))
    names = [name.encode() for name in small_run.class_names]
    assert answers["classes"].numpy().tolist() == [names] * len(photos)
    for photo, found in zip(photos, answers["probabilities"].numpy(), strict=True):
        np.testing.assert_allclose(found, expected(photo), atol=1e-4)
    rgb = scene()[None, ..., ::-1].astype(np.float32)
    found = loaded.signatures["float_image"](image=tf.constant(rgb))
    png = cv2.imencode(".png", scene())[1].tobytes()
    np.testing.assert_allclose(found["probabilities"][0], expected(png), atol=1e-5)


def test_onnx_takes_images_of_any_size(exported, small_run, expected):
    path = exported("onnx").path
    import onnx
    import onnxruntime

    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == list(small_run.class_names)
    assert "square window of 0.857143" in about["input"]
    for size in ((60, 90), (400, 300), (24, 24), (1, 5)):
        scenes = [scene(number, *size) for number in (1, 2)]
        pixels = np.stack(scenes)[..., ::-1]
        (found,) = session.run(None, {"image": pixels})
        for number in range(2):
            png = cv2.imencode(".png", scenes[number])[1].tobytes()
            np.testing.assert_allclose(found[number], expected(png), atol=1e-3)


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


def test_keras_loads_in_plain_keras(exported, expected):
    path = exported("keras").path
    model = keras.models.load_model(path, safe_mode=True)
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
    png = cv2.imencode(".png", scene())[1].tobytes()
    seen = VIEWER.of_file(png)[None].astype(np.float32)
    np.testing.assert_allclose(model.predict(seen, verbose=0)[0], expected(png), 1e-5)
    assert path.with_name("labels.txt").read_text() == "blue\ngreen\nred\n"


class TestQuantized:
    @pytest.mark.parametrize("quantize", ["float16", "int8"])
    def test_cost(self, small_run, quantize, tmp_path):
        pytest.importorskip("ai_edge_litert")
        path = tmp_path / "a.tflite"
        done = job.export(
            small_run,
            "litert",
            out=str(path),
            quantize=quantize,
            max_accuracy_loss=0.2,
        )
        assert done.cost.num_photos == len(heldout_photos.of_run(small_run).rows)
        assert done.cost.of_run - done.cost.of_file <= 0.2
        run_line, exact, smaller = done.lines
        assert exact.difference < 1e-5
        assert exact.difference < smaller.difference < 0.1
        assert smaller.size_bytes < exact.size_bytes
        assert left_in(tmp_path) == ["a.tflite"]
        assert run_line.difference is None

    def test_deviations_stay_in_float32(self, found, tmp_path):
        """Of a channel that answers in one place, whole numbers would leave nothing."""
        pytest.importorskip("ai_edge_litert")
        kinds = keras.layers
        image = keras.Input((SPEC.size_px, SPEC.size_px, 3), name=architecture.INPUT)
        x = architecture.normalisation(SPEC)(image)
        x = kinds.Conv2D(3, 1, padding="same", activation="relu", name="conv")(x)
        seen = head.pool_features({"conv": x}, ("conv",), "statistics")
        logits = kinds.Dense(3, name="logits")
        model = keras.Model(image, logits(seen))
        model.get_layer("conv").set_weights([np.eye(3)[None, None], np.full(3, -1.0)])
        # By means and deviations both, so that either alone shows in what is said.
        kernel = np.concatenate([np.eye(3)[::-1], -2 * np.eye(3)[::-1]])
        logits.set_weights([kernel, np.zeros(3)])
        finished = small_runs.write_run(tmp_path / "run", found, model)
        out = str(tmp_path / "a.tflite")
        done = job.export(
            finished, "litert", out=out, quantize="int8", max_accuracy_loss=1
        )
        assert done.lines[-1].difference < 0.02
        from ai_edge_litert import interpreter

        loaded = interpreter.Interpreter(out)
        types = {
            details["name"]: details["dtype"] for details in loaded.get_tensor_details()
        }
        assert np.int8 in types.values()
        spread = [types[name] for name in types if head.SPREAD_PREFIX in name]
        assert spread
        assert set(spread) == {np.float32}

    def test_that_costs_too_much(self, small_run, tmp_path):
        pytest.importorskip("ai_edge_litert")
        with pytest.raises(errors.ExportError, match="--max_accuracy_loss=-2 less"):
            job.export(
                small_run,
                "litert",
                out=str(tmp_path / "a.tflite"),
                quantize="int8",
                max_accuracy_loss=-2,  # not even the best is good enough
            )
        assert left_in(tmp_path) == []


class TestRefused:
    @pytest.mark.parametrize("form", ["onnx", "litert"])
    def test_other_probabilities_than_stored(self, copy, form, tmp_path):
        """One logit of one photo is not what the exported file says."""
        for name in PACKAGES[form]:
            pytest.importorskip(name)
        heldout_photos.of_run(copy)
        path = copy.directory / "evaluation" / "test.npz"
        stored = dict(np.load(path))
        stored["logits"][-1, 0] += 0.5
        np.savez_compressed(path, **stored)
        out = tmp_path / "out" / "a"
        with pytest.raises(errors.ExportError, match="differs from the run's by"):
            job.export(copy, form, out=str(out))
        assert left_in(out.parent) == []

    def test_other_weights(self, small_run, tmp_path):
        pytest.importorskip("ai_edge_litert")
        source = exportable.of_run(small_run)
        held = heldout_photos.of_run(small_run)
        kernel = source.model.get_layer("colour").kernel
        kernel.assign(kernel * 1.01)
        path = tmp_path / "a.tflite"
        litert.write(source, path)
        target = verify_file.Target(
            kind="litert", path=path, class_names=source.class_names
        )
        (found,) = verify_file.compare(target, held, SPEC)
        assert found.difference > 5 * job.TOLERANCE["litert"]
        other = dataclasses.replace(target, class_names=("blue", "green", "pink"))
        with pytest.raises(errors.ExportError, match="blue, green, red; expected blue"):
            verify_file.compare(other, held, SPEC)

    def test_a_damaged_file(self, small_run, tmp_path):
        pytest.importorskip("ai_edge_litert")
        path = tmp_path / "a.tflite"
        path.write_bytes(b"TFL3" * 9)
        target = verify_file.Target(kind="litert", path=path, class_names=("a",))
        with pytest.raises(errors.ExportError, match="cannot be used in a fresh proc"):
            verify_file.compare(target, heldout_photos.of_run(small_run), SPEC)


def test_a_run_that_was_not_judged_is_judged(copy):
    shutil.rmtree(copy.directory / "evaluation", ignore_errors=True)
    held = heldout_photos.of_run(copy)
    assert (copy.directory / "evaluation" / "test.npz").exists()
    temperature = small_runs.TEMPERATURE
    assert copy.temperature == temperature
    model = copy.load_model()
    judged = evaluate_split.judge(model, held.found, "test", SPEC)
    logits = judged.logits.astype(np.float64) / temperature
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(held.probabilities, expected, atol=1e-6)


def test_spread():
    assert heldout_photos.spread(3, 32).tolist() == [0, 1, 2]
    assert heldout_photos.spread(10, 4).tolist() == [0, 2, 5, 7]


def test_records_that_were_moved(copy, shared_records):
    copy.config["data"]["path"] = "gone"
    with pytest.raises(DataError, match=r"gone: no manifest\.json here.*--data="):
        heldout_photos.of_run(copy)
    held = heldout_photos.of_run(copy, str(shared_records))
    assert len(held.rows) == len(held.probabilities) > 0
