"""How does a training slice look on a screen?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Device, Figure, Skipped
from rigbench.core.screen import plus_minus
from rigbench.model.recipe import Recipe
from rigbench.train.record import OwnSlice, Slice, Vram
from rigbench.work import screen as power

if TYPE_CHECKING:
    from rich.console import Console

    from rigbench.document import Run


def show_run(run: Run, console: Console) -> None:
    """A slice of the user's program, the table of arms, or each slice."""
    from rigbench.train import arms_screen, own_screen

    if not isinstance(run.own, Absent | Skipped):
        own_screen.show(run.own, console)
    elif not isinstance(run.arms, Absent):
        arms_screen.show(run.arms, run.slices, console)
    else:
        for number, result in enumerate(run.slices):
            if number:
                console.print()
            show(result, console)


def show(result: Slice | Skipped, console: Console) -> None:
    """The headline rate, then what stands behind it, a line each."""
    from rich.table import Table
    from rich.text import Text

    if isinstance(result, Skipped):
        console.print(Text(f"{result.probe} skipped: {result.reason}", style="yellow"))
        return
    console.print(Text.assemble((result.model.name, "bold"), f" on {device_words(result.device)}"))
    steady = len(result.steps.seconds) - result.steady_from
    interval = interval_words(result.tokens_per_s, steady, result)
    console.print(Text.assemble("  ", (_headline(result), "bold"), f"  {interval}"))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for label, line in _lines(result):
        grid.add_row(f"  {label}", Text(line))
    console.print(grid)


def _headline(result: Slice) -> str:
    return units.format_rate(result.tokens_per_s.value)


def device_words(device: Device) -> str:
    plural = "" if device.threads == 1 else "s"
    threads = f", {device.threads} thread{plural}" if device.kind == "cpu" else ""
    return f"{device.kind} ({device.name}{threads})"


def interval_words(rate: Estimate, steady: int, result: Slice | OwnSlice) -> str:
    """The rate's interval, over how many steps, and what ended the slice."""
    ended = {
        "interval": f"stopped: within {units.format_plus_minus(result.target_half_width)}",
        "time limit": "stopped: time limit",
        "interrupted": "interrupted",
        "worker died": "cut short",
    }.get(result.ended_by, result.ended_by)
    steps = f"over {steady} steady steps of {len(result.steps.seconds)}; {ended}"
    if rate.level == 0:
        return f"one steady step, no interval; {ended}"
    low, high = (units.format_rate(end, unit="").strip() for end in (rate.low, rate.high))
    covered = units.format_share(rate.level)
    return f"{low} to {high} ({covered} interval, {units.format_plus_minus(rate.half_width)}) {steps}"


def _lines(result: Slice) -> list[tuple[str, str]]:
    model, recipe = result.model, result.recipe
    lines = [
        ("model", _model(result)),
        (
            "arm",
            f"{recipe.optimizer}, {recipe.precision} (chosen by: {result.precision_chosen_by}), checkpointing "
            f"{_checkpointing(recipe)}, {'compiled' if recipe.compiled else 'eager'}, "
            f"{_strategy(recipe)}{_chunks(recipe)}, host allocator: {result.host_allocator}",
        ),
        (
            "batch",
            f"{recipe.micro_batch} × {model.shape.sequence:,} tokens{_times(recipe)} a step (micro-batch: "
            f"{result.micro_batch_chosen_by})",
        ),
        ("step", step_words(result.step_seconds, result.step_share, result.outliers)),
        ("compute", _compute(result)),
        *_compiling(result),
        *_scaling(result),
        ("memory", memory_words(result.memory)),
        ("energy", _energy(result)),
        *_at_the_wall(result),
        ("data", f"{result.data.kind} {result.data.name}, {result.data.tokens:,} tokens ({result.data.distribution})"),
    ]
    if result.precision_trials:
        lines.insert(2, ("precision", _trials(result)))
    lines += [("event", event) for event in result.events[:5]]
    return lines


def _model(result: Slice) -> str:
    model, shape = result.model, result.model.shape
    return (
        f"{units.format_count(model.total_parameters)} parameters ({model.total_parameters:,}), "
        f"{units.format_count(model.non_embedding_parameters)} non-embedding; {shape.style}, "
        f"{shape.layers} layers × {shape.width}, {shape.heads} heads, vocabulary {shape.vocabulary:,}"
    )


def _trials(result: Slice) -> str:
    parts = [
        f"{trial.precision} {units.format_seconds(trial.timing.estimate.value)} ({plus_minus(trial.timing.estimate)})"
        for trial in result.precision_trials
    ]
    return "one block and head, forward and backward: " + ", ".join(parts)


def _checkpointing(recipe: Recipe) -> str:
    every = recipe.checkpoint_every
    return f"every {every} blocks" if every > 1 else "on" if every else "off"


def _strategy(recipe: Recipe) -> str:
    return f"{recipe.strategy} over {recipe.ranks} ranks" if recipe.ranks > 1 else recipe.strategy


def _chunks(recipe: Recipe) -> str:
    return f", loss in {recipe.loss_chunks} chunks" if recipe.loss_chunks > 1 else ""


