"""Fitting: settles, with results cut to the size that the broker takes.

Stores never look into a result: a store with a size limit reports it, and the worker cuts.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.errors import ResultTooLarge
from agentpipe.sinks.base import Record
from agentpipe.sinks.truncate import truncate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import Settlement

log = logging.getLogger(__name__)


def settle_fitting(store: Store, settlements: Sequence[Settlement]) -> list[bool]:
    """Like ``Store.settle``, but cut results that are too large and mark them as cut."""
    try:
        return store.settle(settlements)
    except ResultTooLarge as error:
        return store.settle([_fitted(each, error) for each in settlements])


def _fitted(settlement: Settlement, error: ResultTooLarge) -> Settlement:
    max_bytes = error.max_bytes.get(settlement.claim.key)
    if max_bytes is None:
        return settlement
    task_id, size = settlement.claim.task_id, len(settlement.result)
    log.warning(
        "task %s: its result has %d bytes, the broker takes %d: it is cut, and says what is "
        "missing; %s",
        task_id,
        size,
        max_bytes,
        error.remedy,
    )
    cut = truncate(Record(task_id, settlement.result), max_bytes, error.remedy)
    return replace(settlement, result=cut)
