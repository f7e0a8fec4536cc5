"""Agents of the scratch projects; the question decides what an agent does.

A question is a verb and its argument. Each run records its start and end in a journal, which
shows what ran, where and when, independently of agentpipe.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import json
import logging
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import agentpipe

# Stands for a user's library that logs by itself as soon as it is imported.
own_log = logging.getLogger("toys.own")
own_log.addHandler(logging.StreamHandler())
own_log.propagate = False


class Toy:
    """Answers on the worker's event loop."""

    def __init__(self, journal: str) -> None:
        self.journal = Journal(journal)

    async def execute(self, task: Any, context: Any) -> Any:
        """Execute the question."""
        self.journal.note("started", task, context)
        verb, _, argument = task.question.partition(" ")
        if verb in _COROUTINES:
            answer = await _COROUTINES[verb](argument, self.journal, task)
        else:
            answer = _FUNCTIONS[verb](argument, task, context)
        self.journal.note("finished", task, context)
        return answer


class PlainToy(Toy):
    """The same with a plain function, which runs in a thread."""

    def execute(self, task: Any, context: Any) -> Any:
        """Execute the question."""
        self.journal.note("started", task, context)
        verb, _, argument = task.question.partition(" ")
        answer = _FUNCTIONS[verb](argument, task, context)
        self.journal.note("finished", task, context)
        return answer


class SlowToEnd(PlainToy):
    """Can continue for a minute after its cancellation."""

    grace_s = 60.0


class Journal:
    """One line per event, appended in a single write so that processes do not interleave."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def note(self, event: str, task: Any, context: Any) -> None:
        """Append an event."""
        line = {
            "event": event,
            "task_id": task.task_id,
            "who": context.env.get("WHO", ""),
            "pid": os.getpid(),
            "wall": time.time(),
            "monotonic": time.monotonic(),
        }
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(file, json.dumps(line).encode() + b"\n")
        os.close(file)

    def starts(self, task_id: str) -> int:
        """How many times the task has started so far."""
        text = self.path.read_text()
        whole = text[: text.rfind("\n") + 1]  # The last line may be incomplete.
        entries = map(json.loads, whole.splitlines())
        return sum(e["event"] == "started" and e["task_id"] == task_id for e in entries)


async def _sleep(argument: str, _journal: Journal, _task: Any) -> str:
    await asyncio.sleep(float(argument))
    return "slept"


async def _wait_for_file(argument: str, _journal: Journal, _task: Any) -> str:
    while not Path(argument).exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.05)
    return "waited"


async def _sleep_at_first(argument: str, journal: Journal, task: Any) -> str:
    if journal.starts(task.task_id) == 1:
        await asyncio.sleep(float(argument))
    return "awake"


async def _beat_at_first(argument: str, journal: Journal, task: Any) -> str:
    """Record regularly that the first run is alive."""
    first, ends = journal.starts(task.task_id) == 1, time.monotonic() + float(argument)
    while first and time.monotonic() < ends:
        journal.note("beat", task, agentpipe.Context())
        await asyncio.sleep(0.05)
    return "awake"


async def _block_at_first(argument: str, journal: Journal, task: Any) -> str:
    if journal.starts(task.task_id) == 1:
        time.sleep(float(argument))  # noqa: ASYNC251 - the bug under test
    return "awake"


async def _raise_later(error: BaseException) -> None:
    raise error


async def _end_loop(how: str, _journal: Journal, _task: Any) -> str:
    """End the worker's event loop."""
    loop = asyncio.get_running_loop()
    if how == "exit":
        lost = asyncio.create_task(_raise_later(SystemExit(3)))
    elif how == "keyboard":
        loop.call_soon(_raise, KeyboardInterrupt())
    elif how == "stop":
        loop.stop()
    elif how == "async":
        thread, error = ctypes.c_ulong(threading.get_ident()), ctypes.py_object(SystemExit)
        raising = ctypes.pythonapi.PyThreadState_SetAsyncExc
        threading.Timer(0.3, raising, (thread, error)).start()
        loop.call_later(0.5, str)  # Wakes the waiting loop, which then raises.
    await asyncio.sleep(60)
    return str(lost)


