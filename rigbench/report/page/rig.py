"""The page's sections on the rig: roofline, heat, topology, bytes moved over size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rigbench.bandwidth.record import Bandwidth, Transfer
from rigbench.collectives.record import AlphaBeta, Collectives
from rigbench.core import units
from rigbench.core.record import Absent, Figure, SensorSeries, Telemetry
from rigbench.document import Run
from rigbench.machine.record import PciHop, PciPath
from rigbench.matmul.record import Matmul, MatmulDims, MatmulShape
from rigbench.report.page import charts
from rigbench.report.page.charts import Line, Node, Panel
from rigbench.report.page.kit import NO_SENSOR, Chart, Section, Table, cells, held, why
from rigbench.thermals.record import Thermals
from rigbench.topology.record import Topology
from rigbench.work.telemetry import IDLE, REASONS, THROTTLE_BITS

ITEM_BYTES = {"fp32": 4, "tf32": 4, "fp8": 1, "fp8-fast": 1}  # others have 2
MOST_LINES = 8
SENSORS = {"temperature_celsius": ("°C", 1.0), "sm_clock_hertz": ("MHz", 1e-6), "power_watts": ("W", 1.0)}
FINE, POOR = 0.95, 0.7  # shares of what a link should do, from which it is green, and red below


def sections(run: Run) -> Iterator[Section]:
    yield _roofline(run)
    yield _heat(run)
    yield _topology(run)
    yield _transfers(run)


def _roofline(run: Run) -> Section:
    matmul = held(run.matmul, Matmul)
    if not matmul:
        return Section("roofline", "Roofline", missing=[why(run, "matmul")])
    shapes = [it for it in matmul.shapes if it.flops_per_s.value > 0]
    looks = [(ceiling.dtype, look) for ceiling in matmul.ceilings for look in ceiling.looks if look.seconds]
    dtypes = list(dict.fromkeys([*(it.dtype for it in shapes), *(dtype for dtype, _ in looks)]))
    if not dtypes:
        return Section("roofline", "Roofline", missing=["no product was measured: the time ran out"])
    colours = {dtype: charts.SERIES[number % len(charts.SERIES)] for number, dtype in enumerate(dtypes)}
    drawn: list[Line] = []
    for dtype in dtypes:
        own = [(_intensity(it, dtype), it.flops_per_s.value) for it in shapes if it.dtype == dtype]
        tried = [(_intensity(it, dtype), it.flop / min(it.seconds)) for name, it in looks if name == dtype]
        drawn += [Line(f"{dtype} model", own, "points", colours[dtype])] if own else []
        drawn += [Line(f"{dtype} tried", tried, "small", colours[dtype])] if tried else []
    reach = [x for line in drawn for x, _ in line.points]
    memory, top = _memory_rate(run), max((it.value for it in matmul.best_flops_per_s.values()), default=0.0)
    ridge = top / memory.value if memory else 0.0
    low, high = min(min(reach), ridge / 2 or min(reach)) / 1.5, max(reach) * 1.5
    for dtype, best in matmul.best_flops_per_s.items():
        drawn.append(Line(f"{dtype} ceiling", [(low, best.value), (high, best.value)], "line", colours.get(dtype, "")))
        if peak := matmul.datasheet_flops_per_s.get(dtype):
            drawn.append(Line(f"{dtype} datasheet", [(low, peak.value), (high, peak.value)], "dashed", charts.MUTED))
    if memory and ridge > low:
        drawn.append(Line("memory", [(low, low * memory.value), (ridge, top)], "line", charts.SERIES[7]))
    best_words = ", ".join(_both(matmul, dtype) for dtype in matmul.best_flops_per_s)
    counted = f"{len(shapes)} products of the model and {len(looks)} shapes that were tried"
    alt = f"Ceilings: {best_words or 'none'}. {counted}, each by its FLOP a byte."
    panel = Panel("FLOP/s", drawn)
    return Section(
        "roofline",
        "Roofline",
        (f"Ceilings: {best_words}." if best_words else "",),
        [
            Chart(
                "Rate of each product over its FLOP a byte",
                charts.lines(panel, "FLOP a byte of operands and result"),
                alt,
                _products(matmul, shapes, memory),
            )
        ],
        missing=list(matmul.not_run),
    )


def _both(matmul: Matmul, dtype: str) -> str:
    """A ceiling; where it is of a short test, also what the load sustained."""
    best, sustained = matmul.best_flops_per_s[dtype], matmul.sustained_flops_per_s.get(dtype)
    words = f"{dtype} {units.format_flops_per_s(best.value)}"
    if dtype not in matmul.best_product:
        return words
    under_load = f", {units.format_flops_per_s(sustained.value)} sustained" if sustained else ""
    return f"{words} (in a short test{under_load})"


def _products(matmul: Matmul, shapes: Sequence[MatmulShape], memory: Figure | None) -> Table:
    """Each ceiling, then each product of the model."""
    rows = []
    for dtype, best in matmul.best_flops_per_s.items():
        peak, found = matmul.datasheet_flops_per_s.get(dtype), matmul.best_product.get(dtype, "under sustained load")
        share = units.format_share(best.value / peak.value) if peak else "no datasheet"
        rows.append(cells(f"{dtype} ceiling", found, "", units.format_flops_per_s(best.value), share))
        if dtype in matmul.best_product and (load := matmul.sustained_flops_per_s.get(dtype)):
            share = units.format_share(load.value / peak.value) if peak else "no datasheet"
            rate = units.format_flops_per_s(load.value)
            rows.append(cells(f"{dtype} sustained", "under sustained load", "", rate, share))
    if memory:
        rows.append(cells("memory", memory.basis, "", units.format_bytes_per_s(memory.value), memory.source))
    rows += [
        cells(
            f"{it.dtype} {it.purpose}, {it.product}",
            it.words,
            _intensity(it, it.dtype),
            units.format_flops_per_s(it.flops_per_s.value),
            "correct" if it.check.correct else "WRONG",
        )
        for it in shapes
    ]
    headings = ("what", "shape", ">FLOP a byte", ">rate", "beside")
    return Table("Products of the model, and ceilings", headings, rows, ".matmul.shapes, .matmul.ceilings")


def _intensity(its: MatmulDims, dtype: str) -> float:
    """FLOP a byte, where each operand is read once and the result written once."""
    return its.flop / (ITEM_BYTES.get(dtype, 2) * (its.m * its.k + its.k * its.n + its.m * its.n))


def _memory_rate(run: Run) -> Figure | None:
    """Of the memory of what multiplied: measured as a triad or a copy inside it, else the datasheet's."""
    bandwidth = held(run.bandwidth, Bandwidth)
    inside = [
        it
        for part in (bandwidth.parts if bandwidth else ())
        for it in part.transfers
        if it.source == it.destination and not it.warm and not it.both_ways
    ]
    matmul = held(run.matmul, Matmul)
    if matmul and matmul.device.kind == "cpu":
        inside = [it for it in inside if not it.source.startswith("GPU")]
    elif inside:
        inside = [it for it in inside if it.source.startswith(("GPU", "cuda"))]
    if inside:
        best = max(inside, key=lambda it: it.bytes_per_s.value)
        return Figure(best.bytes_per_s.value, "measured", f"{best.operation} in {best.source}")
    sheets = [it for it in (bandwidth.memory_datasheet.values() if bandwidth else ()) if isinstance(it, Figure)]
    return sheets[0] if sheets else None


