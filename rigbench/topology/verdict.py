"""What holds this rig back, by its topology alone? One plain function per diagnosis; any stored run will do."""

from __future__ import annotations

from collections.abc import Iterable

from rigbench.core.finding import WORST_FIRST, Finding
from rigbench.topology import cards, links, peers
from rigbench.topology.record import Topology

DIAGNOSES = (
    cards.on_the_bus_without_driver,
    cards.lost,
    cards.unreadable,
    cards.memory_health,
    links.below_possible_width,
    links.below_possible_generation,
    links.behind_the_chipset,
    peers.iommu_translates,
    peers.acs_redirects,
    peers.p2p_refused,
    peers.rebar_off,
    peers.numa,
    cards.near_slowdown,
    cards.throttled,
    cards.power_limit,
    cards.in_use,
    links.slower_slot,
    links.narrow_way,
    cards.mixed,
    cards.replays,
    cards.persistence,
    peers.matrix_differs,
    cards.not_listed,
    peers.virtual_machine,
)


def diagnose(topology: Topology) -> tuple[Finding, ...]:
    """Every finding, worst first."""
    return worst_first(item for diagnosis in DIAGNOSES for item in diagnosis(topology))


def worst_first(found: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(found, key=lambda item: WORST_FIRST.index(item.severity)))
