"""What a store keeps beside its tasks: dead letters, runs, policies, loops, schedules."""

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
    """Lists dead letters, and forgets them."""

    def dead_letters(self, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
        """Up to ``limit`` of them, from the oldest on, or from where the last page ended.

        Where looking at a letter delays others, one call looks at a bounded number of them.

        Raises:
            ConfigError: ``after`` does not come from a page of such a store.
        """

    def count_dead(self, wanted: DeadFilter) -> int | None:
        """How many there are; None where each would have to be looked at."""

    def read_dead(self, task_ids: Sequence[str]) -> list[DeadLetter]:
        """Those of them that are dead letters, whole, oldest first; all are in memory at once."""

    def drop_dead(self, task_ids: Sequence[str]) -> int:
        """Forget dead letters; returns how many there were."""


@runtime_checkable
class KeepsUndeliverable(Protocol):
    """Keeps results that the sink refuses beside the outbox, where they hold up no others."""

    @property
    def undeliverable(self) -> KeepsDeadLetters:
        """Lists, reads and drops them, as dead letters without a payload."""

    def set_aside(self, worker: Worker, refusals: Sequence[Refusal]) -> None:
        """Take results that the worker has borrowed out of the outbox, with the sink's reasons."""

    def deliver_again(self, task_ids: Sequence[str]) -> int:
        """Put these back into the outbox; returns how many."""


@runtime_checkable
class KeepsRuns(Protocol):
    """Keeps a record of each run, and counts its tasks, which its ids tell."""

    def begin_run(self, name: str, record: bytes) -> bytes:
        """Keep the record unless the run has one; returns that which it has now."""

    def runs(self) -> list[KeptRun]:
        """All that have a record, in the order in which they were begun."""

    def drop_run(self, name: str) -> bool:
        """Forget a run's record and its counts, no task; False where it has none."""


@runtime_checkable
class KeepsPolicies(Protocol):
    """Keeps the policies that collections follow, for trainers and workers.

    ``Queue.policy`` is declared: it holds from when it differs from what was declared before, so
    that endpoints that were published meanwhile stay. ``wait`` returns early where one changes.
    """

    def policies(self) -> Sequence[PolicyState]:
        """All of them, in the order of their names."""

    def change_policy(self, name: str, change: PolicyChange) -> PolicyState | None:
        """Change one in one step; returns what holds then, None where there is none.

        Raises:
            LoopTaken: ``change.hold`` is not held; nothing is changed.
        """


@runtime_checkable
class KeepsLoops(Protocol):
    """Lets one trainer at a time have the name of a loop.

    It has it from ``hold_loop`` on until it lets it go or another takes it, which none can until
    nothing was heard of it for its lease. What names a hold, as ``offer_groups``, is carried out
    only while that is held, in the same step: a trainer that was stopped and replaced does nothing
    when it wakes.
    """

    def hold_loop(
        self, hold: LoopHold, report: bytes, *, lease_s: float, instead_of: str = ""
    ) -> LoopState:
        """Take a loop that is free, or keep it; returns who has it then.

        Args:
            hold: Of this trainer.
            report: What it says of itself: a JSON object.
            lease_s: For so long from now no other trainer takes it.
            instead_of: The token of a trainer that is known to have ended: its loop is free.
        """

    def keep_loop(self, hold: LoopHold, report: bytes, *, lease_s: float) -> LoopState | None:
        """Keep a loop; one that is not held is not taken, for another may have had it meanwhile.

        Returns:
            Who has it; None where no trainer does.
        """

    def drop_loop(self, hold: LoopHold) -> None:
        """Let it go, if it is held."""

    def loops(self) -> Sequence[LoopState]:
        """All that have a trainer, or had one that has not let it go, by name."""


@runtime_checkable
class KeepsSchedules(Protocol):
    """Remembers how far schedules have come."""

    def progress(self, name: str, mark: int) -> int | None:
        """The highest mark ever set under ``name``, this one included; 0 at first.

        None, and nothing done, while another process holds the schedule: a store without ids
        lets only one process have it, until its connection ends.
        """
