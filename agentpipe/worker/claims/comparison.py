"""Comparison: what this worker holds, against what the broker records for it.

A broker restored from an older state still records tasks that ended here long ago, and offers tasks
that are running here. The comparison fixes both: it returns the former to their queues and ends the
runs of the latter.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentpipe.brokers.capabilities import ComparesClaims, Comparison
    from agentpipe.brokers.records import Worker
    from agentpipe.worker.claims.held import HeldClaims
    from agentpipe.worker.outbox.forwarder import Forwarder
    from agentpipe.worker.running.message import ClaimedMessage

log = logging.getLogger(__name__)


def lost_by_comparison(
    store: ComparesClaims, worker: Worker, held: HeldClaims, forwarder: Forwarder
) -> list[ClaimedMessage]:
    """Compare with the store; return the running messages that this worker no longer owns.

    A claim in progress counts neither as held nor as lost: the next heartbeat compares instead.

    Raises:
        Unreachable: The store does not answer.
    """
    with held.standing_still() as still, forwarder.forwarding() as numbers:
        if not still:
            return []
        messages = held.all()
        found = store.compare(worker, [message.claim.key for message in messages], numbers)
    # A run that ended during the comparison is already settled, or learns of the loss when it is.
    lost = [it for it in messages if it.claim.key in found.lost and it.settlement is None]
    _say(found, lost)
    return lost


def _say(found: Comparison, lost: list[ClaimedMessage]) -> None:
    if found.returned or found.freed or lost:
        log.warning(
            "the broker and this worker did not agree on what it holds: %d tasks that do not run "
            "here wait again, %d runs that the broker does not know end, %d results are "
            "forwarded again; was the broker restored from an older state?",
            found.returned,
            len(lost),
            found.freed,
        )
