"""Turn the labels of a list, names or numbers, into class names and 0-based labels."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from pipeline.sources.lists import label_files
from pipeline.system.errors import DataError

# {label as written in the list: file and line of its first use}.
Places = Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classes:
    """Classes that the labels of a list stand for.

    Attributes:
        names: class names; label i is names[i].
        label_of: {label as written in the list: 0-based label}.
        note: short description of how the labels were read.
    """

    names: tuple[str, ...]
    label_of: Mapping[str, int]
    note: str


def as_names(places: Places) -> Classes:
    """Use labels as class names; if all are numbers, they are sorted as numbers."""
    numbers = all(_number(label) is not None for label in places)
    names = sorted(places, key=lambda name: (int(name) if numbers else 0, name))
    return _by_name(tuple(names), "labels are class names")


def _by_name(names: tuple[str, ...], note: str) -> Classes:
    label_of = {name: label for label, name in enumerate(names)}
    return Classes(names=names, label_of=label_of, note=note)


def resolve(places: Places, names: label_files.Names) -> Classes:
    """Match labels with class names: all are names, or all are their numbers.

    Raises:
        DataError: two classes have one name, or a label is neither a name nor a number
            in range.
    """
    first_of: dict[str, int] = {}
    for index, name in enumerate(names.names, start=names.first or 0):
        if first_of.setdefault(name, index) != index:
            raise DataError(
                f"{names.path}: {name[:80]!r} is the name of {first_of[name]} and of "
                f"{index}. Expected different names"
            )
    if places.keys() <= first_of.keys():
        return _by_name(names.names, f"names as in {names.path.name}")
    count = len(names.names)
    for label in places:
        if (number := _number(label)) is None or number < 0:
            raise DataError(
                f"{places[label]}: label {label[:80]!r} is unknown. Expected a number "
                f"from 0 to {count - 1}, or one of the {count} names in {names.path}"
            )
    reason = f"{names.path} has {count} names"
    firsts = (0, 1) if names.first is None else (names.first,)
    first = _first_label(places, count, reason, firsts)
    return Classes(
        names=names.names,
        label_of={label: int(label) - first for label in places},
        note=f"labels {first}-based",
    )


def by_folder(places: Places, folder_of: Mapping[str, str]) -> Classes:
    """Name the classes of numbers by the folders of their photos.

    Args:
        places: labels in the list.
        folder_of: {label: name of the one folder of its photos}; {} if photos of a
            label are in several folders, or a folder has photos of several labels.

    Raises:
        DataError: a label is not a number, a number is left out, or `folder_of` is {}.
    """
    for label in places:
        if _number(label) is None:
            raise DataError(
                f"{places[label]}: label {label[:80]!r} is not a number. Expected a "
                "path, a space and a number from 0"
            )
    if not folder_of:
        raise DataError(
            f"{next(iter(places.values()))}: classes cannot be named by the first "
            "folders of the paths, because these are not one for each label. Name the "
            "classes with --labels=FILE, one name per line, label 0 first"
        )
    count = len({int(label) for label in places})
    first = _first_label(
        places, count, f"there are {count} labels; name all classes with --labels=FILE"
    )
    return Classes(
        names=tuple(folder_of[label] for label in sorted(places, key=int)),
        label_of={label: int(label) - first for label in places},
        note=f"labels {first}-based, class names are those of the folders",
    )


def _number(label: str) -> int | None:
    return int(label) if re.fullmatch("-?[0-9]{1,9}", label) else None


def _first_label(
    places: Places, count: int, reason: str, firsts: Sequence[int] = (0, 1)
) -> int:
    """Return the one of `firsts` that is the number of the first class.

    Raises:
        DataError: a number is out of range.
    """
    smallest, largest = (pick(places, key=int) for pick in (min, max))
    for first in firsts:
        if int(smallest) >= first and int(largest) < first + count:
            return first
    outside = smallest if int(smallest) < firsts[0] else largest
    ranges = " or ".join(f"{first} to {first + count - 1}" for first in firsts)
    raise DataError(
        f"{places[outside]}: label {outside} is out of range. Expected {ranges}: "
        f"{reason}"
    )
