"""Says which of the driver's GPUs a command works on: CUDA counts in an order of its own, of the devices left visible.

The rules are those of the CUDA programming guide (environment variables) and, where it is silent, of torch's
`_parse_visible_devices`, which was written to agree with the CUDA runtime.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from rigbench.core import profiles
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent
from rigbench.machine.record import Gpu, MigDevice

BY_BUS = "PCI_BUS_ID"
MIG_OF_OLD = re.compile(r"MIG-(GPU-[0-9a-fA-F-]+)/\d+/\d+")  # drivers before 470 name a part by its card


class Visible(NamedTuple):
    """NVML indices in CUDA's order; `doubt` says why the order, or the set, is not certain."""

    indices: tuple[int, ...]
    doubt: str | None = None
    ended_at: str | None = None  # the item that names no device, or one twice; what follows it is not read
    part: MigDevice | None = None  # of the one GPU, where that alone is visible


class Cards(NamedTuple):
    """The GPUs that a command works on, in CUDA's order. None: a CPU, or GPUs that the driver does not tell of."""

    gpus: tuple[Gpu, ...] = ()
    places: tuple[int, ...] = ()  # CUDA's number of each
    hidden: tuple[Gpu, ...] = ()  # the driver's others
    why: str = ""  # those are left out
    trouble: str = ""  # what is likely a slip, to be said aloud
    whole: bool = True  # whether these are all that CUDA shows

    @property
    def indices(self) -> tuple[int, ...]:
        """The driver's number of each."""
        return tuple(gpu.index for gpu in self.gpus)

    @property
    def is_mixed(self) -> bool:
        return len(set(map(_kind, self.gpus))) > 1

    @property
    def environment(self) -> dict[str, str]:
        """What makes these CUDA's only devices, from 0 on; nothing where they are, or a UUID is not known."""
        uuids = [gpu.uuid for gpu in self.gpus if isinstance(gpu.uuid, str)]
        pinned = bool(uuids) and not self.whole and len(uuids) == len(self.gpus)
        return {"CUDA_VISIBLE_DEVICES": ",".join(uuids)} if pinned else {}

    @property
    def words(self) -> str:
        """ "2 × NVIDIA GeForce RTX 4080 SUPER", kind by kind."""
        names = [gpu.name if isinstance(gpu.name, str) else "unknown GPU" for gpu in self.gpus]
        return ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))

    @property
    def alike(self) -> Cards:
        """The largest group of alike ones, of equal groups the fastest by datasheet: what a full run trains on."""
        kinds = [_kind(gpu) for gpu in self.gpus]
        if len(set(kinds)) < 2:
            return self

        def preference(kind: tuple[object, ...]) -> tuple[int, float]:
            return kinds.count(kind), peak_of(self.gpus[kinds.index(kind)])

        best = max(dict.fromkeys(kinds), key=preference)
        names = Cards(tuple(gpu for gpu, kind in zip(self.gpus, kinds, strict=True) if kind != best)).words
        why = f"{names} left out: ranks wait for the slowest of them, so that alike cards train together"
        return self._only([place for place, kind in enumerate(kinds) if kind == best], why)

    @property
    def first(self) -> Cards:
        """One card alone."""
        return self._only([0], "one card was asked for") if len(self.gpus) > 1 else self

    def _only(self, wanted: Sequence[int], why: str) -> Cards:
        kept = tuple(self.gpus[index] for index in wanted)
        others = tuple(gpu for gpu in self.gpus if gpu not in kept)
        places = tuple(self.places[index] for index in wanted)
        return Cards(kept, places, (*self.hidden, *others), "; ".join(filter(None, (self.why, why))), whole=False)


