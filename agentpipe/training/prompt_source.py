"""PromptSource: yields a trainer's prompts from an iterable or a loader, and saves its position."""

from __future__ import annotations

import reprlib
from collections import deque
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from agentpipe.core.arguments import check_function
from agentpipe.errors import ConfigError
from agentpipe.training.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

State = dict[str, Any]


@runtime_checkable
class StatefulLoader(Protocol):
    """An iterable that can save its position, such as torchdata's and Hugging Face's."""

    def __iter__(self) -> Iterator[Any]: ...

    def state_dict(self) -> Any:
        """The position after the last item yielded."""

    def load_state_dict(self, state: Any) -> Any:
        """Continue at that position; call before iterating."""


class PromptSource:
    """Yields prompts in order. A list among them is a loader's batch and is unpacked.

    Several trainers, each with its own ``shard``, split the prompts: each prompt goes to one.
    """

    def __init__(
        self,
        prompts: Iterable[Any],
        *,
        task_of: Callable[[Any], Any] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """Create a source; ``Rollouts.open`` explains the arguments.

        Raises:
            ConfigError: ``prompts`` are no series of tasks, or ``task_of`` is no function.
        """
        if task_of is not None:
            check_function("task_of", task_of)
        _refuse_other_than_series(prompts)
        self._prompts, self._make = prompts, task_of
        self._shard = Shard.of(shard)
        self._draws: Iterator[Any] | None = None
        self._left: deque[Any] = deque()  # Drawn but not taken.
        self._taken = 0  # By all trainers.
        self._has_ended = False
        self._failure: Exception | None = None  # What the prompts raised last.
        self._passed_over = 0  # How many prompts must still be skipped: taken before the restart.
        self._loaded: Any = None  # The loader's state until it is iterated: some loaders forget it.
        self._passed = 0  # How many prompts were skipped so far, over all trainers.
        self._wanted = set[int]()  # Numbers of skipped prompts to keep.
        self._kept: dict[int, Any] = {}

    def has_next(self) -> bool:
        """Whether there is another prompt for this trainer.

        Raises:
            ConfigError: There are fewer prompts than the loaded state has taken.
        """
        while self._left or not self._has_ended:
            if not self._left:
                self._draw()
            elif self._taken % self._shard.readers == self._shard.number:
                return True
            else:
                self.take()
        return False

    def task(self) -> Any:
        """The task of the next prompt, which stays the next until it is taken."""
        return self.task_of(self._left[0])

    def task_of(self, prompt: Any) -> Any:
        """The task of a prompt."""
        if self._make is None:
            return prompt
        try:
            return self._make(prompt)
        except Exception as error:
            # Its own ``__repr__`` can raise.
            error.add_note(f"raised by `task_of` for the prompt {reprlib.repr(prompt):.80}")
            raise

    def take(self) -> Any:
        """Remove and return the next prompt: it was sent, or belongs to another trainer."""
        self._taken += 1
        return self._left.popleft()

    def of_state(self, prompt: Any) -> Any:
        """What a state stores for a taken prompt: None if the prompt can be drawn again."""
        return prompt if isinstance(self._prompts, StatefulLoader) else None

    def want(self, positions: Iterable[int]) -> None:
        """Keep these prompts of this trainer when skipping; call before the first is drawn."""
        self._wanted = set(map(self._place_of, positions))

    def kept(self, position: int) -> Any:
        """A prompt kept by ``want``.

        Raises:
            ConfigError: There are fewer prompts than the loaded state has taken.
        """
        self.has_next()
        return self._kept[self._place_of(position)]

    def _place_of(self, position: int) -> int:
        """The place among all prompts of this trainer's prompt at ``position``."""
        return position * self._shard.readers + self._shard.number

    def _draw(self) -> None:
        if self._draws is None:
            self._draws = iter(self._prompts)
        try:
            found, self._failure = next(self._draws), None
        except StopIteration:
            self._end()
            return
        except Exception as error:
            self._failure = error
            raise
        fresh = found if isinstance(found, list) else [found]
        self._left.extend(fresh[self._passed_over :])
        self._pass_over(fresh[: self._passed_over])

    def _end(self) -> None:
        if self._failure is not None:  # A generator that has raised only seems to have ended.
            text = "reading the prompts has failed: open the loop again, then load its state"
            raise ConfigError(text) from self._failure
        self._has_ended = True
        if self._passed_over:
            raise ConfigError(
                f"the state has taken {self._taken:,} prompts, and these are "
                f"{self._passed_over:,} fewer: give the same prompts from their beginning, "
                "not an iterator that was used before"
            )

    def _pass_over(self, prompts: Sequence[Any]) -> None:
        for number, prompt in enumerate(prompts, self._passed):
            if number in self._wanted:
                self._kept[number] = prompt
        self._passed += len(prompts)
        self._passed_over -= len(prompts)

    def state_dict(self) -> State:
        """The position; for a loader also its state, with the prompts drawn but not taken."""
        place = {"taken": self._taken}
        if not isinstance(self._prompts, StatefulLoader):
            return place
        state = None
        # A loader that has ended may return the state of a new iteration.
        if not self._has_ended:
            state = self._loaded if self._draws is None else self._prompts.state_dict()
            if state is None:
                return place
        return {**place, "loader": state, "left": list(self._left), "ended": self._has_ended}

    def refuse_other(self, state: Mapping[str, Any]) -> None:
        """Refuse a state that these prompts cannot load.

        Raises:
            ConfigError: The state is a loader's, and these prompts are none.
        """
        if "loader" in state and not isinstance(self._prompts, StatefulLoader):
            raise ConfigError(
                "the state is that of prompts with state_dict and load_state_dict, and these have "
                "none: give the loader that it was saved with"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after a state; call before the first prompt.

        Raises:
            ConfigError: As ``refuse_other``.
        """
        self.refuse_other(state)
        if "loader" not in state:
            self._taken = self._passed_over = state["taken"]
            return
        if isinstance(self._prompts, StatefulLoader) and not state["ended"]:
            self._prompts.load_state_dict(state["loader"])  # First: it can raise.
            self._loaded = state["loader"]
        self._taken, self._left = state["taken"], deque(state["left"])
        self._has_ended = state["ended"]


def _refuse_other_than_series(prompts: Any) -> None:
    """Each character of a string, and each key of an object, would be a prompt."""
    is_one = isinstance(prompts, (str, bytes, PathLike))
    is_series = hasattr(prompts, "__iter__") or hasattr(prompts, "__getitem__")
    if is_one or isinstance(prompts, Mapping) or not is_series:
        raise ConfigError(
            "prompts: expected a list, a loader or another iterable of tasks, not "
            f"{type(prompts).__name__}: {prompts!r:.60}"
        )
