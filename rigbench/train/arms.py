"""How do the ways of training one model compare here? Each arm planned by prediction, run in a clean process, kept."""

from __future__ import annotations

import time
from dataclasses import replace

import msgspec

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.job import Interrupted, Job
from rigbench.machine import host
from rigbench.model.recipe import Precision, Recipe
from rigbench.predict import capacity as fitting
from rigbench.predict import cards, ceilings, steptime
from rigbench.predict.memory import Predictor
from rigbench.predict.record import Ceilings, StepTime, Target, VramPrediction
from rigbench.store import now
from rigbench.topology.verdict import worst_first
from rigbench.train import choices as arm_choices
from rigbench.train import eight_bit, micro_batch
from rigbench.train import forecast as arm_forecast
from rigbench.train import ranks_stage as train_ranks
from rigbench.train import stage as train
from rigbench.train import table as arm_table
from rigbench.train import verdict as findings
from rigbench.train.choices import Asked
from rigbench.train.probe import DEFAULT_MICRO_BATCH, METHOD, Options
from rigbench.train.record import ArmRow, Arms, MicroBatchSearch, Slice

# At most and at least so long, where several arms are to be compared: (usual arms, all arms).
SHORTEST_SECONDS, LONGEST_SECONDS = {"usual": 12.0, "one": 25.0, "all": 4.0}, {"usual": 45.0, "one": 80.0, "all": 7.0}


def run(job: Job, asked: Asked) -> None:
    """One arm as a slice, or several as a table; kept in the job after each.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
        RigbenchError: a GPU is in use, bad input, or not one arm could be measured (exit 3).
    """
    if asked.on is not None:
        arm_forecast.run(job, asked)
        return
    if not asked.share:
        refuse_busy(job, asked.options.device)
    if not asked.several:
        result = measure(job, asked, asked.base)
        train_ranks.alone(job, result)
        return
    Table(job, asked).fill()


def refuse_busy(job: Job, device: str) -> None:
    """
    Raises:
        RigbenchError: another process computes on a GPU that would be measured.
    """
    if device == "cpu":
        return
    for gpu in job.gpus:
        listed = gpu.processes if isinstance(gpu.processes, tuple) else ()
        others = [process for process in listed if process.kind != "graphics"]
        if others:
            name = others[0].name if isinstance(others[0].name, str) else "a process"
            raise RigbenchError(
                f"GPU{gpu.index} is in use by {name} (pid {others[0].pid})",
                "wait for it or end it, or measure beside it with --share",
                NOTHING,
            )


def options_of(asked: Asked, arm: Recipe) -> Options:
    """The probe's options for an arm."""
    mode = "all" if asked.cross else asked.mode
    return msgspec.structs.replace(
        asked.options,
        recipe=arm,
        shortest_seconds=SHORTEST_SECONDS[mode],
        longest_seconds=LONGEST_SECONDS[mode],
        scaling=not asked.several,
    )


def measure(job: Job, asked: Asked, arm: Recipe) -> Slice | Skipped:
    """One arm's slice, on one device or in ranks; kept in the job.

    Raises:
        Interrupted: the user said stop; the steps so far are saved.
        RigbenchError: bad input, or it cannot run here.
    """
    options = options_of(asked, arm)
    if arm.strategy in ("single", "data-parallel"):
        return train.run(job, options, asked.watts)
    return train_ranks.run(job, options, asked.watts, asked.world)


def kind_of(job: Job, device: str) -> str:
    return "cpu" if device.startswith("cpu") or not job.gpus else "cuda"


def target_of(job: Job, device: str) -> Target | Absent:
    """What is predicted for: the GPUs, or the host's memory."""
    try:
        if kind_of(job, device) == "cpu":
            return cards.of_host(host.memory(job.rig.sysfs))
        return fitting.target(job, None)
    except (ValueError, RigbenchError) as error:
        return Absent(str(error))


