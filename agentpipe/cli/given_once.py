"""GivenOnce: an argparse action that refuses empty values and repeated selections."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


# Options that select tasks: if one is repeated, the first value would be silently ignored.
ONCE = frozenset({"file", "run_name", "collection", "group", "outcome", "queue", "error", "to"})
# What can be empty: an empty place in a listing means its first page, and not every agent needs a
# question.
EMPTY = frozenset({"after", "question"})


class GivenOnce(argparse.Action):
    """Stores the value.

    An empty value is usually an unset shell variable. It is refused, since the command would run
    as if it were absent, for instance on all runs instead of one. Options that select tasks
    (``ONCE``) are refused when repeated. For all other options the last value wins, so that scripts
    can override it.
    """

    _given_in: argparse.Namespace | None = None  # The last command line that has this option.

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Store the value, or end with a usage error if it is empty or repeated."""
        if "" in (values if isinstance(values, list) else [values]) and self.dest not in EMPTY:
            name = option_string or self.metavar
            parser.error(f"{name} is empty: give it a value, or leave it out")
        if option_string is not None:
            if self._given_in is namespace and self.dest in ONCE:
                parser.error(f"{option_string} is given twice: give it once")
            self._given_in = namespace
        setattr(namespace, self.dest, values)
