"""Hints at what holds GPUs back at work: rules over a window of readings, never over one reading.

Utilisation is what the driver calls so: the share of time in which any kernel ran. A card that waits inside a
collective runs one, and is busy; a card whose loader is late is not. These are hints: what was seen, what it may mean,
and what to run next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from rigbench.core import units
from rigbench.core.finding import WORST_FIRST, Finding, Severity
from rigbench.core.record import Absent
from rigbench.work.telemetry import REASONS

FEWEST = 20  # readings: fewer are not yet a window
WINDOW_SECONDS = 60.0
LEAST_SECONDS = 30.0  # less than this is not yet a window

# Thresholds are round numbers that leave a healthy run alone: a training step keeps a card above 90 % as a rule.
BUSY, IDLE = 0.5, 0.02
APART = 0.3  # imbalance: so far apart in the mean
BEHIND_READINGS = 0.8  # the same card behind at so many of them
WORKING, DRAWS_LESS = 0.9, 0.3  # busy to the driver, and so much less of its power limit than the other
STARVED_MEAN = 0.7
LOW, HIGH, FEWEST_SWINGS = 0.3, 0.8, 3  # utilisation swings between these
HELD_SHARE, HELD_BYTES = 0.2, 2 << 30  # memory that says that a model is loaded
CPU_BUSY, IOWAIT, DISK_BYTES_PER_S, CORES_FULL = 0.7, 0.1, 20e6, 0.8
WORKERS_FULL = 1.0
THROTTLED: Mapping[str, tuple[Severity, float, str]] = {
    "hw_slowdown": ("fault", 0.05, "the hardware slows it down: too hot, or its power is cut"),
    "hw_thermal": ("fault", 0.05, "the hardware slows it down for heat: its cooling fails"),
    "hw_power_brake": ("fault", 0.05, "its power is cut from outside: power supply, cables, connectors"),
    "sw_thermal": ("warning", 0.2, "the driver slows it down at its target temperature: it needs more air"),
}

NEXT = {  # what to run about a hint
    "imbalance": "rigbench collectives (is the link slow?); DistributedDataParallel splits evenly",
    "unused-gpu": "torchrun --nproc-per-node=gpu YOUR_SCRIPT; see CUDA_VISIBLE_DEVICES",
    "waits-for-peer": "rigbench collectives; give every rank the same work",
    "data-starvation": "rigbench dataloader --data YOUR_FILE",
    "gpu-waits": "rigbench train-probe (what this rig reaches with its data at hand)",
    "held-idle": "ps -o pid,stat,etime,wchan,cmd -p PID (what that process is at)",
}
THERMALS = "rigbench thermals (what it costs, and when it sets in)"

Column = Sequence[float | Absent]  # an entry per tick


class CardWindow(NamedTuple):
    """One GPU's last readings."""

    device: str
    name: str | Absent
    memory_total_bytes: float | Absent
    utilisation: Column
    memory_used_bytes: Column
    power_share: Column  # of its limit
    throttle_share: Mapping[str, float]  # of this window, per reason
    processes: tuple[str, ...] = ()
    workers_full: float | Absent = Absent("no process was seen")  # at the last slow beat


class HostWindow(NamedTuple):
    busy: Column
    iowait: Column
    cores_at_limit: Column
    disk_read_bytes_per_s: Column


class Window(NamedTuple):
    seconds: float
    ticks: int
    cards: tuple[CardWindow, ...]
    host: HostWindow


def hints(window: Window) -> tuple[Finding, ...]:
    """What this window suggests, worst first; nothing while it is too short to tell."""
    if round(window.seconds) < LEAST_SECONDS or window.ticks < FEWEST:
        return ()
    uneven = list(_imbalance(window))
    named = {name for hint in uneven for name in hint.where}
    rest = window._replace(cards=tuple(card for card in window.cards if card.device not in named))
    found = [*_throttling(window), *uneven, *_waiting_for_peers(rest), *_starvation(rest), *_held_idle(rest)]
    return tuple(sorted(found, key=lambda hint: WORST_FIRST.index(hint.severity)))