def _heat(run: Run) -> Section:
    thermals = held(run.thermals, Thermals)
    telemetry, beside, path = _telemetry(run)
    missing = [] if thermals else [f"heat test: {why(run, 'thermals')}"]
    limits: dict[str, float] = {}
    tables = []
    if thermals:
        rows = []
        for card in thermals.cards:
            named = {"target": card.target_celsius, "slowdown": card.slowdown_celsius}
            limits |= {name: value for name, value in named.items() if isinstance(value, float)}
            steady = card.steady
            held_down = (
                "; ".join(
                    f"{REASONS.get(it.reason, it.reason)} {units.format_share(it.share)}" for it in card.throttling
                )
                or "nothing"
            )
            kept = card.hot_over_cold
            rows.append(
                cells(
                    card.name,
                    card.peak_celsius,
                    "n/a" if isinstance(steady, Absent) else steady.temperature_celsius,
                    "n/a" if isinstance(kept, Absent) else units.format_share(kept.value),
                    held_down,
                    "settled" if card.settled.settled else card.settled.because,
                )
            )
        headings = ("device", ">peak °C", ">steady °C", ">hot ÷ cold", "what slowed it down", "settled")
        tables.append(Table("Under sustained load", headings, rows, ".thermals.cards"))
    if not telemetry:
        return Section("heat", "Heat over time", tables=tables, missing=[*missing, NO_SENSOR])
    start = telemetry.at_seconds[0] if telemetry.at_seconds else 0.0
    times = [at - start for at in telemetry.at_seconds]
    panels = []
    for field, (unit, scale) in SENSORS.items():
        drawn = [
            Line(its.device, points, "line")
            for its in telemetry.series
            if (points := _points(times, getattr(its, field), scale))
        ]
        if drawn:
            panels.append(Panel(unit, drawn[:MOST_LINES], tuple(limits.items()) if unit == "°C" else ()))
    if not panels:
        reason = next(
            (it.temperature_celsius.reason for it in telemetry.series if isinstance(it.temperature_celsius, Absent)),
            "no sensor answered",
        )
        return Section("heat", "Heat over time", tables=tables, missing=[*missing, f"sensors: {reason}"])
    shaded = list(_held_down(times, telemetry.series))
    rows = []
    for its in telemetry.series:
        for field, (unit, scale) in SENSORS.items():
            values = [value for _, value in _points(times, getattr(its, field), scale)]
            if values:
                rows.append(cells(its.device, unit, values[0], min(values), max(values), values[-1]))
    table = Table("Sensors", ("device", "unit", ">first", ">least", ">most", ">last"), rows, path)
    alt = "; ".join(f"{row[0]} {row[3]} to {row[4]} {row[1]}" for row in rows)
    held_share = sum(end - begin for begin, end in shaded) / max(times[-1], 1e-9) if shaded else 0.0
    note = (
        f"Shaded: clocks slowed down by heat or power, {units.format_share(held_share)} of the time." if shaded else ""
    )
    chart = Chart(f"{beside}: temperature, clock, power", charts.over_time(panels, shaded), f"{alt}. {note}", table)
    return Section("heat", "Heat over time", [note] if note else (), [chart], tables, missing)


