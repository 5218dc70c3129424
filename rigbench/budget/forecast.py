"""Forecasts how fast models train: here from slices and ceilings, elsewhere from datasheets and published runs."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Sequence

import msgspec

from rigbench.backtest.record import Coverage
from rigbench.budget import draw, money, rates, record
from rigbench.budget.plan import HOT_WORDS, NOT_SOAKED, Forecast, Machine, Request
from rigbench.budget.record import KNOWN_RUN, CardPrice, Configuration, NextSlice, Rate, RigPrice, Scaling
from rigbench.budget.slices import ANYHOW, Chosen, Wanted, choose, trains
from rigbench.core import profiles, units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.profiles import GpuProfile, RigProfile
from rigbench.core.record import Absent, Device, Energy, Figure
from rigbench.core.screen import span
from rigbench.document import Run
from rigbench.model.recipe import Recipe, RecipeOptions
from rigbench.model.record import Model
from rigbench.model.shape import series_names
from rigbench.predict import calibrate, cards, ceilings, steptime, usual
from rigbench.predict.calibrate import Correction, Measured
from rigbench.predict.memory import Predictor
from rigbench.predict.posterior import Told
from rigbench.predict.record import Ceilings, StepTime, Target, VramPrediction
from rigbench.thermals.record import Thermals
from rigbench.train.record import FEWEST_STEPS, Compile, Slice, StoredSlice, at_most_all
from rigbench.work import power as cost
from rigbench.work.record import Power, PowerPart

DRAW_ALIKE = "each card draws as much as those of the short runs did (--wall-watts declares what they draw)"
# What recorded steps of both series hold, and the allocator rounds up: bytes a token for each entry of the vocabulary
# (three fp32 copies) and for each of a block's width; a parameter's half-precision copy and what else is of its size.
LOGITS_BYTES, KEPT_BYTES = 13.5, {"gpt2": 39, "llama": 47}
COPIES_BYTES, SCRATCH_BYTES, SAFETY = 3, 128 << 20, 0.92
NARROWER = 0.8  # of an interval: from where on one more run is worth naming


def here(
    request: Request,
    slices: Sequence[StoredSlice],
    probes: Sequence[Run] = (),
    soaks: Iterable[Run] = (),
    history: Coverage | None = None,
    method: int | None = None,
    whole: Callable[[StoredSlice], Slice] = lambda stored: stored.slice,
    its: Wanted | None = None,
) -> tuple[Machine, tuple[Forecast, ...]]:
    """This rig and its models, from its slices and what else is stored of it, all newest first.

    `its`: how a full run would train here. Where slices of other numbers of cards are all there is, the step's model
    carries what they tell over to that; None: what the slices say is the rig.

    `probes` are runs that measured its ceilings, `soaks` its heat, `history` is of its back-tests; `method` is the way
    of measuring slices that counts; `whole` reads a slice with its telemetry, which tells the supply's peak.

    Raises:
        RigbenchError: no stored slice can be used, or one of the models is too far from all of them; exit 3.
    """
    chosen = choose(request.models, slices, request.recipe, method, its)
    device, recipe = chosen.configuration.device, chosen.configuration.recipe
    over = None
    if its and device.kind == "cuda" and not its.fits(device, recipe.ranks):
        over = its
        recipe = msgspec.structs.replace(recipe, strategy=its.strategy, ranks=its.ranks)
    steps, correction = _steps(request.models, chosen, probes, its, recipe if over else None)
    rests_on = tuple(f"{stored.run_id} {stored.slice.model.name}" for stored in chosen.slices)
    of_steps, whys = [correction.apply(step) for step in steps], tuple[str, ...]()
    if over:
        _refuse_to_carry(chosen, over, steps)
        of_steps = list(map(_sync_unmeasured, of_steps))
        whys = (f"gradient sync of {over.strategy} on {over.ranks}: from none to twice what is predicted",)
    modelled = {
        it.model.name: Rate(it.tokens_per_s, "predicted", rests_on, (f"model of the step: {it.seconds.method}", *whys))
        for it in of_steps
    }
    forecasts = []
    for model in request.models:
        rate = modelled[model.name] if over else surer(model, chosen, modelled.get(model.name))
        forecast = _from_slices(request, model, chosen, rates.corrected(rate, history) if history else rate)
        forecasts.append(_carried(forecast, request, chosen, over) if over else forecast)
    card: str | Absent = Absent("a processor has no datasheet here")
    if device.kind == "cuda":
        memory = device.memory_total_bytes
        card = profiles.match_gpu(None, device.name, None if isinstance(memory, Absent) else memory)
    hot_extra, hot_basis = hot_of(soaks, device.kind)
    beside = [whole(stored) for stored in chosen.slices]
    if over:
        beside = [_drawn_by(it, recipe.ranks) for it in beside]
    machine = Machine(
        configuration=msgspec.structs.replace(chosen.configuration, recipe=recipe),
        cards=recipe.ranks,
        card=device.name,
        power=cost.power(beside, request.watts, _hours_beside(request, chosen, forecasts)),
        peak_flops_per_s=card if isinstance(card, Absent) else peak(card, recipe.precision, recipe.ranks),
        hot_extra=hot_extra,
        hot_basis=hot_basis,
        rent=money.NO_RENT if isinstance(card, Absent) else rent(card),
        purchase=money.NO_PURCHASE if isinstance(card, Absent) else _purchase(profiles.gpu(card), recipe.ranks),
        notes=(DRAW_ALIKE,) if over else (),
        remark=_remark(chosen, its, over),
        scaling=record.ONE_CARD if over else scaling(chosen, slices),
        left_out=chosen.left_out,
    )
    following = _next(request, steps, correction, chosen.its) if steps else _widest(request, chosen, forecasts)
    return machine._replace(next_slice=following), tuple(forecasts)


def _hours_beside(request: Request, chosen: Chosen, forecasts: Sequence[Forecast]) -> list[float]:
    """What part of the hours each slice stands for: those of the models that are nearest to its own in size."""
    stands = [0.0] * len(chosen.slices)
    sizes = [math.log(stored.slice.model.flop_per_token) for stored in chosen.slices]
    times = request.hours(its.rate.tokens_per_s.value for its in forecasts)
    for model, hours in zip(request.models, times, strict=True):
        apart = [abs(size - math.log(model.flop_per_token)) for size in sizes]
        nearest = [place for place, far in enumerate(apart) if far == min(apart)]
        for place in nearest:
            stands[place] += hours / len(nearest)
    return stands


def scaling(chosen: Chosen, slices: Sequence[StoredSlice]) -> Scaling | Absent:
    """Of the largest model that was trained in the same way on all cards and on one, both left in peace."""
    configuration = chosen.configuration
    count = configuration.recipe.ranks
    if count < 2 or configuration.device.kind != "cuda":
        return record.ONE_CARD
    models = {stored.slice.model.name: stored.slice.model for stored in chosen.slices}
    whys = []
    for model in sorted(models.values(), key=lambda model: model.flop_per_token, reverse=True):
        every = [stored for stored in chosen.slices if stored.slice.model == model]
        its = every[0].slice
        recipe = msgspec.structs.replace(its.recipe, strategy="single", ranks=1)
        alike = _kind_of(msgspec.structs.replace(its, recipe=recipe))
        twins = [stored for stored in slices if _kind_of(stored.slice) == alike]
        single = [stored for stored in twins if not _tells_nothing(stored)]
        if not single:
            whys += [f"{model.name} on one card {_tells_nothing(stored)}" for stored in twins]
        elif few := next(filter(None, map(_tells_nothing, every)), ""):
            whys.append(f"{model.name} on {count} cards {few}")
        else:
            return _efficiency(count, every, single)
    return Absent(whys[0] if whys else "no model was trained on one card and on all")


def _kind_of(its: Slice) -> tuple[object, ...]:
    return its.recipe, its.method, its.device.name, its.model.shape


def _tells_nothing(stored: StoredSlice) -> str:
    """Why a slice is none to compare with; "" where it is one."""
    if stored.disturbed:
        return f"was disturbed: {stored.disturbed}"
    if stored.steady_steps < FEWEST_STEPS:
        return f"made fewer than {FEWEST_STEPS} steady steps"
    return "" if stored.is_finite else "came to a loss that is not finite"


def _efficiency(count: int, every: Sequence[StoredSlice], single: Sequence[StoredSlice]) -> Scaling | Absent:
    together, one = rates.of_slices(every), rates.of_slices(single)
    efficiency = together / one / count
    if efficiency.low > 1:
        times = units.format_significant(efficiency.value * count)
        return Absent(f"{count} cards were {times} times as fast as one, so that something held the one up")
    return Scaling(
        model=every[0].slice.model.name,
        cards=count,
        one=one,
        together=together,
        efficiency=at_most_all(efficiency),
        rests_on=tuple(dict.fromkeys(stored.run_id for stored in (*every, *single))),
        has_middle=all(stored.slice.tokens_per_s.has_middle for stored in (*every, *single)),
    )


def _sync_unmeasured(step: StepTime) -> StepTime:
    """With room for gradient sync that computing hides altogether, and for twice what is predicted."""
    its = step.seconds
    share = sum(part.seconds for part in step.parts if part.name == "communication exposed") / its.value
    seconds = msgspec.structs.replace(its, low=its.low * (1 - share), high=its.high * (1 + share))
    return msgspec.structs.replace(step, seconds=seconds, tokens_per_s=step.tokens_per_step / seconds)


def _refuse_to_carry(chosen: Chosen, its: Wanted, steps: Sequence[StepTime]) -> None:
    device, recipe = chosen.configuration.device, chosen.configuration.recipe
    cure = f"run {trains(chosen.slices[0].slice.model, its)}"
    if device.name not in [gpu.name for gpu in its.cards.gpus]:
        raise RigbenchError(
            f"no short training run of {its.cards.words} is stored, only of {device.name}", cure, NOTHING
        )
    if not steps:
        on = "one card" if recipe.ranks == 1 else f"{recipe.ranks} cards"
        what = f"the stored short runs trained on {on} and a full run on {its.ranks}"
        raise RigbenchError(f"{what}, and no stored ceilings show what those would do", cure, NOTHING)


def _remark(chosen: Chosen, its: Wanted | None, over: Wanted | None) -> str:
    """Which cards of the rig are not counted; that so many were not measured together, and what would measure them."""
    if its is None:
        return ""
    if its.cards.gpus and chosen.configuration.device.kind == "cpu":
        return f"the CPU alone: no short run of {its.cards.words} is stored"
    return "; ".join(filter(None, (its.remark, _said_of(chosen, over) if over else "")))


def _said_of(chosen: Chosen, its: Wanted) -> str:
    trained_on = chosen.configuration.recipe.ranks
    how = "one card" if its.ranks == 1 else f"{its.strategy} on {its.ranks} cards"
    on = "one card" if trained_on == 1 else f"{trained_on} cards"
    largest = max((stored.slice.model for stored in chosen.slices), key=lambda model: model.flop_per_token)
    return f"predicted for {how} from short runs on {on}; `{trains(largest, its)}` measures it"


def _carried(its: Forecast, request: Request, chosen: Chosen, over: Wanted) -> Forecast:
    """With a batch on each card as the slices had."""
    if not isinstance(request.batch_of(its.model), Absent):
        return its
    tokens = its.tokens_per_step // chosen.configuration.recipe.ranks * over.ranks
    return its._replace(tokens_per_step=tokens, batch=f"{tokens:,} tokens, on each card as the short runs had")


def _drawn_by(it: Slice, count: int) -> Slice:
    """As if so many cards had trained, each drawing as much; what the others drew is not what they will."""
    energy = it.energy
    if isinstance(energy, Energy):
        energy = msgspec.structs.replace(energy, joules=energy.joules / it.cards * count)
    draws = tuple(draw for draw in it.draws if draw.name != cost.OTHER_GPUS)
    return msgspec.structs.replace(it, energy=energy, draws=draws, telemetry=Absent("of another number of cards"))


def elsewhere(predictor: Predictor, request: Request, rig: RigProfile) -> tuple[Machine, tuple[Forecast, ...]]:
    """A rig of the profiles and what models would do there, by its datasheet and by published runs."""
    limits = ceilings.from_rig(rig)
    if isinstance(limits, Absent):
        raise RigbenchError(f"{rig.name}: {limits.reason}", "name other hardware", exit_code=NOTHING)
    limits = _with_link(limits, request.options.link_speed, rig)
    tokens = request.options.batch_tokens
    least = rig.count * max(model.shape.sequence for model in request.models)
    if not isinstance(tokens, Absent) and tokens < least:
        what = f"batch-tokens {tokens:,} is less than a sequence for each card"
        raise RigbenchError(what, f"give {least:,} or more")
    recipes = [
        batched(model, recipe, request.batch_of(model), bool(request.batches))
        for model, recipe in zip(request.models, fitted(predictor, request, rig), strict=True)
    ]
    steps = [
        steptime.predict(model, recipe, limits, request.told)
        for model, recipe in zip(request.models, recipes, strict=True)
    ]
    gpu = profiles.gpu(rig.gpu)
    place = cards.of_profile(gpu, rig.name, rig.count)
    memories = [predictor.predict(step.model, step.recipe, place, request.told.program) for step in steps]
    memory = round(min(gpu.memory_gib) * (1 << 30))
    device = Device("cuda", gpu.names[0], Absent("not here"), threads=1, memory_total_bytes=memory)
    neutral = msgspec.structs.replace(recipes[0], micro_batch=0, accumulation=1)
    largest = max(steps, key=lambda step: step.model.total_parameters)
    notes: dict[str, list[str]] = {}
    for step in steps:
        for note in step.notes:
            notes.setdefault(note, []).append(step.model.name)
    times = request.hours(step.tokens_per_s.value for step in steps)
    drawn = draw.share(zip(steps, times, strict=True))
    machine = Machine(
        configuration=Configuration(device, neutral, "default"),
        cards=rig.count,
        card=gpu.names[0].removeprefix("NVIDIA ").removeprefix("GeForce "),
        power=power_of(request, rig, gpu, drawn),
        name=rig.name,
        peak_flops_per_s=peak(rig.gpu, neutral.precision, rig.count),
        hot_extra=Estimate(0.0, 0.0, 0.0, 1.0, "hot already", 0),
        hot_basis="already included: the published runs behind the speed were hot",
        rent=rent(rig.gpu),
        purchase=_purchase(gpu, rig.count),
        notes=(
            *([rig.notes] if rig.notes else []),
            *(it if len(of) == len(steps) else f"{', '.join(of)}: {it}" for it, of in notes.items()),
        ),
        next_slice=_one_run(request, steps),
        decides=(
            *_link_words(limits, largest, request.told),
            _micro_batch_words(memories),
            *([] if isinstance(request.watts.wall_watts, float) else [_draw_words(gpu, drawn)]),
            *([f"heat: {limits.heat}"] if limits.heat else []),
        ),
    )
    return machine, tuple(map(_of_step, steps, memories))


def _with_link(limits: Ceilings, bytes_per_s: float | Absent, rig: RigProfile) -> Ceilings:
    """With the link between cards that the user knows."""
    if isinstance(bytes_per_s, Absent):
        return limits
    if isinstance(limits.link, Absent):
        raise RigbenchError(f"link-speed is between cards, and {rig.name} has one", "leave it out")
    rate = Figure(bytes_per_s, "declared", "link-speed")
    return msgspec.structs.replace(limits, link=msgspec.structs.replace(limits.link, bytes_per_s=rate))


def _link_words(limits: Ceilings, largest: StepTime, told: Told) -> tuple[str, ...]:
    """What is taken for the link between cards, and what half of it would do to this step."""
    link = limits.link
    if isinstance(link, Absent) or largest.recipe.ranks < 2:
        return ()
    rate = msgspec.structs.replace(link.bytes_per_s, value=link.bytes_per_s.value / 2)
    halved = msgspec.structs.replace(limits, link=msgspec.structs.replace(link, bytes_per_s=rate))
    longer = steptime.predict(largest.model, largest.recipe, halved, told).seconds.value / largest.seconds.value - 1
    speed, basis = units.format_bytes_per_s(link.bytes_per_s.value), link.bytes_per_s.basis
    effect = f"at half of that a step of {largest.model.name} takes {units.format_share(longer)} longer"
    option = "" if link.bytes_per_s.source == "declared" else ", --set link-speed=B/S"
    return (f"cards' link: all_reduce at {speed} ({basis}{option}); {effect}",)


def _micro_batch_words(memories: Sequence[VramPrediction]) -> str:
    """Of each model, and the memory that the largest takes with its own."""
    its = max(memories, key=lambda it: it.model.total_parameters)
    counts = [it.recipe.micro_batch for it in memories]
    least, most = min(counts), max(counts)
    count = f"{most}" if least == most else f"{most} to {least} by size"
    code = "compiled" if its.recipe.compiled else "eager"
    takes = f"{its.model.name} takes {span(its.process, 'bytes')} of {units.format_bytes(its.target.memory_bytes)}"
    takes += f", {words}" if (words := its.doubt) else ""
    return f"micro-batch: {count}, {code}, as many as fit and gain speed; {takes}"


def _draw_words(gpu: GpuProfile, drawn: Estimate) -> str:
    limit = gpu.power_limit_watts
    if isinstance(limit, Absent):
        return f"draw: n/a ({limit.reason})"
    return f"draw: a card takes {span(drawn, 'share')} of its {limit:g} W limit, modelled; {draw.ANCHORS}"


def _of_step(step: StepTime, memory: VramPrediction) -> Forecast:
    its, recipe = step.seconds, step.recipe
    less, more = (units.format_share(abs(end / its.value - 1)) for end in (its.low, its.high))
    factors = [f"{recipe.micro_batch} × {step.model.shape.sequence:,} tokens"]
    factors += [f"{recipe.accumulation} accumulated"] if recipe.accumulation > 1 else []
    factors += [f"{recipe.ranks} cards"] if recipe.ranks > 1 else []
    rests_on = (f"datasheet of {step.ceilings.name}", "published training runs", *(KNOWN_RUN + it for it in step.known))
    why = f"a step takes {less} less to {more} more than predicted, as published runs left out of the fit did"
    rate = Rate(step.tokens_per_s, "predicted", rests_on, widened_by=(why,))
    batch = " × ".join(factors)
    return Forecast(
        step.model, rate, step.tokens_per_step, batch, micro_batch=recipe.micro_batch, memory=memory.process
    )


def surer(model: Model, chosen: Chosen, modelled: Rate | None) -> Rate:
    """A measured rate stands; the step's model counts where it is surer than interpolation and agrees with it."""
    try:
        its = rates.rate(model, chosen)
    except RigbenchError:
        if modelled is None:
            raise
        return modelled
    if its.source == "measured" or modelled is None:
        return its
    a, b = its.tokens_per_s, modelled.tokens_per_s
    return modelled if a.low <= b.value <= a.high and b.high / b.low < a.high / a.low else its


