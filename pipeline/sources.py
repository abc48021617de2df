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
from pathlib import Path

from pipeline import schema

# Files and folders that systems leave behind; nobody means them as photos.
_SYSTEM_NAMES = {"thumbs.db", "desktop.ini", "__macosx", "$recycle.bin"}
_SPLIT_NAMES = {"train", "training", "validation", "valid", "val", "test", "testing"}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file that wants to become a record.

    Attributes:
        path: relative to the source folder, with "/".
        class_name: name of the top folder it lies in; "" directly in the source folder.
    """

    path: str
    class_name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What a source folder holds.

    Attributes:
        root: the folder.
        class_names: sorted; label i is class_names[i].
        files: sorted by path.
        ignored: number of hidden or system files and folders, and of linked folders
            (which are not followed), by kind.
    """

    root: Path
    class_names: tuple[str, ...]
    files: tuple[SourceFile, ...]
    ignored: dict[str, int]


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
    files: list[SourceFile] = []
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
        for name in sorted(file_names):
            if _keep(name, ignored):
                path = "/".join((*parts, name))
                files.append(SourceFile(path=path, class_name=(*parts, "")[0]))
    _check_classes(root, classes, files)
    return Source(
        root=root,
        class_names=tuple(sorted(classes)),
        files=tuple(sorted(files, key=lambda file: file.path)),
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


def _check_classes(root: Path, classes: set[str], files: list[SourceFile]) -> None:
    expected = "expected one folder of photos per class, as in flowers/daisy/1.jpg"
    for path in sorted(root.iterdir()):
        if path.is_symlink() and path.is_dir():
            raise schema.DataError(
                f"{path}: is a link to a folder, which is not followed, so a class "
                "would be missing; copy the folder here instead"
            )
    if not classes:
        what = f"{len(files)} files but no folder" if files else "nothing"
        raise schema.DataError(f"{root}: holds {what}; {expected}")
    if {name.lower() for name in classes} <= _SPLIT_NAMES:
        raise schema.DataError(
            f"{root}: holds {sorted(classes)}, which look like splits and not like "
            f"classes; convert one of them, as {root / min(classes)}: Graft makes its "
            "own split, which duplicates cannot cross"
        )
    for name in sorted(classes):
        if not name.isprintable() and not _is_undecodable(name):
            raise schema.DataError(
                f"{root}: class name {name!r} holds a line break or another control "
                "character, which no list of labels can; rename the folder"
            )
    if len(classes) == 1:
        raise schema.DataError(
            f"{root}: holds one class only, {next(iter(classes))!r}; a classifier "
            f"needs two or more; {expected}"
        )
    empty = sorted(classes - {file.class_name for file in files})
    if empty:
        raise schema.DataError(
            f"{root}: no files in class folder {', '.join(empty)}; "
            "add photos or remove the folder"
        )
