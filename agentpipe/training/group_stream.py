"""GroupStream: complete groups from the stream, each once, committed after use."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Self

from agentpipe.core.arguments import check_function, check_seconds, check_type, whole
from agentpipe.core.closing import closed_on_error
from agentpipe.core.generators import going_on
from agentpipe.core.groups import UNUSED, GroupEnd
from agentpipe.core.result import Result
from agentpipe.errors import ConfigError
from agentpipe.sinks.stream import Nothing, Stream
from agentpipe.training.assembly import GRACE_S, Assembly
from agentpipe.training.group_choice import YIELDED, GroupChoice
from agentpipe.training.policy import Policy
from agentpipe.training.rollout_group import varied
from agentpipe.training.shard import Shard
from agentpipe.training.used_groups import ReadRecord, UsedGroups

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    from agentpipe.settings import Settings
    from agentpipe.sinks.base import Start
    from agentpipe.training.assembly import Assembled
    from agentpipe.training.rollout_group import RolloutGroup

State = dict[str, Any]
NAMED = 5
# Longest time in seconds that ``ends`` yields nothing while records arrive that end no group.
QUIET_S = 0.2

log = logging.getLogger(__name__)


class GroupStream:
    """Iterates over groups; one counts as used when the caller asks for the next.

    A record is committed once the groups of all records up to it have been used. After a kill, all
    groups since the oldest unused one come again, including used ones. Once ``state_dict`` has
    been called, only what is in all ``keep_states`` latest states is committed: after a kill any of
    these states can be loaded, and exactly the groups used after it come again.

    A group with a record that never arrives would block commits forever, so it is given up and
    logged. If it has ended (its end record has arrived, or the Results of all its samples), that
    happens ``grace_s`` after its last record, else after ``abandon_s``. With a sink that cannot
    read back (RabbitMQ), this also applies to the rest of a group that was used before a kill.

    Each instance is one reader of a sink's group. Several readers split the groups by ``shard``;
    members of one group stay together.

    Attributes:
        counts: Groups by fate: complete, short, cancelled, stale, ``flat`` (refused by ``keep``),
            ``inexact`` (refused by ``trains``: no member has exact token ids) and ``lost`` (given
            up). Also ``late``: Results of groups that were already yielded or given up.
        policy: The policy named in ``open``; None without one.
        dropped: Number of groups that are over but were not yielded.
        last_lost: The groups that were given up last.
        max_staleness: How many versions behind ``version`` a group may be; None for no limit.
        version: The current policy version, for ``max_staleness``; set it after each update,
            unless the stream has a ``policy``.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        name: str = "",
        max_staleness: int | None = None,
        min_good: int | None = None,
        keep: Callable[[RolloutGroup], bool] = varied,
        trains: Callable[[RolloutGroup], bool] | None = None,
        prefix: str = "",
        shard: tuple[int, int] = (0, 1),
        keep_states: int = 8,
        grace_s: float = GRACE_S,
        abandon_s: float | None = None,
        policy: Policy | None = None,
        used: UsedGroups | None = None,
    ) -> None:
        """Read from ``stream``; ``close`` closes it and ``policy``.

        ``used`` comes from an earlier GroupStream.
        """
        self._stream, self._name = stream, name
        stream.keep = math.inf
        self.policy = policy
        if policy is not None and max_staleness is None:
            max_staleness = policy.max_staleness
        self.max_staleness = max_staleness
        self._choice = GroupChoice(keep, trains, min_good)
        self._prefix, self._shard = prefix, Shard.of(shard)
        self._assembly = Assembly(grace_s, abandon_s)
        self._records: deque[ReadRecord] = deque()  # Held, or about to be held.
        self._used = UsedGroups(keep_states=keep_states) if used is None else used
        self._current = ""
        self._whole: Assembled | None = None  # Not chosen yet: if ``keep`` raises, it comes again.
        self._ends: Generator[RolloutGroup | None, None, None] | None = None
        self.counts: Counter[str] = Counter()
        self.dropped = 0
        self.last_lost: tuple[str, ...] = ()
        self.version: int | None = None

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        group: str,
        start: Start = "beginning",
        timeout_s: float | None = None,
        shard: tuple[int, int] = (0, 1),
        policy: str | None = None,
        patient: bool = False,
        **options: Any,
    ) -> Self:
        """The groups of ``settings.sink``, from ``start`` or the last commit of ``group``.

        Args:
            settings: Where the stream is.
            group: The reading group of the sink; a new name for each experiment.
            start: Where a new group starts.
            timeout_s: End after this many seconds without a record; None waits forever.
            shard: This reader's number, and the number of readers; each reads its own part of the
                groups.
            policy: Name of the policy that the groups follow. Its version counts for
                ``max_staleness``, which defaults to the policy's. Complete groups that are not
                yielded are reported to it, so that others can begin.
            patient: The caller knows that it waits, so the stream does not log it.
            options: ``max_staleness``, ``min_good`` (also yield shorter groups), ``keep``,
                ``trains``, ``prefix`` (groups whose ids lack it are skipped), ``keep_states``,
                ``grace_s`` and ``abandon_s`` (None: never).

        Raises:
            ConfigError: The sink's URL is invalid, or the policy does not exist.
            Unreachable: The server does not answer.
        """
        check_seconds("timeout_s", timeout_s)
        check_choice(options)
        check_type("group", group, str, "a string")
        name = Shard.of(shard).named(group)
        reading: dict[str, Any] = {"group": name, "timeout_s": timeout_s, "patient": patient}
        stream = Stream.open(settings, start=start, **reading)
        with closed_on_error(stream):
            followed = None if policy is None else Policy.open(policy, settings)
            return cls(stream, name=name, shard=shard, policy=followed, **options)

    def __iter__(self) -> Iterator[RolloutGroup]:
        """Iterate until ``timeout_s`` passes without a record, or forever.

        A later loop continues where an earlier one stopped.
        """
        return (group for group in self.ends() if group is not None)

    def ends(self) -> Iterator[RolloutGroup | None]:
        """Iterate like ``__iter__``, but also yield None regularly while no group arrives.

        None is yielded when groups end that are not wanted (see ``counts``) and every now and
        then, so that the caller can do other work while it waits.
        """
        self._ends = going_on(self._ends, self._read)
        return self._ends

    def _read(self) -> Generator[RolloutGroup | None, None, None]:
        quiet_until = time.monotonic() + QUIET_S
        if self._whole is not None:
            yield from self._given(self._whole)
        for entry in self._stream.entries():
            if self._give_up() or time.monotonic() >= quiet_until:
                yield None
                quiet_until = time.monotonic() + QUIET_S
            self._release()
            if entry is Nothing.NEW:
                continue
            group_id = self._group_of(entry)
            self._records.append(_record_of(group_id, entry))
            if entry is None or not group_id:
                continue
            if group_id in self._used:
                is_known = self._used.comes_again(group_id)
                self.counts["late"] += not is_known and isinstance(entry, Result)
            elif (whole := self._assembly.add(entry)) is not None:
                self._whole = whole
                yield from self._given(whole)
            elif any(map(self._stream.is_recalled, self._assembly.missing(group_id))):
                # Only used records are committed, so this is the rest of a used group.
                self.counts["late"] += self._assembly.drop(group_id)
                self._used.add(group_id)
        if self._give_up():
            yield None
        self._release()

    def _give_up(self) -> int:
        lost, accepted = self._assembly.give_up()
        if lost:
            if self.policy is not None:
                self.policy.give_back(accepted)
            for group_id in lost:
                self._used.add(group_id)
            self.last_lost = lost
            self.counts["lost"] += len(lost)
            self.dropped += len(lost)
            text = "%d groups given up, of which a Result or the record of their end is missing: %s"
            log.warning(text, len(lost), ", ".join(lost[:NAMED]))
        return len(lost)

    def _group_of(self, entry: Result | GroupEnd | None) -> str:
        """The group that a record is kept for; empty if it belongs to no group of this reader."""
        if entry is None or not entry.group_id or not entry.group_id.startswith(self._prefix):
            return ""
        if isinstance(entry, Result) and not entry.group_size:
            return ""
        return entry.group_id if self._shard.has(entry.group_id) else ""

    def _given(self, whole: Assembled) -> Iterator[RolloutGroup | None]:
        group = whole.group
        if self.policy is not None:
            self.version = self.policy.version
        fate = self._choice.fate(group, self._oldest_version)
        self._whole = None
        self._tell_policy(fate, is_accepted=whole.is_accepted)
        if fate == YIELDED:
            self._current = group.group_id
            yield group
            self._current = ""
        self.counts[group.status if fate == YIELDED else fate] += 1
        self._used.add(group.group_id)
        if fate != YIELDED:
            self.dropped += 1
            yield None

    @property
    def _oldest_version(self) -> int | None:
        """The oldest version that a group may have; None without a limit."""
        if self.max_staleness is None or self.version is None:
            return None
        return self.version - self.max_staleness

    def _tell_policy(self, fate: str, *, is_accepted: bool) -> None:
        """Correct the policy's count: the broker counted every complete group as trained."""
        if self.policy is not None:
            back = is_accepted - (fate == YIELDED)
            self.policy.give_back(back, unused=fate if back > 0 and fate in UNUSED else "")

    def is_over(self, group_id: str) -> bool:
        """Whether the group was yielded, or never will be."""
        return group_id == self._current or group_id in self._used

    def settle(self) -> None:
        """Commit all used groups that are in the loadable states, ignoring the lag."""
        self._release(all_but_lag=False)

    def _release(self, *, all_but_lag: bool = True) -> None:
        """Commit the used records, as far as the states and the lag allow."""
        number = 0
        for record in self._records:
            name = record.group_id
            if name and not self._used.is_committable(name, all_but_lag=all_but_lag):
                break
            number += 1
        for _ in range(number):
            self._used.released(self._records.popleft())
        if number:
            self._stream.release(number)

    def stop(self) -> None:
        """End the loop after the current group, which counts as used."""
        self._stream.stop()

    @property
    def _held(self) -> set[str]:
        """Groups that were used but not committed."""
        return {it.group_id for it in self._records if it.group_id in self._used}

    def state_dict(self, *, unused: Iterable[str] = ()) -> State:
        """The used groups that may come again, including the current one; small, and JSON.

        ``unused`` names groups that were yielded but not trained on yet: they come again too.

        Raises:
            ConfigError: One of ``unused`` cannot come again: it was not yielded, or counts as used
                in an earlier state.
        """
        held, left = self._held | {self._current} - {""}, list[Any](unused)
        for name in left:
            if not isinstance(name, str) or name not in held or self._used.is_saved(name):
                text = "was not yielded, or is used by an earlier state"
                raise ConfigError(f"unused: the group {name!r:.80} {text}")
        return self._used.save(self._name, held.difference(left))

    def load_state_dict(self, *states: Mapping[str, Any]) -> None:
        """Continue after a state of this reader; call before iterating.

        Raises:
            ConfigError: It is not a state of this reader.
        """
        self._used.load(self._name, states)

    def close(self) -> None:
        """Close the stream; uncommitted records go to the next reader of the group."""
        if self.policy is not None:
            self.policy.close()
        self._stream.keep = math.inf  # What was used has already been committed.
        self._stream.close()
        self._used.carry(self._held)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _record_of(group_id: str, entry: Result | GroupEnd | None) -> ReadRecord:
    if isinstance(entry, GroupEnd):
        return ReadRecord(group_id, entry.members, is_end=True)
    return ReadRecord(group_id, () if entry is None else (entry.task_id,))


def check_choice(options: Mapping[str, Any]) -> None:
    """Refuse invalid ``options`` of ``GroupStream.open`` before anything is read.

    Raises:
        ConfigError: The first that is invalid.
    """
    for name, least in (("max_staleness", 0), ("min_good", 0), ("keep_states", 1)):
        if options.get(name) is not None:
            whole(name, options[name], least)
    for name in ("grace_s", "abandon_s"):
        check_seconds(name, options.get(name))
    check_function("keep", options.get("keep", varied))
