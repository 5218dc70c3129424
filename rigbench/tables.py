"""Turns runs into tables: tidy rows, a number each, which files, comparisons and fleets stand on; a room's own table.

A room is made of items (a slice, a copy, a shape), each a record. Its estimates are the tidy rows, all of its fields
are a row of the room's table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import msgspec

from rigbench.bandwidth.record import Bandwidth, BandwidthPart, Transfer
from rigbench.budget.record import Budget
from rigbench.collectives.record import Collectives
from rigbench.core import units
from rigbench.core.estimate import Estimate, Timing
from rigbench.core.record import Absent, Device, Figure, Record, Skipped
from rigbench.dataloader.record import Dataloader, Loading
from rigbench.document import Run
from rigbench.machine.record import RigId, Software
from rigbench.matmul.record import Matmul
from rigbench.p2p.record import P2p
from rigbench.predict.record import Capacity, Largest, OwnCapacity, StepTime
from rigbench.scaling.record import Fit, Joint, Trained, points
from rigbench.thermals.record import PowerSteps, Thermals
from rigbench.topology.record import Topology
from rigbench.train.record import AnySlice, Arms
from rigbench.usable import usable
from rigbench.watch.record import SeenSteps, Training, program

METHOD = 6  # raised when rows change, so that an index of others is made anew
Better = Literal["higher", "lower", ""]
# By how a field's name ends: its unit as units.format_span takes it, and which way is better.
UNITS: tuple[tuple[str, str, Better], ...] = (
    ("tokens_per_s", "tokens/s", "higher"),
    ("steps_per_s", "steps/s", "higher"),
    ("bytes_per_s", "bytes/s", "higher"),
    ("flops_per_s", "FLOP/s", "higher"),
    ("flop_per_joule", "FLOP/J", "higher"),
    ("joules_per_item", "J", "lower"),
    ("_per_celsius", "share", ""),
    ("_per_clock", "share", ""),
    ("hot_over_cold", "share", "higher"),
    ("hot_over_burst", "share", "higher"),
    ("seconds", "seconds", "lower"),
    ("peak_bytes", "bytes", "lower"),
    ("memory_bytes", "bytes", ""),
    ("_celsius", "°C", "lower"),
    ("watts", "W", ""),
    ("hours", "h", "lower"),
    ("loss", "nats a token", "lower"),
)


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One number of a run. Two of the same room, `what` and metric compare where all of `under` is the same."""

    room: str
    what: str
    metric: str
    unit: str
    better: Better
    value: float
    low: float
    high: float
    level: float
    n: int
    under: tuple[tuple[str, str], ...]  # device, how many, dtype, method and what else it was measured under
    headline: bool  # whether it is one of the few that stand for the probe

    @property
    def name(self) -> str:
        return f"{self.room} {self.what} {self.metric}"

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.value, self.low, self.high, self.level, "as stored", self.n)


class Measured(msgspec.Struct, frozen=True, array_like=True):
    """A run's headlines and what they were measured on, as the index keeps them."""

    run: str
    started_at: str
    command: str
    status: str
    look: bool
    rig: str
    machine: str
    host: str
    label: str
    software: Software
    rows: tuple[Row, ...]

    @property
    def unit(self) -> str:
        """The rig, or the host where several of its kind must be told apart."""
        return f"{self.rig} {self.host}".strip()


class Item(NamedTuple):
    """A part of a room, with its estimates by metric."""

    what: str
    under: Mapping[str, object]
    record: Record
    numbers: Mapping[str, object]  # estimates, figures and plain numbers by the metric's name
    headlines: frozenset[str] = frozenset()


def shortened(name: str) -> str:
    """ "Intel Xeon @ 2.50GHz": without what tells nothing of a processor."""
    return re.sub(r"\((?:R|TM)\)| Processor| CPU", "", name)


def machine(rig: RigId) -> str:
    """ "2 × RTX 4080 SUPER", "AMD EPYC": what a run was on, in a few words."""
    cards = [name.removeprefix("NVIDIA ").removeprefix("GeForce ") for name in rig.gpu_names if isinstance(name, str)]
    if cards:
        counts = {name: cards.count(name) for name in cards}
        return ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items())
    return "a computer" if isinstance(rig.cpu_model, Absent) else rig.cpu_model


