"""What a store keeps beside its tasks: dead letters, runs, policies, schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.dead_letter import DeadFilter, DeadLetter, DeadPage
    from agentpipe.brokers.records import Refusal, Worker
    from agentpipe.brokers.runs import KeptRun
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
        """Change one in one step; returns what holds then, None where there is none."""


@runtime_checkable
class KeepsSchedules(Protocol):
    """Remembers how far schedules have come."""

    def progress(self, name: str, mark: int) -> int | None:
        """The highest mark ever set under ``name``, this one included; 0 at first.

        None, and nothing done, while another process holds the schedule: a store without ids
        lets only one process have it, until its connection ends.
        """
