"""MCP-Universe's agents in recorded runs: a gateway replaces their model's server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from agentpipe.config.mcp_universe_names import names
from agentpipe.core.redaction import passwords_in
from agentpipe.core.rollout import recorder
from agentpipe.engines.gateway import run_gateway
from agentpipe.errors import AgentFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.engines.process.agent import ProcessAgent

# The llm type whose server a variable can replace; it asks for chat completions.
_LED = "openai"
_URL, _KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"


class RecordedAgent:
    """One agent; each recorded run gets its own process."""

    def __init__(self, text: str, build: Callable[[str], ProcessAgent]) -> None:
        """``build`` makes the agent's process from the text of a config."""
        self._text, self._build = text, build
        self._process, self._is_led = build(text), False

    @property
    def grace_s(self) -> float:
        """The grace period of its process."""
        return self._process.grace_s

    async def execute(self, task: Task, context: Context) -> Any:
        """Return the agent's answer, with evaluations.

        Raises:
            AgentFailed: It failed, or its llms name several servers.
            RunLimitExceeded: It reached a limit.
        """
        if recorder() is None:
            await self._be_led(is_led=False)
            return await self._process.execute(task, context)
        own = _own_variables(self._text, context)
        async with run_gateway(task, context, {}, own=own) as gateway:
            assert gateway is not None
            await self._be_led(is_led=True)
            self._process.more = {"judges_env": gateway.judges_env}
            return await self._process.execute(task, gateway.led(context))

    async def close(self) -> None:
        """End the process."""
        await self._process.close()

    async def _be_led(self, *, is_led: bool) -> None:
        """Replace the process if the last run was recorded and this one is not, or the reverse."""
        if is_led != self._is_led:
            await self._process.close()
            self._process = self._build(_without_own(self._text) if is_led else self._text)
            self._is_led = is_led


def unrecorded_model(config: AgentConfig) -> str:
    """The type of a config's llm that returns no token ids; empty if all return them."""
    llms = (each.data["spec"]["type"] for each in config.documents if each.data["kind"] == "llm")
    return next((name for name in llms if name not in _led_types()), "")


def secrets_in(config: AgentConfig) -> tuple[str, ...]:
    """The credentials that a config itself holds, for its llms."""
    specs = [each.data["spec"] for each in config.documents if each.data["kind"] == "llm"]
    given = [spec.get("config") or {} for spec in specs]
    keys = [str(each["api_key"]) for each in given if each.get("api_key")]
    return (*keys, *passwords_in(given))


def _led_types() -> tuple[str, ...]:
    return names().types["llm"][_LED].names


def _llms(documents: list[Any]) -> list[dict[str, Any]]:
    """The configs of the llms that a gateway can replace."""
    specs = [each["spec"] for each in documents if each and each.get("kind") == "llm"]
    return [spec.setdefault("config", {}) for spec in specs if spec["type"] in _led_types()]


def _own_variables(text: str, context: Context) -> dict[str, str]:
    """The config's settings for its model's server, as variables; the context's key wins."""
    llms = _llms([*yaml.safe_load_all(text)])
    own = {_URL: _one(llms, "base_url"), _KEY: _one(llms, "api_key")}
    if context.env.get(_KEY):
        del own[_KEY]
    return {name: value for name, value in own.items() if value}


def _one(llms: list[dict[str, Any]], key: str) -> str:
    values = {str(llm.get(key) or "") for llm in llms}
    if len(values) > 1:
        text = f"record: the llms of one file have several values of {key}: a run has one server"
        raise AgentFailed(text, kind="ConfigError", permanent=True)
    return values.pop() if values else ""


def _without_own(text: str) -> str:
    """The config without settings that would bypass the gateway."""
    documents = [*yaml.safe_load_all(text)]
    for llm in _llms(documents):
        llm.pop("base_url", None)
        llm.pop("api_key", None)
    dumped: str = yaml.safe_dump_all(documents)
    return dumped
