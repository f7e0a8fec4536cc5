"""Logs: one line an event on stderr, for people or as JSON, with secrets masked."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO

from agentpipe.task import utc

if TYPE_CHECKING:
    from agentpipe.redactor import Redactor
    from agentpipe.settings import Settings


class RedactingStream:
    """Stands in for stdout or stderr: masks what agents print, and writes whole lines at once."""

    encoding = "utf-8"

    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        self._stream, self._redactor = stream, redactor
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Write ``text`` with its secrets masked."""
        with self._lock:
            self._stream.write(self._redactor.text(text))
        return len(text)

    def flush(self) -> None:
        """Flush what it stands for."""
        self._stream.flush()

    def isatty(self) -> bool:
        """False: what passes here is never drawn by cursor movements."""
        return False

    def fileno(self) -> int:
        """Of what it stands for."""
        return self._stream.fileno()


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time level logger message`` and ``exception`` if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line = {
            "time": utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # orjson refuses texts that are not quite Unicode.


class TextFormatter(logging.Formatter):
    """``time level [pid] message``, in UTC."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s [%(process)d] %(message)s", "%H:%M:%S")


def configure(settings: Settings) -> None:
    """Send this process's logs to the present stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    # Dramatiq's own lines repeat ours or hold a task's arguments.
    logging.getLogger("dramatiq").setLevel(logging.WARNING)


def redact_output(redactor: Redactor) -> None:
    """Mask secrets in everything that this process prints or logs from now on."""
    sys.stdout = RedactingStream(sys.stdout, redactor)
    sys.stderr = RedactingStream(sys.stderr, redactor)
