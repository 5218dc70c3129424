"""The command that runs every probe: run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rigbench.budget.record import PriceOptions
from rigbench.command import Common, command, say
from rigbench.everything.record import Options
from rigbench.work.record import WattOptions

if TYPE_CHECKING:
    from rigbench.document import Run
    from rigbench.job import Job


@command("device", "keep_disturbed")
def run(common: Common, options: Options, prices: PriceOptions, watts: WattOptions) -> int:
    """Every probe, one record: the rig, its copies, matmuls and short training runs, and what a budget will cost.

    Under torchrun on several machines: collectives across them, one document for each, one verdict for the fleet.

        rigbench run --quick                    three sizes of model, shorter probes, no heat test
        rigbench run --hours 48                 everything; were the 48 hours you were told right?
        rigbench run --resume                   go on with the one that was killed
        rigbench run --quick --skip dataloader

    Its stages: topology, bandwidth, p2p, collectives, matmul, training, dataloader, and thermals without --quick; then
    the budget.
    """
    import os
    import time

    from rigbench.budget import command as budget
    from rigbench.budget.plan import request
    from rigbench.budget.record import Options as BudgetOptions
    from rigbench.collectives import command as collectives
    from rigbench.collectives.record import Options as CollectivesOptions
    from rigbench.core.errors import NOTHING, RigbenchError
    from rigbench.core.options import NOT_GIVEN
    from rigbench.core.record import Absent
    from rigbench.doctor import diagnosis
    from rigbench.everything.plan import Stage, chosen, measure, refuse_blocked, whole_run
    from rigbench.everything.progress import Overall
    from rigbench.fleet import together
    from rigbench.model.recipe import RecipeOptions
    from rigbench.report import screen
    from rigbench.report.first_screen import NAMES
    from rigbench.usable import BUSY

    plan = BudgetOptions(flops=options.flops, series=options.series, hours=options.hours)
    asked = request(plan, RecipeOptions(), watts, prices.electricity)
    its = together.place(os.environ)
    if its and options.resume:
        raise RigbenchError("--resume is not for hosts that torchrun started", "leave it out")
    stages = chosen(whole_run(asked.models, options.quick, common.device, watts), options.only, options.skip)

    done: list[Job] = []

    def answer(job: Job) -> None:
        if job.has_no_answer:
            raise RigbenchError(f"{BUSY} while it was measured", exit_code=NOTHING)
        budget.run(job, asked, common.device)

    last = Stage("budget", answer, 2.0)

    def stages_of(job: Job) -> None:
        if isinstance(options.label, str):
            job.run = msgspec.structs.replace(job.run, label=options.label)
        job.progress = Overall(job.progress, [(stage.room, stage.seconds) for stage in (*stages, last)])
        measure(job, stages)
        measure(job, [last])
        diagnosis.everything(job, prices.electricity)

    def work(job: Job) -> None:
        done.append(job)
        refuse_blocked(job, common.device, stages)
        if options.resume:
            _resume(job)
        began, before = time.monotonic(), job.run.took_seconds if options.resume else 0.0
        try:
            stages_of(job)
        finally:
            if not isinstance(before, Absent):  # of a run that was killed nobody knows how long it took until then
                job.run = msgspec.structs.replace(job.run, took_seconds=before + time.monotonic() - began)

    if its is not None:
        stages = [stage for stage in stages if stage.room != "collectives"]  # that is across hosts
        seconds = sum(stage.seconds for stage in stages)
        where = common.device and common.device.partition(":")[0]
        across = collectives.on_device(CollectivesOptions(seconds=8.0 if options.quick else NOT_GIVEN), where)
        label = options.label if isinstance(options.label, str) else ""
        return together.run(common, its, across, work, seconds, label)
    code = common.answer(work, screen.show)
    if done and done[-1].run.status == "interrupted":
        left = [stage.room for stage in (*stages, last) if stage.room not in done[-1].run.ended]
        missing = [NAMES.get(room, room) for room in left]
        say(f"not reached: {', '.join(missing)}; the same command with --resume goes on")
    if done and done[-1].measured and done[-1].run.status == "finished":
        _keep_page(done[-1].run, common)
    return code


def _keep_page(run: Run, common: Common) -> None:
    """The page beside the run, which is saved: what a drawing trips over is said, and costs the page alone."""
    from rigbench.core.errors import RigbenchError
    from rigbench.report.command import write_page

    try:
        made = write_page(run, common)
    except RigbenchError as error:
        made = str(error)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        made = f"no page: {type(error).__name__}; `rigbench report {run.id} --html` says more"
    if not common.quiet:
        say(made)


def _resume(job: Job) -> None:
    """Take the newest run of this rig that did not end for this one: what its stages measured stays as it is.

    Raises:
        RigbenchError: there is none.
    """
    from rigbench.core.errors import NOTHING, RigbenchError

    cut = next((it for it in job.earlier if it.command == "run" and it.status in ("running", "interrupted")), None)
    if cut is None:
        what = "no whole run of this rig was cut short"
        raise RigbenchError(what, "`rigbench report --list` lists them; `rigbench run` begins one", exit_code=NOTHING)
    before = job.store.load(cut.id)
    if before.software != job.run.software:
        job.warn(f"the first part of this run, {cut.id}, was measured with other software: see its document")
    warnings = (*before.warnings, *job.run.warnings)
    job.run = msgspec.structs.replace(
        before,
        status="running",
        warnings=tuple(dict.fromkeys(warnings)),
        # A stage that did not end begins again; slices that it trained stay.
        disturbances=tuple(it for it in before.disturbances if it.room in (*before.ended, "slices")),
    )
