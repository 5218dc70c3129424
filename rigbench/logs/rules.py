"""Decides what a log's numbers are, says it, and refuses where two readings differ by more than a fifth."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from rigbench.core import stats, units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.logs import scan
from rigbench.logs.formats import Format, Meaning, factor, known, meaning
from rigbench.logs.scan import Item, Raw, Row
from rigbench.logs.source import lines_of
from rigbench.logs.stretches import TOO_COARSE, LogRow, Reading

APART = 1.2  # two readings of one quantity that differ by more contradict each other
SLOWEST_STEP = 100.0  # a number without a unit above it may be milliseconds
LARGEST = 1e15  # of any number that is believed
EVEN = 0.03  # tokens of steps that differ by less are one count
MANY_RESETS = 0.05  # of the rows: no restarts, but rows in no order
ROLES: dict[str, Meaning] = {
    "step": "step", "at_seconds": "clock", "step_seconds": "own time", "step_milliseconds": "own time",
    "tokens": "tokens", "tokens_per_s": "rate", "loss": "loss",
}  # fmt: skip
STEP_NAMES = ("train/global_step", "trainer/global_step", "global_step", "optimizer_step", "num_updates",
              "current_steps", "update", "step", "steps", "iteration", "iter", "it", "batch", "bar",
              "_step")  # fmt: skip
TIMED = {
    "own time",
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
TOKENS_AT_THE_HEAD = re.compile(
    r"tokens (?:per|a|/) ?(?:iteration|iter|step|optimizer step|batch|update)\b|^total (?:desired )?batch size$"
)
SEQUENCE_AT_THE_HEAD = re.compile(r"^(?:seq(?:uence)?[ _]len(?:gth)?|block_size|max_seq_len(?:gth)?)$")
SIZE = re.compile(  # number of parameters: 123.59M, or 124,475,904 total parameters
    r"\b(?:number of |num[_ ]|total |trainable )(?:trainable )?param(?:eter)?s[ :=]{1,4}(\d[\d,.]{0,15}\d) ?([MB])?"
    r"|\b(\d[\d,]{6,16}) total parameters",
    re.I,
)
EVALUATION = re.compile(r"(?:^|[^a-z])(?:eval|val|valid|validation|test)(?![a-z])")


def read(raw: Raw, columns: Mapping[str, str], tokens_per_step: float | None = None, name: str = "the log") -> Reading:
    """`columns` maps roles to names, as the user has them; `tokens_per_step` is what the user says.

    Raises:
        RigbenchError: no step, no time and no rate, or two readings that contradict each other.
    """
    return _Reader(raw, columns, tokens_per_step, name).read()


class _Reader:
    def __init__(self, raw: Raw, columns: Mapping[str, str], declared: float | None, name: str) -> None:
        self.raw, self.declared, self.name = raw, declared, name
        self.format: Format | None = known(raw)
        self.said: list[str] = []
        self.forced = {given.strip().lower(): role for role, given in columns.items()}
        self.means: dict[str, Meaning] = {}
        self.milliseconds = {given for given, role in self.forced.items() if role == "step_milliseconds"}
        for row in raw.rows:
            for key, item in row.items.items():
                if key not in self.means:
                    self.means[key] = self._meaning(key, item)
        names = self.means.keys() | raw.head.keys()
        for given in self.forced:
            if given not in names and not (given == "date" and any(row.clock for row in raw.rows)):
                raise RigbenchError(
                    f"no column is called {given!r}", "columns: " + ", ".join(sorted(filter(None, names))[:12])
                )
        for key, it in self.means.items():
            if key not in self.forced and it in {ROLES[role] for role in self.forced.values()}:
                self.means[key] = "nothing"
        self.repeated = 0  # lines about the step above with another time
        self.rows: list[Row] = []
        self.steps: list[int] = []

    def _meaning(self, key: str, item: Item) -> Meaning:
        if key in self.forced:
            return ROLES[self.forced[key]]
        if self.format and key in self.format.means:
            return self.format.means[key]
        return meaning(key, item.unit)

    # -------------------------------------------------------------------------------------- which rows, which step

    def read(self) -> Reading:
        self._summary_only()
        step = self._step_key()
        micro = self._micro_key(step)
        self._choose_rows(step)
        own = self._own_seconds(step, micro)
        if micro is not None and len(own) == len(self.rows):
            own = self._last_of_each_step(own)
        clock, resolution = self._clock()
        self._ask_for_a_unit(own, clock)
        own = self._agreed(own, clock, resolution)
        told = any(it is not None for it in (*own, *clock)) or self._key("rate", "device rate") is not None
        if not told and self._key("mean rate", "mean time") is not None:
            raise RigbenchError(
                f"{self.name} has only a mean over the run so far, in which its start is",
                "hand back a log that has the time of each step, or a clock",
                NOTHING,
            )
        tokens, per_step, rate, one = self._tokens(own, clock)
        loss = self._column(self._key("loss"))
        kept = [
            LogRow(at, clock[i], own[i], tokens[i], rate[i], loss[i], self.rows[i].after_break)
            for i, at in enumerate(self.steps)
        ]
        gaps = [b - a for a, b in pairwise(self.steps) if b > a]
        usual = round(stats.median([float(gap) for gap in gaps])) if gaps else 1
        if usual > 1:
            every = (
                f"every {usual:,}th"
                if usual % 10 not in (1, 2, 3) or usual % 100 in (11, 12, 13)
                else f"1 of {usual:,}"
            )
            total = sum(gaps) + usual
            self.said[0] += f", {every} of {total:,} steps"
        size = SIZE.search(self.raw.heads)
        parameters = units.parse_parameters((size[1] or size[3]).replace(",", "") + (size[2] or "")) if size else None
        name = self.format.name if self.format else {"table": "CSV"}.get(self.raw.kind, self.raw.kind)
        return Reading(name, kept, per_step, resolution, tuple(self.said), one, parameters)

    def _summary_only(self) -> None:
        """HF's trainer_state.json, whose entries have no time."""
        timed = {key for key, it in self.means.items() if it in TIMED - {"tokens", "mean rate"}}
        if "log_history" not in self.raw.summary or any(not key.startswith("train_") for key in timed):
            return
        whole = next((row.items for row in reversed(self.raw.rows) if "train_runtime" in row.items), None)
        cure = "hand back the console's log, the TensorBoard folder or W&B's history"
        what = f"{self.name} of HF Trainer: its entries have no time"
        if whole is None:
            raise RigbenchError(what, cure, NOTHING)
        steps, seconds = (
            self.raw.summary.get("global_step", whole.get("step", Item(0)).value),
            whole["train_runtime"].value,
        )
        told = f"{what}; whole run {steps:,.0f} steps in {seconds:,.1f} s"
        if seconds > 0 and steps:
            rate = units.format_significant(steps / seconds)
            told += f", {rate} steps/s with start and evaluations, if it was never resumed"
        raise RigbenchError(told, cure, NOTHING)

    def _step_key(self) -> str:
        keys = [key for key, it in self.means.items() if it == "step"]
        informative = [row for row in self.raw.rows if row.clock or any(self.means[key] in TIMED for key in row.items)]
        if not keys or not self.raw.rows:
            self._refuse_without_step()
        counts = {key: sum(key in row.items for row in informative or self.raw.rows) for key in keys}
        most = max(counts.values())
        if not most:
            self._refuse_without_time()
        able = [key for key in keys if counts[key] >= most / 2]
        if "_step" in able and len(able) > 1:
            able.remove("_step")  # W&B's count of calls of log

        def rank(key: str) -> tuple[int, int]:
            last = re.sub(r"[^a-z0-9]+", " ", key).split()[-1:] or [""]
            exact = STEP_NAMES.index(key) if key in STEP_NAMES else 99
            micro = "micro" in key
            return (50 * micro + min(exact, *(STEP_NAMES.index(it) for it in last if it in STEP_NAMES), 98)), -counts[
                key
            ]

        chosen = min(able, key=rank)
        shown = "its number at the head" if not chosen else "the progress bar" if chosen == "bar" else chosen
        calls = ": W&B's count of calls of log, one a step if nothing else was logged" * (chosen == "_step")
        self.said.append(f"step from {shown}{calls}")
        return chosen

    def _refuse_without_step(self) -> None:
        if self.raw.kind == "table" or self.raw.kind == "JSON":
            some = ", ".join(sorted(filter(None, self.means.keys() | self.raw.head.keys()))[:8]) or "none"
            raise RigbenchError(f"no column is a step (columns: {some})", "name it, as --columns step=NAME")
        raise RigbenchError(f"no line of {self.name} tells a step", _quoted(self.raw.heads))

    def _refuse_without_time(self) -> None:
        cure = (
            _quoted(self.raw.heads)
            if self.raw.kind == "text"
            else "name the column of the time, as --columns at_seconds=NAME"
        )
        raise RigbenchError("the log does not tell how long its steps took", cure)

    def _micro_key(self, step: str) -> str | None:
        """A count of micro-batches beside that of optimizer steps."""
        for key, it in self.means.items():
            words = re.sub(r"[^a-z0-9]+", " ", key).split()
            if (
                it != "step"
                or key in (step, "_step")
                or not (set(words) & {"iter", "iters", "iteration", "it", "batch", "micro"})
            ):
                continue
            both = [
                (row.items[step].value, row.items[key].value)
                for row in self.raw.rows
                if step in row.items and key in row.items
            ]
            steps = sum(max(0.0, b[0] - a[0]) for a, b in pairwise(both))
            iterations = sum(max(0.0, b[1] - a[1]) for a, b in pairwise(both))
            if steps and iterations / steps > 1.5:
                return key
        return None

    def _choose_rows(self, step: str) -> None:
        """Those with a step, of one rank, in the order of steps, one a step."""
        seldom = {
            key
            for key in self.means
            if EVALUATION.search(key) and 2 * sum(key in it.items for it in self.raw.rows) < len(self.raw.rows)
        }
        rows: list[Row] = []
        broken = False
        for row in self.raw.rows:
            if step in row.items and _is_count(row.items[step].value):
                if step == "bar" and not row.items[step].value:
                    continue  # drawn before the first step; a resumed run's bar jumps from there
                new = not rows or row.items[step].value != rows[-1].items[step].value
                rows.append(row._replace(after_break=True) if broken and new else row)
                broken = broken and not new
            broken = broken or (self.raw.kind != "text" and not seldom.isdisjoint(row.items))
        ranks = sorted({row.rank for row in rows if row.rank is not None})
        if len(ranks) > 1:
            self.said.append(f"lines of rank {ranks[0]} of {len(ranks)} that write")
            rows = [row for row in rows if row.rank == ranks[0]]
        rows = [
            row for row in rows if row.clock or any(self.means[key] not in ("nothing", "step") for key in row.items)
        ]
        back = sum(b.items[step].value < a.items[step].value for a, b in pairwise(rows))
        if back > max(2, MANY_RESETS * len(rows)):
            rows = sorted(rows, key=lambda row: row.items[step].value)
            clocks = [row.clock.value for row in rows if row.clock]
            if any(b < a for a, b in pairwise(clocks)) or not self._rising(rows):
                raise RigbenchError(
                    f"the steps of {self.name} are in no order: several runs or ranks in one log",
                    "hand back one's lines",
                )
            self.said.append("lines sorted by step: they were in no order")
        for row in rows:
            at = int(row.items[step].value)
            if self.rows and self.steps[-1] == at and not self._is_micro(row):
                before = self.rows[-1]  # a second line about the same step adds what the first did not have
                times = [key for key in row.items.keys() & before.items if self.means[key] in ("own time", "time")]
                self.repeated += any(row.items[key].value != before.items[key].value for key in times)
                self.rows[-1] = before._replace(items={**row.items, **before.items}, clock=before.clock or row.clock)
                continue
            self.rows.append(row)
            self.steps.append(at)

    def _is_micro(self, row: Row) -> bool:
        before = self.rows[-1].items
        counts = [key for key in row.items if self.means[key] == "step" and key != "_step" and key in before]
        return any(row.items[key].value != before[key].value for key in counts)

    def _rising(self, rows: Sequence[Row]) -> bool:
        for key, it in self.means.items():
            if it in ("clock", "train clock", "tokens"):
                values = [row.items[key].value for row in rows if key in row.items]
                if any(b < a for a, b in pairwise(values)):
                    return False
        return True

    # ----------------------------------------------------------------------------------------------------- columns

    def _key(self, *wanted: Meaning) -> str | None:
        """The fullest column of a meaning, totals before others; it has a number in at least half of the rows."""
        keys = [key for key, it in self.means.items() if it in wanted]
        counts = {
            key: sum(key in row.items and math.isfinite(row.items[key].value) for row in self.rows) for key in keys
        }
        full = [key for key in keys if counts[key] >= max(1, len(self.rows) / 2)]
        if not full:
            full = [key for key in keys if counts[key] >= 4 and wanted[0] in ("tokens", "rate", "device rate")]
        return max(full, key=lambda key: ("total" in key, counts[key]), default=None)

    def _column(self, key: str | None) -> list[float | None]:
        if key is None:
            return [None] * len(self.rows)
        items = [row.items.get(key) for row in self.rows]
        scale = self._scale(key)
        loss = self.means[key] == "loss"  # which may be no number
        return [it.value * scale if it and (loss or 0 <= it.value < LARGEST) else None for it in items]

    def _scale(self, key: str) -> float:
        unit = next(row.items[key].unit for row in self.raw.rows if key in row.items)
        if key in self.milliseconds:
            return 1.0 if unit == "s" else 1e-3
        return (
            factor(key, unit) if self.means[key] in ("own time", "mean time", "time", "clock", "train clock") else 1.0
        )

    def _own_seconds(self, step: str, micro: str | None) -> list[float | None]:
        """Seconds of a step at each row; columns that prove to be clocks become such."""
        times = [key for key, it in self.means.items() if it in ("own time", "time")]
        for key in times:
            if key in self.forced:
                continue
            values = [(at, it) for at, it in zip(self._counts(micro), self._column(key), strict=True) if it is not None]
            rises = cumulative(values)
            if rises is None and self.means[key] == "time" and not (self.format and key in self.format.means):
                raise RigbenchError(
                    f"{self._shown(key)} of {self.name} only rises: each step's time, or the time since the start?",
                    f"say which: --columns step_seconds={key or 'NAME'} or --columns at_seconds={key or 'NAME'}",
                )
            self.means[key] = "clock" if rises else "own time"
            if rises:
                self.said.append(f"{self._shown(key)} only rises: a clock")
        for key in [key for key, it in self.means.items() if it == "clock" and key not in self.forced]:
            values = [(at, value) for at, value in zip(self.steps, self._column(key), strict=True) if value is not None]
            if cumulative(values) is False and not _only_rises(values):  # `elapsed`, but of each step
                self.means[key] = "own time"
        own = self._key("own time")
        if own is not None and self.repeated >= len(self.rows) / 2 and own not in self.forced:
            raise RigbenchError(
                f"{self.name} has several lines about each step, with different {self._shown(own)}",
                "of micro-batches, or of ranks? hand back one line a step, with the time of the whole step",
            )
        if own is None:
            rate = self._key("steps rate")
            if rate is not None:
                self.said.append(f"step time from {self._shown(rate)}")
            return [1 / it if it else None for it in self._column(rate)]
        if micro is not None and not re.search(r"\bstep", own):
            return self._summed(own, micro)
        self.said.append(f"step time from {self._shown(own)}")
        return self._column(own)

    def _last_of_each_step(self, own: list[float | None]) -> list[float | None]:
        """Rows of micro-batches that were not added up: the clock at a step's last is the step's."""
        last = [i for i, at in enumerate(self.steps) if self.steps[i + 1 : i + 2] != [at]]
        self.rows, self.steps = [self.rows[i] for i in last], [self.steps[i] for i in last]
        return [own[i] for i in last]

    def _counts(self, micro: str | None) -> list[int]:
        return [int(it or 0) for it in self._column(micro)] if micro else self.steps

    def _summed(self, key: str, micro: str) -> list[float | None]:
        """Times of a step's micro-batches added up; rows become one a step."""
        times, counts = self._column(key), self._column(micro)
        groups: list[list[int]] = []
        for index, at in enumerate(self.steps):
            if index and at == self.steps[index - 1]:
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
        clocked = any(row.clock for row in self.rows) or self._key("clock", "train clock") is not None
        if not any(whole) and not clocked:
            raise RigbenchError(
                f"{self._shown(key)} is the time of one micro-batch of {per_step}, and not all of a step's are printed",
                "hand back the log that has all of them, or a clock (litgpt's metrics.csv)", NOTHING,
            )  # fmt: skip
        if any(whole):
            self.said.append(f"step time from {self._shown(key)}, that of {per_step} micro-batches each added up")
        breaks = [any(self.rows[i].after_break for i in indices) for indices in groups]
        self.steps = [self.steps[indices[-1]] for indices in groups]
        self.rows = [
            self.rows[indices[-1]]._replace(after_break=it) for indices, it in zip(groups, breaks, strict=True)
        ]
        return whole

    def _clock(self) -> tuple[list[float | None], float]:
        """The finest clock, of training alone where there is one, and what its last digit stands for."""
        best: tuple[float, str, list[float | None]] | None = None
        for key, it in self.means.items():
            if it not in ("clock", "train clock"):
                continue
            column = self._column(key)
            if sum(value is not None for value in column) < max(2, len(column) / 2):
                continue
            finest = min(
                (row.items[key].resolution * self._scale(key) for row in self.rows if key in row.items), default=0.0
            )
            if it == "train clock":
                finest = 0.0
            if best is None or "date" in self.forced or finest < best[0]:
                best = (finest, key, column)
        dated = [row.clock.value if row.clock else None for row in self.rows]
        if sum(value is not None for value in dated) >= max(2, len(dated) / 2) and (
            "date" in self.forced or "at_seconds" not in self.forced.values()
        ):
            finest = min(row.clock.resolution for row in self.rows if row.clock)
            if (
                best is None
                or "date" in self.forced
                or finest < best[0]
                or (self.means[best[1]] == "clock" and finest == best[0])
            ):
                best = (finest, "the date", dated)
        if best is None:
            return [None] * len(self.rows), 0.0
        finest, key, column = best
        if key != "the date" and self.means[key] == "train clock":
            finest = min((row.items[key].resolution for row in self.rows if key in row.items), default=0.0)
        self.said.append(f"clock from {self._shown(key) if key != 'the date' else key}")
        return column, finest

    def _ask_for_a_unit(self, own: list[float | None], clock: list[float | None]) -> None:
        """A number without a unit that would be a very slow step, and no clock to ask."""
        key = self._key("own time")
        mine = [it for it in own if it]
        if key is None or key in self.forced or not mine or any(it is not None for it in clock):
            return
        unit = next(row.items[key].unit for row in self.rows if key in row.items)
        if unit == "" and self._scale(key) == 1.0 and stats.median(mine) > SLOWEST_STEP:
            raise RigbenchError(
                f"{key} of {self.name} is {stats.median(mine):,.4g}: seconds or milliseconds?",
                f"say which: --columns step_milliseconds={key} or --columns step_seconds={key}",
            )

    def _agreed(self, own: list[float | None], clock: list[float | None], resolution: float) -> list[float | None]:
        """A step's time, having asked the clock whether that can be."""
        mine = [value for value in own if value]
        points = [
            (at, value, row.after_break)
            for at, value, row in zip(self.steps, clock, self.rows, strict=True)
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
        if every > 1.5 and _near(middle, every * usual):
            self.said.append(f"which is that of {every:.0f} steps together, as the clock shows")
            return [value / every if value else None for value in own]
        if not _near(middle, usual) and any(
            it == "own time" and key not in self.forced for key, it in self.means.items()
        ):
            raise RigbenchError(
                f"{self.name} contradicts itself: a step takes {units.format_seconds(middle)} by "
                f"{self._named('own time')} and {units.format_seconds(usual)} by its clock (factor "
                f"{_times(middle, usual)})",
                "a micro-batch's time, or another clock? say which: --columns at_seconds=NAME or step_seconds=NAME",
            )
        return own

    def _shown(self, key: str) -> str:
        """A name for people, of what has none of its own too."""
        if key[:1] in ("", "~"):
            return "the number in tokens/s" if "rate" in self.means.get(key, "") else "the number with a unit of time"
        return "the bar's elapsed time" if key == "bar elapsed" else key

    def _named(self, wanted: Meaning) -> str:
        return self._shown(self._key(wanted) or "")

    # ------------------------------------------------------------------------------------------------------ tokens

    def _tokens(
        self, own: list[float | None], clock: list[float | None]
    ) -> tuple[list[float | None], float | None, list[float | None], bool]:
        """Tokens seen at each row, tokens of a step, tokens/s at each row, and whether these are one device's."""
        seen, seconds = self._column(None), _seconds_per_step(self.steps, own, clock)
        of_all: list[tuple[str, float]] = []  # what the log says of a step's tokens, the surest first
        of_one: list[tuple[str, float]] = []
        for wanted, told in (("tokens", of_all), ("rank tokens", of_one)):
            key = self._key(wanted)  # type: ignore[arg-type]
            column = self._column(key)
            points = [(at, it) for at, it in zip(self.steps, column, strict=True) if it is not None]
            ups = [(b[1] - a[1], b[0] - a[0]) for a, b in pairwise(points) if b[0] > a[0]]
            if key is None or len(points) < 2:
                continue
            down = sum(it[0] < 0 for it in ups)
            ups = [it for it in ups if it[0] >= 0] if down <= max(1, len(ups) / 10) else []
            if any(it[0] > 0 for it in ups):
                told.append((f"{self._shown(key)}", math.fsum(it[0] for it in ups) / sum(it[1] for it in ups)))
                if wanted == "tokens" or not of_all:
                    seen = column
            elif ups and all(it[1] == 1 for it in ups):
                told.append((f"{self._shown(key)} of each step", stats.median([it for _, it in points])))
        if (key := self._key("step tokens")) is not None:
            of_all.append((self._shown(key), stats.median([it for it in self._column(key) if it is not None])))
        head = next(
            ((key, it) for key, it in self.raw.head.items() if TOKENS_AT_THE_HEAD.search(key) and it >= 1024), None
        )
        if head:
            of_all.append((f"`{head[0]}` at the head", head[1]))
        sequence = next(
            (it for key, it in self.raw.head.items() if SEQUENCE_AT_THE_HEAD.search(key) and it >= 16), None
        )
        batch = [it for it in self._column(self._key("batch")) if it]
        batch = batch or [it for key in ("global batch size", "global_batch_size") if (it := self.raw.head.get(key))]
        if batch and sequence:
            of_all.append((f"batch of {batch[0]:,.0f} x sequence of {sequence:,.0f}", stats.median(batch) * sequence))
        rate_key, device_key = self._key("rate"), self._key("device rate")
        rate = self._column(rate_key)
        late = rate[len(rate) // 2 :] if self.format and self.format.even else rate  # a slow start is smoothed away
        for key, column, told in ((rate_key, late, of_all), (device_key, self._column(device_key), of_one)):
            if seconds and (middle := _middle(column)):
                told.append((self._shown(key or ""), middle * seconds))
        return self._judged(own, seen, of_all, of_one, rate, rate_key, device_key, seconds, batch)

    def _even(self, rate: Sequence[float | None], own: Sequence[float | None]) -> bool:
        """Whether rates and times of steps tell one and the same count of tokens for each."""
        products = [a * b for a, b in zip(rate, own, strict=True) if a and b]
        if self.format and self.format.even:
            return True
        return not products or stats.quantile(products, 0.75) - stats.quantile(products, 0.25) < EVEN * stats.median(
            products
        )

    def _judged(
        self,
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
        for (a, first), (b, second) in pairwise(of_all):
            if not _near(first, second):
                raise RigbenchError(
                    f"{self.name} contradicts itself: {_tokens_of(first)} by {a}, {_tokens_of(second)} by {b} "
                    f"(factor {_times(first, second)})",
                    "of one device, or of a micro-batch? say which: --columns tokens=NAME or tokens_per_s=NAME",
                )
        declared = self.declared
        if of_all:
            source, value = of_all[0]
            by_rate = rate_key is not None and source == self._shown(rate_key)
            if declared is not None and not _near(declared, value):
                its = f"{_tokens_of(value)} by {source}"
                if seconds:
                    its += f" ({units.format_rate(value / seconds)})"
                raise RigbenchError(
                    f"--tokens-per-step {declared:,.0f} contradicts {self.name}: {its}, factor "
                    f"{_times(declared, value)}",
                    "leave the option out, or hand back the log that it belongs to",
                )
            if by_rate and seconds and not self._even(rate, own):
                self.said.append(f"tokens from {source} and the time, line by line")
                return seen, None, rate, False
            self.said.append(f"tokens from {source}")
            return seen, value, rate, False
        if of_one:
            source, value = of_one[0]
            if declared is None:
                self.said.append(f"tokens from {source}: of one device")
                return seen, value, self._column(device_key), True
            devices = declared / value
            if devices < 1 / APART or not _near(devices, max(1, round(devices))):
                raise RigbenchError(
                    f"--tokens-per-step {declared:,.0f} contradicts {self.name}: {_tokens_of(value)} of one device by "
                    f"{source}, factor {devices:.3g}", "give that of all devices, or leave it out",
                )  # fmt: skip
            self.said.append(f"tokens as given: {round(devices)} device{'s' * (round(devices) != 1)} of {source}")
            return self._column(None), declared, self._column(None), False
        if declared is not None:
            self.said.append("tokens as given")
            return self._column(None), declared, self._column(None), False
        only = rate_key if rate_key is not None else device_key
        if only is not None:
            self.said.append(f"rate from {self._shown(only)}, each line weighing the same: the log has no times")
            return seen, None, self._column(only), rate_key is None
        if not seconds:
            self._refuse_without_time()
        cure = (
            f"give --tokens-per-step N, {batch[0]:,.0f} x the sequence's length"
            if batch
            else "give --tokens-per-step N"
        )
        raise RigbenchError("the log does not tell how many tokens a step has", cure)


# ------------------------------------------------------------------------------------------------------ small things


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


def _seconds_per_step(steps: Sequence[int], own: Iterable[float | None], clock: Sequence[float | None]) -> float | None:
    mine = [it for it in own if it]
    if mine:
        return stats.median(mine)
    points = [(at, it) for at, it in zip(steps, clock, strict=True) if it is not None]
    between = [(b[1] - a[1], b[0] - a[0]) for a, b in pairwise(points) if b[0] > a[0] and b[1] >= a[1]]
    seconds, count = math.fsum(it[0] for it in between), sum(it[1] for it in between)
    return seconds / count if seconds > 0 and count else None


def _middle(values: Iterable[float | None]) -> float | None:
    told = [it for it in values if it is not None and math.isfinite(it)]
    return stats.median(told) if told else None


def _near(a: float, b: float) -> bool:
    return a > 0 and b > 0 and 1 / APART <= a / b <= APART


def _times(a: float, b: float) -> str:
    least = min(a, b)
    return f"{max(a, b) / least:.3g}" if least > 0 else "without end"


def _is_count(value: float) -> bool:
    return math.isfinite(value) and value >= 0 and value == int(value)


def _tokens_of(value: float) -> str:
    return f"{value:,.0f} tokens a step"


def _quoted(head: str) -> str:
    """The first line that has numbers, and a pattern that fits it."""
    line = next(scan.lines_with_numbers(head.splitlines()), "")[:80]
    if not line:
        return r"say how with --pattern 'step (?P<step>\d+) .* (?P<ms>[\d.]+) ms'"
    numbers = list(scan.NUMBER.finditer(line))[:2]
    parts = [re.escape(line[: numbers[0].start()]).replace(r"\ ", " ")] if numbers else []
    if len(numbers) > 1:
        parts += [
            r"(?P<step>\d+)",
            ".*?",
            re.escape(line[numbers[1].start() - 3 : numbers[1].start()]).replace(r"\ ", " "),
        ]
        parts.append(r"(?P<ms>[\d.]+)")
    elif numbers:
        parts.append(r"(?P<step>\d+)")
    return f"say how with --pattern; its first line with numbers is {line!r}, which {''.join(parts)!r} fits"


# ------------------------------------------------------------------------------------------- what the user says of it

# Names that a pattern's groups may have for a role.
GROUPS = {
    "step": ("step", "steps", "iter", "iteration", "global_step"),
    "at_seconds": ("at_seconds", "seconds", "elapsed", "time", "date", "timestamp", "wall_time"),
    "step_seconds": ("step_seconds", "step_time", "dt"),
    "step_milliseconds": ("step_milliseconds", "ms", "dt_ms", "step_ms"),
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
    except re.error as error:
        raise RigbenchError(f"--pattern is not a regular expression ({error})", "mend it") from None
    roles = {role: group for group in compiled.groupindex for role, names in GROUPS.items() if group.lower() in names}
    if "step" not in roles:
        groups = ", ".join(compiled.groupindex) or "none"
        cure = r"write it like 'iter (?P<step>\d+).* (?P<ms>[\d.]+)ms'"
        raise RigbenchError(f"--pattern has no group named step (groups: {groups})", cure)
    lines = (line[: scan.LINE_LIMIT] for line in lines_of(text))
    rows = [scan.of_cells(match.groupdict()) for line in lines if (match := compiled.search(line))]
    return Raw("text", [row for row in rows if roles["step"].lower() in row.items], {}, {}, text[:20_000]), roles
