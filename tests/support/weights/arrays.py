"""Compare what readers return."""

import numpy as np


def assert_same(actual, expected):
    """Check names, types, shapes and values of {name: array}."""
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
        assert actual[name].shape == array.shape
        np.testing.assert_array_equal(actual[name], array)