def _from_slices(request: Request, model: Model, chosen: Chosen, rate: Rate) -> Forecast:
    """Batches, compilation and start as this model's slices had them, or those of the model nearest in size."""
    own = [stored for stored in chosen.slices if stored.slice.model.shape == model.shape]
    alike = own or [chosen.nearest(model)]
    tokens, declared = alike[0].slice.tokens_per_step, request.batch_of(model)
    words = f"{tokens:,} tokens, as the short runs had"
    if not isinstance(declared, Absent):
        why = "by the rule" if request.batches else "batch-tokens"
        tokens, words = declared, f"{declared:,} tokens ({why}; the rate is of {tokens:,})"
    compiles = [its.slice.compile.cold_seconds for its in alike if isinstance(its.slice.compile, Compile)]
    compiling = math.fsum(compiles) / len(compiles) if compiles else Absent("not measured")
    starting = math.fsum(map(_startup, alike)) / len(alike)
    size, peak = (
        alike[0].slice.recipe.micro_batch,
        alike[0].slice.peak if own else Absent("no short run of it is stored"),
    )
    return Forecast(model, rate, tokens, words, compiling, starting, size, peak)


def _startup(stored: StoredSlice) -> float:
    """Seconds before the first step, and what the steps before the steady window took beyond steady ones."""
    its = stored.slice
    compiling = its.compile.cold_seconds if isinstance(its.compile, Compile) else 0.0
    return its.setup_seconds + max(0.0, stored.early_seconds - its.steady_from * its.step_seconds.value - compiling)


