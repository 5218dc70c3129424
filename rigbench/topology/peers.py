"""What stands between the cards, and between a card and memory: P2P, IOMMU, ACS, BAR1, NUMA, a hypervisor?"""

from __future__ import annotations

from collections.abc import Iterable

from rigbench.core import units
from rigbench.core.finding import Finding, Severity
from rigbench.core.record import Absent
from rigbench.core.verdict import (
    codes,
    finding,
    is_allowed,
    is_refused,
    is_virtual,
    label,
    merged,
    over_pcie,
    pair_label,
)
from rigbench.machine.record import Gpu, GpuPair, NumaNode
from rigbench.topology.record import Topology

NOT_MEASURED = "it depends on the traffic; compare copies of both kinds"
CHIPSET_OR_POLICY, CARD_PROPERTY, NOT_OF_ONE_KIND = 1, 2, 5  # nvmlGpuP2PStatus_t
FIRST_WITH_REBAR = (8, 0)  # compute capability of the first generation whose BAR1 can be resized, Ampere


def p2p_refused(topology: Topology) -> list[Finding]:
    """The code, and what else is known: the code alone does not tell card, board and driver apart."""
    found = []
    for pair in topology.pairs:
        if not is_refused(pair):
            continue
        told = (("reads", pair.read_code), ("writes", pair.write_code))
        said = ", ".join(f"{what} with code {code}" for what, code in told if isinstance(code, int) and code)
        evidence = [f"the driver refuses {said}", *pair.facts]
        severity: Severity = "information" if _was_to_be_expected(topology, pair) else "warning"
        why = "it takes a measurement of this rig; `rigbench explain p2p-refused` has published ones"
        found.append(finding("p2p-refused", severity, evidence, [pair_label(pair)], why))
    return merged(found)


def _was_to_be_expected(topology: Topology, pair: GpuPair) -> bool:
    """Consumer cards are refused by policy, unlike cards by their difference, guests by their host."""
    cards = [gpu for gpu in topology.gpus if gpu.index in (pair.one, pair.other)]
    refusals = {code for code in codes(pair) if code}
    consumer = any("GeForce" in str(gpu.name).split() for gpu in cards)
    if consumer and refusals <= {CHIPSET_OR_POLICY, CARD_PROPERTY}:
        return True
    unlike = len({gpu.pci_device_id for gpu in cards if isinstance(gpu.pci_device_id, str)}) > 1
    return (unlike and refusals == {NOT_OF_ONE_KIND}) or is_virtual(topology)


def iommu_translates(topology: Topology) -> list[Finding]:
    allowed = [pair for pair in over_pcie(topology) if is_allowed(pair)]
    if topology.isolation.iommu != "translating" or not allowed:
        return []
    evidence = [f"IOMMU groups of type {topology.isolation.iommu_type}", "the driver allows P2P between these cards"]
    if topology.isolation.kernel_words:
        evidence.append(f"kernel command line: {' '.join(topology.isolation.kernel_words)}")
    return [finding("iommu-translating", "warning", evidence, map(pair_label, allowed), NOT_MEASURED)]


def acs_redirects(topology: Topology) -> list[Finding]:
    isolation = topology.isolation
    bridges = isolation.acs_redirecting if isinstance(isolation.acs_redirecting, tuple) else ()
    pairs = over_pcie(topology)
    if is_virtual(topology) or not pairs or not (bridges or isolation.acs_separated):
        return []
    evidence = [f"redirect bits set at {bridge}" for bridge in bridges]
    evidence += [f"{one} and {other}, below one switch, are in different groups" for one, other in _apart(topology)]
    clear = [f"sudo setpci -v -s {bridge} ECAP_ACS+0x6.w=0000" for bridge in bridges]
    find = [] if bridges else ["sudo lspci -vvv | grep -E '^[0-9a-f]|ACSCtl'"]
    severity: Severity = "warning" if any(map(is_allowed, pairs)) else "information"
    return [finding("acs-redirect", severity, evidence, map(pair_label, pairs), NOT_MEASURED, [*clear, *find])]


