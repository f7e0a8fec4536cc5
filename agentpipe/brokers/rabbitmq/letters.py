"""Letters: dead letters, and Results that the sink refuses, for callers of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from agentpipe.brokers.dead_letter import DeadFilter
from agentpipe.brokers.rabbitmq import dead_letters, inspection

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
    from typing import Any, Protocol

    from agentpipe.brokers.dead_letter import DeadLetter, DeadPage
    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.connections.amqp.message import OutgoingMessage

    T = TypeVar("T")

    class Run(Protocol):
        """Runs an operation on the connection, from any thread."""

        def __call__(self, operation: Callable[[Services], Coroutine[Any, Any, T]], /) -> T:
            """Return the operation's result."""


class Letters:
    """The letters of one kind; see ``KeepsDeadLetters``."""

    def __init__(self, run: Run, of: Callable[[Services], dead_letters.DeadLetters]) -> None:
        self._run, self._of = run, of

    def dead_letters(self, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
        """A page of summaries, oldest first."""
        return self._run(lambda services: self._of(services).page(wanted, after, limit))

    def count_dead(self, wanted: DeadFilter) -> int | None:
        """The number of letters; None if a filter is given."""
        if wanted != DeadFilter():
            return None
        return self._run(lambda services: inspection.count_letters(services, self._of(services)))

    def read_dead(self, task_ids: Sequence[str]) -> list[DeadLetter]:
        """The full letters with these ids."""

        async def read(services: Services) -> list[DeadLetter]:
            return self._of(services).read(missing)

        missing = set(task_ids)
        found: list[DeadLetter] = []
        for _ in self._looks(missing):
            found += (letters := self._run(read))
            missing.difference_update(letter.task_id for letter in letters)
        return sorted(found, key=lambda letter: letter.died_at)

    def drop_dead(self, task_ids: Sequence[str]) -> int:
        """Delete letters; returns how many were deleted."""

        async def drop(services: Services) -> set[str]:
            return await self._of(services).drop(missing)

        return self._each(task_ids, missing := set(task_ids), drop)

    def move(
        self, task_ids: Sequence[str], message: Callable[[Services, DeadLetter], OutgoingMessage]
    ) -> int:
        """Publish a message for each letter, and then delete it; returns how many were moved."""

        async def move(services: Services) -> set[str]:
            letters = self._of(services)
            found = letters.read(missing)
            await services.publish([message(services, letter) for letter in found])
            return await letters.drop({letter.task_id for letter in found})

        return self._each(task_ids, missing := set(task_ids), move)

    def _each(
        self,
        task_ids: Sequence[str],
        missing: set[str],
        do: Callable[[Services], Coroutine[Any, Any, set[str]]],
    ) -> int:
        for _ in self._looks(missing):
            missing.difference_update(self._run(do))
        return len(set(task_ids)) - len(missing)

    def _looks(self, missing: Collection[str]) -> Iterator[None]:
        """Iterate over the last page read, then all pages of the queue, while any are missing."""
        after: str | None = ""
        yield
        while missing and after is not None:
            after = self.dead_letters(DeadFilter(), after, dead_letters.PORTION).after
            yield
