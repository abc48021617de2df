import pytest
import tensorflow as tf


@pytest.fixture(params=["eager", "map"])
def apply(request):
    """Applies a function to tensors eagerly, or inside tf.data.Dataset.map."""

    def eager(function, *tensors):
        return function(*map(tf.constant, tensors)).numpy()

    def mapped(function, *tensors):
        data = tf.data.Dataset.from_tensors(tensors)
        (result,) = data.map(function).as_numpy_iterator()
        return result

    return {"eager": eager, "map": mapped}[request.param]
