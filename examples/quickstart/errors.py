"""The one exception that a user of the quickstart sees."""


class QuickstartError(Exception):
    """Says what is wrong and what to do about it; the program ends with code 1."""
