"""Model providers: addresses, protocols, variables for keys, and rules.

All except Anthropic use OpenAI's chat completions, each with its own rules. Variables, addresses
and rules come from the services' documentation and from MCP-Universe's ``llm`` types.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Provider:
    """One service, or kind of server.

    Attributes:
        name: Its name in ``genai-prices``, if listed there.
        base_url: Empty if only the user can know it.
        key_names: Variables that can hold the key; the first one that is set is used.
        url_names: Variables that can hold another base URL.
        keyless: Whether it works without a key.
        renamed: Settings that it knows by another name.
        lacks: Settings that it refuses or ignores; they are not sent.
        counts_unasked: It counts a stream's tokens without being asked, and refuses
            ``stream_options``.
        needs_properties: It refuses a tool whose schema has no ``type`` or ``properties``.
        takes_images: Whether its usual models take images; a text model refuses a request with one.
    """

    name: str
    base_url: str
    key_names: tuple[str, ...] = ()
    url_names: tuple[str, ...] = ()
    protocol: str = "openai"
    keyless: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()
    counts_unasked: bool = False
    needs_properties: bool = False
    takes_images: bool = False

    def sent(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that it accepts."""
        return {name: value for name, value in settings.items() if name not in self.lacks}

    def at(self, base_url: str) -> Provider:
        """The provider's rules for the server at this address: other servers accept any schema."""
        return self if base_url == self.base_url else replace(self, needs_properties=False)


_LATER_NAME = {"max_tokens": "max_completion_tokens"}
_PENALTIES = ("frequency_penalty", "presence_penalty")
# Supported by vLLM, SGLang, llama.cpp and OpenRouter; others refuse settings that are not OpenAI's.
_OF_LOCAL = ("top_k", "min_p", "repetition_penalty")
_LOGPROBS = ("logprobs", "top_logprobs")
_OPENAI = Provider(
    "openai",
    "https://api.openai.com/v1",
    ("OPENAI_API_KEY",),
    ("OPENAI_BASE_URL",),
    renamed=_LATER_NAME,
    lacks=frozenset(_OF_LOCAL),
    needs_properties=True,
    takes_images=True,
)
_ANTHROPIC = Provider(
    "anthropic",
    "https://api.anthropic.com",
    ("ANTHROPIC_API_KEY",),
    ("ANTHROPIC_BASE_URL",),
    protocol="anthropic",
    lacks=frozenset(
        ("seed", *_PENALTIES, "reasoning_effort", "min_p", "repetition_penalty", *_LOGPROBS)
    ),
    takes_images=True,
)
_GEMINI = Provider(
    "google",
    "https://generativelanguage.googleapis.com/v1beta/openai",
    ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    ("GEMINI_BASE_URL",),
    # "400, Unknown name": only the native API has these, not the OpenAI-compatible one.
    lacks=frozenset(("seed", *_PENALTIES, *_OF_LOCAL, *_LOGPROBS)),
    takes_images=True,
)
_GROK = Provider(
    "x-ai",
    "https://api.x.ai/v1",
    ("XAI_API_KEY", "GROK_API_KEY"),
    renamed=_LATER_NAME,
    lacks=frozenset(_OF_LOCAL),
)
_MISTRAL = Provider(
    "mistral",
    "https://api.mistral.ai/v1",
    ("MISTRAL_API_KEY",),
    renamed={"seed": "random_seed"},  # It answers "422, extra_forbidden" to unknown fields.
    lacks=frozenset((*_OF_LOCAL, *_LOGPROBS)),
    counts_unasked=True,
)
_GROQ = Provider(
    "groq",
    "https://api.groq.com/openai/v1",
    ("GROQ_API_KEY",),
    renamed=_LATER_NAME,
    lacks=frozenset((*_OF_LOCAL, *_LOGPROBS)),
)
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
    "mistral": _MISTRAL,
    "deepseek": Provider(
        "deepseek",
        "https://api.deepseek.com/v1",
        ("DEEPSEEK_API_KEY",),
        lacks=frozenset(_OF_LOCAL),
    ),
    "openrouter": Provider("openrouter", "https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY",)),
    "groq": _GROQ,
}
