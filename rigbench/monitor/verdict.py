"""What do the last readings of GPUs at work hint at? Rules over a window, never over one reading.

Utilisation is what the driver calls so: the share of time in which any kernel ran. A card that waits inside a
collective runs one, and is busy; a card whose loader is late is not. These are hints: what was seen, what it may mean,
and what to run next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.monitor.record import HintSeverity, LiveHint
from rigbench.monitor.windows import (
    FEWEST,
    HIGH,
    LOW,
    CardWindow,
    Window,
    behind,
    holds_a_model,
    known_of,
    length,
    mean,
    memory,
    swings,
    times_behind,
)

WINDOW_SECONDS = 60.0
LEAST_SECONDS = 30.0  # less than this is not yet a window

# Thresholds are round numbers that leave a healthy run alone: a training step keeps a card above 90 % as a rule.
BUSY, IDLE = 0.5, 0.02
APART = 0.3  # imbalance: so far apart in the mean
WORKING, DRAWS_LESS = 0.9, 0.3  # busy to the driver, and so much less of its power limit than the other
STARVED_MEAN = 0.7
FEWEST_SWINGS = 3
CPU_BUSY, IOWAIT, DISK_BYTES_PER_S, CORES_FULL = 0.7, 0.1, 20e6, 0.8
WORKERS_FULL = 1.0
THROTTLED: Mapping[str, tuple[HintSeverity, float, str]] = {
    "hw_slowdown": ("fault", 0.05, "the hardware slows it down: too hot, or its power is cut"),
    "hw_thermal": ("fault", 0.05, "the hardware slows it down for heat: its cooling fails"),
    "hw_power_brake": ("fault", 0.05, "its power is cut from outside: power supply, cables, connectors"),
    "sw_thermal": ("warning", 0.2, "the driver slows it down at its target temperature: it wants more air"),
}


def hints(window: Window) -> tuple[LiveHint, ...]:
    """What this window suggests, worst first; nothing while it is too short to tell."""
    if round(window.seconds) < LEAST_SECONDS or window.ticks < FEWEST:
        return ()
    uneven = imbalance(window)
    told = {name for hint in uneven for name in hint.where}
    rest = window._replace(cards=tuple(card for card in window.cards if card.device not in told))
    found = [*throttling(window), *uneven, *waiting_for_peers(rest), *starvation(rest), *held_idle(rest)]
    order = ("fault", "warning", "information")
    return tuple(sorted(found, key=lambda hint: order.index(hint.severity)))


def imbalance(window: Window) -> list[LiveHint]:
    """A card well behind the busiest of its kind, at nearly all readings: an uneven split, or a card left out."""
    found = []
    for card, lead in behind(window, lambda card: card.utilisation, BUSY, APART):
        own, top = mean(card.utilisation), mean(lead.utilisation)
        count, paired = times_behind(card.utilisation, lead.utilisation)
        seen = (
            f"{lead.device} {units.format_share(top)} busy, {card.device} {units.format_share(own)}, "
            f"over {length(window)}; {card.device} was behind at {count} of {paired} readings"
        )
        if own < IDLE and not holds_a_model(card):
            hint = LiveHint(
                "unused-gpu",
                "information",
                (card.device,),
                f"{card.device} does nothing while {lead.device} works: is this run meant for one card?",
                (seen, memory(card)),
                "torchrun --nproc-per-node=gpu YOUR_SCRIPT; see CUDA_VISIBLE_DEVICES",
            )
        else:
            hint = LiveHint(
                "imbalance",
                "warning",
                (card.device,),
                f"{card.device} does much less than {lead.device}: an uneven split of the work "
                "(DataParallel, pipeline stages, evaluation on one card), or it waits for the other",
                (seen, memory(card), memory(lead)),
                "rigbench collectives (is the link slow?); DistributedDataParallel splits evenly",
            )
        found.append(hint)
    return found


def waiting_for_peers(window: Window) -> list[LiveHint]:
    """Cards of one kind, all busy to the driver, one of them at far less of its power: it spins in a collective."""
    found = []
    for card, lead in behind(window, lambda card: card.power_share, BUSY, DRAWS_LESS):
        pair = (lead, card)
        if min(mean(one.utilisation) for one in pair) < WORKING:
            continue
        draws = ", ".join(f"{one.device} {units.format_share(mean(one.power_share))} of its limit" for one in pair)
        busy = ", ".join(f"{one.device} {units.format_share(mean(one.utilisation))}" for one in pair)
        found.append(
            LiveHint(
                "waits-for-peer",
                "warning",
                (card.device,),
                f"{card.device} is busy and draws little: it may spend its time waiting for {lead.device} "
                "inside a collective",
                (f"busy over {length(window)}: {busy}", f"power: {draws}"),
                "rigbench collectives; give every rank the same work",
            )
        )
    return found


def starvation(window: Window) -> list[LiveHint]:
    """Cards that hold a model, and are often without work: the data may be late, or the host too slow to launch."""
    hungry = [card for card in window.cards if holds_a_model(card) and _is_hungry(card)]
    if not hungry:
        return []
    names = tuple(card.device for card in hungry)
    who = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} often without work"
    seen = tuple(_hunger(card, window) for card in hungry)
    causes, host = _host_causes(window, hungry)
    if causes:
        return [
            LiveHint(
                "data-starvation",
                "warning",
                names,
                f"{who} while {' and '.join(causes)}: the data may not keep up",
                (*seen, host),
                "rigbench dataloader --data YOUR_FILE",
            )
        ]
    quiet = "and the host does little" if host else "and the host's load cannot be read"
    return [
        LiveHint(
            "gpu-waits",
            "warning",
            names,
            f"{who}, {quiet}: small batches, network storage, logging, evaluation or checkpoints do that",
            (*seen, *([host] if host else [])),
            "rigbench train-probe (what this rig reaches with its data at hand)",
        )
    ]


def held_idle(window: Window) -> list[LiveHint]:
    """Memory held by a process, and no kernel for the whole window: finished, paused, stuck, or a notebook."""
    found = []
    for card in window.cards:
        known = known_of(card.utilisation)
        if len(known) < FEWEST or max(known) >= IDLE or not holds_a_model(card) or not card.processes:
            continue
        found.append(
            LiveHint(
                "held-idle",
                "information",
                (card.device,),
                f"{card.device} is held and does nothing: finished, paused, stuck, or a notebook?",
                (f"no kernel for {length(window)}; {memory(card)}", f"held by {', '.join(card.processes[:3])}"),
                "ps -o pid,stat,etime,wchan,cmd -p PID (what that process is at)",
            )
        )
    return found


def throttling(window: Window) -> list[LiveHint]:
    """Clocks held down by what should not hold them; a power limit is normal, and is no hint."""
    found = []
    for card in window.cards:
        for reason, (severity, least, sentence) in THROTTLED.items():
            share = card.throttle_share.get(reason, 0.0)
            if share < least:
                continue
            seen = f"{reason} at {units.format_share(share)} of the readings of {length(window)}"
            found.append(
                LiveHint(
                    f"throttled-{reason.replace('_', '-')}",
                    severity,
                    (card.device,),
                    f"{card.device}: {sentence}",
                    (seen,),
                    "rigbench thermals (what it costs, and when it sets in)",
                )
            )
    return found


def _is_hungry(card: CardWindow) -> bool:
    known = known_of(card.utilisation)
    if len(known) < FEWEST or max(known) < IDLE:
        return False
    return mean(card.utilisation) < STARVED_MEAN or swings(known) >= FEWEST_SWINGS


def _hunger(card: CardWindow, window: Window) -> str:
    known = known_of(card.utilisation)
    below, above, times = sum(value < LOW for value in known), sum(value > HIGH for value in known), swings(known)
    seen = f"{card.device} {units.format_share(mean(known))} busy over {length(window)}"
    if times >= FEWEST_SWINGS:
        seen += (
            f", up and down {times} times (below {units.format_share(LOW)} at {below} of {len(known)} readings, "
            f"above {units.format_share(HIGH)} at {above})"
        )
    return f"{seen}; {memory(card)}"


def _host_causes(window: Window, hungry: Sequence[CardWindow]) -> tuple[list[str], str]:
    """What keeps the host busy enough to be late with data, and all that was seen of it in words."""
    host = window.host
    cpu, iowait, full, reads = (
        mean(column) for column in (host.busy, host.iowait, host.cores_at_limit, host.disk_read_bytes_per_s)
    )
    workers = max((card.workers_full for card in hungry if not isinstance(card.workers_full, Absent)), default=0.0)
    causes = []
    if cpu >= CPU_BUSY:
        causes.append("the CPU is busy")
    elif full >= CORES_FULL:
        causes.append("a core is at its limit")
    if workers >= WORKERS_FULL:
        causes.append("its worker processes are at theirs" if causes else "its worker processes are at their limit")
    if reads >= DISK_BYTES_PER_S or iowait >= IOWAIT:
        causes.append("the disk is read" if reads >= DISK_BYTES_PER_S else "the CPU waits for the disk")
    parts = [
        f"CPU {units.format_share(cpu)} busy" if known_of(host.busy) else "",
        f"{units.format_significant(full, 2)} cores at their limit" if known_of(host.cores_at_limit) else "",
        f"{units.format_share(iowait)} waiting for a disk" if known_of(host.iowait) else "",
        f"disks read {units.format_bytes_per_s(reads)}" if known_of(host.disk_read_bytes_per_s) else "",
        f"{units.format_significant(workers, 2)} worker processes at their limit" if workers else "",
    ]
    return causes, ", ".join(part for part in parts if part)