def _hint(code: str, severity: Severity, where: Sequence[str], title: str, evidence: Sequence[str]) -> Finding:
    return Finding(
        code=code,
        severity=severity,
        title=title,
        where=tuple(where),
        evidence=tuple(evidence),
        cost=Absent("a hint is not a measurement"),
        cure=NEXT.get(code, THERMALS),
        commands=(),
        basis="readings of the last minute",
    )


def _throttling(window: Window) -> Iterable[Finding]:
    """Clocks held down by what should not hold them; a power limit is normal, and is no hint."""
    for card in window.cards:
        for reason, (severity, least, sentence) in THROTTLED.items():
            share = card.throttle_share.get(reason, 0.0)
            if share >= least:
                code, title = f"throttled-{reason.replace('_', '-')}", f"{card.device}: {sentence}"
                part = units.format_share(share)
                seen = f"{REASONS.get(reason, reason)} at {part} of the readings of {_length(window)}"
                yield _hint(code, severity, [card.device], title, [seen])


def _imbalance(window: Window) -> Iterable[Finding]:
    """A card well behind the busiest of its kind, at nearly all readings: an uneven split, or a card left out."""
    for card, lead, behind in _behind(window, lambda card: card.utilisation, APART):
        name, busy, top = card.device, mean(card.utilisation), mean(lead.utilisation)
        shares = f"{lead.device} {units.format_share(top)} busy, {name} {units.format_share(busy)}"
        seen = f"{shares}, over {_length(window)}; {name} was behind at {behind} readings"
        if busy < IDLE and not _holds_a_model(card):
            title = f"{name} does nothing while {lead.device} works: is this run meant for one card?"
            yield _hint("unused-gpu", "information", [name], title, [seen, _memory(card)])
            continue
        split = "an uneven split of the work (DataParallel, pipeline stages, evaluation on one card)"
        title = f"{name} does much less than {lead.device}: {split}, or it waits for the other"
        yield _hint("imbalance", "warning", [name], title, [seen, _memory(card), _memory(lead)])


def _waiting_for_peers(window: Window) -> Iterable[Finding]:
    """Cards of one kind, all busy to the driver, one of them at far less of its power: it spins in a collective."""
    for card, lead, _ in _behind(window, lambda card: card.power_share, DRAWS_LESS):
        if min(mean(card.utilisation), mean(lead.utilisation)) < WORKING:
            continue
        pair = (lead, card)
        busy = ", ".join(f"{one.device} {units.format_share(mean(one.utilisation))}" for one in pair)
        draws = ", ".join(f"{one.device} {units.format_share(mean(one.power_share))} of its limit" for one in pair)
        spends = f"it may spend its time waiting for {lead.device} inside a collective"
        title, evidence = f"{card.device} is busy and draws little: {spends}", [f"busy over {_length(window)}: {busy}"]
        yield _hint("waits-for-peer", "warning", [card.device], title, [*evidence, f"power: {draws}"])


def _behind(
    window: Window, of: Callable[[CardWindow], Column], apart: float
) -> Iterable[tuple[CardWindow, CardWindow, str]]:
    """(card, the leader of its kind, at how many readings) where a card is so far behind in the mean, nearly always."""
    for card in window.cards:
        alike = [one for one in window.cards if one.name == card.name and len(known(of(one))) >= FEWEST]
        lead = max(alike, key=lambda one: mean(of(one)), default=card)
        if mean(of(lead)) < BUSY or mean(of(lead)) - mean(of(card)) < apart:
            continue
        both = zip(of(card), of(lead), strict=True)
        pairs = [(a, b) for a, b in both if not isinstance(a, Absent) and not isinstance(b, Absent)]
        count = sum(a < b for a, b in pairs)
        if len(pairs) >= FEWEST and count >= BEHIND_READINGS * len(pairs):
            yield card, lead, f"{count} of {len(pairs)}"


