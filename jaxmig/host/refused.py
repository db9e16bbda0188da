"""What all errors of bad input are: a command ends with their line, not with a trace."""


class Refused(Exception):
    """What was asked cannot be done; the text says what, where and what to do."""


class WrongUse(Exception):
    """What was asked makes no sense; a command ends with 2."""
