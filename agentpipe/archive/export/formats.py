"""The export formats by name, and what each supports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.archive.export.columns import columns
from agentpipe.archive.export.csv_table import write_csv
from agentpipe.archive.export.inspect.log import write_inspect
from agentpipe.archive.export.jsonl import write_jsonl
from agentpipe.archive.export.parquet import write_parquet
from agentpipe.archive.export.sft import write_sft

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from agentpipe.core.result import Result

    # Called again by a format that reads the results twice: no format holds all of them.
    Find = Callable[[], Iterator[Result]]


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller can choose.

    Attributes:
        trace: Whether the trace is a column.
        raw: See ``write_csv``.
        min_reward: See ``write_sft``.
        run: The run that all results belong to, if there is one.
    """

    trace: bool = True
    raw: bool = False
    min_reward: float | None = None
    run: str | None = None


# The number of results written, and of those left out.
Written = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Format:
    """An export format.

    Attributes:
        write: Writes the results that it finds.
        streams: Whether it can be written to a pipe and read line by line.
        options: The fields of ``Options`` that have an effect.
        outcome: Which results are exported by default; None for all.
        left_out: Why results are left out.
    """

    write: Callable[[Find, BinaryIO, Options], Written]
    streams: bool
    options: frozenset[str]
    outcome: str | None = None
    left_out: str = ""


def _jsonl(find: Find, file: BinaryIO, options: Options) -> Written:
    return write_jsonl(find(), file, columns(trace=options.trace)), 0


def _csv(find: Find, file: BinaryIO, options: Options) -> Written:
    return write_csv(find(), file, columns(trace=options.trace), raw=options.raw), 0


def _parquet(find: Find, file: BinaryIO, options: Options) -> Written:
    return write_parquet(find(), file, columns(trace=options.trace)), 0


def _sft(find: Find, file: BinaryIO, options: Options) -> Written:
    return write_sft(find(), file, options.min_reward)


def _inspect(find: Find, file: BinaryIO, options: Options) -> Written:
    return write_inspect(find, file, options.run)


FORMATS = {
    "jsonl": Format(_jsonl, True, frozenset({"trace"})),
    "csv": Format(_csv, True, frozenset({"trace", "raw"})),
    "parquet": Format(_parquet, False, frozenset({"trace"})),
    "inspect": Format(_inspect, False, frozenset(), left_out="a later attempt counts"),
    "sft": Format(
        _sft,
        True,
        frozenset({"min_reward"}),
        outcome="ok",
        left_out="less than --min-reward, or no whole conversation",
    ),
}
