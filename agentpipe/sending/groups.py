"""Groups of samples: a task as so many members, which the broker accepts whole and counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.records import Group, Offer
from agentpipe.core.run_plan import seed_of
from agentpipe.core.task import MAX_ID
from agentpipe.errors import ConfigError, TaskError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agentpipe.core.task import Task
    from agentpipe.sending.admission import AdmittedTask

# Groups offered together have at most so many members, unless one alone has more.
MEMBERS_TOGETHER = 1_000
_SET = ("group_id", "sample_index", "group_size", "group_need", "group_repairs")


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """How many samples of a prompt to send, and how many of them are needed.

    Attributes:
        need: At so many good ones the others are cancelled.
        vary_seed: Each member has a seed of its own.
    """

    size: int
    need: int
    repairs: int
    vary_seed: bool

    @classmethod
    def of(
        cls, n: int, *, spares: int, repairs: int, need: int | None, vary_seed: bool
    ) -> GroupPlan:
        """A plan of ``n`` samples and some to spare.

        Raises:
            ConfigError: The numbers do not fit each other.
        """
        needed = n if need is None else need
        if n < 1 or spares < 0 or repairs < 0:
            raise ConfigError("a group: n must be at least 1, spares and repairs at least 0")
        if not 1 <= needed <= n + spares:
            raise ConfigError(f"a group: need must be 1 to {n + spares} (n + spares), not {needed}")
        return cls(n + spares, needed, repairs, vary_seed)

    def group_of(self, admitted: AdmittedTask, config_hash: str) -> Group:
        """The group of a task, whose id is the group's.

        Raises:
            TaskError: The task is a sample already, or its id is too long.
        """
        members = [self._member(admitted, index) for index in range(self.size)]
        offers = tuple(
            Offer(
                each.task.task_id,
                each.stamped(config_hash),
                each.task.priority,
                group_id=each.task.group_id,
            )
            for each in members
        )
        return Group(admitted.task.task_id, offers, self.need, self.repairs)

    def _member(self, admitted: AdmittedTask, index: int) -> AdmittedTask:
        task_id = f"{admitted.task.task_id}/{index}"
        _refuse_sample(admitted.task, task_id)
        fields: dict[str, Any] = {"seed": seed_of(task_id)} if self.vary_seed else {}
        return admitted.with_fields(
            task_id=task_id,
            group_id=admitted.task.task_id,
            sample_index=index,
            group_size=self.size,
            group_need=self.need,
            group_repairs=self.repairs,
            **fields,
        )


def _refuse_sample(task: Task, task_id: str) -> None:
    given = [name for name in _SET if getattr(task, name) is not None]
    if given:
        raise TaskError(f"{given[0]}: a group's members get theirs from it: remove the key")
    if len(task_id) > MAX_ID:
        raise TaskError(f"task_id: {task_id!r:.40} has more than {MAX_ID} characters: shorten it")


def together(groups: Iterable[Group]) -> Iterator[list[Group]]:
    """The groups in portions for one offer each."""
    portion, members = list[Group](), 0
    for group in groups:
        if portion and members + len(group.offers) > MEMBERS_TOGETHER:
            yield portion
            portion, members = [], 0
        portion.append(group)
        members += len(group.offers)
    if portion:
        yield portion
