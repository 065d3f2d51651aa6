"""The one kind of error that a user can cause and mend."""


class UserError(Exception):
    """One line: what is wrong, where, and what to do about it. Ends the program with exit code 2."""
