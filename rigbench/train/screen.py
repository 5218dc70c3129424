"""A training slice on a screen: the headline rate, then what stands behind it, a line each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Device, Figure, Skipped
from rigbench.core.screen import grid, printable, span
from rigbench.core.screen import skipped as show_skipped
from rigbench.train.record import AnySlice, Arms, Compile, Exchange, OwnModel, Slice, Vram
from rigbench.work import screen as power
from rigbench.work.record import Power

if TYPE_CHECKING:
    from rigbench.document import Run

MOST_EVENTS = 5


def show_run(run: Run, console: Console) -> None:
    """The table of arms, or each slice."""
    from rigbench.train import arms_screen

    if isinstance(run.arms, Arms):
        arms_screen.show(run.arms, run.slices, console)
        return
    for number, result in enumerate(run.slices):
        if number:
            console.print()
        show(result, console)


def brief_run(run: Run, console: Console, quiet: bool = False) -> None:
    """The first screen."""
    from rigbench.train import brief

    brief.show(run, console, quiet)


def show(result: AnySlice | Skipped, console: Console) -> None:
    if isinstance(result, Skipped):
        show_skipped(result.probe, result.reason, console)
        return
    console.print(
        Text.assemble((printable(result.model.name), "bold"), f" on {device_words(result.device, result.cards)}")
    )
    console.print(Text.assemble("  ", (rate_words(result), "bold"), f"  {_interval(result)}"))
    console.print(grid(_lines(result)))


def rate_words(result: AnySlice) -> str:
    """The rate, or its range alone where it has no middle; one step is told by its seconds."""
    its, unit = result.items_per_s, f"{result.unit}/s"
    if result.has_middle:
        return units.format_span(its.value, its.low, its.high, unit)
    if its.level == 0:
        step = units.format_seconds(result.steady_seconds[0])
        return f"{units.format_count(result.items_per_step)} {result.unit} in {step}"
    return units.format_range(its.low, its.high, unit)


def device_words(device: Device, cards: int = 1) -> str:
    threads = f", {device.threads} thread{'' if device.threads == 1 else 's'}" if device.kind == "cpu" else ""
    several = f"{cards} × " if cards > 1 and device.kind == "cuda" else ""
    return f"{device.kind} ({several}{printable(device.name)}{threads})"


def _interval(result: AnySlice) -> str:
    """The rate's interval, over how many steps, and what ended the slice."""
    ended = {
        "interval": f"stopped: within {units.format_plus_minus(result.target_half_width)}",
        "time limit": "stopped: time limit",
        "worker died": "cut short",
    }.get(result.ended_by, result.ended_by)
    rate, steps = result.items_per_s, result.steps.seconds
    if rate.level == 0:
        return f"one steady step, no interval; {ended}"
    count = len(steps) - result.steady_from
    over = f"over {count} steady step{'' if count == 1 else 's'} of {len(steps)}; {ended}"
    apart = "" if result.has_middle else ", too far apart for one number"
    return f"({units.format_share(rate.level)} interval{apart}) {over}"


