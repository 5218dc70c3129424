"""Draws a soak while it runs: a few small charts per device on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.text import Text

from rigbench.core import units
from rigbench.core.screen import LivePicture, spark

Curves = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]  # per device and reading, moments and values so far

NAMES: dict[str, Callable[[float], str]] = {
    "temperature": lambda value: f"{value:.0f} °C",
    "clock": lambda value: f"{value / 1e6:,.0f} MHz",
    "power": units.format_watts,
    "throughput": units.format_flops_per_s,
}
LABEL, VALUE = 13, 14  # columns


class Display(LivePicture):
    def __call__(self, elapsed_seconds: float, planned_seconds: float, curves: Curves) -> None:
        self.draw(frame(elapsed_seconds, planned_seconds, curves, self.console.width))


def frame(elapsed_seconds: float, planned_seconds: float, curves: Curves, width: int) -> Text:
    """One picture: a line per reading of each device, its last value and how it came there."""
    if not elapsed_seconds:
        return Text("soak: loading torch"[:width])
    head = f"soak {units.format_seconds(elapsed_seconds)} of at most {units.format_seconds(planned_seconds)}"
    lines = [f"{head}; Ctrl-C keeps what there is" if width >= 60 else head]
    room = width - LABEL - VALUE - 1
    for device, readings in curves.items():
        moments = [at for points in readings.values() for at, _ in points]
        drawn = []
        for name, shown in NAMES.items():
            points = readings.get(name, [])
            if points:
                chart = spark(points, room, min(moments), max(moments)) if room >= 4 else ""
                drawn.append(f"  {name:<{LABEL - 2}}{shown(points[-1][1]):>{VALUE}} {chart}".rstrip())
        lines += [device, *(drawn or ["  no sensor answers yet"])]
    return Text("\n".join(line[:width] for line in lines), no_wrap=True)
