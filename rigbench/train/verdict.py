"""Compares arms: which is faster by more than noise, which is worth choosing, and what holds a slice back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import msgspec

from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.finding import Cost, Finding, cost, finding
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.predict.record import StepTime, VramPrediction
from rigbench.train.record import FULL_LEVEL, PREDICTED_NOISE, AnySlice, ArmRow, Arms, Compile, Exchange, Slice

Results = Sequence[AnySlice | Skipped]

TOKENS_PER_PARAMETER = 20.0  # Hoffmann 2022, rounded: how long the full run is taken to be
PLAN = f"{TOKENS_PER_PARAMETER:g} tokens a parameter"
METHOD = "ratio of two rates; their intervals and the base variant's second run over its first, added as squares"
LOGITS_SHARE = 0.4  # of the peak, from where on they and nothing else decide the micro-batch
LITTLE_SAVED = 0.10  # of the peak
DATA_SHARE = 0.05  # of the step: what a loader that keeps up takes is a tenth of that
COMMUNICATION_SHARE = 0.15
SMALLER = 0.10  # of the peak: a variant that saves less is not worth a word
ENQUEUE_SHARE = 0.9  # of the passes the host was busy handing kernels over


def compared(table: Arms, slices: Results) -> Arms:
    """The table with speedups over the base arm, the best for speed and for memory, and the pareto front."""
    rates = {row.label: rate for row in table.rows if (rate := _rate(row, slices))}
    first = table.rows[0]
    if first.outcome == "measured":
        base = rates[first.label]
        faster = (
            msgspec.structs.replace(row, speedup=speedup(rates[row.label], base, table.control))
            if row.outcome == "measured"
            else row
            for row in table.rows
        )
        table = msgspec.structs.replace(table, rows=tuple(faster))
    sizes = {row.label: row.peak_bytes.value for row in table.rows if isinstance(row.peak_bytes, Figure)}
    sized = [label for label in rates if label in sizes]

    def ahead(label: str, other: str) -> bool:
        return label != other and is_ahead(rates[label], rates[other], table)

    def beaten(label: str) -> bool:
        """By one that noise leaves as fast and is no larger, and is better in one of both."""
        return any(
            not ahead(label, other)
            and sizes[other] <= sizes[label]
            and (ahead(other, label) or sizes[other] < sizes[label])
            for other in sized
        )

    if not rates:
        return table
    rows = (
        msgspec.structs.replace(row, differs=ahead(row.label, first.label) or ahead(first.label, row.label))
        if {first.label, row.label} <= rates.keys()
        else row
        for row in table.rows
    )
    table = msgspec.structs.replace(table, rows=tuple(rows))
    table = msgspec.structs.replace(table, advice=_advice(table, slices))
    best = max(rates, key=lambda label: rates[label].value)
    alike = [label for label in rates if label != best and not ahead(best, label)]
    return msgspec.structs.replace(
        table,
        fastest=Absent(f"noise leaves no difference between {'; '.join([best, *alike])}") if alike else best,
        least_memory=min(sized, key=lambda label: sizes[label]) if sized else Absent("no memory was read"),
        pareto=tuple(label for label in sized if not beaten(label)),
    )


def speedup(rate: Estimate, base: Estimate, control: float | Absent) -> Estimate:
    """rate/base; `control` tells what equal arms differ by in two processes."""
    if rate is base:
        return Estimate(1.0, 1.0, 1.0, base.level, METHOD, base.n)
    spread = 0.0 if isinstance(control, Absent) else abs(math.log(control))
    equal = Estimate(1.0, math.exp(-spread), math.exp(spread), base.level, METHOD, base.n)
    return msgspec.structs.replace(rate / base * equal, method=METHOD)


def is_ahead(rate: Estimate, other: Estimate, table: Arms) -> bool:
    """Whether one is faster than the other by more than noise; too few samples for a 90 % interval tell nothing."""
    if table.on != "here":
        return rate.value > other.value * (1 + PREDICTED_NOISE)
    return can_tell(rate, other) and speedup(rate, other, table.control).low > 1


def can_tell(rate: Estimate, other: Estimate) -> bool:
    return min(rate.level, other.level) >= FULL_LEVEL


def _advice(table: Arms, slices: Results) -> str:
    """The one variant to take, which no finding speaks against."""
    rates = {row.label: (row, rate) for row in table.rows if (rate := _rate(row, slices))}
    base = table.rows[0]
    if base.label not in rates or len(rates) < 2:
        return ""
    first = rates[base.label][1]
    little = {label for item in eight_bit_saves_little(table, slices) for label in item.where}
    open_to = {label: it for label, it in rates.items() if label not in little}
    faster = [it for it in open_to.values() if is_ahead(it[1], first, table)]
    if faster:
        row, rate = max(faster, key=lambda it: it[1].value)
        ratio = row.speedup if isinstance(row.speedup, Estimate) else rate / first
        exact = units.format_span(ratio.value, ratio.low, ratio.high, "times")
        times = exact if table.on == "here" else f"{units.format_significant(ratio.value, 2)} times"
        longer = "; compiling makes a short run longer" if row.recipe.compiled and not base.recipe.compiled else ""
        return f"take {row.label}: {times} the baseline's speed{longer}"
    smaller = [
        (row.peak_bytes.value, label)
        for label, (row, rate) in open_to.items()
        if isinstance(row.peak_bytes, Figure)
        and isinstance(base.peak_bytes, Figure)
        and row.peak_bytes.value < (1 - SMALLER) * base.peak_bytes.value
        and (table.on != "here" or can_tell(first, rate))
        and not is_ahead(first, rate, table)
    ]
    kept = f"keep the baseline ({base.label}): no variant is faster by more than noise"
    if smaller and isinstance(base.peak_bytes, Figure):
        size, label = min(smaller)
        return f"{kept}; {label} takes {units.format_bytes(base.peak_bytes.value - size)} less at no visible loss"
    return kept


def _rate(row: ArmRow, slices: Results) -> Estimate | None:
    """Measured, or predicted for a rig that is not here."""
    result = _slice(row, slices)
    if result:
        return result.tokens_per_s
    return row.time.tokens_per_s if row.outcome == "predicted" and isinstance(row.time, StepTime) else None


def _slice(row: ArmRow, slices: Results) -> Slice | None:
    result = slices[row.slice] if isinstance(row.slice, int) else None
    return result if isinstance(result, Slice) else None


def diagnose(table: Arms, slices: Results) -> tuple[Finding, ...]:
    """Every finding of a table of arms."""
    return tuple(item for diagnosis in DIAGNOSES.values() for item in diagnosis(table, slices))


def loss_not_finite(table: Arms, slices: Results) -> Iterator[Finding]:
    for row in table.rows:
        result = _slice(row, slices)
        losses = result.steps.loss if result else ()
        steps = [index for index, loss in enumerate(losses) if isinstance(loss, Absent)]
        if steps:
            evidence = f"first at step {steps[0]}, in {len(steps)} of {len(losses)} steps"
            yield finding("loss-not-finite", "warning", [evidence], [row.label], "its rate is real")


def of_slices(slices: Results) -> Iterator[Finding]:
    """What holds each of them back, where no variants were compared."""
    for result in slices:
        if isinstance(result, Slice):
            label = f"training {result.model.name}"
            yield from waits_for_data(result, label)
            yield from waits_for_launches(result, label)
            yield from exchange_bound(result, label)


def data_bound(table: Arms, slices: Results) -> Iterator[Finding]:
    row, result = table.rows[0], _slice(table.rows[0], slices)
    if result:
        yield from waits_for_data(result, row.label)


def waits_for_data(result: Slice, label: str) -> Iterator[Finding]:
    share = result.step_share.get("data", 0.0)
    if share > DATA_SHARE:
        waited = f"{units.format_share(share)} of the step is spent in waiting for batches"
        yield finding("data-bound", "warning", [waited], [label], _faster(result, share), ["rigbench dataloader"])


def launch_bound(table: Arms, slices: Results) -> Iterator[Finding]:
    row, result = table.rows[0], _slice(table.rows[0], slices)
    if result:
        yield from waits_for_launches(result, row.label)


def waits_for_launches(result: Slice, label: str) -> Iterator[Finding]:
    steps, batches = result.steps, result.recipe.accumulation
    pairs = [
        (handed, (steps.forward_seconds[step] + steps.backward_seconds[step]) / batches)
        for step, handed in zip(steps.enqueue_steps, steps.enqueue_seconds, strict=True)
        if step >= result.steady_from
    ]
    if not pairs:
        return
    share = math.fsum(handed for handed, _ in pairs) / math.fsum(passes for _, passes in pairs)
    if share >= ENQUEUE_SHARE:
        evidence = (
            f"the host was handing kernels over for {units.format_share(min(1.0, share))} of the forward and backward "
            f"pass, in {len(pairs)} steps that began with nothing left to do"
        )
        yield finding("launch-bound", "warning", [evidence], [label], "a compiled variant shows how much")


def communication_bound(table: Arms, slices: Results) -> Iterator[Finding]:
    for row in table.rows:
        result = _slice(row, slices)
        if result is not None:
            yield from exchange_bound(result, row.label)


def exchange_bound(result: Slice, label: str) -> Iterator[Finding]:
    """Where more of the step than that is exchange that no computing hides."""
    its, step = result.exchange, result.step_seconds.value
    if not isinstance(its, Exchange) or its.exposed.low <= 0 or its.exposed.value <= COMMUNICATION_SHARE * step:
        return
    share, exposed = its.exposed.value / step, units.format_seconds(its.exposed.value)
    evidence = [f"{exposed} of a step of {units.format_seconds(step)} ({units.format_share(share)})"]
    hosts = sorted(set(its.hosts))
    if len(hosts) > 1:
        crossing = "weights gathered and gradients scattered"
        if not result.recipe.strategy.startswith("fsdp2"):
            sent = result.recipe.weight_bytes * result.model.trained
            rate = units.format_bytes_per_s(sent / its.exposed.value)
            crossing = f"{units.format_bytes(sent)} of gradients, {rate} if the link alone holds it up"
        evidence.append(f"it crosses between the hosts {' and '.join(hosts)}: {crossing}")
    lost = _faster(result, min(share, 0.99))
    yield finding("communication-bound", "warning", evidence, [label], lost, ["rigbench collectives"])


def logits_dominate(table: Arms, slices: Results) -> Iterator[Finding]:
    row = table.rows[0]
    if not isinstance(row.memory, VramPrediction):
        return
    logits, total = row.memory.breakdown.logits_bytes, row.memory.process.value
    if logits < LOGITS_SHARE * total:
        return
    evidence = (
        f"{units.format_bytes(logits)} of {units.format_bytes(total)} predicted at micro-batch "
        f"{row.memory.recipe.micro_batch} are logits over {table.model.shape.vocabulary:,} tokens, in fp32 several "
        "times"
    )
    chunked = _other(table, row, loss_chunks=None)
    saved: Cost | str = "a variant with --loss chunked shows how much"
    if chunked and isinstance(chunked.memory, VramPrediction):
        less = chunked.memory.process.value
        text = f"{units.format_bytes(total - less)} that a chunked loss would give back"
        saved = cost(text, "bytes", total, less, "predicted peaks")
    yield finding("logits-dominate", "information", [evidence], [row.label], saved)


def eight_bit_saves_little(table: Arms, slices: Results) -> Iterator[Finding]:
    other, base = _other(table, table.rows[0], optimizer="adamw8bit"), table.rows[0].memory
    if other is None or not isinstance(base, VramPrediction) or not isinstance(other.memory, VramPrediction):
        return
    full, less = base.breakdown.optimizer_bytes, other.memory.breakdown.optimizer_bytes
    total, with_less = base.process.value, other.memory.process.value
    saved = full - less if less else total - with_less
    if saved >= LITTLE_SAVED * total:
        return
    evidence = [
        f"states take {units.format_bytes(full)} in 32 bits and {units.format_bytes(less)} in 8: "
        f"{units.format_share(saved / total)} of the peak of {units.format_bytes(total)}"
        if less
        else f"the first step peaks before there are states: {units.format_bytes(with_less)} with them in 8 bits, "
        f"{units.format_bytes(total)} in 32"
    ]
    if isinstance(table.eight_bit_from, Figure):
        size = units.format_count(table.eight_bit_from.value)
        evidence.append(f"from about {size} parameters on it would be a tenth, one sequence at a time")
    yield finding("eight-bit-saves-little", "information", evidence, [other.label], "nothing is lost by either")


def checkpointing_trades(table: Arms, slices: Results) -> Iterator[Finding]:
    row = table.rows[0]
    other, result = _other(table, row, checkpoint_every=1), _slice(row, slices)
    if other is None or result is None or isinstance(other.speedup, Absent):
        return
    plain, saved = (
        it.peak_bytes
        if isinstance(it.peak_bytes, Figure)
        else it.memory.process
        if isinstance(it.memory, VramPrediction)
        else None
        for it in (row, other)
    )
    if plain is None or saved is None:
        return
    evidence = [f"{units.format_bytes(saved.value)} instead of {units.format_bytes(plain.value)} ({saved.source})"]
    freed = plain.value - saved.value
    gained = units.format_bytes(freed) if freed > 0 else "no memory of the process"
    traded: Cost | str = f"no difference in speed that noise leaves to be seen, for {gained}"
    if not other.speedup.low <= 1 <= other.speedup.high:
        now = result.tokens_per_s.value
        text = f"{units.format_share(1 - other.speedup.value)} of the speed for {gained}"
        traded = cost(text, "tokens/s", now * other.speedup.value, now, "both variants", "measured")
    yield finding("checkpointing-trades", "information", evidence, [other.label], traded)


def compile_pays(table: Arms, slices: Results) -> Iterator[Finding]:
    """Break-even of what compiling takes against what it saves in each step."""
    row = table.rows[0]
    other = _other(table, row, compiled=True)
    plain, compiled = _slice(row, slices), other and _slice(other, slices)
    if plain is None or not compiled or not isinstance(compiled.compile, Compile) or other is None:
        return
    saved = _mean_step(plain) - _mean_step(compiled)
    cold, warm = compiled.compile.cold_seconds, compiled.compile.warm_seconds
    took = f"compiling took {units.format_seconds(cold)}"
    if not isinstance(warm, Absent):
        took += f", with a warm cache {units.format_seconds(warm)}"
    if saved <= 0:
        evidence = [f"{took}; its steps are no shorter, so it does not pay"]
    else:
        even = math.ceil(cold / saved)
        evidence = [f"{took}; a step is {units.format_seconds(saved)} shorter: break-even after {even:,} steps"]
        planned = table.planned_steps
        if isinstance(planned, Figure):
            pays = "pays" if planned.value > even else "does not pay"
            evidence.append(f"it {pays} over the {planned.value:,.0f} steps of {planned.basis}")
    yield finding("compile-pays", "information", evidence, [other.label], "a choice, not a fault")


DIAGNOSES: dict[str, Callable[[Arms, Results], Iterator[Finding]]] = {
    "loss-not-finite": loss_not_finite,
    "data-bound": data_bound,
    "communication-bound": communication_bound,
    "launch-bound": launch_bound,
    "logits-dominate": logits_dominate,
    "eight-bit-saves-little": eight_bit_saves_little,
    "checkpointing-trades": checkpointing_trades,
    "compile-pays": compile_pays,
}


def _other(table: Arms, base: ArmRow, **changed: object) -> ArmRow | None:
    """The row that differs from the base row in these choices alone; None: in that choice, whatever its value."""
    for row in table.rows:
        differs = {
            name for name in base.recipe.__struct_fields__ if getattr(row.recipe, name) != getattr(base.recipe, name)
        }
        if differs == set(changed) and all(
            value is None or getattr(row.recipe, name) == value for name, value in changed.items()
        ):
            return row
    return None


def _mean_step(result: Slice) -> float:
    return math.fsum(result.steady_seconds) / len(result.steady_seconds)


def _faster(result: Slice, share: float) -> Cost:
    """What the rate would be were that share of the step not there."""
    now = result.tokens_per_s.value
    possible = now / (1 - share)
    text = f"{units.format_rate(now)} where {units.format_rate(possible)} would be possible"
    return cost(text, "tokens/s", now, possible, "the step without that share")
