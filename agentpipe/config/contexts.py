"""Contexts of collections with their references resolved, for workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.core.account import account_of
from agentpipe.core.context import Context, names_in, resolve
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentpipe.config.collection import Collection, ContextSpec
    from agentpipe.core.account import Account
    from agentpipe.errors import Problem


def resolve_contexts(
    collections: Iterable[Collection], environ: Mapping[str, str]
) -> dict[str, tuple[Context, ...]]:
    """Resolve the contexts of each collection, by its name; only workers hold credentials.

    An agent's context is ``[agent.collection][agent.context_index or 0]``: a collection without
    contexts gets one empty context.

    Raises:
        ConfigError: Lists every unresolved reference of every context, and each invalid ``user``.
    """
    problems: list[Problem] = []
    resolved = {}
    for collection in collections:
        account = _account(collection, problems)
        contexts = [_context(spec, environ, account, problems) for spec in collection.contexts]
        resolved[collection.name] = tuple(contexts) or (Context(account=account),)
    if problems:
        raise ConfigError(problems)
    return resolved


def variables_in(collections: Iterable[Collection]) -> set[str]:
    """Return the variables that the collections' contexts refer to."""
    contexts = [context for each in collections for context in each.contexts]
    return {name for each in contexts for value in each.env.values() for name in names_in(value)}


def _account(collection: Collection, problems: list[Problem]) -> Account | None:
    if collection.user is None:
        return None
    try:
        return account_of(collection.user)
    except ConfigError as error:
        problems += [collection.problem("user", each.message) for each in error.problems]
        return None


def _context(
    spec: ContextSpec,
    environ: Mapping[str, str],
    account: Account | None,
    problems: list[Problem],
) -> Context:
    try:
        env = resolve(spec.env, environ, file=spec.file, lines=spec.env_lines)
    except ConfigError as error:
        problems += error.problems
        return Context()
    public = None if spec.public is None else frozenset(spec.public)
    return Context(env, spec.metadata, public, account)
