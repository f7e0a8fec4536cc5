"""The Dramatiq internals that agentpipe uses: an upgrade that changes them fails here first."""

from __future__ import annotations

import ast
import inspect
import multiprocessing
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dramatiq
import dramatiq.cli
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import (
    Interrupt,
    MiddlewareError,
    SkipMessage,
    raise_thread_exception,
)

from agentpipe.sending.actor import AgentActor
from agentpipe.worker import middleware as ours
from agentpipe.worker.claims.consumer import Consumer
from agentpipe.worker.handshake import GOES_ON, VARIABLE, has_booted
from agentpipe.worker.loop.event_loop import EventLoop
from agentpipe.worker.middleware import PRIVATE_NAMES
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.synchronize import Event

PATIENCE_S = 20.0


@pytest.fixture
def broker() -> StubBroker:
    return StubBroker(middleware=[])


def double_of(kind: type, calls: list[str]) -> Any:
    """A double with the methods of ``kind`` that Dramatiq calls; records their calls."""

    class Double:
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__") or not hasattr(kind, name):
                raise AttributeError(name)
            return lambda *_, **__: calls.append(f"{kind.__name__}.{name}")

    return Double()


class Installer(dramatiq.Middleware):
    """Installs doubles where Workers installs our threads."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.asked: list[tuple[str, bool]] = []

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        del broker
        consumer, loop = double_of(Consumer, self.calls), double_of(EventLoop, self.calls)
        self.calls.append("before_worker_boot")

        def add_consumer(queue_name: str, *, delay: bool = False) -> None:
            self.asked.append((queue_name, delay))
            if not delay:
                worker.consumers[queue_name] = consumer

        def add_worker() -> None:
            self.calls.append("add_worker")
            worker.workers.append(loop)

        worker._add_consumer = add_consumer  # type: ignore[method-assign]  # noqa: SLF001 - the contract
        worker._add_worker = add_worker  # type: ignore[method-assign]  # noqa: SLF001 - the contract
        worker.worker_threads = 1

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        del broker, worker
        self.calls.append("after_worker_boot")

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        del broker, worker
        self.calls.append("before_worker_shutdown")


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_a_worker_has_what_we_replace(broker: StubBroker, name: str) -> None:
    assert hasattr(dramatiq.Worker(broker), name)


def test_every_private_attribute_that_we_touch_is_named() -> None:
    tree = ast.parse(Path(ours.__file__).read_text())
    touched = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "worker"
        and hasattr(dramatiq.Worker(StubBroker(middleware=[])), node.attr)
    }
    assert touched == set(PRIVATE_NAMES)


def test_a_consumer_is_asked_for_by_queue_name_and_delay() -> None:
    parameters = inspect.signature(dramatiq.Worker._add_consumer).parameters  # noqa: SLF001 - the contract
    assert list(parameters) == ["self", "queue_name", "delay"]
    assert parameters["delay"].kind is inspect.Parameter.KEYWORD_ONLY
    assert list(inspect.signature(dramatiq.Worker._add_worker).parameters) == ["self"]  # noqa: SLF001 - the contract


def test_a_booting_worker_takes_our_threads_and_makes_none(broker: StubBroker) -> None:
    installer = Installer()
    broker.add_middleware(installer)
    broker.declare_queue("one")
    broker.declare_queue("two")
    before = threading.active_count()
    worker = dramatiq.Worker(broker, worker_threads=8)
    worker.start()
    assert installer.calls == ["before_worker_boot", "add_worker", "after_worker_boot"]
    assert {("one", False), ("two", False)} <= set(installer.asked)
    assert {"one", "two"} <= set(worker.consumers)
    assert threading.active_count() == before


def test_a_worker_process_notes_a_signal_in_a_variable_while_it_boots() -> None:
    source = inspect.getsource(dramatiq.cli.worker_process)
    assert GOES_ON in dramatiq.cli.worker_process.__code__.co_cellvars
    assert source.index(f"{GOES_ON} = False") < source.index("signal.SIGTERM, termhandler")
    assert source.index("signal.SIGTERM, termhandler") < source.index("import_broker(")
    assert source.index("worker.start()") < source.index(f"while {GOES_ON}:")


def test_a_worker_process_says_to_its_master_that_it_has_booted() -> None:
    source = inspect.getsource(dramatiq.cli.worker_process)
    assert list(inspect.signature(dramatiq.cli.worker_process).parameters)[-1] == VARIABLE
    assert source.index("worker.start()") < source.index(f"{VARIABLE}.set()")


def test_a_worker_of_dramatiqs_begins_once_its_master_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert has_booted()()

    def worker_process(event: Event) -> Callable[[], bool]:
        def start() -> Callable[[], bool]:
            return has_booted()

        found = start()
        assert found() == event.is_set()
        return found

    monkeypatch.setattr("dramatiq.cli.worker_process", worker_process)
    event = multiprocessing.Event()
    booted = worker_process(event)
    assert not booted()
    event.set()
    assert booted()


def test_no_thread_asks_whether_the_master_knows_while_a_signal_ends_the_process_at_once() -> None:
    """The thread that asks holds the lock that the master waits for."""
    source = inspect.getsource(ours.WorkerMiddleware._begin)  # noqa: SLF001 - the order in it
    assert source.index("self._booted()") < source.index("self._loop.start()")
    assert source.index("self._loop.start()") < source.index("self._consumer.begin(")


def test_a_queue_declared_later_is_asked_for_too(broker: StubBroker) -> None:
    installer = Installer()
    broker.add_middleware(installer)
    worker = dramatiq.Worker(broker)
    worker.start()
    broker.declare_queue("late")
    assert ("late", False) in installer.asked


def test_a_stopping_worker_stops_the_loop_before_the_consumer(broker: StubBroker) -> None:
    installer = Installer()
    broker.add_middleware(installer)
    broker.declare_queue("one")
    worker = dramatiq.Worker(broker)
    worker.start()
    installer.calls.clear()
    worker.stop(timeout=1000)
    assert list(dict.fromkeys(installer.calls)) == [
        "before_worker_shutdown",
        "EventLoop.stop",
        "EventLoop.join",
        "Consumer.stop",
        "Consumer.join",
        "Consumer.close",
    ]


def test_the_queues_asked_for_on_the_command_line_are_known(broker: StubBroker) -> None:
    assert dramatiq.Worker(broker, queues={"one"}).consumer_whitelist == {"one"}
    assert not dramatiq.Worker(broker).consumer_whitelist


def test_below_an_async_actor_is_its_coroutine_function(broker: StubBroker) -> None:
    async def work() -> None:
        """Do nothing."""

    def plain() -> None:
        """Do nothing."""

    actor = dramatiq.actor(broker=broker)(work)
    assert getattr(actor.fn, "__wrapped__", None) is work
    assert not inspect.iscoroutinefunction(actor.fn)
    assert dramatiq.actor(broker=broker)(plain).fn is plain


def test_an_exception_can_be_raised_in_a_thread() -> None:
    caught: list[BaseException] = []
    begun = threading.Event()

    class Stop(Interrupt):
        """Our own interrupt."""

    def spin() -> None:
        begun.set()
        try:
            while True:
                time.sleep(0.001)
        except Stop as error:
            caught.append(error)

    thread = threading.Thread(target=spin)
    thread.start()
    begun.wait(PATIENCE_S)
    raise_thread_exception(thread.ident, Stop)  # type: ignore[no-untyped-call]
    wait_until(lambda: not thread.is_alive(), PATIENCE_S, "the thread ends")
    assert len(caught) == 1
    assert not issubclass(Interrupt, Exception)


class Raising(dramatiq.Middleware):
    """Raises ``error`` before and after a message."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def before_process_message(self, *_: Any) -> None:
        raise self.error

    def after_process_message(self, *_: Any, **__: Any) -> None:
        raise self.error


