"""A folder of class folders -> the list of its files, each with its class.

flowers/
    daisy/1.jpg             class "daisy"
    daisy/2019/7.jpg        class "daisy": folders below the class only group files
    roses/2.png             class "roses"
    LICENSE.txt             in no class: listed, and reported as skipped
    .DS_Store               hidden and system files are ignored and counted
"""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline import schema

# Files and folders that systems leave behind; nobody means them as photos.
_SYSTEM_NAMES = {"thumbs.db", "desktop.ini", "__macosx", "$recycle.bin"}
_SPLIT_NAMES = {"train", "training", "validation", "valid", "val", "test", "testing"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What a source holds.

    Attributes:
        root: the folder that paths are relative to.
        class_names: sorted; label i is class_names[i].
        paths: of all files, with "/", sorted.
        labels: int32 [num_files], 0-based; -1 for a file in no class.
        ignored: number of hidden or system files and folders, and of linked folders
            (which are not followed), by kind.
    """

    root: Path
    class_names: tuple[str, ...]
    paths: Sequence[str]
    labels: np.ndarray
    ignored: dict[str, int]

    def class_name(self, number: int) -> str:
        """The class of a file; "" if it is in none."""
        label = self.labels[number]
        return self.class_names[label] if label >= 0 else ""


def list_class_folders(root: Path) -> Source:
    """Lists a folder of class folders.

    Raises:
        schema.DataError: not a folder, empty, no or one class folder, a class folder
            without files, or ready-made splits instead of classes.
    """
    if not root.exists():
        raise schema.DataError(f"{root}: no such folder")
    if not root.is_dir():
        raise schema.DataError(
            f"{root}: is a file; expected a folder with one folder of photos per class"
        )
    paths: list[str] = []
    classes: set[str] = set()
    ignored = {"hidden": 0, "system": 0, "linked folders": 0}
    for folder, folder_names, file_names in os.walk(root, onerror=_raise):
        inside = os.path.relpath(folder, root)
        parts = () if inside == "." else Path(inside).parts
        folder_names[:] = sorted(
            name
            for name in folder_names
            if _keep(name, ignored) and not _is_link(Path(folder, name), ignored)
        )
        if not parts:
            classes.update(folder_names)
        for name in file_names:
            if _keep(name, ignored):
                paths.append("/".join((*parts, name)))
    paths.sort()
    class_names = tuple(sorted(classes))
    label_of = {name: label for label, name in enumerate(class_names)}
    tops = (path.split("/", 1)[0] if "/" in path else "" for path in paths)
    labels = np.fromiter((label_of.get(top, -1) for top in tops), np.int32, len(paths))
    _check_classes(root, class_names, labels)
    return Source(
        root=root,
        class_names=class_names,
        paths=paths,
        labels=labels,
        ignored={kind: count for kind, count in ignored.items() if count},
    )


def _raise(error: OSError) -> None:
    raise error


def _is_link(folder: Path, ignored: dict[str, int]) -> bool:
    if folder.is_symlink():
        ignored["linked folders"] += 1
        return True
    return False


def _keep(name: str, ignored: dict[str, int]) -> bool:
    if name.startswith("."):
        ignored["hidden"] += 1
    elif name.lower() in _SYSTEM_NAMES:
        ignored["system"] += 1
    else:
        return True
    return False


def _is_undecodable(name: str) -> bool:
    """Whether only bytes that are no UTF-8 make it unprintable."""
    return re.sub("[\udc80-\udcff]", "", name).isprintable()


def _check_classes(root: Path, classes: Sequence[str], labels: np.ndarray) -> None:
    expected = "expected one folder of photos per class, as in flowers/daisy/1.jpg"
    for path in sorted(root.iterdir()):
        if path.is_symlink() and path.is_dir():
            raise schema.DataError(
                f"{path}: is a link to a folder, which is not followed, so a class "
                "would be missing; copy the folder here instead"
            )
    if not classes:
        what = f"{len(labels)} files but no folder" if len(labels) else "nothing"
        raise schema.DataError(f"{root}: holds {what}; {expected}")
    if {name.lower() for name in classes} <= _SPLIT_NAMES:
        raise schema.DataError(
            f"{root}: holds {list(classes)}, which look like splits and not like "
            f"classes; convert one of them, as {root / classes[0]}: Graft makes its "
            "own split, which duplicates cannot cross"
        )
    for name in classes:
        if not name.isprintable() and not _is_undecodable(name):
            raise schema.DataError(
                f"{root}: class name {name!r} holds a line break or another control "
                "character, which no list of labels can; rename the folder"
            )
    if len(classes) == 1:
        raise schema.DataError(
            f"{root}: holds one class only, {classes[0]!r}; a classifier "
            f"needs two or more; {expected}"
        )
    present = np.bincount(labels[labels >= 0], minlength=len(classes))
    empty = [name for name, count in zip(classes, present, strict=True) if not count]
    if empty:
        raise schema.DataError(
            f"{root}: no files in class folder {', '.join(empty)}; "
            "add photos or remove the folder"
        )
