"""LastWord: a worker's state, in memory that outlives it and that its watcher reads.

A process that is frozen, or whose interpreter is held by one call, can report nothing. So it writes
beforehand, with plain stores into memory: that it lives, what it holds, which run its loop executes
now, and which run each thread works for.

The layout: the header, a table of threads, a table of claims, and a table of the tails of their
ids. The claim table grows to the worker's needs and has room for tasks delivered ahead of their
claim. Pages that were never written take no memory.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from agentpipe.core.delivered import Delivered
from agentpipe.core.thread_marks import NO_RUN

if TYPE_CHECKING:
    from agentpipe.brokers.records import Claim

# Pid, whether it serves, beats, the run on the loop, the loop's thread, claims, length of the name,
# whether it drains.
_HEAD = struct.Struct("=II Q iI III")
_PID, _SERVES, _BEATS, _ON_LOOP, _LOOP_THREAD, _CLAIMS, _NAME, _DRAINS = 0, 4, 8, 16, 20, 24, 28, 32
_NAME_AT, _NAME_BYTES = _HEAD.size, 512
_U32, _I32, _U64 = struct.Struct("=I"), struct.Struct("=i"), struct.Struct("=Q")
_STATE = struct.Struct("=H")
# A thread's native id, and the place of its run.
_THREAD = struct.Struct("=Ii")
_THREADS_AT, THREADS = 1024, 4096
# State (free, held, begun, ahead or ended), length of the id, and number of the claim or delivery.
_CLAIM = struct.Struct("=HHQ")
_CLAIMS_AT = _THREADS_AT + THREADS * _THREAD.size
_ID_BYTES = 4 * 256
_CLAIM_BYTES = 64
_INLINE_BYTES = _CLAIM_BYTES - _CLAIM.size
_END_BYTES = _ID_BYTES - _INLINE_BYTES
_FREE, _HELD, _BEGUN, _AHEAD, _ENDED = 0, 1, 2, 3, 4
# Tasks delivered ahead that are tracked beside claimed ones; their places follow those of claims.
AHEAD = 4096
_MEMORY = "agentpipe-last-word"
# Files of a process that is not dumpable cannot be opened here, so its watcher inherits them.
_OWN_FILES = "/proc/self/fd/"


@dataclass(frozen=True, slots=True)
class HeldClaim:
    """A claim that the worker held.

    Attributes:
        begun: Whether its run had begun and not ended.
        ended: Whether its run had ended.
    """

    place: int
    task_id: str
    number: int
    begun: bool
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """The last word of a worker.

    Attributes:
        pid: 0 before the process has opened the file.
        on_loop: The place of the run that its loop executes; ``NO_RUN`` for none.
        loop_thread: Native id of the loop's thread.
        threads: Places of the runs with their own threads, by native thread id.
        claims: Held claims by place.
        ahead: What was delivered to it, perhaps also claimed.
    """

    worker: str
    pid: int
    on_loop: int
    loop_thread: int
    threads: dict[int, int]
    claims: dict[int, HeldClaim]
    ahead: tuple[Delivered, ...] = ()


class LastWordFile:
    """The watcher's side, which reads."""

    def __init__(self, file: int, path: str) -> None:
        self._file, self.path = file, path

    @classmethod
    def make(cls) -> Self:
        """A file for a worker that is about to start and inherits ``files``."""
        if sys.platform == "linux":  # An unnamed file leaves nothing behind.
            file = os.memfd_create(_MEMORY)
            path = f"{_OWN_FILES}{file}"
        else:
            file, path = tempfile.mkstemp(prefix="agentpipe-last-word-")
        os.ftruncate(file, _CLAIMS_AT)
        return cls(file, path)

    @classmethod
    def open(cls, path: str) -> Self:
        """Open the file of a running worker."""
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path)

    @property
    def files(self) -> tuple[int, ...]:
        """Descriptors that a process needs for ``path``, under the same numbers."""
        return _files(self.path)

    @property
    def serves(self) -> bool:
        """Whether the worker has ever served; before that its exit code is about its boot."""
        return bool(self._number(_U32, _SERVES))

    @property
    def drains(self) -> bool:
        """Whether the worker drains: once its runs end, nothing replaces it."""
        return bool(self._number(_U32, _DRAINS))

    @property
    def beats(self) -> int:
        """The number of its beats."""
        return self._number(_U64, _BEATS)

    @property
    def pid(self) -> int:
        """The worker's process; 0 before it has opened the file."""
        return self._number(_U32, _PID)

    def _number(self, kind: struct.Struct, at: int) -> int:
        (number,) = kind.unpack(os.pread(self._file, kind.size, at))
        return int(number)

    def read(self) -> Said:
        """Everything that the worker has written."""
        head = os.pread(self._file, _CLAIMS_AT, 0)
        pid, _, _, on_loop, loop_thread, capacity, length, _ = _HEAD.unpack_from(head)
        threads = _THREAD.iter_unpack(head[_THREADS_AT:])
        return Said(
            head[_NAME_AT : _NAME_AT + length].decode(errors="replace"),
            pid,
            on_loop - 1,  # In an empty file this is ``NO_RUN``.
            loop_thread,
            {thread: place for thread, place in threads if thread},
            *self._claims(capacity),
        )

    def _claims(self, capacity: int) -> tuple[dict[int, HeldClaim], tuple[Delivered, ...]]:
        found: dict[int, HeldClaim] = {}
        ahead: list[Delivered] = []
        for place in range(capacity):
            entry = os.pread(self._file, _CLAIM_BYTES, _CLAIMS_AT + place * _CLAIM_BYTES)
            if len(entry) < _CLAIM.size:
                break
            state, length, number = _CLAIM.unpack_from(entry)
            if state != _FREE:
                task_id = entry[_CLAIM.size :][:length]
                if length > _INLINE_BYTES:
                    task_id += os.pread(
                        self._file, length - _INLINE_BYTES, _end_at(capacity, place)
                    )
                name = task_id.decode(errors="replace")
                if state == _AHEAD:
                    ahead.append(Delivered(name, number))
                else:
                    found[place] = HeldClaim(
                        place, name, number, begun=state == _BEGUN, ended=state == _ENDED
                    )
        return found, tuple(ahead)

    def close(self) -> None:
        """Release the file; the worker keeps its own."""
        os.close(self._file)
        if not self.files:
            Path(self.path).unlink(missing_ok=True)


