"""Prices: whether a budget in USD can ever stop an agent, judging by its config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.engines.base import engine_class
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.core.budgets import Budget


def refuse_unpriced(config: AgentConfig, engine: str | None, budget: Budget) -> None:
    """Refuse a budget only in USD for a model without a price, because it would stop nothing.

    Raises:
        ConfigError: With the config's file; also if the config is invalid.
    """
    if not budget.needs_prices:
        return
    unpriced = getattr(engine_class(config, engine), "unpriced_model", None)
    if unpriced is not None and (model := unpriced(config)):
        message = (
            f"the model {model!r} has no price, so that a budget in usd would stop nothing: "
            "give the budget tokens"
        )
        raise ConfigError(config.problem(message))
