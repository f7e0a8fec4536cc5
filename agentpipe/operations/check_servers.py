"""Checks the servers that a collection's agents start or connect to, in each context."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from agentpipe.config.agent_config import load_agent_config
from agentpipe.config.contexts import resolve_contexts
from agentpipe.engines.base import ServerChecks, engine_class
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.config.collection import Collection
    from agentpipe.core.context import Context


def check_servers(
    collections: Iterable[Collection], environ: Mapping[str, str], *, start: bool
) -> None:
    """Check what the servers need; with ``start``, start each once, in the first context.

    Raises:
        ConfigError: With all problems, except those of the config itself, which others report.
    """
    problems: list[Problem] = []
    for collection in collections:
        try:
            config = load_agent_config(collection.config_file)
            engine = _engine(collection, config)
            contexts = resolve_contexts([collection], environ)[collection.name]
        except ConfigError:
            continue
        if isinstance(engine, ServerChecks):
            found = _problems(engine, contexts, start=start)
            problems += map(config.problem, found)
    if problems:
        raise ConfigError(problems)


def _engine(collection: Collection, config: AgentConfig) -> object:
    """The engine itself, even if its agents run in child processes; None for most kinds."""
    kind = engine_class(config, collection.engine)
    return kind(config) if hasattr(kind, "server_problems") else None


def _problems(engine: ServerChecks, contexts: Sequence[Context], *, start: bool) -> Iterator[str]:
    """Each problem once, with the numbers of its contexts unless all contexts have it."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, context in enumerate(contexts, 1):
        for problem in engine.server_problems(context, start=False):
            numbers[problem].append(number)
    for problem, found in numbers.items():
        everywhere = len(found) == len(contexts)
        where = "" if everywhere else f" (context {', '.join(map(str, found))})"
        yield f"{problem}{where}"
    if start:
        found_by_start = engine.server_problems(contexts[0], start=True)
        yield from (problem for problem in found_by_start if problem not in numbers)
