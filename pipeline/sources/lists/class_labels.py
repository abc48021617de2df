"""Turn the labels of a list, names or numbers, into class names."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from pipeline.sources.lists import label_files
from pipeline.system import command_line
from pipeline.system.errors import DataError

# {label as written in the list: file and line of its first use}.
Places = Mapping[str, str]


class Classes(NamedTuple):
    """Classes that the labels of a list stand for."""

    names: tuple[str, ...]  # in label order
    name_of: Mapping[str, str]  # {label as written in the list: class name}
    note: str  # how the labels were read


def resolve(places: Places, names: label_files.Names | None) -> Classes:
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
                f"{places[label]}: label {label[:80]!r} is not a number of a "
                "class. Expected a path, a space and a number from 0"
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
