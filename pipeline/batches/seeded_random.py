"""Make generators of random numbers that are the same on every machine."""

import numpy as np


def generator(key: tuple[int, ...]) -> np.random.Generator:
    """Return a generator whose numbers are decided by `key` alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
