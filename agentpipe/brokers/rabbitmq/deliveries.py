"""Deliveries: a worker's tasks per agent, what it can claim, and in which order. No I/O."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.awaited_runs import AwaitedRuns
from agentpipe.brokers.rabbitmq.exposed import Exposed
from agentpipe.brokers.rabbitmq.received import Received
from agentpipe.brokers.rabbitmq.served_agent import AHEAD, DEEP_AHEAD, Group, Held, ServedAgent
from agentpipe.brokers.records import Claim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentpipe.brokers.rabbitmq.ahead import Ahead
    from agentpipe.brokers.rabbitmq.cancel_marks import CancelMarks
    from agentpipe.brokers.rabbitmq.served_agent import Prefetched
    from agentpipe.brokers.records import Queue, Worker

# A worker with more agents has enough to claim without a deep prefetch, which costs notes.
FEW_AGENTS, VERY_FEW_AGENTS = 64, 8


class Deliveries:
    """The deliveries of one worker on one connection.

    Args:
        marks: Tasks to claim as cancelled.
        wake: Called when a new claim may be possible.
        ahead: Notes of what is here.

    Attributes:
        worker: The worker's name.
        agents: The agents that it serves, by queue.
        held: Its claims, by number.
        settling: Numbers of claims whose runs have ended and that are being settled.
        awaited: Runs of the last connection whose tasks are not redelivered yet.
        received: What is here, and what the last channel had.
        exposed: What a task that may end this worker waits for.
    """

    def __init__(
        self, worker: Worker, marks: CancelMarks, wake: Callable[[], None], ahead: Ahead
    ) -> None:
        self.agents: dict[str, ServedAgent] = {}
        self.held: dict[int, Held] = {}
        self.settling: set[int] = set()
        self.awaited = AwaitedRuns(self.agents, worker.lease_s)
        self.received = Received()
        self.exposed = Exposed(self.agents, self.runs, self.settling)
        self.worker, self._marks, self._wake = worker.name, marks, wake
        self._ahead = ahead
        self._groups: dict[str, Group] = {}
        # Agents in the order of their turns; first those whose next task is from a dead worker.
        self._first: dict[str, None] = {}
        self._turns: dict[str, None] = {}
        self._numbers, self._may_have_suspects = itertools.count(time.time_ns()), False

    def inherit(self, earlier: Deliveries, *, is_connected: bool) -> None:
        """Await the tasks of a channel that was closed, alone if its connection lives."""
        self.awaited.add([*earlier.awaited.all, *earlier.held.values()])
        # Of others, what a dead worker had is perhaps arriving.
        served = (name for name, it in earlier.agents.items() if not (it.is_opening or it.judging))
        self.received.inherit(earlier.received, served, is_connected=is_connected)
        self._may_have_suspects = earlier._may_have_suspects
        tasks = {tag: message.delivered for tag, message in earlier.received.here.items()}
        self._ahead.inherit(earlier._ahead, tasks)

    def end_reunion(self) -> None:
        """Forget what the last connection had and this one did not get, unless it is awaited."""
        if not self.awaited:
            self._ahead.forget_kept()
        if self.awaited.is_past:
            self.received.forget_earlier(self.agents)

    # Agents.

    def add(self, queue: Queue, unit: str, unit_of: Callable[[str], str]) -> ServedAgent:
        """Start to serve an agent; counts runs whose tasks are awaited."""
        agent = ServedAgent(queue, unit)
        agent.running = agent.active = self.awaited.of(queue.name)
        if queue.concurrency_group is not None:
            agent.group = self._groups.get(unit) or self._new_group(queue, unit, unit_of)
            agent.group.agents[queue.name] = agent
        self.agents[queue.name] = agent
        self._ahead.serve(queue.name)
        return agent

    def _new_group(self, queue: Queue, unit: str, unit_of: Callable[[str], str]) -> Group:
        running = sum(self.awaited.of(it) for it in self.awaited.queues if unit_of(it) == unit)
        self._groups[unit] = Group(queue.concurrency_group_limit, running)
        return self._groups[unit]

    def remove(self, agent: ServedAgent) -> None:
        """Stop serving the agent."""
        del self.agents[agent.queue.name]
        self.received.unbegun.discard(agent.queue.name)
        self._ahead.give_up([agent.queue.name])
        if agent.group is not None:
            agent.group.agents.pop(agent.queue.name, None)
        if all(other.unit != agent.unit for other in self.agents.values()):
            self._groups.pop(agent.unit, None)

    def ahead_of(self, agent: ServedAgent, concurrency: int) -> int:
        """How many first offers to prefetch beyond the concurrency limit."""
        agents = len(self.agents)
        if agent.is_instant and agents <= VERY_FEW_AGENTS:
            return DEEP_AHEAD
        return AHEAD if agent.is_brief and agents <= FEW_AGENTS else min(concurrency, AHEAD)

    def set_limits(self, agent: ServedAgent, queue: Queue) -> None:
        """Apply limits that may have changed."""
        agent.queue = queue
        if agent.group is not None and agent.group.limit != queue.concurrency_group_limit:
            agent.group.limit = queue.concurrency_group_limit
            self._reopen(agent.group)
        self.give_turns([agent])

    # Tasks.

    def begin_judging(self, agent: ServedAgent, lost: Prefetched) -> None:
        """Note that a task of this agent is here whose run can have ended its worker."""
        agent.judging += 1
        self.received.add(lost.tag, lost.message, is_judged=True)
        self._ahead.give_up([agent.queue.name])

    def end_judging(self, agent: ServedAgent) -> None:
        """Note that all of them were spared or replaced, if so."""
        if not agent.judging and self.agents.get(agent.queue.name) is agent:
            self._ahead.serve(agent.queue.name)

    def resume(self, agent: ServedAgent, prefetched: Prefetched) -> bool:
        """Whether the task still runs here: then its claim continues with the new delivery."""
        before = self.awaited.take(prefetched.message)
        if before is None:
            return False
        again = replace(before, message=prefetched.message, tag=prefetched.tag, agent=agent)
        self.held[before.claim.number] = again
        self.note(prefetched)
        self._wake()  # Its run can have ended meanwhile.
        return True

    def lose(self, lost: Iterable[Held]) -> None:
        """Await these runs no longer: each runs again wherever its task is."""
        for held in lost:
            self.awaited.take(held.message)
            if agent := self.agents.get(held.claim.queue):
                agent.running -= 1
                self._end(replace(held, agent=agent))
                self._wake()

    def put(self, agent: ServedAgent, prefetched: Prefetched) -> None:
        """Make a task claimable."""
        agent.add(prefetched)
        self._may_have_suspects = self._may_have_suspects or prefetched.message.suspect > 0
        if agent.has_room:  # Otherwise the end of a run gives it a turn.
            self._give_turn(agent)
            self._wake()

    def note(self, prefetched: Prefetched) -> None:
        """Note that this delivery is here and, as far as we know, has not begun."""
        self.received.add(prefetched.tag, prefetched.message)
        self._ahead.add(prefetched.tag, prefetched.message)

    def gone_back(self, unclaimed: Iterable[Prefetched]) -> None:
        """Remove the notes of deliveries that were put back."""
        self._ahead.drop(each.tag for each in unclaimed)

    def clear(self) -> None:
        """Forget everything."""
        self.held.clear()
        self.awaited.clear()
        self.agents.clear()
        self._ahead.clear()

    def claim(self, limit: int, is_isolated: Callable[[], bool]) -> list[Claim]:
        """Claim up to ``limit`` tasks, one per agent in turn; last chances only if isolated."""
        claims: list[Claim] = []
        postponed: dict[str, None] = {}
        come_before = self.exposed.come_before
        while len(claims) < limit and (turns := self._first or self._turns):
            name = next(iter(turns))
            del turns[name]
            found = self._whose_turn(name)
            agent = next((it for it in found if not it.has_to_wait(come_before, is_isolated)), None)
            if agent is None:
                postponed |= dict.fromkeys([name] if found else [])
                continue
            claims.append(self._claim(agent, agent.ready.popleft()))
            self.give_turns([self.agents[name], agent])
        self._turns.update(postponed)
        return claims

    @property
    def has_nothing(self) -> bool:
        """Whether no agent has a turn, nor a suspect; from any thread."""
        return not (self._first or self._turns)

    # Suspects.

    @property
    def has_suspect(self) -> bool:
        """Whether a suspect runs, or waits to run alone: nothing else is claimed before it."""
        if not self._may_have_suspects:  # Most workers never have one, and claim often.
            return False
        runs, ready = self.runs(), self.ready()
        here = (*(it.message for it in runs), *(it.message for _, it in ready))
        self._may_have_suspects = any(message.suspect for message in here)
        return self._suspect() is not None or any(it.agent.suspects(it.message) for it in runs)

    def claim_suspect(self) -> Claim | None:
        """Claim the waiting suspect, if nothing runs."""
        found = self._suspect()
        if found is None or self.runs():
            return None
        agent, prefetched = found
        agent.ready.remove(prefetched)
        return self._claim(agent, prefetched)

    def _suspect(self) -> tuple[ServedAgent, Prefetched] | None:
        ready = ((it, each) for it, each in self.ready() if not (it.leaving or it.resting))
        return next(((it, each) for it, each in ready if it.suspects(each.message)), None)

    def _whose_turn(self, name: str) -> list[ServedAgent]:
        """The agent, or those of its group, served longest ago first; none without room."""
        agent = self.agents.get(name)
        if agent is None or not agent.has_room:
            return []
        return [agent] if agent.group is None else agent.group.ready()

    def _claim(self, agent: ServedAgent, prefetched: Prefetched) -> Claim:
        message = prefetched.message
        claim = Claim(
            message.task_id,
            agent.queue.name,
            message.payload,
            self.worker,
            next(self._numbers),
            message.failures,
            message.crashes,
            message.submitted_ms / 1000,
            message in self._marks,
            message.cooled_ms / 1000,
        )
        held = Held(
            claim, message, prefetched.tag, agent, time.time(), recovers=prefetched.recovers
        )
        self.held[claim.number] = held
        agent.running += 1
        agent.count_active(1)
        agent.served = claim.number
        return claim

    def find(self, claim: Claim) -> Held | None:
        """The claim, if it is held."""
        held = self.held.get(claim.number)
        return held if held is not None and held.claim.task_id == claim.task_id else None

    def let_go(self, held: Held) -> None:
        """Remove a claim that has ended."""
        if self.held.pop(held.claim.number, None) is None:
            return
        self._ahead.drop([held.tag])
        held.agent.running -= 1
        if held.claim.number in self.settling:
            self.settling.discard(held.claim.number)
        else:
            self._end(held)
        if not self.has_nothing:  # The worker may have waited for this: it settles meanwhile.
            self._wake()

    def begin_settling(self, claims: Iterable[Claim]) -> list[Held]:
        """Note that the runs of these claims have ended, so the next tasks can be claimed.

        Returns those that were not known to have ended.
        """
        ended: list[Held] = []
        for held in filter(None, map(self.find, claims)):
            if held.claim.number not in self.settling:
                self.settling.add(held.claim.number)
                self._end(held)
                ended.append(held)
        return ended

    def stop_settling(self, claims: Iterable[Claim]) -> None:
        """Undo this for claims that are still held: they are settled again later."""
        for held in filter(None, map(self.find, claims)):
            if held.claim.number in self.settling:
                self.settling.discard(held.claim.number)
                held.agent.count_active(1)

    def _end(self, held: Held) -> None:
        held.agent.count_active(-1)
        self.give_turns([held.agent])
        if held.agent.group is not None:
            self._reopen(held.agent.group)

    def _reopen(self, group: Group) -> None:
        """Give turns to the group's agents, which lost them while the group was full."""
        if ready := group.ready():
            self.give_turns(ready)
            self._wake()

    def give_turns(self, agents: Iterable[ServedAgent]) -> None:
        """Add the agents that have room to the turns."""
        for agent in agents:
            if agent.has_room:
                self._give_turn(agent)

    def _give_turn(self, agent: ServedAgent) -> None:
        name = agent.queue.name
        if agent.ready[0].recovers:
            self._turns.pop(name, None)
            self._first[name] = None
        elif name not in self._first:
            self._turns[name] = None

    # What there is.

    def may_have_returned(self, agent: ServedAgent) -> bool:
        """Whether returned tasks of this agent wait, here or possibly on the server.

        The server delivers at most as many as can run. An awaited task can be among first offers.
        """
        if self.awaited.of(agent.queue.name):
            return False
        full = agent.running >= agent.queue.concurrency
        return full or agent.judging > 0 or any(it.returned for it in agent.ready)

    def ready(self) -> list[tuple[ServedAgent, Prefetched]]:
        """Deliveries that are not claimed."""
        return [(agent, each) for agent in self.agents.values() for each in agent.ready]

    def runs(self) -> list[Held]:
        """Claimed tasks, including those whose redelivery is awaited."""
        return [*self.held.values(), *self.awaited.all]

    def has_one_in_last_chance(self) -> bool:
        """Whether one more crash would end any of the tasks here."""
        ready = ((agent, prefetched.message) for agent, prefetched in self.ready())
        held = ((each.agent, each.message) for each in self.runs())
        return any(agent.in_last_chance(message) for agent, message in (*ready, *held))