def _cancel_on(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel all tasks repeatedly while the loop lives."""
    for each in asyncio.all_tasks(loop):
        each.cancel()
    loop.call_later(0.01, _cancel_on, loop)


async def _meddle(how: str, *_: Any) -> str:
    """Disturb the worker's event loop as code can that expects a process of its own."""
    loop = asyncio.get_running_loop()
    if how == "cancel":
        await asyncio.sleep(1)
        for each in asyncio.all_tasks() - {asyncio.current_task()}:
            each.cancel()
    elif how == "cancel-on":
        _cancel_on(loop)
    elif how == "factory":
        loop.set_task_factory(lambda *_args, **_options: _raise(RuntimeError("not mine")))
    elif how == "executor":
        await loop.shutdown_default_executor()
    elif how == "fork":
        await asyncio.sleep(1)
        if not os.fork():
            return "the copy goes on"
    return how


async def _think(argument: str, *_: Any) -> str:
    """Run in steps, and finish in a thread of the loop's executor."""
    for _step in range(20):
        await asyncio.sleep(float(argument) / 20)
    return await asyncio.to_thread(lambda: argument)


async def _end_loop_at_first(how: str, journal: Journal, task: Any) -> str:
    return await _end_loop(how, journal, task) if journal.starts(task.task_id) == 1 else "alive"


async def _swallow(argument: str, _journal: Journal, _task: Any) -> str:
    until = time.monotonic() + float(argument)
    while time.monotonic() < until:
        try:
            await asyncio.sleep(until - time.monotonic())
        except asyncio.CancelledError:
            continue
    return "nobody stops me"


async def _fail_until_run(argument: str, journal: Journal, task: Any) -> str:
    if journal.starts(task.task_id) < int(argument):
        raise agentpipe.InfraError("the model's server is away")
    return "recovered"


async def _limited_at_first(argument: str, journal: Journal, task: Any) -> str:
    if journal.starts(task.task_id) == 1:
        raise agentpipe.InfraError("slow down", retry_after_s=float(argument))
    return "served"


def _hold(*_: Any) -> None:
    """Hold the GIL for years."""
    re.match(r"(a+)+$", "a" * 60 + "b")


async def _hold_in_task(*_: Any) -> None:
    async def hold() -> None:
        _hold()

    await asyncio.gather(asyncio.sleep(60), hold())


async def _hold_in_thread(*_: Any) -> None:
    await asyncio.to_thread(_hold)


def _freeze(*_: Any) -> None:
    """Stop the process; its last thread can take a moment to stop."""
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)


_COROUTINES: dict[str, Any] = {
    "hold-in-task": _hold_in_task,
    "hold-in-thread": _hold_in_thread,
    "sleep": _sleep,
    "wait-for-file": _wait_for_file,
    "sleep-at-first": _sleep_at_first,
    "beat-at-first": _beat_at_first,
    "block-at-first": _block_at_first,
    "end-loop": _end_loop,
    "end-loop-at-first": _end_loop_at_first,
    "meddle": _meddle,
    "think": _think,
    "swallow": _swallow,
    "fail-until-run": _fail_until_run,
    "limited-at-first": _limited_at_first,
}


