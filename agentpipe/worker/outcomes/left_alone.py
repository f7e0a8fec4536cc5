"""LeftAlone: tasks that a worker does not run because they were sent with another config."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from agentpipe.brokers.records import Settlement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.worker.running.message import ClaimedMessage
    from agentpipe.worker.running.served_actor import ServedActor

# Such a task is set aside for this long; then the next worker that claims it decides.
APART_S = 15.0
MAX_IDS = 1_000
# Prefix of such a task's reason: ``why`` looks for it.
OTHER_CONFIG = "sent with another config"

log = logging.getLogger(__name__)


class LeftAlone:
    """Tasks that this process has recently left alone; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        self._said: set[tuple[str | None, str]] = set()

    def settlement_of(self, actor: ServedActor, message: ClaimedMessage) -> Settlement | None:
        """Release the task uncounted, to be claimed later; None if it can run."""
        sent = message.task.config_hash if message.task else None
        if not sent or not actor.config_hash or sent == actor.config_hash:
            return None
        self._say(actor, sent)
        if not actor.strict_config:
            return None
        self._note(message.claim.task_id)
        reason = f"{OTHER_CONFIG}: {sent} of its sender, {actor.config_hash} of the worker"
        return Settlement(message.claim, "release", delay_s=APART_S, reason=reason)

    def ids(self) -> Sequence[str]:
        """Ids of tasks set aside now, as many as fit in a report."""
        with self._lock:
            oldest = time.monotonic() - 2 * APART_S
            self._since = {name: at for name, at in self._since.items() if at > oldest}
            return list(self._since)[-MAX_IDS:]

    def _note(self, task_id: str) -> None:
        with self._lock:
            self._since.pop(task_id, None)
            self._since[task_id] = time.monotonic()

    def _say(self, actor: ServedActor, sent: str) -> None:
        """Log each config once."""
        if (actor.collection, sent) in self._said:
            return
        self._said.add((actor.collection, sent))
        log.warning(
            "collection %s: tasks were sent with config %s, this worker has %s: %s",
            actor.collection,
            sent,
            actor.config_hash,
            "strict_config leaves them alone" if actor.strict_config else "it runs them",
        )
