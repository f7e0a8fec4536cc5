"""LlmSpec: what an llm agent is, read from our own form or from MCP-Universe's.

Ours is ``type: llm`` with everything in its ``config``. Theirs is an agent of type ``basic`` or
``function-call`` whose ``config.llm`` names a document of ``kind: llm``.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentpipe.engines.llm.providers import PROVIDERS
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agentpipe.agent_config import AgentConfig
    from agentpipe.engines.llm.providers import Provider

BASIC = ("basic",)
FUNCTION_CALL = ("function-call", "function_call", "fc")
# What MCP-Universe asks for where a file does not say.
THEIR_MODELS = {
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
THEIR_MAX_ITERATIONS = 5
# Settings of a request that are handed on as they are, and the kind of each.
SETTINGS: dict[str, tuple[type, ...]] = {
    "temperature": (int, float),
    "top_p": (int, float),
    "max_tokens": (int,),
    "seed": (int,),
    "frequency_penalty": (int, float),
    "presence_penalty": (int, float),
    "stop_sequences": (list,),
    "parallel_tool_calls": (bool,),
    "reasoning_effort": (str,),
    "extra_body": (dict,),
}
_THEIR_SETTINGS = {"max_completion_tokens": "max_tokens", "reasoning": "reasoning_effort"}
_USE_THE_ENGINE = "the agent's type is left to the engine `mcpuniverse` then"


@dataclass(frozen=True, slots=True)
class LlmSpec:
    """One agent.

    Attributes:
        model: As its provider calls it.
        base_url: Empty for the provider's own, or what a variable says.
        settings: Of each request.
        servers: The entries of the MCP servers that it uses.
        max_iterations: Requests per task.
        max_total_tokens: In and out together, per task; None for no limit.
        request_timeout_s: For one request; longer is a failure of the infrastructure.
        stream: Have the answer sent in parts, for proxies that cut idle connections.
        keep_sessions: MCP sessions go on to the next task.
        start_limit_s: For a server to be ready.
        tool_limit_s: For one call of a tool.
        max_tool_chars: What a tool may answer; the rest is cut.
    """

    name: str
    provider: Provider
    model: str
    base_url: str = ""
    instruction: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    servers: tuple[Mapping[str, Any], ...] = ()
    max_iterations: int = 20
    max_total_tokens: int | None = None
    request_timeout_s: float = 600.0
    stream: bool = False
    keep_sessions: bool = True
    start_limit_s: float = 60.0
    tool_limit_s: float = 300.0
    max_tool_chars: int = 200_000


def _above_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


_OPTIONS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "base_url": ("a URL", lambda v: _text(v) and v.startswith(("http://", "https://"))),
    "instruction": ("a text", _text),
    "servers": ("a list", lambda value: isinstance(value, list)),
    "max_iterations": ("a whole number above 0", _whole),
    "max_total_tokens": ("a whole number above 0", _whole),
    "request_timeout_s": ("seconds above 0", _above_zero),
    "stream": ("true or false", _flag),
    "keep_sessions": ("true or false", _flag),
    "start_limit_s": ("seconds above 0", _above_zero),
    "tool_limit_s": ("seconds above 0", _above_zero),
    "max_tool_chars": ("a whole number above 0", _whole),
}
OWN_KEYS = ("model", *_OPTIONS, *SETTINGS)


def read_spec(config: AgentConfig) -> LlmSpec:
    """The agent that ``config`` describes.

    Raises:
        ConfigError: Listing what is wrong with it.
    """
    problems: list[str] = []
    spec = _own(config, problems) if config.type == "llm" else _theirs(config, problems)
    if problems or spec is None:
        raise ConfigError([Problem(text, str(config.file), config.line) for text in problems])
    return spec


def setting_problems(settings: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with settings of a request, a sentence each."""
    for name, value in settings.items():
        kinds = SETTINGS.get(name)
        if kinds is None:
            near = difflib.get_close_matches(str(name), SETTINGS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(SETTINGS)}"
            yield f"unknown setting {str(name)[:40]!r}: {hint}"
        elif not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            yield f"{name}: expected {' or '.join(kind.__name__ for kind in kinds)}"


