"""Shows a back-test, and the record of all back-tests of a rig."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from rigbench.backtest.record import Backtest, Coverage, LogFacts, Reach
from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.core.screen import Headline, Mark, closing, counted, grid, headline, marked, span, table

if TYPE_CHECKING:
    from rich.console import Console

HOUR = 3600.0


def brief(result: Backtest | Reach, console: Console, quiet: bool = False, run_id: str = "RUN") -> None:
    """Predicted against happened in a sentence, both with their intervals, and what the log had in it."""
    its = _of_reach(result) if isinstance(result, Reach) else _of_backtest(result)
    headline("backtest", its, console)
    console.print(grid(_predicted_and_happened(result)))
    if quiet:
        return
    more = f"rigbench report {run_id} --verbose"
    if isinstance(result, Reach):
        console.print(grid(_explained(result)))
        following = (
            "rigbench monitor, beside the training" if its[0] == "warn" else f"rigbench budget --on {result.rig}"
        )
        closing("predicted from datasheets and published runs, 90 %", f"{more}.  next: {following}", console)
        return
    odd = [*_in_the_log(result.log), *(("note", f"read as: {line}") for line in result.log.reading)]
    marked(odd, console)
    held, on = "its next intervals learn from this", f" --on {result.rig}" if result.rig else ""
    closing(f"one log against one interval of 90 %; {held}", f"{more}.  next: rigbench backtest --summary{on}", console)


def _of_backtest(result: Backtest) -> Headline:
    kept = "inside the interval" if result.inside else "OUTSIDE the interval"
    return "ok" if result.inside else "warn", f"{result.model}: {_apart(1 + result.error_share)}, {kept}"


def _apart(factor: float) -> str:
    """ "1.4 % faster than predicted", "2.3 times as slow as predicted"."""
    word, times = ("faster", factor) if factor >= 1 else ("slower", 1 / factor)
    if times >= 2:
        return f"{units.format_significant(times, 2)} times as {'fast' if factor > 1 else 'slow'} as predicted"
    if abs(factor - 1) < 0.0005:
        return "as predicted"
    return f"{units.format_share(abs(factor - 1))} {word} than predicted"


def _time(hours: float) -> str:
    seconds = hours * HOUR
    return f"{seconds:.0f} s" if 9.5 <= seconds < 90 else units.format_seconds(seconds)


def _of_reach(result: Reach) -> Headline:
    """Is it good for that card."""
    stated, actual = result.expected.tokens_per_s, result.actual_tokens_per_s
    mark: Mark = "warn"
    if stated.low <= actual.value <= stated.high:
        mark, verdict = "ok", "as it should be"
    elif actual.value < stated.low:
        verdict = f"SLOW, {units.format_share(result.share)} of what is predicted"
    else:
        verdict = f"faster than predicted, {units.format_share(result.share)} of it"
    rate = units.format_rate(actual.value)
    if actual.level:
        rate = f"{units.span_parts(actual.value, actual.low, actual.high, '')[0]} tokens/s"
    return mark, f"{result.model} on {result.rig}: {rate} is {verdict}"


def _predicted_and_happened(result: Backtest | Reach) -> Iterator[tuple[str, str]]:
    actual, log = result.actual_tokens_per_s, result.log
    rate, of = span(actual, "tokens/s"), f"{log.name} ({log.format})"
    if isinstance(result, Reach):
        yield "predicted", f"{_stated(result.expected.tokens_per_s, ' tokens/s')}, {result.recipe}"
        none = "" if actual.level else ", of one or two lines: no interval"
        yield "this log", f"{rate if actual.level else units.format_rate(actual.value)}{none}, {of}"
        return
    yield "predicted", f"{_stated(result.predicted.tokens_per_s, ' tokens/s')}, run {result.run_id}"
    yield "happened", f"{rate}, measured over {_stretches(len(result.seconds))} of {of}"
    hours, took = result.hours_predicted, result.hours_actual
    if isinstance(hours, Absent) or isinstance(took, Absent):
        yield "time", f"n/a ({took.reason if isinstance(took, Absent) else ''})"
    else:
        yield "time", f"{_time(took)} of training steps; {span(hours * HOUR, 'seconds')} predicted for these tokens"
    wall = result.wall_tokens_per_s
    if isinstance(wall, Absent):
        yield "wall clock", f"n/a ({wall.reason})"
    else:
        lost = 1 - wall / actual.value
        share = f", {units.format_share(lost)} less than its training steps" if lost > 0.0005 else ""
        yield "wall clock", f"{units.format_rate(wall)} with everything in it{share}"


def _stated(rate: Estimate, unit: str = "") -> str:
    """As `span`, the middle to four digits: the error beside it is of that."""
    text = " ".join(span(rate, "").split())
    return f"{units.format_significant(rate.value, 4)}{unit} ({text.partition(' (')[2] or f'{text})'}"


def _explained(result: Reach) -> Iterator[tuple[str, str]]:
    """What the numbers were taken for, and what would explain a gap."""
    yield from (("read as" if number == 0 else "", it) for number, it in enumerate(result.log.reading))
    for number, cause in enumerate(result.causes):
        yield "would be" if number == 0 else "", f"{cause.words}: {span(cause.tokens_per_s, 'tokens/s')}"
    yield from (("or" if number == 0 else "", it) for number, it in enumerate(result.hints))


def show(result: Backtest | Reach, console: Console) -> None:
    """The verdict first, then what was predicted, what happened, and all that the log had in it."""
    headline("backtest", _of_reach(result) if isinstance(result, Reach) else _of_backtest(result), console)
    console.print(grid(_predicted_and_happened(result)))
    if isinstance(result, Reach):
        console.print(grid(_explained(result)))
        return
    reading = [("read as" if number == 0 else "", line) for number, line in enumerate(result.log.reading)]
    console.print(grid([*reading, *(("in the log", line) for _, line in _in_the_log(result.log))]))


def _in_the_log(log: LogFacts) -> Iterator[Headline]:
    out = "left out of the rate"
    if log.warmup:
        yield "note", f"{_stretches(log.warmup, 'slow ')} more at its start, {out}"
    breaks = "with an evaluation or a checkpoint"
    if log.breaks_within:
        within = _stretches(log.breaks_within)
        yield "note", f"{within} {breaks} in the rate, since hardly any is without"
    if log.jumps:
        yield "note", f"the step count jumped {counted(log.jumps, 'time')}, {out}"
    if log.breaks:
        yield "note", f"{_stretches(log.breaks)} {breaks}, {out}"
    if log.pauses:
        lost = units.format_seconds(sum(seconds for _, seconds in log.pauses))
        yield "warn", f"{counted(len(log.pauses), 'pause')}, {lost} in all, {out}"
    if log.resets:
        yield "warn", f"the step count went back at step {_some(log.resets)}: a restart"
    if log.non_finite_losses:
        yield "warn", f"the loss was not finite at step {_some(log.non_finite_losses)}"
    if log.batch_changes:
        step, tokens = log.batch_changes[0]
        changed = f"tokens a step changed to {tokens:,.0f} at step {step:,}"
        yield "warn", f"{changed}: the prediction is for one batch size"


def show_all(backtests: Sequence[Backtest], coverage: Coverage, console: Console) -> None:
    """A row per back-test, then how often the intervals held and what the next one is multiplied with."""
    last = {one.log.sha256: one for one in backtests}
    columns = ("model", "predicted tokens/s", ">actual", ">error", "interval", "log", "=run")
    rows = [
        (
            one.model,
            _stated(one.predicted.tokens_per_s),
            units.format_significant(one.actual_tokens_per_s.value, 4),
            _signed(one.error_share),
            "done again below" if last[one.log.sha256] is not one else "inside" if one.inside else "OUTSIDE",
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
    widened = f"  the next interval's half-width is multiplied by {coverage.widen_by:.2f} ({coverage.why})"
    console.print(Text(widened, style="dim"))


def _stretches(count: int, kind: str = "") -> str:
    return f"{count} {kind}stretch{'' if count == 1 else 'es'}"


def _some(steps: Sequence[int]) -> str:
    shown = ", ".join(f"{step:,}" for step in steps[:3])
    return shown + (f" and {len(steps) - 3} more" if len(steps) > 3 else "")


def _signed(share: float) -> str:
    return f"{share:+.1%}".replace("%", " %").replace("-", "−")