def _apart(topology: Topology) -> Iterable[tuple[str, str]]:
    labels = {gpu.pci_bus_id: label(gpu) for gpu in topology.gpus}
    return [(labels.get(one, one), labels.get(other, other)) for one, other in topology.isolation.acs_separated]


def rebar_off(topology: Topology) -> list[Finding]:
    found = []
    for gpu in topology.gpus:
        if gpu.bar1_covers_memory is not False or can_resize(topology, gpu) is not True or is_virtual(topology):
            continue
        pairs = [pair for pair in over_pcie(topology) if gpu.index in (pair.one, pair.other)]
        severity: Severity = "warning" if any(not is_refused(pair) for pair in pairs) else "information"
        window, memory = gpu.bar1_total_bytes, gpu.memory_total_bytes
        evidence = [f"BAR1 shows {_size(window)} of {_size(memory)}"]
        why = NOT_MEASURED if pairs else "nothing for a card that works alone"
        found.append(finding("rebar-off", severity, evidence, [label(gpu)], why))
    return merged(found)


def can_resize(topology: Topology, gpu: Gpu) -> bool | Absent:
    """Whether the card offers a BAR1 as large as its memory: by the sizes it lists, else by its generation."""
    device = next((device for device in topology.pci if device.bus_id == gpu.pci_bus_id), None)
    if device and isinstance(device.bar1_possible_bytes, tuple) and isinstance(gpu.memory_total_bytes, int):
        return max(device.bar1_possible_bytes, default=0) >= gpu.memory_total_bytes
    if isinstance(gpu.compute_capability, str):
        major, _, minor = gpu.compute_capability.partition(".")
        return (int(major), int(minor or 0)) >= FIRST_WITH_REBAR
    return Absent("neither the card's generation nor the sizes that it offers are known")


def numa(topology: Topology) -> list[Finding]:
    """Cards on different nodes, and cards on a node that has nothing of its own."""
    if is_virtual(topology) or len(topology.numa_nodes) < 2:
        return []
    cards: dict[int, list[str]] = {}
    for gpu in topology.gpus:
        if isinstance(gpu.numa_node, int):
            cards.setdefault(gpu.numa_node, []).append(label(gpu))
    nodes = {node.node: node for node in topology.numa_nodes}
    found = [
        finding("numa-far", "warning", [f"node {number} has {lack}"], labels, NOT_MEASURED)
        for number, labels in cards.items()
        if number in nodes and (lack := _lacks(nodes[number]))
    ]
    if len(cards) > 1:
        evidence = [f"{', '.join(labels)} on node {number}" for number, labels in sorted(cards.items())]
        commands = [f"numactl --cpunodebind={number} --membind={number} COMMAND" for number in sorted(cards)]
        where = map(label, topology.gpus)
        found.append(finding("numa-split", "information", evidence, where, NOT_MEASURED, commands))
    return found


def _lacks(node: NumaNode) -> str:
    lacking = [what for what, none in (("CPUs", not node.cpus), ("memory", node.memory_total_bytes == 0)) if none]
    return f"no {' and no '.join(lacking)}" if lacking else ""


def matrix_differs(topology: Topology) -> list[Finding]:
    found = []
    for pair in over_pcie(topology):
        if isinstance(pair.driver_label, str) and pair.driver_label != pair.label:
            evidence = [f"{pair.label} in the PCI tree, {pair.driver_label} for the driver"]
            found.append(finding("matrix-differs", "information", evidence, [pair_label(pair)], "nothing by itself"))
    return merged(found)


def virtual_machine(topology: Topology) -> list[Finding]:
    """Worth telling where there are cards whose links it hides."""
    if not isinstance(topology.virtual_machine, str) or not topology.gpus:
        return []
    evidence = [f"it runs on: {topology.virtual_machine}"]
    return [finding("virtual-machine", "information", evidence, (), "certainty, not speed")]


def _size(size_bytes: int | Absent) -> str:
    return "an unknown size" if isinstance(size_bytes, Absent) else units.format_bytes(size_bytes)