def _own(config: AgentConfig, problems: list[str]) -> LlmSpec | None:
    given = dict(config.config)
    problems += _unknown(given, OWN_KEYS)
    options = _options(given, problems)
    settings = {name: given[name] for name in SETTINGS if name in given}
    problems += setting_problems(settings)
    found = _provider_and_model(given.get("model"), problems)
    if found is None or problems:
        return None
    return LlmSpec(config.name, *found, settings=settings, **options)


def _options(given: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    options = {name: given[name] for name in _OPTIONS if name in given}
    for name, value in options.items():
        expected, accepts = _OPTIONS[name]
        if not accepts(value):
            problems.append(f"{name}: expected {expected}")
    if isinstance(options.get("servers"), list):
        options["servers"] = tuple(options["servers"])
    return options


def _provider_and_model(model: Any, problems: list[str]) -> tuple[Provider, str] | None:
    prefix, colon, name = model.partition(":") if isinstance(model, str) else ("", "", "")
    if not colon or not name:
        problems.append('model: write the provider and the model: model: "openai:gpt-4.1"')
        return None
    if prefix not in PROVIDERS:
        near = difflib.get_close_matches(prefix, PROVIDERS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(PROVIDERS)}"
        problems.append(f"model: no provider {prefix!r} is known: {hint}")
        return None
    return PROVIDERS[prefix], name


def _unknown(given: Mapping[str, Any], known: tuple[str, ...]) -> Iterator[str]:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
            yield f"unknown key {str(key)[:40]!r} in config: {hint}"


# MCP-Universe's form.

_THEIR_AGENT_KEYS = ("llm", "name", "instruction", "servers", "max_iterations")
_THEIR_LLM_KEYS = (
    "model_name",
    "base_url",
    "ollama_url",
    "timeout",
    *_THEIR_SETTINGS,
    *SETTINGS,
)
# Keys whose usual values change nothing here.
_HARMLESS = {"summarize_tool_response": (False,), "use_llm_tool_api": ("no", "yes")}


def _theirs(config: AgentConfig, problems: list[str]) -> LlmSpec | None:
    given = {
        key: value
        for key, value in config.config.items()
        if value not in _HARMLESS.get(key, ()) and value not in ("", [], {}, None)
    }
    problems += (f"{key}: {_USE_THE_ENGINE}" for key in given if key not in _THEIR_AGENT_KEYS)
    llm = _document(config, given.get("llm"), problems)
    if llm is None:
        return None
    kind, parts = llm.get("type"), dict(llm.get("config") or {})
    if kind not in THEIR_MODELS:
        problems.append(f"an llm of type {kind!r} is not spoken natively: {_USE_THE_ENGINE}")
        return None
    problems += (f"llm: {key}: {_USE_THE_ENGINE}" for key in parts if key not in _THEIR_LLM_KEYS)
    calls_tools = config.type in FUNCTION_CALL
    options = _options({key: given[key] for key in given if key in _OPTIONS}, problems)
    options.setdefault("max_iterations", THEIR_MAX_ITERATIONS)
    settings = {
        str(_THEIR_SETTINGS.get(key, key)): value
        for key, value in parts.items()
        if key in SETTINGS or key in _THEIR_SETTINGS
    }
    problems += setting_problems(settings)
    base_url = parts.get("base_url") or parts.get("ollama_url") or ""
    if "timeout" in parts:
        options["request_timeout_s"] = parts["timeout"]
    if not calls_tools:
        options["servers"] = ()
    model = parts.get("model_name") or THEIR_MODELS[kind]
    if not model:
        problems.append("llm: model_name is missing: add it")
    return LlmSpec(
        config.name, PROVIDERS[kind], model, base_url=base_url, settings=settings, **options
    )


def _document(config: AgentConfig, name: Any, problems: list[str]) -> Mapping[str, Any] | None:
    llms = {
        document.data["spec"].get("name"): document.data["spec"]
        for document in config.documents
        if document.data.get("kind") == "llm"
    }
    if name in llms:
        spec: Mapping[str, Any] = llms[name]
        return spec
    known = ", ".join(map(repr, llms)) or "none"
    wanted = f"no llm {name!r}" if name else "config.llm is missing: it names an llm"
    problems.append(f"{wanted} in this file; it has {known}")
    return None
