"""Serve a run as a web page and as an endpoint that classifies posted photos.

    python -m model.serve --run_dir=runs/latest --port=8080
    curl --data-binary @photo.jpg http://127.0.0.1:8080/predict

Needs the extra "serve": python -m pip install '.[serve]'. There is no password: whoever
can reach --host may send photos.
"""

import pipeline.start  # noqa: F401 # isort: skip
from typing import Any

from model.serve.serve_settings import Config
from pipeline.system import command_line, config_flags
from pipeline.system.errors import DataError


def main(typed: dict[str, Any]) -> None:
    """Serve until a signal."""
    config = config_flags.build(Config, typed)
    # Only now, so that wrong flags are refused at once.
    import pipeline.system.tensorflow_import  # noqa: F401 # isort: split

    try:
        from model.serve import web_server
    except ImportError as error:
        raise DataError(
            f"model.serve: the Python package {error.name} is not installed. Install "
            "it with: python -m pip install '.[serve]'"
        ) from error
    web_server.serve(config)


if __name__ == "__main__":
    command_line.run(main, Config)
