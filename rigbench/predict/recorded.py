"""A recorded rig as one that is predicted for: its cards, the links that they have there, their power limits."""

from __future__ import annotations

from pathlib import Path

import msgspec

from rigbench.core import profiles
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.finding import Cost
from rigbench.core.profiles import PCIE_LANE_BYTES_PER_S, RigProfile
from rigbench.core.record import Absent
from rigbench.machine import cuda_map
from rigbench.machine.cuda_map import Cards, peak_of
from rigbench.machine.record import Gpu, PciPath
from rigbench.machine.rig import Rig
from rigbench.thermals import findings
from rigbench.thermals import verdict as thermals
from rigbench.topology import survey
from rigbench.topology.record import Topology


def rig_asked(on: str | None, replay: Path | None) -> str | None:
    """The name of the rig that is predicted for: --on's, or the recorded one."""
    return on if replay is None else rig_of(replay)


def rig_of(folder: Path) -> str:
    """The name under which `profiles.rig_named` finds the rig from now on.

    Of unlike cards all count, at the slowest one's pace and with the smallest one's memory, or the largest group of
    alike ones, whichever multiplies faster by the datasheets. Of those the slowest link counts, the lowest power limit,
    and the clock of the card that heat slows most under the recorded load.

    Raises:
        RigbenchError: nothing is recorded there, or no GPU of which there is a profile.
    """
    recording = Rig.replay(folder)
    topology = survey.with_sensors(recording, survey.run(recording, profiles.match_gpu))
    its = _that_train(cuda_map.cards(topology.gpus, None, None, None))
    known = [gpu.profile for gpu in its.gpus if isinstance(gpu.profile, str)]
    if not known or len(known) < len(its.gpus):
        why = next((gpu.profile.reason for gpu in its.gpus if isinstance(gpu.profile, Absent)), "it records no GPU")
        raise RigbenchError(f"--replay {folder}: {why}", "describe the card instead: --on FILE.toml", NOTHING)
    card, count = _limited(_slowest(its), its.gpus), len(its.gpus)
    slots = [slot for gpu in its.gpus if (slot := _slot(gpu, topology)) is not None]
    inside = {gpu.index for gpu in its.gpus}
    pairs = [pair for pair in topology.pairs if {pair.one, pair.other} <= inside]
    words = []
    rig = RigProfile(name="", about=f"recorded: {its.words}", gpu=card, count=count, notes=its.why)
    if slots:
        slowest, generation, lanes = min(slots)
        words.append(f"gen{generation}x{lanes}")
        basis = f"PCIe {generation}.0 x{lanes}, as recorded"
        rig = msgspec.structs.replace(rig, slot_bytes_per_s=slowest, slot_basis=basis)
    if pairs and all(pair.codes for pair in pairs):
        allowed = all(pair.is_allowed for pair in pairs)
        words.append(f"p2p-{'on' if allowed else 'off'}")
        rig = msgspec.structs.replace(rig, p2p=allowed, p2p_basis="as recorded")
    clock, heat = _heat(topology, its)
    rig = msgspec.structs.replace(rig, clock_share=clock, heat=heat)
    name = f"{count}x{card}" if count > 1 else card
    name += f"@{'+'.join(words)}" if words else ""  # as --on would take it
    profiles.RECORDED[name], profiles.RECORDED_IN[name] = msgspec.structs.replace(rig, name=name), folder
    return name


def _that_train(its: Cards) -> Cards:
    alike = its.alike
    slowest = min(map(peak_of, its.gpus), default=0.0)
    if not its.is_mixed or len(its.gpus) * slowest <= len(alike.gpus) * peak_of(alike.gpus[0]):
        return alike
    slow = min(its.gpus, key=peak_of)
    return its._replace(
        why=f"of unlike cards ({its.words}) the slowest decides: all wait for {slow.label} ({slow.name})"
    )


def _slowest(its: Cards) -> profiles.GpuProfile:
    """The slowest card's profile, with the memory of the smallest."""
    known = [profiles.gpu(gpu.profile) for gpu in its.gpus if isinstance(gpu.profile, str)]
    slow = profiles.gpu(str(min(its.gpus, key=peak_of).profile))
    least = min(min(gpu.memory_gib) for gpu in known)
    if len({gpu.id for gpu in known}) == 1 or least >= min(slow.memory_gib):
        return slow
    smaller = msgspec.structs.replace(slow, id=f"{slow.id}-of-{least:g}gb", memory_gib=(least,))
    profiles.OWN_CARDS[smaller.id] = smaller
    return smaller


def _heat(topology: Topology, its: Cards) -> tuple[float | Absent, str]:
    """The share of its clock that heat leaves the hottest card, and what was read under the recorded load."""
    if isinstance(topology.load, Absent):
        return Absent("no load was recorded"), ""
    labels = {gpu.label for gpu in its.gpus}
    heated = thermals.played(its.gpus, topology.load)
    degrees = {it.device: it.temperature_celsius for it in topology.load.series if it.device in labels}
    hottest = {
        name: max(float(value) for value in column if isinstance(value, int | float))
        for name, column in degrees.items()
        if isinstance(column, tuple) and any(isinstance(value, int | float) for value in column)
    }
    said = ", ".join(f"{name} {value:.0f} °C" for name, value in hottest.items())
    costs = [
        (finding.cost, finding.where[0])
        for finding in findings.diagnose(heated, topology.load)
        if finding.code == "throttled" and isinstance(finding.cost, Cost)
    ]
    if not said or not costs:
        return Absent("no card is slowed by heat there"), f"{said} at most under the recorded load" if said else ""
    price, name = min(costs, key=lambda it: it[0].now.value / it[0].possible.value)
    share = price.now.value / price.possible.value
    slowed = f"{name} is slowed to {share:.2f} of its clock, and all wait for it"
    return share, f"{said} at most under the recorded load; {slowed}"


def _limited(gpu: profiles.GpuProfile, cards: tuple[Gpu, ...]) -> str:
    """The id of the card, or of one like it with the limit that was set."""
    limits = [card.power_limit_watts for card in cards if isinstance(card.power_limit_watts, float)]
    usual = gpu.power_limit_watts
    if not limits or isinstance(usual, Absent) or abs(min(limits) - usual) < 1:
        return gpu.id
    limited = f"{gpu.id}-at-{min(limits):.0f}w"
    profiles.OWN_CARDS[limited] = msgspec.structs.replace(gpu, id=limited, power_limit_watts=min(limits))
    return limited


def _slot(gpu: Gpu, topology: Topology) -> tuple[float, int, int] | None:
    """Bytes per second of the slowest link on the way to a card, one way; its generation and lanes."""
    path: PciPath | None = next((it for it in topology.paths if it.kind == "GPU" and it.label == gpu.label), None)
    found = []
    for hop in path.hops if path else ():
        generation = hop.generation_best if isinstance(hop.generation_awake, Absent) else hop.generation_awake
        lanes = hop.width_best_lanes if isinstance(hop.width_now_lanes, Absent) else hop.width_now_lanes
        if isinstance(generation, int) and isinstance(lanes, int) and generation in PCIE_LANE_BYTES_PER_S:
            found.append((lanes * PCIE_LANE_BYTES_PER_S[generation], generation, lanes))
    return min(found) if found else None
