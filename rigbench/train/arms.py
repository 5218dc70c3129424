"""Compares the arms of a model: each planned by prediction, then run in a clean process, or predicted for --on."""

from __future__ import annotations

import time
from dataclasses import replace

import msgspec

from rigbench.core import profiles, units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.job import Interrupted, Job
from rigbench.machine.cuda_map import Cards
from rigbench.model import shape
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.predict import capacity, cards, ceilings, steptime, usual
from rigbench.predict.loop import device_bytes, weights_of
from rigbench.predict.memory import Predictor
from rigbench.predict.record import Ceilings, Largest, StepTime, Target, VramPrediction
from rigbench.store import now
from rigbench.topology.verdict import worst_first
from rigbench.train import micro_batch, slices, verdict
from rigbench.train.plan import Mode, Plan, label, why_not
from rigbench.train.record import DEFAULT_MICRO_BATCH, METHOD, AnySlice, ArmRow, Arms, MicroBatchSearch, Slice

SAVED_SHARE = 0.10  # of the peak: from where on 8-bit states pay
MOST_PARAMETERS = 20_000_000_000


def run(job: Job, plan: Plan) -> None:
    """One arm as a slice, or several as a table; kept in the job after each.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
        RigbenchError: no profile of that name, a GPU is in use, bad input, or no variant could be measured (exit 3).
    """
    if plan.on is None:
        cards = job.cards(plan.options.device)
        plan = plan.as_a_full_run(cards.alike)
        if plan.cards and plan.cards != cards:
            job.warn(f"{plan.cards.words} train: {plan.cards.why}")
        its = plan.cards or cards
        if not plan.share:
            refuse_busy(its.first if all(recipe.strategy == "single" for recipe in plan.recipes) else its)
    if plan.on is not None or plan.several:
        Table(job, plan).fill()
        return
    base = plan.base
    if plan.cards and not base.micro_batch:  # ranks do not halve it by themselves, as a single process does
        base = Table(job, plan).with_micro_batch()
    result = slices.run(job, plan.options_of(base), plan.watts, plan.world, plan.cards)
    if isinstance(result, Slice):
        slow = () if job.has_no_answer else verdict.exchange_bound(result, result.recipe.strategy)
        job.keep(findings=worst_first((*job.run.findings, *slow)))


def refuse_busy(its: Cards) -> None:
    """
    Raises:
        RigbenchError: another process computes on a GPU that would be measured.
    """
    for gpu in its.gpus:
        listed = gpu.processes if isinstance(gpu.processes, tuple) else ()
        others = [process for process in listed if process.kind != "graphics"]
        if others:
            name = others[0].name if isinstance(others[0].name, str) else "a process"
            raise RigbenchError(
                f"GPU{gpu.index} is in use by {name} (pid {others[0].pid})",
                "wait for it or end it, or measure beside it with --share",
                NOTHING,
            )


def target_of(job: Job, its: Cards) -> Target | Absent:
    """What is predicted for: these GPUs, or the host's memory."""
    try:
        return capacity.target(job, None, its)
    except RigbenchError as error:
        return Absent(str(error))


def stored_ceilings(job: Job, its: Cards) -> Ceilings | Absent:
    """Of this rig's stored probes, this run's own first."""
    kind = "cuda" if its.gpus else "cpu"
    limits = ceilings.from_runs(job.newest(*ceilings.ROOMS), its.gpus)
    if isinstance(limits, Ceilings) and limits.kind != kind:
        return Absent(f"only a {limits.kind}'s are stored")
    return limits


