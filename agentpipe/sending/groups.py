"""Groups of samples: one task as several members, which the broker accepts whole and counts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.records import Group
from agentpipe.core.arguments import whole
from agentpipe.core.run_plan import seed_of
from agentpipe.core.task_fields import MAX_ID
from agentpipe.errors import ConfigError, TaskError
from agentpipe.sending.patience import FULL_PAUSE_S, until_it_answers
from agentpipe.sending.sent import Sent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agentpipe.brokers.capabilities import CountsGroups
    from agentpipe.brokers.records import Admission
    from agentpipe.core.loop_holds import LoopHold
    from agentpipe.core.task import Task
    from agentpipe.sending.admission import AdmittedTask

# Most members in groups offered together; a single larger group is offered alone.
MEMBERS_TOGETHER = 1_000
# If 1 of 20 members fails, 2 repairs would leave 1 group of 80 short, and waste what it has cost.
REPAIRS = 4
COUNT_GROUPS = (
    "count groups: send the samples as tasks with one group_id and their group_size (send --run "
    "NAME --samples N); a GroupStream puts them together, but none is cancelled or replaced"
)
_SET = ("group_id", "sample_index", "group_size", "group_need", "group_repairs")


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """How many samples of a prompt to send, and how many of them are needed.

    Attributes:
        need: Once this many are good, the others are cancelled.
        vary_seed: Whether each member has its own seed.
    """

    size: int
    need: int
    repairs: int
    vary_seed: bool

    @classmethod
    def of(
        cls, n: int, *, spares: int, repairs: int, need: int | None, vary_seed: bool
    ) -> GroupPlan:
        """A plan of ``n`` samples plus spares.

        Raises:
            ConfigError: The numbers do not fit each other.
        """
        members = whole("a group: n", n, 1)
        size = members + whole("a group: spares", spares)
        needed = members if need is None else whole("a group: need", need, 1)
        if needed > size:
            raise ConfigError(f"a group: need must be 1 to {size} (n + spares), not {needed}")
        return cls(size, needed, whole("a group: repairs", repairs), vary_seed)

    def group_of(self, admitted: AdmittedTask, config_hash: str) -> Group:
        """The group of a task; it takes the task's id.

        Raises:
            TaskError: The task is a sample already, or its id is too long.
        """
        task, group_id = admitted.task, admitted.task_id
        members = (self._member(admitted, task, index) for index in range(self.size))
        offers = tuple(each.offer(config_hash) for each in members)
        return Group(group_id, offers, self.need, self.repairs)

    def _member(self, admitted: AdmittedTask, task: Task, index: int) -> AdmittedTask:
        task_id = f"{task.task_id}/{index}"
        _refuse_sample(task, task_id)
        fields: dict[str, Any] = {"seed": seed_of(task_id)} if self.vary_seed else {}
        return admitted.with_fields(
            task_id=task_id,
            group_id=task.task_id,
            sample_index=index,
            group_size=self.size,
            group_need=self.need,
            group_repairs=self.repairs,
            **fields,
        )


def _refuse_sample(task: Task, task_id: str) -> None:
    given = [name for name in _SET if getattr(task, name) is not None]
    if given:
        raise TaskError(
            f"task {task.task_id!r:.80}: {given[0]}: a group's members get theirs from it: "
            "remove the key"
        )
    if len(task_id) > MAX_ID:
        raise TaskError(f"task_id: {task_id!r:.40} has more than {MAX_ID} characters: shorten it")


def _together(groups: Iterable[Group]) -> Iterator[list[Group]]:
    """Group the groups into portions, one offer each."""
    portion, members = list[Group](), 0
    for group in groups:
        if portion and members + len(group.offers) > MEMBERS_TOGETHER:
            yield portion
            portion, members = [], 0
        portion.append(group)
        members += len(group.offers)
    if portion:
        yield portion


def offer_portions(
    store: CountsGroups,
    collection: str,
    groups: Iterable[Group],
    *,
    patient: bool,
    hold: LoopHold | None = None,
) -> Iterator[Sent]:
    """Offer groups, many per round trip; if ``patient``, wait for room and for the store.

    Raises:
        LoopTaken: Another trainer has taken over the loop that sends.
        ConfigError: The collection is not declared, or a group is larger than all its queues.
    """
    for portion in _together(groups):
        left = portion
        while left:
            held = () if hold is None else (hold,)
            offer = partial(store.offer_groups, collection, left, *held)
            admission = until_it_answers(offer) if patient else offer()
            _refuse_impossible(collection, left, admission)
            yield _sent(left, admission, count_refused=not patient)
            left = _with_verdict(left, admission, "refused") if patient else []
            if left:
                time.sleep(FULL_PAUSE_S)


def _with_verdict(groups: Sequence[Group], admission: Admission, wanted: str) -> list[Group]:
    pairs = zip(groups, admission.verdicts, strict=True)
    return [group for group, verdict in pairs if verdict == wanted]


def _sent(groups: Sequence[Group], admission: Admission, *, count_refused: bool) -> Sent:
    def ids(wanted: str) -> tuple[str, ...]:
        found = _with_verdict(groups, admission, wanted)
        return tuple(offer.task_id for group in found for offer in group.offers)

    refused = len(ids("refused")) if count_refused else 0
    return Sent(ids("accepted"), ids("duplicate"), refused, admission.depth, admission.bound)


def _refuse_impossible(collection: str, groups: Sequence[Group], admission: Admission) -> None:
    if "refused" not in admission.verdicts:
        return
    if not admission.bound:
        raise ConfigError(f"no agent serves collection {collection!r}: declare it first")
    size = max(len(group.offers) for group in groups)
    if admission.bound < size:
        raise ConfigError(
            f"a group of {size} tasks never fits into the queues of {collection!r}, which take "
            f"{admission.bound} together: raise max_queue_size"
        )
