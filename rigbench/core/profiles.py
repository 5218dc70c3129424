"""What is known without measuring? Datasheets, series, published models and prices, each with its source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from rigbench.core import profile_files as files
from rigbench.core.errors import RigbenchError
from rigbench.core.profile_files import CloudPrice, Electricity, GpuProfile, Prices, RigProfile, Series, SeriesModel
from rigbench.core.record import Absent, Figure, Price

__all__ = [
    "CloudPrice",
    "Electricity",
    "GpuProfile",
    "Prices",
    "RigProfile",
    "Series",
    "SeriesModel",
    "as_json",
    "check",
    "electricity",
    "families",
    "gpu",
    "gpus",
    "match_gpu",
    "memory_bandwidth",
    "models",
    "named",
    "peak",
    "peaks",
    "prices",
    "rigs",
    "series",
    "series_names",
]

GIB = 1 << 30
HOW_TO_ADD = f"the head of the shipped gpus.toml says how to add one ({files.USER_FOLDER} names a folder of your own)"
# A card shows less than its nominal memory: ECC takes 1/16, the firmware some more; never as much as a tenth.
LEAST_VISIBLE, MOST_VISIBLE = 0.9, 1.02

Dtype = Literal["bf16", "fp16", "fp16-acc16", "tf32", "fp8", "fp32"]
DTYPES: tuple[Dtype, ...] = ("bf16", "fp16", "fp16-acc16", "tf32", "fp8", "fp32")
Entry = TypeVar("Entry")


def gpus() -> tuple[GpuProfile, ...]:
    """Every datasheet; one of the user's replaces a shipped one of the same id."""
    return tuple(
        _by_name((gpu.id, gpu) for file in files.each("gpus.toml", files.GpuFile) for gpu in file.gpu).values()
    )


def gpu(profile_id: str) -> GpuProfile:
    """One datasheet by id.

    Raises:
        RigbenchError: there is none of that id.
    """
    return _one("GPU profile", profile_id, {gpu.id: gpu for gpu in gpus()})


def series_names() -> tuple[str, ...]:
    return tuple(_all_series())


def series(name: str) -> Series:
    """One series by name.

    Raises:
        RigbenchError: there is none of that name.
    """
    return _one("series", name, _all_series())


def families() -> tuple[Series, ...]:
    """Published models, family by family; one of the user's replaces a shipped one of the same name."""
    found = [family.series() for file in files.each("models.toml", files.ModelsFile) for family in file.family]
    return tuple(_by_name((family.name, family) for family in found).values())


def models() -> tuple[SeriesModel, ...]:
    """Published models with the totals their authors give."""
    return tuple(_by_name((model.name, model) for family in families() for model in family.models).values())


def prices() -> Prices:
    found = files.each("prices.toml", Prices)
    electricity = _by_name((entry.id, entry) for file in found for entry in file.electricity)
    return Prices(electricity=tuple(electricity.values()), cloud=tuple(rent for file in found for rent in file.cloud))


def electricity(place: str | None = None) -> Price | Absent:
    """The price at a place, by id; without one, the default, whose place and date belong beside every amount.

    Raises:
        RigbenchError: there is no such place.
    """
    entries = {entry.id: entry for entry in prices().electricity}
    if place is None:
        default = next((entry for entry in reversed(entries.values()) if entry.default), None)
        return Absent("no electricity price is marked default in prices.toml") if default is None else _price(default)
    return _price(_one("electricity price", place, entries))


def rigs() -> tuple[RigProfile, ...]:
    """Machines by name; one of the user's replaces a shipped one.

    Raises:
        RigbenchError: a rig's GPU has no profile.
    """
    found = tuple(_by_name((rig.name, rig) for rig in files.each_rig()).values())
    known = {gpu.id for gpu in gpus()}
    for rig in found:
        if rig.gpu not in known:
            raise RigbenchError(f"the rig {rig.name} has the GPU {rig.gpu!r}, which has no profile", HOW_TO_ADD)
    return found


