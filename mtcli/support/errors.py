"""The one exception that people are meant to read. Knows nothing of what went wrong."""


class UserError(Exception):
    """Something the user can mend. The command line prints its text alone, without a traceback, and exits with 1.

    The text names the place (``file:line`` or the key), what was got, what is allowed, and what to do.
    """
