"""A heat soak for a command: every card busy at once, watched tick by tick, ended when it is settled or must end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.job import Interrupted, Job
from rigbench.thermals import fit as heatfit
from rigbench.thermals import loads as thermals_record
from rigbench.thermals import probe as heat_load
from rigbench.thermals import replay as thermals_replay
from rigbench.thermals import settling, soak
from rigbench.thermals.record import Curves, HeatEndedBy, HeatLoad, Thermals
from rigbench.thermals.watch import SILENT_SECONDS, HeatWatch
from rigbench.work.crew import Crew
from rigbench.work.sensors import FASTEST_SECONDS

PROBE = "rigbench.thermals.probe"
MARGIN_SECONDS = 180.0  # beyond the soak's own seconds: loading torch on every card, a first product
LEAST_MINUTES, MOST_MINUTES = 0.1, 120.0
MOST_TICKS = 14_400  # kept of one soak: 24 minutes at 10 Hz; the longest one is still watched twice a second
LISTEN_SECONDS, LOOK_SECONDS, KEEP_SECONDS = 0.25, 5.0, 15.0
LOOKS_IN_A_ROW = 2  # among many looks one is settled by luck
LONGEST_LABEL = 40

Watcher = Callable[[float, float, Curves], None]


class Options(NamedTuple):
    """What was asked for. `device` None: all GPUs, else the CPU."""

    seconds: float
    device: str | None
    label: str | Absent
    ambient: Figure | Absent


def options(minutes: str, device: str | None, label: str | None, ambient: str | None) -> Options:
    """
    Raises:
        RigbenchError: any of the words is not what its option takes.
    """
    room: Figure | Absent = Absent("the room's temperature was not declared; --ambient does it")
    if ambient is not None:
        room = Figure(units.parse_number(ambient, "--ambient", 1.0, 60.0), "declared", "--ambient")
    named: str | Absent = Absent("no --label was given")
    if label is not None:
        named = label.strip()
        if not named or len(named) > LONGEST_LABEL or not named.isprintable():
            raise RigbenchError(f"--label {label[:50]!r} is no label", "give a short word, like 250W")
    length = units.parse_number(minutes, "--minutes", LEAST_MINUTES, MOST_MINUTES)
    return Options(length * 60.0, device, named, room)


def run(job: Job, asked: Options, watcher: Watcher | None = None) -> Thermals | Skipped:
    """The soak; of a replayed rig its recorded sequences instead, without a load.

    Raises:
        Interrupted: the user said stop; what was sampled is summarised and saved.
        RigbenchError: no such device, or a recording without a driver.
    """
    if job.rig.replayed:
        return thermals_replay.run(job, asked.label, asked.ambient)
    return _Soaking(job, asked, watcher).run()


class _Soaking:
    """A soak under way."""

    def __init__(self, job: Job, asked: Options, watcher: Watcher | None) -> None:
        self.job, self.asked, self.watcher = job, asked, watcher
        self.lanes = thermals_record.lanes(job.gpus, job.visible_gpus, asked.device)
        self.ended_by: HeatEndedBy | None = None
        self.because = ""
        self.interrupted = False
        self.looks = 0
        self.looked = self.kept = self.started = time.perf_counter()
        self.period = max(FASTEST_SECONDS, asked.seconds / MOST_TICKS)

    def run(self) -> Thermals | Skipped:
        job, seconds = self.job, self.asked.seconds
        if self.watcher is None:
            job.progress.stage("thermals", seconds + 10)
        probes = {lane.name: heat_load.Options(seconds=seconds, device=lane.device) for lane in self.lanes}
        limits = {lane.name: lane.limit for lane in self.lanes if lane.limit}
        indices = [lane.gpu.index for lane in self.lanes if lane.gpu]
        watch = HeatWatch(job.rig, limits, self.period, indices)
        with (
            watch,
            Crew(PROBE, probes, HeatLoad, seconds + MARGIN_SECONDS, self._progress) as crew,
        ):
            while crew.working():
                self._step(crew, watch)
            watch.stop()
        result = self._record(crew, watch, final=True)
        for line in thermals_record.faults(result, crew, watch.lost):
            if line not in job.faults:
                job.faults.append(line)
        if not result.cards and not self.interrupted:
            reasons = [self.because, *(outcome.reason for outcome in crew.outcomes.values())]
            why = "; ".join(reason for reason in reasons if reason)
            skipped = Skipped("thermals", why or "stopped before anything was measured")
            job.keep(thermals=skipped)
            return skipped
        if result.cards:
            job.keep(thermals=result)
        if self.interrupted:
            raise Interrupted
        return result

    def _step(self, crew: Crew[HeatLoad], watch: HeatWatch) -> None:
        try:
            crew.listen(LISTEN_SECONDS)
            self._watch(crew, watch)
        except KeyboardInterrupt:
            if self.interrupted:
                raise
            self.interrupted = True
            self._end(crew, "interrupted", "Ctrl-C")

    def _watch(self, crew: Crew[HeatLoad], watch: HeatWatch) -> None:
        """What must end the soak, then what may; then what it looks like."""
        for name, why in dict(watch.lost).items():  # the sampler adds to it meanwhile
            if name in crew.working():
                crew.stop(name)
                self.because = self.because or f"{name}: {why}"
        loaded = [name for name in crew.working() if name in crew.latest]
        for name, why in dict(watch.too_hot).items():
            self._end(crew, "safety stop", f"{name}: {why}")
        if loaded and any(lane.gpu for lane in self.lanes) and watch.silent_seconds() > SILENT_SECONDS:
            silent = f"the sensors have not answered for {watch.silent_seconds():.0f} s"
            self._end(crew, "sensors silent", f"{silent}, and without them no card may be heated")
        now = time.perf_counter()
        if now - self.looked >= LOOK_SECONDS and loaded:
            self.looked = now
            self.looks = self.looks + 1 if self._all_settled(crew, watch, loaded) else 0
            if self.looks >= LOOKS_IN_A_ROW:
                self._end(crew, "settled", "every device is settled")
        if now - self.kept >= KEEP_SECONDS and crew.latest:
            self.kept = now
            self.job.keep(thermals=self._record(crew, watch))
        if self.watcher:
            self.watcher(self._elapsed(crew), self.asked.seconds, self._curves(crew, watch))

    def _end(self, crew: Crew[HeatLoad], ended_by: HeatEndedBy, because: str) -> None:
        if self.ended_by is None or ended_by == "interrupted":
            self.ended_by, self.because = ended_by, because
        crew.stop()

    def _all_settled(self, crew: Crew[HeatLoad], watch: HeatWatch, loaded: list[str]) -> bool:
        for name in loaded:
            load = crew.latest[name]
            readings = [
                (at - load.began_at_seconds, value)
                for at, value in watch.curves.get(name, {}).get("temperature", [])
                if at >= load.began_at_seconds
            ]
            if readings:
                at, celsius = [it for it, _ in readings], [it for _, it in readings]
                found = settling.temperature(at, celsius, heatfit.best_fit(at, celsius))
            else:
                found = settling.throughput(*soak.windows(load, load.began_at_seconds))
            if not found.settled:
                return False
        return True

    def _elapsed(self, crew: Crew[HeatLoad]) -> float:
        """Of the load that began first; 0 while torch is being loaded."""
        loads = [load for load in crew.latest.values() if load.ended_at_seconds]
        return max((load.ended_at_seconds[-1] - load.began_at_seconds for load in loads), default=0.0)

    def _curves(self, crew: Crew[HeatLoad], watch: HeatWatch) -> Curves:
        curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for lane in self.lanes:
            own = dict(watch.curves.get(lane.name, {}))
            if lane.name in crew.latest:
                load = crew.latest[lane.name]
                _, rates = soak.windows(load, load.began_at_seconds)
                own["throughput"] = list(zip(load.ended_at_seconds, rates, strict=True))
            curves[lane.name] = own
        return curves

    def _progress(self, share: float, text: str) -> None:
        if self.watcher is None:
            self.job.progress.update(share, text)

    def _record(self, crew: Crew[HeatLoad], watch: HeatWatch, final: bool = False) -> Thermals:
        ended_by = self.ended_by or ("worker died" if _all_died(crew) else "time limit")
        return thermals_record.record(
            lanes=self.lanes,
            loads=crew.latest,
            sensors=watch.record(),
            lost=watch.lost,
            seconds=time.perf_counter() - self.started,
            planned_seconds=self.asked.seconds,
            label=self.asked.label,
            ambient=self.asked.ambient,
            ended=(ended_by, self.because or thermals_record.BECAUSE.get(ended_by, "")),
            earlier=self.job.history()[1:] if final and isinstance(self.asked.label, str) else [],
            run=self.job.run,
        )


def _all_died(crew: Crew[HeatLoad]) -> bool:
    return bool(crew.outcomes) and all(outcome.ended in ("died", "hung") for outcome in crew.outcomes.values())
