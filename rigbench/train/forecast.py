"""How would the ways of training a model compare on hardware that is not here? Predicted, row by row."""

from __future__ import annotations

import time

import msgspec

from rigbench.core import on
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, Figure
from rigbench.job import Job
from rigbench.model.recipe import Precision, Recipe
from rigbench.predict import capacity as fitting
from rigbench.predict import ceilings, steptime
from rigbench.predict.memory import Predictor
from rigbench.predict.record import Ceilings, StepTime, Target
from rigbench.store import now
from rigbench.train import choices as arm_choices
from rigbench.train import eight_bit
from rigbench.train import table as arm_table
from rigbench.train import verdict as findings
from rigbench.train.choices import Asked
from rigbench.train.record import ArmRow, Arms

MICRO_BATCH = 8  # the default on a GPU


def run(job: Job, asked: Asked) -> None:
    """The table of arms, every figure predicted; kept in the job.

    Raises:
        RigbenchError: no profile of that name, or no arm fits (exit 3).
    """
    assert asked.on is not None
    Forecast(job, asked, asked.on).fill()


class Forecast:
    """The arms of one model on a rig named by --on."""

    def __init__(self, job: Job, asked: Asked, name: str) -> None:
        self.job, self.asked, self.name = job, asked, name
        rig = on.rig(name)
        self.place: Target = fitting.target(job, name)
        self.ceilings: Ceilings | Absent = ceilings.from_rig(rig)
        self.predictor: Predictor = fitting.predictor_of(job)
        self.precision: Precision = fitting.arm_precision(asked.base.precision, self.place)
        several = rig.count > 1 and not asked.strategy_given
        base = msgspec.structs.replace(asked.base, precision=self.precision)
        self.base: Recipe = msgspec.structs.replace(base, strategy="ddp") if several else base
        self._started_at, self._started = now(), time.perf_counter()

    def fill(self) -> None:
        self.job.progress.stage(f"train-probe {self.asked.options.model.name} on {self.name}, predicted", 10)
        self.base = msgspec.structs.replace(self.base, micro_batch=self._micro_batch())
        arms = arm_choices.wanted(self.base, self.asked.mode, self.asked.cross)
        rows = []
        for index, arm in enumerate(arms):
            self.job.progress.update(index / len(arms), arm_choices.label(arm, self.base))
            rows.append(self._row(arm))
        if all(row.outcome == "skipped" for row in rows):
            raise RigbenchError(
                f"no arm of {self.asked.options.model.name} can be trained on {self.name}: {rows[0].reason}",
                f"`rigbench capacity --on {self.name}` tells what fits",
                NOTHING,
            )
        table = arm_table.compared(self._table(tuple(rows)), ())
        self.job.keep(arms=table, findings=findings.diagnose(table, ()))

    def _table(self, rows: tuple[ArmRow, ...]) -> Arms:
        tokens = self._resolved(self.base).tokens_per_step(self.asked.options.model)
        steps = arm_table.TOKENS_PER_PARAMETER * self.asked.options.model.total_parameters / tokens
        return Arms(
            method=steptime.METHOD,
            started_at=self._started_at,
            seconds=time.perf_counter() - self._started,
            model=self.asked.options.model,
            on=self.place.name,
            rows=rows,
            planned_steps=Figure(steps, "predicted", arm_table.PLAN),
            eight_bit_from=eight_bit.pays_from(
                self.predictor, self.asked.options.model, self._resolved(self.base), self.place
            )
            if findings.has_eight_bit(rows)
            else Absent("no arm has 8-bit states"),
        )

    def _micro_batch(self) -> int:
        """What was asked for; for auto the largest that fits; else 8, or the largest power of two below that fits."""
        if self.base.micro_batch:
            return self.base.micro_batch
        found = self.predictor.largest_micro_batch(self.asked.options.model, self._resolved(self.base), self.place)
        if isinstance(found, Absent):
            return 1
        if self.asked.find_micro_batch:
            return found.value
        return int(min(MICRO_BATCH, 1 << (found.value.bit_length() - 1)))

    def _resolved(self, arm: Recipe) -> Recipe:
        precision = self.precision if arm.precision == "auto" else arm.precision
        ranks = 1 if arm.strategy == "single" else self.place.count
        return msgspec.structs.replace(arm, micro_batch=arm.micro_batch or 1, precision=precision, ranks=ranks)

    def _row(self, arm: Recipe) -> ArmRow:
        row = ArmRow(
            label=arm_choices.label(arm, self.base),
            recipe=arm,
            outcome="skipped",
            slice=Absent("predicted: nothing was run"),
        )
        reason = self._why_not(arm)
        if reason:
            return msgspec.structs.replace(row, reason=reason)
        recipe = self._resolved(arm)
        memory = self.predictor.predict(self.asked.options.model, recipe, self.place)
        row = msgspec.structs.replace(row, memory=memory, peak_bytes=memory.process)
        if not memory.fits:
            return msgspec.structs.replace(row, reason=arm_choices.shortfall(memory))
        return msgspec.structs.replace(row, outcome="predicted", time=self._time(recipe))

    def _why_not(self, arm: Recipe) -> str:
        if arm.strategy in ("data-parallel", "accelerate"):
            return "predicted as ddp"
        return arm_choices.why_not(arm, self.base, self.place.kind, self.place.count)

    def _time(self, recipe: Recipe) -> StepTime | Absent:
        if isinstance(self.ceilings, Absent):
            return self.ceilings
        try:
            return steptime.predict(self.asked.options.model, recipe, self.ceilings)
        except RigbenchError as error:
            return Absent(str(error))
