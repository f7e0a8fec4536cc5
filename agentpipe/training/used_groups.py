"""UsedGroups: which groups were used, and which of these may be committed."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet

# Results of a group that was given come soon after it, if at all.
REMEMBERED = 200_000


class ReadRecord(NamedTuple):
    """What remains of a record until it is committed.

    Attributes:
        group_id: Empty where it is of no group of this reader.
        tasks: The task of a Result; of the record that ends a group, its members.
    """

    group_id: str
    tasks: tuple[str, ...]
    is_end: bool = False


class UsedGroups:
    """What a reader of groups remembers; it outlives the connection, and can be pickled."""

    def __init__(self, *, keep_states: int = 8, lag: int = 0) -> None:
        """Until ``save`` or ``load``, the ``lag`` last ones that were ``given`` stay uncommitted.

        Then only what is in the ``keep_states`` last states may go.
        """
        self._all: OrderedDict[str, None] = OrderedDict()
        self._again: set[str] = set()  # Used by an earlier reader, whose records come again.
        # Of those: which of its Results are committed, and who its members are.
        self._released: dict[str, tuple[frozenset[str], frozenset[str] | None]] = {}
        self._states: deque[AbstractSet[str]] = deque(maxlen=keep_states)
        self._has_states = False
        self._last_given: deque[str] = deque(maxlen=lag)

    def __contains__(self, group_id: str) -> bool:
        return group_id in self._all

    def add(self, group_id: str) -> None:
        """It was used, or is not wanted."""
        self._all[group_id] = None
        if len(self._all) > REMEMBERED:
            self._all.popitem(last=False)

    def given(self, group_id: str) -> None:
        """It is about to be used, and was wanted: others take no room of the lag."""
        self._last_given.append(group_id)

    def comes_again(self, group_id: str) -> bool:
        """Whether its records were expected, though it was used."""
        return group_id in self._again

    def carry(self, held: Iterable[str]) -> None:
        """The records of these were not committed: the next reader gets them again."""
        self._again |= {group_id for group_id in held if group_id in self._all}

    def released(self, record: ReadRecord) -> None:
        """It is committed; after the last of a group's records no state needs the group."""
        if record.group_id not in self._again:
            return
        come, members = self._released.pop(record.group_id, (frozenset(), None))
        if record.is_end:
            members = frozenset(record.tasks)
        else:
            come = come.union(record.tasks)
        if members is not None and members <= come:
            self._again.discard(record.group_id)
        else:
            self._released[record.group_id] = come, members

    def is_committable(self, group_id: str, *, all_but_lag: bool = True) -> bool:
        """Whether no state that may be loaded will ask for this group."""
        if self._has_states:
            return len(self._states) == self._states.maxlen and group_id in self._states[0]
        return group_id in self._all and not (all_but_lag and group_id in self._last_given)

    def save(self, name: str, held: Iterable[str]) -> dict[str, Any]:
        """What the reader ``name`` has used and may get again: these, and those of earlier ones.

        ``used`` is in the order of the last states, and ``states`` says how many ids each had, so
        that a later reader knows what it may commit.
        """
        self._states.append(frozenset(held) | self._again)
        self._has_states = True
        ordered = OrderedDict[str, None]()
        sizes = list[int]()
        for state in self._states:
            ordered.update(dict.fromkeys(sorted((state & self._states[-1]) - ordered.keys())))
            sizes.append(len(ordered))
        return {"version": 1, "group": name, "used": list(ordered), "states": sizes}

    def load(self, name: str, states: Iterable[Mapping[str, Any]]) -> None:
        """Go on after what ``save`` returned, here or elsewhere.

        Raises:
            ConfigError: It is not a state of that reader.
        """
        for state in states:
            if state.get("version") != 1 or state.get("group") != name:
                raise ConfigError(f"not a state of the group {name!r}: {state!r:.80}")
            used = list(state["used"])
            self._again |= set(used)
            self._states.extend(frozenset(used[:size]) for size in state.get("states", ()))
        self._all.update(dict.fromkeys(sorted(self._again)))
        self._has_states = True
