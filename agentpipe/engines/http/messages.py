"""Message: one response, parsed from the bytes of its connection."""

from __future__ import annotations

import httptools
import httpx2

MAX_HEAD_BYTES = 100 * 1024
_FIRST_FINAL_STATUS = 200
_FRAMED = frozenset({b"content-length", b"transfer-encoding"})


class ResponseMessage:
    """A response being received. Bytes of a second response are dropped, and close the connection.

    Attributes:
        unread: Number of body bytes that no reader has taken yet.
        has_head: Whether ``status`` and ``headers`` are known.
        is_whole: Whether the complete response has arrived.
        leaves_open: Whether the connection can be reused.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.unread = 0
        self.has_head = self.is_whole = self.leaves_open = False
        self._parts: list[bytes] = []
        self._fed_of_head = 0
        self._keeps_alive = False
        # The parser refers back to this object. Dropping it breaks the cycle: garbage collection is
        # rare.
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Parse received bytes.

        Raises:
            RemoteProtocolError: Not HTTP, or the head is too long.
        """
        if self._parser is None:
            self.leaves_open = False
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._refuse(f"not an HTTP response: {error}", error)
        if not self.has_head:
            self._fed_of_head += len(data)
            if self._fed_of_head > MAX_HEAD_BYTES:
                self._refuse(f"the head has more than {MAX_HEAD_BYTES:,} bytes", None)
        if self.is_whole:
            self._parser = None

    def _refuse(self, reason: str, cause: Exception | None) -> None:
        self._parser, self.leaves_open = None, False
        if not self.is_whole:
            raise httpx2.RemoteProtocolError(reason) from cause

    def end(self) -> None:
        """Handle the end of the connection.

        Raises:
            RemoteProtocolError: The response is incomplete.
        """
        self._parser, self.leaves_open = None, False
        if self.is_whole:
            return
        if not self.has_head or self._is_framed():
            what = "its response was whole" if self.has_head else "it had answered"
            raise httpx2.RemoteProtocolError(f"the server closed the connection before {what}")
        self.is_whole = True

    def _is_framed(self) -> bool:
        return any(name.lower() in _FRAMED for name, _ in self.headers)

    def taken(self) -> bytes:
        """Take the body bytes that arrived since the last call."""
        part = b"".join(self._parts)
        self._parts.clear()
        self.unread = 0
        return part

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        """Note a second response, which no request asked for: the connection cannot be reused."""
        self.leaves_open = self.leaves_open and not self.is_whole

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers after the body are ignored."""
        if not self.has_head:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Handle the end of a head."""
        if self.has_head or self._parser is None:
            return
        self.status = self._parser.get_status_code()
        self._keeps_alive = self._parser.should_keep_alive()
        if self.status < _FIRST_FINAL_STATUS:  # 1xx: the final response follows.
            self.headers.clear()
        else:
            self.has_head = True

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        if not self.is_whole:
            self._parts.append(data)
            self.unread += len(data)

    def on_message_complete(self) -> None:
        """Handle the end of the response; an interim 1xx response does not count."""
        if self.has_head and not self.is_whole:
            self.is_whole, self.leaves_open = True, self._keeps_alive