@pytest.mark.filterwarnings("ignore")
def test_only_middleware_errors_get_out_of_the_hooks_before() -> None:
    assert issubclass(SkipMessage, MiddlewareError)
    broker = StubBroker(middleware=[Raising(SkipMessage("x"))])
    with pytest.raises(SkipMessage):
        broker.emit_before("process_message", None)
    StubBroker(middleware=[Raising(ValueError("x"))]).emit_before("process_message", None)


def test_nothing_gets_out_of_the_hooks_after() -> None:
    for error in (SkipMessage("x"), ValueError("x")):
        StubBroker(middleware=[Raising(error)]).emit_after("process_message", None)


def test_a_message_proxy_hands_on_to_its_message(broker: StubBroker) -> None:
    message: dramatiq.Message[Any] = dramatiq.Message(
        queue_name="q", actor_name="a", args=(1,), kwargs={"x": 2}, options={}, message_id="m"
    )
    proxy = dramatiq.MessageProxy(message)
    assert (proxy.queue_name, proxy.actor_name, proxy.message_id) == ("q", "a", "m")
    assert (proxy.args, proxy.kwargs) == ((1,), {"x": 2})
    del broker


def test_send_goes_through_message_with_options_and_enqueue(broker: StubBroker) -> None:
    seen: list[Any] = []

    class OwnActor(dramatiq.Actor[..., None]):
        def message_with_options(self, **options: Any) -> dramatiq.Message[None]:
            seen.append(options)
            return super().message_with_options(**options)

    def work(*_: Any) -> None:
        """Do nothing."""

    actor = OwnActor(
        work, broker=broker, actor_name="own", queue_name="own", priority=0, options={}
    )
    assert broker.actors["own"] is actor
    assert "own" in broker.queues
    actor.send("x")
    actor.send_with_options(args=("y",), delay=10)
    assert [each["args"] for each in seen] == [("x",), ("y",)]
    assert broker.queues["own"].qsize() == 1
    assert broker.queues["own.DQ"].qsize() == 1


def test_an_agent_has_what_dramatiqs_constructor_gives_an_actor(broker: StubBroker) -> None:
    def work() -> None:
        """Do nothing."""

    source = inspect.getsource(dramatiq.Actor.__init__)
    given = set(re.findall(r"self\.(\w+)(?:: [^=]+)? = ", source))
    assert given == set(vars(dramatiq.actor(broker=broker)(work)))
    assert given <= set(re.findall(r"self\.(\w+)", inspect.getsource(AgentActor.__init__)))
    assert source.rstrip().endswith("self.broker.declare_actor(self)")


def test_the_version_is_one_that_this_was_written_for() -> None:
    assert re.match(r"2\.2\.", dramatiq.__version__)
