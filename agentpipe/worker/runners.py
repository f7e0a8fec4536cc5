"""The runners of a process: an agent, its judges and its limits for each queue.

They need neither a store nor Dramatiq's worker: commands that only check a collection make them,
too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.config.agent_config import load_agent_config
from agentpipe.config.contexts import resolve_contexts
from agentpipe.config.mcp_universe import NATIVE_ENGINE, is_theirs
from agentpipe.core import masking
from agentpipe.core.context import NO_CONTEXT
from agentpipe.core.rollout import REQUIRE
from agentpipe.engines.base import engine_class, has_processes, open_engine
from agentpipe.engines.hybrid import HybridEngine
from agentpipe.engines.policies import LivePolicies
from agentpipe.engines.prices import refuse_unpriced
from agentpipe.errors import ConfigError
from agentpipe.worker.running.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.config.collection import Collection
    from agentpipe.core.context import Context
    from agentpipe.engines.base import Engine
    from agentpipe.engines.process.judges import Judges
    from agentpipe.errors import Problem


def make_runners(
    collections: Sequence[Collection],
    environ: Mapping[str, str],
    policies: LivePolicies | None = None,
) -> dict[str, Runner]:
    """A Runner for each agent, by queue; agents are built with their first task.

    Their secrets are masked from then on in everything that leaves this process. Without
    ``policies``, policies are as the files declare them, for a process without a store.

    Raises:
        ConfigError: Listing everything wrong with the agents and contexts.
    """
    contexts, engines = _contexts_and_engines(collections, environ)
    judges = {each.name: _judges(each, contexts[each.name]) for each in collections}
    policies = policies or LivePolicies(collections, alone=True)
    runners = {
        spec.queue: Runner(
            spec.queue,
            each,
            engines[each.name],
            contexts[each.name][spec.context_index or 0],
            judges[each.name][spec.context_index or 0],
            policy=policies.of(each),
        )
        for each in collections
        for spec in each.agents
    }
    # Also mask credentials of this environment that agents fall back on.
    masking.add(secret for runner in runners.values() for secret in runner.secrets)
    return runners


def _contexts_and_engines(
    collections: Sequence[Collection], environ: Mapping[str, str]
) -> tuple[Mapping[str, Sequence[Context]], Mapping[str, Engine]]:
    """Contexts and engine of each collection, by name; reports all mistakes at once."""
    problems: list[Problem] = []
    contexts: Mapping[str, Sequence[Context]] = {}
    engines: dict[str, Engine] = {}
    try:
        contexts = resolve_contexts(collections, environ)
    except ConfigError as error:
        problems += error.problems
    for collection in collections:
        if collection.user is not None and not contexts:
            continue  # Nothing of it may run as the worker's own user.
        try:
            context = contexts[collection.name][0] if contexts else NO_CONTEXT
            engines[collection.name] = _engine(collection, context)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return contexts, engines


def _judges(
    collection: Collection, contexts: Sequence[Context]
) -> Sequence[Judges] | Sequence[None]:
    """The judges of each context; None for collections that the worker evaluates itself."""
    if collection.isolation != "process" and collection.user is None:
        return [None] * len(contexts)
    from agentpipe.engines.process.judges import Judges

    return [Judges(collection.functions, context) for context in contexts]


def _engine(collection: Collection, context: Context) -> Engine:
    config = load_agent_config(collection.config_file)
    name = collection.engine
    if name is not None and not is_theirs(config):
        message = f"an agent of type {config.type!r} has its own: remove the key"
        raise ConfigError(collection.problem("engine", message))
    _refuse_unrecorded(collection, config)
    _refuse_unled(collection, config)
    refuse_unpriced(config, name, collection.budget)
    has_own = has_processes(config, name)
    if collection.isolation == "process" and not has_own:
        from agentpipe.engines.process.engine import ProcessEngine

        record = {"tokens": collection.record_tokens, "mode": collection.record_mode}
        return ProcessEngine(config, context, record=record)
    _refuse_user(collection, config, has_own=has_own)
    engine = open_engine(config, name)
    return HybridEngine(config, engine) if is_theirs(config) and not has_own else engine


def _refuse_unrecorded(collection: Collection, config: AgentConfig) -> None:
    """Refuse agents that record no token ids: each run would cost money, then fail."""
    kind = engine_class(config, collection.engine)
    if collection.record_tokens != REQUIRE:
        return
    message = ""
    if not getattr(kind, "records_tokens", False):
        message = f"agents of type {config.type!r} give no token ids: remove the key"
    elif (unrecorded := getattr(kind, "unrecorded_model", None)) and (model := unrecorded(config)):
        message = f"an llm of type {model!r} gives no token ids: remove the key"
    if message:
        raise ConfigError(collection.problem("record", message))


def _refuse_unled(collection: Collection, config: AgentConfig) -> None:
    """Refuse agents that would call their own model instead of the policy."""
    if collection.policy is None:
        return
    kind, message = engine_class(config, collection.engine), ""
    if not getattr(kind, "records_tokens", False):
        message = f"agents of type {config.type!r} follow no policy: remove the key"
    elif config.type == NATIVE_ENGINE and collection.isolation == "process":
        message = "agents of type 'llm' follow one in the worker: remove `isolation: process`"
    if message:
        raise ConfigError(collection.problem("policy", message))


def _refuse_user(collection: Collection, config: AgentConfig, *, has_own: bool) -> None:
    """Refuse ``user`` for agents whose code is not ours; llm agents are, except MCP servers."""
    is_llm = config.type == NATIVE_ENGINE or is_theirs(config)
    if collection.user is not None and not (has_own or is_llm):
        message = "agents of this type run in the worker itself: set `isolation: process`"
        raise ConfigError(collection.problem("user", message))
