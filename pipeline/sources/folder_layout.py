"""Decide which folders hold the photos of which class and split.

The names of folders decide where they can. `--layout` decides the rest: folders that
can be read in two ways are refused, and the error names the flag for each of them.
"""

import collections
import itertools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.records.manifest import SPLITS
from pipeline.sources.photo_source import ENDING, SPLIT_OF
from pipeline.system import command_line
from pipeline.system.errors import DataError

Folder = tuple[str, ...]  # names from the source down; () is the source itself
_NONE = "none"  # instead of a split: the folder is left out
_LEVELS = re.compile("(folder/)*(class(/(folder/)*split)?|split/(folder/)*class)")
# Words in names of splits. Classes may have such names: there are photos of trains.
_SPLIT_WORDS: Mapping[str, str] = {
    "trainval": "train",
    **dict.fromkeys(("dev", "development"), "validation"),
    **dict.fromkeys(("eval", "evaluation", "holdout", "heldout"), "test"),
    **SPLIT_OF,
}
_SUFFIX = re.compile("(set|data|images|imgs|photos)$")
_PART = re.compile(r"(batch|cv|fold|images|part|split)[-_ ]?\d+", re.IGNORECASE)
_NO_PHOTOS = {"annotations", "labels", "masks"}
_DATE = re.compile(r"(19|20)\d\d([-_. ]?\d\d)*")


def parse(layout: str) -> tuple[list[str], dict[str, str]]:
    """Read the value of --layout, such as `split/folder/class,train=a,none=b`.

    The meaning of each level is [] to let the names decide; the other result is
    {folder: split or "none"}.
    """
    levels: list[str] = []
    split_of: dict[str, str] = {}
    for item in filter(None, layout.split(",")):
        word, _, name = item.partition("=")
        split = {**SPLIT_OF, _NONE: _NONE}.get(word.lower())
        if split and name:
            if split_of.setdefault(name, split) != split:
                raise ValueError(f"--layout={layout}: {name} is given twice")
        elif _LEVELS.fullmatch(item) and not levels:
            levels = item.split("/")
        else:
            raise ValueError(
                f"--layout={layout}: expected levels with a class, as in split/class, "
                f"and folders, as in train=a,test=b,none=c; found {item!r}"
            )
    if levels and "split" not in levels and {*split_of.values()} - {_NONE}:
        raise ValueError(f"--layout={layout}: expected split as one of the levels")
    return levels, split_of


