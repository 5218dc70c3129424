"""Shows a rig: its host, its GPUs, what lies between them, the PCI tree, disks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rigbench.core.record import Absent
from rigbench.core.screen import (
    Fact,
    Headline,
    closing,
    counted,
    gigabytes,
    grid,
    headline,
    if_known,
    known,
    line,
    listed,
    mapped,
    marked,
    missing,
    printable,
    size,
    table,
)
from rigbench.machine.record import Gpu, GpuPair, PciDevice, PciHop
from rigbench.topology.gpus_screen import UNIFIED, gpus, lanes
from rigbench.topology.record import Topology, is_integrated

WORTH_SHOWING = {"GPU", "NVMe", "NIC", "storage", "accelerator", "NVSwitch"}
PAIRS_LISTED = 3
MEANINGS = {
    "NV": "NVLink, and how many",
    "PIX": "one PCIe switch",
    "PXB": "several PCIe switches",
    "PHB": "the CPU's host bridge",
    "NODE": "several host bridges of one NUMA node",
    "SYS": "the link between NUMA nodes",
    "n/a": "not known",
}
# nvmlGpuP2PStatus_t, as the vendor's tool shortens it.
CODES = {0: "OK", 1: "CNS", 2: "GNS", 3: "TNS", 4: "DR", 5: "NS", 6: "U"}


MOST_LINES = 14  # of the tree, and of the cards, on a first screen


def verdict(topology: Topology) -> Headline:
    """ "2 × RTX 4080 SUPER, each gen 4 x8 (x16 possible), no P2P, ReBAR on"; no fine rig where that is not reported."""
    if not topology.gpus:
        facts = known([("CPU", topology.cpu.model), ("memory", mapped(topology.memory.total_bytes, size))])
        return "note", f"no GPU: {facts or 'a host that reports nothing'}"
    names = [gpu.name if isinstance(gpu.name, str) else "a GPU without a name" for gpu in topology.gpus]
    cards = " and ".join(
        f"{names.count(name)} × {name}".removeprefix("1 × ").replace("NVIDIA ", "").replace("GeForce ", "")
        for name in dict.fromkeys(names)
    )
    links: dict[str, list[str]] = {}
    for gpu in topology.gpus:
        links.setdefault(_link(topology, gpu), []).append(gpu.label)
    each = "each " if len(topology.gpus) > 1 else ""
    ways = [f"{each}{next(iter(links))}"] if len(links) == 1 else [f"{listed(of)} {link}" for link, of in links.items()]
    parts = [cards, *ways, _p2p(topology), _rebar(topology)]
    text = ", ".join(filter(None, parts))
    lost = [gpu.label for gpu in topology.gpus if isinstance(gpu.name, Absent) and "lost" in gpu.name.reason.lower()]
    if lost:
        return "fault", f"lost, and no longer reached by the driver: {listed(lost)}; {text}"
    if isinstance(topology.driver_gpus, int) and topology.driver_gpus < len(topology.gpus):
        return "warn", f"{text}; the driver lists {topology.driver_gpus} of them"
    return ("note" if "not reported" in text else "ok"), text


def _link(topology: Topology, gpu: Gpu) -> str:
    """ "gen 4 x8 (x16 possible)": the narrowest of its way, and what the card itself could do."""
    path = next((path for path in topology.paths if path.label == gpu.label), None)
    hop = next((hop for hop in path.hops if hop.device == path.narrowest), None) if path else None
    if hop is None:
        return "link not reported"
    text, own = lanes(hop.generation_best, hop.width_best_lanes), None
    if isinstance(gpu.pci_bus_id, str):
        own = next((function for function in topology.pci if function.bus_id == gpu.pci_bus_id), None)
    widest = own.link_max_width_lanes if own else gpu.link_width_max_lanes
    if isinstance(widest, int) and isinstance(hop.width_best_lanes, int) and widest > hop.width_best_lanes:
        text += f" (x{widest} possible)"
    return text


def _p2p(topology: Topology) -> str:
    pairs = topology.pairs
    if not pairs:
        return ""
    if all(pair.label.startswith("NV") for pair in pairs):
        return "NVLink"
    allowed = sum(pair.is_allowed for pair in pairs)
    if not any(pair.codes for pair in pairs):
        return "P2P not reported"
    return (
        "P2P allowed" if allowed == len(pairs) else f"P2P in {allowed} of {len(pairs)} pairs" if allowed else "no P2P"
    )


def _rebar(topology: Topology) -> str:
    states = {gpu.bar1_covers_memory for gpu in topology.gpus}
    return "ReBAR on" if states == {True} else "ReBAR off" if False in states else ""


def brief(topology: Topology, console: Console, quiet: bool = False, run_id: str = "RUN") -> None:
    headline("topology", verdict(topology), console)
    if topology.gpus:
        console.print(_cards(topology))
    if quiet:
        return
    marked(_odd(topology), console)
    cpu, memory = topology.cpu, topology.memory
    driver = if_known(mapped(topology.driver_version, lambda version: f"NVIDIA driver {version}"))
    host: list[Fact] = [
        ("CPU", cpu.model),
        ("CPUs", counted(cpu.logical_cpus, "CPU")),
        ("memory", mapped(memory.total_bytes, size)),
        ("kernel", mapped(topology.kernel, str, "Linux")),
        ("driver", driver),
    ]
    console.print(grid([("host", known(host))]))
    wanted = with_bridges({function.bus_id: function for function in topology.pci}, {"GPU"})
    if 0 < len(wanted) <= MOST_LINES and (drawn := _tree(topology, {"GPU"})):
        console.print(drawn)
    sure = "as the system and the driver report it; nothing was measured, and nothing diagnosed: rigbench doctor does"
    closing(sure, f"rigbench report {run_id} topology has the whole tree, the matrix and disks", console)


def _cards(topology: Topology) -> RenderableType:
    """A row a GPU; of many the first."""
    paths = {path.label: path for path in topology.paths}
    rows = []
    for gpu in topology.gpus[:MOST_LINES]:
        path = paths.get(gpu.label)
        expected = path.expected if path else Absent("no way to it is known")
        rows.append(
            (
                gpu.label,
                _link(topology, gpu).removeprefix("link "),
                gigabytes(path.best_bytes_per_s) if path else "",
                "" if isinstance(expected, Absent) else f"{gigabytes(expected.low)} to {gigabytes(expected.high)}",
                if_known(mapped(gpu.memory_total_bytes, size)),
                if_known(mapped(gpu.temperature_celsius, "{:.0f}".format)),
                if_known(mapped(gpu.power_limit_watts, "{:.0f}".format)),
            )
        )
    headings = ("GPU", "link", ">GB/s at best", ">expect", ">memory", ">°C", ">limit, W")
    shown = [place for place in range(len(headings)) if place < 2 or any(row[place] for row in rows)]
    return table([headings[place] for place in shown], [[row[place] for place in shown] for row in rows])


def _odd(topology: Topology) -> Iterator[Headline]:
    """What makes a way narrow, by what the same is true of, and what was not as it should be in reading the rig."""
    labels: dict[str, list[str]] = {}
    integrated = [gpu.label for gpu in topology.gpus if is_integrated(gpu)]
    labels |= {UNIFIED: integrated} if integrated else {}
    for path in (path for path in topology.paths if path.kind == "GPU" and path.label not in integrated):
        for hop in path.hops:
            for limit in hop.limits:
                labels.setdefault(limit.replace(f"{hop.port} is", "the slot is"), []).append(path.label)
        if path.shared_with:
            labels.setdefault(f"shares a link with {', '.join(path.shared_with)}", []).append(path.label)
        if isinstance(path.chipset, str):
            labels.setdefault(f"through the {path.chipset}, whose cards share one link", []).append(path.label)
    yield from (("note", f"{listed(alike)}: {what}") for what, alike in labels.items())
    refused = [pair for pair in topology.pairs if pair.is_refused]
    if refused and refused[0].facts:
        yield "note", f"no P2P: {refused[0].facts[0]}"
    yield from (("note", warning) for warning in topology.warnings)
    if not topology.gpus and isinstance(topology.driver_gpus, Absent):
        yield "note", f"GPUs: {topology.driver_gpus.reason}"


def show(topology: Topology, console: Console) -> None:
    """Prints the record; every number is in it."""
    doubt = " (in a virtual machine link, BAR and ACS readings cannot be trusted)" if topology.is_virtual else ""
    disks = []
    for disk in topology.disks:
        kind = mapped(disk.rotational, lambda turns: "spinning" if turns else "solid state")
        known_size: Fact = ("size", mapped(disk.size_bytes, size))
        disks.append(
            (disk.name, line([("model", disk.model), known_size, ("", f"on {disk.transport}"), ("kind", kind)]))
        )
    sections = (
        ("Host", _host(topology)),
        (f"GPUs{doubt if topology.gpus else ''}", gpus(topology)),
        ("Between them", _matrix(topology)),
        ("P2P (reported by the driver)", _peers(topology)),
        (f"PCI tree{doubt or ' (links one way, in theory)'}", _tree(topology)),
        ("Disks", grid(disks) if disks else None),
    )
    for title, body in sections:
        if body is not None:
            console.print(Text(title, style="bold"))
            console.print(body, soft_wrap=title == "Between them")
    for warning in topology.warnings:
        console.print(Text(printable(f"note: {warning}"), style="yellow"))


def _host(topology: Topology) -> RenderableType:
    """What is known, line by line, and once what is not."""
    cpu, memory = topology.cpu, topology.memory
    limits = {"the affinity of this process": cpu.affinity_cpus, "the cgroup quota": cpu.cgroup_limit_cpus}
    decided = next((why for why, limit in limits.items() if limit == cpu.usable_cpus), "")
    usable = mapped(cpu.usable_cpus, lambda cpus: f"usable {cpus:g} (limited by {decided})")
    flavour = if_known(mapped(topology.driver_flavour, lambda kind: f" ({kind} kernel module)"))
    driver = mapped(topology.driver_version, lambda version: f"NVIDIA driver {version}{flavour}")
    nodes = []
    for node in topology.numa_nodes:
        total = if_known(mapped(node.memory_total_bytes, size))
        nodes.append(f"node {node.node}: CPUs {node.cpus}{total and f', {total}'}")
    counts: list[Fact] = [
        ("CPUs", counted(cpu.logical_cpus, "CPU")),
        ("cores", counted(cpu.physical_cores, "core")),
        ("sockets", counted(cpu.sockets, "socket")),
        ("usable CPUs", "" if cpu.usable_cpus == cpu.logical_cpus else usable),
    ]
    caches: list[Fact] = [("L2", mapped(cpu.l2_bytes, size, "L2")), ("L3", mapped(cpu.l3_bytes, size, "L3"))]
    sizes: list[Fact] = [
        ("memory", mapped(memory.total_bytes, size)),
        ("usable memory", mapped(memory.usable_bytes, size, "usable")),
        ("limit", if_known(mapped(memory.cgroup_limit_bytes, size, "cgroup limit"))),
        ("swap", mapped(memory.swap_total_bytes, size, "swap")),
    ]
    system: list[Fact] = [
        ("kernel", mapped(topology.kernel, str, "Linux")),
        ("driver", if_known(driver)),
        ("CUDA", if_known(mapped(topology.cuda_version, str, "CUDA"))),
        ("virtual machine", if_known(mapped(topology.virtual_machine, str, "virtual machine:"))),
    ]
    topics: tuple[tuple[str, list[Fact]], ...] = (
        ("CPU", [("CPU", cpu.model), ("architecture", cpu.architecture)]),
        ("", counts),
        ("", [*caches, ("", " ".join(cpu.instruction_sets))]),
        ("memory", sizes),
        ("NUMA", [("", "; ".join(nodes))]),
        ("system", system),
        ("IOMMU", _isolation(topology)),
    )
    lines = [(label, known(facts)) for label, facts in topics if known(facts)]
    unknown = missing(fact for _, facts in topics for fact in facts)
    return grid([*lines, *([("", unknown)] if unknown else [])])


def _isolation(topology: Topology) -> list[Fact]:
    """The mode, and the ACS bits that send traffic between cards up to the CPU."""
    isolation = topology.isolation
    kind = "" if isolation.iommu == isolation.iommu_type else if_known(mapped(isolation.iommu_type, "({})".format))
    redirecting = isolation.acs_redirecting
    if isinstance(redirecting, Absent):
        acs: str | Absent = redirecting if topology.pci and topology.gpus else ""
    elif redirecting:
        acs = f"ACS redirect on at {', '.join(redirecting)}"
    else:
        acs = f"ACS redirect off at {counted(isolation.acs_readable, 'bridge')}"
    apart = ", ".join(f"{one} from {other}" for one, other in isolation.acs_separated)
    return [
        ("IOMMU", mapped(isolation.iommu, lambda mode: f"{mode} {kind}".strip())),
        ("ACS", acs),
        ("", f"its groups keep {apart}, below one switch: ACS isolates" if apart else ""),
        ("", " ".join(isolation.kernel_words)),
    ]


def _matrix(topology: Topology) -> RenderableType | None:
    rows = topology.matrix
    if len(rows) < 2:
        return None
    lines = ["  " + " ".join(f"{text:>5}" for text in ("", *rows))]
    lines += ["  " + " ".join(f"{text:>5}" for text in (label, *row)) for label, row in rows.items()]
    cells = {cell for row in rows.values() for cell in row}
    seen = [key for key in MEANINGS if any(cell == key or (key == "NV" and cell.startswith("NV")) for cell in cells)]
    lines += [f"  {key}: {MEANINGS[key]}" for key in seen]
    asked = [pair for pair in topology.pairs if isinstance(pair.driver_label, str)]
    if asked and not any("in the PCI tree" in warning for warning in topology.warnings):
        lines.append(f"  the driver, asked about {counted(len(asked), 'pair')} of GPUs, says the same")
    return Text("\n".join(map(printable, lines)))


def _peers(topology: Topology) -> RenderableType | None:
    """Pairs about which the same is known share a paragraph."""
    groups: dict[str, list[GpuPair]] = {}
    for pair in topology.pairs:
        groups.setdefault(repr((pair.label, _codes(pair), pair.facts, pair.nccl)), []).append(pair)
    rows = [row for group in groups.values() for row in _paragraph(group)]
    return grid(rows) if rows else None


def _paragraph(pairs: Sequence[GpuPair]) -> Iterable[tuple[str, str]]:
    first, names = pairs[0], [pair.names for pair in pairs]
    codes = _codes(first)
    answers = [f"{name} {CODES.get(code, 'unknown')} ({code})" for name, code in codes.items() if isinstance(code, int)]
    proof = " (permission, not proof)" if first.read_code == 0 and first.write_code == 0 else ""
    unknown = missing((name, code) for name, code in codes.items() if isinstance(code, Absent))
    p2p = "; ".join(part for part in (", ".join(answers) + proof, unknown) if part)
    if len(pairs) == 1:
        yield names[0], p2p
    else:
        listed = ", ".join(names) if len(pairs) <= PAIRS_LISTED else f"{names[0]}, {names[1]}, … {names[-1]}"
        yield f"{len(pairs)} pairs", f"{first.label}: {listed}"
        yield "P2P", p2p
    if answers:
        yield "", "; ".join(first.facts)
    choice = first.nccl
    if isinstance(choice, Absent):
        yield "NCCL", f"default path n/a ({choice.reason})"
    else:
        change = choice.change.reason if isinstance(choice.change, Absent) else choice.change
        yield "NCCL", f"{choice.source} default: {choice.transport}, since {choice.reason}; {change}"


def _codes(pair: GpuPair) -> dict[str, int | Absent]:
    return {
        "read": pair.read_code,
        "write": pair.write_code,
        "atomics": pair.atomics_code,
        "NVLink": pair.nvlink_code,
    }


def _tree(topology: Topology, kinds: Collection[str] = WORTH_SHOWING) -> RenderableType | None:
    by_id = {function.bus_id: function for function in topology.pci}
    kept = with_bridges(by_id, kinds)
    if not kept:
        return None
    hops = {hop.device: hop for path in topology.paths for hop in path.hops}
    drawn = Table(box=None, padding=(0, 1), pad_edge=False, show_edge=False)
    for name in ("", "link now", "at best", "GB/s"):
        drawn.add_column(name, justify="right" if name == "GB/s" else "left", no_wrap=bool(name), header_style="dim")
    names = {bus_id: label for label, bus_id in topology.matrix_bus_ids.items()}  # as elsewhere on the screen
    for disk in topology.disks:
        if isinstance(disk.pci_bus_id, str):
            names[disk.pci_bus_id] = " ".join(filter(None, [names.get(disk.pci_bus_id), disk.name]))
    for text, function in _drawn(kept, names):
        cells = [] if function is None else _cells(function, hops.get(function.bus_id))
        drawn.add_row(Text(f"  {printable(text)}"), *map(Text, cells))
    hidden = len(by_id) - len(kept) if kinds is WORTH_SHOWING else 0
    note = Text(f"  {counted(hidden, 'other function')} not shown, see --json", style="dim")
    return Group(drawn, note) if hidden else drawn


def with_bridges(by_id: dict[str, PciDevice], kinds: Collection[str]) -> dict[str, PciDevice]:
    """The functions of these kinds and the bridges above them, in bus order."""
    wanted: set[str] = set()
    for function in by_id.values():
        place: str | Absent = function.bus_id
        while function.kind in kinds and isinstance(place, str) and place in by_id and place not in wanted:
            wanted.add(place)
            place = by_id[place].parent
    return {bus_id: function for bus_id, function in by_id.items() if bus_id in wanted}


def _drawn(kept: dict[str, PciDevice], names: dict[str, str]) -> Iterable[tuple[str, PciDevice | None]]:
    """The tree's lines, each with its function; host bridges have none."""
    children: dict[str, list[PciDevice]] = {}
    for function in kept.values():
        above = function.parent if isinstance(function.parent, str) and function.parent in kept else function.root
        children.setdefault(above, []).append(function)

    def below(place: str, indent: str) -> Iterable[tuple[str, PciDevice]]:
        for function in children.get(place, []):
            last = function is children[place][-1]
            name = names.get(function.bus_id, function.kind)
            yield f"{indent}{'└─' if last else '├─'} {function.bus_id} {name}", function
            yield from below(function.bus_id, indent + ("   " if last else "│  "))

    for root in dict.fromkeys(function.root for function in kept.values()):
        yield root, None
        yield from below(root, "")


def _cells(function: PciDevice, hop: PciHop | None) -> tuple[str, ...]:
    """A link is shown where it ends, at what both of its ends can do; a port shows what it could carry."""
    if hop is not None:
        if isinstance(hop.now_bytes_per_s, Absent) and isinstance(hop.best_bytes_per_s, Absent):
            return (hop.best_bytes_per_s.reason,)
        best = lanes(hop.generation_best, hop.width_best_lanes)
        return lanes(hop.generation_now, hop.width_now_lanes), best, gigabytes(hop.best_bytes_per_s)
    if isinstance(function.link_max_bytes_per_s, Absent):
        return ()
    return "", lanes(function.link_max_generation, function.link_max_width_lanes), ""
