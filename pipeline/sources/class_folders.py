"""List the files of class folders, or of split folders, as a source.

flowers/
    daisy/1.jpg             class "daisy"
    daisy/2019/7.jpg        class "daisy": folders below the class only group files
    roses/2.png             class "roses"
    LICENSE.txt             in no class: listed, and reported as skipped
    .DS_Store               hidden and system files are ignored and counted

flowers/
    train/daisy/1.jpg       class "daisy", given for training
    test/daisy/2.jpg        class "daisy", given to test on
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.records.manifest import SPLITS
from pipeline.sources import photo_source
from pipeline.system import file_system
from pipeline.system.errors import DataError

# Files and folders that systems leave behind; nobody means them as photos.
_SYSTEM_NAMES = {"thumbs.db", "desktop.ini", "__macosx", "$recycle.bin"}


def list_folders(root: Path) -> photo_source.Source:
    """List a folder of class folders, or of split folders with class folders.

    Raises:
        DataError: the folder is empty or has fewer than two classes, a class has no
            files, splits have different classes, or only some folders are splits.
    """
    ignored = {"hidden": 0, "system": 0, "linked folders": 0}
    paths, folders = _walk(root, ignored)
    _check_links(root)
    if not folders:
        what = f"{len(paths)} files but no folder" if paths else "nothing"
        raise DataError(
            f"{root}: holds {what}. Expected one folder of photos per class, as in "
            "flowers/daisy/1.jpg"
        )
    splits = _splits_among(root, sorted({folder[0] for folder in folders}))
    depth = 1 if splits else 0
    _check_splits(root, splits, folders)
    names = sorted({folder[depth] for folder in folders if len(folder) > depth})
    photos = []
    for path in paths:
        parts = path.split("/", depth + 1)
        name, split = "", ""
        if len(parts) > depth + 1:
            name, split = sys.intern(parts[depth]), splits.get(parts[0], "")
        photo = photo_source.SourcePhoto(path=path, class_name=name, split=split)
        photos.append(photo)
    present = {(photo.split, photo.class_name) for photo in photos}
    for top, split in splits.items():
        for name in names:
            if (split, name) not in present:
                raise DataError(
                    f"{root / top / name}: has no files for {split}. Add photos, or "
                    "remove the class from all splits"
                )
    kind: photo_source.Kind = "split folders" if splits else "class folders"
    note = f"{kind}: {len(paths):,} files in {len(names)} classes"
    if counts := photo_source.count_splits(p.split for p in photos if p.class_name):
        note += f"; {counts}"
    return photo_source.check(
        photo_source.Source(
            kind=kind,
            root=root,
            class_names=tuple(names),
            photos=photos,
            ignored={kind: count for kind, count in ignored.items() if count},
            notes=(note,),
        )
    )


def _walk(
    root: Path, ignored: dict[str, int]
) -> tuple[list[str], set[tuple[str, ...]]]:
    """Return all files, sorted, and the folders of the first two levels."""
    paths: list[str] = []
    folders: set[tuple[str, ...]] = set()
    for folder, folder_names, file_names in file_system.walk(root, onerror=_raise):
        inside = os.path.relpath(folder, root)
        parts = () if inside == "." else Path(inside).parts
        folder_names[:] = sorted(
            name
            for name in folder_names
            if keep(name, ignored) and not _is_link(folder, name, ignored)
        )
        if len(parts) < 2:
            folders.update((*parts, name) for name in folder_names)
        kept = (name for name in file_names if keep(name, ignored))
        paths.extend("/".join((*parts, name)) for name in kept)
    return sorted(paths), folders


def _raise(error: OSError) -> None:
    raise error


def _is_link(folder: str, name: str, ignored: dict[str, int]) -> bool:
    is_link = file_system.path(f"{folder}/{name}").is_symlink()
    ignored["linked folders"] += is_link
    return is_link


def keep(name: str, ignored: dict[str, int]) -> bool:
    """Return whether users mean a file or folder as data; count it if not."""
    if name.startswith("."):
        ignored["hidden"] += 1
    elif name.lower() in _SYSTEM_NAMES:
        ignored["system"] += 1
    else:
        return True
    return False


def _check_links(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and path.is_dir():
            raise DataError(
                f"{path}: is a link to a folder. Links are not followed, so a class "
                "would be missing. Copy the folder here instead"
            )


def _splits_among(root: Path, tops: Sequence[str]) -> dict[str, str]:
    """Return {folder: split} of all folders, or of none.

    One such name among others is a class: there are photos of trains.
    """
    split_of = photo_source.SPLIT_OF
    splits = {top: split_of[top.lower()] for top in tops if top.lower() in split_of}
    kinds = {*splits.values()}
    others = [top for top in tops if top not in splits]
    if others and len(kinds) > 1:
        raise DataError(
            f"{root}: holds {', '.join(splits)}, which look like splits, and "
            f"{', '.join(others[:5])}, which do not. Expected only splits, with class "
            "folders in each, or only class folders"
        )
    if not others and len(kinds) < len(splits):
        raise DataError(
            f"{root}: {', '.join(splits)} name one split twice. Merge the folders"
        )
    return {} if others else splits


def _check_splits(
    root: Path, splits: dict[str, str], folders: set[tuple[str, ...]]
) -> None:
    """Refuse splits without class folders, or with others than the training split."""
    classes = {
        top: {folder[1] for folder in folders if folder[0] == top and len(folder) > 1}
        for top in splits
    }
    for top, names in classes.items():
        _check_links(root / top)
        if not names:
            raise DataError(
                f"{root / top}: looks like a split but holds no class folder. Expected "
                f"photos in class folders, such as {root / top}/daisy/1.jpg"
            )
    first = min(classes, key=lambda top: SPLITS.index(splits[top]), default="")
    for top, names in classes.items():
        differences = {
            "lacks": classes[first] - names,
            "has in addition": names - classes[first],
        }
        what = [
            f"{kind} class {', '.join(sorted(others)[:10])}"
            for kind, others in differences.items()
            if others
        ]
        if what:
            raise DataError(
                f"{root / top}: {' and '.join(what)}, compared with {first}. Give all "
                "splits the same class folders"
            )
