"""Define the errors whose message is for the user."""


class DataError(ValueError):
    """Photos, records, a manifest or a run are not as expected.

    The message says where, what was expected, what was found and what to do.
    """
