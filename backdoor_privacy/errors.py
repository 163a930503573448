"""What a user can mend."""


class InputError(ValueError):
    """Bad input: one line that says what was expected, what came and what to do.

    The command prints the line without a traceback and exits with code 1.
    """
