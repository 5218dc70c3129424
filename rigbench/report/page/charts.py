"""Draws the page's charts with matplotlib: SVG whose text is text and whose colours are the page's CSS variables."""

from __future__ import annotations

import io
import math
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from rigbench.core.screen import printable

WIDTH = 360  # of every chart, in points; the page scales them
LONGEST_LABEL, MOST_POINTS = 40, 400
LEAF = 150  # points that the name of a card at the end of a tree takes
# Colours that stand for the page's variables until the SVG is written.
INK, MUTED, GRID, GOOD, WARN, BAD = (f"#0a0b0{number}" for number in range(6))
SERIES = tuple(f"#0a0c0{number}" for number in range(8))
VARIABLES = dict(zip((INK, MUTED, GRID, GOOD, WARN, BAD), ("ink", "muted", "grid", "good", "warn", "bad"), strict=True))
VARIABLES |= {colour: f"s{number}" for number, colour in enumerate(SERIES)}
DASHES, MARKERS = ("-", "--", "-.", ":"), ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with dollars in it is a name
    "font.family": "sans-serif",
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


class Line(NamedTuple):
    label: str
    points: Sequence[tuple[float, float]]
    style: Literal["line", "points", "small", "both", "dashed"] = "both"
    colour: str = ""  # else the next of the series


class Panel(NamedTuple):
    unit: str
    lines: Sequence[Line]
    limits: Sequence[tuple[str, float]] = ()


class Bar(NamedTuple):
    """A row of a waterfall or of a range: from where to where."""

    label: str
    start: float
    end: float
    text: str
    colour: str


class Node(NamedTuple):
    """A place in a tree: what it is called, and the link that leads to it from its parent."""

    name: str
    parent: str  # "" of a root
    label: str
    link: str = ""
    width: float = 1.0
    colour: str = MUTED


def lines(panel: Panel, across: str) -> str:
    """Lines over a logarithmic axis of sizes, rates or intensities."""
    with _drawn(300) as figure:
        axes = figure.add_subplot()
        _plot(axes, panel)
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis, ends in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            steps = (1.0,) if math.log10(ends[1] / ends[0]) > 2 else (1.0, 2.0, 5.0)
            axis.set_major_locator(LogLocator(subs=steps, numticks=8))
            axis.set_major_formatter(FuncFormatter(lambda value, _: _metric(value)))
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(across)
        axes.set_ylabel(panel.unit)
        _legend(figure, axes)
    return _svg(figure, f"{across}{panel}")


def over_time(panels: Sequence[Panel], shaded: Sequence[tuple[float, float]]) -> str:
    """Panels below each other, of one time in seconds; `shaded` are stretches of it."""
    with _drawn(130 * len(panels) + 40) as figure:
        rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(rows, panels, strict=True):
            _plot(axes, panel)
            axes.set_ylabel(panel.unit)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            for start, end in shaded:
                axes.axvspan(start, end, color=BAD, alpha=0.13, linewidth=0)
            for name, value in panel.limits:
                axes.axhline(value, color=BAD, linewidth=1, linestyle="--")
                axes.annotate(_short(name), (1, value), xycoords=("axes fraction", "data"), **_note(BAD))
        rows[-1].set_xlabel("seconds")
        _legend(figure, rows[0])
    return _svg(figure, f"{panels}")


def stretches(bars: Sequence[Bar], across: str) -> str:
    """A row for each, from its start to its end: a waterfall, or what a range comes from."""
    with _drawn(26 * len(bars) + 50) as figure:
        axes = figure.add_subplot()
        ends = [end for bar in bars for end in (bar.start, bar.end)]
        low, high = min(0.0, *ends), max(ends)
        for row, bar in enumerate(bars):
            start, end = sorted((bar.start, bar.end))
            axes.barh(row, max(end - start, (high - low) / 400), left=start, height=0.62, color=bar.colour)
            place: Any = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 11}
            axes.annotate(bar.text, (end, row), **place)
        longest = max(len(bar.text) for bar in bars)
        axes.set_xlim(low - (0.03 * (high - low) if low < 0 else 0), high + (0.06 + 0.022 * longest) * (high - low))
        _rows(axes, [bar.label for bar in bars])
        axes.set_xlabel(across)
    return _svg(figure, f"{bars}")


def stacked(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], across: str, limit: float | None = None) -> str:
    """A bar for each row, of parts with a colour by their name; `limit` is a line through all."""
    names = list(dict.fromkeys(name for _, parts in rows for name, _ in parts))
    legend_rows = math.ceil(len(names) / 3)
    with _drawn(28 * len(rows) + 56 + 16 * legend_rows) as figure:
        axes = figure.add_subplot()
        for number, name in enumerate(names):
            lefts = [sum(value for it, value in parts[: _place(parts, name)]) for _, parts in rows]
            values = [dict(parts).get(name, 0.0) for _, parts in rows]
            colour, hatch = SERIES[number % len(SERIES)], "" if number < len(SERIES) else "//"
            axes.barh(range(len(rows)), values, left=lefts, height=0.62, color=colour, label=_short(name), hatch=hatch)
        if limit is not None:
            axes.axvline(limit, color=BAD, linewidth=1.2, linestyle="--")
        _rows(axes, [label for label, _ in rows])
        axes.set_xlabel(across)
        _legend(figure, axes)
    return _svg(figure, f"{rows}")


