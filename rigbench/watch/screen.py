"""Shows a watched training: one line while it runs, the verdict at its end."""

from __future__ import annotations

import datetime
from itertools import pairwise

from rich.console import Console
from rich.text import Text

from rigbench.core import stats, units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure
from rigbench.core.screen import MARK_OF, MARKS, Headline, Mark, closing, grid, headline, marked, printable, span
from rigbench.monitor import screen as monitor_screen
from rigbench.monitor.record import MonitorGpu, Watched
from rigbench.watch.record import Beside, Forecast, SeenSteps, Training, View
from rigbench.work.telemetry import IDLE, REASONS

DIM, BOLD, YELLOW, RED, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[33m", "\x1b[31m", "\x1b[0m"
MOST_TOLD = 8
READING_SECONDS = 1.0  # an event may have been so much earlier than it was read
SLOW = 1.5  # times the usual step


# ------------------------------------------------------------------------------------------------------- while it runs


def panel(view: View, now: datetime.datetime, colour: bool) -> str:
    """One line, what matters most first, since a narrow terminal cuts its end."""
    parts: list[tuple[str, str]] = [(BOLD, "rigbench")]
    if isinstance(view.rate, Estimate):
        parts.append(("", span(view.rate, f"{view.unit}/s")))
    elif view.step is None:
        parts.append((DIM, f"no step seen yet ({units.format_seconds(view.seconds)})"))
    else:
        parts.append((DIM, f"step {view.step:,}: too few for a rate"))
    if view.stalled_seconds is not None:
        parts.insert(1, (RED, f"no step for {units.format_seconds(view.stalled_seconds)}"))
    if view.forecast is not None:
        parts.append(("", _ends(view.forecast, now)))
        parts += [("", text) for text in _costs(view.forecast)]
    elif view.step is not None and view.total_steps:
        parts.append(("", f"step {view.step:,} of {view.total_steps:,}"))
    if view.planned:
        parts.append((YELLOW if view.planned.startswith("behind") else "", view.planned))
    if isinstance(view.model_flops_share, Figure):
        parts.append(("", f"MFU {units.format_share(view.model_flops_share.value)}"))
    gpus = [gpu for gpu in view.monitor.gpus if not view.gpus or gpu.device in view.gpus]
    parts += _cards(gpus)
    parts += [(YELLOW, held.hint.title) for held in view.monitor.hints if held.holds_now][:1]
    said = ((style, printable(text)) for style, text in parts)
    return " · ".join(f"{style}{text}{PLAIN}" if colour and style else text for style, text in said)


def _ends(told: Forecast, now: datetime.datetime) -> str:
    """ "ends Sun 03:10 (02:40 to 04:30)"; of what is sure to the second, in how long."""
    rest = told.rest_seconds
    if not rest.has_middle:
        return f"ends in {units.format_range(rest.low / 3600, rest.high / 3600, 'h')}"
    if rest.high < 120:
        return f"ends in {rest.value:.0f} s ({rest.low:.0f} to {rest.high:.0f})"
    moments = [now + datetime.timedelta(seconds=it) for it in (rest.value, rest.low, rest.high)]
    day = "%a " if moments[2].date() != now.date() else ""
    shape = "%H:%M" if rest.high - rest.low > 120 else "%H:%M:%S"
    middle, low, high = (f"{it:{shape}}" for it in moments)
    return f"ends {moments[0]:{day}}{middle} ({low} to {high})"


def _costs(told: Forecast) -> list[str]:
    parts = []
    if isinstance(told.kwh, Figure) and told.kwh.value >= 0.001:
        parts.append(f"{units.format_significant(told.kwh.value, 2)} kWh")
    if isinstance(told.money, Figure) and told.money.value >= 0.01:
        parts.append(units.format_money(told.money.value, told.currency))
    return parts


def _cards(gpus: list[MonitorGpu]) -> list[tuple[str, str]]:
    """The fullest memory, all watts, the hottest card, what holds any of them down now."""
    parts: list[tuple[str, str]] = []
    full = [
        (gpu.memory_used_bytes.now / gpu.memory_total_bytes, gpu.memory_used_bytes.now, gpu.memory_total_bytes)
        for gpu in gpus
        if isinstance(gpu.memory_used_bytes, Watched) and isinstance(gpu.memory_used_bytes.now, int | float)
        if isinstance(gpu.memory_total_bytes, int) and gpu.memory_total_bytes
    ]
    if full:
        share, used, total = max(full)
        text = f"memory {units.format_bytes(used)} of {units.format_bytes(total)}"
        parts.append((YELLOW if share > 0.97 else "", text))
    watts = [_now(gpu.power_watts) for gpu in gpus]
    if watts and None not in watts:
        parts.append(("", units.format_watts(sum(it for it in watts if it is not None))))
    heat = [it for it in (_now(gpu.temperature_celsius) for gpu in gpus) if it is not None]
    if heat:
        parts.append(("", f"{max(heat):.0f} °C"))
    held = dict.fromkeys(REASONS.get(it, it) for gpu in gpus for it in gpu.throttle_now if it != IDLE)
    if held:
        parts.append((YELLOW, "slowed by " + ", ".join(held)))
    return parts


def _now(watched: Watched | Absent) -> float | None:
    return None if isinstance(watched, Absent) or isinstance(watched.now, Absent) else watched.now


# ---------------------------------------------------------------------------------------------------------- at its end


def brief(training: Training, console: Console, quiet: bool = False, run_id: str = "RUN", whole: bool = False) -> None:
    """The verdict, how fast, what it took, what held it back, how sure."""
    mark, sentence = verdict(training)
    marks = [mark, *(MARK_OF[it.severity] for it in training.findings if it.severity != "information")]
    headline("watch", (max(marks, key=list(MARKS).index), sentence), console)
    console.print(grid(facts(training)))
    marked(
        [(MARK_OF[it.severity], f"{it.title}: {'; '.join(it.evidence)}; next: {it.cure}") for it in training.findings],
        console,
    )
    told: list[tuple[float, Headline]] = [
        (it.after_seconds, (MARK_OF[it.severity], f"after {units.format_seconds(it.after_seconds)}: {it.text}"))
        for it in training.alarms
        if it.code != "kernel"  # stands beside its step
    ]
    told += [(it.first_seconds, (MARK_OF[it.severity], words(it, training.steps))) for it in training.beside]
    told.sort(key=lambda it: it[0])
    most = len(told) if whole else MOST_TOLD
    marked([it for _, it in told[:most]], console)
    if len(told) > most:
        console.print(Text(f"  {len(told) - most} more alarms and events: --verbose", style="dim"))
    if quiet:
        return
    lost = ("it wrote faster than it could be read: some of its output is not counted",) * training.lost_output
    left = ("it ended, and something that it started goes on, which is not watched",) * training.left_behind
    for note in (*lost, *left, *training.monitor.notes):
        console.print(Text(printable(f"note: {note}"), style="dim"))
    sure = ""
    if not isinstance(training.steps, Absent):
        sure = f"{training.steps.source}: {', '.join(training.steps.said)}"
    else:
        console.print(Text(printable(training.steps.reason), style="yellow"))
    closing(sure, f"rigbench report {run_id} --verbose shows the GPUs and the host over the whole time", console)


def show(training: Training, console: Console) -> None:
    brief(training, console, quiet=True, whole=True)
    rows = [(f"forecast after {units.format_seconds(it.told_after_seconds)}",
             f"{units.format_share(it.done_share)} done, whole {span(it.whole_seconds * (1 / 3600), 'h')}")
            for it in training.forecasts]  # fmt: skip
    console.print(grid(rows))
    monitor_screen.show(training.monitor, console)


def words(event: Beside, steps: SeenSteps | Absent) -> str:
    """ "after 12 s, at step 61, which took 2 s where one takes 100 ms: kernel: the card fell off the bus, 3 times"."""
    often = f", {event.count} times" if event.count > 1 else ""
    beside = "" if isinstance(steps, Absent) else _step_at(steps, event.first_seconds)
    return f"after {units.format_seconds(event.first_seconds)}{beside}: {event.source}: {event.text}{often}"


def _step_at(its: SeenSteps, seconds: float) -> str:
    """The slowest step that was under way then."""
    rows = [
        (start, at, (at - start) / (step - before), step)
        for (start, before), (at, step) in pairwise(zip(its.at_seconds, its.step, strict=True))
        if at > start and step > before
    ]
    if not rows or seconds <= rows[0][0]:
        return ", before the first steps"
    under = [(took, step) for start, at, took, step in rows if start <= seconds and at >= seconds - READING_SECONDS]
    if not under:
        return f", after step {rows[-1][3]}"
    usual = stats.median([took for _, _, took, _ in rows])
    took, step = max(under)
    slow = f", which took {units.format_seconds(took)} where one takes {units.format_seconds(usual)}"
    return f", at step {step}{slow if took > SLOW * usual else ''}"


def verdict(training: Training) -> Headline:
    took = units.format_seconds(training.seconds)
    its = training.steps
    ended = _ended(training)
    mark: Mark = "fault" if training.exit_code and training.ended_by == "itself" else "ok"
    if isinstance(its, Absent):
        return "warn" if mark == "ok" else mark, f"{ended} after {took}; no step of it was seen"
    if isinstance(its.rate, Absent):
        return mark, f"{ended} after {took} and {_steps(its)}; no steady rate ({its.rate.reason})"
    return mark, f"{span(its.rate, f'{its.unit}/s')}, {_steps(its)} in {took}; {ended}"


def _steps(its: SeenSteps) -> str:
    """How many were seen done: programs count them from 0 or from 1, or go on where an earlier run ended."""
    count = its.step[-1] - its.step[0] + 1
    return f"{count:,} step{'' if count == 1 else 's'}"


def _ended(training: Training) -> str:
    code = training.exit_code
    if training.ended_by in ("--steps", "--for", "--until-steady"):
        return f"ended by {training.ended_by}"
    if training.ended_by == "the user":
        return "ended by the user"
    if code > 128:
        return f"it died by signal {code - 128}"
    return f"it ended with exit code {code}" if code else "it ended well"


def facts(training: Training) -> list[tuple[str, str]]:
    rows = []
    its = training.steps
    if not isinstance(its, Absent) and isinstance(its.step_seconds, Estimate):
        rows.append(("a step", f"{span(its.step_seconds, 'seconds')}, pauses and evaluations in it"))
    if isinstance(training.model_flops_share, Figure):
        share = training.model_flops_share
        rows.append(("MFU", f"{units.format_share(share.value)} ({share.basis})"))
    if training.forecasts:
        first = training.forecasts[0]
        done = units.format_share(first.done_share)
        truth = f"; it took {units.format_seconds(training.seconds)}" if training.ended_by == "itself" else ""
        whole = span(first.whole_seconds, "seconds")
        rows.append(("forecast", f"at {done} of the way: {whole} in all{truth}"))
    if training.planned:
        rows.append(("budget", training.planned))
    for gpu in training.monitor.gpus:
        if isinstance(gpu.energy, Absent):
            continue
        told = [f"{units.format_significant(gpu.energy.joules / 3.6e6, 2)} kWh"]
        if isinstance(gpu.memory_used_bytes, Watched):
            total = gpu.memory_total_bytes
            of = f" of {units.format_bytes(total)}" if isinstance(total, int) else ""
            told.append(f"memory up to {units.format_bytes(gpu.memory_used_bytes.high)}{of}")
        if isinstance(gpu.temperature_celsius, Watched):
            told.append(f"up to {gpu.temperature_celsius.high:.0f} °C")
        rows.append((gpu.device, ", ".join(told)))
    own = training.own
    hook = f", the hook {own.hook_seconds_per_step * 1e6:.1f} µs a step" if not isinstance(
        own.hook_seconds_per_step, Absent) else ""  # fmt: skip
    load = units.format_seconds(own.start_cpu_seconds)
    rows.append(("watching took", f"{100 * own.core_share:.2g} % of a core, {load} of one to start{hook}"))
    return rows