class Hostile(Exception):  # noqa: N818 - the name describes it
    """Raises when it is shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Unreadable(Exception):  # noqa: N818 - the name describes it
    """Raises on every attribute access, even for its class."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class OddText(str):
    """A string subclass that overrides methods."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        """Raise."""
        raise RuntimeError("encode")


class Unprintable:
    """Raises SystemExit when it is shown."""

    def __repr__(self) -> str:
        raise SystemExit(3)

    __str__ = __repr__


def _raise(error: BaseException) -> Any:
    raise error


def _cycle(*_: Any) -> Any:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


def _deep(*_: Any) -> Any:
    deep: list[Any] = []
    for _level in range(100_000):
        deep = [deep]
    return deep


def _leak(how: str, task: Any, context: Any) -> Any:
    """Leak the credential in a way that agents can."""
    token = context.env["TOKEN"]
    if how == "raise":
        raise ValueError(f"401 for {token} and {dict(context.env)}")
    if how == "retry":
        raise agentpipe.InfraError(f"503 for {token}")
    if how == "log":
        logging.getLogger("some.library").error("using %s, %r", token, dict(context.env))
        own_log.warning("using %s", token)
    elif how == "print":
        print(task.task_id, token, dict(context.env))  # noqa: T201 - agents print
    elif how == "span":
        with agentpipe.trace.span({"type": "tool", token: [token]}) as span:
            span.add({"header": f"Bearer {token}", "all": json.dumps(dict(context.env))})
    elif how == "key":
        return {token: {"nested": [token]}}
    elif how == "tamper":
        task.metadata["token"] = token
        task.evaluators.clear()
    elif how == "bytes":
        return token.encode()
    elif how == "digest":
        digest = hashlib.sha256(token.encode()).hexdigest()
        return {"who": context.env["WHO"], "digest": digest, "names": [*context.env]}
    return {"who": context.env["WHO"], "token": token, "text": f"<{token}>"}


def _murmur(argument: str, *_: Any) -> str:
    logging.getLogger("toys.library").warning("at work")
    return argument


_FUNCTIONS: dict[str, Any] = {
    "murmur": _murmur,
    "echo": lambda argument, _task, _context: argument,
    "pay": lambda argument, *_: agentpipe.trace.record_usage({"usd": float(argument)}),
    "block": lambda argument, _task, _context: time.sleep(float(argument)),
    "hold": _hold,
    "freeze": _freeze,
    "exit-process": lambda argument, *_: os._exit(int(argument)),
    "kill": lambda *_: os.kill(os.getpid(), signal.SIGKILL),
    "who": lambda _argument, _task, context: dict(context.env),
    "leak": _leak,
    "raise": lambda argument, *_: _raise(ValueError(argument)),
    "unreadable-error": lambda *_: _raise(Unreadable()),
    "odd-text": lambda argument, *_: OddText(argument),
    "hostile-error": lambda *_: _raise(Hostile()),
    "infra": lambda *_: _raise(agentpipe.InfraError("away for good")),
    "refused": lambda *_: _raise(ConnectionRefusedError("nobody listens")),
    "exit": lambda *_: _raise(SystemExit(3)),
    "keyboard": lambda *_: _raise(KeyboardInterrupt()),
    "stop": lambda *_: _raise(StopIteration()),
    "cancelled": lambda *_: _raise(asyncio.CancelledError()),
    "base": lambda *_: _raise(BaseException("at the root")),
    "bytes": lambda *_: b"\xff\x00",
    "set": lambda *_: {1, 2},
    "nan": lambda *_: {"score": float("nan")},
    "cycle": _cycle,
    "deep": _deep,
    "object": lambda *_: Unprintable(),
    "objects": lambda *_: {"a": [Unprintable()]},
    "key": lambda *_: {Unprintable(): 1},
    "surrogate": lambda *_: "\ud800",
    "huge": lambda *_: 10**5000,
    "big": lambda *_: "x" * 5_000_000,
    "controls": lambda *_: "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e[red]markup[/red]\r\nsecond line",
}


def broken_judge(_answer: str) -> bool:
    """An evaluator that raises."""
    raise RuntimeError("the judge is ill")


def judge_in_time(answer: str, value: list[Any]) -> float:
    """Fail ``value[1]`` calls, then answer; the file ``value[0]`` counts the calls."""
    calls = Path(value[0])
    with calls.open("a") as file:
        file.write("call\n")
    if len(calls.read_text().splitlines()) <= value[1]:
        raise ConnectionError(f"the judge of {answer} is away")
    return 0.5 if answer == "right" else 0.0


def judge_loosely(answer: str, value: str) -> bool:
    """Compare without regard to case."""
    return answer.lower() == value


def judge_when_open(answer: str, value: str) -> bool:
    """Fail until the file ``value`` exists."""
    if not Path(value).exists():
        raise ConnectionError(f"the judge of {answer} is away")
    return answer == "right"


def judge_without_key(_answer: str) -> bool:
    """Fail because its service refuses the credential."""
    raise agentpipe.InfraError("the key is refused", permanent=True)


def judge_at_the_third_call(answer: str, value: list[str]) -> bool:
    """Fail the first call, hang in the second until the file ``value[1]`` exists, then answer."""
    calls = Path(value[0])
    with calls.open("a") as file:
        file.write("call\n")
    number = len(calls.read_text().splitlines())
    if number == 1:
        raise ConnectionError("away")
    while number == 2 and not Path(value[1]).exists():
        time.sleep(0.01)
    return answer == "right"
