"""Read single photos from the record files of a data set."""

import os
import threading
from pathlib import Path

from pipeline.records import example_format, tfrecord
from pipeline.records.manifest_row import Row
from pipeline.system import file_system
from pipeline.system.errors import DataError


class StoredPhotos:
    """Read the record of any row; threads may share a reader.

    Record files of this machine stay open as long as the reader exists.
    """

    def __init__(self, directory: Path) -> None:
        """Remember the folder that the rows' record files are relative to."""
        self.directory = directory
        self._descriptors: dict[str, int] = {}
        self._lock = threading.Lock()

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def record(self, row: Row) -> example_format.Record:
        """Return the record of a row; raise DataError or OSError if that fails."""
        path = self.directory / row.file
        if file_system.is_remote(str(path)):
            with path.open("rb") as file:
                file.seek(row.offset)
                data = file.read(row.length)
        else:
            data = os.pread(self._open(row.file), row.length, row.offset)
        where = self._place(row)
        return example_format.parse(tfrecord.unframe(data, where), where)

    def image(self, row: Row) -> bytes:
        """Return the JPEG or PNG file in the record of a row; raise as `record`."""
        record = self.record(row)
        if record.sha256 != row.sha256:
            raise DataError(
                f"{self._place(row)}: holds another photo than the manifest says. "
                "Convert the photos again"
            )
        return record.encoded

    def _place(self, row: Row) -> str:
        return f"{self.directory / row.file} ({row.path}) at {row.offset}"

    def _open(self, name: str) -> int:
        with self._lock:
            if name not in self._descriptors:
                path = file_system.regular(self.directory / name)
                self._descriptors[name] = os.open(path, os.O_RDONLY)
            return self._descriptors[name]
