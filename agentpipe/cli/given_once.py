"""GivenOnce: an option with one value. A second one would replace it, and an empty one be none."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class GivenOnce(argparse.Action):
    """Stores the value; for a parser that parses one command line.

    An empty value is mostly a variable of the shell that is not set: what is meant for one run, one
    group or one file would go on as if the option were not there.
    """

    _was_given = False

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Store it, unless it is given again or empty."""
        if option_string is not None:
            self._refuse(parser, option_string, values)
        setattr(namespace, self.dest, values)

    def _refuse(self, parser: argparse.ArgumentParser, option: str, value: Any) -> None:
        if value == "":
            parser.error(f"{option} is empty: give it a value, or leave it out")
        if self._was_given:
            parser.error(f"{option} is given twice: give it once")
        self._was_given = True
