"""One training under watch: its output, steps, GPUs and forecasts, brought together at every reading."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from rigbench.alarms import NOT_WATCHED, Alarm, Alarms, Behind, DiskGauge, stalls_after
from rigbench.core.estimate import Estimate
from rigbench.core.finding import Severity
from rigbench.core.record import Absent, Figure, Price
from rigbench.document import Run
from rigbench.machine.record import KernelEvent
from rigbench.monitor import metrics
from rigbench.monitor.record import Monitor, MonitorEvent, MonitorHeader, MonitorKernel, MonitorSlow, MonitorTick
from rigbench.monitor.summary import Fold
from rigbench.openmetrics import Sample
from rigbench.watch import forecast
from rigbench.watch.record import NO_STEPS, Beside, EndedBy, Forecast, Options, Own, SeenSteps, View
from rigbench.watch.session import Session
from rigbench.watch.steps import HookSteps, LogSteps, Seen, period

READING_SHARE = 0.001  # of a core, for what all steps so far tell
LONGEST_WAIT_SECONDS = 4096.0  # between two looks at all steps so far
MOST_ALARMS = 1000  # that are kept, the newest
PATIENCE_SECONDS = 30.0  # between SIGINT and SIGTERM
JOULES_PER_KWH = 3.6e6
FOREST_DEPTH = 40
MOST_BESIDE = 50


class Plan(NamedTuple):
    """A stored budget's answer for what is trained."""

    name: str
    hours: Estimate
    run: Run


