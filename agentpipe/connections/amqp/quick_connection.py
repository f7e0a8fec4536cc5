"""QuickConnection: pika's connection with a fast path for messages.

Passes raw frames to the ``Arrivals`` of their channel, and writes all frames of one event loop turn
together. Without TLS it writes to the socket directly and reads once per loop event, where pika
polls before each write and reads again after each read.
"""

from __future__ import annotations

from ssl import SSLSocket
from typing import TYPE_CHECKING, Any

from pika import frame
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import InvalidFrameError

from agentpipe.connections.amqp.wire import BESIDE, END, HEAD

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator

    from agentpipe.connections.amqp.arrivals import Arrivals

# pika reads 4 KB at a time.
READ_BYTES = 64 * 1024
# If the kernel accepts only part of a piece, pika copies the rest, repeatedly for a large piece.
PIECE_BYTES = 128 * 1024


class QuickConnection(AsyncioConnection):
    """pika's connection with the conversion between bytes and frames overridden.

    Attributes:
        arrivals: By channel number.
    """

    # Private attributes of pika that its type hints omit.
    _transport: Any
    _frame_buffer: bytes
    _body_max_length: int
    _adapter_emit_data: Callable[[bytes], None]
    _process_frame: Callable[[frame.Frame], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.arrivals: dict[int, Arrivals] = {}
        self._said: list[bytes] = []
        self._plain: socket.socket | None = None
        super().__init__(*args, **kwargs)

    def say(self, frames: Iterable[bytes]) -> None:
        """Write these frames at the end of this event loop turn."""
        if not self._said:
            self.ioloop.call_soon(self._write)
        for each in frames:
            self._said.append(each)
            self.bytes_sent += len(each)

    def _write(self) -> None:
        said, self._said = self._said, []
        for piece in pieces_of(said) if self._transport is not None else ():
            if left := piece[self._sent_at_once(piece) :]:
                self._adapter_emit_data(left)

    def _sent_at_once(self, piece: bytes) -> int:
        """Send what the kernel accepts now, unless data is waiting; returns the number of bytes."""
        if self._plain is None or self._transport.get_write_buffer_size():
            return 0
        try:
            return self._plain.send(piece)
        except OSError:  # Temporary or permanent: pika finds out which.
            return 0

    @property
    def largest_body(self) -> int:
        """The maximum body size of one frame."""
        return self._body_max_length

    def hear(self, data_in: bytes) -> None:
        """Process all complete frames."""
        frames = self._frame_buffer + data_in if self._frame_buffer else data_in
        at = 0
        while size := self._take(frames, at):
            at += size
            self.bytes_received += size
        self._frame_buffer = frames[at:]

    def _take(self, frames: bytes, at: int) -> int:
        """Process the frame at ``at``; returns its size, or 0 if it is incomplete."""
        if len(frames) - at < BESIDE:
            return 0
        kind, channel, held = HEAD.unpack_from(frames, at)
        arrivals, end = self.arrivals.get(channel), at + int(held) + BESIDE
        if arrivals is None or end > len(frames):
            return self._take_as_pika(frames[at:])
        if frames[end - 1] != END:
            raise InvalidFrameError("Invalid FRAME_END marker")
        if arrivals.take(kind, frames, at + HEAD.size, end - 1):
            return end - at
        return self._take_as_pika(frames[at:end])

    def _take_as_pika(self, frames: bytes) -> int:
        size: int
        size, found = frame.decode_frame(frames)
        if found is not None:
            self._process_frame(found)
        return size

    # Called by pika.

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = READ_BYTES  # noqa: SLF001 - pika has no setting for this
        if not isinstance(transport._sock, SSLSocket):  # noqa: SLF001 - not exposed
            self._plain = transport._sock  # noqa: SLF001 - not exposed
            transport._MAX_CONSUME_BYTES = 1  # noqa: SLF001 - the event loop reports unread data
        super()._proto_connection_made(transport)  # type: ignore[misc]  # pika has no types

    def _output_marshaled_frames(self, marshaled_frames: Iterable[bytes]) -> None:
        self.say(marshaled_frames)

    def _on_data_available(self, data_in: bytes) -> None:
        self.hear(data_in)


def pieces_of(frames: Iterable[bytes]) -> Iterator[bytes]:
    """Join small frames into pieces of up to ``PIECE_BYTES``."""
    small: list[bytes] = []
    size = 0
    for each in frames:
        if small and size + len(each) > PIECE_BYTES:
            yield b"".join(small)
            small, size = [], 0
        small.append(each)
        size += len(each)
    if small:
        yield b"".join(small)
