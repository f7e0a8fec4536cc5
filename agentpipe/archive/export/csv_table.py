"""CSV as RFC 4180 has it, which a spreadsheet opens without running what an agent wrote."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

from agentpipe.archive.export.columns import row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import BinaryIO

    from agentpipe.archive.export.columns import Column, Value
    from agentpipe.core.result import Result

# A spreadsheet takes such a cell for a formula, which may fetch, leak and start programs:
# https://owasp.org/www-community/attacks/CSV_Injection. The quote itself is doubled, so that taking
# the first quote away always gives the text back.
_FORMULA = re.compile(r"['=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
# Readers end a text at NUL, or refuse the file.
_NUL = "\N{REPLACEMENT CHARACTER}"


def write_csv(
    results: Iterable[Result], file: BinaryIO, columns: Sequence[Column], *, raw: bool = False
) -> int:
    """Write a header and a line for each; returns their number.

    Args:
        results: Taken one by one.
        file: Left open.
        columns: The wanted ones.
        raw: Whether cells that a spreadsheet takes for formulas stay as they are.
    """
    file.write(_line([each.name for each in columns]))
    written = 0
    for result in results:
        file.write(_line([_cell(each, raw=raw) for each in row(result, columns).values()]))
        written += 1
    return written


def _line(cells: Iterable[str]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().encode()


def _cell(value: Value, *, raw: bool) -> str:
    """Empty for None; booleans as JSON has them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return "" if value is None else repr(value)
    text = value.replace("\0", _NUL)
    is_formula = _FORMULA.match(text) and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula and not raw else text
