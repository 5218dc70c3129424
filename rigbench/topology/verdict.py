"""Judges a rig by its topology alone: what is broken, what holds it back, and which questions stay open.

One plain function a diagnosis; any stored run will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rigbench.core import units
from rigbench.core.finding import WORST_FIRST, Cost, Finding, Severity, Unchecked, cost, finding, merged, unique
from rigbench.core.record import Absent
from rigbench.machine.record import NO_MORE, Gpu
from rigbench.topology import kernel, links, ways
from rigbench.topology.record import Topology

NVIDIA = "10de"
RECORDED = "the recording"  # how the reasons of a recording's missing parts begin
LOST = "GPU is lost"
# nvmlReturn_t 8, 11 and 16: the card is there and will not work as it is.
UNWELL = {"external power cable not attached", "interrupt problem", "GPU needs a reset"}
# Reasons for which a working card may tell neither name nor UUID: the caller's, the driver's age, a container's walls.
HARMLESS = {
    "not supported",
    "not supported with vGPU ECC",
    "no permission",
    "function not found in this driver",
    "function not found in this pynvml",
    "structure version not known to this driver",
    "deprecated in this driver",
}
NEAR_CELSIUS = 5.0
HALF_A_WATT = 0.5
# nvmlClocksEventReason*; rest, the ordinary power cap and clocks that somebody chose are no news.
HELD_DOWN = {
    0x08: "hardware slowdown (0x8)",
    0x20: "software thermal slowdown (0x20)",
    0x40: "hardware thermal slowdown (0x40)",
    0x80: "power brake (0x80)",
}
KERNEL_LOG = "sudo dmesg | grep -iE 'nvrm|xid'"
NOT_MEASURED = "it depends on the traffic; compare copies of both kinds"
CHIPSET_OR_POLICY, CARD_PROPERTY, NOT_OF_ONE_KIND = 1, 2, 5  # nvmlGpuP2PStatus_t
FIRST_WITH_REBAR = 8  # major compute capability of the first generation whose BAR1 can be resized, Ampere
UNASKED = ("not read", "the recording holds no kernel log")  # nobody can do anything about that now
GUEST = Absent("in a virtual machine such readings cannot be trusted")


def diagnose(topology: Topology) -> tuple[Finding, ...]:
    """Every finding, worst first; equal ones of several cards are one."""
    found = [item for diagnosis in DIAGNOSES for item in diagnosis(topology)]
    kept = ways.without_repeats(found)
    return worst_first(merged(kept))


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda item: WORST_FIRST.index(item.severity)))


# ---- Is each card there, healthy, cool, at its full power and ours alone?


def on_the_bus_without_driver(topology: Topology) -> Iterator[Finding]:
    """Nothing of the kind can be said of a recording in which the driver was not recorded."""
    why = topology.driver_gpus
    if not isinstance(why, Absent) or why.reason.startswith(RECORDED) or not topology.gpus:
        return
    evidence = [f"the PCI tree shows {gpu.pci_bus_id} (10de:{gpu.pci_device_id})" for gpu in topology.gpus]
    evidence.append(f"the driver: {why.reason}")
    yield finding("no-driver", "fault", evidence, [gpu.label for gpu in topology.gpus], "all of it", [KERNEL_LOG])


def lost(topology: Topology) -> Iterator[Finding]:
    for gpu in topology.gpus:
        if LOST in _reasons(gpu):
            answer = f"the driver's answer: {LOST} (15)"
            yield finding("gpu-lost", "fault", [answer], [gpu.label], "all of it", [KERNEL_LOG])


def unreadable(topology: Topology) -> Iterator[Finding]:
    why = topology.driver_gpus
    if isinstance(why, Absent) and why.reason.startswith(NO_MORE) and not topology.gpus:  # nor are any on the bus
        yield finding("gpu-unreadable", "fault", [why.reason], ["all GPUs"], "all of it", [KERNEL_LOG])
    for gpu in topology.gpus:
        reasons = _reasons(gpu)
        answers = [reason for reason in reasons if reason in UNWELL or reason.startswith(NO_MORE)]
        identity = [fact.reason for fact in (gpu.name, gpu.uuid, gpu.pci_bus_id) if isinstance(fact, Absent)]
        if len(identity) == 3 and not HARMLESS & set(identity):
            answers += identity
        if answers and LOST not in reasons:
            evidence = [f"the driver's answer: {reason}" for reason in unique(answers)]
            yield finding("gpu-unreadable", "fault", evidence, [gpu.label], "all of it", [KERNEL_LOG])


def _reasons(gpu: Gpu) -> set[str]:
    facts = (getattr(gpu, name) for name in gpu.__struct_fields__)
    return {fact.reason for fact in facts if isinstance(fact, Absent)}


def not_listed(topology: Topology) -> Iterator[Finding]:
    """NVIDIA cards on the bus beside those of the driver; a container is often given only some."""
    listed = {gpu.pci_bus_id for gpu in topology.gpus}
    if isinstance(topology.driver_gpus, Absent) or any(isinstance(bus_id, Absent) for bus_id in listed):
        return  # of one that has no place, nobody can tell which it is
    cards = [item.bus_id for item in topology.pci if item.kind == "GPU" and item.vendor_id == NVIDIA]
    where = [bus_id for bus_id in cards if bus_id not in listed]
    if where:
        evidence = [f"the driver lists {len(topology.gpus)}, the PCI tree holds {len(cards)}"]
        yield finding("gpu-not-listed", "information", evidence, where, "all of it, here", [KERNEL_LOG])


def memory_health(topology: Topology) -> Iterator[Finding]:
    for gpu in topology.gpus:
        where = [gpu.label]
        recent = gpu.ecc_uncorrected_errors_since_load
        if isinstance(recent, int) and recent:
            counts = [f"{recent} uncorrected ECC errors since the driver was loaded"]
            yield finding("ecc-uncorrected", "fault", counts, where, "trust, not speed")
        if gpu.row_remap_failed is True:
            evidence = ["the driver says that a row remap failed"]
            yield finding("row-remap-failed", "fault", evidence, where, "trust, not speed")
        if gpu.row_remap_pending is True:
            evidence = ["the driver says that a row remap is pending"]
            reset = f"sudo nvidia-smi -i {gpu.index} --gpu-reset"
            yield finding("row-remap-pending", "warning", evidence, where, "nothing in speed", [reset])
        counted = {
            "corrected ECC errors over its life": gpu.ecc_corrected_errors,
            "uncorrected ECC errors over its life": gpu.ecc_uncorrected_errors,
            "rows remapped after corrected errors": gpu.remapped_rows_corrected,
            "rows remapped after uncorrected errors": gpu.remapped_rows_uncorrected,
        }
        history = [f"{count} {what}" for what, count in counted.items() if isinstance(count, int) and count]
        if history:
            yield finding("memory-errors", "information", history, where, "nothing in speed")


def replays(topology: Topology) -> Iterator[Finding]:
    for gpu in topology.gpus:
        if isinstance(gpu.pcie_replays, int) and gpu.pcie_replays:
            evidence = [f"{gpu.pcie_replays} replays"]
            yield finding("pcie-replays", "information", evidence, [gpu.label], "a count without its time")


def near_slowdown(topology: Topology) -> Iterator[Finding]:
    """Degrees where the card tells its threshold, else its margins (T.Limit), which count down and below zero."""
    for gpu in topology.gpus:
        now, limit = gpu.temperature_celsius, gpu.slowdown_celsius
        margin, at_margin = gpu.margin_celsius, gpu.slowdown_at_margin_celsius
        if isinstance(now, float) and isinstance(limit, float):
            left, evidence = limit - now, f"{now:g} °C, slows down at {limit:g}"
        elif isinstance(margin, float) and isinstance(at_margin, float):
            left, evidence = margin - at_margin, f"{margin:g} °C below its limit, slows down at {at_margin:g}"
        else:
            continue
        if left <= NEAR_CELSIUS:
            yield finding("near-slowdown", "warning", [evidence], [gpu.label], "nothing before the limit")


def throttled(topology: Topology) -> Iterator[Finding]:
    for gpu in topology.gpus:
        bits = gpu.throttle_bits if isinstance(gpu.throttle_bits, int) else 0
        named = [text for bit, text in HELD_DOWN.items() if bits & bit]
        if named:
            evidence = [f"slowed down by {', '.join(named)}"]
            yield finding("throttled", "warning", evidence, [gpu.label], "only a measurement under load shows it")


def power_limit(topology: Topology) -> Iterator[Finding]:
    for gpu in topology.gpus:
        limit, default = gpu.power_limit_watts, gpu.power_limit_default_watts
        if isinstance(limit, Absent) or isinstance(default, Absent) or limit > default - HALF_A_WATT:
            continue
        low, high = units.format_watts(limit), units.format_watts(default)
        evidence = [f"limit {low}, {units.format_share(limit / default)} of the default {high}"]
        sentence = f"{low} instead of {high}; only a measurement at both shows what that is in speed"
        price = cost(sentence, "watts", limit, default, "the driver's limits", "measured")
        command = f"sudo nvidia-smi -i {gpu.index} -pl {default:g}"
        yield finding("power-limit", "warning", evidence, [gpu.label], price, [command])


def persistence(topology: Topology) -> Iterator[Finding]:
    """A display keeps the driver open all the same; a guest of Windows has no such mode."""
    cures = ["sudo systemctl enable --now nvidia-persistenced", "sudo nvidia-smi -pm 1"]
    why = "some seconds at each start, not measured here"
    for gpu in topology.gpus:
        if gpu.persistence is False and gpu.display_active is not True and topology.virtual_machine != "WSL2":
            evidence = ["persistence mode is off"]
            yield finding("persistence-off", "information", evidence, [gpu.label], why, cures)


def in_use(topology: Topology) -> Iterator[Finding]:
    """Programs that only draw are on every desktop and not counted."""
    for gpu in topology.gpus:
        listed = gpu.processes if isinstance(gpu.processes, tuple) else ()
        others = [process for process in listed if process.kind != "graphics"]
        if not others:
            continue
        evidence, held = [], 0
        for process in others:
            name = f" ({process.name})" if isinstance(process.name, str) else ""
            known = process.memory_bytes if isinstance(process.memory_bytes, int) else None
            size = "" if known is None else f", {units.format_bytes(known)}"
            evidence.append(f"{process.kind} process {process.pid}{name}{size}")
            held += known or 0
        total = gpu.memory_total_bytes
        price: Cost | str = "the memory that it holds is not reported"
        reported = any(isinstance(process.memory_bytes, int) for process in others)
        if reported and isinstance(total, int):
            sentence = f"{units.format_bytes(held)} of {units.format_bytes(total)}, and its share of the time"
            price = cost(sentence, "bytes", total - held, total, "the driver's list of processes", "measured")
        command = f"ps -fp {','.join(str(process.pid) for process in others)}"
        yield finding("gpu-in-use", "warning", evidence, [gpu.label], price, [command])


def in_parts(topology: Topology) -> Iterator[Finding]:
    for gpu in topology.gpus:
        if gpu.mig_enabled is not True:
            continue
        index, parts, total = gpu.index, gpu.mig_devices, gpu.memory_total_bytes
        commands = [f"sudo nvidia-smi -i {index} -mig 0"]
        price: Cost | str = "the memory of its parts is not reported"
        if isinstance(parts, Absent):
            told = f"its parts n/a ({parts.reason})"
        elif not parts:
            told = price = "no part is made, so that nothing computes on it"
        else:
            told = f"its parts: {', '.join(str(part.name) for part in parts)}"
            commands.insert(0, f"sudo nvidia-smi mig -dci -i {index} && sudo nvidia-smi mig -dgi -i {index}")
            largest = max((it.memory_total_bytes for it in parts if isinstance(it.memory_total_bytes, int)), default=0)
            if largest and isinstance(total, int):
                sentence = f"{units.format_bytes(largest)} of {units.format_bytes(total)} for a process"
                price = cost(sentence, "bytes", largest, total, "the driver's list of parts", "measured")
        yield finding("mig-on", "warning", [f"MIG mode is on; {told}"], [gpu.label], price, commands)


def mixed(topology: Topology) -> Iterator[Finding]:
    ids = {gpu.pci_device_id for gpu in topology.gpus if isinstance(gpu.pci_device_id, str)}
    kinds: dict[str, list[str]] = {}
    for gpu in topology.gpus if len(ids) > 1 else ():
        name = gpu.name if isinstance(gpu.name, str) else f"a card 10de:{gpu.pci_device_id}"
        kinds.setdefault(name, []).append(gpu.label)
    if kinds:
        evidence = [f"{', '.join(labels)}: {name}" for name, labels in kinds.items()]
        where = [gpu.label for gpu in topology.gpus]
        yield finding("mixed-gpus", "information", evidence, where, "it depends on how the work is split")


# ---- What stands between the cards, and between a card and memory: P2P, IOMMU, ACS, BAR1, NUMA, a hypervisor?


def p2p_refused(topology: Topology) -> Iterator[Finding]:
    """The code, and what else is known: the code alone does not tell card, board and driver apart.

    Consumer cards are refused by policy, unlike cards by their difference, guests by their host: that is no warning.
    """
    why = "it takes a measurement of this rig; `rigbench explain p2p-refused` has published ones"
    for pair in topology.pairs:
        if not pair.is_refused:
            continue
        codes = (("reads", pair.read_code), ("writes", pair.write_code))
        refused = ", ".join(f"{what} with code {code}" for what, code in codes if isinstance(code, int) and code)
        cards = [gpu for gpu in topology.gpus if gpu.index in (pair.one, pair.other)]
        refusals = {code for code in pair.codes if code}
        consumer = any("GeForce" in str(gpu.name).split() for gpu in cards)
        unlike = len({gpu.pci_device_id for gpu in cards if isinstance(gpu.pci_device_id, str)}) > 1
        expected = (consumer and refusals <= {CHIPSET_OR_POLICY, CARD_PROPERTY}) or topology.is_virtual
        expected = expected or (unlike and refusals == {NOT_OF_ONE_KIND})
        severity: Severity = "information" if expected else "warning"
        evidence = [f"the driver refuses {refused}", *pair.facts]
        codes_of = f"the driver's code {', '.join(str(code) for code in sorted(refusals))}"
        yield finding("p2p-refused", severity, evidence, [pair.names], why, detail=codes_of)


def iommu_translates(topology: Topology) -> Iterator[Finding]:
    allowed = [pair.names for pair in topology.pairs_over_pcie if pair.is_allowed]
    if topology.isolation.iommu == "translating" and allowed:
        evidence = [f"IOMMU groups of type {topology.isolation.iommu_type}"]
        evidence.append("the driver allows P2P between these cards")
        if topology.isolation.kernel_words:
            evidence.append(f"kernel command line: {' '.join(topology.isolation.kernel_words)}")
        yield finding("iommu-translating", "warning", evidence, allowed, NOT_MEASURED)


def acs_redirects(topology: Topology) -> Iterator[Finding]:
    isolation, pairs = topology.isolation, topology.pairs_over_pcie
    bridges = isolation.acs_redirecting if isinstance(isolation.acs_redirecting, tuple) else ()
    if topology.is_virtual or not pairs or not (bridges or isolation.acs_separated):
        return
    labels = {str(gpu.pci_bus_id): gpu.label for gpu in topology.gpus}
    evidence = [f"redirect bits set at {bridge}" for bridge in bridges]
    for one, other in isolation.acs_separated:
        names = f"{labels.get(one, one)} and {labels.get(other, other)}"
        evidence.append(f"{names}, below one switch, are in different groups")
    commands = [f"sudo setpci -v -s {bridge} ECAP_ACS+0x6.w=0000" for bridge in bridges]
    commands = commands or ["sudo lspci -vvv | grep -E '^[0-9a-f]|ACSCtl'"]
    severity: Severity = "warning" if any(pair.is_allowed for pair in pairs) else "information"
    yield finding("acs-redirect", severity, evidence, [pair.names for pair in pairs], NOT_MEASURED, commands)


def rebar_off(topology: Topology) -> Iterator[Finding]:
    for gpu in topology.gpus:
        if gpu.bar1_covers_memory is not False or can_resize(topology, gpu) is not True or topology.is_virtual:
            continue
        pairs = [pair for pair in topology.pairs_over_pcie if gpu.index in (pair.one, pair.other)]
        severity: Severity = "warning" if any(not pair.is_refused for pair in pairs) else "information"
        sizes = (
            "an unknown size" if isinstance(size, Absent) else units.format_bytes(size)
            for size in (gpu.bar1_total_bytes, gpu.memory_total_bytes)
        )
        why = NOT_MEASURED if pairs else "nothing for a card that works alone"
        yield finding("rebar-off", severity, ["BAR1 shows {} of {}".format(*sizes)], [gpu.label], why)


def can_resize(topology: Topology, gpu: Gpu) -> bool | Absent:
    """Whether the card offers a BAR1 as large as its memory: by the sizes it lists, else by its generation."""
    device = next((device for device in topology.pci if device.bus_id == gpu.pci_bus_id), None)
    if device and isinstance(device.bar1_possible_bytes, tuple) and isinstance(gpu.memory_total_bytes, int):
        return max(device.bar1_possible_bytes, default=0) >= gpu.memory_total_bytes
    if isinstance(gpu.compute_capability, str):
        return int(gpu.compute_capability.partition(".")[0]) >= FIRST_WITH_REBAR
    return Absent("neither the card's generation nor the sizes that it offers are known")


def numa(topology: Topology) -> Iterator[Finding]:
    """Cards on different nodes, and cards on a node that has nothing of its own."""
    if topology.is_virtual or len(topology.numa_nodes) < 2:
        return
    cards: dict[int, list[str]] = {}
    for gpu in topology.gpus:
        if isinstance(gpu.numa_node, int):
            cards.setdefault(gpu.numa_node, []).append(gpu.label)
    for node in topology.numa_nodes:
        lacks = ["no CPUs"] * (not node.cpus) + ["no memory"] * (node.memory_total_bytes == 0)
        if lacks and node.node in cards:
            evidence = [f"node {node.node} has {' and '.join(lacks)}"]
            yield finding("numa-far", "warning", evidence, cards[node.node], NOT_MEASURED)
    if len(cards) > 1:
        evidence = [f"{', '.join(labels)} on node {number}" for number, labels in sorted(cards.items())]
        commands = [f"numactl --cpunodebind={number} --membind={number} COMMAND" for number in sorted(cards)]
        where = [gpu.label for gpu in topology.gpus]
        yield finding("numa-split", "information", evidence, where, NOT_MEASURED, commands)


def matrix_differs(topology: Topology) -> Iterator[Finding]:
    for pair in topology.pairs_over_pcie:
        if isinstance(pair.driver_label, str) and pair.driver_label != pair.label:
            evidence = [f"{pair.label} in the PCI tree, {pair.driver_label} for the driver"]
            yield finding("matrix-differs", "information", evidence, [pair.names], "nothing by itself")


def virtual_machine(topology: Topology) -> Iterator[Finding]:
    """Worth telling where there are cards whose links it hides."""
    if topology.is_virtual and topology.gpus:
        evidence = [f"it runs on: {topology.virtual_machine}"]
        yield finding("virtual-machine", "information", evidence, (), "certainty, not speed")


DIAGNOSES = (
    *(on_the_bus_without_driver, lost, unreadable, memory_health, kernel.kernel_events),
    *(links.below_possible_width, links.below_possible_generation, links.behind_the_chipset),
    *(iommu_translates, acs_redirects, p2p_refused, rebar_off, numa),
    *(near_slowdown, throttled, power_limit, in_use, in_parts),
    *(links.slower_slot, links.narrow_way, mixed, replays, persistence),
    *(ways.odd_way, ways.switch_without_p2p, ways.tunnelled, ways.unified_memory),
    *(matrix_differs, not_listed, virtual_machine),
)


# ---- Which questions do the readings leave open, and why? Without its facts a question is not answered with "no".


def unchecked(topology: Topology) -> tuple[Unchecked, ...]:
    """Open questions, those of several cards with one reason together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for what, where, why in _open_questions(topology):
        if why:
            groups.setdefault((what, why.reason), []).append(where)
    return tuple(
        Unchecked(what, tuple(place for place in places if place), reason) for (what, reason), places in groups.items()
    )


