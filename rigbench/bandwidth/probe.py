"""How fast do bytes move inside this host, between it and a GPU, inside a GPU, and between GPUs; do they arrive?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from rigbench.bandwidth import host_copies
from rigbench.bandwidth.record import BandwidthPart, Transfer
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, Device, Record
from rigbench.machine import host, placement
from rigbench.machine.accelerator import choose_device, cuda_devices, open_device
from rigbench.machine.cuda_cards import CudaCards
from rigbench.machine.sysfs import Sysfs
from rigbench.work import gpu_copies
from rigbench.work.copies import Budget, Group
from rigbench.work.process import Report

METHOD = 1
LONGEST_ROW_SECONDS, SHORTEST_ROW_SECONDS = 4.0, 0.15
# All rows are handed over again and again: with hundreds of pairs that may take a twentieth of the time, no more.
TIMES_TO_TELL = 20
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class Options(Record, frozen=True):
    """One part of the answer, for a process of its own: a device, or the pairs of GPUs with or without peer access.

    `seconds` is about how long the part may take. `local_cpus` maps a GPU's UUID to the CPUs next to it.
    """

    part: Literal["device", "peers"] = "device"
    device: str = "auto"
    peer_access: bool = True
    seconds: float = 60.0
    largest_bytes: int = 512 << 20
    target_half_width: float = 0.01
    local_cpus: dict[str, str] = msgspec.field(default_factory=dict)


def run(options: Options, report: Report) -> BandwidthPart:
    """Every row of one part, in this process.

    Raises:
        RigbenchError: no such device, or fewer than two GPUs for peer copies.
    """
    started = time.perf_counter()
    report.progress(0.0, "loading torch")
    name, devices, groups, not_run = _plan(options)
    report.check()
    done: list[Transfer] = []
    stayed_on: list[str | Absent] = [Absent("no host memory was measured")]

    def record(ended: Literal["finished", "interrupted", "died"]) -> BandwidthPart:
        return BandwidthPart(
            name=name,
            devices=devices,
            seconds=time.perf_counter() - started,
            host_cpus=stayed_on[0],
            transfers=tuple(done),
            not_run=tuple(not_run),
            ended=ended,
        )

    next_partial = 0.0
    report.partial(record("died"))  # should the first copy hang, it is known which devices there are
    for transfer in _rows(groups, options, report, not_run, stayed_on):
        done.append(transfer)
        if report.should_stop():
            return record("interrupted")
        if (before := time.perf_counter()) >= next_partial:
            report.partial(record("died"))
            told = time.perf_counter()
            next_partial = told + TIMES_TO_TELL * (told - before)
    return record("interrupted" if report.should_stop() else "finished")


def _plan(options: Options) -> tuple[str, tuple[Device, ...], list[Group], list[str]]:
    """(the part's name, the devices seen, what to measure, what not and why)."""
    sysfs = Sysfs()
    free = host.memory(sysfs).usable_bytes
    devices = cuda_devices()
    if options.part == "peers":
        if len(devices) < 2:
            raise RigbenchError(f"torch sees {len(devices)} CUDA devices", "a peer copy needs two", exit_code=NOTHING)
        cards = CudaCards()
        no_part = Absent("host memory takes no part")
        size, notes = gpu_copies.largest(cards, options.largest_bytes, no_part, range(len(devices)))
        groups, refused = gpu_copies.plan_peers(cards, len(devices), options.peer_access, size)
        return f"peers, access {'on' if options.peer_access else 'off'}", devices, groups, notes + refused
    device = choose_device(options.device)
    if device == "cpu":
        accelerator = open_device("cpu", flushed=False)
        groups, notes = host_copies.plan(sysfs, accelerator.device.threads, options.largest_bytes)
        return "CPU", (accelerator.device,), groups, notes
    index = int(device.partition(":")[2])
    cpus = options.local_cpus.get(str(devices[index].uuid))
    cards = CudaCards()
    size, notes = gpu_copies.largest(cards, options.largest_bytes, free, [index])
    near = Absent("the CPUs next to this GPU are not known") if cpus is None else cpus
    return device, devices, gpu_copies.plan_device(cards, index, near, size), notes


def _rows(
    groups: Sequence[Group], options: Options, report: Report, not_run: list[str], stayed_on: list[str | Absent]
) -> Iterator[Transfer]:
    """Each row's result, until told to stop. Buffers live as long as their group."""
    sysfs = Sysfs()
    total, index = sum(len(group.rows) for group in groups), 0
    limit = min(max(options.seconds / max(1, total), SHORTEST_ROW_SECONDS), LONGEST_ROW_SECONDS)
    budget = Budget(limit_seconds=limit, target_half_width=options.target_half_width, should_stop=report.should_stop)
    for group in groups:
        with placement.near(sysfs, group.cpus) as cpus:
            if group is groups[0]:
                stayed_on[0] = cpus
            report.progress(index / total, group.label)
            buffers = _made(group, not_run)
            for step, (label, row) in enumerate(group.rows if buffers is not None else ()):
                if report.should_stop():
                    return
                report.progress((index + step) / total, label)
                yield row(buffers, budget)
            del buffers
        index += len(group.rows)


def _made(group: Group, not_run: list[str]) -> object | None:
    """The group's buffers; None, and a word, where there is no memory for them."""
    try:
        return group.make()  # type: ignore[no-any-return]
    except RuntimeError as error:
        if not any(phrase in str(error) for phrase in NO_MEMORY):
            raise
        not_run.append(f"{group.label}: no memory for its buffers")
        return None
