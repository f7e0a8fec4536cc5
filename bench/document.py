"""Makes ``docs/benchmarks.md`` from the recorded rows: ``python -m bench.document``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.groups_of_figures import GROUPS
from bench.recording import recorded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.recording import Group, Row

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
HEAD = """\
# Benchmarks

`make bench` makes this page; nothing in it is written by hand. Each figure stands beside
something that was measured in the same run, on the same machine and server: compare the ratios,
for absolute figures hold for one machine. A ratio is agentpipe's figure divided by the other's,
measured in turns; for a speed, more than 1 is faster. Under "load" is how many processes wanted a
core, as the kernel counts them, in the minute before a group began and before it ended. Figures
of a machine with other work beside them say little. A group can be measured alone by its command.
"""


def write() -> None:
    groups = [group for name in GROUPS if (group := recorded(name)) is not None]
    DOCUMENT.write_text("\n".join(_lines(groups)) + "\n")


def _lines(groups: list[Group]) -> Iterator[str]:
    yield HEAD
    yield from _facts("Machine", [group.machine for group in groups])
    yield from _facts("Versions", [group.versions for group in groups])
    for group in groups:
        yield from _section(group)


def _facts(title: str, found: list[dict[str, str]]) -> Iterator[str]:
    """Facts of the groups, each once; several values if there were several machines."""
    names = {name: None for facts in found for name in facts}
    yield f"## {title}\n"
    for name in names:
        values = {facts[name]: None for facts in found if name in facts}
        yield f"- {name}: {', '.join(values)}"
    yield ""


def _section(group: Group) -> Iterator[str]:
    before, after = group.loads
    yield f"## {GROUPS[group.name].title}\n"
    began = f"{group.began[:16].replace('T', ' ')} UTC"
    yield f"`{group.command}`, {began}, {group.took_s:.0f} s, load {before:.1f} to {after:.1f}\n"
    yield "| figure | value | ratio: median | least | greatest | beside |"
    yield "|---|---|---|---|---|---|"
    label = ""
    for row in group.rows:
        label = row.label or label
        yield _table_row(row, label)
    yield ""


def _table_row(row: Row, label: str) -> str:
    ratios = ("", "", "")
    if row.ratios:
        least, median, greatest = row.ratios
        ratios = (f"{median:.2f}", f"{least:.2f}", f"{greatest:.2f}")
    cells = (label.strip(), row.value, *ratios, row.beside.strip(" ,"))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    write()
