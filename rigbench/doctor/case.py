"""Puts together the training that findings are priced by: the rig's newest stored budget, else 1.2 EFLOP on diy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from rigbench.budget import draw, forecast, plan
from rigbench.budget.record import Budget, Options
from rigbench.collectives.record import Collectives
from rigbench.core import profiles, units
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, Figure, Price
from rigbench.doctor.costs import Case, Row
from rigbench.document import Run
from rigbench.machine.record import Gpu
from rigbench.model.recipe import RecipeOptions
from rigbench.model.record import Model
from rigbench.model.shape import model_named, series, series_names
from rigbench.predict import ceilings, steptime
from rigbench.predict.memory import Predictor
from rigbench.predict.record import Ceilings
from rigbench.topology.record import Topology
from rigbench.work.record import Power, WattOptions

NO_PRICE = Absent("no price of electricity was named")
NO_BUDGET = "no budget of this rig is stored, and no datasheet gives its speed; `rigbench run --quick` makes one"


class Known(NamedTuple):
    """What is known of a rig: its runs, newest first, of which the first is the one that is diagnosed."""

    runs: Sequence[Run]
    predictor: Predictor
    price: Price | Absent


def case(known: Known) -> Case | Absent:
    """Absent where neither a budget is stored nor a datasheet tells what the cards do."""
    topology = next((run.topology for run in known.runs if isinstance(run.topology, Topology)), None)
    gpus = alike(topology.gpus) if topology else ()
    try:
        return _of_budget(known, topology, gpus) or _assumed(known, topology, gpus)
    except RigbenchError as error:
        return Absent(str(error))


def alike(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Those of the most frequent kind, which would train together."""
    names = [str(gpu.name) for gpu in gpus]
    return tuple(gpu for gpu in gpus if str(gpu.name) == max(names, key=names.count))


def _of_budget(known: Known, topology: Topology | None, gpus: Sequence[Gpu]) -> Case | None:
    """The newest budget of this very rig, if the ceilings that its steps are predicted from are known."""
    found = ((run.id, run.budget) for run in known.runs if isinstance(run.budget, Budget))
    run_id, budget = next(((run_id, it) for run_id, it in found if isinstance(it.rig, Absent)), ("", None))
    if budget is None:
        return None
    recipe = budget.configuration.recipe
    limits = ceilings.from_runs(known.runs, gpus if budget.configuration.device.kind == "cuda" else ())
    if isinstance(limits, Absent):
        return None
    if limits.kind == "cuda" and limits.count < recipe.ranks:
        limits = msgspec.structs.replace(limits, count=recipe.ranks)
    rows = []
    for row in budget.series:
        model = _model(budget.series_name, row.model)
        sequences = max(1, round(row.tokens_per_step / model.shape.sequence / recipe.ranks))
        own = msgspec.structs.replace(recipe, micro_batch=sequences, accumulation=1)
        rows.append(Row(model, own, row.tokens, row.hours.value))
    words = f"{units.format_flop(budget.flops)} on {budget.series_name}, the budget of run {run_id}"
    power = budget.power
    watts = power.watts if isinstance(power, Power) else power
    if isinstance(power, Power) and power.covers != "wall":  # as the budget itself: only those are on the bill
        watts = Absent(f"the watts cover {power.covers}, not the wall")
    return _with_links(
        Case(words, tuple(rows), limits, budget.whole.hours, watts, budget.price, ways={}), known, topology, gpus
    )


def _model(series_name: str, name: str) -> Model:
    if series_name in series_names():
        its = next((entry.model for entry in series(series_name).models if entry.model.name == name), None)
        return its or model_named(name, series_name)
    return model_named(name)


def _assumed(known: Known, topology: Topology | None, gpus: Sequence[Gpu]) -> Case | Absent:
    """1.2 EFLOP on the series diy, as `budget --on` would train it on such cards."""
    profile = gpus[0].profile if gpus else Absent(NO_BUDGET)
    if isinstance(profile, Absent):
        return Absent(NO_BUDGET)
    rig = profiles.rig_named(f"{len(gpus)}x{profile}")
    limits = ceilings.from_runs(known.runs, gpus)
    if isinstance(limits, Absent) or limits.kind == "cpu":
        limits = ceilings.from_rig(rig)
    if isinstance(limits, Absent):
        return limits
    request = plan.request(Options(), RecipeOptions(), WattOptions(), known.price)
    recipes = forecast.fitted(known.predictor, request, rig)
    rows = tuple(map(Row, request.models, recipes, request.tokens()))
    how = "from measured ceilings" if limits.source == "measured" else "from the datasheet"
    words = f"{units.format_flop(request.amount)} on {request.name}, predicted {how}: no budget is stored"
    steps = [steptime.predict(row.model, row.recipe, limits) for row in rows]
    times = [row.tokens / step.tokens_per_s.value for row, step in zip(rows, steps, strict=True)]
    drawn = draw.share(zip(steps, times, strict=True))
    power = forecast.power_of(request, rig, profiles.gpu(profile), drawn)
    watts: Figure | Absent = power.watts if isinstance(power, Power) else power
    return _with_links(Case(words, rows, limits, None, watts, known.price, ways={}), known, topology, gpus)


def _with_links(its: Case, known: Known, topology: Topology | None, gpus: Sequence[Gpu]) -> Case:
    """With the ways that gradients take."""
    labels = {gpu.label for gpu in gpus}
    pairs = [pair for pair in topology.pairs if {f"GPU{pair.one}", f"GPU{pair.other}"} <= labels] if topology else []
    sheet = "" if not gpus or isinstance(gpus[0].profile, Absent) else profiles.gpu(gpus[0].profile).p2p_over_pcie
    told = [pair for pair in pairs if pair.codes]
    return its._replace(
        ways=_ways(topology, labels),
        direct=all(pair.is_allowed for pair in told) if told else sheet.startswith("yes"),
        over_nvlink=bool(pairs) and all(pair.label.startswith("NV") for pair in pairs),
        measured_link=_measured(its.ceilings, known.runs),
    )


def _measured(limits: Ceilings, runs: Sequence[Run]) -> bool:
    return (
        not isinstance(limits.link, Absent)
        and limits.link.bytes_per_s.source == "measured"
        and any(isinstance(run.collectives, Collectives) for run in runs)
    )


def _ways(topology: Topology | None, labels: set[str]) -> Mapping[str, float]:
    """Bytes per second of each card's way, as it was under load, else as it could be."""
    ways = {}
    for path in topology.paths if topology and not topology.is_virtual else ():
        rate = path.best_bytes_per_s if isinstance(path.awake_bytes_per_s, Absent) else path.awake_bytes_per_s
        if path.label in labels and not isinstance(rate, Absent):
            ways[path.label] = rate
    return ways