class LastWord:
    """The worker's side: each method is a store or two into memory.

    Attributes:
        on_loop: Holds one number: the place of the run that the loop executes, plus 1.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        for inherited in _files(path):  # Programs that an agent starts must not get it.
            os.set_inheritable(inherited, False)
        self._memory = mmap.mmap(self._file, _CLAIMS_AT)
        self._beats = self._slots = self._places = 0
        self._free, self._free_ahead = deque[int](), deque[int]()
        self._free_marks = deque(range(THREADS))
        # Written at each step of each run.
        self.on_loop = memoryview(self._memory)[_ON_LOOP : _ON_LOOP + _I32.size].cast("i")
        _U32.pack_into(self._memory, _PID, os.getpid())

    @classmethod
    def of(cls, path: str) -> Self:
        """Open the supervisor's file, or create one if there is none."""
        if path:
            with suppress(OSError):  # The supervisor is gone, or this process is not its worker.
                _refuse_other_files(path)
                return cls(path)
        own = LastWordFile.make()
        try:
            return cls(own.path)
        finally:
            own.close()

    @property
    def path(self) -> str:
        """Path for a watcher that inherits ``files``; only on Linux."""
        return f"{_OWN_FILES}{self._file}"

    @property
    def files(self) -> tuple[int, ...]:
        """See ``LastWordFile``."""
        return (self._file,)

    def serve(self, worker: str, slots: int) -> None:
        """Note that the worker serves, with room for ``slots`` claims."""
        # A claimed task was delivered before, and stays noted as such until it is settled.
        self._slots, self._places = slots, 2 * slots + AHEAD
        name, size = worker.encode()[:_NAME_BYTES], _end_at(self._places, self._places)
        os.ftruncate(self._file, size)
        self._memory = mmap.mmap(self._file, size)
        self._free.extend(range(slots))
        self._free_ahead.extend(range(slots, self._places))
        self._memory[_NAME_AT : _NAME_AT + len(name)] = name
        _U32.pack_into(self._memory, _NAME, len(name))
        _U32.pack_into(self._memory, _CLAIMS, self._places)
        _U32.pack_into(self._memory, _SERVES, 1)

    def drain(self) -> None:
        """Note that the worker takes nothing more and must not be replaced."""
        _U32.pack_into(self._memory, _DRAINS, 1)

    def beat(self) -> None:
        """Note that the process lives; called from one thread."""
        self._beats += 1
        _U64.pack_into(self._memory, _BEATS, self._beats)

    # Claims.

    def hold(self, claim: Claim) -> int:
        """Note a held claim; return its place, or ``NO_RUN`` if there is no room."""
        return self._write(self._free, claim.task_id, claim.number, _HELD)

    def lay(self, delivered: Delivered) -> int:
        """Note a task delivered ahead of its claim; return its place, as ``hold`` does."""
        return self._write(self._free_ahead, delivered.task_id, delivered.number, _AHEAD)

    def _write(self, free: deque[int], text: str, number: int, state: int) -> int:
        task_id = text.encode(errors="replace")
        if not free or len(task_id) > _ID_BYTES:
            return NO_RUN
        place = free.popleft()
        at = _CLAIMS_AT + place * _CLAIM_BYTES
        inline, end = task_id[:_INLINE_BYTES], task_id[_INLINE_BYTES:]
        self._memory[at + _CLAIM.size : at + _CLAIM.size + len(inline)] = inline
        if end:
            end_at = _end_at(self._places, place)
            self._memory[end_at : end_at + len(end)] = end
        _CLAIM.pack_into(self._memory, at, state, len(task_id), number)
        return place

    def begin(self, place: int) -> None:
        """Note that the claim's run begins."""
        self._note(place, _BEGUN)

    def end(self, place: int) -> None:
        """Note that the run has ended: it can no longer kill the worker, which settles it."""
        self._note(place, _ENDED)

    def let_go(self, place: int) -> None:
        """Note that the claim is no longer held, or the delivery was returned."""
        self._note(place, _FREE)
        if place != NO_RUN:
            (self._free if place < self._slots else self._free_ahead).append(place)

    def _note(self, place: int, state: int) -> None:
        if place != NO_RUN:
            _STATE.pack_into(self._memory, _CLAIMS_AT + place * _CLAIM_BYTES, state)

    # What runs where.

    def note_loop(self) -> None:
        """Note that the current thread is the loop's."""
        _U32.pack_into(self._memory, _LOOP_THREAD, threading.get_native_id())

    def enter_thread(self, place: int) -> int:
        """Note that the current thread works for this run; return the number of its mark."""
        try:
            mark = self._free_marks.popleft()
        except IndexError:  # More threads than any machine can run well.
            return NO_RUN
        at = _THREADS_AT + mark * _THREAD.size
        _THREAD.pack_into(self._memory, at, threading.get_native_id(), place)
        return mark

    def leave_thread(self, mark: int) -> None:
        """Remove the mark: the thread no longer works for the run."""
        if mark != NO_RUN:
            _THREAD.pack_into(self._memory, _THREADS_AT + mark * _THREAD.size, 0, 0)
            self._free_marks.append(mark)


def _end_at(places: int, place: int) -> int:
    """Where the tail of a long id is stored."""
    return _CLAIMS_AT + places * _CLAIM_BYTES + place * _END_BYTES


def _files(path: str) -> tuple[int, ...]:
    return (int(path.removeprefix(_OWN_FILES)),) if path.startswith(_OWN_FILES) else ()


def _refuse_other_files(path: str) -> None:
    """Refuse a descriptor that is another file, if the variable reached an agent's program."""
    if _files(path) and f"memfd:{_MEMORY}" not in os.readlink(path):  # noqa: PTH115 - no path
        raise FileNotFoundError(path)