def _lines(result: AnySlice) -> Iterator[tuple[str, str]]:
    recipe = result.recipe
    accumulated = f" × {recipe.accumulation} accumulated" if recipe.accumulation > 1 else ""
    by = f"(micro-batch: {result.micro_batch_chosen_by})"
    chosen = f"{recipe.optimizer}, {recipe.precision} (chosen by: {result.precision_chosen_by})"
    compiled = "compiled" if recipe.compiled else "eager"
    yield from _model(result)
    if isinstance(result, Slice):
        every, ranks = recipe.checkpoint_every, recipe.ranks
        checkpointing = f"every {every} blocks" if every > 1 else "on" if every else "off"
        strategy = f"{recipe.strategy} over {ranks} ranks" if ranks > 1 else recipe.strategy
        strategy += f" over {result.split_over} cards" if result.split_over > 1 else ""
        chunks = f", loss in {recipe.loss_chunks} chunks" if recipe.loss_chunks > 1 else ""
        yield (
            "variant",
            f"{chosen}, checkpointing {checkpointing}, {compiled}, {strategy}{chunks}, host allocator: "
            f"{result.host_allocator}",
        )
        if result.precision_trials:
            trials = (
                f"{trial.precision} {span(trial.timing.estimate, 'seconds')}" for trial in result.precision_trials
            )
            yield "precision", f"one block and head, forward and backward: {', '.join(trials)}"
        times = f"{accumulated} × {ranks} ranks" if ranks > 1 else accumulated
        yield "batch", f"{recipe.micro_batch} × {result.model.shape.sequence:,} tokens{times} a step {by}"
    else:
        yield "variant", f"{chosen}, {compiled}"
        yield "batch", f"{recipe.micro_batch} samples{accumulated} {by}"
    step = result.step_seconds
    shares = ", ".join(f"{name} {units.format_share(share)}" for name, share in result.step_share.items())
    yield "step", f"median {span(step, 'seconds')}, outliers {result.outliers}; {shares}"
    yield "compute", _compute(result)
    if isinstance(result.compile, Compile):
        yield "compiling", f"{compile_words(result.compile, 'with a warm cache')}, before the first step"
    if isinstance(result, Slice) and isinstance(result.exchange, Exchange):
        yield from _exchange(result, result.exchange)
    if isinstance(result, Slice) and result.exports:
        yield "export", exported(result.exports)
    yield "memory", _memory(result.memory)
    yield "energy", _energy(result)
    if isinstance(result.power, Power):
        yield from _at_the_wall(result, result.power)
    if isinstance(result, Slice):
        data = result.data
        layout = f"{data.dtype}, {data.layout}" if data.kind == "file" else data.distribution
        yield "data", f"{data.kind} {data.name}, {data.tokens:,} tokens ({layout})"
    yield from (("event", event) for event in result.events[:MOST_EVENTS])


def _model(result: AnySlice) -> Iterator[tuple[str, str]]:
    model = result.model
    parameters = f"{units.format_count(model.total_parameters)} parameters ({model.total_parameters:,})"
    if isinstance(model, OwnModel):
        frozen = model.total_parameters - model.trainable_parameters
        yield "model", f"{parameters}{f', {frozen:,} of them frozen' if frozen else ''}; a batch is {model.batch}"
        yield from (("note", note) for note in model.notes)
        if model.unused_parameters:
            yield "unused", f"{model.unused_parameters:,} parameters got no gradient in the trial step"
        return
    shape = model.shape
    yield (
        "model",
        f"{parameters}, {units.format_count(model.non_embedding_parameters)} non-embedding; {shape.style}, "
        f"{shape.layers} layers × {shape.width}, {shape.heads} heads, vocabulary {shape.vocabulary:,}",
    )


def _compute(result: AnySlice) -> str:
    model = result.model
    if isinstance(result.model_flops_per_s, Absent):
        return f"n/a ({result.model_flops_per_s.reason})"
    rate = units.format_flops_per_s(result.model_flops_per_s)
    if not isinstance(result, Slice):
        assert isinstance(model, OwnModel)
        each = "" if isinstance(model.flop_per_item, Absent) else f"{units.format_flop(model.flop_per_item)} a "
        return f"{rate} ({each}{result.unit[:-1]}, {model.flop_basis}); MFU {_share(result.mfu)}"
    each, field = (units.format_flop(it) for it in (result.model.flop_per_token, result.model.flop_per_token_6n))
    count = "4·N frozen + 6·N trained" if result.recipe.adapted else "6·N_total"
    line = f"{rate} of model FLOPs ({each} a token, full attention; {count} would say {field})"
    if result.hardware_flops_per_s != result.model_flops_per_s:
        line += f", {units.format_flops_per_s(result.hardware_flops_per_s)} with recomputation"
    return f"{line}; MFU {_share(result.mfu)}; matmul: {_share(result.share_of_measured_matmul)}"


def _share(figure: Figure | Absent) -> str:
    return (
        f"n/a ({figure.reason})" if isinstance(figure, Absent) else f"{units.format_share(figure.value)} {figure.basis}"
    )


def compile_words(its: Compile, warm: str) -> str:
    cold = units.format_seconds(its.cold_seconds)
    if isinstance(its.warm_seconds, Absent):
        return cold
    return f"{cold}, {units.format_seconds(its.warm_seconds)} {warm}"


