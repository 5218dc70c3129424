"""Shows a stored run, the list of stored runs, and the profiles: a line each, or one with everything it states."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rigbench.core import profiles, units
from rigbench.core.errors import RigbenchError, did_you_mean
from rigbench.core.finding_screen import show_findings
from rigbench.core.record import Absent, Figure
from rigbench.core.screen import counted, grid, listed, middle, printable, show_rooms, table
from rigbench.doctor import screen as doctor
from rigbench.document import NOT_ASKED, Run
from rigbench.index import Entry
from rigbench.model import shape
from rigbench.model.counts import total_parameters
from rigbench.model.shape import Series, SeriesModel
from rigbench.report import first_screen
from rigbench.report.profiles import named
from rigbench.tables import shortened

GPUS = ("=id", ">bf16 TFLOP/s", ">fp32 TFLOP/s", ">memory GiB", ">GB/s", ">board W")
RIGS = ("=name", "=GPUs", ">host W", ">supply W", "about")
MODELS = ("=name", ">layers", ">width", ">heads", ">vocabulary", ">sequence", ">parameters published")
SERIES = ("=name", ">layers", ">width", ">heads", ">vocabulary", ">sequence", ">parameters")
ALIASES = {"train-probe": "slices", "training": "slices", "heat": "thermals"}  # other names of rooms, as screens say
MOST_NAMES = 12  # of a family, a line or two
LEAST_RESULT = 30  # columns; with fewer left it stands below
ELECTRICITY = ("=id", ">per kWh", "place", "date")


def one_room(run: Run, name: str) -> Run:
    """The run with one room alone, by its own name or that of its command.

    Raises:
        RigbenchError: the run has no such room.
    """
    rooms = run.rooms()
    wanted = ALIASES.get(name, name)
    if wanted not in rooms and not (wanted == "doctor" and (run.findings or run.unchecked)):
        raise RigbenchError(
            f"run {run.id} holds no {name[:40]}", f"{did_you_mean(name, rooms)}it holds {', '.join(rooms) or 'nothing'}"
        )
    away = {room: () if isinstance(getattr(run, room), tuple) else NOT_ASKED for room in rooms}
    kept = {room: getattr(run, room) for room in (wanted, *(["arms"] if wanted == "slices" else [])) if room in rooms}
    findings = {} if wanted == "doctor" else {"findings": (), "unchecked": ()}
    return msgspec.structs.replace(run, **{**away, **kept, **findings})


def show(run: Run, console: Console, whole: bool, quiet: bool = False) -> None:
    """A whole run on one screen; else, or `whole`, the run's header, then every room it has, in order."""
    if not whole:
        _brief(run, console, quiet)
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
    show_rooms(run, console)
    if run.findings or run.unchecked:
        console.print()
        show_findings(run.findings, run.unchecked, console)
    for warning in run.warnings:
        console.print(Text(f"warning: {printable(warning)}", style="yellow"))


def _brief(run: Run, console: Console, quiet: bool) -> None:
    """As the command itself showed it, below a line that says which run it is."""
    if run.command == "run" and (len(run.rooms()) > 1 or run.status != "finished"):
        first_screen.show(run, console, quiet)
    else:
        console.print(Text(printable(first_screen.head(run)), style="dim"))
        if run.command == "doctor":
            doctor.brief(run, console, quiet)
        else:
            show_rooms(run, console, whole=False, quiet=quiet)
    for warning in run.warnings:
        console.print(Text(f"warning: {printable(warning)}", style="yellow"))


def _said(room: str) -> str:
    return {"arms": "variants, predicted", **first_screen.NAMES}.get(room, room)


def show_list(entries: Iterable[Entry], console: Console) -> None:
    """A line per stored run, newest first. Lines are laid out here, since ten thousand take a rich table seconds."""
    rows = [("run", "when (UTC)", "command", "rig", "result")]
    for entry in entries:
        slices = [
            f"{it.slice.model.name} {middle(it.slice.tokens_per_s, 'tokens/s')}"
            for it in entry.slices
            if not it.disturbed
        ]
        busy = [f"not usable, as the machine was busy: {', '.join(map(_said, entry.busy))}"] if entry.busy else []
        hours = [
            f"training steps {units.format_seconds(hours * 3600)}"
            for path, (hours, *_) in entry.metrics.items()
            if path == "budget.series_hours" and not busy
        ]
        told = {"slices", *(["arms"] if slices else []), *(["budget"] if hours or busy else []), *entry.busy}
        rooms = [_said(name) for name in entry.rooms if name not in told]
        status = [f"label {entry.label}"] if entry.label else []
        status += [] if entry.status == "finished" else [entry.status]
        when = entry.started_at[:16].replace("T", " ")
        rows.append(
            (entry.id, when, entry.command, shortened(entry.machine), ", ".join(status + hours + slices + rooms + busy))
        )
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(4)]
    edge = sum(widths)
    beside = console.width - edge >= LEAST_RESULT
    for row in rows:
        cells = row[:4] if beside else row[:3]
        first = "".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
        if beside:
            start, *rest = textwrap.wrap(row[4], console.width - edge) or [""]
            lines = [first + start, *(" " * edge + line for line in rest)]
        else:
            result = f"{row[3]}: {row[4]}"
            lines = [first, *textwrap.wrap(result, console.width, initial_indent="  ", subsequent_indent="  ")]
        console.out(*(printable(line).rstrip() for line in lines), sep="\n", highlight=False)


