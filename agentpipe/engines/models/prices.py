"""Cost of a request, by the prices of ``genai-prices``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genai_prices import Usage, calc_price

if TYPE_CHECKING:
    from agentpipe.engines.models.conversation import TokenCounts


# Cached because a failed search takes longer than the rest of a request.
_unknown: set[tuple[str, str]] = set()


def usd_of(tokens: TokenCounts, provider: str, model: str) -> float | None:
    """The price of a request; None if it is unknown."""
    if (provider, model) in _unknown:
        return None
    usage = Usage(
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        cache_read_tokens=tokens.cache_read,
        cache_write_tokens=tokens.cache_write,
    )
    try:
        return float(calc_price(usage, model, provider_id=provider).total_price)
    except (LookupError, ValueError):
        _unknown.add((provider, model))
        return None