def _exchange(result: Slice, its: Exchange) -> Iterator[tuple[str, str]]:
    """What the ranks wait for each other, and how their step comes from one rank's alone."""
    hosts = dict.fromkeys(its.hosts)
    where = f" on {len(hosts)} hosts ({', '.join(hosts)})" if len(hosts) > 1 else ""
    share = units.format_share(max(0.0, its.exposed.value / result.step_seconds.value))
    yield (
        "sync",
        f"{len(its.hosts)} ranks{where}: {_signed(its.exposed.value)} of a step ({share}) is gradient sync that "
        f"computing does not hide, by {len(its.with_samples[0])} pairs of steps with and without it "
        f"({_signed(its.exposed.low)} to {_signed(its.exposed.high)})",
    )
    kept = its.kept(result.step_seconds)
    if isinstance(kept, Absent):
        yield "scaling", f"n/a ({kept.reason})"
    elif not isinstance(its.shared_seconds, Absent) and not isinstance(its.alone_seconds, Absent):
        alone = units.format_seconds(its.alone_seconds.value)
        yield (
            "scaling",
            f"{kept_words(result, kept)} of {len(its.hosts)} times one rank alone, whose step takes {alone}: "
            f"{_signed(its.shared_seconds)} where all compute at once, {_signed(its.imbalance_seconds)} for the "
            f"slowest rank, {_signed(its.exposed.value)} for gradient sync, {_signed(its.unexplained_seconds)} "
            "unexplained",
        )


def exported(exports: dict[str, str]) -> str:
    settings = " ".join(f"{name}={value}" for name, value in exports.items())
    return f"{settings}, which p2p advises on this rig: a full run needs it too"


def kept_words(result: AnySlice, kept: Estimate) -> str:
    """A share of so many times one rank alone; the range where the slice's own rate has no middle."""
    return span(kept, "share") if result.has_middle else units.format_range(kept.low, kept.high, "share")


def _signed(seconds: float) -> str:
    return f"{'-' if seconds < 0 else '+'}{units.format_seconds(abs(seconds))}"


def _memory(memory: Vram) -> str:
    named = {name: getattr(memory, f"{name}_bytes") for name in ("allocated", "reserved", "context", "process")}
    peaks = [f"{name} {units.format_bytes(size)}" for name, size in named.items() if not isinstance(size, Absent)]
    before = memory.before_model_bytes
    started = f" ({units.format_bytes(before)} before the model)" if not isinstance(before, Absent) else ""
    return f"peak {', '.join(peaks) or 'n/a'}{started}; what runs out first: {memory.deciding}"


def _energy(result: AnySlice) -> str:
    energy = result.energy
    if isinstance(energy, Absent):
        # Declared watts add to sensors that were read beside the slice; a program takes none.
        cured = isinstance(result, Slice) and result.draws and isinstance(result.power, Absent)
        return f"n/a ({energy.reason}{'; --set host-watts=W or --wall-watts W declares watts' if cured else ''})"
    text = f"{units.format_watts(energy.watts)} ({energy.covers}, {energy.method}) over "
    text += units.format_seconds(energy.window_seconds)
    if not isinstance(result.joules_per_item, Absent):
        text += f"; {units.format_significant(result.joules_per_item)} J a {result.unit[:-1]}"
    if not isinstance(result.model_flop_per_joule, Absent):
        text += f", {units.format_flop(result.model_flop_per_joule)} a joule (model FLOP)"
    return text


def _at_the_wall(result: AnySlice, its: Power) -> Iterator[tuple[str, str]]:
    """What the whole machine took, part by part."""
    (_, text), *rest = power.lines(its)
    joules = units.format_significant(its.watts.value / result.items_per_s.value)
    flops = result.model_flops_per_s
    flop = "" if isinstance(flops, Absent) else f", {units.format_flop(flops / its.watts.value)} a joule"
    yield "wall", f"{text}; {joules} J a {result.unit[:-1]}{flop} at the wall"
    yield from rest
    yield from (("warning", warning) for warning in its.warnings)
