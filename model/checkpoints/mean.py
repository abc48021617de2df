"""Placeholder, being written."""

from pathlib import Path

import numpy as np


def read(path: Path) -> np.ndarray:
    """To come."""
    raise NotImplementedError(path)
