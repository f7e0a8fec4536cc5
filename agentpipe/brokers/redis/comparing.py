"""Comparing: what a worker holds against what the server believes that it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import Comparison
from agentpipe.brokers.redis.scripts import PORTION

if TYPE_CHECKING:
    from collections.abc import Collection

    from agentpipe.brokers.redis.script_runner import ScriptRunner


class Comparing:
    """Compares, and knows when a comparison is due; see ``ComparesClaims``."""

    def __init__(self, scripts: ScriptRunner) -> None:
        self._scripts, self._losses = scripts, 0

    @property
    def in_doubt(self) -> bool:
        """Whether the server may have restarted, possibly from an older snapshot."""
        return self._scripts.losses != self._losses

    def compare(
        self, worker: str, held: Collection[tuple[str, int]], forwarding: Collection[int] | None
    ) -> Comparison:
        """See ``ComparesClaims.compare``."""
        losses, keys = self._scripts.losses, list(held)
        pairs = [value for key in keys for value in key]
        known = (0,) if forwarding is None else (1, *forwarding)
        args = (worker, len(keys), *pairs, *known)
        returned, freed, *lost = self._scripts.run("compare", *args)
        more = returned
        while more == PORTION:
            more, *_ = self._scripts.run("compare", *args)
            returned += more
        self._losses = losses
        return Comparison(frozenset(keys[index - 1] for index in lost), returned, freed)
