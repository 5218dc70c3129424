"""Decides how many tokens a step has, by all that a log says of it, and asks them of each other."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise

from rigbench.core import stats, units
from rigbench.core.errors import RigbenchError
from rigbench.logs.columns import APART, LARGEST, Columns, near, refuse_without_time, times
from rigbench.logs.formats import Meaning
from rigbench.logs.times import seconds_per_step

WITNESSES: tuple[Meaning, ...] = ("interval time", "steps rate", "rate", "mean rate", "device rate")
EVEN = 0.03  # tokens of steps that differ by less are one count
TOKENS_AT_THE_HEAD = re.compile(
    r"tokens (?:per|a|/) ?(?:iteration|iter|step|optimizer step|batch|update)\b|^total (?:desired )?batch size$"
)
SEQUENCE_AT_THE_HEAD = re.compile(r"^(?:seq(?:uence)?[ _]len(?:gth)?|block_size|max_seq_len(?:gth)?)$")


def tokens_of(
    log: Columns, own: list[float | None], clock: list[float | None]
) -> tuple[list[float | None], list[float | None], float | None, list[float | None], bool]:
    """A step's time, tokens seen, both at each row, tokens of a step, tokens/s at each row, whether of one device."""
    seen = log.column(None)
    of_all: list[tuple[str, float]] = []  # what the log says of a step's tokens, the surest first
    of_one: list[tuple[str, float]] = []
    for wanted, told in (("tokens", of_all), ("rank tokens", of_one)):
        key = log.key(wanted)  # type: ignore[arg-type]
        column = log.column(key)
        points = [(at, it) for at, it in zip(log.steps, column, strict=True) if it is not None]
        ups = [(b[1] - a[1], b[0] - a[0]) for a, b in pairwise(points) if b[0] > a[0]]
        if key is None or len(points) < 2:
            continue
        down = sum(it[0] < 0 for it in ups)
        ups = [it for it in ups if it[0] >= 0] if down <= max(1, len(ups) / 10) else []
        if any(it[0] > 0 for it in ups):
            told.append((f"{log.shown(key)}", math.fsum(it[0] for it in ups) / sum(it[1] for it in ups)))
            if wanted == "tokens" or not of_all:
                seen = column
        elif ups and all(it[1] == 1 for it in ups):
            told.append((f"{log.shown(key)} of each step", stats.median([it for _, it in points])))
    if (key := log.key("step tokens")) is not None:
        of_all.append((log.shown(key), stats.median([it for it in log.column(key) if it is not None])))
    head = next(((key, it) for key, it in log.raw.head.items() if TOKENS_AT_THE_HEAD.search(key) and it >= 64), None)
    if head:
        of_all.append((f"`{head[0]}` at the head", head[1]))
    sequence = next((it for key, it in log.raw.head.items() if SEQUENCE_AT_THE_HEAD.search(key) and it >= 16), None)
    batch = [it for it in log.column(log.key("batch")) if it]
    batch = batch or [it for key in ("global batch size", "global_batch_size") if (it := log.raw.head.get(key))]
    if batch and sequence:
        of_all.append((f"batch of {batch[0]:,.0f} x sequence of {sequence:,.0f}", stats.median(batch) * sequence))
    own = of_how_many(log, own, [it for it in of_all if it[0] != log.named("step tokens")], of_one)
    seconds = seconds_per_step(log.steps, own, clock)
    rate_key, device_key = log.key("rate"), log.key("device rate")
    rate = log.column(rate_key)
    late = rate[len(rate) // 2 :] if log.format and log.format.even else rate  # a slow start is smoothed away
    for key, column, told in ((rate_key, late, of_all), (device_key, log.column(device_key), of_one)):
        if seconds and (middle := _middle(column)):
            told.append((log.shown(key or ""), middle * seconds))
    return own, *judged(log, own, seen, of_all, of_one, rate, rate_key, device_key, seconds, batch)


def of_how_many(
    log: Columns, own: list[float | None], of_all: list[tuple[str, float]], of_one: list[tuple[str, float]]
) -> list[float | None]:
    """Times that may be of one step or of all since the line above: as the one of both that the other numbers allow."""
    if log.open is None or not (seconds := _middle(it for it in own if it)):
        return own
    every = round(stats.median([float(b - a) for a, b in pairwise(log.steps) if b > a]))
    told = {wanted: _middle(log.column(log.key(wanted))) for wanted in WITNESSES}
    tokens = of_all[0][1] if of_all else log.declared
    by: list[tuple[str, float]] = []  # what else tells a step's seconds
    if interval := told["interval time"]:
        by.append((log.named("interval time"), interval / every))
    if steps := told["steps rate"]:
        by.append((log.named("steps rate"), 1 / steps))
    rates = [(log.named(wanted), told[wanted]) for wanted in ("rate", "mean rate")] if tokens else []
    by += [(f"{name} and the tokens", (tokens or 0.0) / rate) for name, rate in rates if rate]
    if device := told["device rate"]:
        if of_one:
            by.append((f"{log.named('device rate')} and the tokens", of_one[0][1] / device))
        elif tokens and not _whole(tokens / device / seconds) and _whole(tokens / device / seconds * every):
            by.append((f"{log.named('device rate')} and the tokens", seconds / every))
    alone = [source for source, it in by if near(seconds, it)]
    together = [source for source, it in by if near(seconds, every * it)]
    if bool(alone) == bool(together):
        return own
    log.open = None
    if alone:
        return own
    log.said.append(f"which is that of {every} steps together, as {together[0]} show")
    return [it / every if it else None for it in own]


def _whole(devices: float) -> bool:
    return devices >= 1 / APART and near(devices, max(1, round(devices)))


def even(log: Columns, rate: Sequence[float | None], own: Sequence[float | None]) -> bool:
    """Whether rates and times of steps tell one and the same count of tokens for each."""
    products = [a * b for a, b in zip(rate, own, strict=True) if a and b]
    if log.format and log.format.even:
        return True
    return not products or stats.quantile(products, 0.75) - stats.quantile(products, 0.25) < EVEN * stats.median(
        products
    )


def judged(
    log: Columns,
    own: Sequence[float | None],
    seen: list[float | None],
    of_all: list[tuple[str, float]],
    of_one: list[tuple[str, float]],
    rate: list[float | None],
    rate_key: str | None,
    device_key: str | None,
    seconds: float | None,
    batch: list[float],
) -> tuple[list[float | None], float | None, list[float | None], bool]:
    """The surest of what the log says, having asked the others and the user whether that can be."""
    of_all, of_one = ([it for it in told if 0 < it[1] < LARGEST] for told in (of_all, of_one))
    for (a, first), (b, second) in (*combinations(of_all, 2), *combinations(of_one, 2)):
        if not near(first, second):
            raise RigbenchError(
                f"{log.name} contradicts itself: {_words(first)} by {a}, {_words(second)} by {b} "
                f"(factor {times(first, second)})",
                "of one device, or of a micro-batch? say which: --columns tokens=NAME or tokens_per_s=NAME",
            )
    declared = log.declared
    if of_all:
        source, value = of_all[0]
        by_rate = rate_key is not None and source == log.shown(rate_key)
        if declared is not None and not near(declared, value):
            its = f"{_words(value)} by {source}"
            if seconds:
                its += f" ({units.format_rate(value / seconds)})"
            raise RigbenchError(
                f"--tokens-per-step {declared:,.0f} contradicts {log.name}: {its}, factor {times(declared, value)}",
                "leave the option out, or hand back the log that it belongs to",
            )
        if by_rate and seconds and not even(log, rate, own):
            log.said.append(f"tokens from {source} and the time, line by line")
            return seen, None, rate, False
        log.said.append(f"tokens from {source}")
        return seen, value, rate, False
    if of_one:
        source, value = of_one[0]
        if declared is None:
            log.said.append(f"tokens from {source}: of one device")
            return seen, value, log.column(device_key), True
        devices = declared / value
        if not _whole(devices):
            raise RigbenchError(
                f"--tokens-per-step {declared:,.0f} contradicts {log.name}: {_words(value)} of one device by "
                f"{source}, factor {devices:.3g}", "give that of all devices, or leave it out",
            )  # fmt: skip
        log.said.append(f"tokens as given: {round(devices)} device{'s' * (round(devices) != 1)} of {source}")
        return log.column(None), declared, log.column(None), False
    only = rate_key if rate_key is not None else device_key
    if declared is not None and (seconds or only is None):
        log.said.append("tokens as given")
        return log.column(None), declared, log.column(None), False
    if only is not None:
        log.said.append(f"rate from {log.shown(only)}, each line weighing the same: the log has no times")
        return seen, None, log.column(only), rate_key is None
    if not seconds:
        refuse_without_time(log)
    cure = f"give --tokens-per-step N, {batch[0]:,.0f} x the sequence's length" if batch else "give --tokens-per-step N"
    raise RigbenchError("the log does not say how many tokens a step has", cure)


def _middle(values: Iterable[float | None]) -> float | None:
    told = [it for it in values if it is not None and math.isfinite(it)]
    return stats.median(told) if told else None


def _words(value: float) -> str:
    return f"{value:,.0f} tokens a step"
