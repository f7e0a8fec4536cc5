"""LlmConfig: the settings of an llm agent, read from our own form or from MCP-Universe's.

Our form is ``type: llm`` with everything in its ``config``. MCP-Universe's is an agent of type
``basic`` or ``function-call`` whose ``config.llm`` names a document of ``kind: llm``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentpipe.config.mcp_universe_names import names
from agentpipe.core.did_you_mean import did_you_mean, unknown_keys
from agentpipe.engines.models.providers import PROVIDERS
from agentpipe.engines.models.run_url import EXPECTED, is_base_url, url_problems
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.config.mcp_servers import McpServer
    from agentpipe.engines.models.providers import Provider

# MCP-Universe's defaults.
PEER_MODELS = {
    "openai": "gpt-4.1",
    "claude": "claude-3-5-sonnet-20241022",
    "gemini": "gemini-2.5-flash",
    "mistral": "mistral-large-latest",
    "grok": "grok-4",
    "deepseek": "deepseek-chat",
    "ollama": "llama3.2",
    "openrouter": "",
    **dict.fromkeys(("local_llm", "vllm_local", "sglang_local"), "gpt-oss-120b"),
}
PEER_MAX_ITERATIONS = 5
# A session serves one run, all runs of one agent, or all agents of a context at once.
SCOPES = ("task", "agent", "context")
# Settings sent with each request, and their types.
SETTINGS: dict[str, tuple[type, ...]] = {
    "temperature": (int, float),
    "top_p": (int, float),
    "top_k": (int,),
    "min_p": (int, float),
    "max_tokens": (int,),
    "seed": (int,),
    "frequency_penalty": (int, float),
    "presence_penalty": (int, float),
    "repetition_penalty": (int, float),
    "stop_sequences": (list,),
    "parallel_tool_calls": (bool,),
    "reasoning_effort": (str,),
    "logprobs": (bool,),
    "top_logprobs": (int,),
    "extra_body": (dict,),
}
_PEER_SETTINGS: dict[str, str] = {
    "max_completion_tokens": "max_tokens",
    "reasoning": "reasoning_effort",
    "timeout": "request_timeout_s",
}


@dataclass(frozen=True, slots=True)
class LlmConfig:
    """One agent.

    Attributes:
        model: The provider's name for it.
        base_url: Empty for the provider's default or a variable's value; it can differ by run.
        api_key: The fallback for contexts without one, from MCP-Universe's files.
        settings: Sent with each request.
        servers: Entries of the MCP servers it uses.
        max_iterations: Requests per task.
        max_total_tokens: Input and output tokens per task; None for no limit.
        request_timeout_s: A longer request counts as an infrastructure failure.
        stream: Request the answer in parts, for proxies that cut idle connections.
        sessions: Who shares an MCP session, one of ``SCOPES``; None for the default of each server.
        start_limit_s: Time limit for a server to become ready.
        tool_limit_s: Time limit for one tool call.
        max_tool_chars: A longer tool result is cut.
        images: Whether the model takes images; None for the provider's default.
        bounds_tasks: A server that a task selects among ``servers`` keeps the settings it has
            there.
        unwraps: Take ``answer`` out of ``{"thought": ..., "answer": ...}``, the format that
            MCP-Universe's ``function-call`` requests.
    """

    name: str
    provider: Provider
    model: str
    base_url: str = ""
    api_key: str = field(default="", repr=False)
    instruction: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    servers: tuple[Mapping[str, Any], ...] = ()
    max_iterations: int = 20
    max_total_tokens: int | None = None
    request_timeout_s: float = 600.0
    stream: bool = False
    sessions: str | None = None
    start_limit_s: float = 60.0
    tool_limit_s: float = 300.0
    max_tool_chars: int = 200_000
    images: bool | None = None
    bounds_tasks: bool = False
    unwraps: bool = False

    @property
    def takes_images(self) -> bool:
        """Whether images in tool results are sent to the model."""
        return self.provider.takes_images if self.images is None else self.images

    def scope_of(self, server: McpServer) -> str:
        """Who shares the sessions of a server, one of ``SCOPES``."""
        return self.sessions or ("context" if server.stateless else "task")


def _above_zero(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in kinds and value > 0  # bool does not count as a number.


_COUNT = ("an integer above 0", _above_zero(int))
_SECONDS = ("seconds above 0", _above_zero(int, float))
_FLAG = ("true or false", lambda value: isinstance(value, bool))
_OPTIONS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "base_url": (EXPECTED, is_base_url),
    "instruction": ("a string", lambda value: isinstance(value, str)),
    "servers": ("a list", lambda value: isinstance(value, list)),
    "max_iterations": _COUNT,
    "max_total_tokens": _COUNT,
    "request_timeout_s": _SECONDS,
    "stream": _FLAG,
    "sessions": ("task, agent or context", lambda value: value in SCOPES),
    "keep_sessions": _FLAG,
    "start_limit_s": _SECONDS,
    "tool_limit_s": _SECONDS,
    "max_tool_chars": _COUNT,
    "images": _FLAG,
}
OWN_KEYS = ("model", *_OPTIONS, *SETTINGS)


def read_config(config: AgentConfig) -> LlmConfig:
    """Read the settings in ``config``, of either form.

    Raises:
        ConfigError: All problems found.
    """
    problems: list[str] = []
    read = _own if config.type == "llm" else _peer
    llm_config = read(config, problems)
    if llm_config and llm_config.base_url:
        problems += url_problems(llm_config.base_url)
    if problems or llm_config is None:
        raise ConfigError(map(config.problem, problems))
    return llm_config


def setting_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    """Problems of request settings, one sentence each."""
    for name, value in settings.items():
        kinds = SETTINGS.get(name)
        if kinds is None:
            yield f"unknown setting {str(name)[:40]!r}: {did_you_mean(name, SETTINGS)}"
        elif not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            yield f"{name}: expected {' or '.join(kind.__name__ for kind in kinds)}"


def _own(config: AgentConfig, problems: list[str]) -> LlmConfig | None:
    given = dict(config.config)
    problems += unknown_keys(given, OWN_KEYS)
    options = _options(given, problems)
    settings = {name: given[name] for name in SETTINGS if name in given}
    problems += setting_problems(settings)
    found = _provider_and_model(given.get("model"), problems)
    if found is None or problems:
        return None
    return LlmConfig(config.name, *found, settings=settings, bounds_tasks=True, **options)


def _options(given: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    options = {name: given[name] for name in _OPTIONS if name in given}
    for name, value in options.items():
        expected, accepts = _OPTIONS[name]
        if not accepts(value):
            problems.append(f"{name}: expected {expected}")
    if isinstance(options.get("servers"), list):
        options["servers"] = tuple(options["servers"])
    _translate_keep_sessions(options, problems)
    return options


def _translate_keep_sessions(options: dict[str, Any], problems: list[str]) -> None:
    """Support ``keep_sessions``, the old name of ``sessions``."""
    if "keep_sessions" in options:
        keep = options.pop("keep_sessions")
        if "sessions" in options:
            problems.append("keep_sessions: remove it, `sessions` says it")
        options["sessions"] = "agent" if keep else "task"


def _provider_and_model(model: Any, problems: list[str]) -> tuple[Provider, str] | None:
    prefix, colon, name = model.partition(":") if isinstance(model, str) else ("", "", "")
    if not colon or not name:
        problems.append('model: write the provider and the model: model: "openai:gpt-4.1"')
        return None
    if prefix not in PROVIDERS:
        problems.append(f"model: unknown provider {prefix!r}: {did_you_mean(prefix, PROVIDERS)}")
        return None
    return PROVIDERS[prefix], name


# MCP-Universe's form; ``config.mcp_universe`` has already checked its types and keys.


def _peer(config: AgentConfig, problems: list[str]) -> LlmConfig:
    llm = _document(config, config.config["llm"])
    kind = next(each for each in names().types["llm"][llm["type"]].names if each in PEER_MODELS)
    given = dict(llm.get("config") or {})
    own = {key: value for key, value in config.config.items() if key in _OPTIONS and value}
    if "timeout" in given:
        own["request_timeout_s"] = given["timeout"]
    found: list[str] = []
    options = _options({"max_iterations": PEER_MAX_ITERATIONS, **own}, found)
    agents = names().types["agent"]
    unwraps = agents[config.type] is agents["function-call"]
    if not unwraps:
        options["servers"] = ()
    renamed = {_PEER_SETTINGS.get(str(key), str(key)): value for key, value in given.items()}
    settings = {key: value for key, value in renamed.items() if key in SETTINGS}
    problems += _as_written([*found, *setting_problems(settings)], given)
    return LlmConfig(
        name=config.name,
        provider=PROVIDERS[kind],
        model=given.get("model_name") or PEER_MODELS[kind],
        base_url=given.get("base_url") or given.get("ollama_url") or "",
        api_key=given.get("api_key") or "",
        settings=settings,
        unwraps=unwraps,
        **options,
    )


def _as_written(problems: list[str], given: Mapping[str, Any]) -> Iterator[str]:
    """The problems, named by the keys that the user's file has."""
    theirs = {ours: key for key, ours in _PEER_SETTINGS.items() if key in given}
    for problem in problems:
        ours, colon, rest = problem.partition(": ")
        yield f"{theirs.get(ours, ours)}{colon}{rest}"


def _document(config: AgentConfig, name: str) -> Mapping[str, Any]:
    specs = (d.data["spec"] for d in config.documents if d.data.get("kind") == "llm")
    spec: Mapping[str, Any] = next(spec for spec in specs if spec["name"] == name)
    return spec
