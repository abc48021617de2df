import numpy as np
import pytest
import tensorflow as tf

from model.networks import fast_graphs


def test_all_batch_sizes_share_a_trace_for_each_kind_of_labels():
    """Labels are int32 [batch], shares of classes float32 [batch, num_classes]."""
    traces = []

    @fast_graphs.for_any_batch
    def double(values, labels):
        traces.append((values.shape.as_list(), labels.shape.rank, labels.dtype))
        return 2 * values, labels + 1

    for size in (4, 3, 7):
        values = np.arange(size * 2, dtype=np.float32).reshape(size, 2)
        for labels in (np.arange(size, dtype=np.int32), np.eye(size, 3, dtype="f4")):
            doubled, added = double(values, labels)
            np.testing.assert_array_equal(doubled, 2 * values)
            np.testing.assert_array_equal(added, labels + 1)
    assert traces == [([None, 2], 1, tf.int32), ([None, 2], 2, tf.float32)]


def test_a_batch_that_does_not_fit_is_an_error():
    weights = tf.constant([[1.0], [2.0]])
    run = fast_graphs.for_any_batch(lambda values: values @ weights)
    with pytest.raises(ValueError, match="Dimensions must be equal"):
        run(np.float32([[1, 2, 3]]))
