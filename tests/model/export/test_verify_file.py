"""Differences between a file and its run, alone and in a batch; files that fail."""

import dataclasses
import math

import numpy as np
import pytest

from model.export import exportable, verify_file
from model.export.formats import litert
from pipeline.system.errors import DataError

EXPECTED = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])


def predictions(alone=EXPECTED, batch=EXPECTED[1:]):
    return verify_file.FilePredictions(
        probabilities=np.concatenate([alone, batch]),
        indices=np.array([0, 1, 2, 1, 2]),
        latency_s=0.1,
    )


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({}, 0),
        ({"alone": EXPECTED + np.array([[0, 0], [0.01, -0.01], [0, 0]])}, 0.01),
        ({"batch": EXPECTED[[2, 1]]}, 0.3),
        ({"alone": np.full((3, 2), np.nan)}, math.inf),
        ({"batch": np.full((2, 2), np.nan)}, math.inf),
    ],
    ids=["equal", "alone", "in a batch", "NaN", "NaN in a batch"],
)
def test_the_largest_difference_counts_alone_and_in_a_batch(changed, difference):
    assert predictions(**changed).differences(EXPECTED).max() == pytest.approx(
        difference
    )


def test_a_missing_score_is_an_infinite_difference():
    scores = np.array([[0.5], [0.6], [0.7]])
    assert predictions().differences(np.hstack([EXPECTED, scores])).min() == math.inf


def test_a_process_that_hangs_is_ended(tmp_path, monkeypatch):
    script = tmp_path / "hangs.py"
    script.write_text("import time\ntime.sleep(60)\n")
    for name, value in {"_SCRIPT": script, "_START_S": 0.3, "_PHOTO_S": 0.1}.items():
        monkeypatch.setattr(verify_file, name, value)
    target = verify_file.Target(
        kind="keras", path=tmp_path / "b", name="a.keras", class_names=("a",)
    )
    with pytest.raises(DataError, match=r"a\.keras: .* the photos within 0\.5 s"):
        verify_file.predict(target, {"": [tmp_path / "views.npy"]}, tmp_path, 2)


def test_other_weights_other_classes_and_a_damaged_file_are_refused(
    small_run, tmp_path
):
    pytest.importorskip("ai_edge_litert")
    source = exportable.load_run(small_run)
    heldout = exportable.load_heldout(small_run)
    kernel = source.model.get_layer("colour").kernel
    kernel.assign(kernel * 1.01)
    path = tmp_path / "a.tflite"
    litert.write(source, path)
    target = verify_file.Target(
        kind="litert", path=path, name=path.name, class_names=source.class_names
    )
    with pytest.raises(DataError, match="differs from the run's by"):
        verify_file.compare(target, heldout, source, 5e-4)
    other = dataclasses.replace(target, class_names=("blue", "green", "pink"))
    message = r"blue, green, red\. Expected blue, green, pink"
    with pytest.raises(DataError, match=message):
        verify_file.compare(other, heldout, source, 1.0)
    path.write_bytes(b"TFL3" * 9)
    with pytest.raises(DataError, match="cannot be used in a fresh process"):
        verify_file.compare(target, heldout, source, 1.0)
