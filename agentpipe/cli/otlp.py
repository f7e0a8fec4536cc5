"""Shared parts of the commands that send traces over OTLP."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from agentpipe.cli.output import say
from agentpipe.core.distribution import needs_extra
from agentpipe.core.redaction import without_password

if TYPE_CHECKING:
    import argparse

    from agentpipe.tracing.sender import TraceSender

OTLP = "otlp"


def add_content(parser: argparse.ArgumentParser) -> None:
    """Add ``--content``."""
    parser.add_argument(
        "--content",
        action="store_true",
        help="otlp: send questions, answers, messages and arguments of tools as well",
    )


def group_of(shown: str) -> str:
    """The consumer group for this collector."""
    return f"otlp-{hashlib.blake2b(shown.encode(), digest_size=8).hexdigest()}"


def trace_sender(url: str, *, content: bool) -> TraceSender:
    """Create a sender for the collector at this URL.

    Raises:
        MissingExtra: OpenTelemetry is not installed.
        ConfigError: The URL is not that of a collector.
    """
    if without_password(url) != url:
        say(
            "warning: the URL shows its password in the process list: set "
            "OTEL_EXPORTER_OTLP_HEADERS instead"
        )
    with needs_extra("traces need OpenTelemetry", "otel", "opentelemetry", "requests"):
        from agentpipe.tracing.sender import TraceSender
    return TraceSender(url, content=content)
