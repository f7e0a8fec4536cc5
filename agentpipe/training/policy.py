"""Policy: what a trainer tells the workers of the model that it updates."""

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

    Once it is open it waits for a broker that does not answer, and says so in the log. That of
    ``Rollouts`` raises ``LoopTaken`` for each change once another trainer has the loop.

    ::

        with Policy.open("main", settings) as policy:
            with policy.update(policy.version + 1):
                push_weights()
    """

    def __init__(self, store: Store, name: str) -> None:
        """Of this store, which this closes.

        Raises:
            ConfigError: It has no such policy, or keeps none.
        """
        self.name, self._store = name, store
        self.hold: LoopHold | None = None  # Of the loop whose policy it is.
        find_policy(store, name)

    @classmethod
    def open(cls, name: str, settings: Settings) -> Self:
        """The policy of that name on ``settings.broker``.

        Raises:
            ConfigError: There is none, or this broker keeps none.
            Unreachable: The broker does not answer.
        """
        store = open_store(settings)
        with closed_on_error(store):
            return cls(store, name)

    @property
    def version(self) -> int:
        """That of the weights which its servers have, as it was published last."""
        return self._state.version

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The base URLs of its servers."""
        return self._state.spec.endpoints

    @property
    def max_staleness(self) -> int | None:
        """By how many versions a group may be older; None without a limit."""
        return self._state.spec.max_staleness

    @property
    def _state(self) -> PolicyState:
        return self._ask(partial(find_policy, self._store, self.name))

    def _ask(self, ask: Callable[[], T]) -> T:
        """Each question may be asked again: stores know a change whose answer was lost."""
        return until_it_answers(ask, waits="the trainer")

    def _change(self, step: PolicyChange) -> PolicyState:
        return self._ask(partial(change, self._store, self.name, replace(step, hold=self.hold)))

    def publish(self, version: int, *, endpoints: Sequence[str] | None = None) -> None:
        """Its servers have this version from now on, and are at ``endpoints`` if these change.

        The same version again changes nothing else.

        Raises:
            ConfigError: The version is lower than the last one, or an endpoint is wrong.
        """
        self._ask(partial(publish, self._store, self.name, version, endpoints, self.hold))

    def pause(self, *, drain_s: float | None = 0.0) -> int:
        """Hold all requests from now on; no run fails of it, and none's time limit goes on.

        Returns once all workers know of it, or after some seconds without an answer of one.

        Args:
            drain_s: For how long from then on to wait for requests that are under way, outages of
                the broker included; None for ever.

        Returns:
            How many of these are left.
        """
        state = self._change(PolicyChange(paused=True))
        return self._ask(partial(drained, self._store, state, end_of(drain_s)))

    def resume(self) -> None:
        """Let requests go on."""
        self._change(PolicyChange(paused=False))

    @contextmanager
    def update(self, version: int, *, drain_s: float | None = 0.0) -> Iterator[int]:
        """Pause, run the block, which loads new weights, publish their version, and resume.

        Yields how many requests were still under way. Where the block raises, it is unknown which
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
        """Go on from a checkpoint: with its version, which may be lower than the last one.

        Args:
            version: Of the checkpoint.
            trained: How many groups were used until then, with those that have ended and come
                again: as many fewer begin. None where all that have ended come again or were used:
                the broker has counted them.

        Raises:
            ConfigError: These are not numbers.
        """
        refuse_version(version)
        if trained is not None and (type(trained) is not int or trained < 0):
            raise ConfigError(f"trained: expected an integer from 0, not {trained!r:.40}")
        self._change(PolicyChange(version=version, back=True, accepted=trained))

    def give_back(self, groups: int, *, unused: str = "") -> None:
        """So many complete groups train nothing: as many more may begin.

        Below 0, so many are used that the broker did not count: short ones.

        Args:
            groups: How many.
            unused: Why: ``flat`` or ``stale``, to count them in ``status`` and metrics.

        Raises:
            ConfigError: It is another reason.
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
