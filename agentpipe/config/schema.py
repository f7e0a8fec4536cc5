"""Schemas of collections, agent configs and benchmarks: their keys and the values of each.

No message shows what may be a credential.
"""

from __future__ import annotations

import re
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from marshmallow import EXCLUDE, Schema, ValidationError, fields, post_load, validates_schema

from agentpipe.config.yaml_source import kind_of
from agentpipe.core.budgets import Budget
from agentpipe.core.did_you_mean import MISSPELT, did_you_mean, nearest
from agentpipe.core.policy import MAX_ENDPOINTS, endpoint_problem
from agentpipe.core.rollout import MODES, RECORDS, TRY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_NUMBER = 1_000_000_000
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

_MAX_NAME_CHARS = 200
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DIGITS = re.compile(r"\s*[+-]?[0-9]{1,20}\s*")
_WORDS: dict[str, Any] = {
    "required": "missing: add it",
    "null": "has no value: give it one, or remove the key",
}


def shown(value: Any) -> str:
    """A value for a message; never to be used for what may be a credential."""
    if isinstance(value, (bool, int, float)):
        return str(value).lower()[:40]
    return repr(value[:40]) if isinstance(value, str) else kind_of(value)


# Checks of a field's value.


def _text(value: Any) -> str:
    _any_text(value)
    if not value.strip() or "\0" in value:
        raise ValidationError("expected a string that is not empty and has no NUL")
    return str(value)


def _any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValidationError(f"expected a string, got {shown(value)}: {_remedy(value, 'it')}")
    return value


def _remedy(value: Any, what: str) -> str:
    return "write one value" if isinstance(value, (list, dict)) else f"put {what} in quotes"


def _not_empty(value: list[Any]) -> None:
    if not value:
        raise ValidationError("the list is empty: add an entry")


def _name(value: Any) -> str:
    name = _text(value)
    if not _NAME.fullmatch(name):
        rule = "use letters, digits, _ and -, with a letter or _ first"
        raise ValidationError(f"invalid name {shown(name)}: {rule}")
    if len(name) > _MAX_NAME_CHARS:
        raise ValidationError(f"longer than {_MAX_NAME_CHARS} characters: shorten it")
    return name


def _one_of(
    *choices: str, refused: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Any], str]:
    """A check for one of ``choices``; ``refused`` has other values with the reason."""

    def check(value: Any) -> str:
        text = _text(value)
        if text in refused:
            raise ValidationError(refused[text])
        if text not in choices:
            raise ValidationError(
                f"unknown value {shown(text)}: {did_you_mean(text, sorted(choices))}"
            )
        return text

    return check


def _whole(minimum: int) -> Callable[[Any], int]:
    """A check for an integer; MCP-Universe's files may have it quoted or as 3.0."""

    def check(value: Any) -> int:
        number = value
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            number = int(value)
        if isinstance(value, float) and value.is_integer():
            number = int(value)
        whole = isinstance(number, int) and not isinstance(number, bool)
        if not whole or not minimum <= number <= MAX_NUMBER:
            expected = f"an integer from {minimum} to {MAX_NUMBER:,}"
            raise ValidationError(f"expected {expected}, got {shown(value)}")
        return int(number)

    return check


