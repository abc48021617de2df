"""Make HTML pages from templates; names of files are escaped."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2


def load_template(
    path: Path, *folders: Path, **filters: Callable[[Any], str]
) -> jinja2.Template:
    """Load a template that uses these filters; a name without a value is an error.

    It may import templates of its own folder and of `folders`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader((path.parent, *folders)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(path.name)


def jpeg_url(jpeg: bytes) -> str:
    """Return a data URL, which puts a JPEG file into a page."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
