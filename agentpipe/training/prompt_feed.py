"""PromptFeed: a trainer's prompts, sent in order as groups with ids that a new start repeats."""

from __future__ import annotations

import logging
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from agentpipe.core.run_names import prefix_of
from agentpipe.errors import TaskError
from agentpipe.sending.admission import admit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agentpipe.sending.admission import AdmittedTask
    from agentpipe.sending.dispatcher import Dispatcher
    from agentpipe.sending.groups import GroupPlan

# Prompts sort like their numbers, in the first million.
_DIGITS = 6

log = logging.getLogger(__name__)


class PromptFeed:
    """Sends prompt after prompt while there is room; used by one thread.

    The group of a prompt is called after its place, so that a prompt that was sent before is known
    to the broker and not run again.

    Attributes:
        position: How many prompts have been sent.
        has_more: Whether the prompts have not come to their end.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        collection: str,
        prompts: Iterable[Any],
        plan: GroupPlan,
        name: str,
    ) -> None:
        """Send to ``collection`` of ``dispatcher``, which this closes."""
        self._dispatcher, self._collection = dispatcher, collection
        self._prompts, self._plan, self._name = prompts, plan, name
        self._left: Iterator[Any] | None = None
        self._next: AdmittedTask | None = None
        self.position, self.has_more = 0, True

    def begin_at(self, position: int) -> None:
        """Pass over the prompts before ``position``; before the first is sent."""
        self.position = position

    def send(self, number: int, *, wait: bool) -> None:
        """Send so many more prompts, or fewer where the queues are full or no more come.

        Args:
            number: At most so many.
            wait: Whether to wait for room, and for a broker that does not answer.

        Raises:
            TaskError: A prompt is invalid.
            ConfigError: A group is larger than all queues, or the broker counts no groups.
            Unreachable: The broker does not answer.
        """
        for _ in range(number):
            if (prompt := self._peek()) is None or not self._accepted(prompt, wait=wait):
                return
            self._next = None
            self.position += 1

    def _peek(self) -> AdmittedTask | None:
        """The next prompt, which stays the next until it has been accepted."""
        if self._left is None:
            self._left = islice(self._prompts, self.position, None)
        if self._next is None:
            given = next(self._left, None)
            self.has_more = given is not None
            self._next = None if given is None else self._named(given)
        return self._next

    def _named(self, given: Any) -> AdmittedTask:
        group = f"{prefix_of(self._name)}{self.position:0{_DIGITS}}"
        try:
            prompt = admit(given, self._dispatcher.rules_of(self._collection))
        except TaskError as error:
            raise TaskError(f"prompt {self.position}: {error}") from error
        own = given.get("task_id") if isinstance(given, dict) else None
        return prompt.with_fields(task_id=f"{group}/{own}" if own else group)

    def _accepted(self, prompt: AdmittedTask, *, wait: bool) -> bool:
        on_full: Literal["wait", "refuse"] = "wait" if wait else "refuse"
        send = self._dispatcher.send_group_batches
        for sent in send(self._collection, [prompt], self._plan, on_full=on_full):
            if sent.refused:
                return False
            if sent.duplicates:
                log.info("group %s was sent before: it is not run again", prompt.task.task_id)
        return True

    def close(self) -> None:
        """Close the connection to the broker."""
        self._dispatcher.close()
