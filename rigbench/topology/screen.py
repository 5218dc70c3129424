"""What does the rig look like on a screen: host, PCI tree, GPUs, what lies between them, disks?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rigbench.core.record import Absent
from rigbench.core.screen import Fact, counted, grid, if_known, known, line, mapped, missing, size
from rigbench.machine.record import Cpu, Disk, Memory, NumaNode
from rigbench.topology import wiring_screen as wiring
from rigbench.topology.gpus_screen import gpus
from rigbench.topology.record import Topology

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def show(topology: Topology, console: Console) -> None:
    """Prints the record; every number is in it."""
    from rich.text import Text

    virtual = isinstance(topology.virtual_machine, str)
    doubt = " (in a virtual machine link, BAR and ACS readings cannot be trusted)" if virtual else ""
    sections = (
        ("Host", _host(topology)),
        (f"GPUs{doubt if topology.gpus else ''}", gpus(topology)),
        ("Between them", wiring.matrix(topology)),
        ("P2P (the driver's word)", wiring.peers(topology)),
        (f"PCI tree{doubt or ' (links one way, in theory)'}", wiring.tree(topology)),
        ("Disks", _disks(topology.disks)),
    )
    for title, body in sections:
        if body is not None:
            console.print(Text(title, style="bold"))
            console.print(body, soft_wrap=title == "Between them")
    for warning in topology.warnings:
        console.print(Text(f"note: {warning}", style="yellow"))


def _host(topology: Topology) -> RenderableType:
    """What is known, line by line, and once what is not."""
    topics = (
        ("CPU", [("CPU", topology.cpu.model), ("architecture", topology.cpu.architecture)]),
        ("", _cpu(topology.cpu)),
        ("", _caches(topology.cpu)),
        ("memory", _memory(topology.memory)),
        ("NUMA", _numa(topology.numa_nodes)),
        ("system", _system(topology)),
        ("IOMMU", _isolation(topology)),
    )
    lines = [(label, known(facts, "; " if label == "NUMA" else ", ")) for label, facts in topics if known(facts)]
    unknown = missing(fact for _, facts in topics for fact in facts)
    return grid([*lines, *([("", unknown)] if unknown else [])])


def _system(topology: Topology) -> list[Fact]:
    flavour = if_known(mapped(topology.driver_flavour, lambda kind: f" ({kind} kernel module)"))
    driver = mapped(topology.driver_version, lambda version: f"NVIDIA driver {version}{flavour}")
    return [
        ("kernel", mapped(topology.kernel, str, "Linux")),
        ("driver", if_known(driver)),
        ("CUDA", if_known(mapped(topology.cuda_version, str, "CUDA"))),
        ("virtual machine", if_known(mapped(topology.virtual_machine, str, "virtual machine:"))),
    ]


def _cpu(cpu: Cpu) -> list[Fact]:
    limits = [cpu.affinity_cpus, cpu.cgroup_limit_cpus]
    why = ("the affinity of this process", "the cgroup quota")
    decided = next((text for limit, text in zip(limits, why, strict=True) if limit == cpu.usable_cpus), "")
    usable = mapped(cpu.usable_cpus, lambda cpus: f"usable {cpus:g} (limited by {decided})")
    return [
        ("CPUs", counted(cpu.logical_cpus, "CPU")),
        ("cores", counted(cpu.physical_cores, "core")),
        ("sockets", counted(cpu.sockets, "socket")),
        ("usable CPUs", "" if cpu.usable_cpus == cpu.logical_cpus else usable),
    ]


def _caches(cpu: Cpu) -> list[Fact]:
    instructions = " ".join(cpu.instruction_sets)
    return [("L2", mapped(cpu.l2_bytes, size, "L2")), ("L3", mapped(cpu.l3_bytes, size, "L3")), ("", instructions)]


def _memory(memory: Memory) -> list[Fact]:
    return [
        ("memory", mapped(memory.total_bytes, size)),
        ("usable memory", mapped(memory.usable_bytes, size, "usable")),
        ("limit", if_known(mapped(memory.cgroup_limit_bytes, size, "cgroup limit"))),
        ("swap", mapped(memory.swap_total_bytes, size, "swap")),
    ]


def _numa(nodes: Sequence[NumaNode]) -> list[Fact]:
    sizes = [if_known(mapped(node.memory_total_bytes, lambda total: f", {size(total)}")) for node in nodes]
    return [("", f"node {node.node}: CPUs {node.cpus}{own}") for node, own in zip(nodes, sizes, strict=True)]


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


def _disks(disks: Sequence[Disk]) -> RenderableType | None:
    return grid((disk.name, _disk(disk)) for disk in disks) if disks else None


def _disk(disk: Disk) -> str:
    kind = mapped(disk.rotational, lambda turns: "spinning" if turns else "solid state")
    return line(
        [("model", disk.model), ("size", mapped(disk.size_bytes, size)), ("", f"on {disk.transport}"), ("kind", kind)]
    )
