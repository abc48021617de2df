"""Download a tar file of class folders and unpack it into a folder.

The download can be stopped at any time and continued by running it again. The class
folders appear once all photos are there.
"""

import collections
import dataclasses
import shutil
import tarfile
from pathlib import Path

from pipeline.system.errors import DataError
from pipeline.system.remote import http_file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Archive:
    """A data set that is a tar file with one folder of class folders."""

    url: str
    sha256: str  # 64 hex digits
    size_bytes: int
    counts: dict[str, int]  # {class folder: number of photos}


# Source of size and hash: tensorflow/datasets, url_checksums/tf_flowers.txt.
FLOWERS = Archive(
    url="https://storage.googleapis.com/download.tensorflow.org/example_images/"
    "flower_photos.tgz",
    sha256="4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c",
    size_bytes=228_813_984,
    counts=dict(daisy=633, dandelion=898, roses=641, sunflowers=699, tulips=799),
)


def files_below(folder: Path) -> set[str]:
    """Return the paths of files below a folder, except hidden files and folders."""
    files = (path for path in folder.rglob("*") if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in files)
    return {name for name in names if "/." not in f"/{name}"}


def count_classes(folder: Path) -> dict[str, int]:
    """Return {class folder: number of files in it} of a folder."""
    names = (name.split("/")[0] for name in files_below(folder) if "/" in name)
    return dict(sorted(collections.Counter(names).items()))


def download_archive(archive: Archive, target: Path) -> int:
    """Download and unpack a data set; return the number of new photos."""
    partial = target / ".download"
    file = partial / archive.url.rsplit("/", 1)[-1]
    if not file.exists():
        if count_classes(target) == archive.counts:
            shutil.rmtree(partial, ignore_errors=True)
            return 0
        if foreign := sorted(files_below(target)):
            raise DataError(
                f"{target}: has {foreign[0]}, and is not the complete data set. Choose "
                "an empty folder"
            )
    digest = f"sha256:{archive.sha256}"
    http_file.download(archive.url, file, digest=digest, size_bytes=archive.size_bytes)
    unpacked = partial / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(file) as tar:
        tar.extractall(unpacked, filter="data")
    (outer,) = unpacked.iterdir()
    if (counts := count_classes(outer)) != archive.counts:
        raise DataError(
            f"{archive.url}: expected {archive.counts}, found {counts}. Remove "
            f"{partial} and run again"
        )
    for path in outer.iterdir():
        if not (target / path.name).exists():  # a call that was stopped has moved it
            path.rename(target / path.name)
    shutil.rmtree(partial)
    return sum(archive.counts.values())
