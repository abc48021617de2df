"""Find out what kind of source a user has, and list its photos."""

from pathlib import Path

from pipeline.sources import class_folders, source_settings, tfrecords_2018
from pipeline.sources.lists import label_files, listed_photos, photo_csv
from pipeline.sources.photo_source import Source, check
from pipeline.system.errors import DataError


def list_source(
    root: Path, settings: source_settings.Settings = source_settings.DEFAULTS
) -> Source:
    """List the photos of a folder as the settings say, or raise DataError.

    Without lists and CSV file, the content of the folder decides its kind. Paths of
    files are relative to the current folder, or else to `root`.
    """
    if not root.exists():
        raise DataError(f"{root}: no such folder")
    if not root.is_dir():
        raise DataError(
            f"{root}: is a file. Expected a folder with one folder of photos per class"
        )
    labels = settings.labels
    names = label_files.read(_find(root, labels)) if labels else None
    if settings.lists:
        lists = listed_photos.parse_lists(settings.lists)
        files = [(_find(root, name), split) for name, split in lists]
        paths, entries = [path for path, _ in files], listed_photos.read_lists(files)
        source = listed_photos.list_photos(root, "lists", paths, entries, names)
    elif settings.csv:
        path = _find(root, settings.csv)
        entries = photo_csv.read(path, settings.columns)
        source = listed_photos.list_photos(root, "CSV", [path], entries, names)
    elif tfrecords_2018.is_source(root):
        source = tfrecords_2018.list_photos(root)
    else:
        source = class_folders.list_folders(root, settings.layout)
    return check(source)


def _find(root: Path, name: str) -> Path:
    """Return the path of a file in the current folder, or else in the source."""
    for path in (Path(name), root / name):
        if path.exists():
            return path
    raise DataError(f"{name}: no such file, neither here nor in {root}")