class FolderLayout:
    """Meaning of the folders of a source."""

    def __init__(
        self, root: Path, files: Mapping[Folder, Sequence[str]], layout: str
    ) -> None:
        """Find the classes, or raise DataError if the folders have no clear meaning."""
        # {folder: (class, split) of the files below it}; the split is one of SPLITS or
        # "", and both are "" for a folder that is left out.
        self.classes: dict[Folder, tuple[str, str]] = {}
        self.notes: list[str] = []  # for the user, on what was guessed
        self._root, self._files = root, files
        self._levels, self._split_of = parse(layout)
        out = {name for name, split in self._split_of.items() if split == _NONE}
        self._below: dict[Folder, list[str]] = {}
        for folder in sorted(f for f in files if f and out.isdisjoint(f)):
            self._below.setdefault(folder[:-1], []).append(folder[-1])
        names = {folder[-1] for folder in files if folder}
        if missing := sorted(self._split_of.keys() - names):
            raise DataError(
                f"{root}: holds no folder {missing[0]}, which --layout names. Expected "
                "names of folders in it"
            )
        levels = self._levels or self._guess_levels()
        self._read(levels)
        if not self._levels:
            self._check_depth(levels)
        for folder in files:
            if out.intersection(folder[-1:]) and out.isdisjoint(folder[:-1]):
                self._leave_out(folder, "as --layout says")

    def _inside(self, folders: Iterable[Folder]) -> list[Folder]:
        """Return the folders in some folders, but for those left out."""
        return [(*folder, n) for folder in folders for n in self._below.get(folder, ())]

    def _read(self, levels: Sequence[str]) -> None:
        """Find the classes at these levels."""
        places: dict[Folder, tuple[str, str]] = {(): ("", "")}
        unlabelled: list[Folder] = []
        for level in levels:
            folders = self._inside(places)
            places = {folder: places[folder[:-1]] for folder in folders}
            for folder, (name, split) in places.items():
                if level == "class":
                    places[folder] = (folder[-1], split)
                elif level == "split":
                    places[folder] = (name, self._split(folder))
                    unlabelled += [folder] * (not name)
            self.classes |= {f: place for f, place in places.items() if place[0]}
        trained = {name for name, split in self.classes.values() if split == SPLITS[0]}
        for folder in unlabelled:
            names = {name for f, (name, _) in self.classes.items() if _is_in(f, folder)}
            # A single folder, as in test/images/1.jpg, is not a label.
            if not names or (trained and len(names) == 1 and not names & trained):
                path = shlex.quote(str(self._root.joinpath(*folder)))
                command = f"python -m model.predict {path}"
                self._leave_out(folder, f"without a class. To classify them: {command}")
        if not any(name for name, _ in self.classes.values()):
            expected = "/".join(levels)
            raise DataError(f"{self._root}: holds no class folders as in {expected}")

    def _leave_out(self, folder: Folder, reason: str) -> None:
        """Put a folder and all below into no class."""
        self.classes = {f: c for f, c in self.classes.items() if not _is_in(f, folder)}
        self.classes[folder] = ("", "")
        count = sum(len(names) for f, names in self._files.items() if _is_in(f, folder))
        what = f"{count:,} file{'s' * (count != 1)} in {'/'.join(folder)}"
        self.notes.append(f"left out: {what} {reason}")

    def _split(self, folder: Folder) -> str:
        """Return the split of a folder by --layout or by its name alone."""
        name = folder[-1]
        if split := self._split_of.get(name) or SPLIT_OF.get(name.lower()):
            return split
        raise DataError(
            f"{self._root}: --layout does not say which split {name} is. Expected, for "
            f"example, {self._flag(self._levels, [name])}"
        )

    def _guess_levels(self) -> list[str]:
        """Return the meaning of the levels by the names of the folders."""
        entered = self._enter([[()]]) or [[()]]
        splits = SPLIT_OF.keys() | self._split_of.keys()
        is_split = [bool({n, n.lower()} & splits) for n in entered[0][0]]
        base = entered[0][0][: [*is_split, True].index(True)]
        tops = self._inside([base])
        if base and not self._inside(tops) and _are_dates(top[-1] for top in tops):
            base, tops = base[:-1], [base]  # a class, its photos sorted by year
        levels = ["folder"] * len(base)
        if self._has_splits(base):
            training = [[top] for top in tops if self._split(top) == SPLITS[0]]
            inner = (self._enter(training) or training or [tops])[0][0]
            levels += ["split", *["folder"] * (len(inner) - len(tops[0]))]
            base = inner if inner not in tops else base
        levels.append("class")
        if "folder" in levels:
            path, meaning = "/".join(base), "/".join(levels)
            self.notes.append(
                f"entered {path}, the only folder there: read as --layout={meaning}"
            )
        return levels

    def _enter(self, classes: Sequence[Sequence[Folder]]) -> Sequence[Sequence[Folder]]:
        """Follow the folders of each class down, as long as each holds only one folder.

        Return the last ones; () if they hold photos, or nothing.
        """
        while inner := [self._inside(folders) for folders in classes]:
            names = (n for f in itertools.chain(*classes) for n in self._files[f])
            if not any(inner) or any(map(ENDING.search, names)):
                break
            if any(len({folder[-1] for folder in folders}) != 1 for folders in inner):
                return classes
            classes = inner
        return ()

    def _has_splits(self, base: Folder) -> bool:
        """Return whether the folders in `base` are splits rather than classes."""
        tops = self._below.get(base, [])
        likely = [top for top in tops if likely_split(top)]
        others = [top for top in tops if top not in likely]
        exact = [top for top in likely if top.lower() in SPLIT_OF]
        nested = [top for top in tops if (*base, top) in self._below]
        splits = {likely_split(top) for top in likely}
        is_plain = nested and len(exact) == len(splits) == len(tops)
        if is_plain or not self._split_of.keys().isdisjoint(tops):
            return True
        # Photos of trains are a class among others, unless no other has folders.
        are_trains = [top.lower() for top in exact] == [SPLITS[0]] and nested != exact
        are_parts = len(tops) > 1 and all(map(_PART.fullmatch, tops))
        are_parts = are_parts and not self._enter([[(*base, top)] for top in tops])
        is_class = not exact or (are_trains and len(others) > 1)
        if len(splits) < 2 and is_class and not are_parts:
            if likely:
                names = command_line.first_few(likely)
                names += f" (to leave out: {self._flag((), (), likely)})"
                self.notes.append(f"read as classes, not as splits: {names}")
            return False
        advice = (
            "Expected class folders in them, as in train/daisy/1.jpg, or a list of the "
            "classes, given by --csv or --lists"
        )
        if splits in ({SPLITS[1]}, {SPLITS[2]}) and len(others) > 1:
            advice = (
                f"To leave out {', '.join(exact)}, pass {self._flag((), (), exact)}"
            )
        elif nested and likely:
            advice = f"If they are splits, pass {self._flag((), tops)}"
            if others:
                advice += f", which leaves out {command_line.first_few(others)}"
        raise DataError(
            f"{self._root}: folders are named like splits: "
            f"{command_line.first_few(likely or tops)}. {advice}. If all are classes, "
            f"pass {self._flag([*['folder'] * len(base), 'class'])}"
        )

    def _check_depth(self, levels: Sequence[str]) -> None:
        """Refuse classes that hold folders of the same names: these may be the classes.

        Years and dates only group the photos of a class.
        """
        classes: dict[str, list[Folder]] = {}
        for folder, (name, _) in self.classes.items():
            if name:
                classes.setdefault(name, []).append(folder)
        entered = self._enter([*classes.values()])
        inner = [self._inside(folders) for folders in entered]
        names = {folder[-1] for folders in inner for folder in folders}
        counts = collections.Counter(
            name for folders in inner for name in {f[-1].lower() for f in folders}
        )
        shared = [name for name, count in counts.items() if count > 1]
        if len(counts) < 2 or (_are_dates(counts) and not _are_dates(classes)):
            shared = []
        kinds = {likely_split(name) for name in names}
        groups = ["folder"] * (len(entered[0][0]) - len(levels)) if entered else []
        are_splits = "" not in kinds and len(kinds) > 1 and "split" not in levels
        aside = [name for name in (*classes, *names) if name.lower() in _NO_PHOTOS]
        if are_splits and all(map(_PART.fullmatch, classes)):
            aside = sorted(classes)[1:]  # folds with splits in each: one at a time
        if aside:
            case = f"To leave out {command_line.first_few(sorted(aside))}"
            flag = self._flag((), (), aside)
        elif are_splits:
            case = "If these are splits"
            flag = self._flag([*levels, *groups, "split"], names)
        else:
            case = "If these are the classes"
            flag = self._flag([*levels[:-1], "folder", *groups, "class"])
        if shared and len(counts) <= 2 * len(shared):
            raise DataError(
                f"{self._root}: {command_line.first_few(sorted(classes))} hold folders "
                f"of the same names: {command_line.first_few(sorted(shared))}. {case}, "
                f"pass {flag}. If they only group photos, pass {self._flag(levels)}"
            )
        if grouping := [f for f in self._below if self.classes.get(f, ("",))[0]]:
            example = "/".join(self._inside(grouping)[0])
            note = f"folders below the classes only group photos, such as {example}"
            self.notes.append(note + f". {case}, pass {flag}" * bool(shared))

    def _flag(
        self, levels: Sequence[str], named: Iterable[str] = (), out: Iterable[str] = ()
    ) -> str:
        """Return --layout, ready for a shell, with levels and folders named or out."""
        split_of = self._split_of | {n: likely_split(n) or _NONE for n in named}
        pairs = (split_of | dict.fromkeys(out, _NONE)).items()
        ordered = sorted(pairs, key=lambda pair: (*SPLITS, _NONE).index(pair[1]))
        items = ["/".join(levels), *(f"{split}={name}" for name, split in ordered)]
        return shlex.quote(f"--layout={','.join(filter(None, items))}")


def _is_in(folder: Folder, top: Folder) -> bool:
    return folder[: len(top)] == top


def _are_dates(names: Iterable[str]) -> bool:
    return all(map(_DATE.fullmatch, names))


def likely_split(name: str, split_of: Mapping[str, str] = _SPLIT_WORDS) -> str:
    """Return the split that a name or a word in it means; "" for none or several."""
    words = [word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)]
    if split := split_of.get("".join(words)):
        return split
    splits = {split_of.get(_SUFFIX.sub("", word), "") for word in words} - {""}
    return splits.pop() if len(splits) == 1 else ""
