"""Workers: a Dramatiq middleware that puts our delivery in the place of Dramatiq's.

Dramatiq's worker has a thread or two per queue and one per running task. Ours has one
consumer for all queues and one event loop for all runs, so that a thousand waiting agents
cost about as much as one. ``PRIVATE_NAMES`` lists what of Dramatiq this relies on.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import multiprocessing.util
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.middleware import SkipMessage

from agentpipe.actor import AgentActor
from agentpipe.brokers.broker import ClaimedMessage, StoreBroker
from agentpipe.brokers.store import Settlement, Worker
from agentpipe.errors import AgentpipeError, Interrupted, TimeLimitExceeded
from agentpipe.forward import Forwarder
from agentpipe.thread import call_in_thread
from agentpipe.trace import Tracer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentpipe.results import Results
    from agentpipe.settings import Settings
    from agentpipe.sinks.sink import Sink

# Attributes of dramatiq.Worker that we replace, set, fill or read.
PRIVATE_NAMES = (
    "_add_consumer",
    "_add_worker",
    "worker_threads",
    "consumer_whitelist",
    "consumers",
    "workers",
)

# Small claims interleave with other processes' ones, so that none takes all there is.
CLAIM_BATCH = 32
# For so long a worker takes only its even share of what is ready, so that the others, who are
# woken meanwhile, get theirs; what they have not taken by then is for whoever comes.
SHARE_FOR_S = 0.02
MAX_SLOTS = 1_000
TICK_S = 1.0
# A thread that comes back from the disk waits for the interpreter for so long at the most;
# Python's own 5 ms would be the greater part of a short task's way through the process.
SWITCH_INTERVAL_S = 0.0005
MAX_OUTAGE_PAUSE_S = 2.0
# A loop that has not turned for so long is held up by an agent's code.
BLOCKED_AFTER_S = 5.0
LAST_WORDS_S = 5.0

log = logging.getLogger(__name__)


class Workers(dramatiq.Middleware):
    """Installs the consumer and the loop into the Dramatiq worker that boots."""

    def __init__(
        self, worker: Worker, settings: Settings, results: Results, open_sink: Callable[[], Sink]
    ) -> None:
        self._worker, self._settings = worker, settings
        self._results, self._open_sink = results, open_sink
        self._consumer: Consumer | None = None

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Replace what would make a thread per queue and per task."""
        assert isinstance(broker, StoreBroker)
        forwarder = Forwarder(broker.store, self._worker, self._open_sink)
        consumer = Consumer(broker, self._settings, self._results, forwarder)
        loop = LoopThread(broker, consumer, self._settings.grace_s)
        wanted = worker.consumer_whitelist

        def add_consumer(queue_name: str, *, delay: bool = False) -> None:
            if not delay and (not wanted or queue_name in wanted):
                worker.consumers[queue_name] = consumer  # type: ignore[assignment]

        def add_worker() -> None:
            worker.workers.append(loop)  # type: ignore[arg-type]

        worker._add_consumer = add_consumer  # type: ignore[method-assign]  # noqa: SLF001
        worker._add_worker = add_worker  # type: ignore[method-assign]  # noqa: SLF001
        worker.worker_threads = 1
        self._consumer, self._loop, self._forwarder = consumer, loop, forwarder

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Start to claim, now that all queues are known."""
        assert self._consumer is not None
        slots = self._settings.slots or _slots_for(broker)
        served = Worker(
            name=self._worker.name,
            host=self._worker.host,
            pid=os.getpid(),
            slots=slots,
            lease_s=self._worker.lease_s,
            queues=frozenset(worker.consumers),
        )
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        _raise_file_limit()
        self._loop.start()
        self._forwarder.start()
        self._consumer.begin(served, self._loop)
        Keeper(self._consumer, self._loop, self._settings.supervisor_pid).start()
        # A second SIGTERM makes Dramatiq leave without stopping its worker.
        multiprocessing.util.Finalize(None, self._consumer.leave, exitpriority=10)
        log.info("worker %s serves %d queues with %d slots", served.name, len(served.queues), slots)

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:  # noqa: ARG002 - Dramatiq's signature
        """Claim nothing more."""
        if self._consumer is not None:
            self._consumer.claim_no_more()


class Consumer:
    """Claims for all queues of the process, and settles what has run.

    Stands in for each of Dramatiq's consumer threads, hence its method names.
    """

    def __init__(
        self, broker: StoreBroker, settings: Settings, results: Results, forwarder: Forwarder
    ) -> None:
        self.broker, self.results, self.forwarder = broker, results, forwarder
        self.ends_by = float("inf")
        self._settings = settings
        self._joined = False
        self._claiming = True
        self._stopping = False
        self._held: dict[str, ClaimedMessage] = {}
        self._finished: deque[ClaimedMessage] = deque()
        self._wake = threading.Event()
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="agentpipe-consume", daemon=True)
        self._waker = threading.Thread(target=self._watch, name="agentpipe-watch", daemon=True)

    def begin(self, worker: Worker, loop: LoopThread) -> None:
        """Start to claim, as soon as the store answers."""
        self.worker, self._loop = worker, loop
        self._thread.start()
        self._waker.start()

    @property
    def held(self) -> list[ClaimedMessage]:
        """What this process has claimed and not settled."""
        return list(self._held.values())

    def post_process_message(self, message: ClaimedMessage) -> None:
        """Settle a message soon; from any thread."""
        self._finished.append(message)
        self._wake.set()

    def claim_no_more(self) -> None:
        """Let what runs finish, and take nothing new."""
        self._claiming = False
        self.ends_by = time.monotonic() + self._settings.grace_s + 3 * LAST_WORDS_S

    def keep(self) -> None:
        """Renew the lease; where it was lost, interrupt what runs here and join again.

        Raises:
            Unreachable: The store does not answer.
        """
        if self._joined and not self.broker.store.extend(self.worker):
            log.warning("the lease was lost: its tasks went to other workers")
            self._abandon()

    def _abandon(self) -> None:
        self._loop.interrupt_all()
        self.broker.store.join(self.worker)

    def leave(self) -> None:
        """Give back all that is held, uncounted; once is enough."""
        if self._joined:
            back = self.broker.store.leave(self.worker)
            self._joined = False
            log.info("worker %s ends and gives back %d tasks", self.worker.name, back)

    def stop(self) -> None:
        """Settle what has finished, give back the rest, carry off the outbox, and end."""
        self._claiming = False
        self._stopping = True
        self._wake.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for that."""
        self._thread.join(timeout)

    def close(self) -> None:
        """Nothing is left to do after ``join``."""

    def pause(self) -> None:
        """Dramatiq's tests call it; a pause is not ours to give."""

    def _run(self) -> None:
        greedy_at = math.inf
        while not self._stopping:
            rung = self._wake.wait(_until(greedy_at))
            self._wake.clear()
            greedy = time.monotonic() >= greedy_at
            if greedy:
                greedy_at = math.inf
            elif rung and greedy_at == math.inf:
                greedy_at = time.monotonic() + SHARE_FOR_S
            try:
                self._turn(greedy=greedy)
            except AgentpipeError as error:
                self._failed(error)
            except Exception:
                log.exception("the consumer met a bug of agentpipe's; it goes on")
                time.sleep(TICK_S)
        self._last_turn()

    def _turn(self, *, greedy: bool) -> None:
        if not self._joined:
            self.broker.store.join(self.worker)
            self._joined = True
        settled = self._settle()
        while self._claiming and (claimed := self._claim(greedy=greedy)):
            self._loop.start_runs(claimed)
            settled += self._settle()
        if settled:  # The next runs are on their way while the disk works for the last ones.
            self.broker.store.sync()
            self.forwarder.notify()
        if self._failures:
            log.warning("the broker answers again, after %d tries", self._failures)
            self._failures = 0

    def _last_turn(self) -> None:
        """At the end, a store that is away has some seconds to come back."""
        deadline = time.monotonic() + LAST_WORDS_S
        while time.monotonic() < deadline:
            try:
                self._settle()
                self.broker.store.sync()
                self.forwarder.stop(max(0.0, deadline - time.monotonic()))
                self.leave()
            except AgentpipeError as error:
                self._failed(error)
            else:
                return

    def _settle(self) -> int:
        batch = [self._finished[index] for index in range(len(self._finished))]
        if not batch:
            return 0
        done = self.broker.store.settle([self._settlement_of(message) for message in batch])
        for message, settled in zip(batch, done, strict=True):
            self._finished.popleft()
            self._held.pop(message.claim.task_id, None)
            if not settled:
                log.warning(
                    "task %s: its lease was lost, the run does not count", message.claim.task_id
                )
        return len(batch)

    def _settlement_of(self, message: ClaimedMessage) -> Settlement:
        return message.settlement or self.results.give_up(self.broker, message)

    def _claim(self, *, greedy: bool) -> list[ClaimedMessage]:
        free = self.worker.slots - len(self._held)
        if free <= 0:
            return []
        claims = self.broker.store.claim(
            self.worker,
            min(free, CLAIM_BATCH),
            high_water=self._settings.outbox_high_water,
            high_water_bytes=self._settings.outbox_high_water_bytes,
            held=None if greedy else len(self._held),
        )
        messages = [ClaimedMessage(claim) for claim in claims]
        for message in messages:
            self._held[message.claim.task_id] = message
        return messages

    def _watch(self) -> None:
        while not self._stopping:
            try:
                self.broker.store.wait(TICK_S)
            except Exception:  # noqa: BLE001 - the consumer meets the same store, and tells
                time.sleep(TICK_S)
            self._wake.set()

    def _failed(self, error: AgentpipeError) -> None:
        if not self._failures:
            log.warning("the broker does not answer, the worker waits for it: %s", error)
        self._failures += 1
        time.sleep(min(MAX_OUTAGE_PAUSE_S, 0.05 * 2**self._failures))
        self._wake.set()


