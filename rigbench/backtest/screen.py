"""How do a back-test and the record of all back-tests look on a screen?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rigbench.backtest.record import Backtest, Coverage
from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.core.screen import plus_minus

if TYPE_CHECKING:
    from rich.console import Console


def show(result: Backtest, console: Console) -> None:
    """The verdict first, then what was predicted, what happened, and what the log had in it."""
    from rich.text import Text

    stated, actual = result.predicted.tokens_per_s, result.actual_tokens_per_s
    kept = "inside" if result.inside else "OUTSIDE"
    style = "green" if result.inside else "yellow"
    console.print(Text(f"{result.model}: {kept} the stated interval, {_signed(result.error_share)} off", style=style))
    _line(console, "predicted", f"{_range(stated.value, stated.low, stated.high)} tokens/s, run {result.run_id}")
    _line(
        console,
        "actual",
        f"{units.format_rate(actual.value)} ({plus_minus(actual)}), measured over {len(result.seconds)} stretches of "
        f"{result.log.name} ({result.log.format})",
    )
    wall = result.wall_tokens_per_s
    if isinstance(wall, Absent):
        _line(console, "wall clock", f"n/a ({wall.reason})")
    else:
        lost = 1 - wall / actual.value
        share = f", {units.format_share(lost)} less than its training steps" if lost > 0.0005 else ""
        _line(console, "wall clock", f"{units.format_rate(wall)} with everything in it{share}")
    hours = result.hours_predicted
    _line(
        console,
        "hours",
        f"{_range(hours.value, hours.low, hours.high)} predicted for these tokens, "
        f"{units.format_significant(result.hours_actual)} of training steps",
    )
    for line in _oddities(result):
        _line(console, "in the log", line)


def show_all(backtests: Sequence[Backtest], coverage: Coverage, console: Console) -> None:
    """A row per back-test, then how often the intervals held and what the next one is multiplied with."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="back-tests of this rig", title_justify="left", box=None)
    for name in ("model", "predicted tokens/s", "actual", "error", "interval", "log", "run"):
        table.add_column(name, justify="right" if name in ("actual", "error") else "left", no_wrap=name == "error")
    for one in backtests:
        stated = one.predicted.tokens_per_s
        table.add_row(
            one.model,
            _range(stated.value, stated.low, stated.high),
            units.format_significant(one.actual_tokens_per_s.value),
            _signed(one.error_share),
            "inside" if one.inside else "OUTSIDE",
            one.log.name,
            one.run_id,
        )
    console.print(table)
    console.print(
        Text(
            f"  {coverage.inside} of {coverage.backtests} inside: the intervals hold "
            f"{units.format_share(coverage.low)} to {units.format_share(coverage.high)} of the time "
            f"(95 %, Clopper-Pearson); stated {units.format_share(coverage.stated)}; "
            f"median error {_signed(coverage.median_error_share)}"
        )
    )
    console.print(
        Text(f"  the next interval's half-width is multiplied by {coverage.widen_by:.2f} ({coverage.why})", style="dim")
    )


def _oddities(result: Backtest) -> list[str]:
    log, lines = result.log, []
    if log.pauses:
        lost = sum(seconds for _, seconds in log.pauses)
        lines.append(f"{len(log.pauses)} pauses, {units.format_seconds(lost)} in all, left out of the rate")
    if log.resets:
        lines.append(f"the step count went back at step {_some(log.resets)}: a restart")
    if log.non_finite_losses:
        lines.append(f"the loss was not finite at step {_some(log.non_finite_losses)}")
    if log.batch_changes:
        step, tokens = log.batch_changes[0]
        lines.append(f"tokens a step changed to {tokens:,.0f} at step {step:,}: the prediction is for one batch size")
    return lines


def _some(steps: Sequence[int]) -> str:
    shown = ", ".join(f"{step:,}" for step in steps[:3])
    return shown + (f" and {len(steps) - 3} more" if len(steps) > 3 else "")


def _range(value: float, low: float, high: float) -> str:
    return " ".join(
        [units.format_significant(value), f"({units.format_significant(low)} to {units.format_significant(high)})"]
    )


def _signed(share: float) -> str:
    return f"{share:+.1%}".replace("%", " %").replace("-", "−")


def _line(console: Console, name: str, text: str) -> None:
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=12)
    grid.add_column()
    grid.add_row(f"  {name}", text)
    console.print(grid)
