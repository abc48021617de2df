"""Photos as people have them -> the list of the files, each with its class and split.

* a folder of class folders, or of split folders with class folders (folders.py)
* a folder of old records of two keys, one file a class (two_key.py)
* Caffe's list files, with a folder that their paths are relative to (lists.py)
* a CSV file of paths and labels, likewise (photo_csv.py)
"""

from collections.abc import Sequence
from pathlib import Path

from pipeline.sources import (
    caffe_lists,
    class_folders,
    class_labels,
    photo_csv,
    tfrecords_2018,
)
from pipeline.sources.photo_source import Source as Source
from pipeline.system.errors import DataError


def list_source(
    root: Path,
    *,
    list_files: Sequence[caffe_lists.ListFile] = (),
    csv_file: str = "",
    labels_file: str = "",
) -> Source:
    """Lists a source of any kind; what a folder holds is told by its content.

    Args:
        root: the folder of photos, or of records.
        list_files: from lists.parse; none for another kind of source.
        csv_file: path of a CSV file; "" for another kind of source.
        labels_file: path of a file of class names in label order, for lists and CSV;
            "" if there is none. Paths are relative to the current folder, or else to
            `root`.

    Raises:
        DataError: nothing to make a data set of; says what is wrong and where.
    """
    if not root.exists():
        raise DataError(f"{root}: no such folder")
    if not root.is_dir():
        raise DataError(
            f"{root}: is a file; expected a folder with one folder of photos per class"
        )
    names = class_labels.read(find(root, labels_file)) if labels_file else None
    if list_files:
        files = [(find(root, one.path), one.split) for one in list_files]
        return caffe_lists.list_photos(root, files, names)
    if csv_file:
        return photo_csv.list_photos(root, find(root, csv_file), names)
    if tfrecords_2018.is_source(root):
        return tfrecords_2018.list_photos(root)
    return class_folders.list_folders(root)


def find(root: Path, name: str) -> Path:
    """A file, relative to the current folder or else to the source.

    Raises:
        DataError: in neither.
    """
    for path in (Path(name), root / name):
        if path.exists():
            return path
    raise DataError(f"{name}: no such file, neither here nor in {root}")
