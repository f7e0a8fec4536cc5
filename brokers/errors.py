"""The one error of this folder."""


class LaunchError(Exception):
    """A server could not be had, started or stopped; the message says what to do."""