def _steps(
    models: Sequence[Model],
    chosen: Chosen,
    probes: Sequence[Run],
    its: Wanted | None = None,
    carried_to: Recipe | None = None,
) -> tuple[tuple[StepTime, ...], Correction]:
    """Each model's step, trained as the slice nearest in size, and what this rig's slices correct of such predictions.

    With `carried_to`, on as many cards as that says. No steps where this rig's ceilings are not stored, or not in this
    precision, nor of one process on several cards.
    """
    nothing = (), calibrate.calibrate([], [])
    card = its.cards.gpus[:1] if its else ()
    trained_on = chosen.configuration.recipe.ranks
    limits = ceilings.from_runs(probes, card * trained_on)
    target = limits if carried_to is None else ceilings.from_runs(probes, card * carried_to.ranks)
    if isinstance(limits, Absent) or isinstance(target, Absent) or limits.kind != chosen.configuration.device.kind:
        return nothing
    if any(stored.slice.split_over > 1 for stored in chosen.slices):
        return nothing

    def recipe(model: Model) -> Recipe:
        own = chosen.nearest(model).slice.recipe
        if carried_to is None:
            return own
        return msgspec.structs.replace(own, strategy=carried_to.strategy, ranks=carried_to.ranks)

    try:
        predicted = [steptime.predict(stored.slice.model, stored.slice.recipe, limits) for stored in chosen.slices]
        measured = [Measured(stored.slice.tokens_per_s, stored.run_id) for stored in chosen.slices]
        steps = tuple(steptime.predict(model, recipe(model), target) for model in models)
        return steps, calibrate.calibrate(predicted, measured)
    except RigbenchError:
        return nothing


