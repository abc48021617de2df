"""Labels as a list has them, names or numbers -> class names and 0-based labels."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from pipeline.sources import text_lines
from pipeline.system.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Names:
    """The names of all classes, as a file of labels has them.

    Attributes:
        path: of that file.
        names: one for each line, label i is names[i].
    """

    path: Path
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classes:
    """What the labels of a list mean.

    Attributes:
        names: label i is names[i].
        label_of: {label as it stands in the list: 0-based label}.
        note: how they were read, in few words.
    """

    names: tuple[str, ...]
    label_of: Mapping[str, int]
    note: str


def read(path: Path) -> Names:
    """Reads class names, a whole line each; blank lines may stand at the end.

    Raises:
        DataError: no text, no names, a blank line between names, or one name
            twice.
    """
    names: list[str] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(text_lines.read_lines(path), start=1):
        name = line.strip()
        if not name:
            continue
        if number > len(names) + 1:
            raise DataError(
                f"{path} line {len(names) + 1}: blank, before {name!r}; expected one "
                "class name per line, label 0 first"
            )
        if name in line_of:
            raise DataError(
                f"{path}: {name!r} stands in lines {line_of[name]} and {number}"
            )
        names.append(name)
        line_of[name] = number
    if not names:
        raise DataError(f"{path}: no class names; expected one per line")
    return Names(path=path, names=tuple(names))


def as_names(found: Mapping[str, str]) -> Classes:
    """Labels that are class names themselves; numbers sort as numbers."""
    numbers = all(_number(label) is not None for label in found)
    names = tuple(sorted(found, key=lambda name: (int(name) if numbers else 0, name)))
    return Classes(
        names=names,
        label_of={name: label for label, name in enumerate(names)},
        note="labels are class names",
    )


def resolve(found: Mapping[str, str], names: Names) -> Classes:
    """Labels that are all names of `names`, or numbers that count them.

    Args:
        found: {label as it stands in the list: where it stands first}.
        names: of the classes.

    Raises:
        DataError: a label is neither; says where it stands.
    """
    if found.keys() <= set(names.names):
        label_of = {name: label for label, name in enumerate(names.names)}
        return Classes(
            names=names.names, label_of=label_of, note=f"names as in {names.path.name}"
        )
    numbers = {label: _number(label) for label in found}
    count = len(names.names)
    for label, number in numbers.items():
        if number is None or number < 0:
            raise DataError(
                f"{found[label]}: label {label[:80]!r}; expected a number from 0 to "
                f"{count - 1}, or one of the {count} names in {names.path}"
            )
    first = _first_label(found, count, f"{names.path} has {count} names")
    return Classes(
        names=names.names,
        label_of={label: int(label) - first for label in found},
        note=f"labels {first}-based",
    )


def by_folder(found: Mapping[str, str], folder_of: Mapping[str, str]) -> Classes:
    """Labels that are numbers, each with a folder of its own that names its class.

    Args:
        found: {label as it stands in the list: where it stands first}.
        folder_of: {label: the folder}; {} if there are none.

    Raises:
        DataError: a label is no number, some number is left out, or there are no
            such folders.
    """
    for label in found:
        if _number(label) is None:
            raise DataError(
                f"{found[label]}: label {label[:80]!r}; expected a number from 0, "
                "after the path and a space"
            )
    if not folder_of:
        raise DataError(
            f"{next(iter(found.values()))}: the first folders of the paths are not one "
            "for each label; name the classes with --labels=FILE, one name per line, "
            "label 0 first"
        )
    count = len({int(label) for label in found})
    first = _first_label(
        found, count, f"there are {count} labels; name all classes with --labels=FILE"
    )
    label_of = {label: int(label) - first for label in found}
    names = {label_of[label]: folder_of[label] for label in found}
    return Classes(
        names=tuple(names[label] for label in range(count)),
        label_of=label_of,
        note=f"labels {first}-based, class names are those of the folders",
    )


def _number(label: str) -> int | None:
    return int(label) if re.fullmatch("-?[0-9]{1,9}", label) else None


def _first_label(found: Mapping[str, str], count: int, why: str) -> int:
    """0 or 1: what labels count from.

    Raises:
        DataError: neither gives `count` classes.
    """
    smallest, largest = (pick(found, key=int) for pick in (min, max))
    if int(smallest) >= 0 and int(largest) < count:
        return 0
    if int(smallest) >= 1 and int(largest) == count:
        return 1
    outside = smallest if int(smallest) < 0 else largest
    raise DataError(
        f"{found[outside]}: label {outside}; expected 0 to {count - 1}, or 1 to "
        f"{count} without any 0: {why}"
    )
