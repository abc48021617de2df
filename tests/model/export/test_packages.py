import pytest

from model.export import errors, packages


def test_what_is_there():
    packages.require("--format=keras", "numpy", "json")


def test_what_is_missing():
    words = (
        r"--format=x: needs the Python packages no_such_package, which .*\.\[export\]"
    )
    with pytest.raises(errors.ExportError, match=words):
        packages.require("--format=x", "numpy", "no_such_package")
