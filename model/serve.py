"""A run -> a page on this machine that says of which class photos are.

    python -m model.serve
    python -m model.serve --run_dir=runs/latest --port=8080
    curl --data-binary @photo.jpg http://127.0.0.1:8000/predict

Needs the extra "serve": python -m pip install '.[serve]'. Serves this machine alone
unless --host names another address; whoever can reach that may ask.
"""

import dataclasses
import ipaddress
import socket
from collections.abc import Sequence

from absl import app, flags

import pipeline.system.tensorflow_import  # noqa: F401 # isort: split
from model import service
from model.predict import classifier, output_formats
from model.runs import run_records
from pipeline.system import command_line
from pipeline.system.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a server.

    Attributes:
        run_dir: the run.
        data: folder of its records, if they were moved; "" otherwise.
        host: address to listen at.
        port: likewise; 0 for one that is free.
        allowed_hosts: names that browsers may call it by, with commas between; "" for
            those of this machine if `host` is one of them, or else any.
        top: number of classes to tell.
        unknown_below: the answer is "unknown" where the likeliest class is less
            probable, 0..1.
        max_upload_mb: a photo's file may have, in MiB.
        max_megapixels: a photo may have, in millions.
        max_requests: photos under way at one time; more are turned away.
        upload_timeout_s: how long an upload may take, in seconds.
        decode_timeout_s: how long decoding a photo may take, in seconds.
    """

    run_dir: str = "runs/latest"
    data: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    allowed_hosts: str = ""
    top: int = output_formats.TOP
    unknown_below: float = 0.0
    max_upload_mb: int = 20
    max_megapixels: int = 50
    max_requests: int = 32
    upload_timeout_s: float = 30.0
    decode_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.unknown_below <= 1:
            raise ValueError(f"--unknown_below={self.unknown_below}: expected 0 to 1")
        for name in ("upload_timeout_s", "decode_timeout_s"):
            if not 0 < getattr(self, name) <= 3600:
                raise ValueError(
                    f"--{name}={getattr(self, name)}: expected above 0 and at most 3600"
                )

    @property
    def is_loopback(self) -> bool:
        """Whether no other machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def listen(config: Config) -> socket.socket:
    """Takes the port; connections are refused until the server is ready.

    Raises:
        DataError: it is taken, or the address is not this machine's.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except OSError:
            found.close()
            raise
        return found
    except OSError as error:
        what = error.strerror or str(error)
        raise DataError(
            f"--host={config.host} --port={config.port}: cannot listen there ({what}); "
            "choose others, or --port=0 for a free port"
        ) from error


def url(config: Config, listening: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if listening.family == socket.AF_INET else "::1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(config: Config) -> None:
    """Serves as configured, until a signal.

    Raises:
        DataError: the run is not as it should be, the port is taken, or the
            packages of the extra "serve" are not installed.
    """
    try:
        from model import web, web_guard, web_server
    except ImportError as error:
        raise DataError(
            f"model.serve: {error.name or error} is missing; python -m pip install "
            "'.[serve]', or starlette, uvicorn and python-multipart"
        ) from error
    named = {one.strip().lower() for one in config.allowed_hosts.split(",")} - {""}
    allowed = frozenset(named)
    if config.is_loopback:
        allowed |= web_guard.LOOPBACK_HOSTS | {config.host.lower()}
    limits = web.Limits(
        max_upload_bytes=config.max_upload_mb << 20,
        max_requests=config.max_requests,
        upload_timeout_s=config.upload_timeout_s,
        unknown_below=config.unknown_below,
        top=config.top,
    )
    with listen(config) as listening:
        answering = service.Service(
            classifier.of_run(config.run_dir),
            data=config.data,
            max_pixels=config.max_megapixels * 1_000_000,
            decode_timeout_s=config.decode_timeout_s,
        )
        try:
            answering.warm_up()
            address = url(config, listening)

            def ready() -> None:
                command_line.log(f"ready: {address}  (Ctrl-C ends it)")
                if not config.is_loopback:
                    command_line.log(
                        f"note: whoever can reach {config.host} may ask; there is no "
                        "password"
                    )

            web_server.serve(
                web.application(answering, limits, allowed),
                listening,
                header_timeout_s=config.upload_timeout_s,
                max_requests=config.max_requests,
                on_ready=ready,
            )
        finally:
            answering.close()


def define_flags() -> None:
    """Declares the command's flags; defaults are those of Config."""
    default = Config()
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
    serve(command_line.config_from_flags(Config))


if __name__ == "__main__":
    define_flags()
    command_line.run(main, DataError)
