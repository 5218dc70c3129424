"""Where a training's steps are seen: in the hook's file, in what the command writes, else in the load of its GPUs."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from rigbench import hooks
from rigbench.core import stats
from rigbench.core.errors import RigbenchError
from rigbench.logs import rules, scan
from rigbench.logs.source import text_of
from rigbench.logs.stretches import LogRow, Reading

MOST_ROWS = 4096  # of either source; above it every other is dropped, the tokens between staying as they are
MOST_NAMES = 32  # of what may be a count of steps in the output
HEAD_LINES, TAIL_LINES = 400, 1000  # of the output that are read together: a program names itself at the start
MOST_LINES_A_LOOK = 300  # of a flood the newest are kept
LOOKS_A_TICK, MOST_LOOKS = 4, 200  # lines that are looked at for a step at once, 0.2 ms each: the newest
LONGEST_LINE = 4096
ARRIVAL_SECONDS = 0.02  # how exactly the relay notes when a line came
USE_THE_HOOK = "call rigbench.hooks.step in its loop (rigbench explain formats says which output is read)"
# What NCCL writes of itself at its default NCCL_DEBUG=WARN, and torch of a collective that hangs.
NCCL_NEEDLE = re.compile(rb"NCCL WARN|Watchdog caught")
NCCL = re.compile(r"(?<=NCCL WARN ).+|Watchdog caught collective operation timeout.*")
LOSS = re.compile(r"(?:^|[^a-z])(?:loss|nll|perplexity)$")


class Seen(NamedTuple):
    """Steps as far as they are known."""

    source: str  # "the hook", "the output", "the GPUs' load"
    said: tuple[str, ...]  # how they are understood
    unit: str  # "tokens", or "steps" where nothing tells how many tokens a step has
    reading: Reading
    wall: Sequence[tuple[float, int]]  # (seconds of the monotonic clock, step), for the pace with every pause in it
    total_steps: int | None = None


class Marks:
    """(seconds, step, tokens so far) in bounded memory: when there are too many, every other one is dropped."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, int, float]] = []
        self._every, self._skipped = 1, 0

    def add(self, at: float, step: int, tokens: float = math.nan) -> None:
        self._skipped += 1
        if self._skipped < self._every and self.rows:
            return
        self._skipped = 0
        self.rows.append((at, step, tokens))
        if len(self.rows) > MOST_ROWS:
            self.rows = self.rows[::2]
            self._every *= 2


def names_in(folder: Path) -> list[str]:
    """Nothing where somebody has removed it: a watch then learns less, and the command goes on."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


class HookSteps:
    """The files that rigbench.hooks writes, one of each process: the lowest rank's steps, all ranks' tokens."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, _HookFile] = {}
        self.last_seconds = 0.0

    def look(self) -> None:
        for name in names_in(self._folder):
            if name.startswith("steps.") and name not in self._files and (self._folder / name).is_file():
                with contextlib.suppress(OSError, ValueError):
                    self._files[name] = _HookFile(self._folder / name)
        for file in self._files.values():
            file.read()
            self.last_seconds = max(self.last_seconds, file.last_seconds)

    @property
    def seconds_per_step(self) -> float | None:
        """What a call of the hook takes, as it times itself."""
        calls = sum(file.count for file in self._files.values())
        return sum(file.own_seconds for file in self._files.values()) / calls if calls else None

    @property
    def done(self) -> int:
        return max((file.count for file in self._files.values()), default=0)

    def seen(self, tokens_per_step: float | None) -> Seen | None:
        """None where the hook was not called often enough yet."""
        ranks: dict[int, _HookFile] = {}
        for file in self._files.values():  # a rank that was started again goes on in a new file
            if file.rank not in ranks or file.last_seconds > ranks[file.rank].last_seconds:
                ranks[file.rank] = file
        if not ranks:
            return None
        first = ranks[min(ranks)]
        rows = first.marks.rows
        if len(rows) < 2:
            return None
        shares = [file.tokens / file.count if file.count else math.nan for file in ranks.values()]
        of_all = math.fsum(shares) if all(map(math.isfinite, shares)) else math.nan
        mine = shares[list(ranks).index(min(ranks))]
        said = [f"each call of rigbench.hooks.step, {first.own_seconds * 1e6 / max(1, first.count):.1f} µs each"]
        if len(ranks) > 1:
            said.append(f"steps of rank {min(ranks)}, tokens of {len(ranks)} ranks")
        if tokens_per_step is None and math.isfinite(of_all):
            factor = of_all / mine if mine else 1.0
            kept = [LogRow(step, at, None, tokens * factor) for at, step, tokens in rows]
            reading, unit = Reading("rigbench.hooks", kept, None), "tokens"
        else:
            unit = "tokens" if tokens_per_step else "steps"
            reading = Reading("rigbench.hooks", [LogRow(step, at) for at, step, _ in rows], tokens_per_step or 1.0)
        return Seen("the hook", tuple(said), unit, reading, [(at, step) for at, step, _ in rows])


