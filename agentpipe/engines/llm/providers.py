"""Providers of models: addresses, protocols, and the variables that hold keys.

All but Anthropic speak OpenAI's chat completions. Variables and addresses come from the services'
documents and from MCP-Universe's ``llm`` types.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Provider:
    """One service, or kind of server.

    Attributes:
        name: Its name in ``genai-prices``, if it is there.
        base_url: Empty if only the user can know it.
        key_names: Variables that may hold the key, the first set one counts.
        url_names: Variables that may hold another base URL.
        keyless: It works without a key.
        renamed: Settings that it knows by another name.
    """

    name: str
    base_url: str
    key_names: tuple[str, ...] = ()
    url_names: tuple[str, ...] = ()
    protocol: str = "openai"
    keyless: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)


_OPENAI = Provider(
    "openai",
    "https://api.openai.com/v1",
    ("OPENAI_API_KEY",),
    ("OPENAI_BASE_URL",),
    renamed={"max_tokens": "max_completion_tokens"},
)
_ANTHROPIC = Provider(
    "anthropic",
    "https://api.anthropic.com",
    ("ANTHROPIC_API_KEY",),
    ("ANTHROPIC_BASE_URL",),
    protocol="anthropic",
)
_GEMINI = Provider(
    "google",
    "https://generativelanguage.googleapis.com/v1beta/openai",
    ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    ("GEMINI_BASE_URL",),
)
_GROK = Provider("x-ai", "https://api.x.ai/v1", ("XAI_API_KEY", "GROK_API_KEY"))
_OLLAMA = Provider(
    "ollama",
    "http://localhost:11434/v1",
    ("OLLAMA_API_KEY",),
    ("OLLAMA_BASE_URL", "OLLAMA_URL"),
    keyless=True,
)
_LOCAL = Provider(
    "local", "", ("LOCAL_LLM_API_KEY",), ("LOCAL_LLM_BASE_URL", "OPENAI_BASE_URL"), keyless=True
)
PROVIDERS = {
    "openai": _OPENAI,
    "anthropic": _ANTHROPIC,
    "claude": _ANTHROPIC,
    "gemini": _GEMINI,
    "google": _GEMINI,
    "grok": _GROK,
    "xai": _GROK,
    "ollama": _OLLAMA,
    "local": _LOCAL,
    "local_llm": _LOCAL,
    "vllm_local": _LOCAL,
    "sglang_local": _LOCAL,
    "mistral": Provider("mistral", "https://api.mistral.ai/v1", ("MISTRAL_API_KEY",)),
    "deepseek": Provider("deepseek", "https://api.deepseek.com/v1", ("DEEPSEEK_API_KEY",)),
    "openrouter": Provider("openrouter", "https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY",)),
    "groq": Provider("groq", "https://api.groq.com/openai/v1", ("GROQ_API_KEY",)),
}
