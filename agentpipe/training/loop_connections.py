"""LoopConnections: what a trainer's loop has open on the broker and the sink."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.training.group_stream import GroupStream
from agentpipe.training.loop_lease import LoopLease
from agentpipe.training.loop_report import LoopReport
from agentpipe.training.loop_run import begin_run

if TYPE_CHECKING:
    from agentpipe.config.collection import Collection
    from agentpipe.settings import Settings
    from agentpipe.training.loop_report import LoopFacts


@dataclass(frozen=True, slots=True)
class LoopConnections:
    """A loop sends by its dispatcher, has its name by its lease, and reads groups of the stream."""

    dispatcher: Dispatcher
    lease: LoopLease
    groups: GroupStream

    @classmethod
    def open(
        cls,
        collection: Collection,
        settings: Settings,
        facts: LoopFacts,
        *,
        name: str,
        **reads: Any,
    ) -> Self:
        """Those of the loop ``name``, whose run has begun; or none, after an error.

        Args:
            collection: Whose agents run what is sent.
            settings: Where broker and sink are.
            facts: Of the loop; only groups with its prefix are read.
            name: That of its lease and of its reading group.
            reads: What ``GroupStream.open`` takes beside them.

        Raises:
            ConfigError: The broker keeps no loops, or there is no such policy.
            LoopTaken: Another trainer lives that has this name.
            Unreachable: Broker or sink does not answer.
        """
        with ExitStack() as opened:
            dispatcher = opened.enter_context(
                Dispatcher.open([collection], settings, results=False)
            )
            lease = LoopLease.open(name, settings, LoopReport(facts))
            opened.callback(lease.close)
            begin_run(dispatcher, collection, facts)
            reads = {"group": name, "prefix": facts.prefix, "patient": True, **reads}
            groups = GroupStream.open(settings, **reads)
            opened.pop_all()
        if groups.policy is not None:
            groups.policy.hold = lease.hold
        return cls(dispatcher, lease, groups)

    def close(self) -> None:
        """Close them; in a fork nothing is closed: all of it is the parent's."""
        if self.lease.is_of_parent:
            return
        with ExitStack() as closing:
            for each in (self.dispatcher, self.lease, self.groups):
                closing.callback(each.close)
