"""The command watch: runs somebody's own training command, and answers for it."""

from __future__ import annotations

import datetime
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rigbench.alarms import Alarm, AlarmOptions, Delivery
from rigbench.command import Common, command, say
from rigbench.core.errors import RigbenchError
from rigbench.core.home import scratch
from rigbench.core.options import NOT_GIVEN
from rigbench.core.record import Absent
from rigbench.openmetrics import Exporter, MetricsOptions, address_of, serve
from rigbench.watch.record import METHOD, Options, Told, Training, program

if TYPE_CHECKING:
    from rigbench.backtest.record import Backtest
    from rigbench.document import Run
    from rigbench.job import Job
    from rigbench.logs.stretches import Reading
    from rigbench.machine.kernel_log import KernelLog
    from rigbench.watch.session import Session
    from rigbench.watch.watching import Plan, Watching


@command()
def watch(
    common: Common,
    options: Options,
    alarms: AlarmOptions,
    metrics: MetricsOptions,
    words: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="The training, as it is started without rigbench.")
    ],
) -> int:
    """Run your own training command, unchanged, and say how fast it is, when it ends, and what slows it.

    Its steps are read from what it writes (`rigbench explain formats`), or given by `rigbench.hooks.step` in its loop.
    It has the terminal and the exit code as it would without rigbench, and goes on if rigbench is killed.

        rigbench watch -- python train.py config/gpt2.py
        rigbench watch -- torchrun --nproc-per-node 2 train.py
        rigbench watch --for 5m --json -- accelerate launch train.py     five minutes of it, for a script
    """
    if sys.platform == "win32":
        raise RigbenchError("watch needs a POSIX terminal", "run it in WSL2")
    home = common.store()
    home.check_writable()
    plan = _plan(common, options)
    if shutil.which(words[0]) is None:
        cure = "give it as you would without rigbench, after --"
        is_there = "/" in words[0] and Path(words[0]).exists()
        what = f"{words[0]} is not executable" if is_there else f"there is no command {words[0] or repr(words[0])}"
        raise RigbenchError(what, cure)
    exporter = serve(address_of(metrics.openmetrics, "--openmetrics")) if isinstance(metrics.openmetrics, str) else None
    with scratch(home.home, hidden=True) as folder:
        return _watched(common, options, alarms, exporter, words, folder, plan)


def _watched(
    common: Common,
    options: Options,
    alarms: AlarmOptions,
    exporter: Exporter | None,
    words: list[str],
    folder: Path,
    plan: Plan | None,
) -> int:
    from rigbench.core import progress
    from rigbench.machine.kernel_log import KernelLog
    from rigbench.watch.session import Session

    os.environ["RIGBENCH_WATCH"] = str(folder)
    shown = options.foot == "on" and not common.quiet and sys.stdout.isatty()
    with KernelLog() as log, Session(words, folder, shown, common.json) as session:  # what its start leaves in it too
        progress.stopping = True  # a signal is the command's, and rigbench ends after it
        job = _followed(common, options, alarms, exporter, words, session, shown, plan, log)
    code = session.code if session.code is not None else 1
    told = len(job.run.warnings)
    job.driver_trouble()
    job.keep(status="finished")
    if common.json:
        common.show(job.run)
    else:
        from rigbench.core.screen import show_rooms

        console = common.console()
        if not sys.stdout.isatty():  # a pipe has what the command writes, and nothing else
            console.file = sys.stderr
        show_rooms(job.run, console, common.verbose, common.quiet)
    for line in job.run.warnings[told:]:
        say(f"warning: {line}")
    if job.trouble:
        say(str(job.trouble))
    elif not common.quiet:
        say(f"saved as {job.run.id}; `rigbench report {job.run.id}` shows it again")
    return code


