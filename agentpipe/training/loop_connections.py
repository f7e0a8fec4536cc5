"""LoopConnections: a trainer loop's open connections to the broker and the sink."""

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
    from agentpipe.settings import Settings
    from agentpipe.training.loop_run import LoopRun


@dataclass(frozen=True, slots=True)
class LoopConnections:
    """The dispatcher that sends, the lease that holds the name, and the groups to read."""

    dispatcher: Dispatcher
    lease: LoopLease
    groups: GroupStream

    @classmethod
    def open(cls, run: LoopRun, settings: Settings, **reads: Any) -> Self:
        """Connect a loop and begin its run; after an error nothing stays open.

        Only groups whose ids begin with the loop's prefix are read; ``reads`` are further arguments
        of ``GroupStream.open``.

        Raises:
            ConfigError: The broker does not support loops, or the policy does not exist.
            LoopTaken: Another live trainer has this name.
            Unreachable: Broker or sink does not answer.
        """
        with ExitStack() as opened:
            dispatcher = opened.enter_context(
                Dispatcher.open([run.collection], settings, results=False)
            )
            lease = LoopLease.open(run.name, settings, LoopReport(run.facts))
            opened.callback(lease.close)
            begin_run(dispatcher, run)
            reads = {"group": run.name, "prefix": run.facts.prefix, "patient": True, **reads}
            groups = GroupStream.open(settings, **reads)
            opened.pop_all()
        if groups.policy is not None:
            groups.policy.hold = lease.hold
        return cls(dispatcher, lease, groups)

    def close(self) -> None:
        """Close all three; does nothing in a fork, where they belong to the parent."""
        if self.lease.is_of_parent:
            return
        with ExitStack() as closing:
            for each in (self.dispatcher, self.lease, self.groups):
                closing.callback(each.close)
