"""Define the errors whose message is for the user; the exit code is 2.

* UsageError: the command line is wrong.
* UserError: data, weights or a run are wrong.
    * DataError: photos, records, a manifest or a run.
    * Other rooms derive theirs, such as model.checkpoints.errors.CheckpointError.
"""

from pipeline.system import program_name


class UsageError(Exception):
    """A flag or argument is unknown, missing or out of bounds."""

    def __str__(self) -> str:
        return program_name.as_called(super().__str__())


class UserError(ValueError):
    """A problem that the user can solve.

    The message says where, what was expected, what was found and what to do.
    """

    def __str__(self) -> str:
        return program_name.as_called(super().__str__())


class DataError(UserError):
    """Photos, records, a manifest or a run are not as expected."""
