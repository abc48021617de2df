"""What a file says alone and in a batch, against what the run says; in what time."""

import math

import numpy as np
import pytest

from model.export import errors, job, replay, saved_model, verify_file

EXPECTED = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])


def answers(probabilities=EXPECTED, batch=EXPECTED[1:]):
    return verify_file.Answers(
        probabilities=probabilities,
        together=np.array([1, 2]),
        batch=batch,
        latency_s=0.1,
    )


class TestDifference:
    def test_none(self):
        assert answers().difference(EXPECTED) == 0

    def test_of_photos_alone(self):
        other = EXPECTED + np.array([[0, 0], [0.01, -0.01], [0, 0]])
        assert answers(other).difference(EXPECTED) == pytest.approx(0.01)

    def test_of_a_batch(self):
        swapped = EXPECTED[[2, 1]]
        assert answers(batch=swapped).difference(EXPECTED) == pytest.approx(0.3)

    def test_no_number_at_all(self):
        for name in ("probabilities", "batch"):
            damaged = {name: np.full_like(EXPECTED[-2:], np.nan)}
            if name == "probabilities":
                damaged[name] = np.full_like(EXPECTED, np.nan)
            assert answers(**damaged).difference(EXPECTED) == math.inf


@pytest.mark.slow
def test_a_file_that_mixes_up_a_batch(small_run, monkeypatch, tmp_path):
    """Each photo alone is answered rightly."""
    import tensorflow as tf

    right = saved_model.photo_graph.view_of_images

    def turned_round(*words):
        return tf.reverse(right(*words), [0])

    monkeypatch.setattr(saved_model.photo_graph, "view_of_images", turned_round)
    words = "float_image: .* differs from the run's by .* alone or in a batch"
    with pytest.raises(errors.ExportError, match=words):
        job.export(small_run, "saved_model", out=str(tmp_path / "a"))
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_hangs(monkeypatch, tmp_path):
    script = tmp_path / "hangs.py"
    script.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(replay, "__file__", str(script))
    monkeypatch.setattr(verify_file, "_START_S", 0.3)
    monkeypatch.setattr(verify_file, "_EACH_S", 0.1)
    target = verify_file.Target(
        kind="keras", path=tmp_path / "a.keras", class_names=("a",)
    )
    words = r"a\.keras: gave no answer about 2 photos within 0\.5 s"
    with pytest.raises(errors.ExportError, match=words):
        verify_file.ask(target, [[tmp_path / "views.npy"]], tmp_path, 2)
