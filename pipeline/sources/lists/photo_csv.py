"""Read a CSV file of photos, `path,label,split`.

path,label,split
a/1.jpg,daisy,train
"b, c/2.jpg",roses,
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.sources.lists import text_lines
from pipeline.sources.lists.listed_photos import Entry
from pipeline.sources.photo_source import SPLIT_OF
from pipeline.system import command_line
from pipeline.system.errors import DataError

ROLES = ("path", "label", "split", "group")  # of columns
_YES, _NO = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")
# Titles of columns of yes and no, such as fastai's is_valid, but not test_result.
_FLAG = re.compile(
    rf"(?:is|in)?[ _-]?({'|'.join(SPLIT_OF)})(?:[ _-]?(?:set|split|data|image|img))?"
)
# Words in the titles of columns that divide photos, and the most values of these.
_SPLIT_WORDS = {
    *("split", "set", "subset", "dataset", "partition", "phase", "usage", "fold"),
    *SPLIT_OF,
}
_MAX_SPLITS = 10


def parse_columns(text: str, roles: Collection[str] = ROLES) -> dict[str, str]:
    """Read the value of --columns, `path:filename,label:breed`, as {role: title}."""
    named: dict[str, str] = {}
    for pair in filter(None, text.split(",")):
        role, _, title = (part.strip() for part in pair.partition(":"))
        if role not in roles or not title or role in named:
            raise ValueError(
                f"--columns: {pair!r:.80} is wrong. Expected {', '.join(roles)}, each "
                "at most once, as in path:filename,label:breed"
            )
        named[role] = title
    return named


def read(path: Path, columns: str) -> Iterator[Entry]:
    """Yield the entries of a CSV file; `columns` is --columns."""
    titles = {role: (role,) for role in ROLES[:2]}
    for line, row in read_rows(path, titles, columns):
        where = f"{path} line {line}"
        yield Entry(row["path"], row["label"], row["split"], row["group"], where)


def read_rows(
    path: Path, needed: Mapping[str, Sequence[str]], columns: str
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and {role: value} of each row of a CSV file.

    `needed` is {role: titles that its column may have}, besides those of --columns;
    "split" and "group" are added.
    """
    (_, titles), *rows = text_lines.split_rows(path, text_lines.read(path))
    aliases = {**needed, "split": ("split", "_split"), "group": ()}
    named = parse_columns(columns, aliases)
    places = _find_columns(path, titles, aliases, named)
    if "split" not in named:
        places |= _find_split(path, titles, rows, places)
    meaning: Mapping[str, str] = {}
    if (place := places.get("split")) is not None:
        values = {fields[place].lower() for _, fields in rows}
        meaning = _meaning(titles[place], values) or SPLIT_OF
    for line, fields in rows:
        if fields == titles:
            raise DataError(
                f"{path} line {line}: has the titles of the columns once more. Remove "
                "that line"
            )
        row = {"split": "", "group": ""}
        row |= {role: fields[place] for role, place in places.items()}
        if missing := [role for role in needed if not row[role]]:
            raise DataError(f"{path} line {line}: no {missing[0]}")
        split = row["split"].lower()
        if split and split not in meaning:
            raise DataError(
                f"{path} line {line}: split {row['split'][:80]!r} is unknown. Expected "
                "train, validation, test or nothing"
            )
        yield line, row | {"split": meaning.get(split, "")}


def _find_columns(
    path: Path,
    titles: Sequence[str],
    aliases: Mapping[str, Sequence[str]],
    named: Mapping[str, str],
) -> dict[str, int]:
    """Return {role: place of its column}; split and group may be missing."""
    places = {}
    for role, names in aliases.items():
        name = named.get(role, "")
        names = (name.lower(),) if name else names
        matches = [i for i, title in enumerate(titles) if title.lower() in names]
        matches = [i for i in matches if titles[i] == name] or matches
        if len(matches) == 1:
            places[role] = matches[0]
        elif matches or name or role not in ("split", "group"):
            header = ", ".join(repr(title[:40]) for title in titles[:20])
            raise DataError(
                f"{path}: expected one column {name or ' or '.join(names)}, found "
                f"{len(matches)}. The first line has {header}. Put a line of titles "
                f"there, or name the columns, as in --columns={role}:{titles[-1][:40]}"
            )
    return places


def _find_split(
    path: Path,
    titles: Sequence[str],
    rows: Sequence[tuple[int, Sequence[str]]],
    places: Mapping[str, int],
) -> dict[str, int]:
    """Return {"split": place} of a column that gives the splits; {} without any.

    What it makes of the columns is logged.
    """
    usable: dict[int, str] = {}
    for place in (i for i in range(len(titles)) if i not in places.values()):
        column, title = [fields[place].lower() for _, fields in rows], titles[place]
        words = re.findall("[a-z]+", re.sub("([a-z])([A-Z])", r"\1 \2", title).lower())
        meaning, is_called_so = _meaning(title, {*column}), _SPLIT_WORDS & {*words}
        if not (meaning or is_called_so) or len({*column}) > _MAX_SPLITS:
            continue
        # If is_valid holds out most photos, it may say that these are good photos.
        num_train = sum(meaning.get(value) == "train" for value in column)
        is_sure = is_called_so and ("no" not in meaning or num_train * 2 >= len(column))
        shown = title[:80]
        if meaning and is_sure and "split" not in places:
            yes = meaning.get("yes")
            note = f"{path}: column {shown} gives the splits"
            usable[place] = f"{note}; yes means {yes}" if yes else note
        elif len({*column}) > 1:
            command_line.warn(
                f"{path}: column {shown} looks like a split, but is not used. If it is "
                f"one, with values such as train and test, pass --columns=split:{shown}"
            )
    if len(usable) > 1:
        listed = [titles[place][:80] for place in usable]
        raise DataError(
            f"{path}: columns {' and '.join(listed)} give splits. Choose one, as in "
            f"--columns=split:{listed[0]}, or write them as one column"
        )
    for note in usable.values():
        command_line.note(note)
    return dict(zip(["split"], usable, strict=False))


def _meaning(title: str, values: Collection[str]) -> Mapping[str, str]:
    """Return {value of a column, in lower case: split}; {} if it gives no splits."""
    flag = _FLAG.fullmatch(title.lower())
    if flag and {*values} <= {*_YES, *_NO}:
        yes = SPLIT_OF[flag[1]]
        no = "test" if yes == "train" else "train"
        return dict.fromkeys(_YES, yes) | dict.fromkeys(_NO, no)
    splits = {"": "", **SPLIT_OF}
    return splits if {""} != {*values} <= splits.keys() else {}
