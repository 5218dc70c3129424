"""Reads what is in a rig and how it is wired together."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import msgspec

from rigbench.core import profiles
from rigbench.core.record import Absent
from rigbench.job import Job
from rigbench.machine import host, kernel_log, links, pci, peers
from rigbench.machine.nvml import Nvml
from rigbench.machine.record import Gpu, NumaNode, PciDevice
from rigbench.machine.replay import ReplayedDriver
from rigbench.machine.rig import Rig
from rigbench.topology.record import Topology
from rigbench.work.sensors import FASTEST_SECONDS, REPLAYED_TICK_SECONDS, played

METHOD = 2  # 2: path minimum, generation under load, P2P and what bears on it
NO_TREE = Absent("not in the PCI tree")
T = TypeVar("T")

MatchProfile = Callable[[str | None, str | None, int | None], str | Absent]
Tree = Mapping[str, PciDevice]


def topology(job: Job, load: bool = False, sensors: bool = False) -> Topology:
    """The rig at rest; with `load`, its links also as they are while every GPU copies. A replay holds its own load.

    With `sensors` also what temperatures, clocks and watts were under that load.
    """
    rig = job.rig
    if load and not rig.replayed:
        job.progress.stage("topology under load", 10)
        from rigbench.work.load import awake

        rig = awake(rig, lambda busy: run(busy, profiles.match_gpu))
    job.progress.stage("topology", 0)
    result = run(rig, profiles.match_gpu)
    if sensors:
        result = with_sensors(rig, result)
    job.keep(topology=result)
    return result


def with_sensors(rig: Rig, its: Topology) -> Topology:
    """With what temperatures, clocks and watts were under the load that was read, or recorded."""
    if not isinstance(rig.load.driver, ReplayedDriver) or rig.load.absent is not None:
        return its
    period = REPLAYED_TICK_SECONDS if rig.replayed else FASTEST_SECONDS
    read = played(dataclasses.replace(rig, nvml=rig.load), rig.load.driver, period)
    return msgspec.structs.replace(its, load=read)


def run(rig: Rig, match_profile: MatchProfile) -> Topology:
    """Reads the rig. `match_profile` finds a datasheet by PCI device id ("2702"), exact name and memory in bytes."""
    started_at, start = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    functions = pci.devices(rig.sysfs)
    tree = {} if isinstance(functions, Absent) else {function.bus_id: function for function in functions}
    driver_gpus, listed = _gpus(rig.nvml, tree)
    nodes, drives = host.numa_nodes(rig.sysfs), host.disks(rig.sysfs)
    gpus = tuple(_completed(gpu, rig, tree, nodes, match_profile) for gpu in listed)
    names = {drive.pci_bus_id: drive.model for drive in reversed(drives) if isinstance(drive.model, str)}
    names |= {gpu.pci_bus_id: gpu.name for gpu in reversed(gpus) if isinstance(gpu.name, str)}  # sysfs has none
    matrix = _matrix(rig, tree, gpus)
    # The cards whose way is worth knowing: GPUs, NVMe drives, network cards.
    labels = {bus_id: label for label, bus_id in matrix.cards.items() if label.startswith("NIC")}
    labels |= {drive.pci_bus_id: drive.name for drive in drives}
    others = [function for function in tree.values() if function.kind in ("NVMe", "NIC")]
    cards = [links.Card(gpu.label, "GPU", gpu.pci_bus_id, gpu) for gpu in gpus]
    cards += [links.Card(labels.get(it.bus_id, it.bus_id), it.kind, it.bus_id) for it in others]
    cpu, guest_of = host.cpu(rig.sysfs), host.virtual_machine(rig.sysfs)
    flavour, overrides = host.driver_flavour(rig.sysfs), host.driver_overrides(rig.sysfs)
    apart = peers.isolation(rig.sysfs, tree, [gpu.pci_bus_id for gpu in gpus if isinstance(gpu.pci_bus_id, str)])
    facts = peers.rig_facts(cpu.model, apart, flavour, overrides, guest_of)
    no_tree = (
        (functions.reason,) if isinstance(functions, Absent) and not any("pci.json" in it for it in rig.notes) else ()
    )
    return Topology(
        method=METHOD,
        started_at=started_at,
        virtual_machine=guest_of,
        cpu=cpu,
        memory=host.memory(rig.sysfs),
        numa_nodes=nodes,
        pci=tuple(msgspec.structs.replace(it, name=names.get(it.bus_id, it.name)) for it in tree.values()),
        disks=drives,
        driver_gpus=driver_gpus,
        gpus=gpus,
        matrix={one: tuple(matrix.cells[one, other] for other in matrix.cards) for one in matrix.cards},
        matrix_bus_ids={label: bus_id for label, bus_id in matrix.cards.items() if isinstance(bus_id, str)},
        driver_version=rig.nvml.driver_version(),
        cuda_version=rig.nvml.cuda_driver_version(),
        kernel=host.kernel(rig.sysfs),
        driver_flavour=flavour,
        driver_overrides=overrides,
        isolation=apart,
        paths=links.paths(tree, cards),
        pairs=peers.pairs(rig.nvml, gpus, matrix.cells, matrix.by_driver, cpu.vendor, facts),
        kernel_events=kernel_log.so_far(
            rig, {gpu.label: gpu.pci_bus_id for gpu in gpus if isinstance(gpu.pci_bus_id, str)}
        ),
        warnings=(*rig.notes, *no_tree, *matrix.differences),
        seconds=time.perf_counter() - start,
    )


def _gpus(nvml: Nvml, tree: Tree) -> tuple[int | Absent, tuple[Gpu, ...]]:
    """How many GPUs the driver lists, and what it says of them; or why it lists none, and those of the PCI tree."""
    listed = nvml.gpus()
    if isinstance(listed, tuple) and listed:
        return len(listed), listed
    why = listed if isinstance(listed, Absent) else Absent("the NVIDIA driver lists no GPU")
    in_tree = [function for function in tree.values() if function.kind == "GPU" and function.vendor_id == pci.NVIDIA]
    unknown: dict[str, Any] = dict.fromkeys(Gpu.__struct_fields__, Absent("no driver")) | {"mig_devices": ()}
    return why, tuple(
        Gpu(**unknown | {"index": index, "pci_bus_id": function.bus_id, "pci_device_id": function.device_id})
        for index, function in enumerate(in_tree)
    )


def _completed(gpu: Gpu, rig: Rig, tree: Tree, nodes: Sequence[NumaNode], match: MatchProfile) -> Gpu:
    """A GPU with what the driver does not know: its datasheet, its slot's NUMA node and CPUs, its processes' names."""
    function = tree.get(str(gpu.pci_bus_id))
    affinity = function.local_cpus if function else NO_TREE
    if function and isinstance(affinity, Absent) and len(nodes) == 1:
        affinity = nodes[0].cpus or affinity  # on one NUMA node firmware often names none: they are that node's
    processes = gpu.processes
    if not isinstance(processes, Absent):
        names = [rig.sysfs.read_text(f"proc/{process.pid}/comm") for process in processes]
        named = zip(processes, names, strict=True)
        processes = tuple(msgspec.structs.replace(process, name=name) for process, name in named)
    return msgspec.structs.replace(
        gpu,
        profile=match(_or_none(gpu.pci_device_id), _or_none(gpu.name), _or_none(gpu.memory_total_bytes)),
        numa_node=function.numa_node if function else NO_TREE,
        cpu_affinity=affinity,
        link_generation_awake=rig.load.generation_awake(gpu.index),
        processes=processes,
    )


class Matrix(NamedTuple):
    """What lies between every two cards, by their labels."""

    cards: dict[str, str | Absent]  # their places
    cells: dict[tuple[str, str], str]
    by_driver: dict[tuple[str, str], str | Absent]  # the driver's own answer, for GPUs
    differences: list[str]  # where the driver and the PCI tree disagree, each pair once


def _matrix(rig: Rig, tree: Tree, gpus: Sequence[Gpu]) -> Matrix:
    """NVLink beats the way over PCI; the tree is asked before the driver, to whom virtual machines lie."""
    nics = pci.rdma_nics(rig.sysfs, tuple(tree.values()))
    places = {gpu.label: gpu.pci_bus_id for gpu in gpus} | {f"NIC{index}": bus_id for index, bus_id in enumerate(nics)}
    indices = {gpu.label: gpu.index for gpu in gpus}
    nvlinks = rig.nvml.nvlinks(len(gpus)) if len(gpus) > 1 else {}
    matrix = Matrix(places, {(label, label): "X" for label in places}, {}, [])
    for one, other in itertools.permutations(places, 2):
        by_tree = pci.label(tree, str(places[one]), str(places[other]))
        by_driver: str | Absent = Absent("not asked")
        active = 0
        if one in indices and other in indices:
            pair = indices[one], indices[other]
            by_driver, active = rig.nvml.common_ancestor(*pair), nvlinks.get(pair, 0)
            matrix.by_driver[one, other] = by_driver
        known = [label for label in (by_tree, by_driver) if isinstance(label, str)]
        matrix.cells[one, other] = f"NV{active}" if active else next(iter(known), "n/a")
        if len(set(known)) > 1 and (other, one) not in matrix.by_driver:
            matrix.differences.append(f"{one}-{other} is {by_tree} in the PCI tree, {by_driver} for the driver")
    return matrix


def _or_none(fact: T | Absent) -> T | None:
    return None if isinstance(fact, Absent) else fact
