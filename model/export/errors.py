"""What can be wrong with an export."""

from pipeline.system.errors import DataError


class ExportError(DataError):
    """The run cannot be exported so, or the file does not say what the run says."""
