"""Results that the sink refuses: they reach the stream only after an operator acts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import KeepsUndeliverable
from agentpipe.brokers.dead_letter import DeadFilter
from agentpipe.core.portions import portions_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.dead_letter import DeadLetter

# Ids to look up at once: their whole results are held in memory.
PORTION = 100


def refused_results(store: Store, task_ids: Collection[str]) -> Iterator[DeadLetter]:
    """Yield the results of these tasks that the broker keeps because the sink refuses them."""
    if not task_ids or not isinstance(store, KeepsUndeliverable):
        return
    letters, ids = store.undeliverable, list(task_ids)
    if letters.count_dead(DeadFilter()) == 0:
        return
    for portion in portions_of(ids, PORTION):
        yield from letters.read_dead(portion)


def refusal(letter: DeadLetter) -> str:
    """The message about a refused result."""
    return (
        f"the sink refuses the result of task {letter.task_id}: {letter.reason}; the broker keeps "
        f"it: agentpipe dead show --undeliverable {letter.task_id}"
    )
