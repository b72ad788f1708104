"""The one exception that a person is meant to read."""


class UserError(Exception):
    """What was wrong, where, and what to do; commands print it alone and exit with code 2."""
