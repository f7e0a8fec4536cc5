"""Slots: create frozen dataclasses with many fields faster than their own ``__init__``."""

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
    """Sets the slots of a frozen dataclass directly; its ``__init__`` looks up each one by name.

    Works only for classes without ``__post_init__``, which would not be called.
    """

    def __init__(self, of: type[AnyRecord]) -> None:
        self._of = of
        of_class = fields(of)  # type: ignore[arg-type]  # each is a dataclass
        self._put = {each.name: getattr(of, each.name).__set__ for each in of_class}
        self._all = attrgetter(*self._put)
        self._defaults = {each.name: each.default for each in of_class}
        # Mutable values are created anew for each record.
        self._factories: tuple[tuple[str, Any], ...] = tuple(
            (each.name, each.default_factory)
            for each in of_class
            if each.default_factory is not MISSING
        )
        # For records that nobody modifies.
        self._shared = {name: factory() for name, factory in self._factories}
        made = {name for name, _ in self._factories}
        self._required = {n for n, value in self._defaults.items() if value is MISSING} - made

    def filled(self, values: Mapping[str, Any], *, shared: bool = False) -> AnyRecord:
        """Return the same as ``of(**values)``; keys that are not fields are dropped.

        With ``shared``, empty lists and objects are shared between records and must not be
        modified.

        Raises:
            TypeError: A field without a default is missing.
        """
        if missing := self._required - values.keys():
            raise TypeError(f"{self._of.__name__}: missing {sorted(missing)}")
        made: Mapping[str, Any] = self._shared
        if not shared:
            made = {name: factory() for name, factory in self._factories if name not in values}
        # Fields keep their order; unknown keys come after the last field.
        return self._with({**self._defaults, **made, **values}.values())

    def changed(self, record: AnyRecord, values: Mapping[str, Any]) -> AnyRecord:
        """Do the same as ``dataclasses.replace(record, **values)``; ``values`` has only fields."""
        made = self._with(self._all(record))
        for name, value in values.items():
            self._put[name](made, value)
        return made

    def values(self, record: AnyRecord) -> tuple[Any, ...]:
        """Return the value of each field, in order."""
        found: tuple[Any, ...] = self._all(record)
        return found

    def _with(self, values: Iterable[Any]) -> AnyRecord:
        """Create a record from one value per field, in order; further values are ignored."""
        made = self._of.__new__(self._of)
        deque(map(call, self._put.values(), repeat(made), values), maxlen=0)  # This loop runs in C.
        return made
