"""The one exception class that is meant for users."""


class UserError(Exception):
    """A problem the user can cure: says what was found, what was expected and what to do.

    The command line prints its message without a traceback and exits with status 2.
    """
