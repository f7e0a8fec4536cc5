"""Hide credentials in stored configs and command lines."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from agentpipe.core.credential_names import reads_like_secret
from agentpipe.core.redaction import without_password
from agentpipe.core.secret_forms import MASK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.core.redaction import Redactor

# Keys whose values are credentials, or turn into credentials.
_HIDING = frozenset({"env", "headers"})
# References to variables are not values, but one with a default can contain a value.
_REFERENCES = re.compile(r"(?:\$\{[\w.: /-]+?\}|\{\{[\w. ]+\}\})+", re.ASCII)
_DEFAULT = ":-"
_OPTION = re.compile(r"-{0,2}([A-Za-z][\w.-]*)=(.*)", re.ASCII | re.DOTALL)


def hidden(value: Any, redactor: Redactor) -> Any:
    """Copy parsed JSON without the values of ``env``, ``headers`` and keys named like secrets.

    References to variables stay. Everywhere else, secrets known to the redactor and passwords in
    URLs are masked.
    """
    if isinstance(value, dict):
        return {redactor.text(str(key)): _item(key, it, redactor) for key, it in value.items()}
    if isinstance(value, list):
        return _list(value, redactor)
    return _text(value, redactor) if isinstance(value, str) else value


def hidden_words(words: Sequence[str], redactor: Redactor) -> list[str]:
    """Hide credentials in a command line, also in the word after an option named like a secret."""
    shown: list[str] = []
    follows = False
    for word in words:
        shown.append(MASK if follows else _word(word, redactor))
        follows = word.startswith("-") and "=" not in word and reads_like_secret(word)
    return shown


def _item(key: Any, value: Any, redactor: Redactor) -> Any:
    if str(key).lower() in _HIDING or reads_like_secret(str(key)):
        return _without_values(value)
    return hidden(value, redactor)


def _without_values(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_values(item) for item in value]
    if isinstance(value, str) and not (_REFERENCES.fullmatch(value) and _DEFAULT not in value):
        return MASK
    return value


def _list(values: list[Any], redactor: Redactor) -> list[Any]:
    """Hide credentials in a list; a list of strings can be a command line."""
    if all(isinstance(value, str) for value in values):
        return hidden_words(values, redactor)
    return [hidden(value, redactor) for value in values]


def _word(word: str, redactor: Redactor) -> str:
    option = _OPTION.fullmatch(word)
    if option and reads_like_secret(option[1]):
        return f"{word[: option.start(2)]}{MASK}"
    return _text(word, redactor)


def _text(text: str, redactor: Redactor) -> str:
    return redactor.text(without_password(text))
