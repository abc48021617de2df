"""What can be wrong with an export."""

from pipeline import schema


class ExportError(schema.DataError):
    """The run cannot be exported so, or the file does not say what the run says."""
