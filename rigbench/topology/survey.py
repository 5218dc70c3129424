"""What is in this rig, and how is it wired together?"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from rigbench.core.record import Absent
from rigbench.machine import host, links, pci, peers
from rigbench.machine.nvml import Nvml
from rigbench.machine.record import Disk, Gpu, GpuPair, Isolation, NumaNode, PciDevice
from rigbench.machine.rig import Rig
from rigbench.topology.record import Topology

METHOD = 2  # 2: path minimum, generation under load, P2P and what bears on it
NIC_KIND, DRIVE_KIND = "NIC", "NVMe"
T = TypeVar("T")

MatchProfile = Callable[[str | None, str | None, int | None], str | Absent]


def run(rig: Rig, match_profile: MatchProfile) -> Topology:
    """Reads the rig. `match_profile` finds a datasheet by PCI device id ("2702"), exact name and memory in bytes."""
    started_at, start = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    functions = pci.devices(rig.sysfs)
    tree = {} if isinstance(functions, Absent) else {function.bus_id: function for function in functions}
    driver_gpus, listed = _gpus(rig.nvml, tree)
    nodes = host.numa_nodes(rig.sysfs)
    gpus = tuple(_completed(gpu, rig, tree, nodes, match_profile) for gpu in listed)
    drives = host.disks(rig.sysfs)
    matrix = _matrix(rig, tree, gpus)
    no_tree = (functions.reason,) if isinstance(functions, Absent) and not rig.notes else ()
    facts = _host_facts(rig)
    apart = peers.isolation(rig.sysfs, tree, [gpu.pci_bus_id for gpu in gpus if isinstance(gpu.pci_bus_id, str)])
    return Topology(
        method=METHOD,
        started_at=started_at,
        numa_nodes=nodes,
        pci=tuple(_named(function, gpus, drives) for function in tree.values()),
        disks=drives,
        driver_gpus=driver_gpus,
        gpus=gpus,
        matrix=matrix.rows(),
        matrix_bus_ids={label: bus_id for label, bus_id in matrix.cards.items() if isinstance(bus_id, str)},
        isolation=apart,
        paths=links.paths(tree, _cards(tree, gpus, drives, matrix.cards)),
        pairs=_pairs(rig.nvml, gpus, matrix, apart, facts),
        warnings=(*rig.notes, *no_tree, *matrix.differences()),
        seconds=time.perf_counter() - start,
        **facts,
    )


def _host_facts(rig: Rig) -> dict[str, Any]:
    return {
        "virtual_machine": host.virtual_machine(rig.sysfs),
        "cpu": host.cpu(rig.sysfs),
        "memory": host.memory(rig.sysfs),
        "kernel": host.kernel(rig.sysfs),
        "driver_version": rig.nvml.driver_version(),
        "cuda_version": rig.nvml.cuda_driver_version(),
        "driver_flavour": host.driver_flavour(rig.sysfs),
        "driver_overrides": host.driver_overrides(rig.sysfs),
    }


def _pairs(
    nvml: Nvml, gpus: Sequence[Gpu], matrix: Matrix, apart: Isolation, facts: Mapping[str, Any]
) -> tuple[GpuPair, ...]:
    told = [facts[name] for name in ("driver_flavour", "driver_overrides", "virtual_machine")]
    common = peers.rig_facts(facts["cpu"].model, apart, *told)
    numbers = {(one.index, other.index): (f"GPU{one.index}", f"GPU{other.index}") for one in gpus for other in gpus}
    labels = {pair: matrix.cells[names] for pair, names in numbers.items()}
    by_driver = {pair: matrix.by_driver[names] for pair, names in numbers.items() if names in matrix.by_driver}
    return peers.pairs(nvml, gpus, labels, by_driver, facts["cpu"].vendor, common)


def _gpus(nvml: Nvml, tree: Mapping[str, PciDevice]) -> tuple[int | Absent, tuple[Gpu, ...]]:
    """How many GPUs the driver lists, and what it says of them; or why it lists none, and those of the PCI tree."""
    listed = nvml.gpus()
    if isinstance(listed, tuple) and listed:
        return len(listed), listed
    why = listed if isinstance(listed, Absent) else Absent("the NVIDIA driver lists no GPU")
    in_tree = [function for function in tree.values() if function.kind == "GPU" and function.vendor_id == pci.NVIDIA]
    return why, tuple(_without_driver(index, function) for index, function in enumerate(in_tree))


def _completed(
    gpu: Gpu, rig: Rig, tree: Mapping[str, PciDevice], nodes: Sequence[NumaNode], match: MatchProfile
) -> Gpu:
    """A GPU with what the driver does not know: its datasheet, its slot's NUMA node and CPUs, its processes' names."""
    function = tree.get(gpu.pci_bus_id) if isinstance(gpu.pci_bus_id, str) else None
    known = gpu.processes if isinstance(gpu.processes, tuple) else ()
    named = tuple(
        msgspec.structs.replace(process, name=rig.sysfs.read_text(f"proc/{process.pid}/comm")) for process in known
    )
    return msgspec.structs.replace(
        gpu,
        profile=match(_or_none(gpu.pci_device_id), _or_none(gpu.name), _or_none(gpu.memory_total_bytes)),
        numa_node=function.numa_node if function else Absent("not in the PCI tree"),
        cpu_affinity=_affinity(function, nodes) if function else Absent("not in the PCI tree"),
        link_generation_awake=rig.load.generation_awake(gpu.index),
        processes=named if isinstance(gpu.processes, tuple) else gpu.processes,
    )


def _affinity(function: PciDevice, nodes: Sequence[NumaNode]) -> str | Absent:
    """The CPUs next to a slot. On one NUMA node, firmware often names none: then they are that node's."""
    if isinstance(function.local_cpus, Absent) and len(nodes) == 1:
        return nodes[0].cpus or function.local_cpus
    return function.local_cpus


