"""Keeps to themselves what converters tell of their own work; errors are exceptions."""

import contextlib
import warnings
from collections.abc import Iterator

from pipeline.images import record_image


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Within it nothing reaches stderr: TensorFlow's C++ side writes there too."""
    with record_image.unheard(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts that are to move to other packages
        yield
