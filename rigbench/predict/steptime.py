"""Predicts how long a training step takes, from its operations and the rig's ceilings (terms.py).

Where the ceilings are datasheets', constants and level are those of published runs, with their uncertainty
(posterior.py). Where they were measured here, the constants below stand, and slices correct them (calibrate.py).
"""

from __future__ import annotations

import math
from operator import mul

from rigbench.core import stats
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.predict import posterior
from rigbench.predict.posterior import NOTHING_TOLD, Told
from rigbench.predict.record import PARTS, Ceilings, StepPart, StepTime
from rigbench.predict.terms import DEVICE, HOST, Constants, Terms, terms, together

METHOD = 2

# Where the ceilings are measured: a hot matmul ceiling and a triad hold clocks, feeding and watts already. Assumed: as
# published runs come out over hot ceilings of 0.85 (A100), 0.67 (H100) and 1.0 (4090) of the datasheet: 1.3, 1.3, 1.0.
# The host's are those of published runs.
MEASURED = Constants(1.2, 1.2, 0, 0, 2.3, 1.1, 1.2, 1.3, 0.9, 20, 38, 0, 0, 0.65, 0.0008, 0.0036, 0.0009)
MEASURED_SPREAD = (-0.30, 0.40)
# A processor's attention kernel reaches about a third of its matmul ceiling, and pointwise work, part of it in bf16
# arithmetic that it lacks, two thirds of a triad. Assumed; slices correct it.
CPU = Constants(1.15, 1.15, 0, 0, 3.0, 1.5, 1.5, 1.5, 0.9, 20, 38, 0, 0, 1.0, 0, 0, 0)
CPU_SPREAD = (-0.5, 0.5)
PER_E_FOLD_BEYOND = 0.1  # the interval widens so much, each way, for every e-fold outside of what was fitted
# Of CPU offload: passes over fp32 weights, gradients and moments (7 of AdamW's, 3 of clipping) at what a desktop's two
# memory channels give to all of its cores. Assumed, as is that nothing is hidden: the interval is wider by so much.
OFFLOAD_PASSES, HOST_BYTES_PER_S, OFFLOAD_SPREAD = 10, 50e9, 0.7
ADAPTER_SPREAD = {"lora": 0.2, "qlora": 0.5}  # of what no run was fitted on; assumed
FITTED_TOKENS = (4096.0, 131072.0)  # a micro-batch of the published rows


def predict(model: Model, recipe: Recipe, ceilings: Ceilings, told: Told = NOTHING_TOLD) -> StepTime:
    """One optimizer step's seconds, every one of them in a named part, with a 90 % interval.

    `told` is what is known of the code besides: its program, its year, runs of it.
    """
    if recipe.ranks > max(1, ceilings.count) and ceilings.kind == "cuda":
        raise RigbenchError(
            f"{recipe.ranks} ranks on {ceilings.count} of {ceilings.name}", "ask for as many ranks as there are cards"
        )
    found = terms(model, recipe, ceilings)
    published = ceilings.kind == "cuda" and ceilings.source == "datasheet"
    code, others = "", tuple[str, ...]()
    with_a_run: float | Absent = Absent("its constants are assumed, not fitted")
    if published:
        case = posterior.case(model, recipe, ceilings, found, told.program, told.year)
        answer = posterior.answer(case, told)
        constants, level, rests_on = answer.constants, answer.level, answer.sources
        spread = -answer.half_width, answer.half_width
        basis, code, with_a_run = answer.basis, case.kind, answer.with_a_run
        others = tuple(
            f"known, but {why}, so used for the program above all: {it.name}"
            for it in told.known
            if (why := posterior.unlike(it.case, case))
        )
        if case.maker == "other":
            others += ("unfitted maker: no published run behind the constants is of such a card",)
    else:
        constants, spread, basis = _assumed(ceilings)
        level, rests_on = 0.0, 0
    parts = seconds_by_part(found, constants, ceilings.kind, level)
    if recipe.strategy == "fsdp2-offload":
        kept = tuple(part for part in parts if part.name != "optimizer")
        parts = (*kept, StepPart("offload", offload_seconds(model, recipe, ceilings)))
        spread = spread[0] - OFFLOAD_SPREAD, spread[1] + OFFLOAD_SPREAD
    if recipe.adapted:
        wider = ADAPTER_SPREAD[recipe.adapter]
        spread = spread[0] - wider, spread[1] + wider
        others += (
            f"no published run of {recipe.adapter} is behind this: its interval is wider by e^{wider:g} (assumed)",
        )
    total = sum(part.seconds for part in parts)
    tokens, beyond = recipe.tokens_per_step(model), beyond_fitted(recipe.micro_batch * model.shape.sequence)
    low, high = total * math.exp(spread[0] - beyond), total * math.exp(spread[1] + beyond)
    method = f"{basis}: ln(measured/predicted) from {spread[0]:+.2f} to {spread[1]:+.2f}"
    estimate = Estimate(total, low, high, stats.LEVEL, method, rests_on)
    return StepTime(
        method=METHOD,
        model=model,
        recipe=recipe,
        ceilings=ceilings,
        parts=parts,
        seconds=estimate,
        tokens_per_step=tokens,
        tokens_per_s=tokens / estimate,
        basis=f"{ceilings.source} ceilings of {ceilings.name}; {basis}",
        notes=(*_notes(recipe, ceilings, parts), *others),
        code=code,
        program=told.program,
        known=tuple(it.name for it in told.known) if published else (),
        half_width_with_a_run=with_a_run,
    )


