"""Shows a stored run, the list of stored runs, and the profiles: a line each, or one with everything it states."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rigbench.core import profiles, units
from rigbench.core.errors import RigbenchError
from rigbench.core.finding_screen import show_findings
from rigbench.core.record import Absent, Figure
from rigbench.core.screen import printable, show_rooms, table
from rigbench.document import NOT_ASKED, Run
from rigbench.index import Entry
from rigbench.model import shape
from rigbench.report import first_screen
from rigbench.report.profiles import named

GPUS = ("id", ">bf16", ">fp32", ">memory", ">bandwidth", ">board power")
RIGS = ("name", "GPUs", ">host", ">power supply", "about")
MODELS = ("name", ">layers", ">width", ">heads", ">vocabulary", ">sequence", ">parameters published")
ELECTRICITY = ("id", ">per kWh", "place", "date")


def one_room(run: Run, name: str) -> Run:
    """The run with one room alone, by its own name or that of its command.

    Raises:
        RigbenchError: the run has no such room.
    """
    rooms = run.rooms()
    wanted = {"train-probe": "slices", "heat": "thermals"}.get(name, name)
    if wanted not in rooms and not (wanted == "doctor" and (run.findings or run.unchecked)):
        raise RigbenchError(f"run {run.id} holds no {name[:40]}", f"it holds {', '.join(rooms) or 'nothing'}")
    away = {room: () if room == "slices" else NOT_ASKED for room in rooms}
    kept = {room: getattr(run, room) for room in (wanted, *(["arms"] if wanted == "slices" else [])) if room in rooms}
    findings = {} if wanted == "doctor" else {"findings": (), "unchecked": ()}
    return msgspec.structs.replace(run, **{**away, **kept, **findings})


def show(run: Run, console: Console, whole: bool, quiet: bool = False) -> None:
    """A whole run on one screen; else, or `whole`, the run's header, then every room it has, in order."""
    if not whole and run.command == "run" and len(run.rooms()) > 1:
        first_screen.show(run, console, quiet)
        for warning in run.warnings:
            console.print(Text(f"note: {printable(warning)}", style="yellow"))
        return
    console.print(Text.assemble((f"rigbench {run.command}", "bold"), f"  {run.id}, {run.started_at}, {run.status}"))
    rig, torch = run.rig, run.software.torch
    cpu = "unknown CPU" if isinstance(rig.cpu_model, Absent) else rig.cpu_model
    size = rig.memory_total_bytes
    memory = "unknown memory" if isinstance(size, Absent) else units.format_bytes(size)
    parts = ", ".join([*(rig.gpu_names or ["no GPU"]), cpu, memory])
    software = f"rigbench {run.software.rigbench}, torch {'n/a' if isinstance(torch, Absent) else torch}"
    console.print(Text(printable(f"  rig {rig.fingerprint}: {parts}; {software}"), style="dim"))
    console.print()
    show_rooms(run, console, whole, quiet)
    if run.findings or run.unchecked:
        console.print()
        show_findings(run.findings, run.unchecked, console)
    for warning in run.warnings:
        console.print(Text(f"warning: {printable(warning)}", style="yellow"))


def show_list(entries: Iterable[Entry], console: Console) -> None:
    """A line per stored run, newest first. Lines are laid out here, since ten thousand take a rich table seconds."""
    rows = [("run", "when (UTC)", "command", "rig", "result")]
    for entry in entries:
        slices = [f"{it.slice.model.name} {units.format_rate(it.slice.tokens_per_s.value)}" for it in entry.slices]
        hours = [
            f"budget {units.format_seconds(middle * 3600)}"
            for path, (middle, *_) in entry.metrics.items()
            if path == "budget.series_hours"
        ]
        rooms = [name for name in entry.rooms if name not in ("slices", "arms", *(["budget"] if hours else []))]
        status = [] if entry.status == "finished" else [entry.status]
        when = entry.started_at[:16].replace("T", " ")
        rows.append((entry.id, when, entry.command, entry.machine[:32], ", ".join(status + hours + slices + rooms)))
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(4)]
    edge = sum(widths)
    room = max(20, console.width - edge)
    for row in rows:
        first = "".join(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True))
        last = textwrap.wrap(row[4], room) if len(row[4]) > room else [row[4]]
        console.out(
            printable(first + last[0]).rstrip(), *(" " * edge + line for line in last[1:]), sep="\n", highlight=False
        )


def show_profiles(console: Console) -> None:
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


def show_profile(what: str, console: Console) -> None:
    """One profile with everything it states."""
    grid = Table.grid(padding=(0, 2))
    for name, value in msgspec.to_builtins(named(what)).items():
        grid.add_row(Text(name, style="dim"), Text("\n".join(map(printable, _words(value).splitlines()))))
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
