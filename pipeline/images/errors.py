"""The error of files that cannot become a record's image."""

from pipeline.records.row_codes import Code


class ImageError(ValueError):
    """A file cannot become a record's image.

    Attributes:
        kind: the reason; the message is the same reason as a sentence.
    """

    def __init__(self, kind: Code, message: str) -> None:
        super().__init__(kind, message)  # both, so that it can be pickled
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[1])


def out_of_memory() -> ImageError:
    """Return the error for an image that does not fit into the memory."""
    return ImageError(Code.OUT_OF_MEMORY, "too large for this machine's memory")
