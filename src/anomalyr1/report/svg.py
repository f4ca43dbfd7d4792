"""Line charts and histograms as SVG: no script, no style sheet, no library; the same text stands in a page
and in a file of its own.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

from anomalyr1.report.text import visible

WIDTH, HEIGHT = 420, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 32, 40
COLOURS = ("#2f7fe0", "#d9483b", "#1c9a62", "#a06ad8", "#c98500", "#4aa3b8", "#d0579c", "#7a8794")
"""Of the series in order; each is readable on white and on black."""
_MOST_POINTS = 400
_LEAST, _MOST = 1e-300, 1e300
"""Values as far apart as this are drawn apart, and values below this are drawn at all."""


class Curve(NamedTuple):
    """Points of one curve, (x, y) each."""

    label: str
    points: Sequence[tuple[float, float]]
    look: str = "line"
    """"line", "dashed", "dots", or "bars" (x is the middle; two series fit beside each other)."""
    colour: int | None = None
    """Place in `COLOURS`; the series' own place when None."""


def chart(
    title: str,
    x_label: str,
    series: Sequence[Curve],
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """A chart as one `svg` element; axes span the data where no range is given. Every text is escaped.

    Lines of more than 400 points are thinned evenly. Colours of text and grid follow the page.
    """
    points = [point for line in series for point in line.points]
    x_ticks = _ticks_in(x_range, [x for x, _ in points])
    y_ticks = _ticks_in(y_range, [y for _, y in points])
    rows = _legend(series)
    area = _Area(
        (x_range or (x_ticks[0], x_ticks[-1])),
        (y_range or (y_ticks[0], y_ticks[-1])),
        _TOP + 13 * len(rows) - 4,
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{_text(title)}" font-family="system-ui, sans-serif" font-size="11" '
        'fill="currentColor">',
        f'<text x="{_LEFT}" y="16" font-size="13" font-weight="600">{_text(title)}</text>',
    ]
    for y in y_ticks:
        parts.append(_rule(area.point(area.x[0], y), area.point(area.x[1], y)))
        height = area.point(0, y)[1] + 4
        parts.append(
            f'<text x="{_LEFT - 6}" y="{height:.1f}" text-anchor="end" opacity=".75">{_number(y)}</text>'
        )
    for x in x_ticks:
        left = area.point(x, 0)[0]
        parts.append(
            f'<text x="{left:.1f}" y="{HEIGHT - 24}" text-anchor="middle" opacity=".75">{_number(x)}</text>'
        )
    middle = (WIDTH + _LEFT) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{HEIGHT - 7}" text-anchor="middle" opacity=".75">{_text(x_label)}</text>'
    )
    parts += [_curve(line, _colour(line, place), area) for place, line in enumerate(series)]
    for number, row in enumerate(rows):
        for label, colour, x in row:
            parts.append(
                f'<rect x="{x}" y="{_TOP + 13 * number - 9}" width="9" height="9" rx="2" fill="{colour}"/>'
            )
            parts.append(
                f'<text x="{x + 13}" y="{_TOP + 13 * number}" opacity=".85">{html.escape(label)}</text>'
            )
    return "".join(parts) + "</svg>"


def file(svg: str) -> str:
    """The chart as a file of its own: on white, with dark text."""
    opened = svg.index(">") + 1
    white = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    return (
        svg[:opened].replace("currentColor", "#1a2129")
        + white
        + svg[opened:].replace("currentColor", "#1a2129")
        + "\n"
    )


class _Area(NamedTuple):
    x: tuple[float, float]
    y: tuple[float, float]
    top: int
    """Where the plot begins, below its legend."""

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where a value lies in the picture."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (
            HEIGHT - self.top - _BOTTOM
        )


def _curve(line: Curve, colour: str, area: _Area) -> str:
    if line.look == "bars":
        return _bars(line, colour, area)
    step = max(1, math.ceil(len(line.points) / _MOST_POINTS))
    kept = [point for i, point in enumerate(line.points) if i % step == 0 or i == len(line.points) - 1]
    places = [area.point(x, y) for x, y in kept if _is_drawable(x) and _is_drawable(y)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dash = ' stroke-dasharray="4 4" opacity=".7"' if line.look == "dashed" else ""
    if line.look == "dots":
        return "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in places)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
        f'stroke-linejoin="round"{dash}/>'
    )


def _bars(line: Curve, colour: str, area: _Area) -> str:
    width = (WIDTH - _LEFT - _RIGHT) / max(len(line.points), 1) * 0.46
    bars = []
    for x, y in line.points:
        left, top = area.point(x, y)
        bottom = area.point(x, area.y[0])[1]
        bars.append(
            f'<rect x="{left - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{bottom - top:.1f}" fill="{colour}"/>'
        )
    return "".join(bars)


def _legend(series: Sequence[Curve]) -> list[list[tuple[str, str, int]]]:
    """Rows of (label, colour, left edge) that fit beside each other."""
    rows: list[list[tuple[str, str, int]]] = []
    x = WIDTH
    for place, line in enumerate(series):
        if not line.label:
            continue
        label = visible(line.label)
        label = label if len(label) <= 28 else f"{label[:27]}…"
        width = round(6.4 * len(label)) + 26
        if x + width > WIDTH - _RIGHT:
            rows.append([])
            x = _LEFT
        rows[-1].append((label, _colour(line, place), x))
        x += width
    return rows


def _rule(start: tuple[float, float], end: tuple[float, float]) -> str:
    return (
        f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" '
        'stroke="currentColor" stroke-opacity=".15"/>'
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    drawable = [value for value in values if _is_drawable(value)] or [0.0, 1.0]
    low, high = min(drawable), max(drawable)
    if high - low > max(_LEAST, 1e-12 * abs(low)):
        return low, high
    apart = abs(low) / 2  # a constant stands in the middle, at its own scale; nothing stands at the bottom
    return (low - apart, high + apart) if apart > _LEAST else (0.0, 1.0)


def _is_drawable(value: float) -> bool:
    """Whether it is finite, and so far from the largest float that differences are finite, too."""
    return abs(value) < _MOST


def _colour(line: Curve, place: int) -> str:
    return COLOURS[(place if line.colour is None else line.colour) % len(COLOURS)]


def _ticks_in(bounds: tuple[float, float] | None, values: Sequence[float]) -> list[float]:
    """The ticks of an axis: those within its bounds, or as many as span the values where it has none."""
    if bounds is None:
        return _ticks(*_span(values))
    return [tick for tick in _ticks(*bounds) if bounds[0] <= tick <= bounds[1] * (1 + 1e-9)]


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers; the first lies at or below `low`, the last at or above `high`."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.999)
    lowest, highest = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(lowest, highest + 1)]


def _number(value: float) -> str:
    if abs(value) < 1e-12:
        return "0"
    return f"{value:.3g}" if not 1000 <= abs(value) < 1e5 else f"{value:.0f}"


def _text(text: str) -> str:
    return html.escape(visible(text))