def _next(request: Request, steps: Sequence[StepTime], correction: Correction, its: Wanted = ANYHOW) -> NextSlice:
    """The slice that would narrow the rate of the largest model most, which most hours go to."""
    target = max(steps, key=lambda step: step.model.flop_per_token)
    suggestion = calibrate.suggest(steps, correction, target)
    best = steps[suggestion.candidate]
    now, then = suggestion.half_width_now, suggestion.half_width_then
    basis = "the step's model and what its short runs have corrected so far"
    return NextSlice(_command(request, best.model, best.recipe, its), target.model.name, now, then, basis)


def _one_run(request: Request, steps: Sequence[StepTime]) -> NextSlice | Absent:
    """One known run of the largest model on that card, which most hours go to."""
    its = max(steps, key=lambda step: step.model.flop_per_token)
    then: float | Absent = its.half_width_with_a_run
    if isinstance(then, float):
        then = math.sinh(then)
    now = math.sinh(math.log(its.seconds.high / its.seconds.low) / 2)
    if isinstance(then, float) and then > NARROWER * now:
        return Absent("a run of it is known")
    basis = "the posterior of published runs, with one run of nearly this on that card"
    return NextSlice(_command(request, its.model, its.recipe), its.model.name, now, then, basis)


def _widest(request: Request, chosen: Chosen, forecasts: Sequence[Forecast]) -> NextSlice:
    """A size that is not measured, of those the one known least, else another run of the one known least."""
    measured = {stored.slice.model.shape for stored in chosen.slices}
    candidates = [its for its in forecasts if its.model.shape not in measured] or forecasts
    its = max(candidates, key=lambda it: (round(it.rate.tokens_per_s.half_width, 9), it.model.total_parameters))
    then: float | Absent = rates.ASSUMED_BETWEEN_PROCESSES
    if its.model.shape in measured:
        then = Absent("a further run shows how far runs lie apart")
    command = _command(request, its.model, chosen.slices[0].slice.recipe, chosen.its)
    basis = "what lies between processes, assumed"
    return NextSlice(command, its.model.name, its.rate.tokens_per_s.half_width, then, basis)