class Table:
    """The arms of one model, filled row by row."""

    def __init__(self, job: Job, asked: Asked) -> None:
        self.job, self.asked = job, asked
        self.kind = kind_of(job, asked.options.device)
        self.target = target_of(job, asked.options.device)
        self.predictor = fitting.predictor_of(job)
        self.ceilings = stored_ceilings(job, self.kind)
        self.base = asked.base
        self.rows: list[ArmRow] = []
        self.search: MicroBatchSearch | None = None
        self.control: float | Absent = Absent("the base arm was not run again")
        self.eight_bit_from: Figure | Absent = Absent("not asked")
        self._started_at, self._started = now(), time.perf_counter()

    def fill(self) -> None:
        try:
            self._fill()
            self._ask_when_eight_bits_pay()
        finally:
            self._keep()
        if not any(row.outcome == "measured" for row in self.rows):
            raise RigbenchError(f"not one arm could be measured: {self.rows[0].reason}", "", NOTHING)

    def _fill(self) -> None:
        if self.asked.find_micro_batch:
            self._find_micro_batch()
        elif not self.base.micro_batch:
            self.base = msgspec.structs.replace(self.base, micro_batch=self._default_micro_batch())
        self._add(self.base)
        self._resolve()
        for arm in arm_choices.wanted(self.base, self.asked.mode, self.asked.cross)[1:]:
            self._add(arm)
        if len(self.rows) > 1 and self.rows[0].outcome == "measured":
            self._run_control()

    def _resolve(self) -> None:
        """What the base arm's slice chose for itself holds for all."""
        result = self._slice(self.rows[0])
        if result is None:
            precision: Precision = "bf16" if self.base.precision == "auto" else self.base.precision
            self.base = msgspec.structs.replace(self.base, precision=precision)
        else:
            self.base = msgspec.structs.replace(
                self.base, precision=result.recipe.precision, micro_batch=result.recipe.micro_batch
            )
        row = msgspec.structs.replace(self.rows[0], recipe=self.base, label=self.base.words)
        self.rows[0] = (
            row if isinstance(row.time, StepTime) else msgspec.structs.replace(row, time=self._time(self.base))
        )

    def _add(self, arm: Recipe) -> None:
        """A row, measured or with the reason why not."""
        row = ArmRow(
            label=arm_choices.label(arm, self.base), recipe=arm, outcome="skipped", slice=Absent("it did not run")
        )
        self.rows.append(row)
        reason = arm_choices.why_not(arm, self.base, self.kind, len(self.job.gpus))
        if reason:
            self.rows[-1] = msgspec.structs.replace(row, reason=reason)
            return
        row = msgspec.structs.replace(row, memory=self._memory(arm), time=self._time(arm))
        if isinstance(row.memory, VramPrediction) and not row.memory.fits:
            self.rows[-1] = msgspec.structs.replace(row, reason=arm_choices.shortfall(row.memory))
            return
        self.rows[-1] = self._measured(row)
        self._keep()

    def _measured(self, row: ArmRow) -> ArmRow:
        try:
            result = measure(self.job, self.asked, row.recipe)
        except RigbenchError as error:
            if error.exit_code != NOTHING:
                raise
            self.job.keep(slices=(*self.job.run.slices, Skipped("train", f"{row.label}: {error}")))
            return msgspec.structs.replace(row, reason=str(error))
        except Interrupted:
            self.rows[-1] = self._with_slice(row, self.job.run.slices[-1])
            raise
        return self._with_slice(row, result)

    def _with_slice(self, row: ArmRow, result: Slice | Skipped) -> ArmRow:
        if isinstance(result, Skipped):
            return msgspec.structs.replace(row, reason=result.reason)
        place = len(self.job.run.slices) - 1
        peak = arm_table.peak(result)
        return msgspec.structs.replace(row, outcome="measured", slice=place, peak_bytes=peak)

    def _slice(self, row: ArmRow) -> Slice | None:
        found = self.job.run.slices[row.slice] if isinstance(row.slice, int) else None
        return found if isinstance(found, Slice) else None

    def _memory(self, arm: Recipe) -> VramPrediction | Absent:
        if isinstance(self.target, Absent):
            return self.target
        self.job.progress.update(0.0, f"predicting memory: {arm_choices.label(arm, self.base)}")
        return predicted(self.predictor, self.target, arm, self.asked, ranks_of(arm, self.target, self.kind))

    def _time(self, arm: Recipe) -> StepTime | Absent:
        """A step by the ceilings that this rig's probes have measured, before it is run: what they do not explain."""
        if isinstance(self.ceilings, Absent) or isinstance(self.target, Absent):
            return self.ceilings if isinstance(self.ceilings, Absent) else Absent("its memory is not known")
        if arm.precision == "auto":
            return Absent("its precision is still to be chosen")
        ranks = ranks_of(arm, self.target, self.kind)
        if ranks > 1 and self.kind == "cpu":
            return Absent("ranks share this CPU")
        recipe = msgspec.structs.replace(arm, ranks=ranks)
        try:
            return steptime.predict(self.asked.options.model, recipe, self.ceilings)
        except RigbenchError as error:
            return Absent(str(error))

    def _default_micro_batch(self) -> int:
        """The device's default, or the largest power of two below it that is predicted to fit."""
        wish = DEFAULT_MICRO_BATCH[self.kind]
        while wish > 1:
            memory = self._memory(msgspec.structs.replace(self.base, micro_batch=wish))
            if isinstance(memory, Absent) or memory.fits:
                break
            wish //= 2
        return wish

    def _find_micro_batch(self) -> None:
        if isinstance(self.target, Absent):
            raise RigbenchError(f"--micro-batch auto: {self.target.reason}", "give a number", NOTHING)
        recipe = msgspec.structs.replace(
            self.base,
            micro_batch=1,
            precision=fitting.arm_precision(self.base.precision, self.target),
            ranks=ranks_of(self.base, self.target, self.kind),
        )

        def measured(size: int) -> Slice | Skipped:
            arm = msgspec.structs.replace(self.base, micro_batch=size)
            return measure(self.job, replace(self.asked, mode="all"), arm)

        self.search, found = micro_batch.find(self.asked.options.model, recipe, self.predictor, self.target, measured)
        self.base = msgspec.structs.replace(self.base, micro_batch=self.search.chosen, precision=found.precision)

    def _ask_when_eight_bits_pay(self) -> None:
        if isinstance(self.target, Absent) or not findings.has_eight_bit(self.rows):
            return
        self.job.progress.update(1.0, "from which size 8-bit states pay")
        known = next(row.memory for row in self.rows if isinstance(row.memory, VramPrediction))
        self.eight_bit_from = eight_bit.pays_from(self.predictor, known.model, known.recipe, self.target)

    def _run_control(self) -> None:
        """The base arm once more: what it differs by is what the machine, not the arm, does to a rate."""
        first = self._slice(self.rows[0])
        assert first
        self.job.progress.update(0.0, "the base arm once more")
        try:
            again = measure(self.job, self.asked, self.base)
        except RigbenchError as error:
            self.control = Absent(str(error))
            return
        if isinstance(again, Slice):
            self.control = again.tokens_per_s.value / first.tokens_per_s.value

    def _keep(self) -> None:
        if not self.rows:
            return
        parameters = self.asked.options.model.total_parameters
        base = self._slice(self.rows[0])
        table = Arms(
            method=METHOD,
            started_at=self._started_at,
            seconds=time.perf_counter() - self._started,
            model=self.asked.options.model,
            on="here",
            rows=tuple(self.rows),
            control=self.control,
            planned_steps=Figure(
                arm_table.TOKENS_PER_PARAMETER * parameters / base.tokens_per_step,
                "predicted",
                arm_table.PLAN,
            )
            if base
            else Absent("the base arm was not measured"),
            eight_bit_from=self.eight_bit_from,
            micro_batch=self.search or msgspec.UNSET,
        )
        table = arm_table.compared(table, self.job.run.slices)
        found = findings.diagnose(table, self.job.run.slices)
        others = [item for item in self.job.run.findings if item.code not in findings.CODES]
        self.job.keep(arms=table, findings=worst_first((*others, *found)))


def predicted(predictor: Predictor, target: Target, arm: Recipe, asked: Asked, ranks: int) -> VramPrediction | Absent:
    """An arm's memory on each card, or that of all ranks where they share the host's."""
    recipe = msgspec.structs.replace(
        arm,
        micro_batch=arm.micro_batch or DEFAULT_MICRO_BATCH[target.kind],
        precision=fitting.arm_precision(arm.precision, target),
        ranks=ranks,
    )
    return predictor.predict(asked.options.model, recipe, target)


def stored_ceilings(job: Job, kind: str) -> Ceilings | Absent:
    """Of this rig's stored probes, this run's own first."""
    found = ceilings.from_runs(job.history())
    return Absent(f"only a {found.kind}'s are stored") if isinstance(found, Ceilings) and found.kind != kind else found


def ranks_of(arm: Recipe, target: Target, kind: str) -> int:
    if arm.strategy == "single":
        return 1
    return train_ranks.CPU_RANKS if kind == "cpu" else target.count
