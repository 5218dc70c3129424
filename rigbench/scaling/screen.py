"""Shows models that were trained for real, and the law of their losses."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from rigbench.core import units
from rigbench.core.screen import Headline
from rigbench.scaling import law_screen
from rigbench.scaling.record import Fit, Trained, points


def verdict(result: Trained | Fit) -> Headline:
    return law_screen.verdict(result) if isinstance(result, Fit) else ("ok", result.model.name)


def brief(result: Trained | Fit, console: Console, quiet: bool = False, run_id: str = "RUN") -> None:
    if isinstance(result, Fit):
        law_screen.brief(result, console, quiet, run_id)
    else:
        show(result, console)


def show(result: Trained | Fit, console: Console) -> None:
    if isinstance(result, Fit):
        law_screen.show(result, console)
        return
    for point in points(result):
        tokens = units.format_count(point.tokens)
        console.print(Text(f"{point.model}: {point.loss:.4f} nats a token after {tokens} tokens"))
