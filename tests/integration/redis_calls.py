"""What calls of the Redis store's scripts do on the server."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis


@contextmanager
def runs_of_scripts(store: Any) -> Iterator[Counter[str]]:
    """Count the store's calls by script."""
    scripts, calls = store._scripts, Counter[str]()  # noqa: SLF001 - nothing public counts them
    run = scripts.run

    def counted(name: str, *args: Any, **options: Any) -> Any:
        calls[name] += 1
        return run(name, *args, **options)

    scripts.run = counted
    yield calls
    scripts.run = run


@contextmanager
def commands_of_calls(store: Any, raw: redis.Redis) -> Iterator[Counter[str]]:
    """Count, by script, the most commands that the server carried out in one call of the store."""
    scripts, most = store._scripts, Counter[str]()  # noqa: SLF001 - nothing public counts them
    run = scripts.run

    def counted(name: str, *args: Any, **options: Any) -> Any:
        before = _commands(raw)
        found = run(name, *args, **options)
        most[name] = max(most[name], _commands(raw) - before)
        return found

    scripts.run = counted
    yield most
    scripts.run = run


def _commands(raw: redis.Redis) -> int:
    stats: Any = raw.info("commandstats")
    return sum(int(it["calls"]) for it in stats.values())
