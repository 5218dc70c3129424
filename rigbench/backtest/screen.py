"""Shows a back-test, and the record of all back-tests of a rig."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from rigbench.backtest.record import Backtest, Coverage, Reach
from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.core.screen import grid, plus_minus, printable, table

if TYPE_CHECKING:
    from rich.console import Console


def show(result: Backtest | Reach, console: Console) -> None:
    """The verdict first, then what was predicted, what happened, and what the log had in it."""
    if isinstance(result, Reach):
        _show_reach(result, console)
        return
    kept = "inside" if result.inside else "OUTSIDE"
    style = "green" if result.inside else "yellow"
    verdict = f"{result.model}: {kept} the stated interval, {_signed(result.error_share)} off"
    console.print(Text(printable(verdict), style=style))
    console.print(grid(_lines(result)))


def _show_reach(result: Reach, console: Console) -> None:
    """Is it good for that card, what it should be, and what would explain the gap."""
    stated, actual = result.expected.tokens_per_s, result.actual_tokens_per_s
    if stated.low <= actual.value <= stated.high:
        verdict, style = "as it should be", "green"
    elif actual.value < stated.low:
        verdict, style = f"SLOW, {units.format_share(result.share)} of what is predicted", "yellow"
    else:
        verdict, style = f"faster than predicted, {units.format_share(result.share)} of it", "yellow"
    what = f"{result.model} on {result.rig}: {units.format_rate(actual.value)} is {verdict}"
    console.print(Text(printable(what), style=style))
    lines = [("predicted", f"{_range(stated)} tokens/s ({result.recipe}; from datasheets and published runs)")]
    measured = f" ({plus_minus(actual)})" if actual.level else ", of one or two lines: no interval"
    lines.append(("this log", f"{units.format_rate(actual.value)}{measured}, {result.log.name} ({result.log.format})"))
    lines += [("read as" if number == 0 else "", it) for number, it in enumerate(result.log.reading)]
    for number, cause in enumerate(result.causes):
        lines.append(("would be" if number == 0 else "", f"{cause.words}: {_range(cause.tokens_per_s)} tokens/s"))
    lines += [("or" if number == 0 else "", it) for number, it in enumerate(result.hints)]
    console.print(grid(lines))


def _lines(result: Backtest) -> Iterator[tuple[str, str]]:
    actual, wall, log = result.actual_tokens_per_s, result.wall_tokens_per_s, result.log
    yield "predicted", f"{_range(result.predicted.tokens_per_s)} tokens/s, run {result.run_id}"
    over = f"measured over {len(result.seconds)} stretches of {log.name} ({log.format})"
    yield "actual", f"{units.format_rate(actual.value)} ({plus_minus(actual)}), {over}"
    if isinstance(wall, Absent):
        yield "wall clock", f"n/a ({wall.reason})"
    else:
        lost = 1 - wall / actual.value
        share = f", {units.format_share(lost)} less than its training steps" if lost > 0.0005 else ""
        yield "wall clock", f"{units.format_rate(wall)} with everything in it{share}"
    for number, line in enumerate(log.reading):
        yield "read as" if number == 0 else "", line
    if isinstance(result.hours_predicted, Absent) or isinstance(result.hours_actual, Absent):
        yield "hours", f"n/a ({result.hours_actual.reason if isinstance(result.hours_actual, Absent) else ''})"
    else:
        took = f"{units.format_significant(result.hours_actual)} of training steps"
        yield "hours", f"{_range(result.hours_predicted)} predicted for these tokens, {took}"
    if log.warmup:
        yield "in the log", f"{log.warmup} slow stretches more at its start, left out of the rate"
    if log.breaks_within:
        yield "in the log", f"{log.breaks_within} stretches with an evaluation or a checkpoint are in the rate"
    if log.jumps:
        yield "in the log", f"the step count jumped {log.jumps} times, left out of the rate"
    if log.breaks:
        yield "in the log", f"{log.breaks} stretches with an evaluation or a checkpoint, left out of the rate"
    if log.pauses:
        lost = sum(seconds for _, seconds in log.pauses)
        in_all = f"{units.format_seconds(lost)} in all, left out of the rate"
        yield "in the log", f"{len(log.pauses)} pauses, {in_all}"
    if log.resets:
        yield "in the log", f"the step count went back at step {_some(log.resets)}: a restart"
    if log.non_finite_losses:
        yield "in the log", f"the loss was not finite at step {_some(log.non_finite_losses)}"
    if log.batch_changes:
        step, tokens = log.batch_changes[0]
        changed = f"tokens a step changed to {tokens:,.0f} at step {step:,}"
        yield "in the log", f"{changed}: the prediction is for one batch size"


def show_all(backtests: Sequence[Backtest], coverage: Coverage, console: Console) -> None:
    """A row per back-test, then how often the intervals held and what the next one is multiplied with."""
    columns = ("model", "predicted tokens/s", ">actual", ">error", "interval", "log", "run")
    rows = [
        (
            one.model,
            _range(one.predicted.tokens_per_s),
            units.format_significant(one.actual_tokens_per_s.value),
            _signed(one.error_share),
            "inside" if one.inside else "OUTSIDE",
            one.log.name,
            one.run_id,
        )
        for one in backtests
    ]
    console.print(table(columns, rows, f"back-tests of {backtests[0].rig or 'this rig'}"))
    low, high, stated = (units.format_share(share) for share in (coverage.low, coverage.high, coverage.stated))
    console.print(
        Text(
            f"  {coverage.inside} of {coverage.backtests} inside: the intervals hold {low} to {high} of the time "
            f"(90 %, Clopper-Pearson); stated {stated}; median error {_signed(coverage.median_error_share)}"
        )
    )
    console.print(
        Text(f"  the next interval's half-width is multiplied by {coverage.widen_by:.2f} ({coverage.why})", style="dim")
    )


def _some(steps: Sequence[int]) -> str:
    shown = ", ".join(f"{step:,}" for step in steps[:3])
    return shown + (f" and {len(steps) - 3} more" if len(steps) > 3 else "")


def _range(it: Estimate) -> str:
    value, low, high = (units.format_significant(end) for end in (it.value, it.low, it.high))
    return f"{value} ({low} to {high})"


def _signed(share: float) -> str:
    return f"{share:+.1%}".replace("%", " %").replace("-", "−")
