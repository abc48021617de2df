"""Read class names from a file of any usual form, and match a list's labels with them.

daisy                             plain lines, label 0 first
n01440764 tench, Tinca tinca      the same: the whole line is the name
0 Daisy                           numbered lines, as Teachable Machine writes them
{"daisy": 0} or {"0": "daisy"}    JSON, as Keras writes it; or a list of names
index,name                        a CSV file
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.sources.lists import text_lines
from pipeline.system import command_line
from pipeline.system.errors import DataError

_NUMBERED_LINE = re.compile(r"(\d{1,9})(?:\s|\s*[,;:]|\.\s)\s*(.+)")
_NUMBER = re.compile(r"\d{1,9}")


class Names(NamedTuple):
    """Class names from a file, in label order."""

    path: Path
    names: tuple[str, ...]
    first: int | None = None  # number of the first class, 0 or 1, if the file has one


def read(path: Path, *, is_quiet: bool = False) -> Names:
    """Read class names, in whatever form; log guesses unless `is_quiet`."""
    lines = text_lines.read(path)
    names = [line.strip() for line in "".join(lines).rstrip().split("\n")]
    kind = path.suffix.lower()
    if kind == ".json" or names[0].startswith("{"):
        return _in_order(path, _pairs_of_json(path, "\n".join(names)))
    if kind in (".csv", ".tsv"):
        rows = [fields for _, fields in text_lines.split_rows(path, lines)]
        if len(rows[0]) > 1:
            return _in_order(path, _pairs_of_rows(path, rows))
    if "" in names:
        raise DataError(
            f"{path} line {names.index('') + 1}: is blank. Expected one class name per "
            "line, label 0 first"
        )
    matches = [match for match in map(_NUMBERED_LINE.fullmatch, names) if match]
    if len(matches) < len(names):
        return Names(path, tuple(names))
    example = f"{names[0][:80]!r} is class {matches[0][2][:80]!r}"
    if not is_quiet:
        command_line.note(f"{path}: its lines are numbered, so {example}")
    return _in_order(path, [(int(match[1]), match[2]) for match in matches])


def _pairs_of_rows(path: Path, rows: list[list[str]]) -> list[tuple[int, str]]:
    classes = rows if any(map(_NUMBER.fullmatch, rows[0])) else rows[1:]
    for number, name in ((0, 1), (1, 0)) if len(rows[0]) == 2 and classes else ():
        if all(_NUMBER.fullmatch(row[number]) for row in classes):
            return [(int(row[number]), row[name]) for row in classes]
    raise DataError(
        f"{path}: expected two columns, a number from 0 and a class name. Found "
        f"{', '.join(rows[0][:10])[:200]}"
    )


def _pairs_of_json(path: Path, text: str) -> list[tuple[int, str]]:
    expected = f'{path}: expected JSON such as {{"daisy": 0, "rose": 1}}'
    try:
        # Objects become tuples of pairs, because a dict would hide repeated keys.
        content = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{expected}, found none ({error})") from error
    if isinstance(content, tuple):
        # The configuration of a model of Hugging Face has both directions.
        content = dict(content).get("id2label", content)
    elif isinstance(content, list):
        content = tuple((str(i), [name]) for i, name in enumerate(content))
    if not isinstance(content, tuple) or not content:
        raise DataError(f"{expected}, found {text[:80]!r}")
    pairs = []
    for key, value in content:
        # Keras' imagenet_class_index.json has ["n01440764", "tench"].
        words = value if isinstance(value, list) else [value]
        if type(value) is int:
            pairs.append((value, key))
        elif _NUMBER.fullmatch(key) and all(isinstance(word, str) for word in words):
            pairs.append((int(key), " ".join(words)))
        else:
            raise DataError(f"{expected}, found {key!r:.80}: {value!r:.80}")
    return pairs


def _in_order(path: Path, pairs: list[tuple[int, str]]) -> Names:
    """Order names by their numbers, which must be 0, 1, 2, ... or 1, 2, 3, ..."""
    pairs = sorted(pairs)
    first = int(pairs[0][0] == 1)
    for expected, (number, name) in enumerate(pairs, start=first):
        if number != expected or not name.strip():
            raise DataError(
                f"{path}: expected number {expected}, found {number} ({name[:80]!r}). "
                'If it is a part of the name, write a JSON list, ["1 euro", "2 euro"]'
            )
    if first:
        command_line.note(f"{path}: its numbers begin with 1")
    return Names(path, tuple(name.strip() for _, name in pairs), first)


# {label as written in the list: file and line of its first use}.
Places = Mapping[str, str]


class Classes(NamedTuple):
    """Classes that the labels of a list stand for."""

    names: tuple[str, ...]  # in label order
    name_of: Mapping[str, str]  # {label as written in the list: class name}
    note: str  # how the labels were read


def resolve(places: Places, names: Names | None) -> Classes:
    """Match labels with class names: all are names, or all are their numbers.

    Without `names`, labels are names; if all are numbers, they are sorted as numbers.
    """
    if names is None:
        numbers = all(_number(label) is not None for label in places)
        ordered = sorted(places, key=lambda name: (int(name) if numbers else 0, name))
        same = dict(zip(ordered, ordered, strict=True))
        return Classes(tuple(ordered), same, "labels are class names")
    first_of: dict[str, int] = {}
    for index, name in enumerate(names.names, start=names.first or 0):
        if first_of.setdefault(name, index) != index:
            raise DataError(
                f"{names.path}: {name[:80]!r} is the name of {first_of[name]} and of "
                f"{index}. Expected different names"
            )
    if places.keys() <= first_of.keys():
        same = {name: name for name in names.names}
        return Classes(names.names, same, f"names as in {names.path.name}")
    count = len(names.names)
    if known := [label for label in places if label in first_of]:
        other = next(label for label in places if label not in first_of)
        raise DataError(
            f"{places[other]}: label {other[:80]!r} is not one of the {count} names in "
            f"{names.path}, but {known[0][:80]!r} is. Expected names or numbers alone"
        )
    for label in places:
        if (number := _number(label)) is None or number < 0:
            raise DataError(
                f"{places[label]}: label {label[:80]!r} is unknown. Expected a number "
                f"from 0 to {count - 1}, or one of the {count} names in {names.path}"
            )
    firsts = (0, 1) if names.first is None else (names.first,)
    return _by_number(places, names.names, f"{names.path} has {count} names", firsts)


def by_folder(places: Places, folder_of: Mapping[str, str]) -> Classes:
    """Name the classes of numbers by the folders of their photos.

    `folder_of` is {label: name of the one folder of its photos}; {}, which is refused,
    if photos of a label are in several folders, or a folder has those of several.
    """
    for label in places:
        if _number(label) is None:
            raise DataError(
                f"{places[label]}: label {label[:80]!r} is not a number. Expected a "
                "path, a space and the number of a class, from 0"
            )
    if not folder_of:
        raise DataError(
            f"{next(iter(places.values()))}: classes cannot be named by the first "
            "folders of the paths, because not every label has one folder of its own. "
            "Name the classes with --labels=FILE, one name per line, label 0 first"
        )
    names = tuple(folder_of[label] for label in sorted(places, key=int))
    reason = f"there are {len(names)} labels; name all classes with --labels=FILE"
    classes = _by_number(places, names, reason)
    note = f"{classes.note}, class names are those of the folders"
    return classes._replace(note=note)


def _number(label: str) -> int | None:
    return int(label) if re.fullmatch("-?[0-9]{1,9}", label) else None


def _by_number(
    places: Places,
    names: tuple[str, ...],
    reason: str,
    firsts: tuple[int, ...] = (0, 1),
) -> Classes:
    """Number the names from the one of `firsts` that fits all labels."""
    smallest, largest = (pick(places, key=int) for pick in (min, max))
    for first in firsts:
        if int(smallest) >= first and int(largest) < first + len(names):
            name_of = {label: names[int(label) - first] for label in places}
            if first and len(firsts) > 1:
                command_line.note(f"labels are 1-based: 1 means {names[0]}")
            return Classes(names, name_of, f"labels {first}-based")
    outside = smallest if int(smallest) < firsts[0] else largest
    ranges = " or ".join(f"{first} to {first + len(names) - 1}" for first in firsts)
    raise DataError(
        f"{places[outside]}: label {outside} is out of range. Expected {ranges}: "
        f"{reason}"
    )
