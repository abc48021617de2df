"""Read a CSV file of photos, `path,label,split`, as a source.

path,label,split
a/1.jpg,daisy,train
"b, c/2.jpg",roses,
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.sources import photo_source
from pipeline.sources.lists import class_labels, label_files, listed_photos, text_lines
from pipeline.sources.photo_source import SPLIT_OF
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
    """Read the value of --columns, `path:filename,label:breed`, as {role: title}.

    Raises:
        ValueError: a role is not one of `roles` or repeated, or a title is missing.
    """
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


def list_photos(
    root: Path, path: Path, names: label_files.Names | None, columns: str = ""
) -> photo_source.Source:
    """List the photos of a CSV file.

    Args:
        root: folder that the paths in the file are relative to.
        path: CSV file with the columns path, label and, if you like, split.
        names: names of the classes; None takes the labels as class names.
        columns: other titles of these columns, as in --columns.

    Raises:
        DataError: a row or a label is wrong, a photo has two labels or splits, or
            photo_source.check refuses the source.
    """
    notes = [*names.notes] if names else []
    rows = read_rows(path, {role: (role,) for role in ROLES[:2]}, columns, notes)
    entries = (
        listed_photos.Entry(
            row["path"], row["label"], row["split"], path, line, row["group"]
        )
        for line, row in rows
    )
    listed = listed_photos.ListedPhotos(root, [path], entries)
    if names:
        classes = class_labels.resolve(listed.first, names)
    else:
        classes = class_labels.as_names(listed.first)
    return listed.to_source("CSV", classes, path.name, notes)


def read_rows(
    path: Path, needed: Mapping[str, Sequence[str]], columns: str, notes: list[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and {role: value} of each row of a CSV file.

    Args:
        path: CSV file.
        needed: {role: titles that its column may have}; "split" and "group" are added.
        columns: other titles of these columns, as in --columns.
        notes: lines for the user about what was guessed, which are appended.

    Raises:
        DataError: a column is missing or repeated, a needed value is missing, or a
            split is unknown.
    """
    ((_, titles), *rows), table_notes = text_lines.read_rows(path)
    notes += table_notes
    aliases = {**needed, "split": ("split", "_split"), "group": ()}
    named = parse_columns(columns, aliases)
    places = _find_columns(path, titles, aliases, named)
    if "split" not in named:
        places |= _find_split(path, titles, rows, places, notes)
    meaning: Mapping[str, str] = {}
    if (place := places.get("split")) is not None:
        values = {fields[place].lower() for _, fields in rows}
        meaning = _meaning(titles[place], values) or SPLIT_OF
    for line, fields in rows:
        row = {"split": "", "group": ""}
        row |= {role: fields[place] for role, place in places.items()}
        split = row["split"].lower()
        for role in needed:
            if not row[role]:
                raise DataError(f"{path} line {line}: no {role}")
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
            shown = [title[:40] for title in titles[:20]]
            likely = ",".join(map(":".join, zip([*aliases][:2], shown, strict=False)))
            advice = f"Name the columns, as in --columns={likely}"
            if close := difflib.get_close_matches(name, shown, 1):
                advice = f"Did you mean {close[0]}?"
            elif any(map(photo_source.ENDING.search, shown)):
                advice = "Put a line of column names before it"
            header = ", ".join(map(repr, shown))
            raise DataError(
                f"{path}: expected one column {name or ' or '.join(names)}, found "
                f"{len(matches)}. The header has {header}. {advice}"
            )
    return places


def _find_split(
    path: Path,
    titles: Sequence[str],
    rows: Sequence[tuple[int, Sequence[str]]],
    places: Mapping[str, int],
    notes: list[str],
) -> dict[str, int]:
    """Return {"split": place} of a column that gives the splits; {} without any."""
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
            note = f"splits: column {shown} of {path.name}"
            usable[place] = f"{note}, where yes means {yes}" if yes else note
        elif len({*column}) > 1:
            notes.append(
                f"warning: column {shown} of {path.name} looks like a split, but is "
                f"not used. If it is one, pass --columns=split:{shown}"
            )
    if len(usable) > 1:
        listed = [titles[place][:80] for place in usable]
        raise DataError(
            f"{path}: columns {' and '.join(listed)} give splits. Choose one, as in "
            f"--columns=split:{listed[0]}, or write them as one column"
        )
    notes += usable.values()
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
