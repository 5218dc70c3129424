"""Reads a log: which step, which time, which tokens; says it, and refuses where two readings differ by over a fifth."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

from rigbench.core import stats, units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.logs import scan
from rigbench.logs.columns import ROLES, Columns, quoted, refuse_without_time
from rigbench.logs.formats import meaning, of_one_step
from rigbench.logs.scan import Item, Raw
from rigbench.logs.source import lines_of
from rigbench.logs.stretches import LogRow, Reading
from rigbench.logs.times import agreed, ask_for_a_unit, clock_of, last_of_each_step, own_seconds
from rigbench.logs.tokens import tokens_of

STEP_NAMES = ("train/global_step", "trainer/global_step", "global_step", "optimizer_step", "num_updates",
              "current_steps", "update", "step", "steps", "iteration", "iter", "it", "batch", "bar",
              "_step")  # fmt: skip
TIMED = {
    "own time",
    "interval time",
    "mean time",
    "time",
    "clock",
    "train clock",
    "rate",
    "device rate",
    "mean rate",
    "steps rate",
    "tokens",
    "rank tokens",
}
SIZE = re.compile(  # number of parameters: 123.59M, or 124,475,904 total parameters
    r"\b(?:number of |num[_ ]|total |trainable )(?:trainable )?param(?:eter)?s[ :=]{1,4}(\d[\d,.]{0,15}\d) ?([MB])?"
    r"|\b(\d[\d,]{6,16}) total parameters",
    re.I,
)


def read(raw: Raw, columns: Mapping[str, str], tokens_per_step: float | None = None, name: str = "the log") -> Reading:
    """`columns` maps roles to names, as the user has them; `tokens_per_step` is what the user says.

    Raises:
        RigbenchError: no step, no time and no rate, or two readings that contradict each other.
    """
    log = Columns(raw, columns, tokens_per_step, name)
    summary_only(log)
    step = step_key(log)
    micro = micro_key(log, step)
    log.choose_rows(step)
    own = own_seconds(log, step, micro)
    if micro is not None and len(own) == len(log.rows):
        own = last_of_each_step(log, own)
    clock, resolution = clock_of(log)
    ask_for_a_unit(log, own, clock)
    own = agreed(log, own, clock, resolution)
    told = any(it is not None for it in (*own, *clock)) or log.key("rate", "device rate") is not None
    if not told and log.key("mean rate", "mean time") is not None:
        raise RigbenchError(
            f"{log.name} has only a mean over the run so far, in which its start is",
            "hand back a log that has the time of each step, or a clock",
            NOTHING,
        )
    if not told:
        refuse_without_time(log)
    own, tokens, per_step, rate, one = tokens_of(log, own, clock)
    loss = log.column(log.key("loss"))
    kept = [
        LogRow(at, clock[i], own[i], tokens[i], rate[i], loss[i], log.rows[i].after_break)
        for i, at in enumerate(log.steps)
    ]
    gaps = [b - a for a, b in pairwise(log.steps) if b > a]
    usual = round(stats.median([float(gap) for gap in gaps])) if gaps else 1
    if usual > 1:
        th = usual % 10 not in (1, 2, 3) or usual % 100 in (11, 12, 13)
        every = f"every {usual:,}th" if th else f"1 of {usual:,}"
        total = sum(gaps) + usual
        log.said[0] += f", {every} of {total:,} steps"
    doubt = in_doubt(log, usual)
    size = SIZE.search(log.raw.heads)
    parameters = units.parse_parameters((size[1] or size[3]).replace(",", "") + (size[2] or "")) if size else None
    name = log.format.name if log.format else {"table": "CSV"}.get(log.raw.kind, log.raw.kind)
    return Reading(name, kept, per_step, resolution, tuple(log.said), one, parameters, doubt)


def in_doubt(log: Columns, every: int) -> str:
    """What else the rate may be, where nothing tells whether a time is of one step or of all since the line above.

    Raises:
        RigbenchError: neither does the time's name.
    """
    if (key := log.open) is None:
        return ""
    item = next(row.items[key] for row in log.raw.rows if key in row.items)
    if of_one_step(key, item.unit):
        return ""
    together = f"{log.shown(key)} is taken as one step's; if it is of the {every} since the line above"
    option = f"(--columns interval_seconds={key or 'NAME'})"
    if log.key("rate") or (log.declared is None and log.key("device rate")):
        log.said.append(f"{together}, the time is 1/{every} of this, and the rate the same {option}")
        return ""
    if meaning(key, item.unit) != "own time":
        raise RigbenchError(
            f"{log.shown(key)} of {log.name} stands on every {every}th step: of one step, or of {every} together?",
            f"say which: --columns step_seconds={key or 'NAME'} or --columns interval_seconds={key or 'NAME'}",
        )
    log.said.append(f"{together}, the rate is {every} times this {option}")
    return log.said[-1]


def summary_only(log: Columns) -> None:
    """HF's trainer_state.json, whose entries have no time."""
    timed = {key for key, it in log.means.items() if it in TIMED - {"tokens", "mean rate"}}
    if "log_history" not in log.raw.summary or any(not key.startswith("train_") for key in timed):
        return
    whole = next((row.items for row in reversed(log.raw.rows) if "train_runtime" in row.items), None)
    cure = "hand back the console's log, the TensorBoard folder or W&B's history"
    what = f"{log.name} of HF Trainer: its entries have no time"
    if whole is None:
        raise RigbenchError(what, cure, NOTHING)
    steps, seconds = (
        log.raw.summary.get("global_step", whole.get("step", Item(0)).value),
        whole["train_runtime"].value,
    )
    told = f"{what}; whole run {steps:,.0f} steps in {seconds:,.1f} s"
    if seconds > 0 and steps:
        rate = units.format_significant(steps / seconds)
        told += f", {rate} steps/s with start and evaluations, if it was never resumed"
    raise RigbenchError(told, cure, NOTHING)