class LoopThread(threading.Thread):
    """The event loop that all runs share. Stands in for Dramatiq's worker threads."""

    def __init__(self, broker: StoreBroker, consumer: Consumer, grace_s: float) -> None:
        super().__init__(name="agentpipe-loop", daemon=True)
        self._broker, self._consumer, self._grace_s = broker, consumer, grace_s
        self._loop = asyncio.new_event_loop()
        self._loop.set_task_factory(_make_task)
        self._runs: dict[asyncio.Task[None], ClaimedMessage] = {}
        self._interrupted: set[str] = set()
        self._turned = True

    def run(self) -> None:
        """Turn until ``stop``."""
        self._loop.run_forever()

    def start_runs(self, messages: list[ClaimedMessage]) -> None:
        """Run claimed messages; from any thread."""
        self._loop.call_soon_threadsafe(self._start_runs, messages)

    def stop(self) -> None:
        """Let runs finish within the grace, interrupt the rest, close the agents, and end."""
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop)

    def pause(self) -> None:
        """Dramatiq's tests call it; a pause is not ours to give."""

    def interrupt_all(self) -> None:
        """End all runs and give their tasks back; from any thread."""
        self._loop.call_soon_threadsafe(self._interrupt, list(self._runs))

    def ask_to_turn(self) -> bool:
        """Whether the loop has turned since the last call; from one thread."""
        turned, self._turned = self._turned, False
        self._loop.call_soon_threadsafe(self._note_turn)
        return turned

    def running(self) -> ClaimedMessage | None:
        """Whose code the loop's thread is in now, if an agent's; from any thread."""
        task = asyncio.current_task(self._loop)
        return task.message if isinstance(task, _Task) else None

    def stack(self) -> str:
        """Where the loop's thread is now."""
        frame = sys._current_frames().get(self.ident or 0)  # noqa: SLF001 - documented for debuggers
        return "".join(traceback.format_stack(frame)) if frame else ""

    def _note_turn(self) -> None:
        self._turned = True

    def _start_runs(self, messages: Iterable[ClaimedMessage]) -> None:
        for message in messages:
            context = contextvars.copy_context()
            context.run(_message.set, message)
            run = self._loop.create_task(self._process(message), context=context)
            self._runs[run] = message
            run.add_done_callback(self._ended)

    def _ended(self, run: asyncio.Task[None]) -> None:
        message = self._runs.pop(run)
        self._interrupted.discard(message.claim.task_id)
        if run.cancelled():  # Before its first step.
            message.settlement = Settlement(message.claim, "release")
        self._consumer.post_process_message(message)

    async def _process(self, message: ClaimedMessage) -> None:
        """Dramatiq's life of a message: signals before and after, whatever happens between."""
        try:
            self._broker.emit_before("process_message", message)
            outcome = await self._perform(message)
            self._broker.emit_after("process_message", message, result=outcome)
        except SkipMessage:
            self._broker.emit_after("skip_message", message)
        except BaseException as error:  # noqa: BLE001 - all of it is the run's outcome
            ours = message.claim.task_id in self._interrupted
            ending = Interrupted() if ours else error
            self._broker.emit_after("process_message", message, exception=ending)

    async def _perform(self, message: ClaimedMessage) -> Any:
        actor = self._broker.get_actor(message.actor_name)
        if isinstance(actor, AgentActor):
            assert actor.runner is not None
            assert message.task is not None
            message.tracer = Tracer()
            return await actor.runner.run(message.task, message.tracer)
        function = getattr(actor.fn, "__wrapped__", actor.fn)  # Below Dramatiq's async_to_sync.
        if asyncio.iscoroutinefunction(function):
            return await function(*message.args, **message.kwargs)
        return await call_in_thread(lambda: actor(*message.args, **message.kwargs))

    async def _finish(self) -> None:
        if self._runs:
            await asyncio.wait(set(self._runs), timeout=self._grace_s)
        self._interrupt(list(self._runs))
        if self._runs:
            await asyncio.wait(set(self._runs), timeout=LAST_WORDS_S)
        actors = self._broker.actors.values()
        runners = [actor.runner for actor in actors if isinstance(actor, AgentActor)]
        await asyncio.gather(*(runner.close() for runner in runners if runner is not None))
        self._loop.stop()

    def _interrupt(self, runs: Iterable[asyncio.Task[None]]) -> None:
        for run in runs:
            if run in self._runs:
                self._interrupted.add(self._runs[run].claim.task_id)
                run.cancel()


