"""A Stream in a coroutine: the same records and commits, and an event loop that never blocks."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from agentpipe.core.result import Result
from agentpipe.errors import ConfigError
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink, said_after, stream
from agentpipe.sinks.base import Record
from agentpipe.sinks.late_reader import LateReader
from agentpipe.sinks.stream import Stream
from tests.support import wait_until

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 60.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(sink=f"sqlite:///{tmp_path}/results.db?synchronous=normal")
    publish(made, "a", "b", "c")
    return made


def publish(settings: Settings, *task_ids: str) -> None:
    sink = open_sink(settings)
    results = [Result(task_id=task_id, result=task_id) for task_id in task_ids]
    sink.publish([Record(each.task_id, orjson.dumps(each.to_dict())) for each in results])
    sink.close()


def group_reads(settings: Settings) -> list[str]:
    """Results that the group has not used yet."""
    with Stream.open(settings, group="g", start="beginning", timeout_s=0) as rest:
        return [result.task_id for result in rest]


def threads() -> int:
    return sum(thread.name == "stream" for thread in threading.enumerate())


def read(settings: Settings, stop_at: str | None = None, **options: Any) -> list[str]:
    async def main() -> list[str]:
        found = []
        async with Stream.open(settings, group="g", start="beginning", **options) as results:
            async for result in results:
                found.append(result.task_id)
                if result.task_id == stop_at:
                    break
        return found

    return asyncio.run(main())


def test_the_results_come_in_order_and_are_committed(settings: Settings) -> None:
    assert read(settings, timeout_s=0) == ["a", "b", "c"]
    assert group_reads(settings) == []
    wait_until(lambda: threads() == 0, PATIENCE_S, "its thread has ended")


def test_a_loop_that_is_left_early_leaves_its_last_record(settings: Settings) -> None:
    assert read(settings, stop_at="b") == ["a", "b"]
    assert group_reads(settings) == ["b", "c"]


def test_a_task_that_is_cancelled_leaves_its_last_record(settings: Settings) -> None:
    async def main() -> None:
        at_b = asyncio.Event()

        async def use() -> None:
            async with Stream.open(settings, group="g", start="beginning") as results:
                async for result in results:
                    if result.task_id == "b":
                        at_b.set()
                        await asyncio.Event().wait()

        using = asyncio.create_task(use())
        await asyncio.wait_for(at_b.wait(), PATIENCE_S)
        using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await using

    asyncio.run(main())
    assert group_reads(settings) == ["b", "c"]
    wait_until(lambda: threads() == 0, PATIENCE_S, "its thread has ended")


def test_who_waits_and_is_cancelled_loses_no_record(settings: Settings) -> None:
    async def main() -> list[str]:
        found = []
        async with Stream.open(settings, group="g", start="beginning") as stream:
            results = aiter(stream)
            found += [(await anext(results)).task_id for _ in range(3)]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(results), 0.01)
            await asyncio.to_thread(publish, settings, "d")
            found.append((await asyncio.wait_for(anext(results), PATIENCE_S)).task_id)
        return found

    assert asyncio.run(main()) == ["a", "b", "c", "d"]
    assert group_reads(settings) == ["d"]


def test_the_loop_goes_on_while_the_sink_is_slow(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening, polling, committing and closing all happen in the stream's thread."""
    used: set[str] = set()

    def noted(name: str) -> Any:
        original = getattr(LateReader, name)

        def method(*args: Any) -> Any:
            used.add(threading.current_thread().name)
            return original(*args)

        return method

    for name in ("open", "poll", "commit", "recall", "close"):
        monkeypatch.setattr(LateReader, name, noted(name))
    assert read(settings, timeout_s=0) == ["a", "b", "c"]
    assert used == {"stream"}


def test_a_stream_that_is_opened_in_a_loop_reads_what_comes_from_then_on(
    settings: Settings,
) -> None:
    async def main() -> list[str]:
        opened = Stream.open(settings, timeout_s=0)
        await asyncio.to_thread(publish, settings, "d")
        with opened as results:
            return [result.task_id for result in results]

    assert asyncio.run(main()) == ["d"]


def test_a_wrong_url_is_said_where_it_is_used() -> None:
    async def main() -> None:
        async with Stream.open(Settings(sink="nonsense://")):
            raise AssertionError

    with pytest.raises(ConfigError):
        asyncio.run(main())


def test_a_stream_may_be_closed_twice_and_read_after_its_end(settings: Settings) -> None:
    async def main() -> list[str]:
        async with Stream.open(settings, start="beginning", timeout_s=0) as results:
            found = [result.task_id async for result in results]
        results.close()
        return found + [result.task_id async for result in results]

    assert asyncio.run(main()) == ["a", "b", "c"]


def test_a_stream_that_waits_says_so_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream, "SAID_AFTER_S", 0.01)
    monkeypatch.setattr(stream, "POLL_S", 0.02)
    opened = Stream.open(settings)
    reading = threading.Thread(target=lambda: list(opened))
    with caplog.at_level(logging.WARNING):
        reading.start()
        wait_until(lambda: caplog.records, PATIENCE_S, "it says that it waits")
        opened.stop()
        publish(settings, "d")
        reading.join(PATIENCE_S)
    opened.close()
    (said,) = [record.getMessage() for record in caplog.records]
    assert "waiting for more from sqlite:///" in said
    assert "timeout_s=10 ends the wait" in said


def test_what_takes_long_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(said_after, "SAID_AFTER_S", 0.01)
    with caplog.at_level(logging.WARNING), said_after.said_after("it takes long"):
        wait_until(lambda: caplog.messages == ["it takes long"], PATIENCE_S, "it is said")
    with said_after.said_after("never"):
        pass
    assert caplog.messages == ["it takes long"]
