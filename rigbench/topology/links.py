"""Judges the PCIe links: whether they carry what card and slot could, and where the way to the host narrows."""

from __future__ import annotations

from collections.abc import Iterator

from rigbench.core import units
from rigbench.core.finding import Cost, Finding, Severity, cost, finding
from rigbench.core.record import Absent
from rigbench.machine.record import PciHop, PciPath
from rigbench.topology.record import Topology, is_integrated

LEAST_SPLIT_LANES = 4  # boards split a slot into 8 and 8, or 8 and 4 and 4; less is a contact that fails
THEORY = "PCIe generation, lanes and encoding, one way"
Rate = float | Absent


def below_possible_width(topology: Topology) -> Iterator[Finding]:
    """Width does not fall at rest. (Some chipsets' ports claim more lanes than boards ever wire to them.)"""
    for path, hop in _hops(topology):
        lanes = _missing_lanes(hop)
        if (
            lanes is None
            or isinstance(hop.port, Absent)
            or (isinstance(path.chipset, str) and hop.device != path.bus_id)
        ):
            continue
        neighbour = _neighbour(topology, hop.port, *lanes)
        severity: Severity = "information" if neighbour else "warning"
        evidence = [f"x{lanes[0]} of x{lanes[1]} lanes between {hop.port} and {hop.device}"]
        if neighbour:
            evidence.append(f"{neighbour} hangs on the same slot's other lanes, as where a board splits a slot")
        price = _cost(_scaled(hop.best_bytes_per_s, *lanes), hop.best_bytes_per_s)
        yield finding("pcie-width", severity, evidence, [path.label], price)


def below_possible_generation(topology: Topology) -> Iterator[Finding]:
    """Of a GPU's link only a reading under load counts; drives do not slow theirs down at rest."""
    for path, hop in _hops(topology):
        gpu = next((gpu for gpu in topology.gpus if path.kind == "GPU" and path.label == gpu.label), None)
        if hop.device != path.bus_id or path.kind == "NIC" or (gpu and isinstance(gpu.link_generation_awake, Absent)):
            continue
        awake, best = hop.generation_awake, hop.generation_best
        if isinstance(awake, Absent) or isinstance(best, Absent) or awake >= best:
            continue
        lanes = _missing_lanes(hop) or (1, 1)
        price = _cost(hop.awake_bytes_per_s, _scaled(hop.best_bytes_per_s, *lanes))
        evidence = [f"gen {awake} {'while it copied' if gpu else 'now'}, gen {best} possible at {hop.device}"]
        yield finding("pcie-generation", "warning" if gpu else "information", evidence, [path.label], price)


def behind_the_chipset(topology: Topology) -> Iterator[Finding]:
    for path in _gpu_paths(topology):
        if isinstance(path.chipset, str):
            evidence = [f"the way goes through the {path.chipset}"]
            price = _cost(path.best_bytes_per_s, _card_rate(topology, path))
            yield finding("chipset-lanes", "warning", evidence, [path.label], price)


def slower_slot(topology: Topology) -> Iterator[Finding]:
    """What the card could use and its slot does not have; a card behind the chipset has its own finding."""
    for path in _gpu_paths(topology):
        if not path.hops or isinstance(path.chipset, str):
            continue
        hop, own = path.hops[-1], _card_rate(topology, path)
        rate, lanes = hop.best_bytes_per_s, _missing_lanes(hop)
        if isinstance(hop.port, Absent) and lanes:
            evidence = [f"x{lanes[0]} of the card's x{lanes[1]} lanes; without a PCI tree the slot's own are not known"]
            price = _cost(_scaled(rate, *lanes), rate)
            yield finding("pcie-slot", "information", evidence, [path.label], price)
        elif isinstance(own, float) and isinstance(rate, float) and own > rate:
            evidence = [text for text in hop.limits if " the card below it " in text]
            yield finding("pcie-slot", "information", evidence, [path.label], _cost(rate, own))


def narrow_way(topology: Topology) -> Iterator[Finding]:
    """A link above the card's own that is slower, or that several cards share."""
    for path in _gpu_paths(topology):
        hop = next((hop for hop in path.hops[:-1] if hop.device == path.narrowest), None)
        if hop is None or isinstance(path.chipset, str) or isinstance(hop.best_bytes_per_s, Absent):
            continue
        own, rate, cards = path.hops[-1].best_bytes_per_s, hop.best_bytes_per_s, 1 + len(path.shared_with)
        if isinstance(own, Absent) or (own <= rate and cards == 1):
            continue
        each = f", shared by {cards} GPUs" if cards > 1 else ""
        evidence = [f"{units.format_bytes_per_s(rate)} between {hop.port} and {hop.device}{each}"]
        yield finding("shared-uplink", "information", evidence, [path.label], _cost(rate / cards, own, cards))


def _cost(now: Rate, possible: Rate, cards: int = 1) -> Cost | str:
    """In theory, one way; `cards` is how many must copy at once for it."""
    if isinstance(now, Absent) or isinstance(possible, Absent):
        return "the link's speed is not reported"
    if now >= possible:
        return "no less in theory; a measurement shows what sharing the lanes costs"
    at_once = f" when all {cards} copy at once" if cards > 1 else ""
    low, high = units.format_bytes_per_s(now), units.format_bytes_per_s(possible)
    return cost(f"{low} each way in theory{at_once}, instead of {high}", "bytes/s", now, possible, THEORY)


def _scaled(rate: Rate, lanes: int, of: int) -> Rate:
    return rate if isinstance(rate, Absent) else rate * lanes / of


def _missing_lanes(hop: PciHop) -> tuple[int, int] | None:
    """(present, possible) lanes where they differ."""
    now, best = hop.width_now_lanes, hop.width_best_lanes
    return (now, best) if isinstance(now, int) and isinstance(best, int) and now < best else None


def _hops(topology: Topology) -> Iterator[tuple[PciPath, PciHop]]:
    """Every link once, under the first card whose way crosses it; none in a virtual machine."""
    seen: set[str] = set()
    for path in () if topology.is_virtual else _in_slots(topology):
        for hop in path.hops:
            if hop.device not in seen and not hop.tunnelled:
                seen.add(hop.device)
                yield path, hop


def _gpu_paths(topology: Topology) -> list[PciPath]:
    return [path for path in _in_slots(topology) if path.kind == "GPU" and not topology.is_virtual]


def _in_slots(topology: Topology) -> list[PciPath]:
    """Without chips that are soldered to their CPU, whose link tells nothing."""
    soldered = {gpu.label for gpu in topology.gpus if is_integrated(gpu)}
    return [path for path in topology.paths if path.label not in soldered]


def _card_rate(topology: Topology, path: PciPath) -> Rate:
    """What the card alone could move, whatever its slot."""
    device = next((device for device in topology.pci if device.bus_id == path.bus_id), None)
    return device.link_max_bytes_per_s if device else Absent("not in the PCI tree")


def _neighbour(topology: Topology, port: str, lanes: int, of: int) -> str | None:
    """The card on the lanes that one at this port lacks: below another function of the same root port, and they fit."""
    if lanes < LEAST_SPLIT_LANES:
        return None
    slot = port.rpartition(".")[0]  # domain, bus and device: what the functions of one device share
    for path, other in _hops(topology):
        beside = isinstance(other.port, str) and other.port != port and other.port.rpartition(".")[0] == slot
        if beside and isinstance(other.width_now_lanes, int) and lanes + other.width_now_lanes <= of:
            return path.label
    return None