def _without_driver(index: int, function: PciDevice) -> Gpu:
    facts: dict[str, Any] = dict.fromkeys(Gpu.__struct_fields__, Absent("no driver"))
    facts |= {"index": index, "pci_bus_id": function.bus_id, "pci_device_id": function.device_id, "mig_devices": ()}
    return Gpu(**facts)


def _named(function: PciDevice, gpus: Sequence[Gpu], drives: Sequence[Disk]) -> PciDevice:
    """A function with the name that its driver gives it; sysfs has none."""
    names = [gpu.name for gpu in gpus if gpu.pci_bus_id == function.bus_id]
    names += [disk.model for disk in drives if disk.pci_bus_id == function.bus_id]
    name = next((name for name in names if isinstance(name, str)), function.name)
    return msgspec.structs.replace(function, name=name)


def _cards(
    tree: Mapping[str, PciDevice], gpus: Sequence[Gpu], drives: Sequence[Disk], labels: Mapping[str, str | Absent]
) -> list[links.Card]:
    """The cards whose way is worth knowing: GPUs, NVMe drives, network cards."""
    named = {bus_id: label for label, bus_id in labels.items() if label.startswith("NIC")}
    named |= {drive.pci_bus_id: drive.name for drive in drives}
    cards = [links.Card(f"GPU{gpu.index}", "GPU", gpu.pci_bus_id, gpu) for gpu in gpus]
    others = [function for function in tree.values() if function.kind in (DRIVE_KIND, NIC_KIND)]
    return cards + [links.Card(named.get(card.bus_id, card.bus_id), card.kind, card.bus_id) for card in others]


@dataclass(frozen=True)
class Matrix:
    """What lies between every two cards: `cells` with NVLink, `by_tree` and `by_driver` as each has it."""

    cards: dict[str, str | Absent]
    cells: dict[tuple[str, str], str]
    by_tree: dict[tuple[str, str], str | Absent]
    by_driver: dict[tuple[str, str], str | Absent]

    def rows(self) -> dict[str, tuple[str, ...]]:
        return {one: tuple(self.cells[one, other] for other in self.cards) for one in self.cards}

    def differences(self) -> tuple[str, ...]:
        """Where the driver and the PCI tree disagree, each pair once."""
        return tuple(
            f"{one}-{other} is {self.by_tree[one, other]} in the PCI tree, {answer} for the driver"
            for (one, other), answer in self.by_driver.items()
            if isinstance(answer, str) and isinstance(tree := self.by_tree[one, other], str) and answer != tree
            if list(self.cards).index(one) < list(self.cards).index(other)
        )


def _matrix(rig: Rig, tree: Mapping[str, PciDevice], gpus: Sequence[Gpu]) -> Matrix:
    """NVLink beats the way over PCI; the tree is asked before the driver, to whom virtual machines lie."""
    cards = {f"GPU{gpu.index}": gpu.pci_bus_id for gpu in gpus}
    cards |= {f"NIC{index}": bus_id for index, bus_id in enumerate(pci.rdma_nics(rig.sysfs, tuple(tree.values())))}
    nvlinks = rig.nvml.nvlinks(len(gpus)) if len(gpus) > 1 else {}
    cells = {(label, label): "X" for label in cards}
    by_tree, by_driver = dict[tuple[str, str], str | Absent](), dict[tuple[str, str], str | Absent]()
    for names in itertools.permutations(cards, 2):
        one, other = names
        by_tree[names] = pci.label(tree, str(cards[one]), str(cards[other]))
        if one.startswith("GPU") and other.startswith("GPU"):
            pair = int(one[3:]), int(other[3:])
            by_driver[names] = rig.nvml.common_ancestor(*pair)
            if pair in nvlinks:
                cells[names] = f"NV{nvlinks[pair]}"
        known = [label for label in (by_tree[names], by_driver.get(names)) if isinstance(label, str)]
        cells.setdefault(names, next(iter(known), "n/a"))
    return Matrix(cards, cells, by_tree, by_driver)


def _or_none(fact: T | Absent) -> T | None:
    return None if isinstance(fact, Absent) else fact
