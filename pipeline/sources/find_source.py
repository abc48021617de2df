"""Find out what kind of source a user has, and list its photos."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.sources import class_folders, tfrecords_2018
from pipeline.sources.lists import caffe_lists, label_files, photo_csv
from pipeline.sources.photo_source import Source
from pipeline.system.errors import DataError


def list_source(
    root: Path,
    *,
    list_files: Sequence[tuple[str, str]] = (),
    csv_file: str = "",
    csv_columns: str = "",
    labels_file: str = "",
    layout: str = "",
) -> Source:
    """List a source of any kind; the content of a folder decides its kind.

    Paths of files are relative to the current folder, or else to `root`.

    Args:
        root: folder of photos, or of records.
        list_files: result of caffe_lists.parse; () for another kind of source.
        csv_file: CSV file; "" for another kind of source.
        csv_columns: titles of its columns as in --columns; "" for the usual titles.
        labels_file: file of class names in label order, for lists and CSV; "" for none.
        layout: value of --layout, for class folders; "" to let their names decide.

    Raises:
        DataError: the source cannot become a data set; says what is wrong and where.
    """
    if not root.exists():
        raise DataError(f"{root}: no such folder")
    if not root.is_dir():
        raise DataError(
            f"{root}: is a file. Expected a folder with one folder of photos per class"
        )
    names = label_files.read(_find(root, labels_file)) if labels_file else None
    if list_files:
        files = [(_find(root, name), split) for name, split in list_files]
        return caffe_lists.list_photos(root, files, names)
    if csv_file:
        return photo_csv.list_photos(root, _find(root, csv_file), names, csv_columns)
    if tfrecords_2018.is_source(root):
        return tfrecords_2018.list_photos(root)
    return class_folders.list_folders(root, layout)


def _find(root: Path, name: str) -> Path:
    """Return the path of a file in the current folder, or else in the source."""
    for path in (Path(name), root / name):
        if path.exists():
            return path
    raise DataError(f"{name}: no such file, neither here nor in {root}")