def _telemetry(run: Run) -> tuple[Telemetry | None, str, str]:
    """The heat test's, else that of the longest probe beside which sensors were read."""
    known: list[tuple[Telemetry | Absent, str, str]] = []
    if isinstance(run.thermals, Thermals):
        known.append((run.thermals.telemetry, "Heat test", ".thermals.telemetry"))
    others: list[tuple[Telemetry | Absent, str, str]] = []
    if isinstance(run.topology, Topology):
        others.append((run.topology.load, "While all cards copied", ".topology.load"))
    if isinstance(run.matmul, Matmul):
        others.append((run.matmul.telemetry, "Beside the matrix products", ".matmul.telemetry"))
    for place, it in enumerate(run.slices):
        others.append(
            (getattr(it, "telemetry", Absent("")), f"Beside short run {place}", f".slices[{place}].telemetry")
        )
    answered = [it for it in others if isinstance(it[0], Telemetry) and _answers(it[0])]
    known += sorted(answered, key=lambda it: -len(it[0].at_seconds) if isinstance(it[0], Telemetry) else 0)
    for telemetry, words, path in known:
        if isinstance(telemetry, Telemetry):
            return telemetry, words, path
    return None, "", ""


def _answers(telemetry: Telemetry) -> bool:
    return any(not isinstance(getattr(its, field), Absent) for its in telemetry.series for field in SENSORS)


