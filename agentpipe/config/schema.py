"""Schemas of collections, agent configs and benchmarks: their keys, and what each key's value is.

No message shows what may be a credential.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.config import values
from agentpipe.config.validation import Key, Schema, filled, list_of
from agentpipe.core.budgets import Budget
from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.core.rollout import MODES, RECORDS, TRY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.config.validation import Mistake

AGENT_KINDS = ("agent", "llm", "workflow")
NOT_A_COLLECTION = "this is an agent config: give the collection file that names it"
BENCHMARK = "benchmark"
POLICY = "policy"
NOT_A_BENCHMARK = "this is a benchmark: give its file to `agentpipe send` with --file"
NO_KIND = (
    f"missing: write `kind: collection`, or {', '.join(AGENT_KINDS)} or {BENCHMARK}, "
    "and the other keys below `spec:`"
)
NOT_AN_AGENT_CONFIG = "this is a collection: give the agent config that it names"


def _unknown_public(entry: dict[str, Any]) -> Iterator[Mistake]:
    """A misspelt name would hide a variable that tasks may read."""
    env = entry.get("env", {})
    for number, name in enumerate(entry.get("public", ()), 1):
        if name not in env:  # It may be a value that is in the wrong place.
            hint = did_you_mean(name, sorted(env), "add it there")
            yield ("public",), f"entry {number} is not a name of env: {hint}"
            return


# One entry of a collection's `context`.
CONTEXT_ENTRY = Schema(
    {
        "env": Key(values.env),
        "metadata": Key(values.mapping),
        "public": Key(values.names),
        "concurrency": Key(values.whole(1)),
    },
    _unknown_public,
)
# One entry of a collection's `schedule`.
SCHEDULE_ENTRY = Schema(
    {
        "cron": Key(values.cron, required=True),
        "tasks": Key(values.text, required=True),
        "timezone": Key(values.zone),
        "missed": Key(values.one_of("run_once", "run_all", "skip")),
        "name": Key(values.name),
    }
)
_RECORD = Schema(
    {
        "tokens": Key(values.one_of(*RECORDS), default=TRY),
        "mode": Key(values.one_of(*MODES)),
    }
)


def _no_cap(budget: dict[str, Any]) -> Iterator[Mistake]:
    """One without a cap would stop nothing."""
    if not budget:
        yield (), "has no cap: give it usd, tokens or both"


_BUDGET = Schema(
    {"usd": Key(values.cost), "tokens": Key(values.whole(1))},
    _no_cap,
    make=lambda caps: Budget(**caps),
)
COLLECTION_SPEC = Schema(
    {
        "name": Key(values.name, required=True),
        "config": Key(values.text, required=True),
        "number": Key(values.whole(1)),
        "context": Key(list_of(CONTEXT_ENTRY, "entry with `- env:`")),
        "max_queue_size": Key(values.whole(1)),
        "concurrency": Key(values.whole(1)),
        "time_limit": Key(values.seconds, attribute="time_limit_s"),
        "max_retries": Key(values.whole(0)),
        "max_crashes": Key(values.whole(1)),
        "breaker": Key(values.whole(0)),
        "max_cooldown_s": Key(values.seconds),
        "budget": Key(_BUDGET),
        "isolation": Key(values.one_of("coroutine", "thread", "process")),
        "engine": Key(values.one_of("mcpuniverse")),
        "strict_config": Key(values.flag),
        "task_servers": Key(values.servers),
        "evaluators": Key(values.modules),
        "record": Key(_RECORD),
        "on_limit": Key(values.nought),
        "user": Key(values.user),
        "policy": Key(values.name),
        "schedule": Key(list_of(SCHEDULE_ENTRY, "entry with `- cron:`")),
    }
)
_COLLECTION_KIND = values.one_of(
    "collection",
    refused={**dict.fromkeys(AGENT_KINDS, NOT_A_COLLECTION), BENCHMARK: NOT_A_BENCHMARK},
)
COLLECTION_DOCUMENT = Schema(
    {
        "kind": Key(_COLLECTION_KIND, required=True),
        "spec": Key(COLLECTION_SPEC, required=True),
    }
)


def _half(spec: dict[str, Any]) -> Iterator[Mistake]:
    """One without the other would limit nothing."""
    for given, other in (("batch", "max_staleness"), ("max_staleness", "batch")):
        if given in spec and other not in spec:
            yield (other,), f"missing beside {given}: add it"


POLICY_SPEC = Schema(
    {
        "name": Key(values.name, required=True),
        "model": Key(values.local_model),
        "endpoints": Key(values.endpoints, required=True),
        "batch": Key(values.whole(1)),
        "max_staleness": Key(values.whole(0)),
        "hold_s": Key(values.seconds),
    },
    _half,
)
# A policy in a collection file.
POLICY_DOCUMENT = Schema(
    {
        "kind": Key(values.one_of(POLICY), required=True),
        "spec": Key(POLICY_SPEC, required=True),
    }
)
# MCP-Universe's newer files have more keys.
_BENCHMARK_SPEC = Schema(
    {
        "description": Key(values.any_text),
        "agent": Key(values.text),
        "tasks": Key(filled(list_of(values.text, "path with `- `")), required=True),
    },
    lenient=True,
)
# A document that names an agent and its tasks.
BENCHMARK_DOCUMENT = Schema(
    {
        "kind": Key(values.any_text, required=True),
        "spec": Key(_BENCHMARK_SPEC, required=True),
    }
)
# The `spec` of an agent, llm or workflow.
AGENT_SPEC = Schema(
    {
        "name": Key(values.text, required=True),
        "type": Key(values.text, required=True),
        "config": Key(values.mapping),
        "is_main": Key(values.flag, allows_none=True),
    }
)
_AGENT_KIND = values.one_of(*AGENT_KINDS, refused={"collection": NOT_AN_AGENT_CONFIG})
AGENT_DOCUMENT = Schema(
    {"kind": Key(_AGENT_KIND, required=True), "spec": Key(AGENT_SPEC, required=True)}
)
