"""Refused middleware: Dramatiq's that would break this broker, and what to use instead.

A worker runs everything on one event loop, and settles in one atomic step. Middleware that raises
exceptions into threads would hit that loop. Middleware that enqueues a copy of its message would
lose it: the copy has the id of the task that it repeats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import dramatiq

_THREADS = "it raises exceptions into threads, and agentpipe's event loop is one of them"
# By class name, because some are in separate packages.
_REFUSED = {
    "Retries": (
        "its copy of a message has the id of the task that it repeats, and would be dropped",
        "max_retries, min_backoff, max_backoff, retry_when and throws of actors work without it",
    ),
    "TimeLimit": (
        _THREADS,
        "time_limit of actors (milliseconds) and of collections (seconds) works without it",
    ),
    "Shutdown": (_THREADS, "AGENTPIPE_GRACE_S is the time that runs have to end"),
    "ShutdownNotifications": (_THREADS, "AGENTPIPE_GRACE_S is the time that runs have to end"),
    "Abortable": (_THREADS, "`agentpipe cancel TASK` ends a task"),
    "AsyncIO": ("agentpipe has an event loop of its own", "async actors run without it"),
    "AgeLimit": (
        "a message would be skipped twice",
        "max_age of actors works without it, and agents have the deadline of each task",
    ),
    "Callbacks": (
        "each callback would be sent twice",
        "the options on_success and on_failure work without it",
    ),
    "Pipelines": (
        "each pipe target would be sent twice",
        "pipelines, pipe_target and pipe_ignore work without it",
    ),
}
_HOMES = ("dramatiq.", "dramatiq_abort")


def refuse(middleware: dramatiq.Middleware) -> None:
    """Refuse a middleware that would break what runs here.

    Raises:
        ConfigError: Saying why, and what to use instead.
    """
    for kind in type(middleware).__mro__:
        if kind.__name__ in _REFUSED and kind.__module__.startswith(_HOMES):
            why, instead = _REFUSED[kind.__name__]
            raise ConfigError(
                f"the middleware {type(middleware).__name__} cannot be added to agentpipe's "
                f"broker: {why}. Remove it: {instead}"
            )
