"""Variables that give the official clients of models their servers and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "/v1"
# OpenAI's base URLs end in the prefix, Anthropic's do not.
URLS = {
    "openai": ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    "anthropic": ("ANTHROPIC_BASE_URL",),
}
PLACEHOLDER = "hidden"
KEYS = {"openai": ("OPENAI_API_KEY",), "anthropic": ("ANTHROPIC_API_KEY",)}


def model_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables for models that are set in ``environ``."""
    names = [name for names in (*URLS.values(), *KEYS.values()) for name in names]
    return {name: environ[name] for name in names if environ.get(name)}


def hidden_keys(env: Mapping[str, str]) -> dict[str, str]:
    """``env`` with each key replaced by a placeholder."""
    hidden = {name for names in KEYS.values() for name in names}
    return {name: PLACEHOLDER if name in hidden else value for name, value in env.items()}


def client_variables(base_url: str, key: str) -> dict[str, str]:
    """Variables that point clients to a gateway at ``base_url``."""
    return url_variables(base_url) | {name: key for names in KEYS.values() for name in names}


def url_variables(base_url: str) -> dict[str, str]:
    """Only the URL variables; ``base_url`` can end with the prefix or not."""
    root = base_url.rstrip("/").removesuffix(PREFIX)
    urls = {"openai": root + PREFIX, "anthropic": root}
    return {name: url for protocol, url in urls.items() for name in URLS[protocol]}
