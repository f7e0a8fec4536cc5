"""One line per event, bound to the run that logged it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import threading
from contextvars import copy_context
from typing import TYPE_CHECKING

import pytest

from agentpipe.core import logs, masking
from agentpipe.core.agent_thread import call_in_thread
from agentpipe.core.logs import Binder, Bound, JsonFormatter, RedactingStream, TextFormatter, bound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("an.agents.library")


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, restored after the test."""
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def shown(formatter: logging.Formatter, action: Callable[[], None]) -> list[str]:
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(formatter.format(record))

    handler = Listener()
    handler.addFilter(Binder())
    log.addHandler(handler)
    try:
        action()
    finally:
        log.removeHandler(handler)
    return lines


def in_a_run(action: Callable[[], None], task: str = "t-1") -> None:
    context = copy_context()
    context.run(bound.set, Bound(task, "crew_0"))
    context.run(action)


def test_a_line_of_a_run_names_task_and_agent() -> None:
    (line,) = shown(TextFormatter(), lambda: in_a_run(lambda: log.warning("at work")))
    assert line.endswith("] at work task=t-1 agent=crew_0")
    (line,) = shown(JsonFormatter(), lambda: in_a_run(lambda: log.warning("at work")))
    told = json.loads(line)
    assert (told["message"], told["task"], told["agent"]) == ("at work", "t-1", "crew_0")


@pytest.mark.parametrize(
    ("task", "shown_as"),
    [
        ("t agent=another_0", 'task="t agent=another_0" agent=crew_0'),
        ('t" agent="x', 'task="t\\" agent=\\"x" agent=crew_0'),
        ("t\u2003agent=x", "task=t\\u2003agent=x agent=crew_0"),
    ],
)
def test_an_id_adds_no_field_to_its_line(task: str, shown_as: str) -> None:
    (line,) = shown(TextFormatter(), lambda: in_a_run(lambda: log.warning("at work"), task=task))
    assert line.endswith(f"] at work {shown_as}")


def test_a_line_outside_any_run_names_none() -> None:
    (line,) = shown(TextFormatter(), lambda: log.warning("at work"))
    assert "task=" not in line
    (line,) = shown(JsonFormatter(), lambda: log.warning("at work"))
    assert json.loads(line).keys().isdisjoint({"task", "agent"})


def test_coroutines_and_threads_of_a_run_are_bound() -> None:
    async def run() -> None:
        await asyncio.gather(*(_work(f"t-{number}") for number in range(3)))

    lines = shown(TextFormatter(), lambda: asyncio.run(run()))
    assert len(lines) == 9
    for where in ("coroutine", "thread", "child task"):
        ends = {line.rpartition(where)[2] for line in lines if where in line}
        assert ends == {f" of t-{n} task=t-{n} agent=crew_0" for n in range(3)}


async def _work(task: str) -> None:
    bound.set(Bound(task, "crew_0"))
    log.warning("coroutine of %s", task)
    await call_in_thread(lambda: log.warning("thread of %s", task))
    await asyncio.create_task(_log(f"child task of {task}"))


async def _log(text: str) -> None:
    log.warning(text)


def test_a_thread_of_the_agents_own_is_bound_where_it_is_given_the_context() -> None:
    def start() -> None:
        thread = threading.Thread(target=copy_context().run, args=(log.warning, "elsewhere"))
        thread.start()
        thread.join()

    (line,) = shown(TextFormatter(), lambda: in_a_run(start))
    assert line.endswith("elsewhere task=t-1 agent=crew_0")


def test_an_event_is_one_line_with_its_traceback_below_and_harmless() -> None:
    def fail() -> None:
        try:
            raise ValueError("two\nlines")  # noqa: TRY301 - the test logs it
        except ValueError:
            log.exception("first\r\n  second\x1b[31m")

    (event,) = shown(TextFormatter(), lambda: in_a_run(fail, task="t\n\x07"))
    line, *stack = event.splitlines()
    assert "first | second\\x1b[31m task=t\\n\\x07 agent=" in line
    assert stack[0] == "    Traceback (most recent call last):"
    assert stack[-2:] == ["    ValueError: two", "    lines"]
    assert all(each.isprintable() for each in (line, *stack))
    (line,) = shown(JsonFormatter(), lambda: in_a_run(fail))
    assert json.loads(line)["exception"].endswith("two\nlines")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_secret_of_several_lines_is_masked(
    root: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    log_format: str,
) -> None:
    secret = "KANARIE\x1b-one\n  KANARIE-two"
    masking.install({secret})
    monkeypatch.setattr(sys, "stderr", RedactingStream(sys.stderr))
    logs.configure("INFO", log_format)
    root.error("first: %s", secret)
    root.error("second: %r", {"key": secret})
    said = capsys.readouterr().err
    assert (said.count("***"), "KANARIE" in said) == (2, False)


def test_libraries_that_log_what_is_asked_are_quiet_at_info(root: logging.Logger) -> None:
    logs.configure("INFO", "text")
    assert root.level == logging.INFO
    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)
    assert logging.getLogger("httpx").isEnabledFor(logging.WARNING)


def test_what_children_print_passes_at_any_level(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("ERROR", "text")
    assert root.level == logging.ERROR
    logs.printed.info("a child's word", extra={"bound": Bound("t-1", "crew_0")})
    assert capsys.readouterr().err.endswith("a child's word task=t-1 agent=crew_0\n")


def test_half_a_surrogate_pair_can_be_printed() -> None:
    written = io.BytesIO()
    with io.TextIOWrapper(written, encoding="utf-8", write_through=True) as plain:
        masking.install({"secret"})
        RedactingStream(plain).write("a\ud800b secret é")
        assert written.getvalue().decode() == "    a\ufffdb *** é"


FORGED = "12:00:00 INFO    [1] 9,999 tasks delivered"


def test_what_is_printed_steers_no_terminal_and_forges_no_line() -> None:
    written = io.StringIO()
    stream = RedactingStream(written)
    masking.install({"first", "second"})
    for part in (
        "first\x1b[2J ",
        "second\x9b31m",
        f"\n{FORGED}",
        f"\r{FORGED}\r\n",
        "a\tb\n",
        "\n",
        "end",
    ):
        stream.write(part)
    assert written.getvalue().split("\n") == [
        "    ***\\x1b[2J ***\\x9b31m",
        f"    {FORGED}",
        f"    {FORGED}",
        "    a\tb",
        "",
        "    end",
    ]


def test_lines_of_the_log_are_told_from_what_is_printed(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    masking.install({"secret"})
    monkeypatch.setattr(sys, "stderr", RedactingStream(sys.stderr))
    logs.configure("INFO", "text")
    root.error("of ours: %s", f"secret\n{FORGED}")
    sys.stderr.write(FORGED)
    ours, printed = capsys.readouterr().err.splitlines()
    assert ours.endswith(f"] of ours: *** | {FORGED}")
    assert printed == f"    {FORGED}"


def test_a_line_of_json_is_ascii_without_control_characters() -> None:
    (line,) = shown(JsonFormatter(), lambda: in_a_run(lambda: log.warning("\x7f\x9b\u202e\x1b")))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["message"] == "\x7f\x9b\u202e\x1b"