class _HookFile:
    """Read piece by piece, not mapped: somebody may cut it, and what was read must not stay in memory."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.rank = int(path.name.split(".")[1])
        self.count, self.tokens, self.own_seconds, self.last_seconds = 0, 0.0, 0.0, 0.0
        self.marks = Marks()

    def read(self) -> None:
        head = os.pread(self._file.fileno(), hooks.HEADER.size, 0)
        if len(head) < hooks.HEADER.size:
            return
        magic, capacity, count, own = hooks.HEADER.unpack(head)
        if magic != hooks.MAGIC or not 0 < capacity <= hooks.CAPACITY:
            return
        self.own_seconds = own / 1e9
        if count - self.count > capacity:  # more than the ring holds: their tokens are taken for the usual
            usual = self.tokens / self.count if self.count else 0.0
            self.tokens += usual * (count - capacity - self.count)
            self.count = count - capacity
        size = hooks.ENTRY.size
        while self.count < count:
            place = self.count % capacity
            wanted = size * min(count - self.count, capacity - place)
            entries = os.pread(self._file.fileno(), wanted, hooks.HEADER.size + place * size)
            for at, tokens in hooks.ENTRY.iter_unpack(entries[: len(entries) // size * size]):
                self.count += 1
                self.tokens += tokens if 0 <= tokens < 1e15 else math.nan
                if 0 <= at < 1e15:
                    self.last_seconds = at
                    self.marks.add(at, self.count, self.tokens)
            if len(entries) < wanted:
                return


class LogSteps:
    """What the command writes, read as a training log: each line once for its step, the log as a whole by `seen`."""

    def __init__(self) -> None:
        self._rest, self._rest_at, self._looks = b"", 0.0, MOST_LOOKS  # of a line so far, and when that came
        self._head: list[str] = []
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._marks: dict[str, Marks] = {}
        self._totals: dict[str, int] = {}
        self._fresh = False
        self._found: Seen | None = None
        self.last_seconds, self.dropped = 0.0, 0
        self.broken_loss: str | None = None  # the first line whose loss is no number
        self.warned: list[tuple[float, str]] = []  # by NCCL, and when: whoever takes them clears them
        self.why = "it has written nothing yet"

    def add(self, pieces: Iterable[tuple[float, bytes]]) -> None:
        """(seconds of the monotonic clock, output), in the order in which they came."""
        lines: deque[tuple[float, bytes]] = deque(maxlen=MOST_LINES_A_LOOK)
        for at, text in pieces:
            began = self._rest_at if text[:1] in (b"\r", b"\n") else at  # a bar's line is ended by the next one
            text = self._rest + text
            *whole, self._rest = re.split(rb"[\r\n]+", text)
            for line in whole if NCCL_NEEDLE.search(text) else ():
                self._warned(at, line)
            self._rest, self._rest_at = self._rest[-LONGEST_LINE:], at
            self.dropped += max(0, len(lines) + len(whole) - MOST_LINES_A_LOOK)
            lines.extend((began, line) for line in whole[:1] if line.strip())
            lines.extend((at, line) for line in whole[1:][-MOST_LINES_A_LOOK:] if line.strip())
        self._looks = min(MOST_LOOKS, self._looks + LOOKS_A_TICK)
        for place, (at, raw) in enumerate(lines):
            try:
                line = text_of(raw[:LONGEST_LINE], "the output").strip("\n")
            except RigbenchError:  # binary
                continue
            self._fresh = True
            (self._head if len(self._head) < HEAD_LINES else self._tail).append(line)
            if place >= len(lines) - self._looks or "nan" in line.lower():
                self._look(at, line)
        self._looks = max(0, self._looks - len(lines))

    def _warned(self, at: float, raw: bytes) -> None:
        with contextlib.suppress(RigbenchError):
            if match := NCCL.search(text_of(raw[:LONGEST_LINE], "the output")):
                self.warned.append((at, match[0].strip()[:200]))

    def _look(self, at: float, line: str) -> None:
        """For a step, and for a loss that is no number."""
        bar = scan.BAR.search(line)
        if bar:
            done = float(bar["at"] or bar["open"])
            items = {"bar": scan.Item(done)} if done else {}  # at 0 nothing has been done yet
            if (bar["of"] or "?").isdigit():
                self._totals["bar"] = int(bar["of"])
        else:
            _, rest = scan._Dates().take(line)
            items = scan.items_of(scan._rank(rest)[1])
        for key, item in items.items():
            if LOSS.search(key) and not math.isfinite(item.value) and self.broken_loss is None:
                self.broken_loss = line[:200]
            if (
                key == "bar" or scan.is_step(key) or (key == "" and scan.COUNT_AT_THE_HEAD.match(line))
            ) and item.value >= 0:
                if key not in self._marks and len(self._marks) == MOST_NAMES:  # words that change beside a step's
                    rarest = min(self._marks, key=lambda it: len(self._marks[it].rows))
                    del self._marks[rarest]
                    self._totals.pop(rarest, None)
                marks = self._marks.setdefault(key, Marks())
                if marks.rows and item.value == marks.rows[-1][1]:
                    continue  # the same step's other line
                if marks.rows and item.value < marks.rows[-1][1]:
                    marks.rows.clear()  # started again, or another bar
                marks.add(at, int(item.value))
                self.last_seconds = at
                if "of" in items and items["of"].value >= item.value:
                    self._totals[key] = int(items["of"].value)

    @property
    def done(self) -> int:
        """Steps that were seen: programs count from 0 or from 1, or go on where an earlier run ended."""
        key = self._step_key()
        rows = self._marks[key].rows if key is not None else ()
        return rows[-1][1] - rows[0][1] + 1 if rows else 0

    def seen(self, tokens_per_step: float | None) -> Seen | None:
        """None while the output does not tell; `why` says what is missing. Dear where something new was written."""
        if self._fresh:
            self._found, self._fresh = self._read(tokens_per_step), False
        return self._found

    def _read(self, tokens_per_step: float | None) -> Seen | None:
        key = self._step_key()
        wall = [(at, step) for at, step, _ in self._marks[key].rows] if key is not None else []
        total = self._totals.get(key or "")
        text = "\n".join([*self._head, *self._tail]) + "\n"
        try:
            raw = scan.scan(text, "the output")
        except RigbenchError as error:
            self.why = f"{error.what_happened}; {USE_THE_HOOK}"
            return None
        for tokens, unit in ((tokens_per_step, "tokens"), (1.0, "steps")):
            try:
                reading = rules.read(raw, {}, tokens, "the output")
                if len(reading.rows) >= 2 and reading.of_one_device and tokens is None:
                    self.why = "its tokens are those of one device; --tokens-per-step gives all of them"
                own = any(row.step_seconds or row.tokens_per_s for row in reading.rows)
                if own or any(row.at_seconds for row in reading.rows):
                    told = [it for it in reading.said if tokens_per_step or it != "tokens as given"]
                    finer = _resolution([at for at, _ in wall])
                    coarse = not own and finer < reading.resolution_seconds
                    if (coarse or (reading.in_doubt and len(wall) >= 2)) and reading.tokens_per_step:
                        rows = [LogRow(step, at) for at, step in wall]
                        reading = reading._replace(rows=rows, resolution_seconds=finer)
                        told = [it for it in told if it != reading.in_doubt]
                        why = "its clock is coarse" if coarse else "of one step or of several"
                        told.append(f"{why}: its time from when each line came")
                    return Seen("the output", (reading.format, *told), unit, reading, wall, total)
            except RigbenchError as error:
                cure = error.what_to_do if "--tokens-per-step" in error.what_to_do else USE_THE_HOOK
                self.why = f"{error.what_happened}; {cure}"
        if len(wall) < 2:
            return None
        unit = "tokens" if tokens_per_step else "steps"
        rows = [LogRow(step, at) for at, step in wall]
        reading = Reading("arrival", rows, tokens_per_step or 1.0, _resolution([at for at, _ in wall]))
        said = (f"step from {_named(key)}, its time from when each line came",)
        return Seen("the output", said, unit, reading, wall, total)

    def _step_key(self) -> str | None:
        """Of the names that count steps the one that is written most, in the order in which logs mean it."""
        usable = {key: len(marks.rows) for key, marks in self._marks.items() if marks.rows}
        if not usable:
            return None
        most = max(usable.values())
        able = [key for key, count in usable.items() if count >= most / 2]
        last = {key: re.sub(r"[^a-z0-9]+", " ", key).split()[-1:] for key in able}
        names = rules.STEP_NAMES
        return min(able, key=lambda key: min([names.index(it) for it in (key, *last[key]) if it in names], default=99))


def _named(key: str | None) -> str:
    return {"bar": "the progress bar", "": "the number at the line's head"}.get(key or "", key or "")


def _resolution(times: Sequence[float]) -> float:
    """Lines that are buffered come in bursts: a clock made of their coming is as coarse as these are apart."""
    bursts = Counter(round(at / ARRIVAL_SECONDS) for at in times)
    if len(bursts) >= 0.7 * len(times):
        return ARRIVAL_SECONDS
    moments = sorted(bursts)
    gaps = [(b - a) * ARRIVAL_SECONDS for a, b in pairwise(moments)]
    return stats.median(gaps) if gaps else math.inf


LEAST_PERIODS, CLEAR = 5, 0.5


def period(load: Sequence[float], every_seconds: float) -> float | None:
    """Seconds of the rhythm in a series of readings: the first peak of its autocorrelation, where that is clear.

    A training's load falls between steps, or between those that log or evaluate: what repeats need not be one step.
    """
    n = len(load)
    if n < 30:
        return None
    mean = math.fsum(load) / n
    moved = [value - mean for value in load]
    power = math.fsum(value * value for value in moved) / n
    if power <= 1e-6:
        return None
    far = n // LEAST_PERIODS
    like = [math.fsum(moved[i] * moved[i + lag] for i in range(n - lag)) / (n - lag) / power for lag in range(far + 2)]
    below = next((lag for lag in range(1, far) if like[lag] < 0), None)  # past the peak at no lag
    if below is None:
        return None
    peaks = [lag for lag in range(below, far + 1) if like[lag - 1] < like[lag] >= like[lag + 1] and like[lag] > CLEAR]
    return peaks[0] * every_seconds if peaks else None
