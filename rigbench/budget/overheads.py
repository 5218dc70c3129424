"""What does a run take beyond its training steps, each part on its own line with what it rests on?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rigbench.budget.forecast import Ends, Forecast, Machine
from rigbench.budget.record import Overhead, OverheadName, Written
from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure

# What is assumed where nothing was measured; each is said beside its hours, with the option that changes it.
COMPILE_SECONDS = (60.0, 20.0, 180.0)
WARMUP_SECONDS = (30.0, 10.0, 120.0)
EVAL_TOKENS, EVAL_EVERY_TOKENS = float(1 << 20), 50e6
CHECKPOINT_EVERY_HOURS = 1.0
DISK_BYTES_PER_S = (500e6, 100e6, 2e9)  # one SATA disk; a hard disk, and an NVMe
RESTARTS_PER_DAY = (0.1, 0.0, 1.0)
KEPT = 2
FORWARD_SHARE = 1 / 3  # of a step: backward takes twice what forward takes (Kaplan 2020, §2.1)
HOUR, DAY = 3600.0, 86400.0
WEIGHT_BYTES, MOMENTS_BYTES, MOMENTS_8BIT_BYTES = 4, 8, 2 + 8 / 256


@dataclass(frozen=True)
class Asked:
    """What the user declared; None: measured where it was, else assumed. 0 steps: never."""

    compile_seconds: float | None = None
    warmup_seconds: float | None = None
    eval_every_steps: float | None = None
    eval_tokens: float | None = None
    checkpoint_every_steps: float | None = None
    disk_bytes_per_s: float | None = None
    restarts_per_day: float | None = None
    keep_checkpoints: int | None = None


def rows(
    forecasts: Sequence[Forecast], tokens: Sequence[float], machine: Machine, asked: Asked
) -> tuple[Overhead, ...]:
    """Every overhead's hours over all models, from those that training itself takes to those that it may take."""
    steps = _ends([_times(t, its.hours_per_token) for t, its in zip(tokens, forecasts, strict=True)])
    hot = tuple(h * extra for h, extra in zip(steps, machine.known.hot_extra, strict=True))
    start_compile = _compile(forecasts, asked)
    start_warm = _warmup(forecasts, asked)
    evaluation, evaluation_words = _evaluation(forecasts, tokens, asked)
    writes, writes_words = _checkpoints(forecasts, tokens, asked)
    known: list[tuple[OverheadName, Ends, str]] = [
        ("hot steady state", hot, machine.known.hot_basis),  # type: ignore[list-item]
        ("compile", *start_compile),
        ("warm-up", *start_warm),
        ("evaluation", evaluation, evaluation_words),
        ("checkpoints", writes, writes_words),
    ]
    known.append(("restarts", *_restarts(forecasts, tokens, start_compile[0], start_warm[0], asked)))
    return tuple(Overhead(name, _hours(*ends, basis)) for name, ends, basis in known)


def written(forecasts: Sequence[Forecast], asked: Asked) -> Written:
    """Disk that the checkpoints take, those of every model that are kept."""
    each = [checkpoint_bytes(its) for its in forecasts]
    kept = KEPT if asked.keep_checkpoints is None else asked.keep_checkpoints
    basis = "weights and AdamW's two moments in fp32" if "8bit" not in forecasts[0].optimizer else "8-bit moments"
    word = "--keep-checkpoints" if asked.keep_checkpoints is not None else "assumed, --keep-checkpoints"
    return Written(
        largest_bytes=max(each),
        kept_bytes=kept * sum(each),
        kept_each=kept,
        count=kept * len(each),
        basis=f"{basis}; the last {kept} of each model ({word})",
    )


def checkpoint_bytes(its: Forecast) -> int:
    """Weights and optimizer states, from which training goes on."""
    moments = MOMENTS_8BIT_BYTES if "8bit" in its.optimizer else MOMENTS_BYTES
    return round(its.model.total_parameters * (WEIGHT_BYTES + moments))


def whole_hours(steps: Estimate, overheads: Sequence[Overhead]) -> Estimate:
    """Lows and highs add: nothing is assumed to cancel."""
    ends = _ends([(steps.value, steps.low, steps.high), *(ends_of(one.hours) for one in overheads)])
    value, low, high = ends
    return Estimate(value, low, high, steps.level, "steps and overheads, sums of lows and of highs", steps.n)


def ends_of(figure: Figure) -> Ends:
    low, high = (figure.value if isinstance(end, Absent) else end for end in (figure.low, figure.high))
    return figure.value, low, high


def _compile(forecasts: Sequence[Forecast], asked: Asked) -> tuple[Ends, str]:
    if asked.compile_seconds is not None:
        seconds = asked.compile_seconds
        return _each((seconds,) * 3, len(forecasts)), f"{units.format_seconds(seconds)} a model (--compile-time)"
    if not any(its.compiled for its in forecasts):
        return (0.0, 0.0, 0.0), "not compiled"
    measured = [its.compile_seconds for its in forecasts if its.compile_seconds is not None]
    if measured:
        mean = math.fsum(measured) / len(measured)
        ends = mean, min(measured), max(measured)
        return _each(ends, len(forecasts)), f"{units.format_seconds(mean)} a model, measured beside the slices"
    words = f"{units.format_seconds(COMPILE_SECONDS[0])} a model, assumed (--compile-time)"
    return _each(COMPILE_SECONDS, len(forecasts)), words


