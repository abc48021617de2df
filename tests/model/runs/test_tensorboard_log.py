import pytest
import tensorflow as tf

from model.runs import tensorboard_log
from tests.support import small_runs


def read_events(folder):
    """Return {name: [(step, array)]} of all event files of a folder."""
    values = {}
    for path in folder.iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                values.setdefault(value.tag, []).append((event.step, array))
    return values


def test_what_is_written_can_be_read_back(tmp_path):
    board = tensorboard_log.Board(tmp_path)
    for epoch in (1, 2):
        board.write_epoch(small_runs.epoch_result(epoch))
    values = read_events(tmp_path / "tensorboard" / "training")
    assert {n: [(s, float(a)) for s, a in v] for n, v in values.items()} == {
        "loss": [(1, 1.0), (2, 0.5)],
        "accuracy": [(1, 0.5), (2, 0.75)],
        "learning_rate": [(1, pytest.approx(0.1)), (2, pytest.approx(0.05))],
        "images_per_s": [(1, 100.0), (2, 200.0)],
    }
    values = read_events(tmp_path / "tensorboard" / "validation")
    assert {n: [(s, float(a)) for s, a in v] for n, v in values.items()} == {
        "loss": [(1, pytest.approx(1.2)), (2, pytest.approx(0.6))],
        "accuracy": [(1, pytest.approx(0.4)), (2, pytest.approx(0.7))],
    }