def _points(times: Sequence[float], column: object, scale: float) -> list[tuple[float, float]]:
    values = column if isinstance(column, tuple) else ()
    return [(at, scale * value) for at, value in zip(times, values, strict=False) if isinstance(value, int | float)]


def _held_down(times: Sequence[float], series: Iterable[SensorSeries]) -> Iterator[tuple[float, float]]:
    """Stretches of ticks at which heat or power held some card's clocks down."""
    idle = next(bit for bit, name in THROTTLE_BITS.items() if name == IDLE)
    heavy = sum(bit for bit, name in THROTTLE_BITS.items() if name.startswith(("hw_", "sw_")))
    columns = [its.throttle_bits for its in series if isinstance(its.throttle_bits, tuple)]
    begin = None
    for place, at in enumerate(times):
        bits = [column[place] for column in columns if place < len(column)]
        down = any(isinstance(it, int) and it & heavy & ~idle for it in bits)
        if down and begin is None:
            begin = at
        if not down and begin is not None:
            yield begin, at
            begin = None
    if begin is not None and times[-1] > begin:
        yield begin, times[-1]


def _topology(run: Run) -> Section:
    topology = held(run.topology, Topology)
    if not topology:
        return Section("topology", "Topology", missing=[why(run, "topology")])
    rows = []
    for path in topology.paths:
        share = _share(run, path)
        rows.append(
            cells(
                path.label,
                path.kind,
                path.bus_id,
                " → ".join(_link(hop) for hop in path.hops) or "on the root bus",
                _rate(path.awake_bytes_per_s, path.best_bytes_per_s),
                _rate(path.best_bytes_per_s),
                "not measured" if share is None else units.format_share(share),
            )
        )
    headings = ("what", "kind", "bus id", "links from the CPU", ">now", ">could be", ">measured ÷ expected")
    tables = [Table("Ways from the CPU", headings, rows, ".topology.paths")]
    pairs = [
        cells(
            f"GPU{it.one}-GPU{it.other}",
            it.label,
            "yes" if it.is_allowed else "no" if it.is_refused else "not reported",
            "; ".join(it.facts),
        )
        for it in topology.pairs
    ]
    tables.append(Table("Every two GPUs", ("pair", "way", "P2P by the driver", "facts"), pairs, ".topology.pairs"))
    isolation = topology.isolation
    cpu = topology.cpu.model if isinstance(topology.cpu.model, str) else "CPU unknown"
    words = f"{cpu}; IOMMU {isolation.iommu if isinstance(isolation.iommu, str) else 'unknown'}."
    if not topology.paths:
        return Section(
            "topology",
            "Topology",
            [words],
            missing=["the tree: no GPU, NVMe drive or network card was found on a PCI bus"],
        )
    nodes = list(_nodes(run, topology))
    alt = "; ".join(f"{row[0]}: {row[3]}, {row[4]} of {row[5]}" for row in rows)
    legend = "As thick as a link has lanes. Green: as fast as its two ends can be; yellow, red: below; grey: not known."
    table = tables.pop(0)
    return Section(
        "topology",
        "Topology",
        [words, legend],
        [Chart("The way from the CPU to each card", charts.tree(nodes), alt, table)],
        [it for it in tables if it.rows],
    )


def _nodes(run: Run, topology: Topology) -> Iterator[Node]:
    devices = {it.bus_id: it for it in topology.pci}
    gpus = {it.pci_bus_id: it for it in topology.gpus}
    paths = [it for it in topology.paths if it.kind == "GPU"] or list(topology.paths)
    paths += [it for it in topology.paths if it not in paths][: max(0, 12 - len(paths))]
    known = set()
    for path in paths:
        first = path.hops[0] if path.hops else None
        top = first.port if first and isinstance(first.port, str) else path.bus_id
        device = devices.get(top) if isinstance(top, str) else None
        root = f"root {device.root}" if device else "root"
        if root not in known:
            known.add(root)
            numa = f", node {device.numa_node}" if device and isinstance(device.numa_node, int) else ""
            yield Node(root, "", f"CPU{numa}")
        parent = root
        if not path.hops:
            yield Node(path.label, root, path.label)
        for hop in path.hops:
            is_last = hop.device == path.bus_id or hop is path.hops[-1]
            gpu = gpus.get(path.bus_id)
            short = (
                str(gpu.name).removeprefix("NVIDIA ").removeprefix("GeForce ")
                if gpu and isinstance(gpu.name, str)
                else ""
            )
            label = f"{path.label} {short}".strip() if is_last else hop.device
            name = f"{path.label} {hop.device}" if is_last else hop.device
            if name not in known:
                known.add(name)
                share = _share(run, path) if is_last else None
                yield Node(
                    name, parent, label, _link(hop), _thick(hop), _colour(_hop_share(hop) if share is None else share)
                )
            parent = name


