"""How do the profiles look on a screen?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rigbench.core import profiles, units
from rigbench.core.record import Absent, Figure
from rigbench.model import shape
from rigbench.report.profiles import named

if TYPE_CHECKING:
    from rich.console import Console


def show_all(console: Console) -> None:
    """Every profile, a line each: GPUs, rigs, series, published models, electricity."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="GPU datasheets (dense, fp32 accumulate)", title_justify="left", box=None)
    for name in ("id", "bf16", "fp32", "memory", "bandwidth", "board power"):
        table.add_column(name, justify="left" if name == "id" else "right", no_wrap=True)
    for gpu in profiles.gpus():
        table.add_row(
            gpu.id,
            _rate(profiles.peak(gpu.id, "bf16")),
            _rate(profiles.peak(gpu.id, "fp32")),
            " or ".join(f"{size:g}" for size in gpu.memory_gib) + " GiB",
            f"{gpu.memory_bandwidth_gb_per_s:,g} GB/s",
            _watts(gpu.power_limit_watts),
        )
    console.print(table)
    console.print()
    table = Table(
        title="Rigs, for --on (also any GPU above, as rtx-4080 or 2xrtx-4080)", title_justify="left", box=None
    )
    for name in ("name", "GPUs", "host", "power supply", "about"):
        table.add_column(name, justify="right" if name in ("host", "power supply") else "left", no_wrap=name != "about")
    for rig in profiles.rigs():
        table.add_row(rig.name, f"{rig.count}x {rig.gpu}", _watts(rig.host_watts), _watts(rig.psu_watts), rig.about)
    console.print(table)
    console.print()
    for name in shape.series_names():
        series = shape.series(name)
        sizes = ", ".join(model.name for model in series.models)
        console.print(Text.assemble((f"series {name}", "bold"), f": {sizes}. {series.about}"))
    console.print()
    _show_models(console)
    console.print()
    table = Table(title="Electricity", title_justify="left", box=None)
    for name in ("id", "per kWh", "place", "date"):
        table.add_column(name, justify="right" if name == "per kWh" else "left")
    for entry in profiles.prices().electricity:
        place = entry.place + (" (default)" if entry.default else "")
        table.add_row(entry.id, f"{entry.per_kwh:g} {entry.currency}", place, entry.date)
    console.print(table)
    console.print(Text("`rigbench profiles ID` shows one with its sources", style="dim"))


def _show_models(console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    names = ("name", "layers", "width", "heads", "vocabulary", "sequence", "parameters published")
    console.print(Text("Published models, for --model", style="italic"))
    for family in shape.families():
        console.print(Text(family.about))
        table = Table(box=None)
        for name in names:
            table.add_column(name, justify="left" if name == "name" else "right")
        for model in family.models:
            its, published = model.shape, model.published_parameters
            heads = f"{its.heads}" if its.kv_heads == its.heads else f"{its.heads}/{its.kv_heads}"
            numbers = (f"{number:,}" for number in (its.vocabulary, its.sequence))
            total = f"{published:,}" if isinstance(published, int) else "n/a"
            table.add_row(model.name, str(its.layers), str(its.width), heads, *numbers, total)
        console.print(table)


def show_one(what: str, console: Console) -> None:
    """One profile with everything it states.

    Raises:
        RigbenchError: there is none of that name.
    """
    import msgspec
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for name, value in msgspec.to_builtins(named(what)).items():
        grid.add_row(Text(name, style="dim"), Text(_words(value)))
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
