"""A tar file of class folders on a server -> those folders, complete and nothing else.

It can be stopped at any time and started again: what is there is kept.
"""

import collections
import dataclasses
import re
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pipeline.system import http_file
from pipeline.system.errors import DataError

_PARTIAL_NAME = ".download"
# No archive we fetch unpacks to more.
_UNPACKED_LIMIT_BYTES = 2 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Archive:
    """A data set that comes as a tar file of class folders.

    Attributes:
        url: of the file.
        sha256: of the file.
        size_bytes: of the file.
        counts: {class folder: number of photos} when complete.
    """

    url: str
    sha256: str
    size_bytes: int
    counts: dict[str, int]


# Source of size and hash: tensorflow/datasets, url_checksums/tf_flowers.txt.
FLOWERS = Archive(
    url="https://storage.googleapis.com/download.tensorflow.org/example_images/"
    "flower_photos.tgz",
    sha256="4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c",
    size_bytes=228_813_984,
    counts={
        "daisy": 633,
        "dandelion": 898,
        "roses": 641,
        "sunflowers": 699,
        "tulips": 799,
    },
)


def files_below(folder: Path) -> set[str]:
    """Paths of the files below a folder, but for hidden ones and hidden folders."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; expected a folder to fill")
    names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {
        name.as_posix()
        for name in names
        if not any(part.startswith(".") for part in name.parts)
    }


def download_archive(archive: Archive, target: Path) -> int:
    """Downloads and unpacks a data set; returns the number of photos, 0 if all there.

    Raises:
        fetch.FetchError: the archive cannot be had, or is another one than expected.
        DataError: the folder holds something else, or the archive tries to
            write outside of it.
    """
    partial = target / _PARTIAL_NAME
    complete = partial / "complete"
    if not complete.exists():
        if count_classes(target) == archive.counts:
            shutil.rmtree(partial, ignore_errors=True)
            return 0
        if foreign := sorted(files_below(target)):
            raise DataError(
                f"{target}: holds {foreign[0]}, and is not the complete data set; "
                "choose an empty folder"
            )
        partial.mkdir(parents=True, exist_ok=True)
        _unpacked(archive, partial).rename(complete)
    for folder in sorted(complete.iterdir()):  # those not moved by an earlier call
        folder.rename(target / folder.name)
    shutil.rmtree(partial)
    return sum(archive.counts.values())


def _unpacked(archive: Archive, partial: Path) -> Path:
    file = partial / archive.url.rsplit("/", 1)[-1]
    http_file.fetch(
        archive.url,
        file,
        digest=f"sha256:{archive.sha256}",
        size_bytes=archive.size_bytes,
    )
    unpacked = partial / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpack(file, unpacked)
    counts = count_classes(unpacked)
    if counts != archive.counts:
        raise DataError(
            f"{archive.url}: unpacks to {counts}, expected {archive.counts}"
        )
    return unpacked


def count_classes(folder: Path) -> dict[str, int]:
    """Number of files below each folder in a folder."""
    names = (name.split("/")[0] for name in files_below(folder) if "/" in name)
    return dict(sorted(collections.Counter(names).items()))


def unpack(file: Path, target: Path) -> None:
    """Unpacks a tar file of class folders, without the one folder around them.

    Only plain files and folders are made, and only inside `target`.

    Raises:
        DataError: a member is a link or a device, has an absolute path or one
            with "..", the whole is too large, or the file is damaged.
    """
    try:
        with tarfile.open(file) as tar:
            members = tar.getmembers()
            _check_members(file, members)
            for member in members:
                path = target.joinpath(*PurePosixPath(member.name).parts[1:])
                content = tar.extractfile(member) if member.isfile() else None
                if content is None:
                    path.mkdir(parents=True, exist_ok=True)
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as out:
                        shutil.copyfileobj(content, out)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{file}: damaged archive ({error})") from error


def _check_members(file: Path, members: Sequence[tarfile.TarInfo]) -> None:
    for member in members:
        parts = PurePosixPath(member.name).parts
        if not (member.isfile() or member.isdir()):
            raise DataError(f"{file}: {member.name} is a link or a device")
        if (
            ".." in parts
            or member.name.startswith("/")
            or re.search(r"[\\\0]", member.name)
        ):
            raise DataError(f"{file}: {member.name} leads out of the folder")
        if member.isfile() and len(parts) < 2:
            raise DataError(f"{file}: {member.name} lies in no folder")
    if sum(member.size for member in members) > _UNPACKED_LIMIT_BYTES:
        raise DataError(f"{file}: unpacks to more than 2 GB")
