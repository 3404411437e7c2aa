"""The one exception whose text people are meant to read."""


class UserError(Exception):
    """Something the user can fix. The command line prints its text alone, without a traceback, and exits with 1.

    The text names the place (``file:line`` or the key), what was got, what is allowed, and what to do.
    """
