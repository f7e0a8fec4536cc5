"""Logging: one line per event on stderr, as text or JSON, with secrets masked."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from agentpipe.core import masking
from agentpipe.core.outside import valid_text
from agentpipe.core.text import printable
from agentpipe.core.timestamps import utc

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Bound:
    """The run that a log record belongs to."""

    task: str
    agent: str


# Inherited by coroutines and by the threads that agents run in, but not by threads that an agent
# starts itself.
bound: ContextVar[Bound | None] = ContextVar("agentpipe_bound", default=None)

# Output of child processes: logged at every level, since only they know its severity.
printed = logging.getLogger("agentpipe.printed")
printed.setLevel(logging.INFO)
# Libraries that log whole URLs at INFO; a URL can contain an agent's question.
_CHATTY = ("httpx", "httpx2", "httpcore", "urllib3")
TRACEBACK = "\nTraceback (most recent call last):"


# Agents' output is indented like a traceback: it can quote a task or a model, and must not look
# like a log line.
INDENT = "    "


class RedactingStream:
    """Replaces stdout or stderr: masks secrets, and serializes writes from several threads.

    In quoting mode, printed text cannot control a terminal or look like a log line.
    """

    encoding = "utf-8"

    def __init__(self, stream: TextIO, *, quotes: bool = True) -> None:
        self._stream, self._quotes = stream, quotes
        self._lock = threading.Lock()
        self._at_line_start = True

    def write(self, text: str) -> int:
        """Write printed text with secrets masked, indented in quoting mode."""
        with self._lock:
            masked = self.masked(text)
            self._stream.write(self._indented(masked) if self._quotes else masked)
        return len(text)

    def quote(self) -> None:
        """Treat everything printed from now on as output of agents."""
        self._quotes = True

    def write_log(self, text: str) -> int:
        """Write lines of a log formatter, with secrets masked."""
        with self._lock:
            self._stream.write(self.masked(text))
        return len(text)

    def _indented(self, text: str) -> str:
        """Indent lines; a carriage return, which would overwrite the line, starts a new one."""
        text = printable(text.replace("\r\n", "\n").replace("\r", "\n"), keep="\n\t")
        shown = []
        for line in text.splitlines(keepends=True):
            shown += [INDENT, line] if self._at_line_start and line != "\n" else [line]
            self._at_line_start = line.endswith("\n")
        return "".join(shown)

    def masked(self, text: str) -> str:
        """Return ``text`` with secrets masked, and valid: printing lone surrogates raises."""
        return valid_text(masking.masked(text))

    def flush(self) -> None:
        """Flush the wrapped stream."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Return False: do not draw with cursor movements here."""
        return False

    def fileno(self) -> int:
        """Return the wrapped stream's descriptor."""
        return self._stream.fileno()


class Binder(logging.Filter):
    """Attaches the current run to each record, as ``record.bound``."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True: no record is dropped."""
        if not hasattr(record, "bound"):  # Otherwise the caller set it.
            record.bound = bound.get()
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time level logger message``, in a run ``task`` and ``agent``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a newline."""
        line = {
            "time": utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if run := _bound_to(record):
            line |= {"task": run.task, "agent": run.agent}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # orjson refuses lone surrogates. json.dumps escapes all non-ASCII characters, but not DEL.
        return json.dumps(line, default=str).replace("\x7f", "\\u007f")


class TextFormatter(logging.Formatter):
    """``time level [pid] message``, in UTC, with ``task=... agent=...`` in a run; one line each.

    The lines of a traceback follow, indented, in the same write.
    """

    converter = staticmethod(time.gmtime)

    def __init__(self, masked: Callable[[str], str] = str) -> None:
        super().__init__("%(asctime)s %(levelname)-7s [%(process)d] %(message)s", "%H:%M:%S")
        self._masked = masked

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines without a trailing newline; lines of a message are joined by ``|``."""
        # Mask first: a multi-line secret would not be recognized in a joined line.
        whole = self._masked(super().format(record))
        message, begins, traceback = whole.partition(TRACEBACK if record.exc_info else "\0")
        line, run = _joined(message), _bound_to(record)
        if run:
            line = f"{line} task={_word(run.task)} agent={_word(run.agent)}"
        return "\n".join([line, *_indented(begins + traceback)])


def _bound_to(record: logging.LogRecord) -> Bound | None:
    run: Bound | None = getattr(record, "bound", None)
    return run


def _joined(message: str) -> str:
    parts = (part.strip() for part in message.splitlines())
    return printable(" | ".join(part for part in parts if part), keep="")


def _indented(text: str) -> list[str]:
    return [f"{INDENT}{printable(line)}" for line in text.splitlines() if line.strip()]


def _word(text: str) -> str:
    """Quote a value with a space, so that an id cannot add an ``agent=`` of its own."""
    word = printable(text, keep="")
    return '"{}"'.format(word.replace('"', '\\"')) if " " in word or '"' in word else word


class _LogLines:
    """Passes a formatter's lines to a stream that separates log lines from printed text."""

    def __init__(self, stream: RedactingStream) -> None:
        self.write, self.flush = stream.write_log, stream.flush


def _for_log(stream: TextIO) -> TextIO | _LogLines:
    return _LogLines(stream) if isinstance(stream, RedactingStream) else stream


def configure(level: str, line_format: str) -> None:
    """Send this process's logs to the current stderr."""
    handler = logging.StreamHandler(_for_log(sys.stderr))
    handler.addFilter(Binder())
    masked = sys.stderr.masked if isinstance(sys.stderr, RedactingStream) else str
    json_wanted = line_format == "json"
    handler.setFormatter(JsonFormatter() if json_wanted else TextFormatter(masked))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Dramatiq's lines repeat ours or contain a task's arguments.
    logging.getLogger("dramatiq").setLevel(logging.WARNING)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def redact_output() -> None:
    """Mask this process's secrets in everything that it prints or logs from now on."""
    sys.stdout = _redacting(sys.stdout)
    sys.stderr = _redacting(sys.stderr)


def _redacting(stream: TextIO | RedactingStream) -> RedactingStream:
    if isinstance(stream, RedactingStream):
        return stream
    return RedactingStream(stream, quotes=False)


def quote_output() -> None:
    """Treat later output of this process as agents'; a program that only sends never calls this."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, RedactingStream):
            stream.quote()
