"""Decides what a log's times are: of a step, of a micro-batch, of several steps together, or a clock."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from rigbench.core import stats, units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.logs.columns import Columns, near, times
from rigbench.logs.formats import Meaning
from rigbench.logs.stretches import TOO_COARSE

ACCUMULATES = re.compile(r"(?:^|[ _])accum(?:ulat\w{1,5})?[ _](?:steps|batches|iters)$|^accumulate_grad_batches$")
OPTIMIZES = re.compile(r"\((?:optimizer[. ])?step\)")  # what litgpt and its like put behind an optimizer step
OWN: tuple[Meaning, ...] = ("own time", "interval time", "steps rate")  # the surest first
SLOWEST_STEP = 100.0  # a number without a unit above it may be milliseconds


def own_seconds(log: Columns, step: str, micro: str | None) -> list[float | None]:
    """Seconds of a step at each row; columns that prove to be clocks become such."""
    times = [key for key, it in log.means.items() if it in ("own time", "time")]
    for key in times:
        if key in log.forced:
            continue
        values = [(at, it) for at, it in zip(counts(log, micro), log.column(key), strict=True) if it is not None]
        rises = cumulative(values)
        if rises is None and log.means[key] == "time" and not (log.format and key in log.format.means):
            raise RigbenchError(
                f"{log.shown(key)} of {log.name} only rises: each step's time, or the time since the start?",
                f"say which: --columns step_seconds={key or 'NAME'} or --columns at_seconds={key or 'NAME'}",
            )
        log.means[key] = "clock" if rises else "own time"
        if rises:
            log.said.append(f"{log.shown(key)} only rises: a clock")
    for key in [key for key, it in log.means.items() if it == "clock" and key not in log.forced]:
        values = [(at, value) for at, value in zip(log.steps, log.column(key), strict=True) if value is not None]
        if cumulative(values) is False and not _only_rises(values):  # `elapsed`, but of each step
            log.means[key] = "own time"
    own = log.key("own time")
    if own is not None and log.repeated >= len(log.rows) / 2 and own not in log.forced:
        raise RigbenchError(
            f"{log.name} has several lines about each step, with different {log.shown(own)}",
            "of micro-batches, or of ranks? hand back one line a step, with the time of the whole step",
        )
    gaps = [b - a for a, b in pairwise(log.steps)]
    usual = round(stats.median([float(gap) for gap in gaps if gap > 0] or [1.0]))
    if own is None and (interval := log.key("interval time")) is not None:
        log.said.append(f"step time from {log.shown(interval)}, that of the steps since the line above")
        steps = [usual, *gaps]
        return [it / n if it and n > 0 else None for it, n in zip(log.column(interval), steps, strict=True)]
    if own is None:
        rate = log.key("steps rate")
        if rate is not None:
            log.said.append(f"step time from {log.shown(rate)}")
        return [1 / it if it else None for it in log.column(rate)]
    if micro is not None and not re.search(r"\bstep", own):
        return summed(log, own, micro)
    if own not in log.forced:
        ask_whose_it_is(log, own, step, micro)
        log.open = own if usual > 1 and log.format is None else None
    log.said.append(f"step time from {log.shown(own)}")
    return log.column(own)


def ask_whose_it_is(log: Columns, own: str, step: str, micro: str | None) -> None:
    """Refuse a time that may be of a micro-batch."""
    name, say_which = log.name, f"say which: --columns step_seconds={own or 'NAME'}"
    accumulated = max((it for key, it in log.raw.head.items() if ACCUMULATES.search(key)), default=1.0)
    if step.endswith("batch") and accumulated > 1:
        what = f"{name} counts batches, {accumulated:.0f} of which are accumulated by its head: of which is its time?"
        raise RigbenchError(what, f"{say_which} with the tokens of what is counted")
    ends = sum(bool(OPTIMIZES.search(row.text)) for row in log.rows)
    if micro is None and 0 < ends < 0.9 * len(log.rows):
        what = f"{name} counts micro-batches: {ends} of its {len(log.rows)} lines end an optimizer step"
        raise RigbenchError(what, "hand back a log that counts optimizer steps too, or a clock", NOTHING)


def last_of_each_step(log: Columns, own: list[float | None]) -> list[float | None]:
    """Rows of micro-batches that were not added up: the clock at a step's last is the step's."""
    last = [i for i, at in enumerate(log.steps) if log.steps[i + 1 : i + 2] != [at]]
    log.rows, log.steps = [log.rows[i] for i in last], [log.steps[i] for i in last]
    return [own[i] for i in last]


def counts(log: Columns, micro: str | None) -> list[int]:
    return [int(it or 0) for it in log.column(micro)] if micro else log.steps


def summed(log: Columns, key: str, micro: str) -> list[float | None]:
    """Times of a step's micro-batches added up; rows become one a step."""
    times, counts = log.column(key), log.column(micro)
    groups: list[list[int]] = []
    for index, at in enumerate(log.steps):
        if index and at == log.steps[index - 1]:
            groups[-1].append(index)
        else:
            groups.append([index])
    ends = [counts[indices[-1]] or 0.0 for indices in groups]
    per_step = round(stats.median([b - a for a, b in pairwise(ends) if b > a] or [0.0]))
    whole = [
        math.fsum(its)
        if len(its := [it for i in indices if (it := times[i])]) == len(indices) == per_step
        and all((counts[j] or 0) - (counts[i] or 0) == 1 for i, j in pairwise(indices))
        else None
        for indices in groups
    ]
    whole[0] = whole[-1] = None  # a step of which only a part may be there
    clocked = any(row.clock for row in log.rows) or log.key("clock", "train clock") is not None
    if not any(whole) and not clocked:
        raise RigbenchError(
            f"{log.shown(key)} is the time of one micro-batch of {per_step}, and not all of a step's are printed",
            "hand back the log that has all of them, or a clock (litgpt's metrics.csv)", NOTHING,
        )  # fmt: skip
    if any(whole):
        log.said.append(f"step time from {log.shown(key)}, that of {per_step} micro-batches each added up")
    breaks = [any(log.rows[i].after_break for i in indices) for indices in groups]
    log.steps = [log.steps[indices[-1]] for indices in groups]
    log.rows = [log.rows[indices[-1]]._replace(after_break=it) for indices, it in zip(groups, breaks, strict=True)]
    return whole


