"""Span names, shared by everything that displays a trace: ``llm MODEL``, ``tool SERVER.NAME``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def span_name(data: Mapping[str, Any]) -> tuple[str, str]:
    """Return kind and name from a span's first record; the name is empty if it has none."""
    kind = "tool" if "tool_name" in data else _text(data.get("type"))
    return kind or "span", _name(kind, data)


def _name(kind: str, data: Mapping[str, Any]) -> str:
    if kind == "llm":
        config = data.get("config")
        model = config.get("model_name") if isinstance(config, dict) else None
        return _text(model) or _text(data.get("class"))
    if kind == "tool":
        server, tool = _text(data.get("server")), _text(data.get("tool_name"))
        return f"{server}.{tool}" if server else tool
    return _text(data.get("name")) or _text(data.get("class"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