def match_gpu(pci_device_id: str | None, nvml_name: str | None, memory_bytes: int | None) -> str | Absent:
    """The profile's id, by PCI device id ("2684"), else by the exact name with every suffix.

    Memory tells apart cards that share a name. What stays unknown or ambiguous is Absent, with the reason.
    """
    if nvml_name and " MIG " in nvml_name:
        return Absent("a MIG slice is a part of a card; datasheets are of whole cards")
    device_id = (pci_device_id or "").removeprefix("0x").upper()
    by_id = [gpu for gpu in gpus() if device_id in gpu.pci_device_ids]
    by_name = [gpu for gpu in gpus() if nvml_name in gpu.names]
    if by_id and by_name and not any(gpu in by_name for gpu in by_id):
        return Absent(f"PCI id {device_id} is of {by_id[0].id}, the name {nvml_name!r} of {by_name[0].id}")
    found = [gpu for gpu in by_id if gpu in by_name] or by_id or by_name
    if not found:
        what = nvml_name or (f"PCI id {device_id}" if device_id else "a GPU without name and PCI id")
        return Absent(f"no profile of {what}; {HOW_TO_ADD}")
    if memory_bytes is None:
        lone = len(found) == 1 and not found[0].same_name_memory_gib
        return found[0].id if lone else Absent(f"{_ids(found)}: memory would tell, and was not read")
    fitting = [gpu for gpu in found if any(_fits(memory_bytes, size) for size in gpu.memory_gib)]
    if len(fitting) == 1:
        return fitting[0].id
    if fitting:
        return Absent(f"{_ids(fitting)} have the same name and memory")
    return Absent(f"{_ids(found)} by name or id, but not with {memory_bytes / GIB:.1f} GiB: a variant; {HOW_TO_ADD}")


def peak(profile_id: str, dtype: Dtype) -> Figure | Absent:
    """Dense FLOP/s with fp32 accumulate (fp16-acc16: fp16); Absent where the card has none or its source is weak."""
    own_sums = dtype == "fp16-acc16"
    found = gpu(profile_id).figure("fp16_accumulate_tflop_per_s" if own_sums else f"{dtype}_tflop_per_s", 1e12)
    if isinstance(found, Absent):
        return found
    return msgspec.structs.replace(found, basis=f"{found.basis}, dense, {'fp16' if own_sums else 'fp32'} accumulate")


def peaks(profile_id: str) -> dict[str, Figure]:
    """Every peak that the datasheet gives and that has a source, by dtype."""
    found = {dtype: peak(profile_id, dtype) for dtype in DTYPES}
    return {dtype: figure for dtype, figure in found.items() if isinstance(figure, Figure)}


def memory_bandwidth(profile_id: str) -> Figure | Absent:
    """Bytes per second of the device's own memory."""
    return gpu(profile_id).figure("memory_bandwidth_gb_per_s", 1e9)


def check() -> str:
    """Reads every profile, shipped and the user's own; one line on what there is.

    Raises:
        RigbenchError: the first thing that is wrong.
    """
    ids = {gpu.id for gpu in gpus()}
    for rent in prices().cloud:
        if rent.gpu not in ids:
            raise RigbenchError(
                f"prices.toml rents out {rent.gpu!r}, which has no GPU profile", "use an id of gpus.toml"
            )
    electricity()
    counts = (
        f"{len(ids)} GPUs",
        f"{len(series_names())} series ({', '.join(series_names())})",
        f"{len(models())} published models",
        f"{len(prices().electricity)} electricity prices",
        f"{len(prices().cloud)} cloud prices",
        f"{len(rigs())} rigs",
    )
    return f"profiles are well formed: {', '.join(counts)}"


def as_json(what: str | None = None) -> str:
    """Every profile, or the one of that name, as indented JSON.

    Raises:
        RigbenchError: nothing has that name.
    """
    everything = {"gpus": gpus(), "series": _all_series(), "models": models(), "prices": prices(), "rigs": rigs()}
    found = everything if what is None else named(what)
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"


def named(what: str) -> GpuProfile | RigProfile | Series | SeriesModel | Electricity:
    """The GPU, rig, series, model or electricity price of that name.

    Raises:
        RigbenchError: nothing has that name.
    """
    entries: dict[str, Any] = {entry.id: entry for entry in prices().electricity}
    entries |= {model.name: model for model in models()}
    entries |= _all_series()
    entries |= {rig.name: rig for rig in rigs()}
    entries |= {gpu.id: gpu for gpu in gpus()}
    if what not in entries:
        raise RigbenchError(f"no profile {what!r}", "`rigbench profiles` lists them")
    found: GpuProfile | RigProfile | Series | SeriesModel | Electricity = entries[what]
    return found


def _all_series() -> dict[str, Series]:
    return {file.name: file.series() for file in files.each_series()}


def _price(entry: Electricity) -> Price:
    return Price(entry.per_kwh, entry.currency, entry.place, entry.date, entry.source)


def _fits(memory_bytes: int, size_gib: float) -> bool:
    return LEAST_VISIBLE <= memory_bytes / GIB / size_gib <= MOST_VISIBLE


def _ids(found: Sequence[GpuProfile]) -> str:
    return " or ".join(gpu.id for gpu in found)


def _by_name(pairs: Iterable[tuple[str, Entry]]) -> dict[str, Entry]:
    """The last one of a name counts: the user's after the shipped."""
    return dict(pairs)


def _one(kind: str, name: str, entries: Mapping[str, Entry]) -> Entry:
    if name not in entries:
        listed = f"there are {', '.join(entries)}" if len(entries) < 15 else "`rigbench profiles` lists them"
        raise RigbenchError(f"no {kind} {name!r}", listed)
    return entries[name]
