"""Checks for values in users' YAML: each returns the value, or raises with the remedy.

No message shows a value that can be a credential.
"""

from __future__ import annotations

import re
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from marshmallow import ValidationError

from agentpipe.config.yaml_source import kind_of
from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.core.numbers import is_integer, is_number
from agentpipe.core.policy import MAX_ENDPOINTS, endpoint_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_NUMBER = 1_000_000_000

_MAX_NAME_CHARS = 200
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DIGITS = re.compile(r"\s*[+-]?[0-9]{1,20}\s*")


def shown(value: Any) -> str:
    """Format a value for a message; never use it for a possible credential."""
    if isinstance(value, (bool, int, float)):
        return str(value).lower()[:40]
    return repr(value[:40]) if isinstance(value, str) else kind_of(value)


def text(value: Any) -> str:
    """Check for a non-empty string without NUL."""
    any_text(value)
    if not value.strip() or "\0" in value:
        raise ValidationError("expected a string that is not empty and has no NUL")
    return str(value)


def any_text(value: Any) -> str:
    """Check for a string, which can be empty."""
    if not isinstance(value, str):
        raise ValidationError(f"expected a string, got {shown(value)}: {_remedy(value, 'it')}")
    return value


def _remedy(value: Any, what: str) -> str:
    return "write one value" if isinstance(value, (list, dict)) else f"put {what} in quotes"


def not_empty(value: list[Any]) -> None:
    """Reject an empty list."""
    if not value:
        raise ValidationError("the list is empty: add an entry")


def name(value: Any) -> str:
    """Check the name of a collection."""
    given = text(value)
    if not _NAME.fullmatch(given):
        rule = "use letters, digits, _ and -, with a letter or _ first"
        raise ValidationError(f"invalid name {shown(given)}: {rule}")
    if len(given) > _MAX_NAME_CHARS:
        raise ValidationError(f"longer than {_MAX_NAME_CHARS} characters: shorten it")
    return given


def one_of(
    *choices: str, refused: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Any], str]:
    """Return a check for one of ``choices``; ``refused`` maps other values to error messages."""

    def check(value: Any) -> str:
        given = text(value)
        if given in refused:
            raise ValidationError(refused[given])
        if given not in choices:
            raise ValidationError(
                f"unknown value {shown(given)}: {did_you_mean(given, sorted(choices))}"
            )
        return given

    return check


def whole(minimum: int) -> Callable[[Any], int]:
    """Return a check for an integer; MCP-Universe's files can have it quoted or as 3.0."""

    def check(value: Any) -> int:
        number = value
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            number = int(value)
        if isinstance(value, float) and value.is_integer():
            number = int(value)
        if not is_integer(number) or not minimum <= number <= MAX_NUMBER:
            expected = f"an integer from {minimum} to {MAX_NUMBER:,}"
            raise ValidationError(f"expected {expected}, got {shown(value)}")
        return int(number)

    return check


def _above_zero(unit: str) -> Callable[[Any], float]:
    """Return a check for a positive amount of this unit."""

    def check(value: Any) -> float:
        if not is_number(value) or not 0 < value <= MAX_NUMBER:  # NaN is outside every range
            expected = f"{unit}, a number above 0 and up to {MAX_NUMBER:,}"
            raise ValidationError(f"expected {expected}, got {shown(value)}")
        return float(value)

    return check


seconds, cost = _above_zero("seconds"), _above_zero("USD")


def nought(value: Any) -> float:
    """Check for 0: a higher value would reward a run for doing nothing."""
    if isinstance(value, bool) or value != 0:
        raise ValidationError(f"expected 0, got {shown(value)}: without the key there is no reward")
    return 0.0


def flag(value: Any) -> bool:
    """Check for true or false."""
    if not isinstance(value, bool):
        raise ValidationError(f"expected true or false, got {shown(value)}")
    return value


def mapping(value: Any) -> dict[str, Any]:
    """Check for keys with values."""
    if not isinstance(value, dict):
        raise ValidationError(f"expected keys with values (`key: value`), got {kind_of(value)}")
    return value


def env(value: Any) -> dict[str, str]:
    """Check ``env``; no message shows a value, nor a name that could contain one."""
    given = mapping(value)
    faults = {key: fault for key, item in given.items() if (fault := _env_fault(key, item))}
    if faults:
        raise ValidationError({key: [fault] for key, fault in faults.items()})
    return given


def _env_fault(key: str, value: Any) -> str:
    if not _ENV_NAME.fullmatch(key):
        rule = "letters, digits and _, no digit first, and a space after the colon"
        return f"invalid name for env: use {rule}"
    if not isinstance(value, str):
        return f"expected a string, got {kind_of(value)}: {_remedy(value, 'the value')}"
    return "contains a NUL character: remove it" if "\0" in value else ""


def servers(value: Any) -> tuple[str, ...]:
    """Check for a list of names of MCP servers."""
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise ValidationError("expected a list of names of MCP servers: [NAME, ...]")
    return tuple(value)


def names(value: Any) -> tuple[str, ...]:
    """Check for a list of names."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValidationError("expected a list of names: [NAME, ...]")
    return tuple(value)


def modules(value: Any) -> tuple[str, ...]:
    """Check for modules whose functions evaluators can use; no attributes of modules."""
    given = names(value)
    for each in given:
        if not all(part.isidentifier() for part in each.split(".")):
            raise ValidationError(f"{shown(each)} is not a module: write its dotted name")
        if each.partition(".")[0] in sys.stdlib_module_names:
            raise ValidationError(
                f"{shown(each)} is of Python's standard library: name a module of yours"
            )
    return given


def endpoints(value: Any) -> tuple[str, ...]:
    """Check the endpoints of a policy; no message shows a URL, since it can contain a password."""
    if not isinstance(value, list) or not value:
        raise ValidationError("expected a list: begin each URL with `- `")
    if len(value) > MAX_ENDPOINTS:
        raise ValidationError(f"more than {MAX_ENDPOINTS:,} endpoints")
    for number, url in enumerate(value, 1):
        if problem := endpoint_problem(url):
            raise ValidationError(f"entry {number}: {problem}")
    return tuple(value)


def local_model(value: Any) -> str:
    """Return the model that a policy serves, without its ``local:`` prefix."""
    prefix, colon, model = text(value).partition(":")
    if prefix != "local" or not colon or not model:
        raise ValidationError('write `local:` and the name that its servers know: "local:Qwen"')
    return model


def user(value: Any) -> str:
    """Check for a user name or uid, which YAML can have parsed as an integer."""
    return str(value) if is_integer(value) else text(value)


def zone(value: Any) -> str:
    """Check for the name of a time zone."""
    from agentpipe.config.cron import zone_of

    return _readable(value, zone_of)


def cron(value: Any) -> str:
    """Check for a cron line."""
    from agentpipe.config.cron import Cron

    return _readable(value, Cron)


def _readable(value: Any, read: Callable[[str], object]) -> str:
    """Check for a string that ``read`` accepts without a ValueError."""
    given = text(value)
    try:
        read(given)
    except ValueError as error:
        raise ValidationError(str(error)) from error
    return given
