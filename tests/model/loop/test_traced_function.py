import numpy as np
import pytest
import tensorflow as tf

from model.loop import traced_function


def test_all_batch_sizes_share_a_trace():
    traces = []

    @traced_function.for_any_batch
    def double(values, labels):
        traces.append(values.shape)
        return 2 * values, labels + 1

    for size in (4, 3, 7):
        values = np.arange(size * 2, dtype=np.float32).reshape(size, 2)
        found, labels = double(values, np.arange(size))
        np.testing.assert_array_equal(found, 2 * values)
        np.testing.assert_array_equal(labels, np.arange(size) + 1)
    assert [list(shape) for shape in traces] == [[None, 2]]


def test_examples_of_another_shape_are_traced_again():
    square = traced_function.for_any_batch(lambda values: values * values)
    assert square(np.float32([1, 2])).dtype == tf.float32
    assert square(np.int64([1, 2])).dtype == tf.int64
    assert square(np.int64([[3]])).shape == (1, 1)


def test_labels_and_shares_of_classes_have_a_trace_each():
    ranks = []

    @traced_function.for_any_batch
    def run(labels):
        ranks.append((labels.shape.rank, labels.dtype))
        return tf.shape(labels)[0]

    for size in (2, 5):
        assert int(run(np.zeros(size, np.int32))) == size
        assert int(run(np.zeros((size, 3), np.float32))) == size
    assert ranks == [(1, tf.int32), (2, tf.float32)]


def test_a_batch_that_does_not_fit_is_an_error():
    weights = tf.constant([[1.0], [2.0]])
    run = traced_function.for_any_batch(lambda values: values @ weights)
    with pytest.raises(ValueError, match="Dimensions must be equal"):
        run(np.float32([[1, 2, 3]]))
