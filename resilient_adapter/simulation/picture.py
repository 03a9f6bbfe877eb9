"""The picture of a comparison: requests per second at the server, a panel for each contender.

It is put together once, of polygons and texts; then it is written as SVG, by ourselves, or as PNG, by matplotlib.
"""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from .record import Record
from .world import AFTER, WARM_UP, Scenario

_COLUMNS = 2
_WIDTH, _HEIGHT = 420.0, 170.0  # of a panel's plot
_LEFT, _TOP, _RIGHT, _BOTTOM = 62.0, 54.0, 26.0, 38.0  # around it
_HEAD = 46.0

_INK, _PALE, _GRID, _BLUE, _RED = "#222222", "#666666", "#dddddd", "#2b6cb0", "#fbdcd7"
_DPI = 100  # of the picture's own units; PNGs have twice as many pixels


class Shape(NamedTuple):
    """A line through points, or the area that they enclose."""

    points: Sequence[tuple[float, float]]
    stroke: str | None = None
    fill: str | None = None
    width: float = 1.0
    dashed: bool = False


class Text(NamedTuple):
    """A text whose ``anchor`` (start, middle, end) is at a point of its baseline."""

    x: float
    y: float
    text: str
    size: float = 11.0
    color: str = _INK
    anchor: str = "start"


class Picture(NamedTuple):
    """What is to be drawn, in order; y grows downwards."""

    width: float
    height: float
    parts: list[Shape | Text]


def draw(scenario: Scenario, rows: Sequence[tuple[str, Record]]) -> Picture:
    """Return the picture of a comparison.

    Args:
        scenario: what happened.
        rows: each contender's name and what happened to it.
    """
    lines = -(-len(rows) // _COLUMNS)
    across, down = _LEFT + _WIDTH + _RIGHT, _TOP + _HEIGHT + _BOTTOM
    parts: list[Shape | Text] = [
        Text(_LEFT, 28, "Requests per second at the server, before, during and after an outage", 16),
        Text(
            _LEFT,
            46,
            f"{scenario.clients} clients × {scenario.rate:g}/s; dashed: the demand, which is what the server would see "
            "without retries",
            11,
            _PALE,
        ),
    ]
    loads = [[load * scenario.demand for load in record.load] for _, record in rows]
    step = _step(max(map(max, loads)), 5)
    top = step * math.ceil(max(map(max, loads)) / step)
    for number, ((name, record), load) in enumerate(zip(rows, loads, strict=True)):
        line, column = divmod(number, _COLUMNS)
        panel = _Panel(column * across + _LEFT, _HEAD + line * down + _TOP, scenario.outage, top)
        parts += panel.draw(name, record, load, step, scenario.demand)
    return Picture(across * _COLUMNS, _HEAD + down * lines, parts)


class _Panel(NamedTuple):
    left: float
    upper: float
    outage: float
    top: float

    def _x(self, time: float) -> float:
        share = (time + WARM_UP) / (WARM_UP + self.outage + AFTER)
        return self.left + _WIDTH * min(share, 1.0)

    def _y(self, load: float) -> float:
        return self.upper + _HEIGHT * (1 - load / self.top)

    def draw(
        self, name: str, record: Record, load: Sequence[float], step: float, demand: float
    ) -> Iterator[Shape | Text]:
        left, right, lower = self.left, self.left + _WIDTH, self.upper + _HEIGHT
        begin, end = self._x(0), self._x(self.outage)
        yield Text(left, self.upper - 24, name, 13)
        yield Text(left, self.upper - 9, _summary(record), 11, _PALE)
        yield Shape([(begin, self.upper), (end, self.upper), (end, lower), (begin, lower)], fill=_RED)
        for number in range(round(self.top / step) + 1):
            y = self._y(number * step)
            yield Shape([(left, y), (right, y)], _GRID)
            yield Text(left - 6, y + 4, f"{number * step:g}", color=_PALE, anchor="end")
        stairs = [
            (self._x(second + edge - WARM_UP), self._y(value)) for second, value in enumerate(load) for edge in (0, 1)
        ]
        yield Shape([(left, lower), *stairs, (stairs[-1][0], lower)], fill=_BLUE)
        yield Shape([(left, self._y(demand)), (right, self._y(demand))], _INK, dashed=True)
        yield Text((begin + end) / 2, self.upper + 14, "outage", color="#a33a2a", anchor="middle")
        apart = _step(WARM_UP + self.outage + AFTER, 8)
        for number in range(math.ceil(-WARM_UP / apart), math.floor((self.outage + AFTER) / apart) + 1):
            x = self._x(number * apart)
            yield Shape([(x, lower), (x, lower + 4)], _PALE)
            yield Text(x, lower + 17, f"{number * apart:g} s", color=_PALE, anchor="middle")


def _summary(record: Record) -> str:
    recovery = "not recovered" if record.recovery is None else f"recovered after {record.recovery:.1f} s"
    return f"{record.amplification:.2g} × demand in the outage, {record.peak:.2g} × at most after it; {recovery}"


def _step(span: float, most: int) -> float:
    """Return a round number that goes into a span no more often than that."""
    least = span / most
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * times for times in (1, 2, 5, 10) if power * times >= least)


# --- writing


def svg(picture: Picture) -> bytes:
    """Return a picture as SVG."""
    width, height = f"{picture.width:g}", f"{picture.height:g}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        '<style>text {font-family: "DejaVu Sans", Verdana, sans-serif}</style>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for part in picture.parts:
        if isinstance(part, Text):
            lines.append(
                f'<text x="{part.x:.1f}" y="{part.y:.1f}" font-size="{part.size:g}" fill="{part.color}"'
                f' text-anchor="{part.anchor}">{escape(part.text)}</text>'
            )
        else:
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in part.points)
            dashes = ' stroke-dasharray="4 3"' if part.dashed else ""
            lines.append(
                f'<polyline points="{points}" fill="{part.fill or "none"}" stroke="{part.stroke or "none"}"'
                f' stroke-width="{part.width:g}"{dashes}/>'
            )
    return "\n".join([*lines, "</svg>", ""]).encode()


def png(picture: Picture) -> bytes:
    """Return a picture as PNG.

    Raises:
        ImportError: matplotlib is not installed (the extra ``simulate``).
    """
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(picture.width / _DPI, picture.height / _DPI), dpi=2 * _DPI
    )
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, picture.width)
    axes.set_ylim(picture.height, 0)
    points_in_unit = 72 / _DPI
    for order, part in enumerate(picture.parts):
        if isinstance(part, Text):
            side = {"start": "left", "middle": "center", "end": "right"}[part.anchor]
            axes.text(
                part.x, part.y, part.text, size=part.size * points_in_unit, color=part.color, ha=side, zorder=order
            )
            continue
        xs, ys = zip(*part.points, strict=True)
        if part.fill is not None:
            axes.fill(xs, ys, color=part.fill, linewidth=0, zorder=order)
        else:
            style = (0, (4, 3)) if part.dashed else "-"
            width = part.width * points_in_unit
            axes.plot(xs, ys, color=part.stroke, linewidth=width, linestyle=style, zorder=order)
    written = io.BytesIO()
    figure.savefig(written, format="png", facecolor="white")
    return written.getvalue()
