"""CSV by RFC 4180, safe to open in a spreadsheet: formulas that an agent wrote do not run."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

from agentpipe.archive.export.columns import row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import BinaryIO

    from agentpipe.archive.export.columns import ExportColumn, Value
    from agentpipe.core.result import Result

# A spreadsheet treats such a cell as a formula, which can fetch, leak and start programs:
# https://owasp.org/www-community/attacks/CSV_Injection. A leading quote is also quoted, so that
# removing the first quote always restores the text.
_FORMULA = re.compile(r"['=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
# Many readers end a string at NUL, or refuse the file.
_NUL = "\N{REPLACEMENT CHARACTER}"


def write_csv(
    results: Iterable[Result], file: BinaryIO, columns: Sequence[ExportColumn], *, raw: bool = False
) -> int:
    """Write a header and one line per Result; returns the number of Results.

    Args:
        results: Consumed one by one.
        file: Left open.
        columns: The columns to write.
        raw: Leave cells unchanged that a spreadsheet takes for formulas.
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
    """The cell's text: empty for None, booleans as in JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return "" if value is None else repr(value)
    text = value.replace("\0", _NUL)
    is_formula = _FORMULA.match(text) and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula and not raw else text
