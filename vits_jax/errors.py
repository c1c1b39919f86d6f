"""The two exceptions that the commands turn into one line on stderr and an exit code."""


class UserError(Exception):
    """Bad arguments or bad input (exit code 2).

    The message is one line: what was got, what was expected, where, what to do.

    Attributes:
        common: whether all processes of a run have it.
    """

    common = False


class RunFailed(Exception):
    """A run that could not go on (exit code 1): numbers that are not finite, a full disk.

    The message is one line: what happened, at which step, what to do.

    Attributes:
        common: whether all processes of a run have it.
    """

    common = False
