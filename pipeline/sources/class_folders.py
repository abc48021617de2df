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

import operator
import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.sources import folder_layout, photo_source
from pipeline.system import file_system
from pipeline.system.errors import DataError

# Files and folders that operating systems create; never photos.
_SYSTEM_NAMES = {"thumbs.db", "desktop.ini", "__macosx", "$recycle.bin"}


def list_folders(root: Path, layout: str = "") -> photo_source.Source:
    """List a folder of class folders, or of split folders; `layout` is --layout.

    Raises DataError for folders that are not classes, or can be read in two ways.
    """
    ignored = {"hidden": 0, "system": 0, "linked folders": 0}
    files, links = _walk(root, ignored)
    _check_links(root, [link for link in links if len(link) == 1])
    count = sum(map(len, files.values()))
    if len(files) == 1:
        what = f"files ({count:,}) but no folder" if count else "nothing"
        raise DataError(
            f"{root}: holds {what}. Expected one folder of photos per class, as in "
            "flowers/daisy/1.jpg"
        )
    folders = folder_layout.FolderLayout(root, files, layout)
    meaning: dict[folder_layout.Folder, tuple[str, str]] = {(): ("", "")}
    photos = []
    for folder, names in files.items():  # parents come first
        if folder:
            meaning[folder] = folders.classes.get(folder, meaning[folder[:-1]])
        class_name, split = meaning[folder]
        photos += [
            photo_source.SourcePhoto(
                path="/".join((*folder, name)), class_name=class_name, split=split
            )
            for name in names
        ]
    photos.sort(key=operator.attrgetter("path"))
    _check_links(root, [link for link in links if meaning[link[:-1]] == ("", "")])
    names = sorted({name for name, _ in folders.classes.values()} - {""})
    has_splits = any(split for _, split in folders.classes.values())
    kind: photo_source.Kind = "split folders" if has_splits else "class folders"
    note = f"{kind}: {count:,} files in {len(names)} classes"
    if counts := photo_source.count_splits(p.split for p in photos if p.class_name):
        note += f"; {counts}"
    return photo_source.Source(
        kind=kind,
        root=root,
        class_names=tuple(names),
        photos=photos,
        layout=layout,
        ignored={kind: count for kind, count in ignored.items() if count},
        notes=(note, *folders.notes),
    )


def _walk(
    root: Path, ignored: dict[str, int]
) -> tuple[dict[folder_layout.Folder, list[str]], list[folder_layout.Folder]]:
    """Return {folder: names of its files}, and the links to folders."""
    files: dict[folder_layout.Folder, list[str]] = {}
    links: list[folder_layout.Folder] = []
    for folder, folder_names, file_names in file_system.walk(root):
        inside = os.path.relpath(folder, root)
        parts = () if inside == "." else Path(inside).parts
        files[parts] = [name for name in file_names if keep(name, ignored)]
        folder_names[:] = sorted(name for name in folder_names if keep(name, ignored))
        for name in [*folder_names]:
            if file_system.path(f"{folder}/{name}").is_symlink():
                folder_names.remove(name)
                links.append((*parts, name))
    ignored["linked folders"] = len(links)
    return files, links


def keep(name: str, ignored: dict[str, int]) -> bool:
    """Return whether a file or folder is data; count it as ignored if not."""
    if name.startswith("."):
        ignored["hidden"] += 1
    elif name.lower() in _SYSTEM_NAMES:
        ignored["system"] += 1
    else:
        return True
    return False


def _check_links(root: Path, links: Sequence[folder_layout.Folder]) -> None:
    """Refuse links to folders where a class or a split would be missing."""
    if links:
        raise DataError(
            f"{root.joinpath(*links[0])}: is a link to a folder. Links are not "
            "followed, so a class would be missing. Copy the folder here instead"
        )
