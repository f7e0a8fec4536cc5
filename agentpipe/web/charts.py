"""Charts: numbers as shapes in a box; templates draw them as SVG. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

WIDTH, HEIGHT = 600, 120
# Round steps of an axis.
_ROUND = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle; ``kind`` is the CSS class of its colour, ``title`` its tooltip."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Caption:
    """The texts around a chart.

    Attributes:
        label: A description of the chart for screen readers.
        begin: The text at the left end of the axis.
        end: The text at the right end of the axis.
    """

    title: str
    label: str
    begin: str
    end: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The shapes of a chart.

    Attributes:
        line: The points of a polyline; empty for none.
        area: The points of the area below that line.
        ticks: The distances of the scale's lines from the top, with their labels.
        kinds: The names and colours of its parts.
    """

    caption: Caption
    bars: tuple[Bar, ...] = ()
    line: str = ""
    area: str = ""
    ticks: tuple[tuple[float, str], ...] = ()
    kinds: tuple[tuple[str, str], ...] = ()


def stacked(
    columns: Sequence[Mapping[str, float]],
    kinds: Mapping[str, str],
    titles: Sequence[str],
    caption: Caption,
) -> Chart:
    """A stacked bar for each column.

    ``kinds`` has the colour of each part, from bottom to top; ``titles`` describe the columns.
    """
    top = ceiling(max((math.fsum(column.values()) for column in columns), default=0.0))
    step = WIDTH / max(1, len(columns))
    bars = []
    for place, (column, title) in enumerate(zip(columns, titles, strict=True)):
        y = float(HEIGHT)
        for name, kind in kinds.items():
            if number := column.get(name, 0.0):
                height = HEIGHT * number / top
                y -= height
                text = f"{title}: {short(number)} {name}".rstrip()
                x, width = round((place + 0.08) * step, 2), round(step * 0.84, 2)
                bars.append(Bar(x, round(y, 2), width, round(height, 2), kind, text))
    used = {name for column in columns for name, number in column.items() if number}
    legend = tuple((name, kind) for name, kind in kinds.items() if name in used and name)
    return Chart(caption, tuple(bars), ticks=ticks_of(top), kinds=legend)


def lined(values: Sequence[float | None], caption: Caption) -> Chart:
    """A line through the values; None means unknown and is left out."""
    top = ceiling(max((value for value in values if value is not None), default=0.0))
    step = WIDTH / max(1, len(values) - 1)
    points = [
        (round(place * step, 2), round(HEIGHT - HEIGHT * value / top, 2))
        for place, value in enumerate(values)
        if value is not None
    ]
    line = " ".join(f"{x:g},{y:g}" for x, y in points)
    area = f"{points[0][0]:g},{HEIGHT} {line} {points[-1][0]:g},{HEIGHT}" if points else ""
    return Chart(caption, line=line, area=area, ticks=ticks_of(top))


def histogram(
    values: Sequence[float], bins: int, low: float, high: float, show: Callable[[float], str]
) -> tuple[list[Mapping[str, float]], list[str]]:
    """How many values lie in each of ``bins`` equal bins; the last includes its upper end."""
    width = (high - low) / bins or 1.0
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, max(0, int((value - low) / width)))] += 1
    edges = [show(low + place * width) for place in range(bins + 1)]
    titles = [f"{edges[place]} to {edges[place + 1]}" for place in range(bins)]
    return [{"": float(count)} for count in counts], titles


def ceiling(value: float) -> float:
    """The smallest round number that is not below ``value``."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _ROUND if step * power >= value * (1 - 1e-9))


def ticks_of(top: float) -> tuple[tuple[float, str], ...]:
    """The lines at the top and the middle of an axis from 0 to ``top``."""
    return ((0.0, short(top)), (HEIGHT / 2, short(top / 2)))


def short(number: float) -> str:
    """The number in at most six characters."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size * 10:
            return f"{number / size:.3g}{unit}"
    return f"{number:,.3g}" if number < 1_000 else f"{number:,.0f}"  # noqa: PLR2004 - its digits