def _warmup(forecasts: Sequence[Forecast], asked: Asked) -> tuple[Ends, str]:
    if asked.warmup_seconds is not None:
        seconds = asked.warmup_seconds
        return _each((seconds,) * 3, len(forecasts)), f"{units.format_seconds(seconds)} a start (--warm-up)"
    measured = [its.startup_seconds for its in forecasts if its.startup_seconds is not None]
    if measured:
        mean = math.fsum(measured) / len(measured)
        ends = mean, min(measured), max(measured)
        words = f"{units.format_seconds(mean)} a start until the pace is steady, measured with the slices"
        return _each(ends, len(forecasts)), words
    words = f"{units.format_seconds(WARMUP_SECONDS[0])} a start, assumed (--warm-up)"
    return _each(WARMUP_SECONDS, len(forecasts)), words


def _evaluation(forecasts: Sequence[Forecast], tokens: Sequence[float], asked: Asked) -> tuple[Ends, str]:
    every, each = asked.eval_every_steps, EVAL_TOKENS if asked.eval_tokens is None else asked.eval_tokens
    if every == 0:
        return (0.0, 0.0, 0.0), "none (--eval-every 0)"
    parts = []
    for count, its in zip(tokens, forecasts, strict=True):
        apart = EVAL_EVERY_TOKENS if every is None else every * its.tokens_per_step
        parts.append(_times(FORWARD_SHARE * each * count / apart, its.hours_per_token))
    often = f"{units.format_count(EVAL_EVERY_TOKENS)} tokens" if every is None else f"{units.format_count(every)} steps"
    assumed = "" if asked.eval_every_steps and asked.eval_tokens else "assumed, "
    return _ends(parts), (
        f"{units.format_count(each)} tokens every {often}, each at 1/3 of its training time "
        f"({assumed}--eval-every, --eval-tokens)"
    )


def _checkpoints(forecasts: Sequence[Forecast], tokens: Sequence[float], asked: Asked) -> tuple[Ends, str]:
    value, low, high = DISK_BYTES_PER_S if asked.disk_bytes_per_s is None else (asked.disk_bytes_per_s,) * 3
    size = 0.0
    for count, its in zip(tokens, forecasts, strict=True):
        hours = _apart_hours(its, asked)
        size += checkpoint_bytes(its) * (1 + (count * its.hours_per_token[0] / hours if hours else 0.0))
    ends = size / value / HOUR, size / high / HOUR, size / low / HOUR
    every = asked.checkpoint_every_steps
    often = "every hour and at the end" if every is None else f"every {units.format_count(every)} steps and at the end"
    assumed = "" if asked.disk_bytes_per_s and every is not None else "assumed, "
    speed = units.format_bytes_per_s(value)
    words = often if every != 0 else "at the end only"
    return ends, f"{words}, at {speed} ({assumed}--checkpoint-every, --disk-speed)"


def _apart_hours(its: Forecast, asked: Asked) -> float:
    """Hours from one checkpoint to the next; 0: none is written before the end."""
    every = asked.checkpoint_every_steps
    return CHECKPOINT_EVERY_HOURS if every is None else every * its.tokens_per_step * its.hours_per_token[0]


def _restarts(
    forecasts: Sequence[Forecast], tokens: Sequence[float], compile_hours: Ends, warm_hours: Ends, asked: Asked
) -> tuple[Ends, str]:
    """Each repeats half of what lies between two checkpoints, and starts again."""
    rates = RESTARTS_PER_DAY if asked.restarts_per_day is None else (asked.restarts_per_day,) * 3
    said = "--restarts-per-day" if asked.restarts_per_day is not None else "assumed, --restarts-per-day"
    if asked.checkpoint_every_steps == 0:
        said += "; without checkpoints a run begins anew, which is not in here"
    n = len(forecasts)
    starts = [(c + w) / n for c, w in zip(compile_hours, warm_hours, strict=True)]
    value, low, high = (
        sum(
            per_day / 24 * count * its.hours_per_token[end] * (start + _apart_hours(its, asked) / 2)
            for count, its in zip(tokens, forecasts, strict=True)
        )
        for end, (per_day, start) in enumerate(zip(rates, starts, strict=True))
    )
    return (value, low, high), f"{rates[0]:g} a day ({said}), each loses half of what lies between checkpoints"


def _each(seconds: Ends, models: int) -> Ends:
    value, low, high = (models * end / HOUR for end in seconds)
    return value, low, high


def _times(amount: float, ends: Ends) -> Ends:
    value, low, high = (amount * end for end in ends)
    return value, low, high


def _ends(parts: Sequence[Ends] | Sequence[tuple[float, ...]]) -> Ends:
    value, low, high = (math.fsum(part[i] for part in parts) for i in range(3))
    return value, low, high


def _hours(value: float, low: float, high: float, basis: str) -> Figure:
    return Figure(value=value, source="predicted", basis=basis, low=low, high=high)