def _link(hop: PciHop) -> str:
    generation = hop.generation_awake if isinstance(hop.generation_awake, int) else hop.generation_now
    now, best = hop.width_now_lanes, hop.width_best_lanes
    if not isinstance(generation, int) and not isinstance(now, int):
        return "not reported"
    width = f"x{now}" if isinstance(now, int) else "x?"
    of = f" of x{best}" if isinstance(best, int) and best != now else ""
    return f"gen {generation if isinstance(generation, int) else '?'} {width}{of}"


def _thick(hop: PciHop) -> float:
    return 1.0 + (hop.width_now_lanes / 3 if isinstance(hop.width_now_lanes, int) else 0)


def _hop_share(hop: PciHop) -> float | None:
    now = hop.awake_bytes_per_s if isinstance(hop.awake_bytes_per_s, float) else hop.now_bytes_per_s
    if isinstance(now, Absent) or isinstance(hop.best_bytes_per_s, Absent) or not hop.best_bytes_per_s:
        return None
    return now / hop.best_bytes_per_s


def _share(run: Run, path: PciPath) -> float | None:
    """What copies to that card reached, of what its way should give."""
    bandwidth = held(run.bandwidth, Bandwidth)
    if not bandwidth or not isinstance(path.expected, Figure):
        return None
    rates = [
        it.bytes_per_s.value
        for part in bandwidth.parts
        for it in part.transfers
        if it.destination == path.label and it.source != path.label and not it.both_ways and it.host_memory == "pinned"
    ]
    return max(rates) / path.expected.value if rates else None


def _colour(share: float | None) -> str:
    if share is None:
        return charts.MUTED
    return charts.GOOD if share >= FINE else charts.WARN if share >= POOR else charts.BAD


def _rate(*known: float | Absent) -> str:
    return next((units.format_bytes_per_s(it) for it in known if isinstance(it, float)), "n/a")


def _transfers(run: Run) -> Section:
    drawn: list[Chart] = []
    tables: list[Table] = []
    missing: list[str] = []
    bandwidth, collectives = held(run.bandwidth, Bandwidth), held(run.collectives, Collectives)
    if bandwidth:
        drawn, left_out = _copies(bandwidth)
        judged = [
            cells(it.way, units.format_bytes_per_s(it.bytes_per_s), it.judgement.verdict, it.judgement.reason)
            for it in bandwidth.judged
        ]
        tables = [Table("Against their links", ("way", ">best", "verdict", "why"), judged, ".bandwidth.judged")]
        missing = [*left_out, *bandwidth_reasons(bandwidth)]
    else:
        missing.append(f"bandwidth: {why(run, 'bandwidth')}")
    if collectives and collectives.operations:
        drawn.append(_operations(collectives))
    else:
        reason = why(run, "collectives") if not collectives else collectives.reason or "nothing was measured"
        missing.append(f"collectives: {reason}")
    return Section(
        "transfers", "Bandwidth and collectives over size", (), drawn, [it for it in tables if it.rows], missing
    )


