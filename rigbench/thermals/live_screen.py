"""How does a soak look while it runs? A few small charts per device, redrawn twice a second on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rigbench.core import units
from rigbench.core.screen import spark
from rigbench.thermals.record import Curves

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

NAMES: dict[str, Callable[[float], str]] = {
    "temperature": lambda value: f"{value:.0f} °C",
    "clock": lambda value: f"{value / 1e6:,.0f} MHz",
    "power": units.format_watts,
    "throughput": units.format_flops_per_s,
}
LABEL, VALUE = 13, 14  # columns


class Display:
    """A live picture on a terminal. Called with what is known so far; leaves nothing behind when closed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None

    def __call__(self, elapsed_seconds: float, planned_seconds: float, curves: Curves) -> None:
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=self._console, transient=True, auto_refresh=False)
            self._live.start()
        self._live.update(frame(elapsed_seconds, planned_seconds, curves, self._console.width), refresh=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def frame(elapsed_seconds: float, planned_seconds: float, curves: Curves, width: int) -> Text:
    """One picture: a line per reading of each device, its last value and how it came there."""
    from rich.text import Text

    if not elapsed_seconds:
        return Text("soak: loading torch"[:width])
    head = f"soak {units.format_seconds(elapsed_seconds)} of at most {units.format_seconds(planned_seconds)}"
    lines = [(f"{head}; Ctrl-C keeps what there is"[:width] if width >= 60 else head[:width])]
    for device, own in curves.items():
        lines.append(device)
        lines += _lines(own, width)
    return Text("\n".join(line[:width] for line in lines), no_wrap=True)


def _lines(own: object, width: int) -> list[str]:
    assert isinstance(own, dict)
    moments = [at for points in own.values() for at, _ in points]
    if not moments:
        return ["  no sensor answers yet"]
    start, end = min(moments), max(moments)
    room = width - LABEL - VALUE - 1
    found = []
    for name, shown in NAMES.items():
        points = own.get(name, [])
        if points:
            chart = spark(points, room, start, end) if room >= 4 else ""
            found.append(f"  {name:<{LABEL - 2}}{shown(points[-1][1]):>{VALUE}} {chart}".rstrip())
    return found or ["  no sensor answers yet"]
