"""Checks of the arguments of Python calls; each error names the argument and what it takes."""

from __future__ import annotations

import operator
from typing import Any

from agentpipe.core.numbers import is_number
from agentpipe.errors import ConfigError


def refused(name: str, expected: str, value: Any) -> ConfigError:
    """The error for an argument that is not what is expected."""
    return ConfigError(f"{name} must be {expected}, not {value!r:.80}")


def whole(name: str, value: Any, least: int = 0) -> int:
    """The argument as an integer; NumPy's integers count, a bool and a float do not.

    Raises:
        ConfigError: It is not an integer, or it is below ``least``.
    """
    expected = f"an integer of at least {least}"
    try:
        number = operator.index(value)
    except TypeError as error:
        raise refused(name, expected, value) from error
    if number < least or isinstance(value, bool):
        raise refused(name, expected, value)
    return number


def check_seconds(name: str, value: Any) -> None:
    """Refuse what is neither None nor a number of seconds from 0.

    Raises:
        ConfigError: It is neither.
    """
    if value is not None and not (is_number(value) and value >= 0):  # NaN is not.
        raise refused(name, "None or a number of seconds from 0", value)


def check_function(name: str, value: Any) -> None:
    """Refuse what cannot be called.

    Raises:
        ConfigError: It is not a function.
    """
    if not callable(value):
        raise refused(name, "a function", value)


def check_type(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> None:
    """Refuse what is of another type.

    Raises:
        ConfigError: It is not of this type.
    """
    if not isinstance(value, kind):
        raise refused(name, expected, value)
