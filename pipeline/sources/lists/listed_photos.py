"""Turn the entries of Caffe's lists or a CSV file into a source, each photo once."""

import collections
import contextlib
import functools
import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.sources import folder_layout, photo_source
from pipeline.sources.lists import label_files, text_lines
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError

_MAX_PATH = 4096  # characters; systems have no longer paths


class Entry(NamedTuple):
    """A photo as a list names it."""

    path: str  # as listed; as find_files returns it, relative to the source
    label: str  # class name or number
    split: str  # one of manifest.SPLITS; "" for none
    group: str  # text that photos of one subject share; "" for none
    where: str  # file and line, for messages


def parse_lists(names: str) -> list[tuple[str, str]]:
    """Read the value of --lists: `a.txt,b.txt` or `train=a.txt,test=b.txt`.

    Without `train=` and the like, a word of the file's name gives the split. Without
    such a word, a single file gives no split, ""; one of several is a ValueError.
    """
    list_files, known = [], photo_source.SPLIT_OF
    items = [name.strip() for name in names.split(",") if name.strip()]
    for name in items:
        word, _, rest = name.partition("=")
        split = known.get(word.lower()) if rest else None
        path = rest if split else name
        split = split or folder_layout.likely_split(Path(name).stem, known)
        if not split and len(items) > 1:
            raise ValueError(
                f"--lists: the name of {name} does not give its split. Name the "
                "splits, as in --lists=train=a.txt,validation=b.txt,test=c.txt"
            )
        list_files.append((path, split))
    return list_files


def read_lists(files: Iterable[tuple[Path, str]]) -> Iterator[Entry]:
    """Yield the entries of list files, each given by its path and its split.

    A line is `path label`, as in `daisy/a photo with spaces.jpg 0`. Source:
    caffe/tools/convert_imageset.cpp: the label is what follows the last space.
    """
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


def list_photos(
    root: Path,
    kind: Literal["lists", "CSV"],
    files: Sequence[Path],
    entries: Iterable[Entry],
    names: label_files.Names | None,
) -> photo_source.Source:
    """Return the source of the photos that files name, relative to `root`.

    Lists have numbers as labels. Without `names`, classes are called by the labels of a
    CSV file, or by the folders of listed photos.
    """
    entries = list(entries)
    if not entries:
        raise DataError(f"{', '.join(map(str, files))}: no photos listed")
    first: dict[str, str] = {}
    for entry in entries:
        first.setdefault(entry.label, entry.where)
    entries = find_files(root, entries)
    if names or kind == "CSV":
        classes = label_files.resolve(first, names)
    else:
        classes = label_files.by_folder(first, _folder_of_labels(entries))
    where = files[0].name if kind == "CSV" else f"{len(files)} list"
    where += "s" * (len(files) > 1)
    note = f"{kind}: {len(entries):,} photos in {where}, {classes.note}"
    if counts := photo_source.count_splits(entry.split for entry in entries):
        note += f"; {counts}"
    return photo_source.Source(
        kind=kind,
        root=root,
        class_names=classes.names,
        photos=[
            photo_source.SourcePhoto(
                path=entry.path,
                class_name=classes.name_of[entry.label],
                split=entry.split,
                group=entry.group,
            )
            for entry in entries
        ],
        notes=(command_line.one_line(note),),
    )


def find_files(root: Path, entries: Sequence[Entry]) -> list[Entry]:
    """Return entries with the paths of files in `root`, sorted, and each photo once.

    Guesses are logged. A path that matches no file, or several, is left unchanged.
    """
    adds_endings = not any(photo_source.ENDING.search(e.path) for e in entries)
    find = _file_finder(root, adds_endings=adds_endings)
    # As the user wrote it, and with its links resolved.
    roots = (os.path.abspath(root), os.path.realpath(root))  # noqa: PTH100
    listed, backslashes, others = list[Entry](), list[str](), list[str]()
    for entry in entries:
        path = _inside(roots, entry, entry.path)
        file = find(path)
        example = f"{entry.path} for "
        if "\\" in path and not file:
            slashed = _inside(roots, entry, path.replace("\\", "/"))
            if file := find(slashed):
                path = slashed
                backslashes.append(example + file)
        if file not in ("", path):
            others.append(example + file)
        listed.append(entry._replace(path=file or path))
    differ = "lack the ending" if adds_endings else "differ in case or encoding"
    for change, examples in ("have backslashes", backslashes), (differ, others):
        if examples:
            count = f"{len(examples):,} of {len(listed):,} paths"
            command_line.note(f"{count} {change}, as {examples[0]}")
    if not any(find(entry.path) for entry in listed):
        _refuse_root(root, listed)
    listed.sort(key=lambda entry: entry.path)
    return _once(listed)


