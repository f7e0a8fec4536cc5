"""LastWord: what a worker does, in memory that outlives it and that its watcher reads.

A process that freezes, or whose interpreter is held by one call, can say nothing any more. So it
writes beforehand, with plain stores into memory: that it lives, what it holds, which run its loop
executes now and which run each thread works for.

The layout: the header, a table of threads, a table of claims that grows to the worker's needs, with
room for what is delivered ahead of its claim, and a table of the ends of their ids. Pages that
nothing was written to take no memory.
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
# The system's number of a thread, and the place of its run.
_THREAD = struct.Struct("=Ii")
_THREADS_AT, THREADS = 1024, 4096
# Whether it is held (and whether its run goes on), the length of the id, the claim's number, or
# that of what was delivered ahead.
_CLAIM = struct.Struct("=HHQ")
_CLAIMS_AT = _THREADS_AT + THREADS * _THREAD.size
_ID_BYTES = 4 * 256
_CLAIM_BYTES = 64
_INLINE_BYTES = _CLAIM_BYTES - _CLAIM.size
_END_BYTES = _ID_BYTES - _INLINE_BYTES
_FREE, _HELD, _BEGUN, _AHEAD = 0, 1, 2, 3
# So many tasks that were delivered ahead are known beside those that are claimed; the places behind
# those of claims are theirs.
AHEAD = 4096
_MEMORY = "agentpipe-last-word"
# No process can open a file of another one here that keeps its memory to itself: it inherits it.
_OWN_FILES = "/proc/self/fd/"


@dataclass(frozen=True, slots=True)
class HeldClaim:
    """A claim that the worker held.

    Attributes:
        begun: Whether its run had begun, and not ended.
    """

    place: int
    task_id: str
    number: int
    begun: bool


@dataclass(frozen=True, slots=True)
class Said:
    """The last word of a worker.

    Attributes:
        pid: 0 before the process has opened the file.
        on_loop: The place of the run that its loop executes; ``NO_RUN`` for none.
        loop_thread: The system's number of the loop's thread.
        threads: The places of the runs that have threads of their own, by the thread's number.
        claims: By place.
        ahead: What was delivered to it; perhaps it is claimed, too.
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
        """A file for a worker that is to start and inherits ``files``."""
        if sys.platform == "linux":  # A file without a name leaves nothing behind.
            file = os.memfd_create(_MEMORY)
            path = f"{_OWN_FILES}{file}"
        else:
            file, path = tempfile.mkstemp(prefix="agentpipe-last-word-")
        os.ftruncate(file, _CLAIMS_AT)
        return cls(file, path)

    @classmethod
    def open(cls, path: str) -> Self:
        """That of a worker that runs."""
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path)

    @property
    def files(self) -> tuple[int, ...]:
        """The descriptors that a process needs for ``path``, under the same numbers."""
        return _files(self.path)

    @property
    def serves(self) -> bool:
        """Whether the worker has ever served; before that its exit code is about its boot."""
        return bool(self._number(_U32, _SERVES))

    @property
    def drains(self) -> bool:
        """Whether the worker was told to end once its runs have: nothing is to replace it."""
        return bool(self._number(_U32, _DRAINS))

    @property
    def beats(self) -> int:
        """How often it has beaten."""
        return self._number(_U64, _BEATS)

    @property
    def pid(self) -> int:
        """The worker's process; 0 before it has opened the file."""
        return self._number(_U32, _PID)

    def _number(self, kind: struct.Struct, at: int) -> int:
        (number,) = kind.unpack(os.pread(self._file, kind.size, at))
        return int(number)

    def read(self) -> Said:
        """All that the worker has written."""
        head = os.pread(self._file, _CLAIMS_AT, 0)
        pid, _, _, on_loop, loop_thread, capacity, length, _ = _HEAD.unpack_from(head)
        threads = _THREAD.iter_unpack(head[_THREADS_AT:])
        return Said(
            head[_NAME_AT : _NAME_AT + length].decode(errors="replace"),
            pid,
            on_loop - 1,  # An empty file says that there is none.
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
                    found[place] = HeldClaim(place, name, number, begun=state == _BEGUN)
        return found, tuple(ahead)

    def close(self) -> None:
        """Release it; the worker keeps its own."""
        os.close(self._file)
        if not self.files:
            Path(self.path).unlink(missing_ok=True)


class LastWord:
    """The worker's side: each method is a store or two into memory.

    Attributes:
        on_loop: Holds one number: the place of the run that the loop executes, and 1 more.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        for inherited in _files(path):  # No program that an agent starts gets it.
            os.set_inheritable(inherited, False)
        self._memory = mmap.mmap(self._file, _CLAIMS_AT)
        self._beats = self._slots = self._places = 0
        self._free, self._free_ahead = deque[int](), deque[int]()
        self._free_marks = deque(range(THREADS))
        # Each step of each run writes here.
        self.on_loop = memoryview(self._memory)[_ON_LOOP : _ON_LOOP + _I32.size].cast("i")
        _U32.pack_into(self._memory, _PID, os.getpid())

    @classmethod
    def of(cls, path: str) -> Self:
        """That of the supervisor's file, or of a file of its own where there is none."""
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
        """Where a watcher opens it that inherits ``files``; only on Linux."""
        return f"{_OWN_FILES}{self._file}"

    @property
    def files(self) -> tuple[int, ...]:
        """See ``LastWordFile``."""
        return (self._file,)

    def serve(self, worker: str, slots: int) -> None:
        """The worker serves from now on, with room for so many claims."""
        # What is claimed was delivered before, and is noted as such until it is settled.
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
        """The worker takes nothing more, and is not to be replaced."""
        _U32.pack_into(self._memory, _DRAINS, 1)

    def beat(self) -> None:
        """The process lives; from one thread."""
        self._beats += 1
        _U64.pack_into(self._memory, _BEATS, self._beats)

    # Claims.

    def hold(self, claim: Claim) -> int:
        """A claim is held from now on; returns its place, ``NO_RUN`` where there is no room."""
        return self._write(self._free, claim.task_id, claim.number, _HELD)

    def lay(self, delivered: Delivered) -> int:
        """A task was delivered ahead of its claim; returns its place, as ``hold`` does."""
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
        """Its run begins."""
        self._note(place, _BEGUN)

    def end(self, place: int) -> None:
        """Its run has ended: it does not end the worker any more, which settles it."""
        self._note(place, _HELD)

    def let_go(self, place: int) -> None:
        """It is held no longer, or has gone back."""
        self._note(place, _FREE)
        if place != NO_RUN:
            (self._free if place < self._slots else self._free_ahead).append(place)

    def _note(self, place: int, state: int) -> None:
        if place != NO_RUN:
            _STATE.pack_into(self._memory, _CLAIMS_AT + place * _CLAIM_BYTES, state)

    # Who runs.

    def note_loop(self) -> None:
        """The current thread is the loop's."""
        _U32.pack_into(self._memory, _LOOP_THREAD, threading.get_native_id())

    def enter_thread(self, place: int) -> int:
        """The current thread works for this run; returns the number of its mark."""
        try:
            mark = self._free_marks.popleft()
        except IndexError:  # More threads than any machine runs well.
            return NO_RUN
        at = _THREADS_AT + mark * _THREAD.size
        _THREAD.pack_into(self._memory, at, threading.get_native_id(), place)
        return mark

    def leave_thread(self, mark: int) -> None:
        """It works for it no longer."""
        if mark != NO_RUN:
            _THREAD.pack_into(self._memory, _THREADS_AT + mark * _THREAD.size, 0, 0)
            self._free_marks.append(mark)


def _end_at(places: int, place: int) -> int:
    """Where the end of a long id is."""
    return _CLAIMS_AT + places * _CLAIM_BYTES + place * _END_BYTES


def _files(path: str) -> tuple[int, ...]:
    return (int(path.removeprefix(_OWN_FILES)),) if path.startswith(_OWN_FILES) else ()


def _refuse_other_files(path: str) -> None:
    """The number may be another file's where the variable went on to a program of an agent."""
    if _files(path) and f"memfd:{_MEMORY}" not in os.readlink(path):  # noqa: PTH115 - no path
        raise FileNotFoundError(path)