def _command(request: Request, model: Model, recipe: Recipe, its: Wanted = ANYHOW) -> str:
    """The one slice that trains so."""
    spec = request.options.model
    model_words = f"--params {model.name}" if isinstance(spec, Absent) else f"--model {shlex.quote(spec)}"
    words = [f"--series {request.name}"] if request.name in series_names()[1:] else []
    words += [f"--precision {recipe.precision}"]
    choices = [f"--optimizer {recipe.optimizer}"] if recipe.optimizer != "adamw" else []
    choices += [f"--adapter {recipe.adapter} --rank {recipe.adapter_rank}"] if recipe.adapted else []
    choices += ["--targets attention"] if recipe.adapter_targets == "attention" else []
    choices += ["--compile on"] if recipe.compiled else []
    choices += [f"--checkpointing {recipe.checkpoint_every}"] if recipe.checkpoint_every else []
    choices += [f"--loss {recipe.loss_chunks}"] if recipe.loss_chunks > 1 else []
    choices += [option.strip()] if (option := its.option(recipe.strategy)) else []
    return " ".join(["rigbench train-probe", model_words, *words, *(choices or ["--variants one"])])


def fitted(predictor: Predictor, request: Request, rig: RigProfile) -> tuple[Recipe, ...]:
    """How each model is trained on the rig's cards: all in the way that fits the largest, each with its micro-batch."""
    options = request.recipe
    if options.strategy in ("data-parallel", "accelerate"):
        raise RigbenchError(f"strategy {options.strategy} is only measured, not predicted", "use --set strategy=ddp")
    if "strategy" in options.said and (options.strategy == "single") != (rig.count == 1):
        several = "one card" if rig.count == 1 else f"{rig.count} cards"
        raise RigbenchError(f"strategy {options.strategy} is none for the {several} of {rig.name}", "leave it out")
    target = cards.of_profile(profiles.gpu(rig.gpu), rig.name, rig.count)
    largest = max(request.models, key=lambda model: model.total_parameters)
    options.over(usual.plain(target, options.adapter_kind)).refuse_contradiction()
    way = usual.recipe(predictor, largest, options, target)
    if isinstance(way, Absent):
        raise _does_not_fit(predictor, largest, options, rig, target)
    made = []
    for model in request.models:
        its = way if model == largest else usual.with_most(predictor, model, way, target)
        made.append(way if isinstance(its, Absent) else its)  # a smaller one that needs more than the largest: none
    return tuple(made)


