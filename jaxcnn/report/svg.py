"""Plots as inline SVG, readable without colour or aloud: dashes, marks, title and description; colours from CSS."""

import math
from collections.abc import Sequence

from jaxcnn.core.text import html

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 400, 260, 50, 14, 12, 40
DASHES = ("", "7 4", "2 3", "9 3 2 3", "12 4", "4 2")
MARKS = 6  # number of shapes
KINDS = 6  # number of colours in the style sheet, s0 to s5
Series = tuple[str, Sequence[tuple[float, float]]]  # a name and points (x, y)


def lines(
    title: str,
    about: str,
    series: Sequence[Series],
    *,
    xlabel: str,
    ylabel: str,
    xlim: tuple[float, float] | None = None,
    ylim: tuple[float, float] | None = None,
    diagonal: bool = False,
    marks: bool = True,
) -> str:
    """Draw lines with a legend.

    Args:
        title: heading, which screen readers read first.
        about: description of the plot in words.
        series: names and points, at most six; points that are not finite are left out.
        xlabel: label of the horizontal axis.
        ylabel: label of the vertical axis.
        xlim: ends of the horizontal axis; by default those of the points.
        ylim: ends of the vertical axis; by default those of the points.
        diagonal: draw the diagonal.
        marks: draw a shape at each point.

    Returns:
        A `<figure>`.

    """

    def finite(points):
        return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]

    series = [(name, finite(points)) for name, points in series[:KINDS]]
    every = [point for _, points in series for point in points]
    xlim, ylim = xlim or _limits([x for x, _ in every]), ylim or _limits([y for _, y in every])
    place = _placing(xlim, ylim)
    body = _axes(xlim, ylim, xlabel, ylabel, place)
    if diagonal:
        (x0, y0), (x1, y1) = place(xlim[0], ylim[0]), place(xlim[1], ylim[1])
        body += f'<line class="guide" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>'
    for k, (_, points) in enumerate(series):
        dots = [place(x, y) for x, y in points]
        path = " ".join(f"{x},{y}" for x, y in dots)
        body += f'<polyline class="line s{k}" stroke-dasharray="{DASHES[k]}" points="{path}"/>'
        body += "".join(_mark(k, *dot) for dot in dots) if marks and len(dots) <= 60 else ""
    names = "".join(f"<li>{_sample(k, marks)}{html(name)}</li>" for k, (name, _) in enumerate(series))
    return figure(title, about, body, f'<ul class="legend">{names}</ul>' if len(series) > 1 else "")


def bars(
    title: str, about: str, values: Sequence[tuple[float, float, float, bool]], *, xlabel: str, ylabel: str
) -> str:
    """Draw bars within 0..1, and the diagonal that they should reach.

    Args:
        title: heading, which screen readers read first.
        about: description of the plot in words.
        values: `(from, to, height, whether it has few rows)` per bar.
        xlabel: label of the horizontal axis.
        ylabel: label of the vertical axis.

    Returns:
        A `<figure>`.

    """
    place = _placing((0, 1), (0, 1))
    body = _axes((0, 1), (0, 1), xlabel, ylabel, place)
    for low, high, height, few in values:
        (x0, y0), (x1, y1) = place(low, height), place(high, 0)
        size = f'width="{round(x1 - x0 - 1, 1)}" height="{round(y1 - y0, 1)}"'
        body += f'<rect class="bar s0{" few" if few else ""}" x="{round(x0 + 0.5, 1)}" y="{y0}" {size}/>'
    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    return figure(title, about, body + f'<line class="guide" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>')


def figure(title: str, about: str, body: str, below: str = "") -> str:
    """Put a drawing into a `<figure>`.

    Args:
        title: heading.
        about: description, which also becomes the caption.
        body: content of the `<svg>`.
        below: HTML below the drawing, such as a legend.

    """
    name, caption = html(title), html(about)
    drawing = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{name}</title><desc>{caption}</desc>{body}</svg>'
    return f'<figure><p class="name">{name}</p>{drawing}{below}<figcaption>{caption}</figcaption></figure>'


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most `most` round numbers inside a range."""
    raw = (high - low) / most
    step = 10 ** math.floor(math.log10(raw))
    step *= next(m for m in (1, 2, 5, 10) if m * step >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    found = []
    while first * step <= high + 1e-9 * step:
        found.append(round(first * step, 12))
        first += 1
    return found


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low <= 0.4 * high else low - room), high + room


def _placing(xlim: tuple[float, float], ylim: tuple[float, float]):
    across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        at = LEFT + (x - xlim[0]) / (xlim[1] - xlim[0]) * across
        return round(at, 1), round(TOP + (ylim[1] - y) / (ylim[1] - ylim[0]) * up, 1)

    return place


def _axes(xlim: tuple[float, float], ylim: tuple[float, float], xlabel: str, ylabel: str, place) -> str:
    out, floor, left = "", HEIGHT - BOTTOM, LEFT
    for x in ticks(*xlim):
        at = place(x, ylim[0])[0]
        out += f'<line class="grid" x1="{at}" y1="{TOP}" x2="{at}" y2="{floor}"/>'
        out += f'<text x="{at}" y="{floor + 15}" text-anchor="middle">{x:g}</text>'
    for y in ticks(*ylim):
        at = place(xlim[0], y)[1]
        out += f'<line class="grid" x1="{left}" y1="{at}" x2="{WIDTH - RIGHT}" y2="{at}"/>'
        out += f'<text x="{left - 6}" y="{at + 4}" text-anchor="end">{y:g}</text>'
    middle = (TOP + floor) / 2
    out += f'<text x="{(left + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{html(xlabel)}</text>'
    out += f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{html(ylabel)}</text>'
    return out + f'<path class="axis" d="M{left} {TOP}V{floor}H{WIDTH - RIGHT}"/>'


def _mark(k: int, x: float, y: float) -> str:
    """Return a circle, square, triangle, diamond, cross or plus."""
    r = 3.2
    shapes = (
        f'<circle cx="{x}" cy="{y}" r="{r}"/>',
        f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r}" height="{2 * r}"/>',
        f'<path d="M{x} {y - 4:.1f}l4 7h-8z"/>',
        f'<path d="M{x} {y - 4.5:.1f}l4.5 4.5l-4.5 4.5l-4.5 -4.5z"/>',
        f'<path class="open" d="M{x - r:.1f} {y - r:.1f}l6.4 6.4m0 -6.4l-6.4 6.4"/>',
        f'<path class="open" d="M{x - 4:.1f} {y}h8m-4 -4v8"/>',
    )
    return f'<g class="mark s{k}">{shapes[k % MARKS]}</g>'


def _sample(k: int, marks: bool) -> str:
    mark = _mark(k, 15, 6) if marks else ""
    line = f'<line class="line s{k}" stroke-dasharray="{DASHES[k]}" x1="1" y1="6" x2="29" y2="6"/>'
    return f'<svg class="sample" viewBox="0 0 30 12" aria-hidden="true">{line}{mark}</svg>'
