"""Caffe's list files, `path label` per line -> a source.

    daisy/1.jpg 0
    daisy/a photo with spaces.jpg 0
    roses/2.jpg 1

Source: caffe/tools/convert_imageset.cpp: the label is what follows the last space.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.records import file_table
from pipeline.sources import class_labels, listed_photos, photo_source, text_lines
from pipeline.system.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListFile:
    """A list file.

    Attributes:
        path: as it was named.
        split: index into manifest.SPLITS, or table.NO_SPLIT.
    """

    path: str
    split: int


def parse(names: str) -> tuple[ListFile, ...]:
    """Reads `a.txt,b.txt` or `train=a.txt,test=b.txt`; the name of a file may tell.

    A single file without such a word gives no split.

    Raises:
        ValueError: of several files, one does not tell its split.
    """
    found = []
    items = [name.strip() for name in names.split(",") if name.strip()]
    for name in items:
        word, _, rest = name.partition("=")
        if rest and word.lower() in photo_source.SPLIT_OF:
            found.append(ListFile(path=rest, split=photo_source.SPLIT_OF[word.lower()]))
            continue
        split = _split_in(Path(name).stem)
        if split == file_table.NO_SPLIT and len(items) > 1:
            raise ValueError(
                f"--lists: {name} does not tell its split by one word of its name; "
                "say which is which, as --lists=train=a.txt,validation=b.txt,test=c.txt"
            )
        found.append(ListFile(path=name, split=split))
    return tuple(found)


def _split_in(stem: str) -> int:
    words = re.split("[^a-z]+", stem.lower())
    found = {
        photo_source.SPLIT_OF[word] for word in words if word in photo_source.SPLIT_OF
    }
    return found.pop() if len(found) == 1 else file_table.NO_SPLIT


def list_photos(
    root: Path, files: Sequence[tuple[Path, int]], names: class_labels.Names | None
) -> photo_source.Source:
    """Lists the photos of some list files.

    Args:
        root: the folder that their paths are relative to.
        files: path and split of each.
        names: of the classes; None takes the names of folders.

    Raises:
        DataError: no list, a line without path or label, a label that fits no
            class, a photo with two labels or in two splits, or as listing.check.
    """
    rows = listed_photos.Rows(root, [path for path, _ in files], _entries(files))
    if names:
        found = class_labels.resolve(rows.first, names)
    else:
        found = class_labels.by_folder(rows.first, rows.folder_of_labels())
    count = len(files)
    where = f"{count} list{'s' if count > 1 else ''}"
    return rows.source(root, "lists", found, where)


def _entries(files: Sequence[tuple[Path, int]]) -> Iterator[listed_photos.Entry]:
    for file, (path, split) in enumerate(files):
        for number, line in enumerate(text_lines.read_lines(path), start=1):
            content = line.strip(" \t\n")
            if not content:
                continue
            cut = max(content.rfind(" "), content.rfind("\t"))
            if cut < 0:
                raise DataError(
                    f"{path} line {number}: {content[:80]!r}; expected a path, a space "
                    "and a label"
                )
            yield listed_photos.Entry(
                path=content[:cut].rstrip(" \t"),
                label=content[cut + 1 :],
                split=split,
                file=file,
                line=number,
            )