def _followed(
    common: Common,
    options: Options,
    alarms: AlarmOptions,
    exporter: Exporter | None,
    words: list[str],
    session: Session,
    shown: bool,
    plan: Plan | None,
    log: KernelLog,
) -> Job:
    """From its start to its end, kept. Whatever goes wrong with watching ends the watching, never the command."""
    from rigbench import store
    from rigbench.core import profiles
    from rigbench.core.progress import SILENT
    from rigbench.job import Job
    from rigbench.machine.rig import Rig
    from rigbench.monitor import readings
    from rigbench.monitor.record import MonitorTick
    from rigbench.monitor.record import Options as Rhythm
    from rigbench.watch import screen
    from rigbench.watch.watching import Watching

    started = store.now()
    job = Job(common.store(), Rig.live(), "watch", SILENT, keep_disturbed=True)
    for line in job.run.warnings:  # a driver that hangs
        session.line(f"rigbench: warning: {line}")

    delivery = Delivery(alarms, lambda text: session.line(f"rigbench: {text}"))

    def tell(raised: Sequence[Alarm]) -> None:
        delivery.send(raised)
        if not common.quiet:
            for alarm in raised:
                session.line(f"rigbench: {alarm.text}")

    watching = Watching(session, options, profiles.electricity(), plan, partial(_peak, job), tell)

    def is_over() -> bool:
        watching.wants_end()
        return session.poll()

    def wait(seconds: float) -> None:
        session.wait(min(seconds, watching.wants_look()))

    colour = "NO_COLOR" not in os.environ
    for event in readings.live(job.rig, Rhythm(), is_over, wait, log):
        watching.add(event)
        if exporter and isinstance(event, MonitorTick):
            exporter.update(watching.samples())
        if shown and isinstance(event, MonitorTick):
            session.panel(screen.panel(watching.view(), datetime.datetime.now().astimezone(), colour))
    while not session.poll():  # the readings ended, the command did not
        session.wait(1.0)
    watching.look(final=True)
    delivery.close()
    watching.close()
    if exporter:
        exporter.close()
    if plan is not None and watching.seen is not None and watching.seen.unit == "tokens":
        try:
            job.keep(backtest=_tested(plan.run, watching.seen.reading, program(words), job))
        except RigbenchError as error:
            again = f"rigbench backtest {plan.run.id} {job.run.id} [--model NAME]"
            say(f"no back-test of {plan.name}: {error.what_happened}; {again}")
    job.keep(watched=_record(watching, session, words, started))
    return job


def _peak(job: Job, device: str) -> float | None:
    """FLOP/s of a GPU by its place, where its datasheet is known."""
    from rigbench.core import profiles

    gpu = next((it for it in job.gpus if f"GPU{it.index}" == device), None)
    known = None if gpu is None or isinstance(gpu.profile, Absent) else profiles.peaks(gpu.profile).get("bf16")
    return known.value if known else None


def _tested(run: Run, reading: Reading, name: str, job: Job) -> Backtest:
    """The training against what the budget predicted of it.

    Raises:
        RigbenchError: it predicted for another rig or for several models, or there is no steady rate.
    """
    from rigbench import store
    from rigbench.backtest import verdict
    from rigbench.backtest.command import predicted
    from rigbench.backtest.record import LogFacts

    if run.rig.fingerprint != job.run.rig.fingerprint:
        raise RigbenchError("it is of another rig")
    model, stated, cards = predicted(run, NOT_GIVEN)
    facts = LogFacts(name, job.run.id, reading.format, 0, (), (), (), ())
    return verdict.compare(run.id, model, stated, reading, facts, store.now(), cards)


def _record(watching: Watching, session: Session, words: list[str], started: str) -> Training:
    from rigbench.core.finding import WORST_FIRST
    from rigbench.monitor.record import MonitorEnd

    watching.fold.add(MonitorEnd(watching.fold.at_seconds, "time is up"))
    monitor = watching.fold.record()
    by_user = watching.ended_by == "itself" and session.asked_to_end
    findings = sorted((held.hint for held in monitor.hints), key=lambda it: WORST_FIRST.index(it.severity))
    return Training(
        method=METHOD,
        command=tuple(words),
        started_at=started,
        seconds=watching.seconds,
        exit_code=session.code if session.code is not None else 1,
        ended_by="the user" if by_user else watching.ended_by,
        steps=watching.steps(),
        forecasts=tuple(watching.forecasts),
        model_flops_share=watching.model_flops_share(),
        gpus=watching.gpus,
        planned=watching.planned(watching.forecast()),
        monitor=monitor,
        findings=tuple(findings),
        alarms=tuple(
            Told(
                code=it.code,
                severity=it.severity,
                where=it.where,
                text=it.text,
                after_seconds=max(0.0, it.at_seconds - session.started_seconds),
            )
            for it in watching.alarms
        ),
        beside=tuple(watching.beside.values()),
        own=watching.own(),
        lost_output=session.tape.lost,
        left_behind=session.left,
    )


def _plan(common: Common, options: Options) -> Plan | None:
    """The stored budget that --budget names.

    Raises:
        RigbenchError: there is no such run, or no budget in it.
    """
    if isinstance(options.budget, Absent):
        return None
    from rigbench import store
    from rigbench.budget.record import Budget
    from rigbench.watch.watching import Plan

    run = store.read(common.store().find(options.budget))
    if not isinstance(run.budget, Budget):
        what = f"--budget {options.budget}: that run has no budget"
        raise RigbenchError(what, "rigbench report --list shows which have")
    return Plan(f"budget {run.id}", run.budget.whole.hours, run)
