"""What a request cost, by the prices of ``genai-prices``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genai_prices import Usage, calc_price

if TYPE_CHECKING:
    from agentpipe.engines.llm.conversation import TokenCounts


class Prices:
    """The prices of one provider."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._unknown: set[str] = set()

    def usd(self, model: str, tokens: TokenCounts) -> float | None:
        """The price of a request; None if it is not known."""
        if model in self._unknown:  # A failed search takes longer than the rest of a request.
            return None
        usage = Usage(
            input_tokens=tokens.input,
            output_tokens=tokens.output,
            cache_read_tokens=tokens.cache_read,
            cache_write_tokens=tokens.cache_write,
        )
        try:
            return float(calc_price(usage, model, provider_id=self._provider).total_price)
        except (LookupError, ValueError):
            self._unknown.add(model)
            return None
