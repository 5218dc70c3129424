"""What does the wiring look like on a screen: the matrix, P2P pair by pair, the PCI tree?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rigbench.core.record import Absent
from rigbench.core.screen import counted, gigabytes, grid, missing
from rigbench.machine.record import GpuPair, NcclChoice, PciDevice, PciHop
from rigbench.topology.gpus_screen import lanes
from rigbench.topology.record import Topology

if TYPE_CHECKING:
    from rich.console import RenderableType

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


def matrix(topology: Topology) -> RenderableType | None:
    from rich.text import Text

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
    return Text("\n".join(lines))


def peers(topology: Topology) -> RenderableType | None:
    """Pairs about which the same is known share a paragraph."""
    groups: dict[tuple[object, ...], list[GpuPair]] = {}
    for pair in topology.pairs:
        key = (pair.label, *_codes(pair).values(), pair.facts, pair.nccl)
        groups.setdefault(tuple(map(repr, key)), []).append(pair)
    rows = [row for group in groups.values() for row in _group(group)]
    return grid(rows) if rows else None


def _group(pairs: Sequence[GpuPair]) -> Iterable[tuple[str, str]]:
    first = pairs[0]
    names = [f"GPU{pair.one}-GPU{pair.other}" for pair in pairs]
    if len(pairs) == 1:
        yield names[0], _p2p(first)
    else:
        yield (
            f"{len(pairs)} pairs",
            f"{first.label}: {', '.join(names) if len(pairs) <= PAIRS_LISTED else _span(names)}",
        )
        yield "P2P", _p2p(first)
    if any(isinstance(code, int) for code in _codes(first).values()):
        yield "", "; ".join(first.facts)
    yield "NCCL", _nccl(first.nccl)


def _span(names: Sequence[str]) -> str:
    return f"{names[0]}, {names[1]}, … {names[-1]}"


def _codes(pair: GpuPair) -> dict[str, int | Absent]:
    return {
        "read": pair.read_code,
        "write": pair.write_code,
        "atomics": pair.atomics_code,
        "NVLink": pair.nvlink_code,
    }


def _p2p(pair: GpuPair) -> str:
    told = [
        f"{name} {CODES.get(code, 'unknown')} ({code})" for name, code in _codes(pair).items() if isinstance(code, int)
    ]
    unknown = missing((name, code) for name, code in _codes(pair).items() if isinstance(code, Absent))
    proof = " (permission, not proof)" if pair.read_code == 0 and pair.write_code == 0 else ""
    return "; ".join(part for part in (", ".join(told) + proof, unknown) if part)


def _nccl(choice: NcclChoice | Absent) -> str:
    if isinstance(choice, Absent):
        return f"default path n/a ({choice.reason})"
    change = choice.change.reason if isinstance(choice.change, Absent) else choice.change
    return f"{choice.source} default: {choice.transport}, since {choice.reason}; {change}"


def tree(topology: Topology) -> RenderableType | None:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    by_id = {function.bus_id: function for function in topology.pci}
    kept = with_bridges(by_id)
    if not kept:
        return None
    hops = {hop.device: hop for path in topology.paths for hop in path.hops}
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_edge=False)
    for name in ("", "link now", "at best", "GB/s"):
        table.add_column(name, justify="right" if name == "GB/s" else "left", no_wrap=bool(name), header_style="dim")
    for line, function in _drawn(kept, _names(topology)):
        table.add_row(Text(f"  {line}"), *([] if function is None else _cells(function, hops.get(function.bus_id))))
    hidden = len(by_id) - len(kept)
    note = Text(f"  {counted(hidden, 'other function')} not shown, see --json", style="dim")
    return Group(table, note) if hidden else table


def with_bridges(by_id: dict[str, PciDevice]) -> dict[str, PciDevice]:
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
