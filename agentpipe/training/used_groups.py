"""UsedGroups: which groups were used, and which of them can be committed."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from agentpipe.training.states import check_states

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from collections.abc import Set as AbstractSet

# Remaining Results of a used group arrive soon after it, if at all.
REMEMBERED = 200_000


class ReadRecord(NamedTuple):
    """What is kept of a record until it is committed.

    Attributes:
        group_id: Empty if the record belongs to no group of this reader.
        tasks: The task of a Result; the members, for a group's end record.
    """

    group_id: str
    tasks: tuple[str, ...]
    is_end: bool = False


class UsedGroups:
    """What a reader of groups remembers; outlives the connection and can be pickled."""

    def __init__(self, *, keep_states: int = 8, lag: int = 0) -> None:
        """Before ``save`` or ``load``, the last ``lag`` groups ``given`` stay uncommitted.

        After that, only groups in all of the last ``keep_states`` states can be committed.
        """
        self._all: OrderedDict[str, None] = OrderedDict()
        self._again: set[str] = set()  # Used by an earlier reader; their records come again.
        # For those groups: the tasks whose Results are committed, and the members if known.
        self._released: dict[str, tuple[frozenset[str], frozenset[str] | None]] = {}
        self._states: deque[AbstractSet[str]] = deque(maxlen=keep_states)
        self._has_states = False
        self._last_given: deque[str] = deque(maxlen=lag)

    def __contains__(self, group_id: str) -> bool:
        return group_id in self._all

    def add(self, group_id: str) -> None:
        """The group was used, or is not wanted."""
        self._all[group_id] = None
        if len(self._all) > REMEMBERED:
            self._all.popitem(last=False)

    def given(self, group_id: str) -> None:
        """The group was wanted and is in use; only such groups count for the lag."""
        self._last_given.append(group_id)

    def comes_again(self, group_id: str) -> bool:
        """Whether the group was used before, and its records are expected again."""
        return group_id in self._again

    def is_saved(self, group_id: str) -> bool:
        """Whether the group counts as used in an earlier state, saved or loaded."""
        return group_id in self._again or any(group_id in state for state in self._states)

    def carry(self, held: Iterable[str]) -> None:
        """The next reader gets the records of these groups again: they were not committed."""
        self._again |= {group_id for group_id in held if group_id in self._all}

    def released(self, record: ReadRecord) -> None:
        """The record is committed; after the last of a group's records no state needs the group."""
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
        """Whether no loadable state needs this group again."""
        if self._has_states:
            return len(self._states) == self._states.maxlen and group_id in self._states[0]
        return group_id in self._all and not (all_but_lag and group_id in self._last_given)

    def save(self, name: str, held: Iterable[str]) -> dict[str, Any]:
        """A state of the reader ``name``: used groups that may come again, including earlier ones.

        ``used`` lists ids in the order of the last states, and ``states`` says how many of them
        each state had, so a later reader knows what it can commit.
        """
        self._states.append(frozenset(held) | self._again)
        self._has_states = True
        ordered = OrderedDict[str, None]()
        sizes = list[int]()
        for state in self._states:
            ordered.update(dict.fromkeys(sorted((state & self._states[-1]) - ordered.keys())))
            sizes.append(len(ordered))
        return {"version": 1, "group": name, "used": list(ordered), "states": sizes}

    def load(self, name: str, states: Collection[Mapping[str, Any]]) -> None:
        """Continue after a state returned by ``save``, in this process or another.

        Raises:
            ConfigError: It is not a state of that reader.
        """
        check_states(states, name)
        for state in states:
            used = list(state["used"])
            self._again |= set(used)
            self._states.extend(frozenset(used[:size]) for size in state.get("states", ()))
        self._all.update(dict.fromkeys(sorted(self._again)))
        self._has_states = True