def micro_batch_that_surely_fits(predictor: Predictor, model: Model, recipe: Recipe, target: Target) -> int:
    """A lower bound in closed form of the largest micro-batch, without a recorded step; 0 where it says nothing.

    A few per cent below what the recorded steps give (tests/test_ways.py), so that most questions need no torch. Of
    half precision with the plain loss and nothing recomputed: logits are three fp32 copies, a block keeps so many bytes
    for each element of its width.
    """
    shape = model.shape
    kept = KEPT_BYTES.get(shape.style)
    plain = recipe.checkpoint_every == 0 and recipe.loss_chunks == 1 and recipe.precision in ("bf16", "fp16")
    if kept is None or not plain or not shape.plain or recipe.strategy not in ("single", "ddp"):
        return 0
    buckets = 4 if recipe.strategy == "ddp" else 0
    fixed = predictor.least_bytes(model, recipe) + (COPIES_BYTES + buckets) * model.total_parameters + SCRATCH_BYTES
    each = shape.sequence * (LOGITS_BYTES * shape.vocabulary + kept * shape.layers * shape.width)
    return max(0, math.floor((SAFETY * cards.room_bytes(target) - fixed) / each))


def _does_not_fit(
    predictor: Predictor, model: Model, said: RecipeOptions, rig: RigProfile, target: Target
) -> RigbenchError:
    """With the least that would: sharding over more of these cards, or the smallest card that has the room."""
    size = min(profiles.gpu(rig.gpu).memory_gib)
    every, chunks = usual.WAYS[-1]
    least = usual.plain(target, said.adapter_kind)
    recipe = said.over(msgspec.structs.replace(least, checkpoint_every=every, loss_chunks=chunks))
    short = predictor.predict(model, recipe, target).short_bytes
    larger = sorted((gpu for gpu in profiles.for_sale() if min(gpu.memory_gib) > size), key=lambda g: min(g.memory_gib))
    cures = []
    for gpu in larger:
        if predictor.fits(model, recipe, cards.of_profile(gpu, gpu.id, rig.count)):
            cures.append(f"--on {rig.count}x{gpu.id}" if rig.count > 1 else f"--on {gpu.id}")
            break
    changes: list[dict[str, str]] = [{"optimizer": "adamw8bit"}]
    changes += [{"strategy": "fsdp2"}, {"strategy": "fsdp2", "optimizer": "adamw8bit"}] if rig.count > 1 else []
    for change in changes:
        if predictor.fits(model, msgspec.structs.replace(recipe, **change), target):
            cures.append(" ".join(f"--{option} {name}" for option, name in change.items()))
            break
    cures.append(f"a smaller model (`rigbench capacity --on {rig.name}` shows the largest)")
    fits_not = f"{model.name} does not fit a card of {rig.name} even with checkpointing and a chunked loss"
    what = f"{fits_not}: {short / (1 << 30):.1f} GiB are missing at least"
    return RigbenchError(what, f"what would do: {' or '.join(cures)}")


