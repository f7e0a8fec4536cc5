"""The token ids in a chat completion, as vLLM returns them on request.

``prompt_token_ids`` is at the top level, or in a stream's first event. ``choices[0].token_ids`` and
``choices[0].logprobs.content`` come with each part. If the weights changed during a response, a
choice's ``weight_versions`` maps parts to the weights that sampled them. vLLM reports weights that
were loaded without a version as ``default``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeGuard

from agentpipe.core.masking import shorten
from agentpipe.core.numbers import is_integer
from agentpipe.engines.models.conversation import SampledIds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Request fields that ask for token ids.
ASKED = {"logprobs": True, "return_token_ids": True}
MAX_TOKEN_ID = 2**31
_MAX_DIGITS = 16
_NO_VERSION = "default"
# Tolerance for logprobs above 0, from a probability that the engine rounded up to 1.
_ROUNDING = 1e-3


def sampled_in(completion: Mapping[str, Any], choice: Mapping[str, Any]) -> SampledIds | None:
    """The token ids of a completion; None unless every sampled token has an id and a logprob."""
    prompt, sampled = completion.get("prompt_token_ids"), choice.get("token_ids")
    if not _are_ids(prompt) or not _are_ids(sampled) or not prompt:
        return None
    if not sampled and _says_something(choice.get("message")):
        return None
    logprobs = _logprobs(choice.get("logprobs"))
    if len(logprobs) != len(sampled):
        return None
    versions = tuple(_versions(choice.get("weight_versions"), len(sampled)))
    return SampledIds(prompt, sampled, logprobs, versions)


def _are_ids(value: Any) -> TypeGuard[list[int]]:
    if not isinstance(value, list) or not {*map(type, value)} <= {int}:
        return False
    return not value or (min(value) >= 0 and max(value) < MAX_TOKEN_ID)


def _says_something(message: Any) -> bool:
    return isinstance(message, dict) and bool(message.get("content") or message.get("tool_calls"))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _content(logprobs: Any) -> list[Any]:
    return _listed(logprobs.get("content")) if isinstance(logprobs, dict) else []


def _logprobs(logprobs: Any) -> list[float]:
    """The logprob of each token; an empty list if any of them is invalid."""
    try:
        values = [each["logprob"] for each in _content(logprobs)]
    except (TypeError, KeyError):
        return []
    if not {*map(type, values)} <= {int, float} or not all(map(math.isfinite, values)):
        return []
    highest = max(values, default=0.0)
    if highest > _ROUNDING:
        return []
    return [min(0.0, value) for value in values] if highest > 0 else [*map(float, values)]


def _versions(value: Any, tokens: int) -> Iterator[tuple[str | int, int, int]]:
    for each in _listed(value):
        if isinstance(each, dict):
            start, end, name = (each.get(key) for key in ("start", "end", "version"))
            if name == _NO_VERSION or not is_integer(start) or not is_integer(end):
                continue
            if 0 <= start < end <= tokens:
                yield _version(name), start, end


def _version(name: Any) -> str | int:
    """The version as a number if possible, because only numbers can be compared."""
    text = str(name)
    return int(text) if text.isdecimal() and len(text) < _MAX_DIGITS else shorten(text, 256)


class JoinedIds:
    """Collects the token ids from the events of a stream."""

    def __init__(self) -> None:
        self._prompt: Any = None
        self._ids: list[Any] = []
        self._content: list[Any] = []
        self._versions: Any = None

    def add_prompt(self, event: Mapping[str, Any]) -> None:
        """Add the prompt's ids, which only one event has."""
        self._prompt = event.get("prompt_token_ids") or self._prompt

    def add(self, choice: Mapping[str, Any]) -> None:
        """Add the first choice of the next event."""
        self._versions = choice.get("weight_versions") or self._versions
        self._ids += _listed(choice.get("token_ids"))
        self._content += _content(choice.get("logprobs"))

    def whole(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the fields for the completion and for its choice; empty without token ids."""
        if self._prompt is None:
            return {}, {}
        choice = {
            "token_ids": self._ids,
            "logprobs": {"content": self._content},
            "weight_versions": self._versions,
        }
        return {"prompt_token_ids": self._prompt}, choice
