"""The command thermals: every device busy at once, watched tick by tick, ended when it is settled or must end."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from rigbench.command import Common, command
from rigbench.core import stats
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, SensorSeries, Skipped, Telemetry
from rigbench.job import Interrupted, Job
from rigbench.machine.cuda_map import Cards
from rigbench.machine.readings import LOST, Reading
from rigbench.machine.record import Gpu
from rigbench.machine.rig import Rig
from rigbench.thermals import verdict
from rigbench.thermals.record import METHOD, HeatCard, HeatEndedBy, HeatLoad, LoadOptions, Options, Thermals
from rigbench.thermals.verdict import SAFE_CELSIUS, Soaked, too_hot
from rigbench.work.process import Crew
from rigbench.work.sensors import CPU, FASTEST_SECONDS, Sampler, played
from rigbench.work.watch import Watch

if TYPE_CHECKING:
    from rigbench.thermals.screen import Curves


PROBE = "rigbench.thermals.probe"
MARGIN_SECONDS = 180.0  # beyond the soak's own seconds: loading torch on every card, a first product
MOST_TICKS = 14_400  # kept of one soak: 24 minutes at 10 Hz; the longest one is still watched twice a second
SPARE_TICKS = 2400  # before the load begins and after it
KEPT_TICKS = 600  # of those so far, in the file that a soak that is killed leaves
DRAWN = {"temperature": "temperature_celsius", "clock": "sm_clock_hertz", "power": "power_watts"}
LISTEN_SECONDS, LOOK_SECONDS, KEEP_SECONDS = 0.25, 5.0, 15.0
LOOKS_IN_A_ROW = 2  # among many looks one is settled by luck
SILENT_SECONDS = 10.0
MARGIN_EVERY_SECONDS = 0.5
SLOWER_THAN_PLANNED = 1.5  # times the period: below that a tick is merely late
NO_SERIES = Absent("its sensors do not answer")
BECAUSE: dict[str, str] = {"time limit": "ran out of time", "worker died": "every load ended before its time"}

Watcher = Callable[[float, float, "Curves"], None]  # seconds so far, seconds planned, what to draw


@command("device", "replay", "keep_disturbed")
def thermals(common: Common, options: Options) -> int:
    """Sustained load on all GPUs at once: steady temperature, what it costs in speed, what slowed the clocks down.

    Changes no setting, and stops 2 °C below a card's own slowdown limit.

        rigbench thermals                     until the temperature is steady, ten minutes at most
        rigbench thermals --minutes 30        longer
        rigbench thermals --power-steps       for a machine that reboots in training: does its supply hold?
        rigbench --replay CAPTURE thermals    what a recorded rig did under load
    """
    from rigbench.core.screen import console
    from rigbench.thermals.screen import Display

    options = msgspec.structs.replace(options, device=common.device or "auto")
    # A picture on a terminal only: elsewhere the progress is told in lines, and a replay takes no time.
    drawn = not common.quiet and not common.replay and sys.stderr.isatty()

    if options.power_steps and common.replay:
        raise RigbenchError("--power-steps loads this machine, and --replay is of another", "give one of them")

    def work(job: Job) -> None:
        from rigbench.thermals import steps, steps_verdict, underway

        if not common.replay:
            _refuse_blind(job, options)
            if died := underway.went_down(job.store.home, job.rig.sysfs):
                job.warn(f"this machine went down {steps_verdict.step_words(died)}; `rigbench doctor` says more")
        if options.power_steps:
            steps.confirm(len(lanes(job.cards(options.device))), options)
            steps.run(job, options)
            return
        with Display(console(stderr=True)) if drawn else contextlib.nullcontext() as display:
            run(job, options, display)

    return common.answer(work)


def _refuse_blind(job: Job, options: Options) -> None:
    """Before anything is heated.

    Raises:
        RigbenchError: none of the devices to be loaded has a sensor that answers.
    """
    found = lanes(job.cards(options.device))
    sampler = Sampler(job.rig, FASTEST_SECONDS, [lane.gpu.index for lane in found if lane.gpu])
    sampler.tick()
    sensors = sampler.record()
    blind = {}
    for lane in found:
        series = _series(sensors, lane.name)
        columns = [getattr(series, name, NO_SERIES) for name in ("temperature_celsius", "power_watts", "energy_joules")]
        if all(isinstance(column, Absent) for column in columns):
            blind[lane.name] = columns[0].reason
    if len(blind) == len(found):
        what = "; ".join(f"{name}: {why}" for name, why in blind.items())
        cure = "`rigbench matmul` shows without sensors whether the speed holds under load"
        raise RigbenchError(
            f"no sensor would report how hot it gets ({what}): nothing was heated", cure, exit_code=NOTHING
        )


class Lane(NamedTuple):
    name: str  # of a device to be loaded
    device: str  # torch's name for it
    gpu: Gpu | None  # what the driver knows of it, None for the CPU


def lanes(cards: Cards) -> list[Lane]:
    """The devices to be loaded: the cards, the CPU where there is none."""
    found = [Lane(gpu.label, f"cuda:{place}", gpu) for gpu, place in zip(cards.gpus, cards.places, strict=True)]
    return found or [Lane(CPU, "cpu", None)]


class HeatWatch(Sampler):
    """A sampler that keeps the last readings at hand, and says which cards must not go on.

    The margin of a card that tells no degrees is asked on the sampler's thread, as all of the driver is.
    """

    def __init__(
        self,
        rig: Rig,
        gpus: Mapping[str, Gpu],
        period_seconds: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(
            rig, period_seconds, [gpu.index for gpu in gpus.values()], clock, room=MOST_TICKS + SPARE_TICKS
        )
        self._rig, self.cards = rig, gpus
        self.heard = clock()  # when a tick was whole last: a driver that hangs answers no more
        self._margin_at: dict[str, float] = {}
        self.too_hot: dict[str, str] = {}  # which card, and why
        self.lost: dict[str, str] = {}

    def tick(self) -> None:
        super().tick()
        assert self.latest is not None
        at, readings = self.latest
        for name, reading in readings.items():
            answers = (reading.temperature_celsius, reading.sm_clock_hertz, reading.power_watts)
            if any(isinstance(answer, Absent) and answer.reason == LOST for answer in answers):
                self.lost.setdefault(name, LOST)
            if name in self.cards and name not in self.too_hot and (hot := self._too_hot(name, at, reading)):
                self.too_hot[name] = hot
        if self._rig.nvml.trouble is None:
            self.heard = self._clock()

    def points(self, name: str, sensor: str) -> list[tuple[float, float]]:
        """(moment, reading) of the answered ticks so far, or of as many of them as are drawn."""
        curve = zip(*self.curve(name, sensor, most=KEPT_TICKS), strict=True)
        return [(at, value) for at, value in curve if value == value]

    def _too_hot(self, name: str, at: float, reading: Reading) -> str:
        gpu = self.cards[name]
        if not isinstance(gpu.slowdown_celsius, Absent):
            return too_hot(reading.temperature_celsius, gpu.slowdown_celsius)
        least = gpu.slowdown_at_margin_celsius
        if isinstance(least, Absent) or at - self._margin_at.get(name, -1e9) < MARGIN_EVERY_SECONDS:
            return ""
        self._margin_at[name] = at
        margin = self._rig.nvml.reading(gpu.index, "margin_celsius")
        if isinstance(margin, Absent) or margin > least + SAFE_CELSIUS:
            return ""
        return f"its margin was {margin:g} °C, and it slows down at {least:g}"


def run(job: Job, options: Options, watcher: Watcher | None = None) -> Thermals | Skipped:
    """The soak, summarised and saved also where the user says stop; of a replayed rig its recorded sequences."""
    return _replayed(job, options) if job.rig.replayed else _Soak(job, options, watcher).run()


class _Soak:
    def __init__(self, job: Job, options: Options, watcher: Watcher | None) -> None:
        self.job, self.options, self.watcher = job, options, watcher
        self.lanes = lanes(job.cards(options.device))
        self.seconds = 60.0 * options.minutes
        self.ended_by: HeatEndedBy | None = None
        self.because = ""
        self.looks = 0  # in a row, at which every device was settled
        self.looked = self.kept = self.started = time.perf_counter()

    def run(self) -> Thermals | Skipped:
        job, progress = self.job, lambda share, text: None
        if self.watcher is None:
            job.progress.stage("thermals", self.seconds + 10)
            progress = job.progress.update
        loads = {lane.name: LoadOptions(seconds=self.seconds, device=lane.device) for lane in self.lanes}
        gpus = {lane.name: lane.gpu for lane in self.lanes if lane.gpu}
        watch = HeatWatch(job.rig, gpus, max(FASTEST_SECONDS, self.seconds / MOST_TICKS))
        limit = self.seconds + MARGIN_SECONDS
        with (
            watch,
            Watch(job.rig, watch, cards=[gpu.index for gpu in gpus.values()]) as others,
            Crew(PROBE, loads, HeatLoad, limit, others.heard(progress)) as crew,
        ):
            while crew.working():
                try:
                    crew.listen(LISTEN_SECONDS)
                    self._watch(crew, watch)
                except KeyboardInterrupt as told:
                    by = "Ctrl-C" if told.args in ((), ("SIGINT",)) else told.args[0]
                    self.ended_by, self.because = "interrupted", f"stopped by {by}"
                    crew.interrupt()
            watch.stop()
        job.note(others.disturbance("thermals", 0, 1))  # not repeated: a second soak would begin hot
        result = self._record(crew, watch, final=True)
        job.faults += [line for line in self._faults(result, crew, watch) if line not in job.faults]
        for name, refusal in crew.refusals.items():
            job.warn(f"{name} was not heated: {refusal}")
        interrupted = self.ended_by == "interrupted"
        if not result.cards and not interrupted:
            reasons = [self.because, *(outcome.reason for outcome in crew.outcomes.values())]
            why = "; ".join(reason for reason in reasons if reason)
            skipped = Skipped("thermals", why or "stopped before anything was measured")
            job.keep(thermals=skipped)
            return skipped
        if result.cards:
            job.keep(thermals=result)
        if interrupted:
            raise Interrupted
        return result

    def _watch(self, crew: Crew[HeatLoad], watch: HeatWatch) -> None:
        """What must end the soak, then what may; then what it looks like."""
        for name, why in dict(watch.lost).items():  # the sampler adds to it meanwhile
            if name in crew.working():
                crew.stop(name)
                self.because = self.because or f"{name}: {why}"
        loaded = [name for name in crew.working() if name in crew.latest]
        for name, why in dict(watch.too_hot).items():
            self._end(crew, "safety stop", f"{name}: {why}")
        now = time.perf_counter()
        silent = now - watch.heard
        if loaded and any(lane.gpu for lane in self.lanes) and silent > SILENT_SECONDS:
            why = f"the sensors have not answered for {silent:.0f} s, and without them no card may be heated"
            self._end(crew, "sensors silent", why)
        if now - self.looked >= LOOK_SECONDS and loaded:
            self.looked = now
            self.looks = self.looks + 1 if all(_settled(crew.latest[name], watch, name) for name in loaded) else 0
            if self.looks >= LOOKS_IN_A_ROW:
                self._end(crew, "settled", "every device is settled")
        if now - self.kept >= KEEP_SECONDS and crew.latest:
            self.kept = now
            self.job.keep(thermals=self._record(crew, watch))
        if self.watcher:
            ended = [load.elapsed_seconds[-1] for load in crew.latest.values() if load.ended_at_seconds]
            curves = {
                lane.name: {what: watch.points(lane.name, sensor) for what, sensor in DRAWN.items()}
                for lane in self.lanes
            }
            for name, load in crew.latest.items():
                curves[name]["throughput"] = list(zip(load.ended_at_seconds, load.flops_per_s, strict=True))
            self.watcher(max(ended, default=0.0), self.seconds, curves)

    def _end(self, crew: Crew[HeatLoad], ended_by: HeatEndedBy, because: str) -> None:
        if self.ended_by is None:
            self.ended_by, self.because = ended_by, because
        crew.stop()

    def _record(self, crew: Crew[HeatLoad], watch: HeatWatch, final: bool = False) -> Thermals:
        """The soak as it stands. A card whose load never began has no place in it."""
        outcomes, sensors = crew.outcomes.values(), watch.record(0 if final else KEPT_TICKS)
        died = outcomes and all(outcome.ended in ("died", "hung") for outcome in outcomes)
        ended_by = self.ended_by or ("worker died" if died else "time limit")
        soaked = []
        for name, _, gpu in self.lanes:
            load, series = crew.latest.get(name), _series(sensors, name)
            if load is None or series is None or not load.ended_at_seconds:
                continue
            began, ended, ambient = load.began_at_seconds, load.ended_at_seconds[-1], self.options.ambient
            lost, device = watch.lost.get(name, ""), load.device.name
            soaked.append(Soaked(name, device, gpu, load, began, ended, ambient, lost, sensors, series))
        result = _thermals(
            self.options,
            tuple(map(verdict.card, soaked)),
            sensors,
            seconds=time.perf_counter() - self.started,
            replayed=False,
            ended_by=ended_by,
            ended_because=self.because or BECAUSE.get(ended_by, ""),
            power=Absent("not looked for"),
            notes=_notes(sensors, self.lanes),
        )
        if not final:
            return result
        holding = self.job.holding("thermals") if isinstance(result.label, str) else ()
        earlier = [run for run in holding if run.id != self.job.run.id]
        return msgspec.structs.replace(result, power=verdict.power(result, self.job.run, earlier))

    def _faults(self, result: Thermals, crew: Crew[HeatLoad], watch: HeatWatch) -> list[str]:
        """What its cards tell and why it had to end; then who was lost or ended before its time."""
        faulty = {card.name for card in result.cards if card.faults}
        early = {name: why for name, why in watch.lost.items() if name not in {card.name for card in result.cards}}
        lines = verdict.faults(result) + [
            f"thermals {name}: {why} before its load began" for name, why in early.items()
        ]
        for name, outcome in crew.outcomes.items():
            if outcome.ended in ("died", "hung") and name not in faulty | set(early) | set(crew.refusals):
                lines.append(f"thermals {name}: its load {outcome.ended}: {outcome.reason}")
        return lines


def _settled(load: HeatLoad, watch: HeatWatch, name: str) -> bool:
    import numpy as np

    from rigbench.thermals import fit as heat_fit

    began = load.began_at_seconds
    moments, celsius = map(np.asarray, watch.curve(name, "temperature_celsius", began, KEPT_TICKS))
    answered = ~np.isnan(celsius)
    at, celsius = moments[answered] - began, celsius[answered]
    return verdict.settled(load, at, celsius, heat_fit.best_fit(at, celsius)).settled


def _series(sensors: Telemetry, name: str) -> SensorSeries | None:
    return next((series for series in sensors.series if series.device == name), None)


def _thermals(options: Options, cards: tuple[HeatCard, ...], sensors: Telemetry, **facts: Any) -> Thermals:
    hottest, spread = verdict.hottest(cards)
    return Thermals(
        method=METHOD,
        label=options.label,
        ambient_celsius=options.ambient,
        cards=cards,
        hottest=hottest,
        spread_celsius=spread,
        telemetry=sensors,
        **facts,
    )


def _notes(sensors: Telemetry, lanes: Sequence[Lane]) -> tuple[str, ...]:
    """What of the watching was not as planned."""
    notes, planned = [], sensors.period_seconds
    steps = [later - earlier for earlier, later in itertools.pairwise(sensors.at_seconds)]
    if steps and (slow := stats.median(steps)) >= SLOWER_THAN_PLANNED * planned:
        notes.append(f"telemetry was slower than asked: every {slow:.2g} s instead of {planned:.2g} s")
    for lane in lanes:
        if lane.gpu is None:
            continue
        series = _series(sensors, lane.name)
        blind = series is None or isinstance(series.temperature_celsius, Absent)
        limits = (lane.gpu.slowdown_celsius, lane.gpu.slowdown_at_margin_celsius)
        if blind or all(isinstance(limit, Absent) for limit in limits):
            what = "reports no temperature" if blind else "reports no slowdown limit"
            notes.append(f"{lane.name} {what}: only the card itself could have stopped this load, rigbench not")
    return tuple(notes)


def _replayed(job: Job, options: Options) -> Thermals:
    """What a soak of a recorded rig would have shown: a step of each sequence a tick, on a scripted clock.

    Every card of the recording, awake where that was recorded.
    """
    rig, driver = job.rig.awake()
    sensors = played(rig, driver)
    steps = len(sensors.at_seconds)
    still = () if steps > 1 else ("the recording holds no sequence: nothing moves in it",)
    result = _thermals(
        options,
        verdict.played(job.gpus, sensors, options.ambient),
        sensors,
        seconds=sensors.at_seconds[-1],
        replayed=True,
        ended_by="recording ended",
        ended_because="the recording ended",
        power=verdict.NO_LOAD,
        notes=(*job.rig.notes, *still),
    )
    job.faults += verdict.faults(result)
    job.keep(thermals=result)
    return result
