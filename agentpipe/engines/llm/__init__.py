"""LlmEngine: a model with MCP tools as an agent; needs the extra ``llm``."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from agentpipe.config.mcp_servers import VARIABLE, load_catalogue
from agentpipe.core.distribution import pip_install
from agentpipe.engines.llm.access import Access
from agentpipe.engines.llm.config import read_config
from agentpipe.engines.llm.server_checks import server_problems
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.core.context import Context
    from agentpipe.engines.base import Agent
    from agentpipe.engines.mcp.sessions import EngineSessions


class LlmEngine:
    """Builds agents from our own form (``type: llm``) or MCP-Universe's; see ``config.py``.

    Attributes:
        secrets: The worker's credentials that its agents can use.
    """

    blocks = False
    runs_code = False
    records_tokens = True

    def __init__(self, config: AgentConfig) -> None:
        self.search: Sequence[Path] = config.search
        self._config = read_config(config)
        catalogue = load_catalogue(os.environ.get(VARIABLE))
        problems = list(catalogue.problems(list(self._config.servers)))
        if not all(find_spec(name) for name in ("genai_prices", "httptools", "httpx2")):
            problems.append(f"llm agents need more packages: {pip_install('llm')}")
        if problems:
            raise ConfigError(map(config.problem, problems))
        self._access = Access(self._config, catalogue, os.environ)
        self.secrets = self._access.secrets
        self._sessions: EngineSessions | None = None

    @staticmethod
    def unpriced_model(config: AgentConfig) -> str:
        """The config's model if its cost cannot be known, otherwise empty.

        Raises:
            ConfigError: The config is invalid.
        """
        llm = read_config(config)
        if not find_spec("genai_prices"):
            return ""  # A worker reports the missing package; a sender does not need it.
        from agentpipe.engines.models.conversation import TokenCounts
        from agentpipe.engines.models.prices import usd_of

        usd = usd_of(TokenCounts(1, 1), llm.provider.name, llm.model)
        return llm.model if usd is None else ""

    def server_problems(self, context: Context, *, start: bool) -> list[str]:
        """Problems that prevent using the MCP servers on this machine; see ``ServerChecks``."""
        return server_problems(self._access, context, self._config.start_limit_s, start=start)

    def build(self) -> Agent:
        """Build an agent that has nothing open yet."""
        from agentpipe.engines.llm.agent import LlmAgent
        from agentpipe.engines.mcp.sessions import EngineSessions

        if self._sessions is None:
            self._sessions = EngineSessions()
        return LlmAgent(self._config, self._access, self._sessions)
