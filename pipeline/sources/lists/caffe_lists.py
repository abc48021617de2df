"""Read Caffe's list files, `path label` per line.

    daisy/1.jpg 0
    daisy/a photo with spaces.jpg 0
    roses/2.jpg 1

Source: caffe/tools/convert_imageset.cpp: the label is what follows the last space.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.sources import folder_layout
from pipeline.sources.lists import text_lines
from pipeline.sources.lists.listed_photos import Entry
from pipeline.sources.photo_source import SPLIT_OF
from pipeline.system.errors import DataError


def parse(names: str) -> list[tuple[str, str]]:
    """Read the value of --lists: `a.txt,b.txt` or `train=a.txt,test=b.txt`.

    Without `train=` and the like, a word of the file's name gives the split. A single
    file without such a word gives none, ""; one of several is a ValueError.
    """
    list_files = []
    items = [name.strip() for name in names.split(",") if name.strip()]
    for name in items:
        word, _, rest = name.partition("=")
        split = SPLIT_OF.get(word.lower()) if rest else None
        path = rest if split else name
        split = split or folder_layout.likely_split(Path(name).stem, SPLIT_OF)
        if not split and len(items) > 1:
            raise ValueError(
                f"--lists: the name of {name} does not give its split. Name the "
                "splits, as in --lists=train=a.txt,validation=b.txt,test=c.txt"
            )
        list_files.append((path, split))
    return list_files


def read(files: Iterable[tuple[Path, str]]) -> Iterator[Entry]:
    """Yield the entries of list files, each given by its path and its split."""
    for path, split in files:
        for number, line in enumerate(text_lines.read(path), start=1):
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
            yield Entry(photo, label, split, "", f"{path} line {number}")
