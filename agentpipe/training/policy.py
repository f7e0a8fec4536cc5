"""Policy: how a trainer reports the model that it updates to the workers."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

from agentpipe.brokers import open_store
from agentpipe.core.closing import closed_on_error
from agentpipe.core.groups import UNUSED
from agentpipe.core.policy import PolicyChange
from agentpipe.errors import ConfigError
from agentpipe.operations.policies import (
    change,
    drained,
    end_of,
    find_policy,
    publish,
    refuse_version,
)
from agentpipe.sending.patience import until_it_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.core.loop_holds import LoopHold
    from agentpipe.core.policy import PolicyState
    from agentpipe.settings import Settings

T = TypeVar("T")


class Policy:
    """A policy on a broker; close it, or use it in a ``with``.

    Once open, it waits for a broker that does not answer, and logs that. For the policy of
    ``Rollouts`` every change raises ``LoopTaken`` once another trainer has the loop.

    ::

        with Policy.open("main", settings) as policy:
            with policy.update(policy.version + 1):
                push_weights()
    """

    def __init__(self, store: Store, name: str) -> None:
        """Use this store, which ``close`` closes.

        Raises:
            ConfigError: The store has no such policy, or does not support policies.
        """
        self.name, self._store = name, store
        self.hold: LoopHold | None = None  # The hold of the loop that owns this policy.
        find_policy(store, name)

    @classmethod
    def open(cls, name: str, settings: Settings) -> Self:
        """The policy of that name on ``settings.broker``.

        Raises:
            ConfigError: The policy does not exist, or the broker does not support policies.
            Unreachable: The broker does not answer.
        """
        store = open_store(settings)
        with closed_on_error(store):
            return cls(store, name)

    @property
    def version(self) -> int:
        """The last published version of the weights on its servers."""
        return self._state.version

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The base URLs of its servers."""
        return self._state.spec.endpoints

    @property
    def max_staleness(self) -> int | None:
        """How many versions a group may be behind; None without a limit."""
        return self._state.spec.max_staleness

    @property
    def _state(self) -> PolicyState:
        return self._ask(partial(find_policy, self._store, self.name))

    def _ask(self, ask: Callable[[], T]) -> T:
        """Retry until the broker answers: stores recognize a change whose answer was lost."""
        return until_it_answers(ask, waits="the trainer")

    def _change(self, step: PolicyChange) -> PolicyState:
        return self._ask(partial(change, self._store, self.name, replace(step, hold=self.hold)))

    def publish(self, version: int, *, endpoints: Sequence[str] | None = None) -> None:
        """Declare that the servers have this version now, and new ``endpoints`` if given.

        Publishing the same version again changes only the endpoints.

        Raises:
            ConfigError: The version is lower than the last one, or an endpoint is invalid.
        """
        self._ask(partial(publish, self._store, self.name, version, endpoints, self.hold))

    def pause(self, *, drain_s: float | None = 0.0) -> int:
        """Hold all new requests; no run fails because of it, and time limits stop meanwhile.

        Returns once all workers know of it, or after some seconds if a worker does not answer.

        Args:
            drain_s: How long to wait after that for requests under way, including outages of the
                broker; None waits forever.

        Returns:
            How many requests are still under way.
        """
        state = self._change(PolicyChange(paused=True))
        return self._ask(partial(drained, self._store, state, end_of(drain_s)))

    def resume(self) -> None:
        """Let requests continue."""
        self._change(PolicyChange(paused=False))

    @contextmanager
    def update(self, version: int, *, drain_s: float | None = 0.0) -> Iterator[int]:
        """Pause, run the block that loads new weights, publish their version, and resume.

        Yields how many requests were still under way. If the block raises, it is unknown which
        weights the servers have: the policy stays paused until ``publish`` and ``resume``.

        Raises:
            ConfigError: The version is lower than the last one; then nothing was paused.
        """
        refuse_version(version)
        if version < self.version:
            self.publish(version)
        left = self.pause(drain_s=drain_s)
        try:
            yield left
        except BaseException as error:
            error.add_note(
                f"policy {self.name!r} stays paused: load weights, then `agentpipe policy publish "
                f"{self.name} --version N` and `agentpipe policy resume {self.name}`"
            )
            raise
        self._change(PolicyChange(version=version, paused=False))

    def recover(self, version: int, *, trained: int | None) -> None:
        """Continue from a checkpoint's version, which may be lower than the last one.

        Args:
            version: The checkpoint's version.
            trained: How many groups count as trained: those used up to the checkpoint plus those
                that have ended and come again, in whose place no new group begins. None keeps the
                broker's own count: all groups that have ended were used or come again.

        Raises:
            ConfigError: An argument is not a valid number.
        """
        refuse_version(version)
        if trained is not None and (type(trained) is not int or trained < 0):
            raise ConfigError(f"trained: expected an integer from 0, not {trained!r:.40}")
        self._change(PolicyChange(version=version, back=True, accepted=trained))

    def give_back(self, groups: int, *, unused: str = "") -> None:
        """Report complete groups that were not trained on, so that as many more can begin.

        A negative number reports groups that are used but that the broker did not count, such as
        short ones.

        Args:
            groups: How many.
            unused: Why: ``flat`` or ``stale``, counted in ``status`` and metrics; or empty.

        Raises:
            ConfigError: ``unused`` is something else.
        """
        if unused and unused not in UNUSED:
            raise ConfigError(f"unused: expected one of {', '.join(UNUSED)}, not {unused!r:.40}")
        if groups:
            self._change(PolicyChange(returned=groups, unused=unused))

    def close(self) -> None:
        """Close the connection to the broker."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