def beyond_fitted(tokens: int) -> float:
    """How much wider the interval of a micro-batch of so many tokens is, each way, than of one that was fitted."""
    return PER_E_FOLD_BEYOND * max(0.0, math.log(FITTED_TOKENS[0] / tokens), math.log(tokens / FITTED_TOKENS[1]))


def offload_seconds(model: Model, recipe: Recipe, ceilings: Ceilings) -> float:
    """What FSDP's CPU offload takes longer, nothing of it hidden: each rank fetches its fp32 shards before the forward
    and the backward pass of a micro-step and sends its gradients' shard back; then the host's processor clips and steps
    all ranks' weights, AdamW's passes over the memory that they share.

    Raises:
        RigbenchError: the rate to the host is not known.
    """
    rate = ceilings.host_bytes_per_s
    if isinstance(rate, Absent):
        raise RigbenchError("the speed of fsdp2-offload is only measured here", "use --strategy fsdp2")
    weights, trained = (float(recipe.weight_bytes * count) for count in (model.total_parameters, model.trained))
    moved = recipe.accumulation * (2 * weights + trained) / recipe.ranks / rate.value
    return moved + OFFLOAD_PASSES * trained / HOST_BYTES_PER_S


def seconds_by_part(terms: Terms, constants: Constants, kind: str, level: float = 0.0) -> tuple[StepPart, ...]:
    """The parts that a step has, in a fixed order.

    A GPU works while its host hands over: only what the host takes longer is left for `launches`, and a power limit
    makes all of the GPU's parts longer. A processor does both itself.
    """
    seconds = {name: sum(map(mul, row, constants)) for name, row in terms.parts.items()}
    device = sum(seconds.values())
    host = sum(map(mul, terms.host, constants[HOST:]))
    if kind == "cpu":
        seconds["launches"] = host
    else:
        power = sum(map(mul, terms.power, constants[DEVICE:]))
        working, whole = together(device, power), together(device, power, host)
        stretched = working / device * math.exp(level)
        seconds = {name: its * stretched for name, its in seconds.items()}
        seconds["launches"] = (whole - working) * math.exp(level)
    seconds["data"] = max(0.0, terms.data_seconds - sum(seconds.values()))
    return tuple(StepPart(name, seconds[name]) for name in PARTS if seconds.get(name, 0.0) > 0)


def _assumed(ceilings: Ceilings) -> tuple[Constants, tuple[float, float], str]:
    if ceilings.kind == "cpu":
        return CPU, CPU_SPREAD, "constants assumed for processors"
    return MEASURED, MEASURED_SPREAD, "constants assumed for measured ceilings"


def _notes(recipe: Recipe, ceilings: Ceilings, parts: tuple[StepPart, ...]) -> tuple[str, ...]:
    notes = []
    launches = sum(part.seconds for part in parts if part.name == "launches")
    if ceilings.kind == "cuda" and launches > 0.2 * sum(part.seconds for part in parts):
        notes.append("the host cannot keep up with so small a step, and hosts differ")
    if isinstance(ceilings.link, Absent) and recipe.ranks > 1:
        notes.append(f"communication is left out: {ceilings.link.reason}")
    if recipe.strategy == "fsdp2-offload" and isinstance(ceilings.host_bytes_per_s, Figure):
        rate = ceilings.host_bytes_per_s
        notes.append(
            f"offload: {rate.value / 1e9:.3g} GB/s to the host ({rate.basis}), AdamW on its processor at "
            f"{HOST_BYTES_PER_S / 1e9:.0f} GB/s of memory (assumed)"
        )
    if recipe.compiled and ceilings.kind == "cpu":
        notes.append("compiled code on a processor was not measured")
    if not isinstance(ceilings.data_tokens_per_s, Figure):
        notes.append("data is taken to keep up")
    return tuple(notes)
