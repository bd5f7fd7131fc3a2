"""The one exception that a user of the local cluster sees."""


class LocalClusterError(Exception):
    """Says in one sentence what is wrong and what to do about it."""