class Table:
    """The arms of one model, filled row by row: measured here, or predicted for the hardware of --on."""

    def __init__(self, job: Job, plan: Plan) -> None:
        self.job, self.plan, self.model, self.base = job, plan, plan.model, plan.base
        self.predictor = capacity.predictor_of(job)
        self.cards = Cards() if plan.on else plan.cards or job.cards(plan.options.device)
        self.targets: dict[bool, Target | Absent]  # by whether one card trains alone
        if plan.on is None:
            its = self.cards
            self.kind, self.count = "cuda" if its.gpus else "cpu", slices.rank_count(its)
            self.targets = {alone: target_of(job, its.first if alone else its) for alone in (True, False)}
            self.ceilings = {alone: stored_ceilings(job, its.first if alone else its) for alone in (True, False)}
        else:
            rig, target = profiles.rig_named(plan.on), capacity.target(job, plan.on, Cards())
            self.kind, self.count = target.kind, target.count
            one = msgspec.structs.replace(target, communication=cards.communication(1))
            self.targets = {True: one if target.kind == "cuda" else target, False: target}
            self.ceilings = dict.fromkeys((True, False), ceilings.from_rig(rig))
            several = rig.count > 1 and not plan.strategy_given
            self.base = msgspec.structs.replace(
                plan.base,
                precision=capacity.arm_precision(plan.base.precision, target, plan.base.adapter),
                strategy="ddp" if several else plan.base.strategy,
                compiled=self.kind == "cuda" and plan.base.adapter != "qlora"
                if isinstance(plan.choices.compiled, Absent)
                else plan.base.compiled,
            )
        self.base = self._among_ranks(self.base)
        self.rows: list[ArmRow] = []
        self.usual = False
        self.search: MicroBatchSearch | Absent = Absent("not searched for")
        self.control: float | Absent = Absent("the baseline was not run again")
        self.eight_bit_from: Figure | Absent = Absent("not asked")
        self._started_at, self._started = now(), time.perf_counter()

    def fill(self) -> None:
        predicted = ", memory predicted" if self.plan.on is None else f" on {self.plan.on}, predicted"
        self.job.progress.stage(f"train-probe {self.model.name}{predicted}", 10)
        try:
            self._fill()
        finally:
            self._keep()
        if any(row.outcome != "skipped" for row in self.rows):
            return
        if self.plan.on is None:
            raise RigbenchError(f"not one variant could be measured: {self.rows[0].reason}", "", NOTHING)
        raise RigbenchError(
            f"no variant of {self.model.name} can be trained on {self.plan.on}: {self.rows[0].reason}",
            f"{self._what_fits()}`rigbench capacity --on {self.plan.on}` shows what fits",
            NOTHING,
        )

    def _what_fits(self) -> str:
        memory = self.rows[0].memory
        if not isinstance(memory, VramPrediction):
            return ""
        most = self.predictor.largest_micro_batch(self.model, memory.recipe, memory.target)
        return f"--micro-batch {most.value} is expected to fit; " if isinstance(most, Largest) else ""

    def _fill(self) -> None:
        if self.plan.find_micro_batch:
            self._find_micro_batch()
        elif not self.base.micro_batch:
            self.base = self.with_micro_batch()
        self._add(self.base)
        if self.plan.on is None:
            self._resolve()
        for recipe in replace(self.plan, base=self.base).recipes[1:]:
            self._add(self._among_ranks(recipe))
        if self.plan.on is None and len(self.rows) > 1 and self.rows[0].outcome == "measured":
            self._run_control()
        base = self.rows[0].memory
        if isinstance(base, VramPrediction) and any(verdict.eight_bit_saves_little(self._table(), ())):
            self.job.progress.update(1.0, "from which size 8-bit states pay")
            self.eight_bit_from = eight_bit_pays_from(self.predictor, self.model, base.recipe, base.target)

    def _target(self, recipe: Recipe) -> Target | Absent:
        return self.targets[recipe.strategy == "single"]

    def _among_ranks(self, recipe: Recipe) -> Recipe:
        one = recipe.strategy in ("single", "data-parallel")
        return msgspec.structs.replace(recipe, ranks=1 if one else self.count)

    def _find_micro_batch(self) -> None:
        target = self._target(self.base)
        if isinstance(target, Absent):
            raise RigbenchError(f"--micro-batch auto: {target.reason}", "give a number", NOTHING)
        recipe = self._predictable(msgspec.structs.replace(self.base, micro_batch=1), target)
        if self.plan.on is not None:
            largest = self.predictor.largest_micro_batch(self.model, recipe, target)
            size = 1 if isinstance(largest, Absent) else largest.value
            self.base = msgspec.structs.replace(self.base, micro_batch=size)
            return

        def measured(size: int) -> AnySlice | Skipped:
            return self._run(msgspec.structs.replace(self.base, micro_batch=size), "all")

        self.search, fastest = micro_batch.find(self.model, recipe, self.predictor, target, measured)
        self.base = msgspec.structs.replace(self.base, micro_batch=self.search.chosen, precision=fastest.precision)

    def with_micro_batch(self) -> Recipe:
        """The base with the device's default, or the largest power of two below it that is predicted to fit; elsewhere
        as budget and capacity take it."""
        target = self._target(self.base)
        if self.plan.on is not None and isinstance(target, Target):
            said = msgspec.structs.replace(
                self.plan.choices, precision=self.base.precision, strategy=self.base.strategy
            )
            its = usual.recipe(self.predictor, self.model, said, target)
            self.usual = isinstance(its, Recipe)
            return its if isinstance(its, Recipe) else msgspec.structs.replace(self.base, micro_batch=1)
        size = DEFAULT_MICRO_BATCH[self.kind]
        while size > 1:
            memory = self._memory(msgspec.structs.replace(self.base, micro_batch=size))
            if isinstance(memory, Absent) or memory.fits:
                break
            size //= 2
        return msgspec.structs.replace(self.base, micro_batch=size)

    def _resolve(self) -> None:
        """What the base arm's slice chose for itself holds for all."""
        result = self._slice(self.rows[0])
        if result is not None:
            precision, size = result.recipe.precision, result.recipe.micro_batch
            self.base = msgspec.structs.replace(self.base, precision=precision, micro_batch=size)
        elif self.base.precision == "auto":
            self.base = msgspec.structs.replace(self.base, precision="bf16")
        row = msgspec.structs.replace(self.rows[0], recipe=self.base, label=self.base.words)
        self.rows[0] = (
            row if isinstance(row.time, StepTime) else msgspec.structs.replace(row, time=self._time(self.base))
        )

    def _add(self, recipe: Recipe) -> None:
        """A row, measured or predicted, or with the reason why not."""
        row = ArmRow(label=label(recipe, self.base), recipe=recipe, outcome="skipped", slice=Absent("it did not run"))
        self.rows.append(row)
        reason = why_not(recipe, self.base, self.kind, self.count, self.cards.why, here=self.plan.on is None)
        if self.plan.on is not None and recipe.strategy in ("data-parallel", "accelerate"):
            reason = "predicted as ddp"
        if not reason:
            self.job.progress.update(0.0, f"predicting memory: {row.label}")
            memory = self._memory(recipe)
            row = msgspec.structs.replace(row, memory=memory, time=self._time(recipe))
            if isinstance(memory, VramPrediction) and not memory.fits:
                short, room = (units.format_bytes(size) for size in (memory.short_bytes, memory.room_bytes))
                at = f"at micro-batch {memory.recipe.micro_batch}"
                reason = f"predicted not to fit: at least {short} more than the {room} there, {at}"
                if self.plan.on is not None and memory.unsure:
                    self.job.warn(f"{row.label} may not fit: {short} more than the {room} there, {at}")
                    reason = ""
            elif self.plan.on is not None and isinstance(memory, VramPrediction) and memory.unsure:
                self.job.warn(f"{row.label}: {units.format_bytes(memory.process.value)}, {memory.unsure}")
        if reason:
            self.rows[-1] = msgspec.structs.replace(row, reason=reason)
            return
        if self.plan.on is None:
            self.rows[-1] = self._measured(row)
        elif isinstance(row.memory, VramPrediction):
            self.rows[-1] = msgspec.structs.replace(row, outcome="predicted", peak_bytes=row.memory.process)
        self._keep()

    def _memory(self, recipe: Recipe) -> VramPrediction | Absent:
        """On each card, or of all ranks where they share the host's."""
        if isinstance(target := self._target(recipe), Absent):
            return target
        return self.predictor.predict(self.model, self._predictable(recipe, target), target, self.plan.told.program)

    def _predictable(self, recipe: Recipe, target: Target) -> Recipe:
        """With nothing left to be chosen."""
        recipe = msgspec.structs.replace(
            recipe,
            micro_batch=recipe.micro_batch or DEFAULT_MICRO_BATCH[self.kind],
            precision=capacity.arm_precision(recipe.precision, target, recipe.adapter),
        )
        return self._as_ranks(recipe)

    def _as_ranks(self, recipe: Recipe) -> Recipe:
        """DataParallel's cards as ranks, of which each is given its part of the batch."""
        ranks = 1 if recipe.strategy == "single" else self.count
        parts = ranks if recipe.strategy == "data-parallel" else 1
        return msgspec.structs.replace(recipe, ranks=ranks, micro_batch=-(-recipe.micro_batch // max(1, parts)))

    def _time(self, recipe: Recipe) -> StepTime | Absent:
        """A step by the ceilings that this rig's probes have measured, before it is run: what they do not explain."""
        limits = self.ceilings[recipe.strategy == "single"]
        if isinstance(limits, Absent):
            return limits
        if recipe.precision == "auto":
            return Absent("its precision is still to be chosen")
        recipe = self._as_ranks(recipe)
        if recipe.ranks > 1 and self.kind == "cpu":
            return Absent("ranks share this CPU")
        try:
            return steptime.predict(self.model, recipe, limits, self.plan.told)
        except RigbenchError as error:
            return Absent(str(error))

    def _run(self, recipe: Recipe, mode: Mode | None = None) -> AnySlice | Skipped:
        its = self.plan.cards.first if self.plan.cards and recipe.strategy == "single" else self.plan.cards
        return slices.run(self.job, self.plan.options_of(recipe, mode), self.plan.watts, self.plan.world, its)

    def _measured(self, row: ArmRow) -> ArmRow:
        try:
            result = self._run(row.recipe)
        except RigbenchError as error:
            if error.exit_code != NOTHING:
                self.rows.pop()
                raise
            self.job.keep(slices=(*self.job.run.slices, Skipped("train", f"{row.label}: {error}")))
            return msgspec.structs.replace(row, reason=str(error))
        except Interrupted:
            self.rows[-1] = self._with_slice(row, self.job.run.slices[-1])
            raise
        return self._with_slice(row, result)

    def _with_slice(self, row: ArmRow, result: AnySlice | Skipped) -> ArmRow:
        if isinstance(result, Skipped):
            return msgspec.structs.replace(row, reason=result.reason)
        at = len(self.job.run.slices) - 1
        return msgspec.structs.replace(row, outcome="measured", slice=at, peak_bytes=result.peak)

    def _slice(self, row: ArmRow) -> Slice | None:
        result = self.job.run.slices[row.slice] if isinstance(row.slice, int) else None
        return result if isinstance(result, Slice) else None

    def _run_control(self) -> None:
        """The base arm once more: what it differs by is what the machine, not the arm, does to a rate."""
        first = self._slice(self.rows[0])
        assert first
        self.job.progress.update(0.0, "the baseline once more")
        try:
            again = self._run(self.base)
        except RigbenchError as error:
            self.control = Absent(str(error))
            return
        if isinstance(again, Slice):
            self.control = again.tokens_per_s.value / first.tokens_per_s.value

    def _keep(self) -> None:
        """Store what there is; of predictions only what is an answer."""
        if not self.rows or (self.plan.on is not None and all(row.outcome == "skipped" for row in self.rows)):
            return
        results = self.job.run.slices
        table = verdict.compared(self._table(), results)
        others = [item for item in self.job.run.findings if item.code not in verdict.DIAGNOSES]
        found = () if self.job.has_no_answer else verdict.diagnose(table, results)
        self.job.keep(arms=table, findings=worst_first((*others, *found)))

    def _table(self) -> Arms:
        base, planned = self._slice(self.rows[0]), verdict.TOKENS_PER_PARAMETER * self.model.total_parameters
        tokens = base.items_per_step if base else self.base.tokens_per_step(self.model) if self.plan.on else 0
        return Arms(
            method=METHOD if self.plan.on is None else steptime.METHOD,
            started_at=self._started_at,
            seconds=time.perf_counter() - self._started,
            model=self.model,
            on="here" if self.plan.on is None else profiles.rig_named(self.plan.on).name,
            rows=tuple(self.rows),
            control=self.control,
            planned_steps=Figure(planned / tokens, "predicted", verdict.PLAN)
            if tokens
            else Absent("the baseline was not measured"),
            eight_bit_from=self.eight_bit_from,
            micro_batch=self.search,
            usual=self.usual,
        )


def eight_bit_pays_from(predictor: Predictor, model: Model, recipe: Recipe, target: Target) -> Figure | Absent:
    """Parameters of the smallest model of the series, at one sequence, whose peak 8-bit states cut by a tenth.

    States are counted exactly, peaks predicted; the share grows with the size, so that sizes are halved between.
    """
    series = shape.series("llama" if model.shape.style == "llama" else "diy")
    models = [
        capacity.with_sequence(other, model.shape.sequence)
        for other in capacity.sizes(series)
        if model.total_parameters < other.total_parameters <= MOST_PARAMETERS
    ]
    plain = msgspec.structs.replace(recipe, optimizer="adamw")

    def pays(other: Model) -> bool:
        weights = weights_of(other.shape, recipe.weight_bytes)
        full, eight = device_bytes("adamw", weights), device_bytes("adamw8bit", weights)
        return full - eight >= SAVED_SHARE * predictor.of_one_sequence(other, plain, target).process.value

    low, high = 0, len(models)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if pays(models[middle]) else (middle + 1, high)
    if low == len(models):
        return Absent("at no size up to 20B")
    return Figure(float(models[low].total_parameters), "predicted", f"the series {series.name}, one sequence at a time")
