"""Follows a card's way over PCI Express: every link, the narrowest of them, and what copies should reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from rigbench.core.record import Absent, Figure
from rigbench.machine import pci
from rigbench.machine.record import Gpu, PciDevice, PciHop, PciPath

# Pinned copies on cards of generations 3 to 5, measured on published rigs, reach 75 to 92 % of theory; 84 % is the
# middle of generation 4 (26.3 of 31.5 GB/s).
EXPECTED_LOW, EXPECTED, EXPECTED_HIGH = 0.75, 0.84, 0.92
EXPECTED_BASIS = "75 to 92 % of theory, which pinned copies reach on published rigs"
PORTS_ABOVE_A_LINK = ("Root Port", "Downstream Port")
NOT_REPORTED = Absent("not reported")
IDLE = Absent("the card is idle, and no reading was taken under load")
ONLY_GPUS = Absent("known for GPUs only")
WORKING_STATE = 2
INTEL, AMD, ASMEDIA = "8086", "1022", "1b21"
# Intel's chipsets hang their root ports at devices 1b to 1d of the bus (PCH datasheets, "PCI Devices and Functions").
INTEL_CHIPSET_DEVICES = ("1b", "1c", "1d")

T = TypeVar("T", int, float)


# Ports and bridges that carry PCI Express over Thunderbolt or USB4 (pci.ids of 2023-04-11): AMD, Apple, Intel.
INTEL_TUNNELS = """
0b26 1136 1567 1569 156b 156d 1576 1578 157e 15c0 15d3 15da 15e7 15ea 15ef 461f 462f 463f 466e
7ec4 7ec5 7ec6 7ec7 8a1d 8a1f 8a21 8a23 9a23 9a25 9a27 9a29 9a2b 9a2d 9a2f 9a31
"""
TUNNELS = {"1022:14cd", "106b:1010", *(f"8086:{device}" for device in INTEL_TUNNELS.split())}
NOT_ITS_SPEED = Absent("a tunnel's ports report gen 1, whatever it carries")
# Bytes per second that copies to cards in such boxes reach: 19 to 22 Gbit/s, newer hosts up to 32 (published guides).
TUNNEL_BYTES_PER_S = (2.0e9, 2.6e9, 4.0e9)
TUNNEL_BASIS = "19 to 32 Gbit/s, which copies through Thunderbolt boxes reach in published guides"


class Card(NamedTuple):
    """A card worth a path: what the screen calls it, its kind, its place, and the GPU that it is."""

    label: str
    kind: str
    bus_id: str | Absent
    gpu: Gpu | None = None


def paths(tree: Mapping[str, PciDevice], cards: Sequence[Card]) -> tuple[PciPath, ...]:
    found = [path_of(tree, card) for card in cards]
    crossed = [{hop.device for hop in path.hops} for path in found]
    return tuple(
        msgspec.structs.replace(
            path,
            shared_with=tuple(
                other.label
                for other, hops in zip(found, crossed, strict=True)
                if other is not path and other.kind == path.kind and path.narrowest in hops
            ),
        )
        for path in found
    )


def path_of(tree: Mapping[str, PciDevice], card: Card) -> PciPath:
    if isinstance(card.bus_id, str) and card.bus_id in tree:
        way = pci.path_to(tree, card.bus_id)
        hops = tuple(_hop(above, tree[below], card) for above, below in links(tree, way))
    else:
        way, hops = [], ()
    if not hops and card.gpu:
        hops = (_hop(None, None, card),)
    narrowest, best = _narrowest(hops, "best_bytes_per_s")
    narrowest_awake, awake = _narrowest(hops, "awake_bytes_per_s")
    unread = next((hop.awake_bytes_per_s for hop in hops if isinstance(hop.awake_bytes_per_s, Absent)), None)
    if unread == IDLE:  # the other links alone would promise too much
        narrowest_awake, awake = IDLE, IDLE
    return PciPath(
        label=card.label,
        kind=card.kind,
        bus_id=card.bus_id,
        hops=hops,
        hops_unknown=sum(isinstance(hop.best_bytes_per_s, Absent) for hop in hops),
        now_bytes_per_s=_narrowest(hops, "now_bytes_per_s")[1],
        awake_bytes_per_s=awake,
        best_bytes_per_s=best,
        narrowest=narrowest,
        narrowest_awake=narrowest_awake,
        shared_with=(),
        chipset=chipset(tree, way),
        expected=expected(best if isinstance(awake, Absent) else awake, any(hop.tunnelled for hop in hops))
        if card.gpu
        else ONLY_GPUS,
    )


def links(tree: Mapping[str, PciDevice], way: Sequence[str]) -> Iterator[tuple[PciDevice | None, str]]:
    """(function above, function below) for each link. A switch's inside, between its ports, is none.

    Below a port come a link and then a switch's upstream port or a card; what kind of port a bridge is follows from
    its place where its configuration space cannot be read.
    """
    above: PciDevice | None = None
    port_above = False
    for bus_id in way:
        function = tree[bus_id]
        if port_above or len(way) == 1:
            yield above, bus_id
        is_bridge = function.kind == "bridge"
        told = function.port_type if isinstance(function.port_type, str) else None
        by_place = is_bridge and not port_above
        port_above = told in PORTS_ABOVE_A_LINK if told and is_bridge else by_place
        above = function


def _hop(above: PciDevice | None, below: PciDevice | None, card: Card) -> PciHop:
    """One link. The driver knows of the card's own what sysfs may not; all there is where the card is in no tree."""
    gpu = card.gpu if below is None or below.bus_id == card.bus_id else None
    ends = [end for end in (below, above) if end]
    now = _first([*(end.link_generation for end in ends), *([gpu.link_generation_now] if gpu else [])])
    width = _first([*(end.link_width_lanes for end in ends), *([gpu.link_width_now_lanes] if gpu else [])])
    best = _least([*(end.link_max_generation for end in ends), *([gpu.link_generation_max] if gpu else [])])
    lanes = _least([*(end.link_max_width_lanes for end in ends), *([gpu.link_width_max_lanes] if gpu else [])])
    at_work = awake(now, gpu)
    if above and below and {_id(above), _id(below)} <= TUNNELS:
        return PciHop(above.bus_id, below.bus_id, *(NOT_ITS_SPEED,) * 8, limits=(), tunnelled=True)
    return PciHop(
        port=above.bus_id if above else Absent("not in the PCI tree"),
        device=below.bus_id if below else card.bus_id if isinstance(card.bus_id, str) else card.label,
        generation_now=now,
        generation_awake=at_work,
        generation_best=best,
        width_now_lanes=width,
        width_best_lanes=lanes,
        now_bytes_per_s=lane_rate(now, width),
        awake_bytes_per_s=lane_rate(at_work, width),
        best_bytes_per_s=lane_rate(best, lanes),
        limits=limits(above, below) if below else (),
    )