_message: contextvars.ContextVar[ClaimedMessage | None] = contextvars.ContextVar(
    "agentpipe_message", default=None
)


class _Task(asyncio.Task[Any]):
    """A task of the loop that knows for which message it is, as do those that agents start."""

    message: ClaimedMessage | None = None


def _make_task(
    loop: asyncio.AbstractEventLoop,
    coroutine: Any,
    context: contextvars.Context | None = None,
    **options: Any,
) -> _Task:
    task = _Task(coroutine, loop=loop, context=context, **options)
    task.message = _message.get() if context is None else context.get(_message)
    return task


class Keeper(threading.Thread):
    """Keeps the lease, and watches over the loop and over those who started the process.

    No agent can block it. When an agent's code holds up the loop beyond its time limit, the
    keeper answers ``limit`` for it, gives everything else back, and ends the process, which
    its supervisor replaces: there is no other way to stop such code.
    """

    def __init__(self, consumer: Consumer, loop: LoopThread, supervisor_pid: int) -> None:
        super().__init__(name="agentpipe-keep", daemon=True)
        self._consumer, self._loop = consumer, loop
        self._supervisor_pid = supervisor_pid
        self._parent_pid = os.getppid()
        self._blocked_s = 0.0
        self._warned = False

    def run(self) -> None:
        """Until the process ends."""
        lease_s = self._consumer.worker.lease_s
        next_beat = 0.0
        while True:
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + (lease_s / 3 if self._beat() else lease_s / 10)
            tick_s = min(TICK_S, lease_s / 10)
            time.sleep(tick_s)
            # Counted in our own ticks: a process that was frozen has no blocked loop.
            self._blocked_s = 0.0 if self._loop.ask_to_turn() else self._blocked_s + tick_s
            self._look_at_loop()
            self._look_at_end()
            self._look_at_parents()

    def _beat(self) -> bool:
        try:
            self._consumer.keep()
        except AgentpipeError:
            return False  # The consumer says so; here the next try matters.
        return True

    def _look_at_loop(self) -> None:
        if self._blocked_s < BLOCKED_AFTER_S:
            self._warned = False
            return
        if not self._warned:
            self._warned = True
            log.warning(
                "an agent blocks the loop and with it all others in this process; give its "
                "collection `isolation: thread`. It is here:\n%s",
                self._loop.stack(),
            )
        late = [message for message in self._consumer.held if self._is_late(message)]
        culprit = self._loop.running()
        if culprit in late:
            late = [culprit]  # The others only waited for it: they are given back.
        if late:
            log.error("the loop is blocked beyond a time limit: the process ends to be replaced")
            self._end_process(late)

    def _is_late(self, message: ClaimedMessage) -> bool:
        limit_s = _limit_s(self._consumer.broker, message)
        return time.time() - message.started_at > limit_s + BLOCKED_AFTER_S

    def _look_at_end(self) -> None:
        if time.monotonic() > self._consumer.ends_by:
            log.error("runs go on long after they were told to end: the process ends without them")
            self._end_process([])

    def _end_process(self, late: list[ClaimedMessage]) -> None:
        broker, results = self._consumer.broker, self._consumer.results
        try:
            for message in late:
                error = TimeLimitExceeded(_limit_s(broker, message))
                results.after_process_message(broker, message, exception=error)
            broker.store.settle([message.settlement for message in late if message.settlement])
            self._consumer.leave()
        finally:
            os._exit(1)

    def _look_at_parents(self) -> None:
        orphaned = os.getppid() != self._parent_pid
        if not orphaned and self._supervisor_pid:
            orphaned = not _alive(self._supervisor_pid)
        if orphaned:
            log.warning("the process that started this worker is gone: it ends, too")
            self._supervisor_pid, self._parent_pid = 0, os.getppid()
            os.kill(os.getpid(), signal.SIGTERM)


def _limit_s(broker: dramatiq.Broker, message: ClaimedMessage) -> float:
    actor = broker.actors.get(message.actor_name)
    return actor.collection.time_limit_s if isinstance(actor, AgentActor) else float("inf")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _slots_for(broker: dramatiq.Broker) -> int:
    """As many runs as the actors may have at once, within reason."""
    wanted = 0
    for actor in broker.actors.values():
        own = actor.options.get("concurrency", 1)
        wanted += actor.collection.concurrency if isinstance(actor, AgentActor) else own
    return max(1, min(MAX_SLOTS, wanted))


def _until(moment: float) -> float | None:
    return None if moment == math.inf else max(0.0, moment - time.monotonic())


def _raise_file_limit() -> None:
    """An agent in a thread has a loop, and thus files, of its own; many shells allow only 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # A hard limit without a number is not for all systems.
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
