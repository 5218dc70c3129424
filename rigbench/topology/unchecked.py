"""What did the readings leave open, and why? A question without its facts is no all-clear."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rigbench.core.finding import Unchecked
from rigbench.core.record import Absent
from rigbench.core.verdict import is_virtual, label, pair_label
from rigbench.machine.record import Gpu
from rigbench.topology.peers import can_resize
from rigbench.topology.record import Topology

GUEST = Absent("in a virtual machine such readings cannot be trusted")
Question = tuple[str, str, Absent]  # what, where, why not


def unchecked(topology: Topology) -> tuple[Unchecked, ...]:
    """Open questions, those of several cards with one reason together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for what, where, why in _questions(topology):
        groups.setdefault((what, why.reason), []).append(where)
    return tuple(
        Unchecked(what, tuple(place for place in places if place), reason) for (what, reason), places in groups.items()
    )


def _questions(topology: Topology) -> Iterator[Question]:
    if not topology.gpus:
        absent = topology.driver_gpus
        yield "GPUs", "", absent if isinstance(absent, Absent) else Absent("there is none")
        return
    yield from _links(topology)
    for gpu in topology.gpus:
        yield from _card(topology, gpu)
    if len(topology.gpus) > 1:
        yield from _between(topology)


def _links(topology: Topology) -> Iterator[Question]:
    if is_virtual(topology):
        yield "links", "", GUEST
        return
    for path in topology.paths:
        unknown = [hop for hop in path.hops if _first(hop.width_now_lanes, hop.width_best_lanes)]
        if unknown:
            yield "link width", path.label, _first(unknown[0].width_now_lanes, unknown[0].width_best_lanes) or GUEST
    for gpu in topology.gpus:
        if isinstance(gpu.link_generation_awake, Absent):
            yield "link generation under load", label(gpu), gpu.link_generation_awake


def _card(topology: Topology, gpu: Gpu) -> Iterator[Question]:
    resizable = can_resize(topology, gpu) if gpu.bar1_covers_memory is False else True
    by_degrees = _first(gpu.temperature_celsius, gpu.slowdown_celsius)
    by_margin = _first(gpu.margin_celsius, gpu.slowdown_at_margin_celsius)
    facts = {
        "temperature limits": by_degrees and by_margin,
        "power limit": _first(gpu.power_limit_watts, gpu.power_limit_default_watts),
        "throttle reasons": _first(gpu.throttle_bits),
        "ReBAR": GUEST if is_virtual(topology) else _first(gpu.bar1_covers_memory, resizable),
        "persistence": _first(gpu.persistence),
        "ECC errors": _first(gpu.ecc_uncorrected_errors_since_load),
        "remapped rows": _first(gpu.row_remap_pending, gpu.row_remap_failed),
        "PCIe replays": _first(gpu.pcie_replays),
        "other processes": _first(gpu.processes),
        "NUMA node": _first(gpu.numa_node) if len(topology.numa_nodes) > 1 and not is_virtual(topology) else None,
    }
    for what, why in facts.items():
        if why:
            yield what, label(gpu), why


def _between(topology: Topology) -> Iterator[Question]:
    for pair in topology.pairs:
        for what, fact in (("P2P", _first(pair.read_code, pair.write_code)), ("matrix", _first(pair.driver_label))):
            if fact:
                yield what, pair_label(pair), fact
    if isinstance(topology.isolation.iommu, Absent):
        yield "IOMMU", "", topology.isolation.iommu
    acs = GUEST if is_virtual(topology) else topology.isolation.acs_redirecting
    if isinstance(acs, Absent):
        yield "ACS", "", acs


def _first(*facts: object) -> Absent | None:
    """Why the first of these is not known; None where all are."""
    missing: Iterable[Absent] = (fact for fact in facts if isinstance(fact, Absent))
    return next(iter(missing), None)