class Watching:
    """`peak` gives FLOP/s of a GPU by its place, where its datasheet is known."""

    def __init__(
        self,
        session: Session,
        options: Options,
        price: Price | Absent,
        plan: Plan | None,
        peak: Callable[[str], float | None],
        tell: Callable[[Sequence[Alarm]], object] = lambda alarms: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self._options, self._price, self._plan, self._peak = session, options, price, plan, peak
        self._clock, self._begun = clock, session.started_seconds
        self._tell, self._watch = tell, Alarms()
        self.alarms: list[Alarm] = []
        self._fresh: list[KernelEvent] = []
        self.beside: dict[str, Beside] = {}
        self._disk = DiskGauge(os.getcwd())
        self._hook, self._log = HookSteps(session.folder), LogSteps()
        self._own = _own_seconds()  # until here: loading rigbench
        self._due, self._longest = 0.0, 1.0
        self.fold: Fold
        self.seen: Seen | None = None
        self.rate: Estimate | Absent = NO_STEPS
        self.pace: Estimate | Absent = NO_STEPS
        self.monitor: Monitor
        self.forecasts: list[Forecast] = []
        self.ended_by: EndedBy = "itself"
        self._asked_at: float | None = None
        self._ended: float | None = None  # an alarm's receiver may be waited for after it
        self._terminated = False
        self._load: dict[str, list[float]] = {}
        self._its: dict[int, bool] = {}  # whether a process is the command's
        self.gpus: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return (self._clock() if self._ended is None else self._ended) - self._begun

    # ------------------------------------------------------------------------------------------------ at each reading

    def add(self, event: MonitorEvent) -> None:
        if isinstance(event, MonitorHeader):
            self.fold = Fold(event)
        else:
            self.fold.add(event)
        if isinstance(event, MonitorHeader | MonitorTick):
            self.monitor = self.fold.record()
        if isinstance(event, MonitorKernel):
            its = event.event
            self._fresh.append(its)
            where = f"{its.where}: " if its.where else ""
            self._note("kernel", its.severity, f"{where}{its.title}; {its.do}", self._clock())
        elif isinstance(event, MonitorSlow):
            self._find_gpus(event)
        elif isinstance(event, MonitorTick):
            for device, gpu in event.gpus.items():
                if not isinstance(gpu.utilisation_share, Absent):
                    readings = self._load.setdefault(device, [])
                    readings.append(gpu.utilisation_share)
                    del readings[:-600]
            self.look()
            self._alarm()

    def look(self, final: bool = False) -> None:
        """At what came since the last time."""
        now = self._clock()
        self._ended = now if final else None
        self._hook.look()
        self._log.add((piece.at_seconds, piece.text) for piece in self._session.read())
        for at, text in self._log.warned:
            self._note("NCCL", "warning", text, at)
        self._log.warned.clear()
        if now < self._due and not final:
            return
        begun = time.thread_time()
        tokens = None if isinstance(self._options.tokens_per_step, Absent) else self._options.tokens_per_step
        its = self._hook.seen(tokens) or self._log.seen(tokens)
        if its is not None and its is not self.seen:
            self.seen, self.rate, self.pace = its, forecast.rate(its), forecast.pace(its.wall)
            self._forecast()
        if final and self._fresh:  # told after the last reading: as a card falls off the bus, its training ends
            self._alarm()
        self._longest = min(2 * self._longest, LONGEST_WAIT_SECONDS)  # the first ones come soon, however dear they are
        self._due = now + min((time.thread_time() - begun) / READING_SHARE, self._longest)

    def _note(self, source: Literal["kernel", "NCCL"], severity: Severity, text: str, at: float) -> None:
        after = max(0.0, at - self._begun)
        if before := self.beside.get(text):
            self.beside[text] = msgspec.structs.replace(before, count=before.count + 1, last_seconds=after)
        elif len(self.beside) < MOST_BESIDE:
            self.beside[text] = Beside(
                source=source, severity=severity, text=text, count=1, first_seconds=after, last_seconds=after
            )

    def _alarm(self) -> None:
        """What is wrong at this moment, told once."""
        told = self.forecast()
        behind: Behind | Absent = NOT_WATCHED
        left: float | Absent = NOT_WATCHED
        if told is not None:
            left = told.rest_seconds.value
            if self._plan is not None:
                its, plan = told.whole_seconds * (1 / 3600), self._plan.hours
                ends = {"budget_low": plan.low, "budget_high": plan.high}
                behind = Behind(forecast_low=its.low, forecast_high=its.high, **ends)
        now = metrics.state(self.monitor, self._fresh, self._disk.read(), left)
        self._fresh.clear()
        usual = self._usual_gap()
        now = msgspec.structs.replace(
            now,
            at_seconds=self._begun + self.seconds,  # of monitor's readings it is since their start
            since_step_seconds=NOT_WATCHED if usual is None else self._silent_seconds(),
            usual_step_seconds=NOT_WATCHED if usual is None else usual,
            not_a_number=self._log.broken_loss or NOT_WATCHED,
            behind=behind,
        )
        if alarms := self._watch.check(now):
            self.alarms = [*self.alarms, *alarms][-MOST_ALARMS:]
            self._tell(alarms)

    def _usual_gap(self) -> float | None:
        """Seconds between two steps that are seen: not every step is told."""
        its = self.seen
        if its is None or not its.wall or isinstance(self.pace, Absent):
            return None
        return self.pace.value * (its.wall[-1][1] - its.wall[0][1]) / max(1, len(its.wall) - 1)

    def _silent_seconds(self) -> float:
        assert self.seen is not None
        last = max(self._hook.last_seconds, self._log.last_seconds, self.seen.wall[-1][0])
        last = max(last, self._session.continued_seconds)  # whoever stops it knows that it stands
        return max(0.0, self._clock() - last)

    def _forecast(self) -> None:
        told = self.forecast()
        if told is None or not told.rest_seconds.has_middle:
            return
        tenth = int(10 * told.done_share)
        if not self.forecasts or tenth > int(10 * self.forecasts[-1].done_share):
            self.forecasts.append(told)

    def forecast(self) -> Forecast | None:
        """When it ends, where that is known: by its steps, or by --tokens and a rate in tokens."""
        its = self.seen
        if its is None or not its.wall:
            return None
        total = self.total_steps
        if isinstance(self.pace, Absent) or total is None:
            return None
        at, step = its.wall[-1]
        left = total - step
        if left <= 0:
            return None
        since = max(0.0, self._clock() - at)
        rest = forecast.rest(self.pace, step - its.wall[0][1], left)
        value, low, high = (max(0.0, it - since) for it in (rest.value, rest.low, rest.high))
        rest = Estimate(value, low, high, rest.level, rest.method, rest.n)
        gone = self.seconds
        whole = rest + gone
        joules = self._joules()
        kwh: Figure | Absent = Absent("no GPU of its was read")
        money: Figure | Absent = Absent("no energy was read")
        if joules is not None:
            watts = joules[0] / joules[1]
            value, low, high = (watts * it / JOULES_PER_KWH for it in (whole.value, whole.low, whole.high))
            kwh = Figure(value, "predicted", "its GPUs' mean draw so far, times the hours", low, high)
            money = Absent("no price is known")
            if isinstance(self._price, Price):
                per = self._price.per_kwh
                money = Figure(kwh.value * per, "predicted", f"{kwh.basis}, at {per:g} {self._price.currency}/kWh",
                               kwh.ends[0] * per, kwh.ends[1] * per)  # fmt: skip
        currency = self._price.currency if isinstance(self._price, Price) else ""
        return Forecast(
            told_after_seconds=gone,
            done_share=min(1.0, step / total),
            rest_seconds=rest,
            whole_seconds=whole,
            kwh=kwh,
            money=money,
            currency=currency,
        )

    @property
    def total_steps(self) -> int | None:
        its = self.seen
        if its is None:
            return None
        per_step = self.tokens_per_step
        if not isinstance(self._options.tokens, Absent) and per_step:
            return math.ceil(self._options.tokens / per_step)
        return its.total_steps

    @property
    def tokens_per_step(self) -> float | None:
        its = self.seen
        if its is None or its.unit != "tokens":
            return None
        if its.reading.tokens_per_step:
            return its.reading.tokens_per_step
        rows = [(row.step, row.tokens) for row in its.reading.rows if row.tokens is not None]
        if len(rows) > 1 and rows[-1][0] > rows[0][0] and rows[-1][1] > rows[0][1]:
            return (rows[-1][1] - rows[0][1]) / (rows[-1][0] - rows[0][0])
        if isinstance(self.rate, Estimate) and isinstance(self.pace, Estimate):
            return self.rate.value * self.pace.value
        return None

    # --------------------------------------------------------------------------------------------------- its own GPUs

    def _find_gpus(self, slow: MonitorSlow) -> None:
        """Those on which a process of the command's session, or a descendant of it, is."""
        mine = []
        for device, gpu in slow.gpus.items():
            if isinstance(gpu.processes, Absent):
                continue
            for one in gpu.processes:
                if one.pid not in self._its:
                    self._its[one.pid] = belongs(one.pid, self._session.pid)
                if self._its[one.pid] and device not in mine:
                    mine.append(device)
        if mine:
            self.gpus = tuple(mine)

    def _joules(self) -> tuple[float, float] | None:
        """Of its GPUs, or of all where no process is listed: joules, seconds."""
        energies = [it.energy for it in self.monitor.gpus if (not self.gpus or it.device in self.gpus)]
        known = [it for it in energies if not isinstance(it, Absent) and it.seconds > 0]
        if not known or len(known) < len(energies):
            return None
        seconds = max(it.seconds for it in known)
        return math.fsum(it.joules * seconds / it.seconds for it in known), seconds

    def model_flops_share(self) -> Figure | Absent:
        parameters = self.seen.reading.parameters if self.seen else None
        if not parameters or not isinstance(self.rate, Estimate) or self.seen is None or self.seen.unit != "tokens":
            return Absent("its output does not say how many parameters the model has, or how many tokens a step")
        peaks = [self._peak(device) for device in self.gpus]
        if not peaks or None in peaks:
            return Absent("no peak is known of the GPUs that it uses")
        peak = math.fsum(it for it in peaks if it)
        share = [6 * parameters * it / peak for it in (self.rate.value, self.rate.low, self.rate.high)]
        basis = f"6 FLOP a parameter and token, of {len(peaks)} x the datasheet's bf16 peak"
        return Figure(share[0], "measured", basis, share[1], share[2])

    # ------------------------------------------------------------------------------------------------------ the end

    def wants_end(self) -> None:
        """Ask the command to end where the user said when; insist after a while."""
        now = self._clock()
        if self._asked_at is None:
            reached: EndedBy | None = None
            if not isinstance(self._options.for_seconds, Absent) and self.seconds >= self._options.for_seconds:
                reached = "--for"
            elif not isinstance(self._options.steps, Absent) and self.steps_done >= self._options.steps:
                reached = "--steps"
            elif self._options.until_steady and forecast.is_steady(self.rate):
                reached = "--until-steady"
            if reached:
                self.ended_by, self._asked_at = reached, now
                self._session.send(signal.SIGINT, signal.SIGCONT)  # what is stopped hears nothing else
        elif not self._terminated and now - self._asked_at > PATIENCE_SECONDS:
            self._terminated = True
            self._session.send(signal.SIGTERM, signal.SIGCONT)

    @property
    def steps_done(self) -> int:
        return self._hook.done or self._log.done

    def wants_look(self) -> float:
        """Seconds until `wants_end` may have something to do by the clock alone."""
        if self._asked_at is not None:
            return math.inf if self._terminated else max(0.0, self._asked_at + PATIENCE_SECONDS - self._clock())
        length = self._options.for_seconds
        return math.inf if isinstance(length, Absent) else max(0.0, length - self.seconds)

    def close(self) -> None:
        self._disk.close()

    def samples(self) -> Iterator[Sample]:
        """For Prometheus: the machine's readings, and the training's own."""
        yield from metrics.samples(self.monitor)
        if isinstance(self.rate, Estimate) and self.seen:
            yield Sample(f"rigbench_training_{self.seen.unit}_per_second", "Steady rate.", {}, self.rate.value)
        if self.seen and self.seen.wall:
            yield Sample("rigbench_training_steps", "Steps so far.", {}, float(self.seen.wall[-1][1]), "counter")
        if (told := self.forecast()) is not None:
            yield Sample("rigbench_training_left_seconds", "Until its end.", {}, told.rest_seconds.value)

    def view(self) -> View:
        its = self.seen
        usual = self._usual_gap()
        silent = None if usual is None else self._silent_seconds()
        stalled = silent if usual is not None and silent is not None and silent > stalls_after(usual) else None
        told = self.forecast()
        return View(
            seconds=self.seconds,
            unit=its.unit if its else "tokens",
            rate=self.rate,
            step=its.wall[-1][1] if its and its.wall else None,
            total_steps=self.total_steps,
            forecast=told,
            model_flops_share=self.model_flops_share(),
            monitor=self.monitor,
            gpus=self.gpus,
            stalled_seconds=stalled,
            planned=self.planned(told),
        )

    def planned(self, told: Forecast | None) -> str:
        """How it stands against the budget: behind or ahead only where the two intervals do not meet."""
        if self._plan is None or told is None:
            return ""
        its, plan = told.whole_seconds * (1 / 3600), self._plan.hours
        if its.low > plan.high:
            return f"behind {self._plan.name}: {its.value - plan.value:.2g} h later"
        if its.high < plan.low:
            return f"ahead of {self._plan.name}: {plan.value - its.value:.2g} h sooner"
        return f"on track with {self._plan.name}"

    def steps(self) -> SeenSteps | Absent:
        its = self.seen
        if its is None or not its.wall:
            return Absent(f"no step was seen: {self._why()}")
        total, per_step = self.total_steps, self.tokens_per_step
        wall = its.wall[:: -(-len(its.wall) // 2000)]
        return SeenSteps(
            source=its.source,
            said=its.said,
            unit=its.unit,  # type: ignore[arg-type]
            at_seconds=tuple(round(at - self._begun, 4) for at, _ in wall),
            step=tuple(step for _, step in wall),
            rate=self.rate,
            step_seconds=self.pace,
            total_steps=total if total is not None else Absent("nothing says how many there will be"),
            tokens_per_step=per_step if per_step else Absent("nothing says how many tokens a step has"),
            loss_broke=self._log.broken_loss or Absent("no loss was seen that is no number"),
        )

    def _why(self) -> str:
        rhythm = next((it for it in (period(load, 1.0) for load in self._load.values()) if it), None)
        if rhythm:
            return f"{self._log.why} (its GPUs' load repeats every {rhythm:.0f} s, which may be several steps)"
        return self._log.why

    def own(self) -> Own:
        its = self._hook.seconds_per_step
        return Own(
            cpu_seconds=_own_seconds() - self._own,
            start_cpu_seconds=self._own,
            wall_seconds=max(1e-9, self.seconds),
            hook_seconds_per_step=Absent("the hook was not called") if its is None else its,
        )


def belongs(pid: int, ancestor: int) -> bool:
    """Whether a process is of the session that the relay leads, or descends from the command."""
    for _ in range(FOREST_DEPTH):
        if pid == ancestor:
            return True
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            if os.getsid(ancestor) == int(fields[3]):
                return True
        except (OSError, IndexError, ValueError):
            return False
        pid = int(fields[1])
        if pid <= 1:
            return False
    return False


def _own_seconds() -> float:
    """Processor time of rigbench and of what it started, which is the relay and the driver's child, not the command."""
    own = os.times()
    ticks = 0
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # one may have ended
            fields = file.read().rpartition(b")")[2].split()
            ticks += (int(fields[11]) + int(fields[12])) * (int(fields[1]) == os.getpid())
    return own.user + own.system + own.children_user + own.children_system + ticks / os.sysconf("SC_CLK_TCK")