def _seconds(value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= MAX_NUMBER:  # NaN is in no range
        expected = f"seconds, a number above 0 and up to {MAX_NUMBER:,}"
        raise ValidationError(f"expected {expected}, got {shown(value)}")
    return float(value)


def _cost(value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= MAX_NUMBER:
        expected = f"USD, a number above 0 and up to {MAX_NUMBER:,}"
        raise ValidationError(f"expected {expected}, got {shown(value)}")
    return float(value)


def _nought(value: Any) -> float:
    """Above 0 a run would be paid for doing nothing."""
    if isinstance(value, bool) or value != 0:
        raise ValidationError(f"expected 0, got {shown(value)}: without the key there is no reward")
    return 0.0


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValidationError(f"expected true or false, got {shown(value)}")
    return value


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValidationError(f"expected keys with values (`key: value`), got {kind_of(value)}")
    return value


def _env(value: Any) -> dict[str, str]:
    """No message shows a value, nor a name that may contain one."""
    env = _mapping(value)
    faults = {name: fault for name, item in env.items() if (fault := _env_fault(name, item))}
    if faults:
        raise ValidationError({name: [fault] for name, fault in faults.items()})
    return env


def _env_fault(name: str, value: Any) -> str:
    if not _ENV_NAME.fullmatch(name):
        rule = "letters, digits and _, no digit first, and a space after the colon"
        return f"invalid name for env: use {rule}"
    if not isinstance(value, str):
        return f"expected a string, got {kind_of(value)}: {_remedy(value, 'the value')}"
    return "contains a NUL character: remove it" if "\0" in value else ""


def _servers(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise ValidationError("expected a list of names of MCP servers: [NAME, ...]")
    return tuple(value)


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValidationError("expected a list of names: [NAME, ...]")
    return tuple(value)


def _modules(value: Any) -> tuple[str, ...]:
    """Modules whose functions evaluators may name; a part of one is not meant."""
    modules = _names(value)
    for name in modules:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValidationError(f"{shown(name)} is not a module: write its dotted name")
        if name.partition(".")[0] in sys.stdlib_module_names:
            raise ValidationError(
                f"{shown(name)} is of Python's standard library: name a module of yours"
            )
    return modules


def _endpoints(value: Any) -> tuple[str, ...]:
    """No message shows a URL: it may hold a password."""
    if not isinstance(value, list) or not value:
        raise ValidationError("expected a list: begin each URL with `- `")
    if len(value) > MAX_ENDPOINTS:
        raise ValidationError(f"more than {MAX_ENDPOINTS:,} endpoints")
    for number, url in enumerate(value, 1):
        if problem := endpoint_problem(url):
            raise ValidationError(f"entry {number}: {problem}")
    return tuple(value)


def _local_model(value: Any) -> str:
    prefix, colon, name = _text(value).partition(":")
    if prefix != "local" or not colon or not name:
        raise ValidationError('write `local:` and the name that its servers know: "local:Qwen"')
    return name


def _user(value: Any) -> str:
    """A name, or a number, which YAML may have read as one."""
    return str(value) if type(value) is int else _text(value)


def _zone(value: Any) -> str:
    from agentpipe.config.cron import zone_of

    return _readable(value, zone_of)


def _cron(value: Any) -> str:
    from agentpipe.config.cron import Cron

    return _readable(value, Cron)


def _readable(value: Any, read: Callable[[str], object]) -> str:
    """A string that ``read`` accepts without a ValueError."""
    text = _text(value)
    try:
        read(text)
    except ValueError as error:
        raise ValidationError(str(error)) from error
    return text


# The fields.


class _Checked(fields.Field[Any]):
    """A field whose value is what ``check`` returns."""

    def __init__(self, check: Callable[[Any], Any], **kwargs: Any) -> None:
        super().__init__(**{"error_messages": _WORDS} | kwargs)
        self.check = check

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> Any:
        return self.check(value)


class _Strict(Schema):
    """Refuses unknown keys and suggests a similar one; a lenient one refuses only misspelt keys."""

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

    env = _Checked(_env)
    metadata = _Checked(_mapping)
    public = _Checked(_names)

    @validates_schema
    def refuse_unknown_public(self, data: Any, **_kwargs: Any) -> None:
        """A misspelt name would hide a variable that tasks may read."""
        env = data.get("env", {})
        for number, name in enumerate(data.get("public", ()), 1):
            if name not in env:  # It may be a value that is in the wrong place.
                hint = did_you_mean(name, sorted(env), "add it there")
                raise ValidationError(f"entry {number} is not a name of env: {hint}", "public")

    concurrency = _Checked(_whole(1))


class ScheduleEntry(_Strict):
    """One entry of a collection's ``schedule``."""

    cron = _Checked(_cron, required=True)
    tasks = _Checked(_text, required=True)
    timezone = _Checked(_zone)
    missed = _Checked(_one_of("run_once", "run_all", "skip"))
    name = _Checked(_name)


class RecordEntry(_Strict):
    """A collection's ``record``."""

    tokens = _Checked(_one_of(*RECORDS), load_default=TRY)
    mode = _Checked(_one_of(*MODES))


class BudgetEntry(_Strict):
    """A collection's ``budget``."""

    usd = _Checked(_cost)
    tokens = _Checked(_whole(1))

    @validates_schema
    def refuse_empty(self, data: Any, **_kwargs: Any) -> None:
        """One without a cap would stop nothing."""
        if not data:
            raise ValidationError("has no cap: give it usd, tokens or both")

    @post_load
    def make(self, data: Any, **_kwargs: Any) -> Budget:
        """As an object."""
        return Budget(**data)


class CollectionSpec(_Strict):
    """A collection's ``spec``."""

    name = _Checked(_name, required=True)
    config = _Checked(_text, required=True)
    number = _Checked(_whole(1))
    context = fields.List(
        fields.Nested(ContextEntry, error_messages=_WORDS),
        error_messages=_WORDS | {"invalid": "expected a list: begin each entry with `- env:`"},
    )
    max_queue_size = _Checked(_whole(1))
    concurrency = _Checked(_whole(1))
    time_limit = _Checked(_seconds, attribute="time_limit_s")
    max_retries = _Checked(_whole(0))
    max_crashes = _Checked(_whole(1))
    breaker = _Checked(_whole(0))
    max_cooldown_s = _Checked(_seconds)
    budget = fields.Nested(BudgetEntry, error_messages=_WORDS)
    isolation = _Checked(_one_of("coroutine", "thread", "process"))
    engine = _Checked(_one_of("mcpuniverse"))
    strict_config = _Checked(_flag)
    task_servers = _Checked(_servers)
    evaluators = _Checked(_modules)
    record = fields.Nested(RecordEntry, error_messages=_WORDS)
    on_limit = _Checked(_nought)
    user = _Checked(_user)
    policy = _Checked(_name)
    schedule = fields.List(
        fields.Nested(ScheduleEntry, error_messages=_WORDS),
        error_messages=_WORDS | {"invalid": "expected a list: begin each entry with `- cron:`"},
    )


class CollectionDocument(_Strict):
    """A document of a collection file."""

    kind = _Checked(
        _one_of(
            "collection",
            refused={**dict.fromkeys(AGENT_KINDS, NOT_A_COLLECTION), BENCHMARK: NOT_A_BENCHMARK},
        ),
        required=True,
    )
    spec = fields.Nested(CollectionSpec, required=True, error_messages=_WORDS)


class PolicyDocumentSpec(_Strict):
    """A policy's ``spec``."""

    name = _Checked(_name, required=True)
    model = _Checked(_local_model)
    endpoints = _Checked(_endpoints, required=True)
    batch = _Checked(_whole(1))
    max_staleness = _Checked(_whole(0))
    hold_s = _Checked(_seconds)

    @validates_schema
    def refuse_half(self, data: Any, **_kwargs: Any) -> None:
        """One without the other would limit nothing."""
        for given, other in (("batch", "max_staleness"), ("max_staleness", "batch")):
            if given in data and other not in data:
                raise ValidationError(f"missing beside {given}: add it", other)


class PolicyDocument(_Strict):
    """A policy in a collection file."""

    kind = _Checked(_one_of(POLICY), required=True)
    spec = fields.Nested(PolicyDocumentSpec, required=True, error_messages=_WORDS)


class BenchmarkSpec(_Strict):
    """The ``spec`` of a benchmark; MCP-Universe's newer files have more keys."""

    lenient = True
    description = _Checked(_any_text)
    agent = _Checked(_text)
    tasks = fields.List(
        _Checked(_text),
        required=True,
        validate=_not_empty,
        error_messages=_WORDS | {"invalid": "expected a list: begin each path with `- `"},
    )


class BenchmarkDocument(_Strict):
    """A document that names an agent and its tasks."""

    kind = _Checked(_any_text, required=True)
    spec = fields.Nested(BenchmarkSpec, required=True, error_messages=_WORDS)


class AgentFileSpec(_Strict):
    """The ``spec`` of an agent, llm or workflow."""

    name = _Checked(_text, required=True)
    type = _Checked(_text, required=True)
    config = _Checked(_mapping)
    is_main = _Checked(_flag, allow_none=True)


class AgentFileDocument(_Strict):
    """A document of an agent config."""

    kind = _Checked(
        _one_of(*AGENT_KINDS, refused={"collection": NOT_AN_AGENT_CONFIG}), required=True
    )
    spec = fields.Nested(AgentFileSpec, required=True, error_messages=_WORDS)
