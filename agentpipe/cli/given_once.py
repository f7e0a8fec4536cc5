"""GivenOnce: an option with one value: an empty one would be none, a second file the only one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


# Which tasks are meant: of two, one would be passed over without a word.
ONCE = frozenset({"file", "run_name", "collection", "group", "outcome", "queue", "error", "to"})
# The place before the first of a listing's pages.
EMPTY = frozenset({"after"})


class GivenOnce(argparse.Action):
    """Stores the value.

    An empty value is mostly a variable of the shell that is not set: what is meant for one run, one
    group or one file would go on as if the option were not there. What says which tasks are meant
    is refused a second time; of how a command works the last one counts, so that scripts can
    override it.
    """

    _given_in: argparse.Namespace | None = None  # That of the last command line which has it.

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Store it, unless it is given again or empty."""
        if option_string is not None:
            self._refuse(parser, option_string, values, is_again=self._given_in is namespace)
            self._given_in = namespace
        setattr(namespace, self.dest, values)

    def _refuse(
        self, parser: argparse.ArgumentParser, option: str, value: Any, *, is_again: bool
    ) -> None:
        if value == "" and self.dest not in EMPTY:
            parser.error(f"{option} is empty: give it a value, or leave it out")
        if is_again and self.dest in ONCE:
            parser.error(f"{option} is given twice: give it once")
