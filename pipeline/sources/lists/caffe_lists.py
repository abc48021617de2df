"""Read Caffe's list files, `path label` per line, as a source.

    daisy/1.jpg 0
    daisy/a photo with spaces.jpg 0
    roses/2.jpg 1

Source: caffe/tools/convert_imageset.cpp: the label is what follows the last space.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.sources import photo_source
from pipeline.sources.lists import (
    class_labels,
    label_files,
    listed_photos,
    text_lines,
)
from pipeline.system.errors import DataError


def parse(names: str) -> list[tuple[str, str]]:
    """Read the value of --lists: `a.txt,b.txt` or `train=a.txt,test=b.txt`.

    Without `train=` and the like, a word of the file's name gives the split. A single
    file without such a word gives no split.

    Returns:
        Path of each list as the user named it, and the split of its photos, one of
        manifest.SPLITS; "" for none.

    Raises:
        ValueError: one of several files has no split.
    """
    list_files = []
    items = [name.strip() for name in names.split(",") if name.strip()]
    for name in items:
        word, _, rest = name.partition("=")
        if rest and word.lower() in photo_source.SPLIT_OF:
            list_files.append((rest, photo_source.SPLIT_OF[word.lower()]))
            continue
        split = _split_in(Path(name).stem)
        if not split and len(items) > 1:
            raise ValueError(
                f"--lists: the name of {name} does not give its split. Name the "
                "splits, as in --lists=train=a.txt,validation=b.txt,test=c.txt"
            )
        list_files.append((name, split))
    return list_files


def _split_in(stem: str) -> str:
    """Return the split that the words of a file name mean; "" for none or several."""
    words = re.split("[^a-z]+", stem.lower())
    splits = {photo_source.SPLIT_OF.get(word, "") for word in words} - {""}
    return splits.pop() if len(splits) == 1 else ""


def list_photos(
    root: Path, files: Sequence[tuple[Path, str]], names: label_files.Names | None
) -> photo_source.Source:
    """List the photos of list files.

    Args:
        root: folder that the paths in the lists are relative to.
        files: path and split of each list.
        names: names of the classes; None takes the names of the photos' folders.

    Raises:
        DataError: a line or a label is wrong, a photo has two labels or splits, or
            photo_source.check refuses the source.
    """
    notes = [*names.notes] if names else []
    listed = listed_photos.ListedPhotos(root, dict(files), _entries(files, notes))
    if names:
        classes = class_labels.resolve(listed.first, names)
    else:
        classes = class_labels.by_folder(listed.first, listed.folder_of_labels())
    where = f"{len(files)} list{'s' if len(files) > 1 else ''}"
    return listed.to_source("lists", classes, where, notes)


def _entries(
    files: Sequence[tuple[Path, str]], notes: list[str]
) -> Iterator[listed_photos.Entry]:
    for path, split in files:
        lines, text_notes = text_lines.read(path)
        notes += text_notes
        for number, line in enumerate(lines, start=1):
            content = line.strip(" \t\n")
            if not content:
                continue
            cut = max(content.rfind(" "), content.rfind("\t"))
            if cut < 0:
                raise DataError(
                    f"{path} line {number}: expected a path, a space and a label, "
                    f"found {content[:80]!r}. For a table, use --csv"
                )
            photo, label = content[:cut].rstrip(" \t"), content[cut + 1 :]
            yield listed_photos.Entry(photo, label, split, path, number)