def cards(gpus: Sequence[Gpu], device: str | None, visible_devices: str | None, device_order: str | None) -> Cards:
    """What `--device` and the two variables of CUDA's leave of the driver's GPUs.

    "auto" (as None): all that are visible; "cuda": the same, and never a CPU; "cuda:N": one of them; "cpu": none.

    Raises:
        RigbenchError: no device is called so, or none is there.
    """
    wanted = device or "auto"
    kind, _, number = wanted.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (
        ":" in wanted and (kind != "cuda" or not re.fullmatch("[0-9]{1,4}", number))
    ):
        raise RigbenchError(f"--device {wanted!r} is not a device", "use cpu, cuda or cuda:N")
    if wanted == "cpu" or not gpus:  # a driver that does not answer need not keep torch from its GPUs
        return Cards()
    its = visible(gpus, visible_devices, device_order)
    by_index = {gpu.index: gpu for gpu in gpus}
    shown = tuple(by_index[index] for index in its.indices)
    if its.part is not None:
        shown = (_as_part(shown[0], its.part),)
    said = f"CUDA_VISIBLE_DEVICES={visible_devices}"
    why = f"{said} leaves {len(shown)} of {len(gpus)} GPUs" if len(shown) < len(gpus) else ""
    trouble = f"{why}: CUDA stops at {its.ended_at.strip()!r}" if its.ended_at is not None else "" if shown else why
    if its.doubt and (number or visible_devices is not None):  # a number is only as certain as the order
        trouble = "; ".join(filter(None, (trouble, its.doubt)))
    if kind == "cuda" and int(number or 0) >= len(shown):
        there = why or f"CUDA shows {len(shown)} GPU{'' if len(shown) == 1 else 's'}"
        last = f"cuda:0 to cuda:{len(shown) - 1}" if len(shown) > 1 else "cuda:0"
        cure = f"use {last} or cpu" if shown else "unset it, or use --device cpu"
        raise RigbenchError(f"--device {wanted}: {there}", cure, exit_code=NOTHING)
    hidden = tuple(gpu for gpu in gpus if gpu.index not in its.indices)
    found = Cards(shown, tuple(range(len(shown))), hidden, why, trouble)
    if not number or len(shown) == 1:
        return found
    return found._only([int(number)], f"--device {wanted} is one of {len(gpus)} GPUs")._replace(trouble=trouble)


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
            part = next((it for it in _devices(gpu) if str(it.uuid).startswith(first)), None)
            if part or (of_old and gpu.uuid == of_old[1]):
                several = "a process sees one MIG device; the others are ignored" if len(items) > 1 else None
                return Visible((gpu.index,), several, part=part)
        return Visible((), f"no GPU has the MIG device {first}", first)
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
            return Visible(tuple(indices), None if by_uuid else doubt, item)
        if found[0].index in indices:
            return Visible((), None if by_uuid else doubt, item)
        indices.append(found[0].index)
    return Visible(tuple(indices), None if by_uuid else doubt)


def cuda_order(gpus: Sequence[Gpu], device_order: str | None) -> tuple[list[Gpu], str | None]:
    """The GPUs as CUDA numbers them before any are hidden, and what is not certain about it.

    Without `CUDA_DEVICE_ORDER=PCI_BUS_ID` CUDA puts the fastest first, by a measure that it does not publish (here: the
    datasheet's peak); equal cards stay in bus order.
    """
    placed = sorted(gpus, key=lambda gpu: (parse_bus_id(str(gpu.pci_bus_id)) or (1 << 32, 0, 0), gpu.index))
    unlike = len({gpu.name if isinstance(gpu.name, str) else "" for gpu in gpus}) > 1
    doubtful = unlike and (device_order or "").strip().upper() != BY_BUS
    if doubtful:
        placed.sort(key=peak_of, reverse=True)
    doubt = "cards of different kinds, of which CUDA puts the fastest first; set CUDA_DEVICE_ORDER=PCI_BUS_ID"
    return placed, doubt if doubtful else None


def parse_bus_id(text: str) -> tuple[int, int, int] | None:
    """(domain, bus, device) of `0000:01:00.0`, `00000000:01:00.0` or `01:00.0`; functions do not tell GPUs apart."""
    match = re.fullmatch(r"(?:([0-9a-fA-F]{1,8}):)?([0-9a-fA-F]{1,2}):([0-9a-fA-F]{1,2})(?:\.[0-7])?", text.strip())
    return (int(match[1] or "0", 16), int(match[2], 16), int(match[3], 16)) if match else None


def _kind(gpu: Gpu) -> tuple[object, ...]:
    """What alike cards share. A driver's totals of one kind may differ by a page."""
    size = gpu.memory_total_bytes
    return gpu.name, size if isinstance(size, Absent) else round(size / (1 << 30))


def peak_of(gpu: Gpu) -> float:
    """FLOP/s by datasheet, in half precision; 0 where no profile is known."""
    rates = {} if isinstance(gpu.profile, Absent) else profiles.peaks(gpu.profile)
    return max((figure.value for dtype, figure in rates.items() if dtype in ("bf16", "fp16")), default=0.0)


def _as_part(gpu: Gpu, part: MigDevice) -> Gpu:
    """A GPU of which a process has one part: that part's memory, and nothing of what its neighbours do."""
    untold = Absent("not reported for one part of a GPU")
    return msgspec.structs.replace(
        gpu,
        uuid=part.uuid,
        name=part.name,
        memory_total_bytes=part.memory_total_bytes,
        memory_used_bytes=untold,
        processes=untold,
    )


def _devices(gpu: Gpu) -> tuple[MigDevice, ...]:
    return gpu.mig_devices if isinstance(gpu.mig_devices, tuple) else ()


def _parts(gpu: Gpu) -> list[str]:
    return [device.uuid for device in _devices(gpu) if isinstance(device.uuid, str)]


def _bare(uuid: str) -> str:
    """torch gives a UUID without the driver's prefix."""
    return uuid.strip().removeprefix("GPU-").removeprefix("MIG-").lower()
