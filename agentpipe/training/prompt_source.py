"""PromptSource: a trainer's prompts one by one, from an iterable or a loader, and its place."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

State = dict[str, Any]


@runtime_checkable
class StatefulLoader(Protocol):
    """An iterable that knows where it is, such as torchdata's and Hugging Face's."""

    def __iter__(self) -> Iterator[Any]: ...

    def state_dict(self) -> Any:
        """Behind what it gave last."""

    def load_state_dict(self, state: Any) -> Any:
        """Go on there; before it is iterated."""


class PromptSource:
    """Gives prompts in order. A list among them is a loader's batch: its prompts follow.

    Of several trainers, each with its ``shard``, every prompt is given to one.
    """

    def __init__(
        self,
        prompts: Iterable[Any],
        *,
        task_of: Callable[[Any], Any] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """See ``Rollouts.open``."""
        self._prompts, self._make = prompts, task_of
        self._number, self._shards = shard
        self._draws: Iterator[Any] | None = None
        self._left: deque[Any] = deque()  # Drawn and not taken.
        self._taken = 0  # By all trainers.
        self._has_ended = False
        self._passed_over = 0  # Prompts of the draws that were taken before.
        self._loaded: Any = None  # The loader's state until it is iterated: some forget it.
        self._passed = 0  # How many were passed over, of all trainers.
        self._wanted = set[int]()  # Of those, by their number, which are kept.
        self._kept: dict[int, Any] = {}

    def has_next(self) -> bool:
        """Whether there is one more prompt for this trainer.

        Raises:
            ConfigError: There are fewer than the loaded state has taken.
        """
        while self._left or not self._has_ended:
            if not self._left:
                self._draw()
            elif self._taken % self._shards == self._number:
                return True
            else:
                self.take()
        return False

    def task(self) -> Any:
        """That of the next prompt, which stays the next until it is taken."""
        return self.task_of(self._left[0])

    def task_of(self, prompt: Any) -> Any:
        """The task of a prompt."""
        return prompt if self._make is None else self._make(prompt)

    def take(self) -> Any:
        """The next prompt was sent, or is another trainer's; returns it."""
        self._taken += 1
        return self._left.popleft()

    def of_state(self, prompt: Any) -> Any:
        """What a state has of a prompt that was taken: None where it is drawn again."""
        return prompt if isinstance(self._prompts, StatefulLoader) else None

    def want(self, positions: Iterable[int]) -> None:
        """Keep these of this trainer's prompts that are passed over; before the first is drawn."""
        self._wanted = {position * self._shards + self._number for position in positions}

    def kept(self, position: int) -> Any:
        """One that was wanted.

        Raises:
            ConfigError: There are fewer prompts than the loaded state has taken.
        """
        self.has_next()
        return self._kept[position * self._shards + self._number]

    def _draw(self) -> None:
        if self._draws is None:
            self._draws = iter(self._prompts)
        try:
            found = next(self._draws)
        except StopIteration:
            self._has_ended = True
            if self._passed_over:
                raise ConfigError(
                    f"the state has taken {self._taken:,} prompts, and these are "
                    f"{self._passed_over:,} fewer: give the same prompts from their beginning, "
                    "not an iterator that was used before"
                ) from None
            return
        fresh = found if isinstance(found, list) else [found]
        self._left.extend(fresh[self._passed_over :])
        self._pass_over(fresh[: self._passed_over])

    def _pass_over(self, prompts: Sequence[Any]) -> None:
        for number, prompt in enumerate(prompts, self._passed):
            if number in self._wanted:
                self._kept[number] = prompt
        self._passed += len(prompts)
        self._passed_over -= len(prompts)

    def state_dict(self) -> State:
        """Its place; of a loader its state, with what it gave and was not taken."""
        place = {"taken": self._taken}
        if not isinstance(self._prompts, StatefulLoader):
            return place
        state = None
        # At its end a loader may give the state of a new beginning.
        if not self._has_ended:
            state = self._loaded if self._draws is None else self._prompts.state_dict()
            if state is None:
                return place
        return {**place, "loader": state, "left": list(self._left), "ended": self._has_ended}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after a state; before the first prompt.

        Raises:
            ConfigError: It is a loader's, and these prompts have no state.
        """
        self._taken = state["taken"]
        if "loader" not in state:
            self._passed_over = self._taken
            return
        if not isinstance(self._prompts, StatefulLoader):
            raise ConfigError(
                "the state is that of prompts with state_dict and load_state_dict, and these have "
                "none: give the loader that it was saved with"
            )
        self._left, self._has_ended = deque(state["left"]), state["ended"]
        if not self._has_ended:
            self._loaded = state["loader"]
            self._prompts.load_state_dict(self._loaded)
