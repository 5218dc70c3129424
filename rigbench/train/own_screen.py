"""How does a slice of the user's own model look on a screen?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rigbench.core import units
from rigbench.core.record import Absent, Skipped
from rigbench.core.screen import grid
from rigbench.train import screen as slices
from rigbench.train.record import OwnSlice

if TYPE_CHECKING:
    from rich.console import Console


def show(result: OwnSlice | Skipped, console: Console) -> None:
    """The headline rate in the model's own unit, then what stands behind it."""
    from rich.text import Text

    if isinstance(result, Skipped):
        console.print(Text(f"{result.probe} skipped: {result.reason}", style="yellow"))
        return
    unit = f"{result.model.unit}/s"
    console.print(Text.assemble((result.model.name, "bold"), f" on {slices.device_words(result.device)}"))
    rate = units.format_rate(result.items_per_s.value, unit=unit)
    steady = len(result.steps.seconds) - result.steady_from
    interval = slices.interval_words(result.items_per_s, steady, result)
    console.print(Text.assemble("  ", (rate, "bold"), f"  {interval}"))
    console.print(grid(_lines(result)))


def _lines(result: OwnSlice) -> Iterator[tuple[str, str]]:
    model, recipe = result.model, result.recipe
    frozen = model.total_parameters - model.trainable_parameters
    parameters = f"{units.format_count(model.total_parameters)} parameters ({model.total_parameters:,})"
    yield "model", f"{parameters}{f', {frozen:,} of them frozen' if frozen else ''}; a batch is {model.batch}"
    if model.unused_parameters:
        yield "unused", f"{model.unused_parameters:,} parameters got no gradient in the trial step"
    compiled = "compiled" if recipe.compiled else "eager"
    yield "arm", f"{recipe.optimizer}, {recipe.precision} (chosen by: {result.precision_chosen_by}), {compiled}"
    accumulated = f" × {recipe.accumulation} accumulated" if recipe.accumulation > 1 else ""
    yield "batch", f"{recipe.micro_batch} samples{accumulated} (micro-batch: {result.micro_batch_chosen_by})"
    yield "step", slices.step_words(result.step_seconds, result.step_share, result.outliers)
    if isinstance(result.model_flops_per_s, Absent):
        yield "compute", f"n/a ({result.model_flops_per_s.reason})"
    elif not isinstance(model.flop_per_item, Absent):
        each = f"{units.format_flop(model.flop_per_item)} a {model.unit[:-1]}, {model.flop_basis}"
        yield (
            "compute",
            f"{units.format_flops_per_s(result.model_flops_per_s)} ({each}); MFU {slices.share(result.mfu)}",
        )
    yield "memory", slices.memory_words(result.memory)
    if isinstance(result.energy, Absent):
        yield "energy", f"n/a ({result.energy.reason})"
    elif result.joules_per_item:
        joules = units.format_significant(result.joules_per_item)
        yield (
            "energy",
            f"{units.format_watts(result.energy.watts)} ({result.energy.covers}); {joules} J a {model.unit[:-1]}",
        )
    if result.compile:
        warm = result.compile.warm_seconds
        cached = "" if isinstance(warm, Absent) else f", {units.format_seconds(warm)} with a warm cache"
        yield "compiling", f"{units.format_seconds(result.compile.cold_seconds)}{cached}"
    for event in result.events[:5]:
        yield "event", event
