"""Slots: a third of the time to make a frozen dataclass with many fields."""

from __future__ import annotations

from dataclasses import MISSING, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

AnyRecord = TypeVar("AnyRecord")


class Slots(Generic[AnyRecord]):
    """Sets the slots of a frozen dataclass: its own ``__init__`` looks each of them up by name.

    Only for a class without ``__post_init__``, which would not be called.
    """

    def __init__(self, of: type[AnyRecord]) -> None:
        self._of = of
        self._fields = tuple(
            (each.name, getattr(of, each.name).__set__, each.default, each.default_factory)
            for each in fields(of)  # type: ignore[arg-type]
        )
        self._put = {name: put for name, put, _, _ in self._fields}
        self._all = attrgetter(*self._put)

    def filled(self, values: Mapping[str, Any]) -> AnyRecord:
        """The same as ``of(**values)``; keys that are not fields are dropped.

        Raises:
            TypeError: A field without a default is missing.
        """
        made = self._of.__new__(self._of)
        for name, put, default, factory in self._fields:
            if name in values:
                put(made, values[name])
            else:
                put(made, factory() if default is MISSING else default)  # type: ignore[operator]
        return made

    def changed(self, record: AnyRecord, values: Mapping[str, Any]) -> AnyRecord:
        """The same as ``dataclasses.replace(record, **values)``; ``values`` has fields only."""
        made = self._of.__new__(self._of)
        for put, value in zip(self._put.values(), self._all(record), strict=True):
            put(made, value)
        for name, value in values.items():
            self._put[name](made, value)
        return made
