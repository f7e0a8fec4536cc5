"""Validation: what the keys of a mapping are; every mistake of a value with the path to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentpipe.core.did_you_mean import MISSPELT, did_you_mean, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agentpipe.config.yaml_source import KeyPath

    # Returns the value as it is used, or raises InvalidValueError.
    Check = Callable[[Any], Any]
    # Yields the mistakes of a mapping whose values are valid each.
    Rule = Callable[[dict[str, Any]], Iterator["Mistake"]]
    Mistake = tuple[KeyPath, str]

_ABSENT: Final = object()


class InvalidValueError(Exception):
    """A value that is refused.

    Attributes:
        mistakes: What is wrong, each with the path below the value.
        valid: What can be used of the value; None for nothing.
    """

    def __init__(self, *mistakes: str | Mistake, valid: Any = None) -> None:
        super().__init__(*mistakes)
        self.mistakes = [((), each) if isinstance(each, str) else each for each in mistakes]
        self.valid = valid

    def below(self, key: str | int) -> list[Mistake]:
        """The mistakes of a value that stands at ``key``."""
        return [((key, *path), text) for path, text in self.mistakes]


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a mapping.

    Attributes:
        check: For its value.
        default: Its value where it is absent; without one it stays absent.
        attribute: Its name in what is read, where that is another one.
    """

    check: Check
    required: bool = False
    default: Any = _ABSENT
    attribute: str = ""
    allows_none: bool = False

    def read(self, value: Any) -> Any:
        """The value as it is used."""
        if value is _ABSENT and self.required:
            raise InvalidValueError("missing: add it")
        if value is _ABSENT:
            return self.default
        if value is None and not self.allows_none:
            raise InvalidValueError("has no value: give it one, or remove the key")
        return None if value is None else self.check(value)


class Schema:
    """The check of a mapping by its keys.

    Args:
        keys: Others are refused, with the one that is most like it.
        rules: Followed where each value is valid.
        lenient: Only misspelt keys are refused.
        make: Makes what is returned of a valid mapping.
    """

    def __init__(
        self,
        keys: Mapping[str, Key],
        *rules: Rule,
        lenient: bool = False,
        make: Callable[[dict[str, Any]], Any] = dict,
    ) -> None:
        self.keys, self._rules, self._lenient, self._make = keys, rules, lenient, make

    def __call__(self, value: Any) -> Any:
        """What is read of ``value``.

        Raises:
            InvalidValueError: Has all its mistakes, and the part that is valid.
        """
        if not isinstance(value, dict):
            raise InvalidValueError("expected keys with values (`key: value`)", valid={})
        valid, mistakes = self._read(value)
        if not mistakes:
            mistakes = [each for rule in self._rules for each in rule(valid)]
        mistakes += self._unknown(value)
        if mistakes:
            raise InvalidValueError(*mistakes, valid=valid)
        return self._make(valid)

    def _read(self, value: dict[Any, Any]) -> tuple[dict[str, Any], list[Mistake]]:
        valid: dict[str, Any] = {}
        mistakes: list[Mistake] = []
        for name, key in self.keys.items():
            try:
                read = key.read(value.get(name, _ABSENT))
            except InvalidValueError as error:
                mistakes += error.below(name)
                read = error.valid or _ABSENT
            if read is not _ABSENT:
                valid[key.attribute or name] = read
        return valid, mistakes

    def _unknown(self, value: dict[Any, Any]) -> Iterator[Mistake]:
        for name in value:
            if name in self.keys or (self._lenient and not nearest(name, self.keys, MISSPELT)):
                continue
            yield (name,), f"unknown key: {did_you_mean(name, sorted(self.keys))}"


def list_of(check: Check, what: str) -> Check:
    """A check of a list of such values; ``what`` says how an entry is written."""
    entry = Key(check)

    def check_all(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise InvalidValueError(f"expected a list: begin each {what}")
        valid, mistakes = [], []
        for number, each in enumerate(value):
            try:
                valid.append(entry.read(each))
            except InvalidValueError as error:
                mistakes += error.below(number)
                valid += [] if error.valid is None else [error.valid]
        if mistakes:
            raise InvalidValueError(*mistakes, valid=valid)
        return valid

    return check_all


def filled(check: Check) -> Check:
    """The same check, which refuses an empty list."""

    def check_filled(value: Any) -> Any:
        read = check(value)
        if not read:
            raise InvalidValueError("the list is empty: add an entry")
        return read

    return check_filled
