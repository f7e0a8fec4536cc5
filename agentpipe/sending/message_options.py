"""Message options: the valid options of actors and messages, as in Dramatiq.

An option that would have no effect is refused where it is given.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import dramatiq

from agentpipe.core.did_you_mean import nearest
from agentpipe.core.numbers import is_integer, is_number
from agentpipe.core.task_fields import kind_of
from agentpipe.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    AnyMessage = dramatiq.Message[Any] | dramatiq.MessageProxy


def _is_whole(value: Any, least: int = 0) -> bool:
    return is_integer(value) and least <= value < 2**63


def _is_ms(value: Any, least: float = 0) -> bool:
    return is_number(value) and least <= value < math.inf


def _is_delay(value: Any) -> bool:
    return _is_ms(value, -math.inf) and value <= _LONGEST_DELAY_MS


def _is_limit(value: Any) -> bool:
    return value == math.inf or (_is_ms(value) and value > 0)


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _are_errors(value: Any) -> bool:
    return _is_error(value) or (isinstance(value, tuple) and all(map(_is_error, value)))


def _is_message(value: Any) -> bool:
    named = isinstance(value, dict) and isinstance(value.get("actor_name"), str)
    return named and isinstance(value.get("options"), dict)


def _or_none(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or accepts(value)


_Check = tuple[str, "Callable[[Any], bool]"]
_MS: _Check = ("milliseconds", _is_ms)
_LONGEST_DELAY_MS = 10**12
_DELAY: _Check = ("milliseconds, at most 10^12", _or_none(_is_delay))
_ACTOR: _Check = (
    "an actor or its name",
    _or_none(lambda value: isinstance(value, (str, dramatiq.Actor))),
)
_FLAG: _Check = ("True or False", _or_none(lambda value: isinstance(value, bool)))
_POSITIVE: _Check = ("a whole number of at least 1", lambda value: _is_whole(value, 1))

# Options of a message; most of them are also valid for its actor.
_OF_BOTH: dict[str, _Check] = {
    "max_retries": ("a whole number, or None for no limit", _or_none(_is_whole)),
    "min_backoff": _MS,
    "max_backoff": _MS,
    "time_limit": ("milliseconds above 0", _or_none(_is_limit)),
    "max_age": ("milliseconds", _or_none(_is_ms)),
    "on_success": _ACTOR,
    "on_failure": _ACTOR,
    "on_retry_exhausted": _ACTOR,
    "pipe_ignore": _FLAG,
}
OF_ACTORS: dict[str, _Check] = {
    **_OF_BOTH,
    "retry_when": ("a function of the retries and the exception", _or_none(callable)),
    "throws": ("an exception class or a tuple of them", _or_none(_are_errors)),
    "max_queue_size": _POSITIVE,
    "concurrency": _POSITIVE,
}
# What is sent after a message, besides the next one of its pipeline.
CALLBACKS = ("on_success", "on_failure", "on_retry_exhausted")
_OF_PIPES: dict[str, _Check] = {
    "pipe_target": ("a message", _or_none(_is_message)),
    "delay": _DELAY,
    "group_completion_uuid": ("a string", lambda value: isinstance(value, str)),
    "group_completion_callbacks": (
        "a list of messages",
        lambda value: isinstance(value, list) and all(map(_is_message, value)),
    ),
}
OF_MESSAGES: dict[str, _Check] = {
    **_OF_BOTH,
    **_OF_PIPES,
    "priority": ("a whole number", lambda value: _is_whole(value, -(2**63))),
    "retries": ("a whole number", _is_whole),  # In a copy that a user sends.
}
# These hold callables, so only an actor can have them: a message is JSON.
_ACTORS_ONLY = OF_ACTORS.keys() - OF_MESSAGES.keys()
# Where an agent's collection or task sets these instead.
_OF_AGENTS = {
    "max_retries": "max_retries of its collection",
    "min_backoff": "AGENTPIPE_RETRY_DELAY_S",
    "max_backoff": "AGENTPIPE_RETRY_DELAY_S",
    "retry_when": "max_retries of its collection",
    "throws": "max_retries of its collection",
    "on_retry_exhausted": "on_failure",
    "time_limit": "time_limit of its collection, in seconds",
    "max_age": "deadline of the task",
    "max_queue_size": "max_queue_size of its collection",
    "concurrency": "concurrency of its collection",
}


def check_actor(actor: dramatiq.Actor[..., Any]) -> None:
    """Check the options of a plain actor when it is declared.

    Raises:
        OptionError: Naming the actor, the option, and what is right.
    """
    _refuse_wrong(f"actor {actor.actor_name}", actor.options, OF_ACTORS)
    _refuse_wrong(f"actor {actor.actor_name}", {"priority": actor.priority}, OF_MESSAGES)


def check_message(
    message: AnyMessage, middleware_options: Iterable[str], *, is_agent: bool
) -> None:
    """Check the options of a message before it is stored.

    ``middleware_options`` are the options that the broker's middleware knows.

    Raises:
        OptionError: Naming the actor, the option, and what is right.
    """
    place, options = f"message to {message.actor_name}", message.options
    known = OF_MESSAGES.keys() | (set(middleware_options) - _ACTORS_ONLY)
    for name in options:
        if is_agent and name in _OF_AGENTS:
            raise OptionError(f"{place}: {name} is not for agents: use {_OF_AGENTS[name]}")
        if name in _ACTORS_ONLY:
            raise OptionError(f"{place}: {name} belongs to the actor: give it in its decorator")
        if name not in known:
            raise OptionError(f"{place}: unknown option {name!r}: {_remedy(name, known)}")
    _refuse_wrong(place, options, OF_MESSAGES)


def check_delay(message: AnyMessage, delay: Any) -> None:
    """Check a message's delay in milliseconds; a negative delay means at once.

    Raises:
        OptionError: The delay is not a valid number.
    """
    _refuse_wrong(f"message to {message.actor_name}", {"delay": delay}, {"delay": _DELAY})


def _remedy(name: str, known: Iterable[str]) -> str:
    if near := nearest(name, known):
        return f"did you mean {near!r}?"
    return "an option of a middleware needs that middleware on this broker"


def following(message: AnyMessage) -> list[dramatiq.Message[Any]]:
    """The messages that a message's options send after it."""
    piped = message.options.get("pipe_target")
    callbacks = message.options.get("group_completion_callbacks") or []
    return [dramatiq.Message(**each) for each in [*([piped] if piped else []), *callbacks]]


def name_callbacks(message: AnyMessage) -> None:
    """Replace actors by their names in a message's options, and in those of what follows it.

    Dramatiq does so for two of the options that take an actor.
    """
    message.options.update(named(message.options))
    for each in following(message):
        name_callbacks(each)


def _refuse_wrong(place: str, options: Mapping[str, Any], checks: Mapping[str, _Check]) -> None:
    for name, value in options.items():
        expected, accepts = checks.get(name, ("", lambda _: True))
        if not accepts(value):
            raise OptionError(f"{place}: {name}: expected {expected}, got {kind_of(value)}")


def named(options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with actors replaced by their names, as they are sent."""
    return {
        name: value.actor_name if isinstance(value, dramatiq.Actor) else value
        for name, value in options.items()
    }
