"""Define the settings of model.serve."""

import dataclasses
import functools
import ipaddress
import socket

from model.predict import predict_settings
from pipeline.system import config_flags

_setting = functools.partial(config_flags.setting, basic=True)
_address = functools.partial(_setting, group="Address")
_limit = functools.partial(_setting, group="Limits")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a server."""

    run_dir: str = predict_settings.run_dir()
    data: str = _setting(
        "",
        "New folder of the run's records, if they were moved; explanations need them.",
        value="FOLDER",
        group="Run",
    )
    host: str = _address(
        "127.0.0.1",
        "Address to listen on; the default serves only this computer, 0.0.0.0 also "
        "others.",
        value="ADDRESS",
    )
    port: int = _address(
        8000, "Port to listen on; 0 chooses a free one.", lower=0, upper=65535
    )
    allowed_hosts: str = _address(
        "",
        "Host names, separated by commas, by which browsers may reach the server; by "
        "default this computer's names and addresses.",
        value="NAMES",
    )
    collect: str = _setting(
        "",
        "Folder for photos to which visitors give another class; by default nothing "
        "is stored.",
        value="FOLDER",
        group="Predictions",
    )
    top: int = predict_settings.top()
    unknown_below: float = predict_settings.unknown_below()
    max_upload_mb: int = _limit(
        20, "Largest file that is accepted, in MiB.", lower=1, upper=512
    )
    max_megapixels: int = _limit(
        50, "Largest photo that is decoded, in millions of pixels.", lower=1, upper=178
    )
    max_requests: int = _limit(
        32,
        "Photos that are received and classified at the same time; others get the "
        "status 503.",
        lower=1,
        upper=1024,
    )
    upload_timeout_s: float = _limit(
        30.0,
        "Longest time that a client may take to send the headers of a request, or its "
        "body, in seconds.",
        above=0,
        upper=3600,
    )
    decode_timeout_s: float = _limit(
        10.0, "Longest time for decoding a photo, in seconds.", above=0, upper=3600
    )

    def __post_init__(self) -> None:
        config_flags.check(self)

    @property
    def is_loopback(self) -> bool:
        """Whether no other computer can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def hosts(self) -> frozenset[str]:
        """Host names, in lower case, whose pages may send requests, from any port."""
        names = {name.strip().lower() for name in self.allowed_hosts.split(",")}
        if self.is_loopback:
            names |= {"localhost", "127.0.0.1", "::1", self.host.lower()}
        return frozenset(names - {""})

    def accepts(self, host_name: str | None) -> bool:
        """Return whether the Host header of a request may have this name.

        On a network, it may also be an address, or this computer's name. A page of
        another site whose name leads here (DNS rebinding) sends neither.
        """
        if self.hosts:
            return host_name in self.hosts
        own_name = socket.gethostname().lower()
        if host_name in {"localhost", own_name, f"{own_name}.local"}:
            return True
        try:
            return bool(ipaddress.ip_address(host_name or ""))
        except ValueError:
            return False
