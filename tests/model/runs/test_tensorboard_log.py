import numpy as np
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
    for epoch, rates in ((1, {1.0: 0.1}), (2, {1.0: 0.05, 10.0: 0.5})):
        board.write_epoch(
            small_runs.epoch_result(epoch),
            rates=rates,
            weights={"logits/kernel": np.arange(6.0)},
            confusion=np.array([[3, 1], [0, 2]]),
        )
    board.write_first_batch(np.zeros((4, 6, 3), np.uint8), 0)
    values = read_events(tmp_path / "tensorboard" / "training")
    weights = values.pop("logits/kernel")
    assert [step for step, _ in weights] == [1, 2]
    assert weights[0][1][:, 2].sum() == 6  # counts of the histogram
    ((step, sheet),) = values.pop("first_batch")
    assert step == 0
    assert [int(size) for size in sheet[:2]] == [6, 4]
    assert {n: [(s, float(a)) for s, a in v] for n, v in values.items()} == {
        "loss": [(1, 1.0), (2, 0.5)],
        "accuracy": [(1, 0.5), (2, 0.75)],
        "learning_rate": [(1, pytest.approx(0.1)), (2, pytest.approx(0.05))],
        "images_per_s": [(1, 100.0), (2, 200.0)],
        "learning_rate_of_lr_mult/1": [(2, pytest.approx(0.05))],
        "learning_rate_of_lr_mult/10": [(2, pytest.approx(0.5))],
    }
    values = read_events(tmp_path / "tensorboard" / "validation")
    assert len(values.pop("confusion_matrix")) == 2
    assert {n: [(s, float(a)) for s, a in v] for n, v in values.items()} == {
        "loss": [(1, pytest.approx(1.2)), (2, pytest.approx(0.6))],
        "accuracy": [(1, pytest.approx(0.4)), (2, pytest.approx(0.7))],
    }


def test_a_confusion_matrix_is_drawn_in_shares_of_its_rows():
    picture = tensorboard_log.picture(np.array([[4, 0], [3, 1]]))
    assert picture.shape == (256, 256, 3)
    blue, white = (0, 0, 255), (255, 255, 255)
    assert tuple(picture[0, 0]) == blue
    assert tuple(picture[0, -1]) == white
    assert tuple(picture[-1, 0]) == (255, 64, 64)  # three of four mistaken
    assert tuple(picture[-1, -1]) == (191, 191, 255)


def test_many_classes_and_classes_without_photos_are_drawn():
    assert tensorboard_log.picture(np.zeros((600, 600), int)).shape == (600, 600, 3)
    assert (tensorboard_log.picture(np.zeros((3, 3), int)) == 255).all()