def _open_questions(topology: Topology) -> Iterator[tuple[str, str, Absent | None]]:
    """(what, where, why not); None where it is known."""
    virtual, isolation, log = topology.is_virtual, topology.isolation, topology.kernel_events
    yield "the kernel's log", "", log if isinstance(log, Absent) and log.reason not in UNASKED else None
    if not topology.gpus:
        absent = topology.driver_gpus
        yield "GPUs", "", absent if isinstance(absent, Absent) else Absent("there is none")
        return
    if virtual:
        yield "links", "", GUEST
    for path in () if virtual else topology.paths:
        unknown = [_first(hop.width_now_lanes, hop.width_best_lanes) for hop in path.hops]
        yield "link width", path.label, _first(*unknown)
    for gpu in () if virtual else topology.gpus:
        yield "link generation under load", gpu.label, _first(gpu.link_generation_awake)
    for gpu in topology.gpus:
        by_degrees = _first(gpu.temperature_celsius, gpu.slowdown_celsius)
        by_margin = _first(gpu.margin_celsius, gpu.slowdown_at_margin_celsius)
        resizable = can_resize(topology, gpu) if gpu.bar1_covers_memory is False else None
        yield "temperature limits", gpu.label, by_degrees and by_margin
        yield "power limit", gpu.label, _first(gpu.power_limit_watts, gpu.power_limit_default_watts)
        yield "throttle reasons", gpu.label, _first(gpu.throttle_bits)
        yield "ReBAR", gpu.label, GUEST if virtual else _first(gpu.bar1_covers_memory, resizable)
        yield "persistence", gpu.label, _first(gpu.persistence)
        yield "ECC errors", gpu.label, _first(gpu.ecc_uncorrected_errors_since_load)
        yield "remapped rows", gpu.label, _first(gpu.row_remap_pending, gpu.row_remap_failed)
        yield "PCIe replays", gpu.label, _first(gpu.pcie_replays)
        yield "other processes", gpu.label, _first(gpu.processes)
        yield "NUMA node", gpu.label, _first(gpu.numa_node) if len(topology.numa_nodes) > 1 and not virtual else None
    if len(topology.gpus) > 1:
        for pair in topology.pairs:
            yield "P2P", pair.names, _first(pair.read_code, pair.write_code)
            yield "matrix", pair.names, _first(pair.driver_label)
        yield "IOMMU", "", _first(isolation.iommu)
        yield "ACS", "", GUEST if virtual else _first(isolation.acs_redirecting)


def _first(*facts: object) -> Absent | None:
    """Why the first of these is not known; None where all are."""
    return next((fact for fact in facts if isinstance(fact, Absent)), None)