def _id(function: PciDevice) -> str:
    return f"{function.vendor_id}:{function.device_id}"


def awake(now: int | Absent, gpu: Gpu | None) -> int | Absent:
    """The generation while at work. Only GPUs slow their link down at rest."""
    if gpu is None:
        return now
    seen = [generation for generation in (now, gpu.link_generation_awake) if isinstance(generation, int)]
    at_work = isinstance(gpu.performance_state, int) and gpu.performance_state <= WORKING_STATE
    at_best = now == gpu.link_generation_max and isinstance(now, int)
    return max(seen) if seen and (isinstance(gpu.link_generation_awake, int) or at_work or at_best) else IDLE


def limits(above: PciDevice | None, below: PciDevice) -> tuple[str, ...]:
    """Where the two ends of a link, or its present width and its possible one, differ."""
    if above is None:
        return ()
    found = []
    pairs = (
        ("gen ", above.link_max_generation, below.link_max_generation),
        ("x", above.link_max_width_lanes, below.link_max_width_lanes),
    )
    for unit, port, device in pairs:
        if isinstance(port, int) and isinstance(device, int) and port < device:
            found.append(f"{above.bus_id} is {unit}{port}, the card below it {unit}{device}")
    best, width = _least([pairs[1][1], pairs[1][2]]), below.link_width_lanes
    if isinstance(best, int) and isinstance(width, int) and width < best:
        found.append(f"x{width} of x{best} lanes are connected")
    return tuple(found)


def chipset(tree: Mapping[str, PciDevice], way: Sequence[str]) -> str | Absent:
    """Whose chipset the way goes through, and by what that is told; its cards share one link to the CPU."""
    for place, bus_id in enumerate(way[:-1]):
        function = tree[bus_id]
        if function.kind != "bridge":
            continue
        if place == 0 and function.vendor_id == INTEL and bus_id.split(":")[2][:2] in INTEL_CHIPSET_DEVICES:
            return f"Intel chipset (root port {bus_id})"
        if place > 0 and function.vendor_id in (AMD, ASMEDIA) and way[0] in tree and tree[way[0]].vendor_id == AMD:
            return f"AMD chipset (switch {bus_id})"
    return Absent("no sign of a chipset on the way")


def expected(bytes_per_s: float | Absent, tunnelled: bool = False) -> Figure | Absent:
    """What large copies of pinned memory should reach of a path's theory, one way; through a tunnel, of none."""
    if tunnelled:
        low, value, high = TUNNEL_BYTES_PER_S
        return Figure(value, "predicted", TUNNEL_BASIS, low, high)
    if isinstance(bytes_per_s, Absent):
        return bytes_per_s
    low, value, high = (share * bytes_per_s for share in (EXPECTED_LOW, EXPECTED, EXPECTED_HIGH))
    return Figure(value=value, source="predicted", basis=EXPECTED_BASIS, low=low, high=high)


def lane_rate(generation: int | Absent, lanes: int | Absent) -> float | Absent:
    if isinstance(generation, Absent):
        return generation
    speed = next((speed for speed, (number, _) in pci.GENERATIONS.items() if number == generation), NOT_REPORTED)
    return pci.link_bytes_per_s(speed, lanes)


def _narrowest(hops: Sequence[PciHop], rate: str) -> tuple[str | Absent, float | Absent]:
    """(device of the slowest hop whose rate is known, that rate)."""
    known = [(value, hop.device) for hop in hops if not isinstance(value := getattr(hop, rate), Absent)]
    if not known:
        return NOT_REPORTED, NOT_REPORTED
    least = min(value for value, _ in known)
    return next(device for value, device in known if value == least), least


def _least(values: Sequence[T | Absent]) -> T | Absent:
    known = [value for value in values if not isinstance(value, Absent)]
    return min(known) if known else _first(values)


def _first(values: Sequence[T | Absent]) -> T | Absent:
    """The first that is known; where there is but one, its own reason."""
    alone = values[0] if len(values) == 1 else NOT_REPORTED
    return next((value for value in values if not isinstance(value, Absent)), alone)
