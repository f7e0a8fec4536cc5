"""Replay: sends dead letters again, as new tasks."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import orjson

from agentpipe.core.run_names import prefix_of
from agentpipe.core.task import Task
from agentpipe.errors import FormatError, TaskError
from agentpipe.evaluation.kept_answer import begun_again
from agentpipe.operations.dead_letters import whole
from agentpipe.operations.resend import Destination, Resend
from agentpipe.operations.unhandled import Unhandled
from agentpipe.sending.admission import admit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agentpipe.brokers.capabilities import KeepsDeadLetters
    from agentpipe.brokers.dead_letter import DeadLetter, DeadSummary
    from agentpipe.operations.resend import OnFull
    from agentpipe.sending.admission import AdmittedTask
    from agentpipe.sending.dispatcher import Dispatcher


@dataclass(slots=True)
class Replayed(Unhandled):
    """The outcome of a replay. Letters that it could not handle are kept.

    Attributes:
        task_ids: Ids of the accepted replays.
        known: Number of letters already accepted by an interrupted replay.
        refused: Number of letters kept because every queue was full.
    """

    task_ids: list[str] = field(default_factory=list)
    known: int = 0
    refused: int = 0

    @property
    def replayed(self) -> int:
        """The number of accepted replays."""
        return len(self.task_ids) + self.known


class Replay:
    """Sends dead letters as new tasks, and drops each letter once its task was accepted.

    The new id derives from the old id and the time of death, so repeating an interrupted replay
    does not duplicate tasks.
    """

    def __init__(
        self,
        store: KeepsDeadLetters,
        dispatcher: Dispatcher,
        *,
        to: str | None = None,
        on_full: OnFull = "refuse",
    ) -> None:
        self._store, self._to = store, to
        self._full: set[str] = set()
        self._done = Replayed()
        self._resend = Resend(dispatcher, store, on_full, self._done)

    def run(self, batches: Iterable[Sequence[DeadSummary]]) -> Replayed:
        """Replay all letters, a few at a time; a full collection is not retried."""
        for batch in batches:
            open_to = [letter for letter in batch if self._target(letter) not in self._full]
            self._done.refused += len(batch) - len(open_to)
            for letters in whole(self._store, [open_to]):
                self._send(letters)
        return self._done

    def _target(self, letter: DeadSummary) -> str:
        return self._to or letter.collection or letter.queue

    def _send(self, letters: Iterable[DeadLetter]) -> None:
        for target, sent in self._resend.send(self._tasks(letters)):
            self._done.task_ids += sent.task_ids
            self._done.known += sent.duplicates
            self._done.refused += sent.refused
            if sent.refused:
                self._full.add(target.name)

    def _tasks(self, letters: Iterable[DeadLetter]) -> Iterator[tuple[Destination, AdmittedTask]]:
        for letter in letters:
            try:
                task = admit(as_task(letter))
            except TaskError as error:
                self._done.note(str(error))
            else:
                yield self._target_of(letter, task), task

    def _target_of(self, letter: DeadLetter, task: AdmittedTask) -> Destination:
        """The letter's own agent for a kept answer, which must be judged in its own context."""
        if task.task.answered is not None and self._to is None:
            return Destination(letter.queue, round_robin=False)
        return Destination(self._target(letter))


def as_task(letter: DeadLetter) -> Task:
    """The task that replays a letter, without its deadline.

    Raises:
        TaskError: The payload is not a valid task.
    """
    try:
        task = Task.decode(orjson.loads(letter.payload))
    except (FormatError, orjson.JSONDecodeError) as error:
        raise TaskError(
            f"{letter.task_id} cannot be replayed, invalid task: {error}. Drop it instead."
        ) from error
    new_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{letter.task_id} {letter.died_at:.6f}").hex
    return replace(
        task,
        task_id=new_id if task.run is None else f"{prefix_of(task.run)}{new_id}",
        replay_of=letter.task_id,
        deadline=None,
        answered=begun_again(task.answered) if task.answered else None,
        spent_before=None,
    )
