"""The command that runs every probe: run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rigbench.budget.record import PriceOptions
from rigbench.command import Common, command
from rigbench.everything.record import Options
from rigbench.work.record import WattOptions

if TYPE_CHECKING:
    from rigbench.job import Job


@command("device", "keep_disturbed")
def run(common: Common, options: Options, prices: PriceOptions, watts: WattOptions) -> int:
    """Every probe, one record: the rig, its copies, matmuls and training slices, and what a budget will cost.

    rigbench run --quick                      three sizes of model, shorter probes, no heat test
    rigbench run --price '0.30 EUR'           everything, with your own price of electricity
    rigbench run --quick --json > rig.json    for a script
    """
    from rigbench.budget import command as budget
    from rigbench.budget.plan import request
    from rigbench.budget.record import Options as BudgetOptions
    from rigbench.core.errors import NOTHING, RigbenchError
    from rigbench.doctor import diagnosis
    from rigbench.everything.plan import Stage, measure, whole_run
    from rigbench.model.recipe import RecipeOptions
    from rigbench.report import screen
    from rigbench.usable import BUSY

    plan = BudgetOptions(flops=options.flops, series=options.series)
    asked = request(plan, RecipeOptions(), watts, prices.electricity)

    def work(job: Job) -> None:
        job.cards(common.device)  # a device that is not there is refused before anything is measured
        stages = whole_run(asked.models, options.quick, common.device, watts)
        measure(job, stages)
        measure(job, [Stage("budget", answer)])
        diagnosis.everything(job, prices.electricity)

    def answer(job: Job) -> None:
        if job.has_no_answer:
            raise RigbenchError(f"no hours: {BUSY} while it was measured", exit_code=NOTHING)
        budget.run(job, asked, common.device)

    return common.answer(work, screen.show)
