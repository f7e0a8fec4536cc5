"""Token counts of LLM calls, read from the responses of any provider."""

from __future__ import annotations

from typing import Any

# Our names, with the names of OpenAI and Mistral; Anthropic and OpenAI's Responses; Gemini; Ollama.
# A dot leads into an object.
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


class TokenCounts:
    """Sums over one run's successful requests."""

    def __init__(self) -> None:
        self._requests = 0
        self._sums: dict[str, int | None] = dict.fromkeys(NAMES, 0)

    def add(self, body: Any) -> None:
        """Add a response's counts; a missing count becomes unknown for the whole run."""
        self._requests += 1
        counts = _counts(body)
        for ours, theirs in NAMES.items():
            count, total = _first(counts, theirs), self._sums[ours]
            self._sums[ours] = None if count is None or total is None else total + count

    def to_dict(self) -> dict[str, int]:
        """The number of requests, and the known sums."""
        known = {name: total for name, total in self._sums.items() if total is not None}
        return {"requests": self._requests, **(known if self._requests else {})}


def _counts(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        return {}
    counts = body.get("usage") or body.get("usageMetadata") or body
    return counts if isinstance(counts, dict) else {}


def _first(counts: dict[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value: Any = counts
        for step in name.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, int):
            return value
    return None
