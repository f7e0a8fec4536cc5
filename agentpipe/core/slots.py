"""Slots: makes a frozen dataclass with many fields in less time than its own ``__init__``."""

from __future__ import annotations

from collections import deque
from dataclasses import MISSING, fields
from itertools import repeat
from operator import attrgetter, call
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

AnyRecord = TypeVar("AnyRecord")


class Slots(Generic[AnyRecord]):
    """Sets the slots of a frozen dataclass: its own ``__init__`` looks each of them up by name.

    Only for a class without ``__post_init__``, which would not be called.
    """

    def __init__(self, of: type[AnyRecord]) -> None:
        self._of = of
        of_class = fields(of)  # type: ignore[arg-type]  # each is a dataclass
        self._put = {each.name: getattr(of, each.name).__set__ for each in of_class}
        self._all = attrgetter(*self._put)
        self._defaults = {each.name: each.default for each in of_class}
        # Values that can be changed are made anew for each record.
        self._factories: tuple[tuple[str, Any], ...] = tuple(
            (each.name, each.default_factory)
            for each in of_class
            if each.default_factory is not MISSING
        )
        # For records that are not changed.
        self._shared = {name: factory() for name, factory in self._factories}
        made = {name for name, _ in self._factories}
        self._required = {n for n, value in self._defaults.items() if value is MISSING} - made

    def filled(self, values: Mapping[str, Any], *, shared: bool = False) -> AnyRecord:
        """The same as ``of(**values)``; keys that are not fields are dropped.

        With ``shared``, empty lists and objects are those of other records: nothing may change one.

        Raises:
            TypeError: A field without a default is missing.
        """
        if missing := self._required - values.keys():
            raise TypeError(f"{self._of.__name__}: missing {sorted(missing)}")
        made: Mapping[str, Any] = self._shared
        if not shared:
            made = {name: factory() for name, factory in self._factories if name not in values}
        # Fields keep their places, and other keys come behind the last of them.
        return self._with({**self._defaults, **made, **values}.values())

    def changed(self, record: AnyRecord, values: Mapping[str, Any]) -> AnyRecord:
        """The same as ``dataclasses.replace(record, **values)``; ``values`` has fields only."""
        made = self._with(self._all(record))
        for name, value in values.items():
            self._put[name](made, value)
        return made

    def values(self, record: AnyRecord) -> tuple[Any, ...]:
        """The value of each field, in order."""
        found: tuple[Any, ...] = self._all(record)
        return found

    def _with(self, values: Iterable[Any]) -> AnyRecord:
        """A record with a value for each field, in order; values behind these are left."""
        made = self._of.__new__(self._of)
        deque(map(call, self._put.values(), repeat(made), values), maxlen=0)  # A loop in C.
        return made
