"""Caps: how much a model, a server or a program may send. More is a failure that names its cap.

They are far above what honest ones send. Their sum bounds a run's memory, whatever it meets.
"""

from __future__ import annotations

MIB = 1024 * 1024

# HTTP, of models and MCP servers alike: one response, or all events of one, once decoded.
MAX_BODY_BYTES = 64 * MIB
# Of the same: events take time, and JSON has none within its strings.
MAX_BODY_LINES = 1_000_000
# One message of an MCP server: a line of stdio, an event of a stream.
MAX_MESSAGE_BYTES = 64 * MIB
# What an MCP server sends without answering anything, since its last answer.
MAX_UNASKED_BYTES = 64 * MIB
# Messages to an MCP server that it does not read.
MAX_UNREAD_MESSAGES = 10_000
# Requests of an MCP server that are being answered.
MAX_SERVER_REQUESTS = 100

# JSON from outside: objects, lists and commas. A value takes up to 200 bytes of memory.
MAX_JSON_VALUES = 2_000_000
# Deeper than an answer may be, and less deep than what a Result can hold.
MAX_JSON_DEPTH = 220

# An MCP server's list of tools.
MAX_TOOL_PAGES = 1_000
MAX_TOOLS = 1_000
MAX_TOOL_NAME_CHARS = 1_000
MAX_DESCRIPTION_CHARS = 100_000
MAX_SCHEMA_BYTES = 1 * MIB
MAX_TOOL_LIST_BYTES = 16 * MIB

# A model's response, and what is sent to it.
MAX_TOOL_CALLS = 256
MAX_ARGUMENTS_CHARS = 4 * MIB
MAX_REQUEST_BYTES = 64 * MIB
MAX_IMAGES = 20
MAX_IMAGES_BYTES = 16 * MIB

# A record of a stream of results in an SQLite file: the sink cuts a larger one, readers skip it. An
# answer, a trace and a task of the largest sizes fit several times. A batch of Kafka's, once
# decompressed.
MAX_RECORD_BYTES = 256 * MIB
MAX_BATCH_BYTES = 128 * MIB
MAX_BATCH_RECORDS = 200_000

# Programs: the answer of a command, unless its config says more, a line of an agent's own process,
# and what is kept of the end of a program's stderr.
MAX_OUTPUT_BYTES = 16 * MIB
MAX_PROCESS_LINE_BYTES = 256 * MIB
STDERR_END_BYTES = 4_000


class CapExceeded(Exception):  # noqa: N818 - reads as what happened
    """Something sent more than a cap allows."""

    def __init__(self, what: str, limit: int, cap: str) -> None:
        remedy = "nothing honest is as large; see what it sends"
        super().__init__(f"it sent more than {limit:,} {what} ({cap}): {remedy}")