def elsewhere(run: Run) -> str:
    """The hardware that is not here, where a run predicts for such; else nothing."""
    if run.look and isinstance(run.capacity, Capacity | OwnCapacity):
        return run.capacity.target.name
    its = run.budget.rig if isinstance(run.budget, Budget) else run.arms.on if isinstance(run.arms, Arms) else "here"
    return its if isinstance(its, str) and its != "here" else ""


def on(run: Run) -> tuple[str, str]:
    """Fingerprint and words of the hardware that a run tells of; what is not here has its name for both."""
    there = elsewhere(run)
    return there or run.rig.fingerprint, there or machine(run.rig)


def measured(run: Run, keep_disturbed: bool = False) -> Measured:
    """The run's headlines, without what was measured while the machine was busy unless that is to be kept."""
    rig, words = on(run)
    return Measured(
        run=run.id,
        started_at=run.started_at,
        command=run.command,
        status=run.status,
        look=run.look,
        rig=rig,
        machine=words,
        host=run.host,
        label=label(run),
        software=run.software,
        rows=tuple(row for row in rows(run if keep_disturbed else usable(run)) if row.headline),
    )


def label(run: Run) -> str:
    """The run's, else that of its heat test."""
    heat = run.thermals.label if isinstance(run.thermals, Thermals) else ""
    return run.label or (heat if isinstance(heat, str) else "")


def rows(run: Run) -> Iterator[Row]:
    """Every number of a run that has an interval or could have one, room by room."""
    for name in run.rooms():
        for item in items(run, name):
            under = tuple((key, str(value)) for key, value in item.under.items())
            for metric, number in item.numbers.items():
                if (estimate := _estimate(number)) is None:
                    continue
                unit, better = _unit(metric, item.record)
                yield Row(
                    name,
                    item.what,
                    metric,
                    unit,
                    better,
                    estimate.value,
                    estimate.low,
                    estimate.high,
                    estimate.level,
                    estimate.n,
                    under,
                    metric in item.headlines,
                )


def headlines(run: Run) -> list[Row]:
    """The rows that stand for what was measured; of a run that is computed all."""
    its = list(rows(run))
    return [row for row in its if row.headline] or its


def _estimate(number: object) -> Estimate | None:
    if isinstance(number, Estimate):
        return number
    if isinstance(number, Timing):
        return number.estimate
    if isinstance(number, Figure):
        return Estimate(number.value, *number.ends, 0.0, number.basis, 0)
    if isinstance(number, int | float) and not isinstance(number, bool):
        return Estimate(float(number), float(number), float(number), 0.0, "one reading", 1)
    return None


def _unit(metric: str, record: Record) -> tuple[str, Better]:
    if isinstance(record, AnySlice) and metric == "items_per_s":
        return f"{record.unit}/s", "higher"
    return next(((unit, better) for end, unit, better in UNITS if metric.endswith(end)), ("", ""))


def _estimates(record: Record) -> dict[str, object]:
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    fields = {"seconds" if name == "timing" else name: value for name, value in fields.items()}
    return {name: value for name, value in fields.items() if isinstance(value, Estimate | Timing)}


def _on(device: Device, cards: int = 1) -> dict[str, object]:
    threads = {"threads": device.threads} if device.kind == "cpu" else {}
    return {"device": f"{device.kind} {device.name}", "count": cards, **threads}


def items(run: Run, room: str) -> Iterator[Item]:
    """The parts of a room, none where it was not measured. A record that PARTS does not take apart is one itself."""
    for record in run.rooms().get(room, ()):
        if isinstance(record, Skipped):
            continue
        parts = next((parts for kind, parts in PARTS.items() if isinstance(record, kind)), None)
        if parts:
            yield from parts(record)
        else:
            numbers = _estimates(record)
            yield Item("", {"method": getattr(record, "method", "")}, record, numbers, frozenset(numbers))


