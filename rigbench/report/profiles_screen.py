"""Shows the profiles: a line each, or one with everything it states."""

from __future__ import annotations

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rigbench.core import profiles, units
from rigbench.core.record import Absent, Figure
from rigbench.core.screen import printable, table
from rigbench.model import shape
from rigbench.report.profiles import named

GPUS = ("id", ">bf16", ">fp32", ">memory", ">bandwidth", ">board power")
RIGS = ("name", "GPUs", ">host", ">power supply", "about")
MODELS = ("name", ">layers", ">width", ">heads", ">vocabulary", ">sequence", ">parameters published")
ELECTRICITY = ("id", ">per kWh", "place", "date")


def show_all(console: Console) -> None:
    """Every profile, a line each: GPUs, rigs, series, published models, electricity."""
    rows = [
        (
            gpu.id,
            _rate(profiles.peak(gpu.id, "bf16")),
            _rate(profiles.peak(gpu.id, "fp32")),
            " or ".join(f"{size:g}" for size in gpu.memory_gib) + " GiB",
            f"{gpu.memory_bandwidth_gb_per_s:,g} GB/s",
            _watts(gpu.power_limit_watts),
        )
        for gpu in profiles.gpus()
    ]
    console.print(table(GPUS, rows, "GPU datasheets (dense, fp32 accumulate)"), "")
    rigs = [
        (rig.name, f"{rig.count}x {rig.gpu}", _watts(rig.host_watts), _watts(rig.psu_watts), rig.about)
        for rig in profiles.rigs()
    ]
    console.print(table(RIGS, rigs, "Rigs, for --on (also any GPU above, as rtx-4080 or 2xrtx-4080)"), "")
    for name in shape.series_names():
        series = shape.series(name)
        sizes = ", ".join(model.name for model in series.models)
        about = printable(f": {sizes}. {series.about}")
        console.print(Text.assemble((f"series {printable(name)}", "bold"), about))
    console.print()
    console.print(Text("Published models, for --model", style="italic"))
    for family in shape.families():
        console.print(Text(printable(family.about)))
        models = []
        for model in family.models:
            its, published = model.shape, model.published_parameters
            heads = f"{its.heads}" if its.kv_heads == its.heads else f"{its.heads}/{its.kv_heads}"
            total = f"{published:,}" if isinstance(published, int) else "n/a"
            models.append(
                (model.name, f"{its.layers}", f"{its.width}", heads, f"{its.vocabulary:,}", f"{its.sequence:,}", total)
            )
        console.print(table(MODELS, models))
    prices = [
        (price.id, f"{price.per_kwh:g} {price.currency}", price.place + " (default)" * price.default, price.date)
        for price in profiles.prices().electricity
    ]
    console.print("", table(ELECTRICITY, prices, "Electricity"))
    console.print(Text("`rigbench profiles ID` shows one with its sources", style="dim"))


def show_one(what: str, console: Console) -> None:
    """One profile with everything it states."""
    grid = Table.grid(padding=(0, 2))
    for name, value in msgspec.to_builtins(named(what)).items():
        lines = _words(value).splitlines()
        grid.add_row(Text(name, style="dim"), Text("\n".join(map(printable, lines))))
    console.print(grid)


def _watts(watts: float | Absent) -> str:
    return "n/a" if isinstance(watts, Absent) else units.format_watts(watts)


def _rate(figure: Figure | Absent) -> str:
    return "n/a" if isinstance(figure, Absent) else units.format_flops_per_s(figure.value)


def _words(value: object) -> str:
    if isinstance(value, dict):
        if value.get("type") == "absent":
            return f"n/a ({value['reason']})"
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items() if key != "type")
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, dict) for item in value)
        return ("\n" if nested else ", ").join(_words(item) for item in value)
    return str(value)
