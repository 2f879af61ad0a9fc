"""The errors that a user can mend."""


class UserError(ValueError):
    """Bad input: a setting, a file or a text that cannot be used.

    The message is one sentence for the person at the terminal: what is wrong, where, and what to
    do. The command line prints it as one line and exits with code 2; every other exception is a
    defect of minillm and keeps its traceback.
    """


class MissingExtra(UserError):
    """A feature was asked for whose optional package is not installed."""

    def __init__(self, feature: str, package: str, extra: str):
        super().__init__(f'{feature} needs {package}, which is not installed: pip install "minillm[{extra}]"')