def _slice(its: AnySlice) -> Iterator[Item]:
    recipe = its.recipe
    plain = msgspec.structs.replace(recipe, checkpoint_every=0, compiled=False, loss_chunks=1, accumulation=1)
    plain = msgspec.structs.replace(plain, strategy="single", ranks=1)
    what = " ".join([its.model.name, recipe.optimizer, *recipe.differences(plain).values()])
    under = {**_on(its.device, its.cards), "dtype": recipe.precision, "micro-batch": recipe.micro_batch}
    under |= {"sequence": its.items_per_step // max(1, recipe.micro_batch * recipe.accumulation * recipe.ranks)}
    under |= {"host allocator": its.host_allocator, "method": its.method}
    numbers = _estimates(its) | {"peak_bytes": its.peak, "joules_per_item": its.joules_per_item}
    yield Item(what, under, its, numbers, frozenset({"items_per_s", "peak_bytes", "joules_per_item"}))


def _trained(its: Trained) -> Iterator[Item]:
    """The loss after each number of tokens, and how fast it trained."""
    under = {**_on(its.device, its.conditions.ranks), "dtype": its.recipe.precision, "batch": its.tokens_per_step}
    under |= {
        "rate": f"{its.schedule.learning_rate:.3g}",
        "data": its.conditions.data_sha256[:12],
        "method": its.method,
    }
    what = f"{its.model.name} {its.recipe.optimizer} seed {its.seed}"
    for point in points(its):
        name = f"{what}, {units.format_count(point.tokens)} tokens"
        yield Item(name, under, point, {"loss": point.loss}, frozenset({"loss"}))
    yield Item(what, under, its, {"tokens_per_s": its.tokens_per_s}, frozenset({"tokens_per_s"}))


def _laws(its: Fit) -> Iterator[Item]:
    under = {"optimizer": its.optimizer, "method": its.method}
    for line in its.lines:
        yield Item(f"L({line.of})", under, line, {"exponent": line.exponent}, frozenset({"exponent"}))
    if isinstance(its.joint, Joint):
        yield Item("L(N, D)", under, its.joint, _estimates(its.joint), frozenset({"alpha", "beta", "irreducible"}))
    for other in its.others:
        yield from _laws(other)


def _transfers(its: Bandwidth) -> Iterator[Item]:
    for part in its.parts:
        largest: dict[tuple[object, ...], int] = {}
        for it in part.transfers:
            largest[_way(it)] = max(it.size_bytes, largest.get(_way(it), 0))
        for it in part.transfers:
            slow = it.host_memory == "pageable" and "GPU" in f"{it.source}{it.destination}"
            main = it.size_bytes == largest[_way(it)] and not it.warm and not slow
            way = f"{it.operation} {it.source} to {it.destination}{' and back' * it.both_ways}"
            kind: list[str] = [it.host_memory] if isinstance(it.host_memory, str) else []
            kind += [f"peer access {'on' if it.peer_access else 'off'}"] if isinstance(it.peer_access, bool) else []
            kind += ["one thread" if it.threads == 1 else "all threads"] if "GPU" not in way else []
            what = ", ".join([way, *kind, *["cached"] * it.warm, units.format_bytes(it.size_bytes)])
            under = {"device": _devices(part), "threads": it.threads, "method": its.method}
            yield Item(what, under, it, _estimates(it), frozenset({"bytes_per_s"}) if main else frozenset())


def _way(it: Transfer) -> tuple[object, ...]:
    memory = (it.host_memory, it.peer_access, it.both_ways, it.threads, it.warm)
    return (it.operation, it.source, it.destination, *memory)


def _devices(part: BandwidthPart) -> str:
    return ", ".join(f"{it.kind} {it.name}" for it in part.devices)


def _groups(its: Collectives) -> Iterator[Item]:
    devices = ", ".join(sorted({f"{place.device.kind} {place.device.name}" for place in its.ranks}))
    under = {"device": devices, "count": its.world_size, "hosts": len(its.hosts), "backend": its.backend}
    for operation in its.operations:
        sizes = [it.size_bytes for it in operation.sizes]
        for it in operation.sizes:
            head = {"algorithm_bytes_per_s"} if it.size_bytes == max(sizes) else set()
            head |= {"seconds"} if it.size_bytes == min(sizes) < max(sizes) else set()
            what = f"{operation.operation} {units.format_bytes(it.size_bytes)}"
            yield Item(what, {**under, "method": its.method}, it, _estimates(it), frozenset(head))


def _products(its: Matmul) -> Iterator[Item]:
    on = {**_on(its.device), "method": its.method}
    ceilings = {ceiling.dtype: ceiling for ceiling in its.ceilings}
    for dtype, best in its.best_flops_per_s.items():
        record, lasting = ceilings.get(dtype, its), its.sustained_flops_per_s.get(dtype)
        stands = {"sustained_flops_per_s": lasting} if lasting else {"best_flops_per_s": best}
        numbers = {"best_flops_per_s": best, **stands, **(_estimates(record) if dtype in ceilings else {})}
        yield Item(f"{dtype} ceiling", {**on, "dtype": dtype}, record, numbers, frozenset(stands))
    model = {"model": its.model.name}
    for step in its.steps:
        under = {**on, "dtype": step.dtype, **model, "micro-batch": step.micro_batch}
        yield Item(f"{step.dtype} products of a step", under, step, _estimates(step), frozenset({"seconds"}))
    for shape in its.shapes:
        under = {**on, "dtype": shape.dtype, **model}
        what = f"{shape.dtype} {shape.purpose} {shape.product} {shape.words}"
        yield Item(what, under, shape, _estimates(shape))
    if not isinstance(its.fleet, Absent):
        for lane in its.fleet.lanes:
            under = {**_on(lane.device, len(its.fleet.lanes)), "dtype": its.fleet.dtype, "method": its.method}
            under |= {"shape": (its.fleet if isinstance(lane.shape, Absent) else lane.shape).words}
            what = f"{its.fleet.dtype} beside the others, {lane.name}"
            yield Item(what, under, lane, _estimates(lane), frozenset({"together_flops_per_s"}))


def _loading(its: Dataloader) -> Iterator[Item]:
    on = {**_on(its.device), "micro-batch": its.micro_batch, "sequence": its.sequence, "data": its.data.kind}
    on |= {"cpus": its.usable_cpus, "method": its.method}

    def one(row: Loading, what: str, main: bool) -> Item:
        return Item(what, on, row, _estimates(row), frozenset({"tokens_per_s"}) if main else frozenset())

    for sweep in its.sweeps:
        yield one(sweep.knee, f"{sweep.path}, {sweep.of}, at best", main=True)
        for row in sweep.rows:
            yield one(row, f"{sweep.path}, {sweep.of}, workers: {row.workers}", main=False)
        if not isinstance(sweep.cold, Absent):
            yield one(sweep.cold, f"{sweep.path}, {sweep.of}, cold", main=True)


def _heat(its: Thermals) -> Iterator[Item]:
    for card in its.cards:
        numbers = _estimates(card)
        numbers["steady_celsius"] = card.fit.steady_celsius if not isinstance(card.fit, Absent) else card.fit
        numbers["watts"] = card.steady.watts if not isinstance(card.steady, Absent) else card.steady
        numbers["hot_flops_per_s"] = card.hot.flops_per_s if not isinstance(card.hot, Absent) else card.hot
        load = {} if isinstance(card.load, Absent) else {"dtype": card.load.dtype}
        under = {"device": card.device_name, "count": len(its.cards), **load, "method": its.method}
        head = frozenset({"hot_over_cold", "steady_celsius", "hot_flops_per_s", "flop_per_joule"})
        yield Item(f"{card.name} under load", under, card, numbers, head)


def _peers(its: P2p) -> Iterator[Item]:
    on = {"device": ", ".join(its.device_names), "method": its.method}
    for it in its.speeds:
        what = f"{it.what} {it.setting} over {it.against}, {units.format_bytes(it.size_bytes)}"
        yield Item(what, on, it, _estimates(it))


def _plan(its: Budget) -> Iterator[Item]:
    for row in its.series:
        rate = {"tokens_per_s": row.rate.tokens_per_s}
        yield Item(row.model, {"rig": its.rig if isinstance(its.rig, str) else "here"}, row, _estimates(row) | rate)


def _wiring(its: Topology) -> Iterator[Item]:
    paths = {path.label: path for path in its.paths}
    for gpu in its.gpus:
        ways = {"to_host_bytes_per_s": paths[gpu.label].best_bytes_per_s} if gpu.label in paths else {}
        limits = {"limit_watts": gpu.power_limit_watts, "memory_bytes": gpu.memory_total_bytes}
        yield Item(gpu.label, {"device": gpu.name}, gpu, {**ways, **limits})


def _fits(its: Capacity) -> Iterator[Item]:
    on = {"device": its.target.name, "count": its.target.count, "method": its.method}
    for row in its.rows:
        names = {"micro_batch": row.micro_batch, "longest_sequence": row.sequence, "largest_parameters": row.model}
        numbers: dict[str, object] = {key: it.value for key, it in names.items() if isinstance(it, Largest)}
        if isinstance(row.micro_batch, Largest):
            numbers["peak_bytes"] = row.micro_batch.prediction.process
        yield Item(f"{its.model.name} {row.recipe.words}", on, row, numbers)
    for one in its.inference:
        numbers = {
            "peak_bytes": one.process,
            "largest_batch": one.largest_batch,
            "longest_context": one.longest_context,
        }
        yield Item(f"{its.model.name} inference, {one.weights}", on, one, numbers)


def _fits_of_own(its: OwnCapacity) -> Iterator[Item]:
    on = {"device": its.target.name, "count": its.target.count, "method": its.method}
    for row in its.rows:
        under = {**on, "micro-batch": row.micro_batch}
        yield Item(f"{its.program} {row.optimizer} {row.precision}", under, row, {"peak_bytes": row.process})
    if isinstance(its.items_per_s, Estimate):
        under = {**on, "micro-batch": its.timed_samples}
        yield Item(f"{its.program} speed, {its.unit}", under, its, {"items_per_s": its.items_per_s})


def _predicted(its: Arms) -> Iterator[Item]:
    """The ways of training that were only predicted; those that were measured are slices."""
    for row in its.rows:
        if row.outcome == "predicted":
            under = {"device": its.on, "count": row.recipe.ranks, "method": its.method}
            numbers: dict[str, object] = {"peak_bytes": row.peak_bytes}
            if isinstance(row.time, StepTime):
                numbers |= {"tokens_per_s": row.time.tokens_per_s, "step_seconds": row.time.seconds}
            words = f"{its.model.name} {row.recipe.words}" + ("" if row.recipe.compiled else ", eager")
            yield Item(f"{words}, predicted", {**under, "micro-batch": row.recipe.micro_batch}, row, numbers)


def _rhythms(its: PowerSteps) -> Iterator[Item]:
    on = {"device": ", ".join(its.devices), "method": its.method}
    for step in its.steps:
        numbers = {"lowest_watts": step.lowest_watts, "highest_watts": step.highest_watts, "pulses": step.pulses}
        yield Item(f"power steps of {units.format_seconds(step.period_seconds)}", on, step, numbers)


def _watched(its: Training) -> Iterator[Item]:
    """The training by its script's name, so that two ways of starting one compare; then each card it was on."""
    cards = [it for it in its.monitor.gpus if it.device in its.gpus]
    names = ", ".join(sorted({it.name if isinstance(it.name, str) else "unknown" for it in cards}))
    elsewhere = "not reported" if its.monitor.gpus else "cpu"  # the driver lists no process in a container
    on: dict[str, object] = {"device": names or elsewhere, "count": len(cards) or 1, "method": its.method}
    if not isinstance(its.steps, Absent):
        numbers: dict[str, object] = {f"{its.steps.unit}_per_s": its.steps.rate, "step_seconds": its.steps.step_seconds}
        numbers["model_flops_share"] = its.model_flops_share
        heads = frozenset({"tokens_per_s", "steps_per_s", "step_seconds"})
        yield Item(program(its.command), on, its.steps, numbers, heads)
    for card in cards:
        readings = {
            "celsius": card.temperature_celsius,
            "watts": card.power_watts,
            "peak_bytes": card.memory_used_bytes,
        }
        means = {
            name: it.high if name == "peak_bytes" else it.mean
            for name, it in readings.items()
            if not isinstance(it, Absent)
        }
        yield Item(f"{program(its.command)} {card.device}", on, card, means)


PARTS: dict[type[Record], Any] = {
    AnySlice: _slice,
    Arms: _predicted,
    Bandwidth: _transfers,
    Collectives: _groups,
    Matmul: _products,
    Dataloader: _loading,
    Thermals: _heat,
    P2p: _peers,
    Budget: _plan,
    Topology: _wiring,
    Training: _watched,
    Capacity: _fits,
    OwnCapacity: _fits_of_own,
    PowerSteps: _rhythms,
    Trained: _trained,
    Fit: _laws,
}


def about(its: Measured | Run) -> dict[str, object]:
    """The columns that say of which run a row is."""
    if isinstance(its, Run):
        its = Measured(
            its.id,
            its.started_at,
            its.command,
            its.status,
            its.look,
            *on(its),
            its.host,
            label(its),
            its.software,
            (),
        )
    names = ("run", "started_at", "command", "rig", "machine", "host", "label")
    return {name: getattr(its, name) for name in names}


LONG = ("room", "what", "metric", "unit", "better", "value", "low", "high", "level", "n", "under")


def tidy(its: Measured | Run, numbers: Iterable[Row]) -> Iterator[dict[str, object]]:
    """Rows as a mapping each, with their run's columns; `under` in words."""
    of = about(its)
    for row in numbers:
        cells = {name: getattr(row, name) for name in LONG}
        yield of | cells | {"under": "; ".join(f"{key} {value}" for key, value in row.under)}


def wide(run: Run, room: str) -> Iterator[dict[str, object]]:
    """A row for each part of a room: every field that is no raw sample, its unit in its name, None where absent.

    An estimate NAME has its ends in NAME_low and NAME_high beside it.
    """
    of = about(run)
    for item in items(run, room):
        yield of | {"what": item.what} | flat(item.record)


def flat(record: Record, prefix: str = "") -> dict[str, object]:
    """A record's fields as columns; those of a record in it, of few words and of a mapping are columns too."""
    cells: dict[str, object] = {}
    for name in record.__struct_fields__:
        value, key = getattr(record, name), f"{prefix}{name}"
        if isinstance(value, Absent):
            cells[key] = None
        elif isinstance(value, Timing):
            cells |= flat(msgspec.structs.replace(value, warmup_seconds=(), seconds=()), f"{key}_")
        elif isinstance(value, Estimate):
            cells |= {key: value.value, f"{key}_low": value.low, f"{key}_high": value.high}
        elif isinstance(value, Figure):
            cells |= {key: value.value, f"{key}_source": value.source}
        elif isinstance(value, Record):
            cells |= flat(value, f"{key}_")
        elif isinstance(value, dict):
            cells |= {f"{key}_{word}": it for word, it in value.items() if isinstance(it, int | float | str)}
        elif isinstance(value, tuple):
            if value and all(isinstance(it, str) for it in value):
                cells[key] = "; ".join(value)
        else:
            cells[key] = value
    return cells


def samples(record: Record) -> tuple[float, ...]:
    """The raw seconds behind a part of a room, in order: those that its estimate is made of; none where it has none."""
    if isinstance(record, AnySlice):
        return record.steady_seconds
    if isinstance(record, SeenSteps):
        return tuple(seconds for *_, seconds in step_seconds(record))
    timing = getattr(record, "timing", None)
    seconds = timing.seconds if isinstance(timing, Timing) else getattr(record, "seconds", ())
    return seconds if isinstance(seconds, tuple) else ()


def step_seconds(its: SeenSteps) -> Iterator[tuple[float, int, float]]:
    """(seconds since the start, step, seconds a step since the row before) of rows that came apart."""
    for before, (at, step) in pairwise(zip(its.at_seconds, its.step, strict=False)):
        if at > before[0] and step > before[1]:
            yield at, step, (at - before[0]) / (step - before[1])
