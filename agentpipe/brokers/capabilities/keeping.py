"""What a store keeps besides tasks: dead letters, runs, policies, loops, schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.dead_letter import DeadFilter, DeadLetter, DeadPage
    from agentpipe.brokers.records import Refusal, Worker
    from agentpipe.brokers.runs import KeptRun
    from agentpipe.core.loop_holds import LoopHold, LoopState
    from agentpipe.core.policy import PolicyChange, PolicyState


@runtime_checkable
class KeepsDeadLetters(Protocol):
    """Lists, reads and deletes dead letters."""

    def dead_letters(self, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
        """Return up to ``limit`` dead letters, oldest first, from the cursor ``after`` on.

        If the scan blocks other clients, one call scans a bounded number of letters.

        Raises:
            ConfigError: ``after`` is not a cursor of this kind of store.
        """

    def count_dead(self, wanted: DeadFilter) -> int | None:
        """Count the matching letters; None if the store would have to scan them all."""

    def read_dead(self, task_ids: Sequence[str]) -> list[DeadLetter]:
        """Return the dead letters with these ids, oldest first, all in memory at once."""

    def drop_dead(self, task_ids: Sequence[str]) -> int:
        """Delete dead letters; returns how many existed."""


@runtime_checkable
class KeepsUndeliverable(Protocol):
    """Keeps results that the sink refuses apart from the outbox, so they do not block others."""

    @property
    def undeliverable(self) -> KeepsDeadLetters:
        """Lists, reads and deletes them as dead letters without a payload."""

    def set_aside(self, worker: Worker, refusals: Sequence[Refusal]) -> None:
        """Move results that the worker has leased out of the outbox, with the sink's reasons."""

    def deliver_again(self, task_ids: Sequence[str]) -> int:
        """Move these back into the outbox; returns how many."""


@runtime_checkable
class KeepsRuns(Protocol):
    """Keeps a record of each run, and counts its tasks: task ids begin with the run's name."""

    def begin_run(self, name: str, record: bytes) -> bytes:
        """Keep the record unless the run already has one; returns the one it now has."""

    def runs(self) -> list[KeptRun]:
        """Return all runs that have a record, in the order in which they began."""

    def drop_run(self, name: str) -> bool:
        """Delete a run's record and counts, but no tasks; False if it has no record."""


@runtime_checkable
class KeepsPolicies(Protocol):
    """Keeps the policies that collections follow, for trainers and workers.

    ``Queue.policy`` takes effect only when it differs from the previously declared one, so a
    repeated declaration keeps endpoints that were published since. ``wait`` returns early when a
    policy changes.
    """

    def policies(self) -> Sequence[PolicyState]:
        """Return all policies, sorted by name."""

    def change_policy(self, name: str, change: PolicyChange) -> PolicyState | None:
        """Change a policy atomically; returns its new state, or None if it does not exist.

        Raises:
            LoopTaken: ``change.hold`` is not held; nothing changes.
        """


@runtime_checkable
class KeepsLoops(Protocol):
    """Lets one trainer at a time hold a loop, by name.

    A trainer holds the loop from ``hold_loop`` until it drops it or another trainer takes it over.
    A takeover is possible once the holder has been silent for its lease. A call that passes a hold,
    such as ``offer_groups``, checks the hold and acts in one atomic step, so a suspended trainer
    that was replaced does nothing when it wakes.
    """

    def hold_loop(
        self, hold: LoopHold, report: bytes, *, lease_s: float, instead_of: str = ""
    ) -> LoopState:
        """Take a free loop, or renew a held one; returns the holder afterwards.

        Args:
            hold: This trainer's hold.
            report: This trainer's status, a JSON object.
            lease_s: How long from now no other trainer can take the loop.
            instead_of: Token of a trainer that is known to have ended: its hold counts as free.
        """

    def keep_loop(self, hold: LoopHold, report: bytes, *, lease_s: float) -> LoopState | None:
        """Renew a held loop. Never takes a free one: another trainer may have held it meanwhile.

        Returns:
            The holder; None if there is none.
        """

    def drop_loop(self, hold: LoopHold) -> None:
        """Release the loop, if it is held."""

    def loops(self) -> Sequence[LoopState]:
        """Return all loops that were not released, even if their lease expired, by name."""


@runtime_checkable
class KeepsSchedules(Protocol):
    """Remembers the progress of schedules."""

    def progress(self, name: str, mark: int) -> int | None:
        """Set ``mark`` and return the highest mark ever set under ``name``; initially 0.

        Returns None and does nothing while another process holds the schedule: a store without
        ids lets only one process hold it, until its connection closes.
        """
