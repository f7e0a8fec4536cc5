"""PromptFeed: sends a trainer's prompts in order, as groups whose ids a restart repeats."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

from agentpipe.core.run_names import run_of
from agentpipe.core.text import counted
from agentpipe.errors import TaskError, Unreachable
from agentpipe.sending.admission import admit
from agentpipe.training.obstacles import obstacles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from agentpipe.core.loop_holds import LoopHold
    from agentpipe.sending.admission import AdmittedTask
    from agentpipe.sending.dispatcher import Dispatcher
    from agentpipe.sending.groups import GroupPlan
    from agentpipe.training.loop_report import LoopFacts
    from agentpipe.training.prompt_source import PromptSource

# Prompt ids sort in numerical order up to one million.
_DIGITS = 6

log = logging.getLogger(__name__)


class PromptFeed:
    """Sends prompts one by one while there is room; used by one thread.

    A prompt's group is named by the prompt's position, so that the broker recognizes a prompt that
    was sent before and does not run it again.

    Attributes:
        run: The run that its tasks belong to.
        position: How many prompts have been sent.
        has_more: Whether there are more prompts.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        facts: LoopFacts,
        prompts: PromptSource,
        plan: GroupPlan,
        *,
        hold: LoopHold,
    ) -> None:
        """Send the loop of ``facts`` through ``dispatcher``; ``hold`` is the loop's."""
        self._hold, self.run = hold, facts.run
        self._dispatcher, self._collection = dispatcher, facts.collection
        self._prompts, self._plan, self._prefix = prompts, plan, facts.prefix
        self._next: AdmittedTask | None = None
        self._is_away = False  # Whether the broker does not answer.
        # Groups that were sent and may not be over, by prompt position: the group's id, and the
        # prompt, or None if the prompt can be drawn again.
        self._out: dict[int, tuple[str, Any]] = {}
        self.position, self.has_more = 0, True

    def state_dict(self) -> dict[str, Any]:
        """How many prompts were sent, the source's position, and the groups still out."""
        out = [
            [place, name, self._prompts.of_state(prompt)]
            for place, (name, prompt) in self._out.items()
        ]
        return {"sent": self.position, "prompts": self._prompts.state_dict(), "out": out}

    def refuse_other(self, state: Mapping[str, Any]) -> None:
        """Refuse a state of other prompts before any of it is loaded.

        Raises:
            ConfigError: It is one.
        """
        self._prompts.refuse_other(_prompts_in(state))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after a state; call before the first prompt is sent.

        If the user's loader raises, nothing else is loaded.

        Raises:
            ConfigError: It is a state of other prompts.
        """
        self._prompts.load_state_dict(_prompts_in(state))
        self.position = state["sent"]
        # Earlier versions did not save which groups were out.
        self._out = {place: (name, prompt) for place, name, prompt in state.get("out", ())}
        self._prompts.want(place for place, (_, prompt) in self._out.items() if prompt is None)

    def send(self, number: int, *, wait: bool) -> None:
        """Send the next prompts, fewer if the prompts run out.

        Without ``wait``, also fewer if the queues are full or the broker does not answer.

        Args:
            number: How many at most.
            wait: Wait for room, and for a broker that does not answer.

        Raises:
            TaskError: A prompt is invalid.
            ConfigError: A group is larger than all queues, or the broker does not count groups.
            LoopTaken: Another trainer has the loop.
        """
        for _ in range(number):
            if (prompt := self._peek()) is None or not self._accepted(prompt, wait=wait):
                return
            self._next = None
            self._out[self.position] = prompt.task_id, self._prompts.take()
            self.position += 1

    def over(self, is_over: Callable[[str], bool]) -> None:
        """Forget the prompts whose groups are over."""
        self._out = {place: out for place, out in self._out.items() if not is_over(out[0])}

    def send_lost(self) -> None:
        """Send the groups that are out again, in case the broker has lost its data.

        Groups that the broker knows are unchanged.

        Raises:
            TaskError, ConfigError, LoopTaken: As ``send``.
        """
        out = [self._again(place, prompt) for place, (_, prompt) in self._out.items()]
        send = self._dispatcher.send_group_batches
        try:
            batches = send(self._collection, out, self._plan, hold=self._hold)
            lost = sum(sent.accepted for sent in batches) // self._plan.size
        except Unreachable as error:
            self._does_not_answer(error)
            return
        if lost:
            text = "the broker has lost %s that were out: they are sent again"
            log.warning(text, counted(lost, "group"))

    def _again(self, place: int, prompt: Any) -> AdmittedTask:
        prompt = self._prompts.kept(place) if prompt is None else prompt
        return self._named(place, self._prompts.task_of(prompt))

    def _peek(self) -> AdmittedTask | None:
        """The next prompt; it stays the next until it is accepted."""
        if self._next is None:
            self.has_more = self._prompts.has_next()
            self._next = self._named(self.position, self._prompts.task()) if self.has_more else None
        return self._next

    def _named(self, position: int, given: Any) -> AdmittedTask:
        group = f"{self._prefix}{position:0{_DIGITS}}"
        try:
            prompt = admit(given, self._dispatcher.rules_of(self._collection))
        except TaskError as error:
            raise TaskError(f"prompt {position}: {error}") from error
        own = given.get("task_id") if isinstance(given, dict) else None
        return prompt.with_fields(task_id=f"{group}/{own}" if own else group, run=run_of(group))

    def _accepted(self, prompt: AdmittedTask, *, wait: bool) -> bool:
        on_full: Literal["wait", "refuse"] = "wait" if wait else "refuse"
        send = self._dispatcher.send_group_batches
        try:
            groups = (self._collection, [prompt], self._plan)
            for sent in send(*groups, on_full=on_full, hold=self._hold):
                self._answers()
                if sent.refused:
                    return False
                if sent.duplicates:
                    log.info("group %s was sent before: it is not run again", prompt.task_id)
        except Unreachable as error:  # A later call sends it again, with the same ids.
            self._does_not_answer(error)
            return False
        return True

    def obstacles(self, policy: str | None) -> Iterable[str]:
        """Why the groups that are out may not end; empty if the broker does not answer."""
        try:
            return tuple(obstacles(self._dispatcher.stats(), self._collection, policy))
        except Unreachable:
            return ()

    def _does_not_answer(self, error: Unreachable) -> None:
        if not self._is_away:
            text = "the broker %s, the loop waits for it before it sends more: %s"
            log.warning(text, error.ailment, error)
        self._is_away = True

    def _answers(self) -> None:
        if self._is_away:
            log.warning("the broker answers again, the loop goes on sending")
        self._is_away = False


def _prompts_in(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The source's part; earlier versions saved only the number of prompts to skip."""
    prompts: Mapping[str, Any] = state.get("prompts", {"taken": state["sent"]})
    return prompts
