"""A run -> a page on this machine that says of which class photos are.

    python -m model.serve
    python -m model.serve --run_dir=runs/latest --port=8080
    curl --data-binary @photo.jpg http://127.0.0.1:8000/predict

Needs the extra "serve": python -m pip install '.[serve]'. Serves this machine alone
unless --host names another address; whoever can reach that may ask.
"""

from collections.abc import Sequence

from absl import app, flags

import pipeline.system.tensorflow_import  # noqa: F401 # isort: split
from model.predict import output_formats
from model.runs import run_records
from model.serve import serving
from pipeline.system import command_line
from pipeline.system.errors import DataError


def define_flags() -> None:
    """Declares the command's flags; defaults are those of serving.Config."""
    default = serving.Config()
    flags.DEFINE_string("run_dir", default.run_dir, "Folder of the run.")
    flags.DEFINE_string("data", default.data, run_records.HELP)
    flags.DEFINE_string(
        "host",
        default.host,
        "Address to listen at; 0.0.0.0 lets other machines ask.",
    )
    flags.DEFINE_integer(
        "port",
        default.port,
        "Likewise; 0 for one that is free.",
        lower_bound=0,
        upper_bound=65535,
    )
    flags.DEFINE_string(
        "allowed_hosts",
        default.allowed_hosts,
        "Names that browsers may call the server by, with commas between them; by "
        "default those of this machine, if it serves no other, or else any.",
    )
    output_formats.define_flags()
    flags.adopt_module_key_flags(output_formats)  # so that --help shows them
    flags.DEFINE_integer(
        "max_upload_mb",
        default.max_upload_mb,
        "Larger files are refused, in MiB.",
        lower_bound=1,
        upper_bound=512,
    )
    flags.DEFINE_integer(
        "max_megapixels",
        default.max_megapixels,
        "Larger photos are refused before they are decoded, in millions of pixels.",
        lower_bound=1,
        upper_bound=178,
    )
    flags.DEFINE_integer(
        "max_requests",
        default.max_requests,
        "Photos under way at one time, uploads included; more are turned away (503).",
        lower_bound=1,
        upper_bound=1024,
    )
    flags.DEFINE_float(
        "upload_timeout_s",
        default.upload_timeout_s,
        "How long an upload may take, in seconds.",
    )
    flags.DEFINE_float(
        "decode_timeout_s",
        default.decode_timeout_s,
        "How long decoding a photo may take, in seconds; then its process is replaced.",
    )


def main(argv: Sequence[str]) -> None:
    """Serves as the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags begin with --")
    serving.serve(command_line.config_from_flags(serving.Config))


if __name__ == "__main__":
    define_flags()
    command_line.run(main, DataError)
