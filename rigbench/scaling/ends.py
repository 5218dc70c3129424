"""When a run of several trainings will have ended: by its own rate so far, and by a stored budget's."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rigbench.budget.record import Budget, PlanRow
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.core.screen import span
from rigbench.job import Job
from rigbench.model.recipe import Recipe
from rigbench.scaling.record import Options
from rigbench.scaling.sizes import work_of

ALIKE = ("strategy", "ranks", "optimizer", "compiled", "checkpoint_every", "loss_chunks")
LEAST_SHARE = 0.01  # of the FLOP, before a rate is told from it
DAY_SECONDS = 86_400.0


class Ends:
    """Of trainings, one after the other, in which each second makes as many FLOP; `told` are a budget's seconds."""

    def __init__(self, cost: Sequence[float], told: Sequence[Estimate] = ()) -> None:
        self.cost, self.told = list(cost), list(told)
        self.begun, self.first, self.by_then = 0.0, -1.0, ""

    def words(self, place: int, share: float) -> str:
        """ ", all end 14:32, budget 14:20 to 14:41": by this run's rate, and by the budget's; in few characters."""
        its, over = time.time(), (sum(self.cost[:place]) + share * self.cost[place]) / sum(self.cost)
        if self.first < 0:
            self.begun, self.first = its, over
            if self.told:
                left = sum(self.told[place + 1 :], self.told[place] * (1 - share))
                early, late = _clock(its, left.low), _clock(its, left.high)
                self.by_then = f", budget {early}" + (f" to {late}" if late != early else "")
        made = over - self.first
        if made <= LEAST_SHARE:
            return self.by_then
        return f", all end {_clock(its, (its - self.begun) / made * (1 - over))}{self.by_then}"


def _clock(now: float, seconds: float) -> str:
    return time.strftime("%H:%M" if seconds < DAY_SECONDS / 2 else "%a %d %b %H:%M", time.localtime(now + seconds))


def budgeted(job: Job, trainings: Sequence[Options], kind: str) -> tuple[str, list[Estimate]]:
    """What is said of the newest stored budget of this rig that has a rate of each model, trained alike on a CPU or on
    GPUs (`kind`), and by it the seconds of each training's steps; none where there is no such budget.
    """
    for run in job.holding("budget"):
        budget = run.budget
        if not isinstance(budget, Budget) or not isinstance(budget.rig, Absent):
            continue
        rows = {row.model: row for row in (*budget.alone, *budget.series)}
        own, device = budget.configuration.recipe, budget.configuration.device
        if device.kind == kind and all(_known(it, rows, own) for it in trainings):
            told = [work_of(it)[0] / rows[it.slice.model.name].rate.tokens_per_s for it in trainings]
            whole = span(sum(told[1:], told[0]), "seconds")
            return f"budget {run.id}: {whole} of steps, without evaluations and checkpoints", told
    what = "no stored budget of this rig has these models trained in this way (`rigbench scaling plan` makes one)"
    return f"{what}: when they end follows from this run's own rate", []


def _known(options: Options, rows: dict[str, PlanRow], own: Recipe) -> bool:
    its, row = options.slice.recipe, rows.get(options.slice.model.name)
    alike = all(getattr(its, name) == getattr(own, name) for name in ALIKE)
    return alike and its.precision in ("auto", own.precision) and row is not None and row.micro_batch == its.micro_batch
