"""Shows models that were trained for real."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from rigbench.core import units
from rigbench.scaling.record import Trained, points


def show(result: Trained, console: Console) -> None:
    for point in points(result):
        tokens = units.format_count(point.tokens)
        console.print(Text(f"{point.model}: {point.loss:.4f} nats a token after {tokens} tokens"))