def _copies(bandwidth: Bandwidth) -> tuple[list[Chart], list[str]]:
    """Rates over sizes, or bars where one size was copied; and what is not drawn."""
    ways: dict[str, list[Transfer]] = {}
    for part in bandwidth.parts:
        for it in part.transfers:
            ways.setdefault(_way(it), []).append(it)
    curves = [
        Line(way, [(float(it.size_bytes), it.bytes_per_s.value) for it in sorted(its, key=lambda it: it.size_bytes)])
        for way, its in ways.items()
    ]
    curves = sorted(curves, key=lambda it: -len(it.points))
    rows = [
        cells(
            way,
            units.format_bytes(it.size_bytes),
            units.format_bytes_per_s(it.bytes_per_s.value),
            units.format_plus_minus(it.bytes_per_s.half_width),
            "correct" if it.check.correct else "WRONG",
        )
        for way, its in ways.items()
        for it in its
    ]
    table = Table("Every copy", ("way", ">size", ">rate", ">90 %", "data"), rows, ".bandwidth.parts[].transfers")
    best = {way: max(it.bytes_per_s.value for it in its) for way, its in ways.items()}
    alt = "; ".join(f"{way} at most {units.format_bytes_per_s(rate)}" for way, rate in best.items())
    left_out = [f"{len(curves) - MOST_LINES} more ways are in the table alone"] if len(curves) > MOST_LINES else []
    if any(len(line.points) > 1 for line in curves):
        shown = charts.lines(Panel("B/s", curves[:MOST_LINES]), "bytes")
        return [Chart("Bandwidth over size", shown, alt, table)], left_out
    if not curves:
        return [], left_out
    bars = [
        charts.Bar(it.label, 0.0, best[it.label] / 1e9, units.format_bytes_per_s(best[it.label]), charts.SERIES[0])
        for it in curves[:MOST_LINES]
    ]
    return [Chart("Bandwidth, one size", charts.stretches(bars, "GB/s"), alt, table)], left_out


def _operations(collectives: Collectives) -> Chart:
    """Each operation's points, with the line of its fit."""
    curves, rows = [], []
    for number, operation in enumerate(collectives.operations):
        points = [(float(it.size_bytes), it.algorithm_bytes_per_s.value) for it in operation.sizes]
        colour, fit = charts.SERIES[number % len(charts.SERIES)], operation.fit
        curves.append(Line(operation.operation, points, "points" if isinstance(fit, AlphaBeta) else "both", colour))
        if isinstance(fit, AlphaBeta) and points:
            fitted = [(size, size / (fit.latency_seconds.value + size / fit.bytes_per_s.value)) for size, _ in points]
            curves.append(Line("", fitted, "line", colour))
        for size in operation.sizes:
            bus = size.bus_bytes_per_s
            rows.append(
                cells(
                    operation.operation,
                    units.format_bytes(size.size_bytes),
                    units.format_seconds(size.timing.estimate.value),
                    units.format_bytes_per_s(size.algorithm_bytes_per_s.value),
                    "n/a" if isinstance(bus, Absent) else units.format_bytes_per_s(bus.value),
                    "correct" if size.check.correct else "WRONG",
                )
            )
    headings = ("operation", ">size", ">time", ">bytes/time", ">bus", "data")
    table = Table("Every size", headings, rows, ".collectives.operations[].sizes")
    alt = "; ".join(
        f"{line.label} at most {units.format_bytes_per_s(max(rate for _, rate in line.points))}"
        for line in curves
        if line.label and line.points
    )
    title = f"Collectives over size, {collectives.world_size} ranks (lines: fitted)"
    return Chart(title, charts.lines(Panel("B/s", curves), "bytes"), alt, table)


def bandwidth_reasons(bandwidth: Bandwidth) -> list[str]:
    return [f"{part.name}: {reason}" for part in bandwidth.parts for reason in (*part.not_run, part.reason) if reason]


def _way(its: Transfer) -> str:
    words = (
        f"{its.operation} in {its.source}" if its.source == its.destination else f"{its.source} to {its.destination}"
    )
    memory = f", {its.host_memory}" if isinstance(its.host_memory, str) else ""
    peer = "" if isinstance(its.peer_access, Absent) else f", P2P {'on' if its.peer_access else 'off'}"
    threads = f", {its.threads} threads" if its.threads > 1 else ""
    return f"{words}{', both ways' if its.both_ways else ''}{memory}{peer}{threads}{', warm' if its.warm else ''}"
