"""Base classes of errors of bad input: a command prints their line and no traceback."""


class Refused(Exception):
    """The request cannot be carried out; the text says what, where and what to do."""


class WrongUse(Exception):
    """The request contradicts itself; a command ends with exit code 2."""