def tree(nodes: Sequence[Node]) -> str:
    """From left to right: a root, what hangs below it, and last the cards, links as thick as they have lanes."""
    children: dict[str, list[Node]] = {}
    for node in nodes:
        children.setdefault(node.parent, []).append(node)
    places: dict[str, tuple[int, float]] = {}

    def place(node: Node, depth: int) -> float:
        below = [place(child, depth + 1) for child in children.get(node.name, ())]
        row = (
            sum(below) / len(below)
            if below
            else float(sum(it.name not in children for it in nodes if it.name in places))
        )
        places[node.name] = depth, row
        return row

    for root in children.get("", ()):
        place(root, 0)
    depth = max((it for it, _ in places.values()), default=0)
    leaves = sum(node.name not in children for node in nodes)
    with _drawn(max(70, 34 * leaves + 16), None) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.set_xlim(-0.08, max(1.0, (depth + 0.08) * WIDTH / (WIDTH - LEAF)))
        axes.set_ylim(leaves - 0.4, -0.6)
        for node in nodes:
            if node.name not in places:
                continue
            across, row = places[node.name]
            if node.parent in places:
                before, at = places[node.parent]
                bend = before + 0.35, before + 0.55, across
                axes.plot([before, *bend], [at, at, row, row], color=node.colour, linewidth=node.width)
                lift: Any = {"xytext": (0, 4 + node.width / 2), "textcoords": "offset points"}
                axes.annotate(node.link, (across - 0.24, row), ha="center", fontsize=9, **lift)
            axes.plot([across], [row], marker="s" if node.name in children else "o", markersize=7, color=INK)
            if node.name in children:
                below: Any = {"xytext": (0, -15), "textcoords": "offset points", "fontsize": 9}
                axes.annotate(_short(node.label, 14), (across, row), ha="center" if node.parent else "left", **below)
            else:
                beside: Any = {"xytext": (7, -4), "textcoords": "offset points", "fontsize": 11}
                axes.annotate(_short(node.label, 22), (across, row), **beside)
    return _svg(figure, f"{nodes}")


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """As many points as can be seen, the lowest and the highest of every stretch."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    kept = []
    for start in range(0, len(points), size):
        some = points[start : start + size]
        ends = {min(some, key=lambda it: it[1]), max(some, key=lambda it: it[1])}
        kept += sorted(ends)
    return kept


def _plot(axes: Axes, panel: Panel) -> None:
    for number, line in enumerate(panel.lines):
        colour = line.colour or SERIES[number % len(SERIES)]
        points = thinned(line.points)
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=colour,
            label=_short(line.label),
            linewidth=1.6,
            linestyle={"points": "none", "small": "none", "dashed": "--", "line": "-"}.get(
                line.style, DASHES[number // 4 % 4]
            ),
            marker="."
            if line.style == "small"
            else MARKERS[number % len(MARKERS)]
            if line.style in ("points", "both")
            else "",
            markersize=4,
        )


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    lines = [textwrap.fill(label, 22, max_lines=2, placeholder="…") for label in labels]
    axes.set_yticks(
        range(len(labels)), lines, fontsize=10 if any("\n" in it for it in lines) else None, linespacing=1.0
    )
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))


def _metric(value: float) -> str:
    """10 k, 1 M, 0.01: an end of an axis that spans powers of ten."""
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9999:
            return f"{value / size:g} {letter}"
    return f"{value:g}"


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        columns = max(1, min(3, len(labels), 54 // (6 + max(map(len, labels)))))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.0, handlelength=1.8)


def _note(colour: str) -> dict[str, Any]:
    return {
        "ha": "right",
        "va": "bottom",
        "fontsize": 10,
        "color": colour,
        "xytext": (0, 1),
        "textcoords": "offset points",
    }


def _place(parts: Sequence[tuple[str, float]], name: str) -> int:
    return next((place for place, (it, _) in enumerate(parts) if it == name), 0)


def _short(label: str, most: int = LONGEST_LABEL) -> str:
    label = printable(label)
    return label if len(label) <= most else label[: most - 1] + "…"


@contextmanager
def _drawn(height: float, layout: Literal["constrained"] | None = "constrained") -> Iterator[Figure]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout=layout)
        yield figure


def _svg(figure: Figure, salt: str) -> str:
    """The drawing alone: no size, no metadata, positions to a tenth of a point, ids of its own."""
    out = io.StringIO()
    os.environ.pop("SOURCE_DATE_EPOCH", None)  # which matplotlib reads as a number before it minds our metadata
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": salt}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", out.getvalue()[out.getvalue().index("<svg") :], flags=re.S)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r' (?:d|x|y|transform|points)="[^"]*"', lambda it: re.sub(r"(-?\d+\.\d)\d+", r"\1", it[0]), text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    view = re.search(r'viewBox="([^"]*)"', text)
    body = re.sub(r">\s+<", "><", text[text.index(">") + 1 : text.rindex("</svg>")])
    return f'viewBox="{view[1] if view else ""}">{body}'