def clock_of(log: Columns) -> tuple[list[float | None], float]:
    """The finest clock, of training alone where there is one, and what its last digit stands for."""
    best: tuple[float, str, list[float | None]] | None = None
    for key, it in log.means.items():
        if it not in ("clock", "train clock"):
            continue
        column = log.column(key)
        if sum(value is not None for value in column) < max(2, len(column) / 2):
            continue
        finest = min((row.items[key].resolution * log.scale(key) for row in log.rows if key in row.items), default=0.0)
        if it == "train clock":
            finest = 0.0
        if best is None or "date" in log.forced or finest < best[0]:
            best = (finest, key, column)
    dated = [row.clock.value if row.clock else None for row in log.rows]
    if sum(value is not None for value in dated) >= max(2, len(dated) / 2) and (
        "date" in log.forced or "at_seconds" not in log.forced.values()
    ):
        finest = min(row.clock.resolution for row in log.rows if row.clock)
        if (
            best is None
            or "date" in log.forced
            or finest < best[0]
            or (log.means[best[1]] == "clock" and finest == best[0])
        ):
            best = (finest, "the date", dated)
    if best is None:
        return [None] * len(log.rows), 0.0
    finest, key, column = best
    if key != "the date" and log.means[key] == "train clock":
        finest = min((row.items[key].resolution for row in log.rows if key in row.items), default=0.0)
    log.said.append(f"clock from {log.shown(key) if key != 'the date' else key}")
    return column, finest


def ask_for_a_unit(log: Columns, own: list[float | None], clock: list[float | None]) -> None:
    """A number without a unit that would be a very slow step, and no clock to ask."""
    key = log.key("own time")
    mine = [it for it in own if it]
    if key is None or key in log.forced or not mine or any(it is not None for it in clock):
        return
    unit = next(row.items[key].unit for row in log.rows if key in row.items)
    if unit == "" and log.scale(key) == 1.0 and stats.median(mine) > SLOWEST_STEP:
        raise RigbenchError(
            f"{key} of {log.name} is {stats.median(mine):,.4g}: seconds or milliseconds?",
            f"say which: --columns step_milliseconds={key} or --columns step_seconds={key}",
        )


