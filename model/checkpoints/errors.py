"""What can be wrong with a weight file.

* CheckpointError: any of these, caught by the commands.
    * MissingCheckpoint: there is no such file, or it cannot be had (offline).
    * UnknownFormat: its content is no format that Graft reads.
    * CorruptCheckpoint: cut off, damaged, or not consistent with itself.
    * UnsafeCheckpoint: a pickle that asks for more than plain data.
    * MismatchedCheckpoint: its tensors do not fit the network.
"""


class CheckpointError(ValueError):
    """Weights cannot be used; says where, what was expected and what to do."""


class MissingCheckpoint(CheckpointError):
    """There is no such file, or it cannot be had."""


class UnknownFormat(CheckpointError):
    """The content is no format that Graft reads."""


class CorruptCheckpoint(CheckpointError):
    """The file is cut off, damaged, or not consistent with itself."""


class UnsafeCheckpoint(CheckpointError):
    """The pickle asks for something that is not plain data."""


class MismatchedCheckpoint(CheckpointError):
    """The tensors do not fit the network."""
