"""Caps: how much a model, a server or a program can send. Errors name the exceeded cap.

Caps are far above normal sizes. Together they bound a run's memory, whatever it receives.
"""

from __future__ import annotations

MIB = 1024 * 1024

# HTTP, from models and MCP servers: one response, or all events of a stream, after decoding.
MAX_BODY_BYTES = 64 * MIB
# Lines of the same: events take time to parse, and JSON has no newlines within strings.
MAX_BODY_LINES = 1_000_000
# One message of an MCP server: a line of stdio, or an event of a stream.
MAX_MESSAGE_BYTES = 64 * MIB
# Bytes that an MCP server sends since its last answer without answering anything.
MAX_UNASKED_BYTES = 64 * MIB
# Messages queued for an MCP server that does not read them.
MAX_UNREAD_MESSAGES = 10_000
# Requests from an MCP server that are being answered.
MAX_SERVER_REQUESTS = 100

# JSON from outside: objects, lists and commas. A value takes up to 200 bytes of memory.
MAX_JSON_VALUES = 2_000_000
# Above the depth limit of an answer, below that of a Result.
MAX_JSON_DEPTH = 220

# An MCP server's list of tools.
MAX_TOOL_PAGES = 1_000
MAX_TOOLS = 1_000
MAX_TOOL_NAME_CHARS = 1_000
MAX_DESCRIPTION_CHARS = 100_000
MAX_SCHEMA_BYTES = 1 * MIB
MAX_TOOL_LIST_BYTES = 16 * MIB

# A model's response, and the request sent to it.
MAX_TOOL_CALLS = 256
MAX_ARGUMENTS_CHARS = 4 * MIB
MAX_REQUEST_BYTES = 64 * MIB
MAX_IMAGES = 20
MAX_IMAGES_BYTES = 16 * MIB

# A record in a result stream in an SQLite file: the sink cuts a larger one, readers skip it. The
# largest answer, trace and task fit several times. The batch caps apply to a Kafka batch after
# decompression.
MAX_RECORD_BYTES = 256 * MIB
MAX_BATCH_BYTES = 128 * MIB
MAX_BATCH_RECORDS = 200_000

# Programs: a command's answer (unless its config allows more), a line from an agent's own process,
# and the kept tail of a program's stderr.
MAX_OUTPUT_BYTES = 16 * MIB
MAX_PROCESS_LINE_BYTES = 256 * MIB
STDERR_END_BYTES = 4_000


class CapExceeded(Exception):  # noqa: N818 - reads as what happened
    """Something sent more than a cap allows."""

    def __init__(self, what: str, limit: int, cap: str) -> None:
        remedy = "nothing honest is as large; see what it sends"
        super().__init__(f"it sent more than {limit:,} {what} ({cap}): {remedy}")
