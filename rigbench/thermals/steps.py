"""Takes all cards from idle to full and back, ever faster, and stops where a card, a sensor or its owner says so."""

from __future__ import annotations

import os
import sys
import time

from rigbench.command import say
from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.job import Interrupted, Job
from rigbench.store import now
from rigbench.thermals import command as thermals
from rigbench.thermals import underway
from rigbench.thermals.record import METHOD, HeatLoad, LoadOptions, Options, PowerStep, PowerSteps, StepsEndedBy
from rigbench.work.process import Crew
from rigbench.work.sensors import CPU, FASTEST_SECONDS

PERIODS = (5.0, 2.0, 1.0, 0.5, 0.2)  # s: from what a supply's fan and regulation follow to what training steps do
LEAST_PERIODS = 2  # of a rhythm, however short it was asked to last: one whole step up and down at the least
OVER_LIMIT = 1.25  # times a card's own power limit, in a reading that averages: its limit does not hold it


def confirm(devices: int, options: Options) -> None:
    """Say what may happen, and ask whoever sits there.

    Raises:
        RigbenchError: it was not allowed, or nobody can be asked.
    """
    minutes = units.format_seconds(sum(lasts(period, options) for period in PERIODS))
    what = f"{'the device goes' if devices == 1 else f'all {devices} devices go'} from idle to full and back"
    rhythm = f"every {PERIODS[0]:g} s, then faster, down to every {PERIODS[-1]:g} s"
    say(f"--power-steps: {what} {rhythm}, {minutes} in all; a weak power supply may switch this machine off.")
    say("Save your work first, end what else runs here, and stay near; Ctrl-C stops it.")
    if options.yes:
        return
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        raise RigbenchError("--power-steps may switch this machine off, and nobody can be asked here", "give --yes")
    sys.stderr.write("begin? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise RigbenchError("--power-steps was not begun", "answer y, or give --yes")


def lasts(period: float, options: Options) -> float:
    """Seconds of one rhythm."""
    return max(options.step_seconds, LEAST_PERIODS * period)


def run(job: Job, options: Options) -> PowerSteps:
    """All rhythms, slowest first; what was under way stands on the disk before each begins.

    Raises:
        Interrupted: the user said stop; what there is has been kept.
    """
    its = _Steps(job, options)
    try:
        for number, period in enumerate(PERIODS):
            its.begin(number)
            its.step(period, lasts(period, options))
            job.keep(thermals=its.record())
            if its.ended_by:
                break
    finally:
        underway.end(job.store.home)
    result = its.record()
    if result.failed:
        job.faults.append(f"power steps: {result.ended_because}")
    if result.ended_by == "interrupted":
        raise Interrupted
    return result


class _Steps:
    def __init__(self, job: Job, options: Options) -> None:
        self.job = job
        self.lanes = thermals.lanes(job.cards(options.device))
        self.gpus = {lane.name: lane.gpu for lane in self.lanes if lane.gpu}
        self.steps: list[PowerStep] = []
        self.ended_by: StepsEndedBy | None = None
        self.because = ""

    def begin(self, number: int) -> None:
        devices = tuple(lane.name for lane in self.lanes)
        it = underway.Underway(
            boot=underway.boot(self.job.rig.sysfs),
            pid=os.getpid(),
            at=now(),
            step=number,
            planned=PERIODS,
            devices=devices,
            steps=tuple(self.steps),
        )
        underway.begin(self.job.store.home, it)

    def step(self, period: float, length: float) -> None:
        self.job.progress.stage(f"power steps, every {period:g} s", length + 10)
        loads = {
            lane.name: LoadOptions(seconds=length, device=lane.device, period_seconds=period) for lane in self.lanes
        }
        watch = thermals.HeatWatch(self.job.rig, self.gpus, FASTEST_SECONDS)
        limit = length + thermals.MARGIN_SECONDS
        progress = self.job.progress.update
        with watch, Crew(thermals.PROBE, loads, HeatLoad, limit, progress) as crew:
            while crew.working():
                try:
                    crew.listen(thermals.LISTEN_SECONDS)
                    self._look(crew, watch)
                except KeyboardInterrupt as told:
                    by = "Ctrl-C" if told.args in ((), ("SIGINT",)) else told.args[0]
                    self._stop("interrupted", f"stopped by {by}")
                    crew.interrupt()
            watch.stop()
        for name, outcome in crew.outcomes.items():
            if outcome.ended in ("died", "hung") and self.ended_by is None:
                self._stop("worker died", f"{name}: its load {outcome.ended} ({outcome.reason})")
        for name, refusal in crew.refusals.items():
            self.job.warn(f"{name} took no load: {refusal}")
        done = crew.latest.values()
        low, high = _watts(watch, min((load.began_at_seconds for load in done), default=float("inf")))
        pulses = min((len(load.ended_at_seconds) for load in done), default=0)
        seconds = max((load.elapsed_seconds[-1] for load in done if load.ended_at_seconds), default=0.0)
        self.steps.append(
            PowerStep(period_seconds=period, seconds=seconds, pulses=pulses, lowest_watts=low, highest_watts=high)
        )

    def _look(self, crew: Crew[HeatLoad], watch: thermals.HeatWatch) -> None:
        """Whatever must not go on ends all of it."""
        for name, why in dict(watch.too_hot).items():
            self._stop("safety stop", f"{name}: {why}", crew)
        for name, why in dict(watch.lost).items():
            self._stop("GPU lost", f"{name}: {why}", crew)
        for name, gpu in self.gpus.items():
            power = watch.points(name, "power_watts")
            limit = gpu.power_limit_watts
            if power and not isinstance(limit, Absent) and power[-1][1] > OVER_LIMIT * limit:
                why = f"{name} drew {units.format_watts(power[-1][1])}, over its limit of {units.format_watts(limit)}"
                self._stop("safety stop", why, crew)
        silent = time.perf_counter() - watch.heard
        if self.gpus and crew.latest and silent > thermals.SILENT_SECONDS:
            self._stop("sensors silent", f"the sensors have not answered for {silent:.0f} s", crew)

    def _stop(self, ended_by: StepsEndedBy, because: str, crew: Crew[HeatLoad] | None = None) -> None:
        if self.ended_by is None:
            self.ended_by, self.because = ended_by, because
        if crew:
            crew.stop()

    def record(self) -> PowerSteps:
        return PowerSteps(
            method=METHOD,
            devices=tuple(lane.name for lane in self.lanes),
            planned=PERIODS,
            steps=tuple(self.steps),
            ended_by=self.ended_by or "finished",
            ended_because=self.because or "every rhythm was gone through",
        )


def _watts(watch: thermals.HeatWatch, began: float) -> tuple[float | Absent, float | Absent]:
    """(lowest, highest) of all cards together, while they went up and down."""
    told = [power for name in (*watch.cards, CPU) if (power := dict(watch.points(name, "power_watts")))]
    moments = set.intersection(*map(set, told)) if told else set()
    sums = [sum(its[at] for its in told) for at in moments if at >= began]
    return (min(sums), max(sums)) if sums else (thermals.NO_SERIES, thermals.NO_SERIES)
