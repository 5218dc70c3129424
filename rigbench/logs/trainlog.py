"""Reads the log of a training run: text in, a row per logged step out."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from rigbench.core.errors import RigbenchError

# The names that trainers give their columns, in lower case; what the user maps with --columns goes before.
NAMES = {
    "step": ("step", "steps", "iter", "iteration", "global_step", "trainer/global_step", "_step"),
    "at_seconds": ("seconds", "elapsed", "elapsed_seconds", "time", "wall_time", "timestamp", "_timestamp", "_runtime"),
    "step_seconds": ("step_seconds", "step_time", "seconds_per_step", "dt", "iter_time"),
    "step_milliseconds": ("ms", "dt_ms", "step_ms", "ms_per_step", "step_time_ms", "time_ms"),
    "tokens": ("tokens", "tokens_seen", "total_tokens", "num_tokens", "consumed_tokens"),
    "tokens_per_s": ("tokens_per_s", "tokens_per_sec", "tokens_per_second", "tok/s", "tokens/s", "tok_s"),
    "loss": ("loss", "train_loss", "train/loss", "training_loss"),
}
NUMBER = r"([-+]?(?:\d[\d,]*\.?\d*(?:[eE][-+]?\d+)?|nan|inf))"
# What most trainers' lines have in common, whatever stands between: "iter 10: loss 9.1, time 250.3ms" and the like.
PLAIN = {
    "step": re.compile(r"\b(?:step|iter|iteration)\b[\s:=]*0*(\d+)", re.I),
    "step_milliseconds": re.compile(rf"{NUMBER}\s*ms\b", re.I),
    "tokens_per_s": re.compile(rf"{NUMBER}\s*tok(?:ens?)?/s|tok(?:ens?)?/s(?:ec)?[\s:=]+{NUMBER}", re.I),
    "loss": re.compile(rf"\bloss\b[\s:=]*{NUMBER}", re.I),
}
LINE_LIMIT = 10_000  # a line longer than this is no log line


class LogRow(NamedTuple):
    """One logged step; None is what the log does not tell."""

    step: int
    at_seconds: float | None = None  # a clock of any origin
    step_seconds: float | None = None  # this very step's time
    tokens: float | None = None  # all seen so far
    tokens_per_s: float | None = None
    loss: float | None = None  # NaN or infinite where it was


def parse_columns(text: str) -> dict[str, str]:
    """ "step=iter,tokens=seen" as {"step": "iter", "tokens": "seen"}."""
    columns = {}
    for part in text.split(","):
        role, _, name = part.partition("=")
        if not part.strip():
            continue
        if role.strip() not in NAMES or not name.strip():
            roles = ", ".join(NAMES)
            raise RigbenchError(f"--columns {part.strip()!r} is not ROLE=NAME", f"roles are {roles}")
        columns[role.strip()] = name.strip()
    return columns


def from_csv(text: str, columns: Mapping[str, str]) -> list[LogRow]:
    """Rows of a CSV file with a header; rows without a step or with junk in it are passed over."""
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        names = {name.strip().lower(): name for name in reader.fieldnames or () if name}
    except csv.Error as error:
        raise RigbenchError(f"the CSV file cannot be read ({error})", "give a comma-separated file") from None
    roles = {}
    for role, usual in NAMES.items():
        wanted = columns.get(role)
        if wanted is not None and wanted.lower() not in names:
            raise RigbenchError(f"no column is called {wanted!r}", "columns: " + ", ".join(sorted(names)[:12]))
        name = next((names[it] for it in ((wanted.lower(),) if wanted else usual) if it in names), None)
        if name is not None:
            roles[role] = name
    if "step" not in roles:
        some = ", ".join(sorted(names)[:8]) or "none"
        raise RigbenchError(f"no column is a step (columns: {some})", "name it, as --columns step=NAME")
    try:
        rows = [_row({role: line.get(name) for role, name in roles.items()}) for line in reader]
    except csv.Error as error:
        raise RigbenchError(f"line {reader.line_num} of the CSV file is broken ({error})", "mend it") from None
    return [row for row in rows if row]


def from_lines(lines: Iterable[str]) -> list[LogRow]:
    """Rows of a text log, by what the lines of most trainers have in common."""
    rows = []
    for line in lines:
        matches = {role: match for role, pattern in PLAIN.items() if (match := pattern.search(line[:LINE_LIMIT]))}
        rows.append(_row({role: next(filter(None, match.groups())) for role, match in matches.items()}))
    return [row for row in rows if row]


def from_pattern(lines: Iterable[str], pattern: str) -> list[LogRow]:
    """Rows of a text log, by the user's regular expression with named groups.

    Groups: step, and any of at_seconds (or time, an ISO date), step_seconds, step_milliseconds (or ms), tokens,
    tokens_per_s, loss.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise RigbenchError(f"--pattern is not a regular expression ({error})", "mend it") from None
    known = {name.lower(): role for role, names in NAMES.items() for name in (role, *names)}
    roles = {name: known[name.lower()] for name in compiled.groupindex if name.lower() in known}
    if "step" not in roles.values():
        groups = ", ".join(compiled.groupindex) or "none"
        cure = r"write it like 'iter (?P<step>\d+).* (?P<ms>[\d.]+)ms'"
        raise RigbenchError(f"--pattern has no group named step (groups: {groups})", cure)
    matches = (match for line in lines if (match := compiled.search(line[:LINE_LIMIT])))
    rows = [_row({role: match[name] for name, role in roles.items()}) for match in matches]
    return [row for row in rows if row]


def _row(texts: Mapping[str, str | None]) -> LogRow | None:
    """None where there is no step, which is what makes a line a row."""
    step = _number(texts.get("step"))
    if step is None or not math.isfinite(step) or step < 0 or step != int(step):
        return None
    seconds, milliseconds = _number(texts.get("step_seconds")), _number(texts.get("step_milliseconds"))
    if seconds is None and milliseconds is not None:
        seconds = milliseconds / 1e3
    return LogRow(
        step=int(step),
        at_seconds=_clock(texts.get("at_seconds")),
        step_seconds=_finite(seconds),
        tokens=_finite(_number(texts.get("tokens"))),
        tokens_per_s=_finite(_number(texts.get("tokens_per_s"))),
        loss=_number(texts.get("loss")),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def _number(text: str | None) -> float | None:
    try:
        return float((text or "").strip().replace(",", ""))
    except ValueError:
        return None


def _clock(text: str | None) -> float | None:
    """Seconds, or an ISO date and time."""
    number = _number(text)
    if number is not None:
        return _finite(number)
    try:
        return datetime.fromisoformat((text or "").strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
