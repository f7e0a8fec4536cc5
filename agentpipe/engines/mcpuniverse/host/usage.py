"""What LLM calls cost, read from the responses of any provider."""

from __future__ import annotations

from typing import Any

# Each name of ours with those of OpenAI and Mistral, Anthropic and OpenAI's Responses, Gemini,
# Ollama; a dot leads into an object.
NAMES = {
    "input_tokens": ("prompt_tokens", "input_tokens", "promptTokenCount", "prompt_eval_count"),
    "output_tokens": ("completion_tokens", "output_tokens", "candidatesTokenCount", "eval_count"),
    "cached_tokens": (
        "prompt_tokens_details.cached_tokens",
        "input_tokens_details.cached_tokens",
        "cache_read_input_tokens",
        "cachedContentTokenCount",
    ),
}


class Usage:
    """Sums over the answered requests of one run."""

    def __init__(self) -> None:
        self._requests = 0
        self._sums: dict[str, int | None] = dict.fromkeys(NAMES, 0)

    def add(self, body: Any) -> None:
        """Count a response; what it does not tell is unknown for the whole run."""
        self._requests += 1
        told = _told(body)
        for ours, theirs in NAMES.items():
            count, total = _first(told, theirs), self._sums[ours]
            self._sums[ours] = None if count is None or total is None else total + count

    def to_dict(self) -> dict[str, int]:
        """The requests, and the sums that are known."""
        known = {name: total for name, total in self._sums.items() if total is not None}
        return {"requests": self._requests, **(known if self._requests else {})}


def _told(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        return {}
    told = body.get("usage") or body.get("usageMetadata") or body
    return told if isinstance(told, dict) else {}


def _first(told: dict[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value: Any = told
        for step in name.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, int):
            return value
    return None
