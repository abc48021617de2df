"""The error of files that cannot become a record's image."""

from pipeline.records.row_codes import Code


class ImageError(ValueError):
    """A file cannot become a record's image; the message says why, as `kind` does."""

    def __init__(self, kind: Code, message: str) -> None:
        super().__init__(kind, message)  # both, so that it can be pickled
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[1])
