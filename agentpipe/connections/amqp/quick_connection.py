"""QuickConnection: pika's connection, with a short way for what is said of each message.

It hands frames to the ``Arrivals`` of their channel as they are, and writes all that is said in one
turn of the loop at once. Without TLS that goes to the system as soon as it is said, and what comes
is read once for each time that the loop finds something: pika would ask before, and again after.
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
# What the system takes of a piece only in part, pika copies: a large one again and again.
PIECE_BYTES = 128 * 1024


class QuickConnection(AsyncioConnection):
    """As pika's, which it overrides where bytes become frames, and frames bytes.

    Attributes:
        arrivals: By the number of the channel.
    """

    # pika's own, which its types leave out.
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
        """Write these at the end of this turn of the loop."""
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
        """How many bytes of it the system takes now; nothing may wait before it."""
        if self._plain is None or self._transport.get_write_buffer_size():
            return 0
        try:
            return self._plain.send(piece)
        except OSError:  # It takes nothing now, or never again: pika finds out which.
            return 0

    @property
    def largest_body(self) -> int:
        """The size of what one frame may hold."""
        return self._body_max_length

    def hear(self, data_in: bytes) -> None:
        """Take all frames that are whole now."""
        frames = self._frame_buffer + data_in if self._frame_buffer else data_in
        at = 0
        while size := self._take(frames, at):
            at += size
            self.bytes_received += size
        self._frame_buffer = frames[at:]

    def _take(self, frames: bytes, at: int) -> int:
        """Take the frame that begins there; returns its size, or 0 where it is not whole."""
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

    # What pika calls.

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = READ_BYTES  # noqa: SLF001 - see above
        if not isinstance(transport._sock, SSLSocket):  # noqa: SLF001 - likewise
            self._plain = transport._sock  # noqa: SLF001 - likewise
            transport._MAX_CONSUME_BYTES = 1  # noqa: SLF001 - the loop tells of what is left
        super()._proto_connection_made(transport)  # type: ignore[misc]  # pika has no types

    def _output_marshaled_frames(self, marshaled_frames: Iterable[bytes]) -> None:
        self.say(marshaled_frames)

    def _on_data_available(self, data_in: bytes) -> None:
        self.hear(data_in)


def pieces_of(frames: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, with small frames put together."""
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