def agreed(log: Columns, own: list[float | None], clock: list[float | None], resolution: float) -> list[float | None]:
    """A step's time, having asked the clock whether that can be."""
    mine = [value for value in own if value]
    points = [
        (at, value, row.after_break)
        for at, value, row in zip(log.steps, clock, log.rows, strict=True)
        if value is not None
    ]
    between = [(b[1] - a[1], b[0] - a[0], b[2]) for a, b in pairwise(points) if b[0] > a[0] and b[1] >= a[1]]
    span = math.fsum(seconds for seconds, _, _ in between)
    if not mine or not between or span < TOO_COARSE * resolution or span <= 0:
        return own
    plain = [it for it in between[1:] if not it[2]] or between  # in the first is compilation
    # Whole seconds of short steps: only sums tell, and where pauses are among them only the usual stretch does.
    usual = stats.median([seconds / steps for seconds, steps, _ in plain])
    if resolution > usual * stats.median([float(steps) for _, steps, _ in plain]) / 10:
        usual = math.fsum(it[0] for it in plain) / sum(it[1] for it in plain)
    middle = stats.median(mine)
    every = stats.median([float(steps) for _, steps, _ in between])
    log.open = None
    if every > 1.5 and near(middle, every * usual):
        log.said.append(f"which is that of {every:.0f} steps together, as the clock shows")
        return [value / every if value else None for value in own]
    told: Meaning = next((it for it in OWN if log.key(it) is not None), "own time")
    if not near(middle, usual) and (log.key(told) or "") not in log.forced:
        raise RigbenchError(
            f"{log.name} contradicts itself: a step takes {units.format_seconds(middle)} by "
            f"{log.named(told)} and {units.format_seconds(usual)} by its clock (factor "
            f"{times(middle, usual)})",
            "a micro-batch's time, or another clock? say which: --columns at_seconds=NAME or step_seconds=NAME",
        )
    return own


def cumulative(values: Sequence[tuple[int, float]]) -> bool | None:
    """Whether (step, value) are readings of a clock, not times of steps. None: they only rise, and could be either.

    Times of steps jitter, so that a column that never falls but where it starts anew is a clock: certainly where it at
    least doubles, or where its rise a step explains what it shows at its first step.
    """
    pairs = [(a, b) for a, b in pairwise(values) if b[0] > a[0]]
    falls = [(a, b) for a, b in pairs if b[1] < a[1]]
    if not pairs or len(falls) > max(1, len(pairs) / 10) or any(b[1] > 0.5 * a[1] for a, b in falls):
        return False
    rising = [(a, b) for a, b in pairs if b[1] >= a[1]]
    rise, steps = math.fsum(b[1] - a[1] for a, b in rising), sum(b[0] - a[0] for a, b in rising)
    if rise <= 0:
        return False
    first = rising[0][0]
    grown = (first[1] + rise) / first[1] if first[1] > 0 else math.inf
    often = sum(b[1] > a[1] for a, b in rising) / len(rising)
    if len(pairs) >= 2 and (grown >= 4 or (grown >= 2 and often >= 0.5)):
        return True
    slope = rise / steps
    if 0.3 * first[0] <= first[1] / slope <= 3 * first[0] + 5 and often > 0.5:
        return True
    return None if len(pairs) >= 7 and often > 0.8 else False


def _only_rises(values: Sequence[tuple[int, float]]) -> bool:
    falls = sum(b[1] < a[1] for a, b in pairwise(values) if b[0] > a[0])
    return falls <= max(1, len(values) / 10)


def seconds_per_step(steps: Sequence[int], own: Iterable[float | None], clock: Sequence[float | None]) -> float | None:
    mine = [it for it in own if it]
    if mine:
        return stats.median(mine)
    points = [(at, it) for at, it in zip(steps, clock, strict=True) if it is not None]
    between = [(b[1] - a[1], b[0] - a[0]) for a, b in pairwise(points) if b[0] > a[0] and b[1] >= a[1]]
    seconds, count = math.fsum(it[0] for it in between), sum(it[1] for it in between)
    return seconds / count if seconds > 0 and count else None