def _inside(roots: Sequence[str], entry: Entry, text: str) -> str:
    """Return a path relative to one of the roots, without "." and ".."."""
    path = re.sub("^//", "/", posixpath.normpath(text))
    for root in roots:
        path = path.removeprefix(f"{root.rstrip('/')}/")
    if re.match(r"\.$|/|\.\.(/|$)|[A-Za-z]:/", path):
        raise DataError(
            f"{entry.where}: {entry.path[:200]!r} is not a path inside {roots[0]}. "
            "Name the folder that holds all photos as the source"
        )
    return path


def _refuse_root(root: Path, listed: Sequence[Entry]) -> None:
    """Refuse a folder without any listed photo; suggest one nearby with the first."""
    path = listed[0].path.replace("\\", "/")
    is_local = not file_system.is_remote(str(root))
    near = [root / "..", *sorted(root.iterdir())] if is_local else []
    fitting = (f": {f}" for f in near if _file_finder(f, adds_endings=True)(path))
    raise DataError(
        f"{listed[0].where}: {root} has no photo {listed[0].path[:200]}, nor any other "
        f"of the {len(listed):,} that are listed. Name the folder that the paths start "
        f"from as the source{next(fitting, '')}"
    )


def _once(listed: Sequence[Entry]) -> list[Entry]:
    """Return sorted entries without those that repeat another one."""
    entries = [listed[0]]
    for entry in listed[1:]:
        other = entries[-1]
        if entry.path != other.path:
            entries.append(entry)
        elif entry[1:4] != other[1:4]:
            raise DataError(
                f"{entry.where}: {entry.path} has {_described(entry)}, but "
                f"{_described(other)} in {other.where}. Remove one of them"
            )
    if num_repeated := len(listed) - len(entries):
        command_line.note(f"{num_repeated:,} rows repeat another row")
    return entries


def _described(entry: Entry) -> str:
    texts = zip(entry._fields[1:4], entry[1:4], strict=True)
    return ", ".join(f"{name} {text[:80]!r}" for name, text in texts if text)


def _folder_of_labels(entries: Iterable[Entry]) -> dict[str, str]:
    """Return {label: first folder of its paths}; {} unless each has its own."""
    folders: dict[str, str] = {}
    for entry in entries:
        folder, _, name = entry.path.partition("/")
        if not name or folders.setdefault(entry.label, folder) != folder:
            return {}
    return folders if len({*folders.values()}) == len(folders) else {}


def _file_finder(root: Path, *, adds_endings: bool) -> Callable[[str], str]:
    """Return a function that finds the one file that a path means, or returns "".

    Names may differ in case, and in the encoding of their letters. With `adds_endings`,
    "cat1" also means "cat1.jpg".
    """

    @functools.cache
    def list_folder(folder: str) -> Mapping[str, list[str]]:
        """Return {text that means one of the names: these names}."""
        names = collections.defaultdict(list)
        with contextlib.suppress(OSError):
            for child in file_system.path(f"{root}/{folder}").iterdir():
                keys = {child.name, _key(child.name)}
                if adds_endings and photo_source.ENDING.search(child.name):
                    keys.add(_key(photo_source.ENDING.sub("", child.name)))
                for key in keys:
                    names[key].append(child.name)
        return names

    def find(path: str) -> str:
        place = ""
        for name in path.split("/") if len(path) <= _MAX_PATH else ():
            names = list_folder(place)
            matches = names.get(name) or names.get(_key(name), [])
            if name not in matches and len(matches) != 1:
                return ""
            place = posixpath.join(place, name if name in matches else matches[0])
        return place

    return find


def _key(name: str) -> str:
    """Return the same text for names that differ only in case or encoding."""
    if re.search("[\udc80-\udcff]", name):  # bytes of an old archive's names
        name = os.fsencode(name).decode("cp1252", "replace")
    return unicodedata.normalize("NFC", name).casefold()
