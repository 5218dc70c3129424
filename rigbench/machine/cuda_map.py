"""Maps CUDA's devices to the driver's GPUs: CUDA counts in an order of its own, of the devices left visible.

The rules are those of the CUDA programming guide (environment variables) and, where it is silent, of torch's
`_parse_visible_devices`, which was written to agree with the CUDA runtime.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from rigbench.core.record import Absent
from rigbench.machine.record import Gpu

BY_BUS = "PCI_BUS_ID"
MIG_OF_OLD = re.compile(r"MIG-(GPU-[0-9a-fA-F-]+)/\d+/\d+")  # drivers before 470 name a part by its card


class Visible(NamedTuple):
    """NVML indices in CUDA's order; `doubt` says why the order, or the set, is not certain."""

    indices: tuple[int, ...]
    doubt: str | None = None


def nvml_index(gpus: Sequence[Gpu], uuid: str | None, bus_id: str | None) -> int | Absent:
    """The driver's number of the device that CUDA describes: by its UUID, else by its place on the PCI bus."""
    if uuid:
        found = [gpu.index for gpu in gpus if isinstance(gpu.uuid, str) and _bare(gpu.uuid) == _bare(uuid)]
        found += [gpu.index for gpu in gpus if _bare(uuid) in map(_bare, _parts(gpu))]
        if len(found) == 1:
            return found[0]
    place = parse_bus_id(bus_id or "")
    at_place = [gpu.index for gpu in gpus if place and parse_bus_id(str(gpu.pci_bus_id)) == place]
    return at_place[0] if len(at_place) == 1 else Absent("no GPU of the driver has this UUID or PCI bus id")


def visible(gpus: Sequence[Gpu], visible_devices: str | None, device_order: str | None = None) -> Visible:
    """What `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` leave, None where they are not set.

    An empty text hides all. The list ends at the first item that is negative, out of range or no device; a device
    named twice hides all.
    """
    ordered, doubt = cuda_order(gpus, device_order)
    if visible_devices is None:
        return Visible(tuple(gpu.index for gpu in ordered), doubt)
    items = visible_devices.split(",")
    by_uuid, first = items[0].startswith("GPU-"), items[0].strip()
    if first.startswith("MIG-"):  # a process sees one part of a GPU at most, the first one named: its GPU is told
        of_old = MIG_OF_OLD.fullmatch(first)
        for gpu in ordered:
            if (of_old and gpu.uuid == of_old[1]) or any(uuid.startswith(first) for uuid in _parts(gpu)):
                several = "a process sees one MIG device; the others are ignored" if len(items) > 1 else None
                return Visible((gpu.index,), several)
        return Visible((), f"no GPU has the MIG device {first}")
    indices: list[int] = []
    for item in items:
        if by_uuid:  # the one GPU whose UUID begins so
            start = item.strip()
            found = [gpu for gpu in ordered if isinstance(gpu.uuid, str) and gpu.uuid.startswith(start)]
            found = found if len(found) == 1 and start.startswith("GPU-") else []
        else:  # `1`, ` +1` and `1gpu` are 1, as for C's strtoul; -1 and words are no device
            number = re.match(r"\s*\+?([0-9]{1,9})", item)
            found = ordered[int(number[1]) :][:1] if number else []
        if not found:
            break
        if found[0].index in indices:
            return Visible((), None if by_uuid else doubt)
        indices.append(found[0].index)
    return Visible(tuple(indices), None if by_uuid else doubt)


def cuda_order(gpus: Sequence[Gpu], device_order: str | None) -> tuple[list[Gpu], str | None]:
    """The GPUs as CUDA numbers them before any are hidden, and what is not certain about it.

    Without `CUDA_DEVICE_ORDER=PCI_BUS_ID` CUDA puts the fastest first, by a measure that it does not publish; equal
    cards stay in bus order.
    """
    placed = sorted(gpus, key=lambda gpu: (parse_bus_id(str(gpu.pci_bus_id)) or (1 << 32, 0, 0), gpu.index))
    unlike = len({gpu.name if isinstance(gpu.name, str) else "" for gpu in gpus}) > 1
    doubtful = unlike and (device_order or "").strip().upper() != BY_BUS
    doubt = "cards of different kinds, of which CUDA puts the fastest first; set CUDA_DEVICE_ORDER=PCI_BUS_ID"
    return placed, doubt if doubtful else None


def parse_bus_id(text: str) -> tuple[int, int, int] | None:
    """(domain, bus, device) of `0000:01:00.0`, `00000000:01:00.0` or `01:00.0`; functions do not tell GPUs apart."""
    match = re.fullmatch(r"(?:([0-9a-fA-F]{1,8}):)?([0-9a-fA-F]{1,2}):([0-9a-fA-F]{1,2})(?:\.[0-7])?", text.strip())
    return (int(match[1] or "0", 16), int(match[2], 16), int(match[3], 16)) if match else None


def _parts(gpu: Gpu) -> list[str]:
    devices = gpu.mig_devices if isinstance(gpu.mig_devices, tuple) else ()
    return [device.uuid for device in devices if isinstance(device.uuid, str)]


def _bare(uuid: str) -> str:
    """torch gives a UUID without the driver's prefix."""
    return uuid.strip().removeprefix("GPU-").removeprefix("MIG-").lower()