def batched(model: Model, recipe: Recipe, batch_tokens: int | Absent, exact: bool = False) -> Recipe:
    """With so many tokens in a step, of all cards together; Absent: as the recipe has it on each card.

    `exact`: with a smaller micro-batch where a step otherwise had a few more or less.
    """
    if isinstance(batch_tokens, Absent):
        return recipe
    each = batch_tokens / model.shape.sequence / recipe.ranks
    accumulation = -(-round(each) // recipe.micro_batch)
    while exact and round(each) % accumulation:
        accumulation += 1
    return msgspec.structs.replace(recipe, micro_batch=max(1, round(each / accumulation)), accumulation=accumulation)


def peak(gpu: str, precision: str, count: int) -> Figure | Absent:
    dtype: profiles.Dtype = precision.removesuffix("-pure")  # type: ignore[assignment]
    figure = profiles.peak(gpu, dtype)
    if isinstance(figure, Absent):
        return figure
    return msgspec.structs.replace(figure, value=count * figure.value, basis=f"{_times(count)}{figure.basis}, {dtype}")


def _times(count: int) -> str:
    return f"{count} × " if count > 1 else ""


def power_of(request: Request, rig: RigProfile, gpu: GpuProfile, drawn: Estimate) -> Power | Absent:
    """Cards at a share of their limit, and the host of the rig's profile or of one with the same cards."""
    declared = request.watts
    if not isinstance(declared.wall_watts, Absent):
        return cost.power((), declared)
    limit = gpu.figure("power_limit_watts", 1.0)
    if isinstance(limit, Absent):
        return limit
    share = f"{drawn.value:.2f} ({drawn.low:.2f} to {drawn.high:.2f}), {drawn.method}; {draw.ANCHORS}"
    basis = f"{_times(rig.count)}{limit.value:g} W power limit × {share}"
    figure = (drawn * (rig.count * limit.value)).figure(basis)
    if isinstance(declared.host, Absent):  # that of this rig's profile, else of the profile with as many of these cards
        alike = (one for one in profiles.rigs() if (one.gpu, one.count) == (rig.gpu, rig.count))
        twin = rig if not isinstance(rig.host_watts, Absent) else next(alike, rig)
        declared = msgspec.structs.replace(declared, rig_profile=twin)
    if isinstance(declared.host, Absent):
        return Power(watts=figure, covers="GPUs only")
    return cost.at_wall([PowerPart("GPUs", figure)], declared)


def rent(gpu: str) -> CardPrice | Absent:
    """The newest dated price of such a card; of undated ones the highest."""
    prices = [price for price in profiles.prices().cloud if price.gpu == gpu]
    if not prices:
        return money.NO_RENT
    best = max(prices, key=lambda it: ("" if isinstance(it.date, Absent) else it.date, it.per_gpu_hour))
    date = "undated" if isinstance(best.date, Absent) else best.date
    least, most = (pick(price.per_gpu_hour for price in prices) for pick in (min, max))
    spread = f"; listed from {least:g} to {most:g}" if least < most else ""
    return CardPrice(best.per_gpu_hour, best.currency, f"{best.provider}, {date}, {best.source}{spread} (rent)")


def _purchase(gpu: GpuProfile, count: int) -> RigPrice | Absent:
    if isinstance(gpu.launch_price_usd, Absent):
        return money.NO_PURCHASE
    kind = gpu.launch_price_kind.partition(" (")[0] or "list price"
    basis = f"{_times(count)}{gpu.launch_price_usd:,.0f} USD {kind}, without the host; purchase"
    return RigPrice(Figure(count * gpu.launch_price_usd, "datasheet", basis), "USD")


def hot_of(runs: Iterable[Run], kind: str) -> tuple[Estimate, str]:
    """The share of more hours once hot, of the newest run that soaked such a device; of its cards that lost most."""
    for run in runs:
        if not isinstance(run.thermals, Thermals):
            continue
        soaked = run.thermals.cards
        alike = [card for card in soaked if not isinstance(card.load, Absent) and card.load.device.kind == kind]
        measured = [card.hot_over_cold for card in alike if not isinstance(card.hot_over_cold, Absent)]
        if measured:
            ratio = min(measured, key=lambda ratio: ratio.value)
            return hot_extra(ratio), f"hot over cold {ratio.value:.3f}, thermals of run {run.id}"
    return NOT_SOAKED, HOT_WORDS


def hot_extra(ratio: Estimate) -> Estimate:
    """From hot over cold throughput; faster when hot is no saving to plan with."""
    value, low, high = (max(0.0, 1 / max(end, 0.01) - 1) for end in (ratio.value, ratio.high, ratio.low))
    return Estimate(value, low, high, ratio.level, ratio.method, ratio.n)
