"""What holds a training slice back, and which choices pay on this rig? From the arms of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from rigbench.core import units
from rigbench.core.finding import Cost, Finding
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.core.verdict import cost, finding
from rigbench.predict.record import VramPrediction
from rigbench.train.record import ArmRow, Arms, Slice

Results = Sequence[Slice | Skipped]

LOGITS_SHARE = 0.4  # of the peak, from where on they and nothing else decide the micro-batch
LITTLE_SAVED = 0.10  # of the peak
DATA_SHARE = 0.05  # of the step: what a loader that keeps up takes is a tenth of that
COMMUNICATION_SHARE = 0.15
ENQUEUE_SHARE = 0.9  # of the step the host was busy handing kernels over


def diagnose(table: Arms, slices: Results) -> tuple[Finding, ...]:
    """Every finding of a table of arms."""
    return tuple(item for diagnosis in DIAGNOSES for item in diagnosis(table, slices))


def loss_not_finite(table: Arms, slices: Results) -> Iterator[Finding]:
    for row in table.rows:
        result = _slice(row, slices)
        if result is None:
            continue
        steps = [index for index, loss in enumerate(result.steps.loss) if isinstance(loss, Absent)]
        if steps:
            evidence = f"first at step {steps[0]}, in {len(steps)} of {len(result.steps.loss)} steps"
            yield finding("loss-not-finite", "warning", [evidence], [row.label], "its rate is real")


def data_bound(table: Arms, slices: Results) -> Iterator[Finding]:
    row, result = table.rows[0], _slice(table.rows[0], slices)
    if result is None:
        return
    share = result.step_share.get("data", 0.0)
    if share > DATA_SHARE:
        waited = f"{units.format_share(share)} of the step is spent in waiting for batches"
        yield finding("data-bound", "warning", [waited], [row.label], _faster(result, share), ["rigbench dataloader"])


def launch_bound(table: Arms, slices: Results) -> Iterator[Finding]:
    row, result = table.rows[0], _slice(table.rows[0], slices)
    if result is None or not result.steps.enqueue_seconds:
        return
    steady = slice(result.steady_from, None)
    share = math.fsum(result.steps.enqueue_seconds[steady]) / math.fsum(result.steps.seconds[steady])
    if share >= ENQUEUE_SHARE:
        evidence = f"the host was handing kernels over for {units.format_share(min(1.0, share))} of the step"
        yield finding("launch-bound", "warning", [evidence], [row.label], "a compiled arm tells how much")


def communication_bound(table: Arms, slices: Results) -> Iterator[Finding]:
    for row in table.rows:
        result = _slice(row, slices)
        if result is not None:
            yield from exchange_bound(result, row.label)


def exchange_bound(result: Slice, label: str) -> Iterator[Finding]:
    """Where more of the step than that is exchange that no computing hides."""
    if not result.exchange:
        return
    share = result.exchange.exposed_seconds / result.step_seconds.value
    told_from_none = not result.exchange.exposed or result.exchange.exposed.low > 0
    if share <= COMMUNICATION_SHARE or not told_from_none:
        return
    exposed = units.format_seconds(result.exchange.exposed_seconds)
    evidence = [
        f"{exposed} of a step of {units.format_seconds(result.step_seconds.value)} ({units.format_share(share)})"
    ]
    hosts = sorted(set(result.exchange.hosts))
    if len(hosts) > 1:
        evidence.append(f"it crosses between the hosts {' and '.join(hosts)}: {_gradients(result)}")
    cost_of_it = _faster(result, min(share, 0.99))
    yield finding("communication-bound", "warning", evidence, [label], cost_of_it, ["rigbench collectives"])


def _gradients(result: Slice) -> str:
    """What crosses, and of whole gradients at what rate, had nothing else taken that time."""
    assert result.exchange
    if result.recipe.strategy.startswith("fsdp2"):
        return "weights gathered and gradients scattered"
    each = 2 if result.recipe.precision == "bf16-pure" else 4
    sent = each * result.model.total_parameters
    rate = units.format_bytes_per_s(sent / result.exchange.exposed_seconds)
    return f"{units.format_bytes(sent)} of gradients, {rate} if the link alone holds it up"


def logits_dominate(table: Arms, slices: Results) -> Iterator[Finding]:
    row = table.rows[0]
    if not isinstance(row.memory, VramPrediction):
        return
    logits, total = row.memory.breakdown.logits_bytes, row.memory.process.value
    if logits < LOGITS_SHARE * total:
        return
    vocabulary = table.model.shape.vocabulary
    evidence = (
        f"{units.format_bytes(logits)} of {units.format_bytes(total)} predicted at micro-batch "
        f"{row.memory.recipe.micro_batch} are logits over {vocabulary:,} tokens, in fp32 several times"
    )
    chunked = _other(table, row, loss_chunks=None)
    saved: Cost | str = "an arm with --loss chunked tells how much"
    if chunked and isinstance(chunked.memory, VramPrediction):
        less = chunked.memory.process.value
        text = f"{units.format_bytes(total - less)} that a chunked loss would give back"
        saved = cost(text, "bytes", total, less, "predicted peaks")
    yield finding("logits-dominate", "information", [evidence], [row.label], saved)


def eight_bit_saves_little(table: Arms, slices: Results) -> Iterator[Finding]:
    row = table.rows[0]
    other = _other(table, row, optimizer="adamw8bit")
    if other is None or not isinstance(row.memory, VramPrediction) or not isinstance(other.memory, VramPrediction):
        return
    full, less = row.memory.breakdown.optimizer_bytes, other.memory.breakdown.optimizer_bytes
    total = row.memory.process.value
    if full - less >= LITTLE_SAVED * total:
        return
    evidence = [
        f"states take {units.format_bytes(full)} in 32 bits and {units.format_bytes(less)} in 8: "
        f"{units.format_share((full - less) / total)} of the peak of {units.format_bytes(total)}"
    ]
    if isinstance(table.eight_bit_from, Figure):
        size = units.format_count(table.eight_bit_from.value)
        evidence.append(f"from about {size} parameters on it would be a tenth, one sequence at a time")
    yield finding("eight-bit-saves-little", "information", evidence, [other.label], "nothing is lost by either")


def has_eight_bit(rows: Sequence[ArmRow]) -> bool:
    """Whether an arm with 8-bit states was looked at beside the base arm, and saves little."""
    base = next((row for row in rows if isinstance(row.memory, VramPrediction)), None)
    other = next((row for row in rows if row.recipe.optimizer == "adamw8bit"), None)
    if base is None or other is None or not isinstance(base.memory, VramPrediction):
        return False
    if not isinstance(other.memory, VramPrediction):
        return False
    saved = base.memory.breakdown.optimizer_bytes - other.memory.breakdown.optimizer_bytes
    return saved < LITTLE_SAVED * base.memory.process.value


def checkpointing_trades(table: Arms, slices: Results) -> Iterator[Finding]:
    row = table.rows[0]
    other = _other(table, row, checkpoint_every=1)
    if other is None or isinstance(other.speedup, Absent):
        return
    plain, saved = _peak(row), _peak(other)
    if plain is None or saved is None:
        return
    result = _slice(row, slices)
    if result is None:
        return
    evidence = [f"{units.format_bytes(saved.value)} instead of {units.format_bytes(plain.value)} ({saved.source})"]
    freed = plain.value - saved.value
    gained = units.format_bytes(freed) if freed > 0 else "no memory of the process"
    if other.speedup.low <= 1 <= other.speedup.high:
        unclear = f"no difference in speed that noise leaves to be seen, for {gained}"
        yield finding("checkpointing-trades", "information", evidence, [other.label], unclear)
        return
    now = result.tokens_per_s.value
    text = f"{units.format_share(1 - other.speedup.value)} of the speed for {gained}"
    taken = cost(text, "tokens/s", now * other.speedup.value, now, "both arms", "measured")
    yield finding("checkpointing-trades", "information", evidence, [other.label], taken)


def compile_pays(table: Arms, slices: Results) -> Iterator[Finding]:
    """Break-even of what compiling takes against what it saves in each step."""
    row = table.rows[0]
    other = _other(table, row, compiled=True)
    plain, compiled = _slice(row, slices), other and _slice(other, slices)
    if plain is None or not compiled or not compiled.compile or other is None:
        return
    saved = _mean_step(plain) - _mean_step(compiled)
    cold = compiled.compile.cold_seconds
    told = f"compiling took {units.format_seconds(cold)}"
    if not isinstance(compiled.compile.warm_seconds, Absent):
        told += f", with a warm cache {units.format_seconds(compiled.compile.warm_seconds)}"
    no_cost = "a choice, not a fault"
    if saved <= 0:
        evidence = [f"{told}; its steps are no shorter, so it does not pay"]
        yield finding("compile-pays", "information", evidence, [other.label], no_cost)
        return
    even = math.ceil(cold / saved)
    evidence = [f"{told}; a step is {units.format_seconds(saved)} shorter: break-even after {even:,} steps"]
    planned = table.planned_steps
    if isinstance(planned, Figure):
        pays = "pays" if planned.value > even else "does not pay"
        evidence.append(f"it {pays} over the {planned.value:,.0f} steps of {planned.basis}")
    yield finding("compile-pays", "information", evidence, [other.label], no_cost)


DIAGNOSES: tuple[Callable[[Arms, Results], Iterator[Finding]], ...] = (
    loss_not_finite,
    data_bound,
    communication_bound,
    launch_bound,
    logits_dominate,
    eight_bit_saves_little,
    checkpointing_trades,
    compile_pays,
)
CODES = (
    "loss-not-finite",
    "data-bound",
    "communication-bound",
    "launch-bound",
    "logits-dominate",
    "eight-bit-saves-little",
    "checkpointing-trades",
    "compile-pays",
)


def _slice(row: ArmRow, slices: Results) -> Slice | None:
    found = slices[row.slice] if isinstance(row.slice, int) else None
    return found if isinstance(found, Slice) else None


def _other(table: Arms, base: ArmRow, **changed: object) -> ArmRow | None:
    """The row that differs from the base row in these choices alone; None: in that choice, whatever its value."""
    fields = base.recipe.__struct_fields__
    for row in table.rows:
        differs = {name for name in fields if getattr(row.recipe, name) != getattr(base.recipe, name)}
        if differs == set(changed) and all(
            value is None or getattr(row.recipe, name) == value for name, value in changed.items()
        ):
            return row
    return None


def _peak(row: ArmRow) -> Figure | None:
    if isinstance(row.peak_bytes, Figure):
        return row.peak_bytes
    return row.memory.process if isinstance(row.memory, VramPrediction) else None


def _mean_step(result: Slice) -> float:
    steady = result.steps.seconds[result.steady_from :]
    return math.fsum(steady) / len(steady)


def _faster(result: Slice, share: float) -> Cost:
    """What the rate would be were that share of the step not there."""
    now = result.tokens_per_s.value
    possible = now / (1 - share)
    text = f"{units.format_rate(now)} where {units.format_rate(possible)} would be possible"
    return cost(text, "tokens/s", now, possible, "the step without that share")
