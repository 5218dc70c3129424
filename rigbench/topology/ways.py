"""Judges the cards' ways side by side: the odd one out, a switch without P2P, an external box, shared memory."""

from __future__ import annotations

from collections.abc import Iterator

from rigbench.core import units
from rigbench.core.finding import Cost, Finding, cost, finding
from rigbench.core.record import Absent
from rigbench.machine.record import PciPath
from rigbench.topology.record import Topology, is_integrated

FAR_APART = 2.0  # times, between the slowest card's way and the next one's
THEORY = "PCIe generation, lanes and encoding, one way"
# What each of these says better of the same cards than the findings of single links do.
INSTEAD_OF = {
    "odd-link": {"pcie-slot"},
    "switch-without-p2p": {"shared-uplink"},
    "tunnelled-link": {"pcie-slot", "shared-uplink", "pcie-generation", "pcie-width"},
}


def without_repeats(found: list[Finding]) -> list[Finding]:
    """Without what another finding says better of the same cards."""
    said = [(INSTEAD_OF[item.code], set(item.where)) for item in found if item.code in INSTEAD_OF]
    return [it for it in found if not any(it.code in codes and set(it.where) <= where for codes, where in said)]


def unified_memory(topology: Topology) -> Iterator[Finding]:
    for gpu in topology.gpus:
        if is_integrated(gpu):
            total = topology.memory.total_bytes
            size = "the host's memory" if isinstance(total, Absent) else f"the host's {units.format_bytes(total)}"
            evidence = ["the driver reports no memory of its own (not supported, by design)", f"it computes in {size}"]
            yield finding("unified-memory", "information", evidence, [gpu.label], "no time: nothing is copied to it")


def odd_way(topology: Topology) -> Iterator[Finding]:
    """Of alike cards the one whose way is at most half the next one's: every exchange waits for it."""
    kinds: dict[object, list[PciPath]] = {}
    for gpu in () if topology.is_virtual else topology.gpus:
        path = next((path for path in topology.paths if path.label == gpu.label), None)
        if path and isinstance(gpu.pci_device_id, str):
            kinds.setdefault(gpu.pci_device_id, []).append(path)
    for alike in kinds.values():
        known = [(rate, path.label) for path in alike if not isinstance(rate := path.best_bytes_per_s, Absent)]
        known.sort(key=lambda it: it[0])
        if len(known) < 2 or known[0][0] * FAR_APART > known[1][0]:
            continue
        slow, label = known[0]
        words = [f"{name} has {units.format_bytes_per_s(rate)}" for rate, name in known]
        now, following = units.format_bytes_per_s(slow), units.format_bytes_per_s(known[1][0])
        sentence = f"every gradient sync of all cards runs at {now}, where {following} would be the next slowest's"
        price = cost(sentence, "bytes/s", slow, known[1][0], THEORY)
        detail = f"{now}, the others {following} and more"
        yield finding("odd-link", "warning", [", ".join(words)], [label], price, detail=detail)


def switch_without_p2p(topology: Topology) -> Iterator[Finding]:
    """Cards below one switch whose driver refuses P2P: both directions of an exchange share one uplink."""
    paths = {path.label: path for path in topology.paths if path.kind == "GPU" and not topology.is_virtual}
    shared: list[tuple[str, str, float]] = []
    apart: list[tuple[str, str, float]] = []
    for pair in topology.pairs:
        ends = f"GPU{pair.one}", f"GPU{pair.other}"
        if not pair.is_refused or not all(end in paths for end in ends):
            continue
        one, other = (paths[end] for end in ends)
        rates = [path.best_bytes_per_s for path in (one, other)]
        devices = {hop.device for hop in other.hops}
        common = [hop.best_bytes_per_s for hop in one.hops if hop.device in devices]
        slowest = [rate for rate in (*rates, *common) if not isinstance(rate, Absent)]
        if slowest:
            way = (f"{pair.names} ({pair.label})", pair.names, min(slowest))
            (shared if common else apart).append((way[0], way[1], way[2] / 2 if common else way[2]))
    if not shared or not apart:
        return
    slow, fast = min(rate for *_, rate in shared), max(rate for *_, rate in apart)
    if slow >= fast:
        return
    now, possible = units.format_bytes_per_s(slow), units.format_bytes_per_s(fast)
    labels = sorted({label for _, names, _ in shared for label in names.split("-")})
    evidence = [
        f"{', '.join(name for name, *_ in shared)}: up to memory and down again over one uplink, both directions of "
        f"a gradient sync: at most {now} each way",
        f"{', '.join(name for name, *_ in apart)}: over two uplinks, at most {possible} each way",
        "without P2P the matrix's order is not the order of speed",
    ]
    price = cost(f"{now} each way instead of {possible}", "bytes/s", slow, fast, THEORY)
    yield finding("switch-without-p2p", "information", evidence, labels, price)


def tunnelled(topology: Topology) -> Iterator[Finding]:
    """A card in an external box: what its copies reach, and who pays for that."""
    for path in topology.paths:
        hop = next((hop for hop in path.hops if hop.tunnelled), None)
        if hop is None or path.kind != "GPU" or isinstance(path.expected, Absent):
            continue
        function = next((it for it in topology.pci if it.bus_id == path.bus_id), None)
        own = function.link_max_bytes_per_s if function else Absent("not in the PCI tree")
        low, high = (units.format_bytes_per_s(end) for end in path.expected.ends)
        evidence = [
            f"Thunderbolt or USB4 between {hop.port} and {hop.device}, whose ports report gen 1 whatever it carries",
            f"copies through such a box reach {low} to {high} ({path.expected.basis})",
            "one card computes as fast as in a slot; the loader's copies and gradients between cards pay",
        ]
        price: Cost | str = "the card's own link is not reported"
        if not isinstance(own, Absent):
            sentence = f"{low} to {high} instead of {units.format_bytes_per_s(own)}"
            price = cost(sentence, "bytes/s", path.expected.value, own, path.expected.basis)
        yield finding("tunnelled-link", "information", evidence, [path.label], price)
