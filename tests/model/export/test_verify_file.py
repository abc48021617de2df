"""Differences between a file and its run, alone and in a batch; files that fail."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from model.export import exportable, heldout_photos, job, verify_file
from model.export.formats import litert, saved_model
from pipeline.system.errors import DataError
from tests.support import small_runs

EXPECTED = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])


def predictions(alone=EXPECTED, batch=EXPECTED[1:]):
    return verify_file.FilePredictions(
        probabilities=alone,
        batch_indices=np.array([1, 2]),
        batch_probabilities=batch,
        latency_s=0.1,
    )


class TestDifference:
    def test_equal_probabilities_do_not_differ(self):
        assert predictions().difference(EXPECTED) == 0

    def test_a_photo_classified_alone_counts(self):
        other = EXPECTED + np.array([[0, 0], [0.01, -0.01], [0, 0]])
        assert predictions(other).difference(EXPECTED) == pytest.approx(0.01)

    def test_a_photo_classified_in_a_batch_counts(self):
        swapped = EXPECTED[[2, 1]]
        assert predictions(batch=swapped).difference(EXPECTED) == pytest.approx(0.3)

    @pytest.mark.parametrize("name", ["alone", "batch"])
    def test_nan_differs_infinitely(self, name):
        shape = EXPECTED.shape if name == "alone" else EXPECTED[1:].shape
        damaged = predictions(**{name: np.full(shape, np.nan)})
        assert damaged.difference(EXPECTED) == math.inf


@pytest.mark.slow
def test_a_file_that_mixes_up_the_photos_of_a_batch_is_refused(
    small_run, monkeypatch, tmp_path
):
    right = saved_model.photo_graph.view_of_images

    def reversed_views(*arguments):
        return tf.reverse(right(*arguments), [0])

    monkeypatch.setattr(saved_model.photo_graph, "view_of_images", reversed_views)
    with pytest.raises(DataError, match=r"float_image: .* differs from the run's by"):
        job.export(small_run, "saved_model", out=str(tmp_path / "a"))
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_hangs_is_ended(tmp_path):
    script = tmp_path / "hangs.py"
    script.write_text("import time\ntime.sleep(60)\n")
    target = verify_file.Target(
        kind="keras", path=tmp_path / "a.keras", class_names=("a",)
    )
    with pytest.raises(DataError, match=r"a\.keras: .* the photos within 0\.5 s"):
        verify_file.predict(
            target,
            [[tmp_path / "views.npy"]],
            tmp_path,
            2,
            script=script,
            start_s=0.3,
            photo_s=0.1,
        )


class TestLitert:
    @pytest.fixture(autouse=True)
    def needs_litert(self):
        pytest.importorskip("ai_edge_litert")

    def test_other_weights_and_other_classes_are_found(self, small_run, tmp_path):
        source = exportable.load_run(small_run)
        heldout = heldout_photos.load(small_run)
        kernel = source.model.get_layer("colour").kernel
        kernel.assign(kernel * 1.01)
        path = tmp_path / "a.tflite"
        litert.write(source, path)
        target = verify_file.Target(
            kind="litert", path=path, class_names=source.class_names
        )
        (agreement,) = verify_file.compare(target, heldout, small_runs.SPEC)
        assert agreement.difference > 5 * job.TOLERANCE["litert"]
        other = dataclasses.replace(target, class_names=("blue", "green", "pink"))
        with pytest.raises(
            DataError, match=r"blue, green, red\. Expected blue, green, pink"
        ):
            verify_file.compare(other, heldout, small_runs.SPEC)

    def test_a_damaged_file_is_refused(self, small_run, tmp_path):
        path = tmp_path / "a.tflite"
        path.write_bytes(b"TFL3" * 9)
        target = verify_file.Target(kind="litert", path=path, class_names=("a",))
        with pytest.raises(DataError, match="cannot be used in a fresh process"):
            verify_file.compare(target, heldout_photos.load(small_run), small_runs.SPEC)