def _starvation(window: Window) -> Iterable[Finding]:
    """Cards that hold a model, and are often without work: the data may be late, or the host too slow to launch."""
    hungry, evidence = [], []
    for card in window.cards:
        readings = known(card.utilisation)
        swings, low = 0, False  # how often it went from nearly idle to busy
        for value in readings:
            if value < LOW:
                low = True
            elif value > HIGH and low:
                swings, low = swings + 1, False
        starved = len(readings) >= FEWEST and max(readings) >= IDLE and _holds_a_model(card)
        if not starved or (mean(readings) >= STARVED_MEAN and swings < FEWEST_SWINGS):
            continue
        seen = f"{card.device} {units.format_share(mean(readings))} busy over {_length(window)}"
        if swings >= FEWEST_SWINGS:
            below, above = sum(value < LOW for value in readings), sum(value > HIGH for value in readings)
            lows = f"below {units.format_share(LOW)} at {below} of {len(readings)} readings"
            seen += f", up and down {swings} times ({lows}, above {units.format_share(HIGH)} at {above})"
        hungry.append(card)
        evidence.append(f"{seen}; {_memory(card)}")
    if not hungry:
        return
    names = [card.device for card in hungry]
    who = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} often without work"
    causes, host = _host_causes(window.host, hungry)
    if causes:
        title = f"{who} while {' and '.join(causes)}: the data may not keep up"
        yield _hint("data-starvation", "warning", names, title, [*evidence, host])
        return
    quiet = "and the host does little" if host else "and the host's load cannot be read"
    title = f"{who}, {quiet}: small batches, network storage, logging, evaluation or checkpoints do that"
    yield _hint("gpu-waits", "warning", names, title, [*evidence, *([host] if host else [])])


def _host_causes(host: HostWindow, hungry: Sequence[CardWindow]) -> tuple[list[str], str]:
    """What keeps the host busy enough to be late with data, and all that was seen of it in words."""
    cpu, iowait, full, reads = (mean(column) for column in host)
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
        f"CPU {units.format_share(cpu)} busy" if known(host.busy) else "",
        f"{units.format_significant(full, 2)} cores at their limit" if known(host.cores_at_limit) else "",
        f"{units.format_share(iowait)} waiting for a disk" if known(host.iowait) else "",
        f"disks read {units.format_bytes_per_s(reads)}" if known(host.disk_read_bytes_per_s) else "",
        f"{units.format_significant(workers, 2)} worker processes at their limit" if workers else "",
    ]
    return causes, ", ".join(part for part in parts if part)


def _held_idle(window: Window) -> Iterable[Finding]:
    """Memory held by a process, and no kernel for the whole window: finished, paused, stuck, or a notebook."""
    for card in window.cards:
        readings = known(card.utilisation)
        if len(readings) < FEWEST or max(readings) >= IDLE or not _holds_a_model(card) or not card.processes:
            continue
        title = f"{card.device} is held and does nothing: finished, paused, stuck, or a notebook?"
        seen = f"no kernel for {_length(window)}; {_memory(card)}"
        held = f"held by {', '.join(card.processes[:3])}"
        yield _hint("held-idle", "information", [card.device], title, [seen, held])


def _holds_a_model(card: CardWindow) -> bool:
    readings = known(card.memory_used_bytes)
    if not readings:
        return False
    used, total = readings[-1], card.memory_total_bytes
    return used >= HELD_BYTES or (not isinstance(total, Absent) and used >= HELD_SHARE * total)


def _memory(card: CardWindow) -> str:
    readings = known(card.memory_used_bytes)
    if not readings:
        return f"{card.device}'s memory cannot be read"
    total = card.memory_total_bytes
    of = "" if isinstance(total, Absent) else f" of {units.format_bytes(total)}"
    return f"{card.device} holds {units.format_bytes(readings[-1])}{of}"


def _length(window: Window) -> str:
    return f"{window.seconds:.0f} s" if window.seconds < 59.5 else units.format_seconds(float(round(window.seconds)))


def known(column: Column) -> list[float]:
    return [value for value in column if not isinstance(value, Absent)]


def mean(column: Column) -> float:
    """Of what was answered; 0 where nothing was."""
    readings = known(column)
    return math.fsum(readings) / len(readings) if readings else 0.0