def brief_profiles(console: Console) -> None:
    """Which there are, by name."""
    gpus, rigs = _sorted(gpu.id for gpu in profiles.gpus()), _sorted(rig.name for rig in profiles.rigs())
    rows = [
        (str(counted(len(gpus), "GPU")), ", ".join(gpus)),
        (str(counted(len(rigs), "rig")), ", ".join(rigs)),
    ]
    series = [shape.series(name) for name in shape.series_names()]
    rows += [(f"series {it.name}", ", ".join(model.name for model in it.models)) for it in series]
    rows += [(family.name, _some([model.name for model in family.models])) for family in shape.families()]
    prices = [
        f"{it.id} {it.per_kwh:g} {it.currency}{' (default)' * it.default}" for it in profiles.prices().electricity
    ]
    rows.append(("per kWh", ", ".join(prices)))
    rows.append(("more", "rigbench profiles --verbose has all figures, rigbench profiles ID one's sources"))
    console.print(grid(rows))


def _some(names: Sequence[str]) -> str:
    """All, or of many the ends and how many."""
    return listed(names) if len(names) > MOST_NAMES else ", ".join(names)


def _sorted(names: Iterable[str]) -> list[str]:
    """rtx-3060 before rtx-4090, a40 before a100."""
    return sorted(
        names, key=lambda name: [part.zfill(9) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    )


def show_profiles(console: Console) -> None:
    """Every profile, a line each: GPUs, rigs, series, published models, electricity."""
    gpus = {gpu.id: gpu for gpu in profiles.gpus()}
    rows = [
        (
            name,
            _tera(profiles.peak(name, "bf16")),
            _tera(profiles.peak(name, "fp32")),
            " or ".join(f"{size:g}" for size in gpus[name].memory_gib),
            f"{gpus[name].memory_bandwidth_gb_per_s:,g}",
            _watts(gpus[name].power_limit_watts),
        )
        for name in _sorted(gpus)
    ]
    console.print(table(GPUS, rows, "GPU datasheets (dense, fp32 accumulate)"), "")
    rigs = {rig.name: rig for rig in profiles.rigs()}
    cells = [
        (name, f"{rig.count}x {rig.gpu}", _watts(rig.host_watts), _watts(rig.psu_watts), rig.about)
        for name, rig in ((name, rigs[name]) for name in _sorted(rigs))
    ]
    console.print(table(RIGS, cells, "Rigs, for --on (also any GPU above, as rtx-4080 or 2xrtx-4080)"), "")
    for name in shape.series_names():
        show_series(shape.series(name), console)
        console.print()
    console.print(Text("Published models, for --model", style="italic"))
    for family in shape.families():
        console.print(Text(printable(family.about)))
        console.print(table(MODELS, [_model(model) for model in family.models]))
    prices = [
        (price.id, f"{price.per_kwh:g} {price.currency}", price.place + " (default)" * price.default, price.date)
        for price in profiles.prices().electricity
    ]
    console.print("", table(ELECTRICITY, prices, "Electricity"))
    console.print(Text("`rigbench profiles ID` shows one with its sources", style="dim"))


def _model(model: SeriesModel) -> tuple[str, ...]:
    its, published = model.shape, model.published_parameters
    heads = f"{its.heads}" if its.kv_heads == its.heads else f"{its.heads}/{its.kv_heads}"
    total = f"{published:,}" if isinstance(published, int) else f"{total_parameters(its):,}"
    return model.name, f"{its.layers}", f"{its.width}", heads, f"{its.vocabulary:,}", f"{its.sequence:,}", total


def show_series(series: Series, console: Console) -> None:
    console.print(Text(printable(f"series {series.name}: {series.about}"), style="bold"))
    console.print(table(SERIES, [_model(model) for model in series.models]))
    console.print(Text(printable(f"source: {series.source}"), style="dim"))


def show_profile(what: str, console: Console) -> None:
    """One profile with everything it states."""
    its = named(what)
    if isinstance(its, Series):
        show_series(its, console)
        return
    facts = Table.grid(padding=(0, 2))
    for name, value in msgspec.to_builtins(its).items():
        if (words := _words(value)) and (name, value) != ("published_within", 0):
            label = name.replace("_", " ")
            facts.add_row(Text(label, style="dim"), Text("\n".join(map(printable, words.splitlines()))))
    console.print(facts)


def _watts(watts: float | Absent) -> str:
    return "n/a" if isinstance(watts, Absent) else f"{watts:,g}"


def _tera(figure: Figure | Absent) -> str:
    return "n/a" if isinstance(figure, Absent) else units.format_significant(figure.value / 1e12)


def _words(value: object) -> str:
    if isinstance(value, dict):
        if value.get("type") == "absent":
            return f"n/a ({value['reason']})"
        return ", ".join(f"{key.replace('_', ' ')} {_words(item)}" for key, item in value.items() if key != "type")
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, dict) for item in value)
        return ("\n" if nested else ", ").join(_words(item) for item in value)
    return str(value)
