"""Parametrise a test by a table of named cases."""

import pytest


def table(names, rows):
    """Return a decorator for {name of a case: value, or tuple of values}."""
    return pytest.mark.parametrize(names, list(rows.values()), ids=list(rows))
