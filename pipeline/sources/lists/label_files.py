"""Read the class names of a file in any of the forms that people have.

daisy                             plain lines, label 0 first
n01440764 tench, Tinca tinca      the same: the whole line is the name
0 Daisy                           numbered lines, as Teachable Machine writes them
{"daisy": 0} or {"0": "daisy"}    JSON, as Keras writes it; or a list of names
index,name                        a CSV file
"""

import json
import re
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
    """Read a file of class names; its content decides the form.

    A guess is logged, unless `is_quiet`.
    """
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
    """Return names by their numbers, which must be 0, 1, 2, ... or 1, 2, 3, ..."""
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
