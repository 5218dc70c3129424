"""What is in this rig, and how is it wired together?"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from rigbench.hardware import disks, host, pci
from rigbench.hardware.nvml import Nvml
from rigbench.hardware.rig import Rig
from rigbench.records import Absent, Disk, Gpu, PciDevice, Topology

METHOD = 1
T = TypeVar("T")

MatchProfile = Callable[[str | None, str | None, int | None], str | Absent]


def run(rig: Rig, match_profile: MatchProfile) -> Topology:
    """Reads the rig. `match_profile` finds a datasheet by PCI device id ("2702"), exact name and memory in bytes."""
    started_at, start = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    functions = pci.devices(rig.sysfs)
    tree = {} if isinstance(functions, Absent) else {function.bus_id: function for function in functions}
    gpus, gpus_absent = _gpus(rig.nvml, tree, match_profile)
    drives = disks.disks(rig.sysfs)
    cards = {f"GPU{gpu.index}": gpu.pci_bus_id for gpu in gpus}
    cards |= {f"NIC{index}": bus_id for index, bus_id in enumerate(pci.rdma_nics(rig.sysfs, tuple(tree.values())))}
    matrix, differences = _matrix(rig.nvml, tree, cards)
    no_tree = (functions.reason,) if isinstance(functions, Absent) and not rig.notes else ()
    return Topology(
        method=METHOD,
        started_at=started_at,
        virtual_machine=host.virtual_machine(rig.sysfs),
        cpu=host.cpu(rig.sysfs),
        memory=host.memory(rig.sysfs),
        numa_nodes=host.numa_nodes(rig.sysfs),
        pci=tuple(_named(function, gpus, drives) for function in tree.values()),
        disks=drives,
        gpus=gpus,
        matrix=matrix,
        matrix_bus_ids={label: bus_id for label, bus_id in cards.items() if isinstance(bus_id, str)},
        driver_version=rig.nvml.driver_version(),
        cuda_version=rig.nvml.cuda_driver_version(),
        kernel=host.kernel(rig.sysfs),
        gpus_absent=msgspec.UNSET if gpus_absent is None else gpus_absent,
        warnings=(*rig.notes, *no_tree, *differences),
        seconds=time.perf_counter() - start,
    )


def _gpus(nvml: Nvml, tree: Mapping[str, PciDevice], match: MatchProfile) -> tuple[tuple[Gpu, ...], Absent | None]:
    """The driver's GPUs, or those of the PCI tree and why the driver lists none."""
    listed = nvml.gpus()
    if isinstance(listed, tuple) and listed:
        return tuple(_completed(gpu, tree, match) for gpu in listed), None
    why = listed if isinstance(listed, Absent) else Absent("the NVIDIA driver lists no GPU")
    in_tree = [function for function in tree.values() if function.kind == "GPU" and function.vendor_id == pci.NVIDIA]
    unread = tuple(_without_driver(index, function) for index, function in enumerate(in_tree))
    return tuple(_completed(gpu, tree, match) for gpu in unread), why


def _completed(gpu: Gpu, tree: Mapping[str, PciDevice], match: MatchProfile) -> Gpu:
    """A GPU with what the driver does not know: its datasheet, and the NUMA node of its slot."""
    function = tree.get(gpu.pci_bus_id) if isinstance(gpu.pci_bus_id, str) else None
    profile = match(_or_none(gpu.pci_device_id), _or_none(gpu.name), _or_none(gpu.memory_total_bytes))
    numa_node = function.numa_node if function else Absent("not in the PCI tree")
    return msgspec.structs.replace(gpu, profile=profile, numa_node=numa_node)


def _without_driver(index: int, function: PciDevice) -> Gpu:
    facts: dict[str, Any] = dict.fromkeys(Gpu.__struct_fields__, Absent("no driver"))
    facts |= {"index": index, "pci_bus_id": function.bus_id, "pci_device_id": function.device_id}
    return Gpu(**facts)


def _named(function: PciDevice, gpus: Sequence[Gpu], drives: Sequence[Disk]) -> PciDevice:
    """A function with the name that its driver gives it; sysfs has none."""
    names = [gpu.name for gpu in gpus if gpu.pci_bus_id == function.bus_id]
    names += [disk.model for disk in drives if disk.pci_bus_id == function.bus_id]
    name = next((name for name in names if isinstance(name, str)), function.name)
    return msgspec.structs.replace(function, name=name)


def _matrix(
    nvml: Nvml, tree: Mapping[str, PciDevice], cards: Mapping[str, str | Absent]
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """(what lies between every two cards, where the driver and the PCI tree disagree).

    NVLink beats the way over PCI; the tree is asked before the driver, because virtual machines lie to the driver.
    """
    gpus = {label: int(label[3:]) for label in cards if label.startswith("GPU")}
    nvlinks = nvml.nvlinks(len(gpus)) if len(gpus) > 1 else {}
    cells = {(label, label): "X" for label in cards}
    differences = []
    for one, other in itertools.permutations(cards, 2):
        pair = gpus.get(one, -1), gpus.get(other, -1)
        from_tree = pci.label(tree, str(cards[one]), str(cards[other]))
        from_driver = nvml.common_ancestor(*pair) if min(pair) >= 0 else Absent("the driver knows GPUs only")
        known = [label for label in (from_tree, from_driver) if isinstance(label, str)]
        cells[one, other] = f"NV{nvlinks[pair]}" if pair in nvlinks else next(iter(known), "n/a")
        if len(set(known)) > 1 and pair[0] < pair[1]:
            differences.append(f"{one}-{other} is {from_tree} in the PCI tree, {from_driver} for the driver")
    return {one: tuple(cells[one, other] for other in cards) for one in cards}, tuple(differences)


def _or_none(fact: T | Absent) -> T | None:
    return None if isinstance(fact, Absent) else fact
