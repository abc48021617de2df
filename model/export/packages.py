"""Which packages a format takes, and whether they are there."""

import importlib.util

from model.export import errors

_EXTRA = "export"  # in pyproject.toml


def require(what: str, *modules: str) -> None:
    """Refuses work that packages are missing for.

    Args:
        what: that needs them.
        modules: their names for `import`.

    Raises:
        errors.ExportError: says which, and how to install them.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise errors.ExportError(
            f"{what}: needs the Python packages {', '.join(missing)}, which are not "
            f"installed; expected what python -m pip install '.[{_EXTRA}]' installs"
        )