def _times(recipe: Recipe) -> str:
    """What multiplies a micro-batch to a step."""
    accumulated = f" × {recipe.accumulation} accumulated" if recipe.accumulation > 1 else ""
    return f"{accumulated} × {recipe.ranks} ranks" if recipe.ranks > 1 else accumulated


def _compiling(result: Slice) -> list[tuple[str, str]]:
    if not result.compile:
        return []
    warm = result.compile.warm_seconds
    cached = "" if isinstance(warm, Absent) else f", {units.format_seconds(warm)} with a warm cache"
    return [("compiling", f"{units.format_seconds(result.compile.cold_seconds)}{cached}, before the first step")]


def _scaling(result: Slice) -> Iterator[tuple[str, str]]:
    """What the ranks wait for each other, and how their step comes from one rank's alone."""
    its = result.exchange
    if not its:
        return
    hosts = dict.fromkeys(its.hosts)
    where = f" on {len(hosts)} hosts ({', '.join(hosts)})" if len(hosts) > 1 else ""
    share = max(0.0, its.exposed_seconds / result.step_seconds.value)
    by = f"{len(its.with_seconds)} pairs of steps with and without it"
    if its.exposed:
        by += f" ({_signed(its.exposed.low)} to {_signed(its.exposed.high)})"
    yield (
        "exchange",
        (
            f"{len(its.hosts)} ranks{where}: {_signed(its.exposed_seconds)} of a step ({units.format_share(share)}) is "
            f"exchange that computing does not hide, by {by}"
        ),
    )
    if isinstance(its.alone_seconds, Absent):
        yield "scaling", f"n/a ({its.alone_seconds.reason})"
        return
    if isinstance(its.shared_seconds, Absent) or isinstance(its.efficiency, Absent):
        return
    kept, count = units.format_share(its.efficiency), len(its.hosts)
    alone = units.format_seconds(its.alone_seconds.value)
    parts = (
        f"{_signed(its.shared_seconds)} where all compute at once, {_signed(its.imbalance_seconds)} for the slowest "
        f"rank, {_signed(its.exposed_seconds)} for the exchange, {_signed(its.unexplained_seconds)} unexplained"
    )
    yield "scaling", f"{kept} of {count} times one rank alone, whose step takes {alone}: {parts}"


def _signed(seconds: float) -> str:
    return f"{'-' if seconds < 0 else '+'}{units.format_seconds(abs(seconds))}"


def step_words(median: Estimate, step_share: dict[str, float], outliers: int) -> str:
    shares = ", ".join(f"{name} {units.format_share(share)}" for name, share in step_share.items())
    return (
        f"median {units.format_seconds(median.value)} ({units.format_seconds(median.low)} to "
        f"{units.format_seconds(median.high)}), outliers {outliers}; {shares}"
    )


def _compute(result: Slice) -> str:
    model = result.model
    line = (
        f"{units.format_flops_per_s(result.model_flops_per_s)} of model FLOPs "
        f"({units.format_flop(model.flop_per_token)} a token, full attention; 6·N_total would say "
        f"{units.format_flop(model.flop_per_token_6n)})"
    )
    if result.hardware_flops_per_s != result.model_flops_per_s:
        line += f", {units.format_flops_per_s(result.hardware_flops_per_s)} with recomputation"
    return f"{line}; MFU {share(result.mfu)}; matmul: {share(result.share_of_measured_matmul)}"


def share(figure: Figure | Absent) -> str:
    if isinstance(figure, Absent):
        return f"n/a ({figure.reason})"
    return f"{units.format_share(figure.value)} {figure.basis}"


def memory_words(memory: Vram) -> str:
    named = [
        ("allocated", memory.allocated_bytes),
        ("reserved", memory.reserved_bytes),
        ("context", memory.context_bytes),
        ("process", memory.process_bytes),
    ]
    peaks = [f"{name} {units.format_bytes(size)}" for name, size in named if not isinstance(size, Absent)]
    before = memory.before_model_bytes
    started = f" ({units.format_bytes(before)} before the model)" if not isinstance(before, Absent) else ""
    return f"peak {', '.join(peaks) or 'n/a'}{started}; what runs out first: {memory.deciding}"


def _energy(result: Slice) -> str:
    energy = result.energy
    if isinstance(energy, Absent):
        # An old slice cannot be told its watts any more.
        cure = "; --host-watts W or --wall-watts W declares watts" if result.draws and not result.power else ""
        return f"n/a ({energy.reason}{cure})"
    text = (
        f"{units.format_watts(energy.watts)} ({energy.covers}, {energy.method}) over "
        f"{units.format_seconds(energy.window_seconds)}"
    )
    if result.joules_per_token and result.model_flop_per_joule:
        per_token = units.format_significant(result.joules_per_token)
        text += f"; {per_token} J a token, {units.format_flop(result.model_flop_per_joule)} a joule (model FLOP)"
    return text


def _at_the_wall(result: Slice) -> Iterator[tuple[str, str]]:
    """What the whole machine took, part by part, where it is known."""
    if not result.power:
        return
    (_, text), *rest = power.lines(result.power)
    watts = result.power.watts.value
    joules = units.format_significant(watts / result.tokens_per_s.value)
    flop = units.format_flop(result.model_flops_per_s / watts)
    yield "wall", f"{text}; {joules} J a token, {flop} a joule at the wall"
    yield from rest
    for warning in result.power.warnings:
        yield "warning", warning
