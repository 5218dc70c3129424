"""What happened in a training run, going by its log? Text in, a row per logged step out."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

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


@dataclass(frozen=True)
class LogRow:
    """One logged step. `at_seconds` is a clock of any origin, `step_seconds` this very step's time, `tokens` all seen
    so far. A loss that is not finite is kept as NaN."""

    step: int
    at_seconds: float | None = None
    step_seconds: float | None = None
    tokens: float | None = None
    tokens_per_s: float | None = None
    loss: float | None = None


def from_csv(text: str, columns: Mapping[str, str]) -> list[LogRow]:
    """Rows of a CSV file with a header; rows without a step or with junk in it are passed over.

    Raises:
        RigbenchError: no header that names a step.
    """
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        names = {name.strip().lower(): name for name in reader.fieldnames or () if name}
    except csv.Error as error:
        raise RigbenchError(f"the CSV file cannot be read ({error})", "give a comma-separated file") from None
    found = _columns(names, columns)
    if "step" not in found:
        some = ", ".join(sorted(names)[:8]) or "none"
        raise RigbenchError(f"no column is a step (columns: {some})", "name it, as --columns step=NAME")
    rows = []
    try:
        for line in reader:
            row = _row({role: line.get(name) for role, name in found.items()})
            rows += [row] if row else []
    except csv.Error as error:
        raise RigbenchError(f"line {reader.line_num} of the CSV file is broken ({error})", "mend it") from None
    return rows


def from_lines(lines: Iterable[str], pattern: str | None) -> list[LogRow]:
    """Rows of a text log: by the user's regular expression with named groups, else by what most logs have in common.

    Groups: step, and any of at_seconds (or time, an ISO date), step_seconds, step_milliseconds (or ms), tokens,
    tokens_per_s, loss.

    Raises:
        RigbenchError: the pattern is none, or has no group named step.
    """
    if pattern is None:
        return [row for line in lines if (row := _row(_plain(line[:LINE_LIMIT])))]
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise RigbenchError(f"--pattern is not a regular expression ({error})", "mend it") from None
    known = {name.lower(): role for role, names in NAMES.items() for name in (role, *names)}
    roles = {name: known[name.lower()] for name in compiled.groupindex if name.lower() in known}
    if "step" not in roles.values():
        _no_step_group(compiled)
    rows = []
    for line in lines:
        if match := compiled.search(line[:LINE_LIMIT]):
            row = _row({role: match[name] for name, role in roles.items()})
            rows += [row] if row else []
    return rows


def parse_columns(text: str | None) -> dict[str, str]:
    """ "step=iter,tokens=seen" as {"step": "iter", "tokens": "seen"}.

    Raises:
        RigbenchError: not of that form, or a role that is none.
    """
    columns = {}
    for part in (text or "").split(","):
        role, _, name = part.partition("=")
        if not part.strip():
            continue
        if role.strip() not in NAMES or not name.strip():
            roles = ", ".join(NAMES)
            raise RigbenchError(f"--columns {part.strip()!r} is not ROLE=NAME", f"roles are {roles}")
        columns[role.strip()] = name.strip()
    return columns


def _no_step_group(compiled: re.Pattern[str]) -> NoReturn:
    groups = ", ".join(compiled.groupindex) or "none"
    raise RigbenchError(
        f"--pattern has no group named step (groups: {groups})",
        r"write it like 'iter (?P<step>\d+).* (?P<ms>[\d.]+)ms'",
    )


def _columns(names: Mapping[str, str], asked: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for role, usual in NAMES.items():
        wanted = asked.get(role)
        if wanted is not None and wanted.lower() not in names:
            raise RigbenchError(f"no column is called {wanted!r}", "columns: " + ", ".join(sorted(names)[:12]))
        candidates = (wanted.lower(),) if wanted else usual
        name = next((names[candidate] for candidate in candidates if candidate in names), None)
        if name is not None:
            found[role] = name
    return found


def _plain(line: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for role, pattern in PLAIN.items():
        if match := pattern.search(line):
            found[role] = next(group for group in match.groups() if group is not None)
    return found


def _row(texts: Mapping[str, str | None]) -> LogRow | None:
    """None where there is no step, which is what makes a line a row."""
    step = _number(texts.get("step"))
    if step is None or not math.isfinite(step) or step < 0 or step != int(step):
        return None
    numbers = {role: _number(text) for role, text in texts.items() if role != "at_seconds"}
    milliseconds = numbers.get("step_milliseconds")
    seconds = numbers.get("step_seconds")
    if seconds is None and milliseconds is not None:
        seconds = milliseconds / 1e3
    return LogRow(
        step=int(step),
        at_seconds=_clock(texts.get("at_seconds")),
        step_seconds=_finite(seconds),
        tokens=_finite(numbers.get("tokens")),
        tokens_per_s=_finite(numbers.get("tokens_per_s")),
        loss=numbers.get("loss"),
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
