"""Schemas of collections, agent configs and benchmarks: their keys and valid values.

No message shows a value that can be a credential.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from marshmallow import EXCLUDE, Schema, ValidationError, fields, post_load, validates_schema

from agentpipe.config import values
from agentpipe.core.budgets import Budget
from agentpipe.core.did_you_mean import MISSPELT, did_you_mean, nearest
from agentpipe.core.rollout import MODES, RECORDS, TRY

if TYPE_CHECKING:
    from collections.abc import Callable

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

_WORDS: dict[str, Any] = {
    "required": "missing: add it",
    "null": "has no value: give it one, or remove the key",
}


class _Checked(fields.Field[Any]):
    """A field whose value is what ``check`` returns."""

    def __init__(self, check: Callable[[Any], Any], **kwargs: Any) -> None:
        super().__init__(**{"error_messages": _WORDS} | kwargs)
        self.check = check

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> Any:
        return self.check(value)


class _Strict(Schema):
    """Rejects unknown keys and suggests similar ones; lenient schemas reject only misspelt keys."""

    lenient: ClassVar[bool] = False
    error_messages = {"type": "expected keys with values (`key: value`)"}  # noqa: RUF012 - marshmallow's

    class Meta:
        unknown = EXCLUDE

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def refuse_unknown(self, _data: Any, original: Any, **_kwargs: Any) -> None:
        if not isinstance(original, dict):
            return
        known = list(self.fields)
        unknown = [name for name in original if name not in self.fields]
        if self.lenient:
            unknown = [name for name in unknown if nearest(name, known, MISSPELT)]
        if unknown:
            raise ValidationError(
                {name: [f"unknown key: {did_you_mean(name, sorted(known))}"] for name in unknown}
            )


class ContextEntry(_Strict):
    """One entry of a collection's ``context``."""

    env = _Checked(values.env)
    metadata = _Checked(values.mapping)
    public = _Checked(values.names)

    @validates_schema
    def refuse_unknown_public(self, data: Any, **_kwargs: Any) -> None:
        """Reject unknown names: a misspelt one would hide a variable that tasks may read."""
        env = data.get("env", {})
        for number, name in enumerate(data.get("public", ()), 1):
            if name not in env:  # Not shown: it can be a misplaced value.
                hint = did_you_mean(name, sorted(env), "add it there")
                raise ValidationError(f"entry {number} is not a name of env: {hint}", "public")

    concurrency = _Checked(values.whole(1))


class ScheduleEntry(_Strict):
    """One entry of a collection's ``schedule``."""

    cron = _Checked(values.cron, required=True)
    tasks = _Checked(values.text, required=True)
    timezone = _Checked(values.zone)
    missed = _Checked(values.one_of("run_once", "run_all", "skip"))
    name = _Checked(values.name)


class RecordEntry(_Strict):
    """A collection's ``record``."""

    tokens = _Checked(values.one_of(*RECORDS), load_default=TRY)
    mode = _Checked(values.one_of(*MODES))


class BudgetEntry(_Strict):
    """A collection's ``budget``."""

    usd = _Checked(values.cost)
    tokens = _Checked(values.whole(1))

    @validates_schema
    def refuse_empty(self, data: Any, **_kwargs: Any) -> None:
        """Reject a budget without a cap, which would stop nothing."""
        if not data:
            raise ValidationError("has no cap: give it usd, tokens or both")

    @post_load
    def make(self, data: Any, **_kwargs: Any) -> Budget:
        """Build the Budget."""
        return Budget(**data)


class CollectionSpec(_Strict):
    """A collection's ``spec``."""

    name = _Checked(values.name, required=True)
    config = _Checked(values.text, required=True)
    number = _Checked(values.whole(1))
    context = fields.List(
        fields.Nested(ContextEntry, error_messages=_WORDS),
        error_messages=_WORDS | {"invalid": "expected a list: begin each entry with `- env:`"},
    )
    max_queue_size = _Checked(values.whole(1))
    concurrency = _Checked(values.whole(1))
    time_limit = _Checked(values.seconds, attribute="time_limit_s")
    max_retries = _Checked(values.whole(0))
    max_crashes = _Checked(values.whole(1))
    breaker = _Checked(values.whole(0))
    max_cooldown_s = _Checked(values.seconds)
    budget = fields.Nested(BudgetEntry, error_messages=_WORDS)
    isolation = _Checked(values.one_of("coroutine", "thread", "process"))
    engine = _Checked(values.one_of("mcpuniverse"))
    strict_config = _Checked(values.flag)
    task_servers = _Checked(values.servers)
    evaluators = _Checked(values.modules)
    record = fields.Nested(RecordEntry, error_messages=_WORDS)
    on_limit = _Checked(values.nought)
    user = _Checked(values.user)
    policy = _Checked(values.name)
    schedule = fields.List(
        fields.Nested(ScheduleEntry, error_messages=_WORDS),
        error_messages=_WORDS | {"invalid": "expected a list: begin each entry with `- cron:`"},
    )


class CollectionDocument(_Strict):
    """A document of a collection file."""

    kind = _Checked(
        values.one_of(
            "collection",
            refused={**dict.fromkeys(AGENT_KINDS, NOT_A_COLLECTION), BENCHMARK: NOT_A_BENCHMARK},
        ),
        required=True,
    )
    spec = fields.Nested(CollectionSpec, required=True, error_messages=_WORDS)


class PolicyDocumentSpec(_Strict):
    """A policy's ``spec``."""

    name = _Checked(values.name, required=True)
    model = _Checked(values.local_model)
    endpoints = _Checked(values.endpoints, required=True)
    batch = _Checked(values.whole(1))
    max_staleness = _Checked(values.whole(0))
    hold_s = _Checked(values.seconds)

    @validates_schema
    def refuse_half(self, data: Any, **_kwargs: Any) -> None:
        """Require both keys: one without the other would limit nothing."""
        for given, other in (("batch", "max_staleness"), ("max_staleness", "batch")):
            if given in data and other not in data:
                raise ValidationError(f"missing beside {given}: add it", other)


class PolicyDocument(_Strict):
    """A policy in a collection file."""

    kind = _Checked(values.one_of(POLICY), required=True)
    spec = fields.Nested(PolicyDocumentSpec, required=True, error_messages=_WORDS)


class BenchmarkSpec(_Strict):
    """The ``spec`` of a benchmark; MCP-Universe's newer files have more keys."""

    lenient = True
    description = _Checked(values.any_text)
    agent = _Checked(values.text)
    tasks = fields.List(
        _Checked(values.text),
        required=True,
        validate=values.not_empty,
        error_messages=_WORDS | {"invalid": "expected a list: begin each path with `- `"},
    )


class BenchmarkDocument(_Strict):
    """A document that names an agent and its tasks."""

    kind = _Checked(values.any_text, required=True)
    spec = fields.Nested(BenchmarkSpec, required=True, error_messages=_WORDS)


class AgentFileSpec(_Strict):
    """The ``spec`` of an agent, llm or workflow."""

    name = _Checked(values.text, required=True)
    type = _Checked(values.text, required=True)
    config = _Checked(values.mapping)
    is_main = _Checked(values.flag, allow_none=True)


class AgentFileDocument(_Strict):
    """A document of an agent config."""

    kind = _Checked(
        values.one_of(*AGENT_KINDS, refused={"collection": NOT_AN_AGENT_CONFIG}), required=True
    )
    spec = fields.Nested(AgentFileSpec, required=True, error_messages=_WORDS)
