"""The one error of this folder."""


class LaunchError(Exception):
    """A server cannot be installed, started or stopped; the message says what to do."""