def step_key(log: Columns) -> str:
    keys = [key for key, it in log.means.items() if it == "step"]
    informative = [row for row in log.raw.rows if row.clock or any(log.means[key] in TIMED for key in row.items)]
    if not keys or not log.raw.rows:
        refuse_without_step(log)
    counts = {key: sum(key in row.items for row in informative or log.raw.rows) for key in keys}
    most = max(counts.values())
    if not most:
        refuse_without_time(log)
    able = [key for key in keys if counts[key] >= most / 2]
    if "_step" in able and len(able) > 1:
        able.remove("_step")  # W&B's count of calls of log

    def rank(key: str) -> tuple[int, int]:
        last = re.sub(r"[^a-z0-9]+", " ", key).split()[-1:] or [""]
        exact = STEP_NAMES.index(key) if key in STEP_NAMES else 99
        micro = "micro" in key
        return (50 * micro + min(exact, *(STEP_NAMES.index(it) for it in last if it in STEP_NAMES), 98)), -counts[key]

    chosen = min(able, key=rank)
    shown = "its number at the head" if not chosen else "the progress bar" if chosen == "bar" else chosen
    calls = ": W&B's count of calls of log, one a step if nothing else was logged" * (chosen == "_step")
    log.said.append(f"step from {shown}{calls}")
    return chosen


def refuse_without_step(log: Columns) -> None:
    if log.raw.kind == "table" or log.raw.kind == "JSON":
        some = ", ".join(sorted(filter(None, log.means.keys() | log.raw.head.keys()))[:8]) or "none"
        raise RigbenchError(f"no column is a step (columns: {some})", "name it, as --columns step=NAME")
    raise RigbenchError(f"no line of {log.name} gives a step", quoted(log.raw.heads))


def micro_key(log: Columns, step: str) -> str | None:
    """A count of micro-batches beside that of optimizer steps."""
    for key, it in log.means.items():
        words = re.sub(r"[^a-z0-9]+", " ", key).split()
        if (
            it != "step"
            or key in (step, "_step")
            or not (set(words) & {"iter", "iters", "iteration", "it", "batch", "micro"})
        ):
            continue
        both = [
            (row.items[step].value, row.items[key].value)
            for row in log.raw.rows
            if step in row.items and key in row.items
        ]
        steps = sum(max(0.0, b[0] - a[0]) for a, b in pairwise(both))
        iterations = sum(max(0.0, b[1] - a[1]) for a, b in pairwise(both))
        if steps and iterations / steps > 1.5:
            return key
    return None


# ------------------------------------------------------------------------------------------- what the user says of it

# Names that a pattern's groups may have for a role.
GROUPS = {
    "step": ("step", "steps", "iter", "iteration", "global_step"),
    "at_seconds": ("at_seconds", "seconds", "elapsed", "time", "date", "timestamp", "wall_time"),
    "step_seconds": ("step_seconds", "step_time", "dt"),
    "step_milliseconds": ("step_milliseconds", "ms", "dt_ms", "step_ms"),
    "interval_seconds": ("interval_seconds", "interval"),
    "tokens": ("tokens", "tokens_seen", "total_tokens"),
    "tokens_per_s": ("tokens_per_s", "tokens_per_sec", "tok_s", "tps"),
    "loss": ("loss", "train_loss"),
}


def parse_columns(text: str) -> dict[str, str]:
    """ "step=iter,tokens=seen" as {"step": "iter", "tokens": "seen"}."""
    columns = {}
    for part in text.split(","):
        role, _, name = part.partition("=")
        if not part.strip():
            continue
        if role.strip() not in ROLES or not name.strip():
            raise RigbenchError(f"--columns {part.strip()!r} is not ROLE=NAME", f"roles are {', '.join(ROLES)}")
        columns[role.strip()] = name.strip()
    return columns


def by_pattern(text: str, pattern: str) -> tuple[Raw, dict[str, str]]:
    """Rows by the user's regular expression with named groups, and which group has which role."""
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise RigbenchError(f"--pattern is not a regular expression ({error})", "mend it") from None
    roles = {role: group for group in compiled.groupindex for role, names in GROUPS.items() if group.lower() in names}
    if "step" not in roles:
        groups = ", ".join(compiled.groupindex) or "none"
        cure = r"write it like 'iter (?P<step>\d+).* (?P<ms>[\d.]+)ms'"
        raise RigbenchError(f"--pattern has no group named step (groups: {groups})", cure)
    lines = (line[: scan.LINE_LIMIT] for line in lines_of(text))
    rows = [scan.of_cells(match.groupdict()) for line in lines if (match := compiled.search(line))]
    return Raw("text", [row for row in rows if roles["step"].lower() in row.items], {}, {}, text[:20_000]), roles
