"""States: what a trainer's readers and its loop save with a checkpoint, checked when loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from agentpipe.core.numbers import is_integer
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

# The only version so far.
VERSION = 1

_Field = tuple[str, "Callable[[Any], bool]"]


def _is_count(value: Any) -> bool:
    return is_integer(value) and value >= 0


def _are_counts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_count, value))


def _are_strings(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def _are_begun(value: Any) -> bool:
    return isinstance(value, Mapping) and _are_counts([*value.values()])


def _are_out(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_out, value))


def _is_out(value: Any) -> bool:
    is_one = isinstance(value, list | tuple) and len(value) == len(("place", "name", "prompt"))
    return is_one and _is_count(value[0]) and isinstance(value[1], str)


def _is_position(value: Any) -> bool:
    if not isinstance(value, Mapping) or not _is_count(value.get("taken")):
        return False
    if "loader" not in value:
        return True
    return isinstance(value.get("left"), list) and isinstance(value.get("ended"), bool)


_COUNT: _Field = ("an integer from 0", _is_count)
_OF_READER: Mapping[str, _Field] = {"used": ("a list of ids", _are_strings)}
_OF_READER_TOO: Mapping[str, _Field] = {
    "states": ("a list of integers from 0", _are_counts),
    "begun": ("an object of integers from 0", _are_begun),
}
_OF_LOOP: Mapping[str, _Field] = {
    "step": _COUNT,
    "sent": _COUNT,
    "over": ("an integer", is_integer),
    "policy_version": ("an integer from 0, or None", lambda it: it is None or _is_count(it)),
    "groups": ("an object", lambda it: isinstance(it, Mapping)),
}
# Earlier versions did not save these.
_OF_LOOP_TOO: Mapping[str, _Field] = {
    "prompts": ("an object with the integer `taken`", _is_position),
    "out": ("a list of [position, group, prompt]", _are_out),
}


def check_states(states: Iterable[Any], group: str) -> None:
    """Refuse what is not a state of this reading group.

    Raises:
        ConfigError: The message says what is wrong with it.
    """
    for state in states:
        if problem := _problem(state, ("group", group), _OF_READER, _OF_READER_TOO):
            several = "; several as load_state_dict(*states)" * isinstance(state, list | tuple)
            raise ConfigError(f"not a state of the group {group!r}: {problem}{several}")


def check_loop_state(state: Any, name: str) -> None:
    """Refuse what was not returned by ``Rollouts.state_dict`` of this loop.

    Raises:
        ConfigError: The message says what is wrong with it.
    """
    problem = _problem(state, ("name", name), _OF_LOOP, _OF_LOOP_TOO)
    if problem:
        raise ConfigError(f"not a state of the loop {name!r}: {problem}")
    check_states([state["groups"]], name)


def _problem(
    state: Any, own: tuple[str, str], needed: Mapping[str, _Field], others: Mapping[str, _Field]
) -> str:
    """What is wrong with a state; empty if nothing is."""
    key, name = own
    if not isinstance(state, Mapping):
        return f"expected what state_dict() returned, got {state!r:.80}"
    if state.get(key) != name:
        return f"its {key} is {state.get(key)!r:.80}"
    if state.get("version") != VERSION:
        return f"expected version {VERSION}, got {state.get('version')!r:.40}"
    for field, (expected, accepts) in {**needed, **others}.items():
        if (field in state or field in needed) and not accepts(state.get(field)):
            return f"{field}: expected {expected}, got {state.get(field)!r:.80}"
    return ""
