"""Define what can be wrong with a weight file; commands catch CheckpointError."""

from pipeline.system.errors import UserError


class CheckpointError(UserError):
    """Weights cannot be used; says where, what was expected and what to do."""


class MissingCheckpoint(CheckpointError):
    """There is no such file, or it cannot be downloaded."""


class UnknownFormat(CheckpointError):
    """The content is in no format that Graft reads."""


class CorruptCheckpoint(CheckpointError):
    """The file is cut off, damaged, or inconsistent."""


class UnsafeCheckpoint(CheckpointError):
    """The pickle asks for something that is not plain data."""


class MismatchedCheckpoint(CheckpointError):
    """The tensors do not fit the network."""
