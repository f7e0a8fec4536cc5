"""Resend: sends tasks again, and drops the dead letters of those that were accepted."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal, NamedTuple

from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agentpipe.brokers.capabilities import KeepsDeadLetters
    from agentpipe.operations.unhandled import Unhandled
    from agentpipe.sending.admission import AdmittedTask
    from agentpipe.sending.dispatcher import Dispatcher
    from agentpipe.sending.sent import Sent

OnFull = Literal["refuse", "wait"]


class Destination(NamedTuple):
    """Where a task is sent.

    Attributes:
        name: A collection, or the queue of one agent.
        round_robin: Whether any agent of the collection will do.
    """

    name: str
    round_robin: bool = True


class Resend:
    """Sends tasks that each follow an earlier task, as its retry or its replay."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        letters: KeepsDeadLetters | None,
        on_full: OnFull,
        unhandled: Unhandled,
    ) -> None:
        """``unhandled`` counts tasks whose target is unknown; ``letters`` is None without any."""
        self._dispatcher, self._letters = dispatcher, letters
        self._on_full, self._unhandled = on_full, unhandled

    def send(
        self, tasks: Iterable[tuple[Destination, AdmittedTask]]
    ) -> Iterator[tuple[Destination, Sent]]:
        """Send the tasks, all of a target together; yield each target's outcome."""
        by_target = defaultdict[Destination, list["AdmittedTask"]](list)
        for target, task in tasks:
            by_target[target].append(task)
        for target, of_target in by_target.items():
            sent = self._sent(target, of_target)
            if sent is not None:
                self._drop(sent, of_target)
                yield target, sent

    def _sent(self, target: Destination, tasks: Sequence[AdmittedTask]) -> Sent | None:
        try:
            return self._dispatcher.send_many(
                target.name, tasks, on_full=self._on_full, round_robin=target.round_robin
            )
        except ConfigError as error:  # The target is not declared.
            self._unhandled.note(str(error), len(tasks))
            return None

    def _drop(self, sent: Sent, tasks: Iterable[AdmittedTask]) -> None:
        """Drop the letters of the tasks that were followed: sending one again would add another."""
        accepted = {*sent.task_ids, *sent.duplicate_ids}
        followed = [_followed(each) for each in tasks if each.task_id in accepted]
        if self._letters is not None:
            self._letters.drop_dead([task_id for task_id in followed if task_id])


def _followed(admitted: AdmittedTask) -> str | None:
    """The task that this one follows; the replay of a retry also names what that one retried."""
    return admitted.task.replay_of or admitted.task.retry_of
