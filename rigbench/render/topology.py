"""What does the rig look like on a screen: host, PCI tree, GPUs, what lies between them, disks?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from rigbench import units
from rigbench.records import Absent, Cpu, Disk, Gpu, Memory, NumaNode, PciDevice, Topology

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WORTH_SHOWING = {"GPU", "NVMe", "NIC", "storage", "accelerator", "NVSwitch"}
IDLE_PERFORMANCE_STATE = 5  # P0 to P4 are for work
MEANINGS = {
    "NV": "NVLink, and how many",
    "PIX": "one PCIe switch",
    "PXB": "several PCIe switches",
    "PHB": "the CPU's host bridge",
    "NODE": "several host bridges of one NUMA node",
    "SYS": "the link between NUMA nodes",
    "n/a": "not known",
}

T = TypeVar("T")
Fact = tuple[str, str | Absent]


def show(topology: Topology, console: Console) -> None:
    """Prints the record; every number is in it."""
    from rich.text import Text

    doubt = (
        " (in a virtual machine link readings cannot be trusted)" if isinstance(topology.virtual_machine, str) else ""
    )
    sections = (
        ("Host", _host(topology)),
        (f"GPUs{doubt if topology.gpus else ''}", _gpus(topology)),
        ("Between them", _matrix(topology)),
        (f"PCI tree{doubt or ' (links one way, in theory)'}", _tree(topology)),
        ("Disks", _disks(topology.disks)),
    )
    for title, body in sections:
        if body is not None:
            console.print(Text(title, style="bold"))
            console.print(body, soft_wrap=title == "Between them")
    for warning in topology.warnings:
        console.print(Text(f"note: {warning}", style="yellow"))


def _host(topology: Topology) -> RenderableType:
    versions = ("NVIDIA driver", topology.driver_version), ("CUDA", topology.cuda_version)
    lines = [
        ("CPU", facts([("model", topology.cpu.model), ("architecture", topology.cpu.architecture)])),
        ("", _cpu(topology.cpu)),
        ("", _caches(topology.cpu)),
        ("memory", _memory(topology.memory)),
        ("NUMA", _numa(topology.numa_nodes)),
        ("system", facts([("kernel", _map(topology.kernel, str, "Linux"))])),
    ]
    if isinstance(topology.driver_version, str):
        lines.append(("", facts((name, _map(version, str, name)) for name, version in versions)))
    if isinstance(topology.virtual_machine, str):
        lines.append(("", f"virtual machine: {topology.virtual_machine}"))
    return _grid((label, text) for label, text in lines if text)


def _cpu(cpu: Cpu) -> str:
    usable = [cpu.logical_cpus, cpu.affinity_cpus, cpu.cgroup_limit_cpus]
    why = ("all of them", "limited by the affinity of this process", "limited by the cgroup quota")
    decided = next((text for limit, text in zip(usable, why, strict=True) if limit == cpu.usable_cpus), "")
    return facts(
        [
            ("CPUs", _counted(cpu.logical_cpus, "CPU")),
            ("cores", _counted(cpu.physical_cores, "core")),
            ("sockets", _counted(cpu.sockets, "socket")),
            ("usable", _map(cpu.usable_cpus, lambda cpus: f"usable {cpus:g} ({decided})")),
        ]
    )


def _caches(cpu: Cpu) -> str:
    caches = facts([("L2", _map(cpu.l2_bytes, _size, "L2")), ("L3", _map(cpu.l3_bytes, _size, "L3"))])
    return "; ".join(part for part in (caches, " ".join(cpu.instruction_sets)) if part)


def _memory(memory: Memory) -> str:
    limit = [] if isinstance(memory.cgroup_limit_bytes, Absent) else [("limit", _size(memory.cgroup_limit_bytes))]
    return facts(
        [
            ("total", _map(memory.total_bytes, _size)),
            ("usable", _map(memory.usable_bytes, _size, "usable")),
            *((name, f"cgroup limit {text}") for name, text in limit),
            ("swap", _map(memory.swap_total_bytes, _size, "swap")),
        ]
    )


def _numa(nodes: Sequence[NumaNode]) -> str:
    return "; ".join(
        facts([("CPUs", f"node {node.node}: CPUs {node.cpus}"), ("memory", _map(node.memory_total_bytes, _size))])
        for node in nodes
    )


def _gpus(topology: Topology) -> RenderableType:
    from rich.console import Group

    absent = topology.gpus_absent
    why = [_grid([("driver", f"n/a ({absent.reason})")])] if isinstance(absent, Absent) else []
    return Group(*why, *(_grid([_gpu_name(gpu), *_gpu_lines(gpu)]) for gpu in topology.gpus))


def _gpu_name(gpu: Gpu) -> tuple[str, str]:
    return f"GPU{gpu.index}", facts([("name", gpu.name), ("bus id", gpu.pci_bus_id), ("profile", gpu.profile)])


def _gpu_lines(gpu: Gpu) -> Iterable[tuple[str, str]]:
    memory = _both(gpu.memory_used_bytes, gpu.memory_total_bytes, _size, "{} of {} used")
    readings = [
        ("temperature", _map(gpu.temperature_celsius, lambda degrees: f"{degrees:g} °C")),
        ("power", _both(gpu.power_watts, gpu.power_limit_watts, units.format_watts, "{} of {}")),
        ("memory", memory),
        ("state", _map(gpu.performance_state, lambda state: f"P{state}")),
    ]
    link = [("generation", _generation(gpu)), ("width", _width(gpu))]
    yield "", facts(readings)
    yield "", f"link {facts(link, '; ')}"


def _generation(gpu: Gpu) -> str | Absent:
    """An idle card rests at gen 1: that is information, not a fault."""
    now, best, state = gpu.link_generation_now, gpu.link_generation_max, gpu.performance_state
    if isinstance(now, Absent) or isinstance(best, Absent) or now >= best:
        return _map(now, lambda generation: f"gen {generation}")
    idle = " (idle)" if not isinstance(state, Absent) and state >= IDLE_PERFORMANCE_STATE else ""
    return f"gen {now} now{idle}, capable of {best}"


def _width(gpu: Gpu) -> str | Absent:
    now, best = gpu.link_width_now_lanes, gpu.link_width_max_lanes
    if isinstance(now, Absent) or isinstance(best, Absent) or now >= best:
        return _map(now, lambda lanes: f"x{lanes}")
    return f"x{now} of x{best} lanes"


def _matrix(topology: Topology) -> RenderableType | None:
    from rich.text import Text

    rows = topology.matrix
    if len(rows) < 2:
        return None
    lines = ["  " + " ".join(f"{text:>5}" for text in ("", *rows))]
    lines += ["  " + " ".join(f"{text:>5}" for text in (label, *row)) for label, row in rows.items()]
    cells = {cell for row in rows.values() for cell in row}
    seen = [key for key in MEANINGS if any(cell == key or (key == "NV" and cell.startswith("NV")) for cell in cells)]
    return Text("\n".join([*lines, *(f"  {key}: {MEANINGS[key]}" for key in seen)]))


def _tree(topology: Topology) -> RenderableType | None:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    by_id = {function.bus_id: function for function in topology.pci}
    kept = _with_bridges(by_id)
    if not kept:
        return None
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_edge=False)
    for name in ("", "now", "GB/s", "at best", "GB/s"):
        table.add_column(name, justify="right" if name == "GB/s" else "left", no_wrap=bool(name), header_style="dim")
    for line, function in _drawn(kept, _names(topology)):
        table.add_row(Text(f"  {line}"), *([] if function is None else _link_cells(function)))
    hidden = len(by_id) - len(kept)
    note = Text(f"  {_counted(hidden, 'other function')} not shown, see --json", style="dim")
    return Group(table, note) if hidden else table


def _with_bridges(by_id: dict[str, PciDevice]) -> dict[str, PciDevice]:
    """The functions worth showing and the bridges above them, in bus order."""
    wanted: set[str] = set()
    for function in by_id.values():
        place: str | Absent = function.bus_id if function.kind in WORTH_SHOWING else function.parent
        while function.kind in WORTH_SHOWING and isinstance(place, str) and place in by_id and place not in wanted:
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


def _names(topology: Topology) -> dict[str, str]:
    """What a function is called elsewhere on the screen: GPU0, NIC0, nvme0n1."""
    names = {bus_id: label for label, bus_id in topology.matrix_bus_ids.items()}
    for disk in topology.disks:
        if isinstance(disk.pci_bus_id, str):
            names[disk.pci_bus_id] = " ".join(filter(None, [names.get(disk.pci_bus_id), disk.name]))
    return names


def _link_cells(function: PciDevice) -> tuple[str, str, str, str]:
    if isinstance(function.link_bytes_per_s, Absent) and isinstance(function.link_max_bytes_per_s, Absent):
        return f"link: {function.link_bytes_per_s.reason}", "", "", ""
    now = _link(function.link_generation, function.link_width_lanes)
    best = _link(function.link_max_generation, function.link_max_width_lanes)
    return now, _rate(function.link_bytes_per_s), best, _rate(function.link_max_bytes_per_s)


def _link(generation: int | Absent, lanes: int | Absent) -> str:
    if isinstance(generation, Absent) or isinstance(lanes, Absent):
        return "not reported"
    return f"gen {generation} x{lanes}"


def _rate(bytes_per_s: float | Absent) -> str:
    return "" if isinstance(bytes_per_s, Absent) else units.format_bytes_per_s(bytes_per_s).removesuffix(" GB/s")


def _disks(disks: Sequence[Disk]) -> RenderableType | None:
    return _grid((disk.name, _disk(disk)) for disk in disks) if disks else None


def _disk(disk: Disk) -> str:
    kind = _map(disk.rotational, lambda turns: "spinning" if turns else "solid state")
    return facts(
        [("model", disk.model), ("size", _map(disk.size_bytes, _size)), ("on", f"on {disk.transport}"), ("kind", kind)]
    )


def facts(named: Iterable[Fact], separator: str = ", ") -> str:
    """`43 °C, P8; n/a (not supported): power, memory`: what is known, then what is not, by reason."""
    named = list(named)
    known = [text for _, text in named if isinstance(text, str)]
    missing: dict[str, list[str]] = {}
    for name, text in named:
        if isinstance(text, Absent):
            missing.setdefault(text.reason, []).append(name)
    absent = [f"n/a ({reason}): {', '.join(names)}" for reason, names in missing.items()]
    return "; ".join([*([separator.join(known)] if known else []), *absent])


def _map(value: T | Absent, formatted: Callable[[T], str], name: str = "") -> str | Absent:
    return value if isinstance(value, Absent) else f"{name} {formatted(value)}".strip()


def _both(value: T | Absent, limit: T | Absent, formatted: Callable[[T], str], pattern: str) -> str | Absent:
    """A reading against its limit; the reading alone where there is none."""
    if isinstance(value, Absent) or isinstance(limit, Absent):
        return _map(value, formatted)
    return pattern.format(formatted(value), formatted(limit))


def _counted(number: int | Absent, noun: str) -> str | Absent:
    return _map(number, lambda count: f"{count} {noun}{'' if count == 1 else 's'}")


def _size(size_bytes: int) -> str:
    return units.format_bytes(size_bytes)


def _grid(rows: Iterable[tuple[str, str]]) -> RenderableType:
    """A narrow column of labels beside text that wraps."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, min_width=6)
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(Text(f"  {label}"), Text(text))
    return grid
