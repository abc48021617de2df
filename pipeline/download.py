"""A data set's name -> a folder of class folders, ready for conversion.

    python -m pipeline.download paper-flowers flowers/   drawn here, in seconds, offline
    python -m pipeline.download flowers flowers/         3,670 photos, 229 MB

Both can be stopped at any time and started again: what is there is kept.
"""

import collections
import dataclasses
import functools
import re
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from absl import app, flags

from pipeline import command, fetch, image, paper_flowers, schema, workers

DATA_SETS = ("paper-flowers", "flowers")
_BLOCK_PHOTOS = 8
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the command.

    Attributes:
        name: one of DATA_SETS.
        target: folder to fill.
        images_per_class: of paper-flowers.
        seed: of paper-flowers.
    """

    name: str
    target: str
    images_per_class: int = 120
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in DATA_SETS:
            raise ValueError(
                f"no data set {self.name!r}; expected one of {', '.join(DATA_SETS)}"
            )


def draw_paper_flowers(target: Path, *, images_per_class: int, seed: int) -> int:
    """Draws what is missing of a data set of paper flowers; returns how many.

    Raises:
        schema.DataError: the folder holds something else, or those of another seed.
    """
    wanted = {
        f"{kind}/{kind}_{number:04d}.jpg": (kind, number)
        for kind in paper_flowers.KINDS
        for number in range(images_per_class)
    }
    found = _files(target)
    if foreign := sorted(found - wanted.keys()):
        raise schema.DataError(
            f"{target}: holds {foreign[0]}, which is not of this data set; "
            "choose an empty folder"
        )
    if found:
        name = min(found)
        kind, number = wanted[name]
        expected = paper_flowers.encode(paper_flowers.draw(kind, seed, number))
        if (target / name).read_bytes() != expected:
            raise schema.DataError(
                f"{target}: {name} is not what --seed={seed} draws; choose an empty "
                "folder, or the seed it was drawn with"
            )
    missing = sorted(wanted.keys() - found)
    for kind in paper_flowers.KINDS:
        (target / kind).mkdir(parents=True, exist_ok=True)
    blocks = [
        [(name, *wanted[name]) for name in missing[start : start + _BLOCK_PHOTOS]]
        for start in range(0, len(missing), _BLOCK_PHOTOS)
    ]
    with command.progress(len(missing), "photo", "draw") as progress:
        for block, _ in workers.map_blocks(
            functools.partial(_draw_block, target, seed),
            blocks,
            on_crash=_crashed,
            num_workers=min(command.available_cpus(), max(1, len(blocks))),
            initializer=image.use_one_thread,
        ):
            progress.update(len(block))
    return len(missing)


def _draw_block(target: Path, seed: int, block: Sequence[tuple[str, str, int]]) -> None:
    for name, kind, number in block:
        path = target / name
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(
            paper_flowers.encode(paper_flowers.draw(kind, seed, number))
        )
        partial.replace(path)


def _crashed(item: tuple[str, str, int]) -> None:
    raise schema.DataError(f"{item[0]}: drawing it took the process down")


def _files(folder: Path) -> set[str]:
    """Paths of the files below a folder, but for hidden ones and hidden folders."""
    if folder.exists() and not folder.is_dir():
        raise schema.DataError(f"{folder}: is a file; expected a folder to fill")
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
        schema.DataError: the folder holds something else, or the archive tries to
            write outside of it.
    """
    partial = target / _PARTIAL_NAME
    complete = partial / "complete"
    if not complete.exists():
        if _counts(target) == archive.counts:
            shutil.rmtree(partial, ignore_errors=True)
            return 0
        if foreign := sorted(_files(target)):
            raise schema.DataError(
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
    fetch.fetch(
        archive.url,
        file,
        digest=f"sha256:{archive.sha256}",
        size_bytes=archive.size_bytes,
    )
    unpacked = partial / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpack(file, unpacked)
    counts = _counts(unpacked)
    if counts != archive.counts:
        raise schema.DataError(
            f"{archive.url}: unpacks to {counts}, expected {archive.counts}"
        )
    return unpacked


def _counts(folder: Path) -> dict[str, int]:
    names = (name.split("/")[0] for name in _files(folder) if "/" in name)
    return dict(sorted(collections.Counter(names).items()))


def unpack(file: Path, target: Path) -> None:
    """Unpacks a tar file of class folders, without the one folder around them.

    Only plain files and folders are made, and only inside `target`.

    Raises:
        schema.DataError: a member is a link or a device, has an absolute path or one
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
        raise schema.DataError(f"{file}: damaged archive ({error})") from error


def _check_members(file: Path, members: Sequence[tarfile.TarInfo]) -> None:
    for member in members:
        parts = PurePosixPath(member.name).parts
        if not (member.isfile() or member.isdir()):
            raise schema.DataError(f"{file}: {member.name} is a link or a device")
        if (
            ".." in parts
            or member.name.startswith("/")
            or re.search(r"[\\\0]", member.name)
        ):
            raise schema.DataError(f"{file}: {member.name} leads out of the folder")
        if member.isfile() and len(parts) < 2:
            raise schema.DataError(f"{file}: {member.name} lies in no folder")
    if sum(member.size for member in members) > _UNPACKED_LIMIT_BYTES:
        raise schema.DataError(f"{file}: unpacks to more than 2 GB")


def define_flags() -> None:
    """Declares the command's flags; defaults are those of Config."""
    default = Config(name=DATA_SETS[0], target="")
    flags.DEFINE_integer(
        "images_per_class",
        default.images_per_class,
        "Photos of each kind of paper flower.",
        lower_bound=1,
    )
    flags.DEFINE_integer("seed", default.seed, "Of the paper flowers.", lower_bound=0)


def main(argv: Sequence[str]) -> None:
    """Fetches the data set named on the command line."""
    if len(argv) != 3:
        raise app.UsageError(
            "expected a data set and a folder: python -m pipeline.download "
            f"{DATA_SETS[0]} flowers/ (there are {', '.join(DATA_SETS)})"
        )
    config = command.config_from_flags(Config, name=argv[1], target=argv[2])
    target = Path(config.target)
    if config.name == "paper-flowers":
        new = draw_paper_flowers(
            target, images_per_class=config.images_per_class, seed=config.seed
        )
    else:
        new = download_archive(FLOWERS, target)
    counts = _counts(target)
    total = sum(counts.values())
    command.say(f"{target}: {total} photos in {len(counts)} classes, {new} new")


if __name__ == "__main__":
    define_flags()
    command.run(main, schema.DataError)
