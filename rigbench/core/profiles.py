"""Reads what is known without measuring: datasheets of GPUs, rigs and prices, each with its source."""

from __future__ import annotations

import functools
import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from rigbench.core import card_names
from rigbench.core.errors import RigbenchError
from rigbench.core.files import read_regular, reason, toml
from rigbench.core.record import NO_CARBON, Absent, Carbon, Figure, Price

USER_FOLDER = "RIGBENCH_PROFILES"
HOW_TO_ADD = f"the head of the shipped gpus.toml says how to add one ({USER_FOLDER} names a folder of your own)"
NOT_STATED = Absent("not stated")
LARGEST = 1e15  # TOML writes infinities; a datasheet does not
LARGEST_FILE_BYTES = 1 << 20
GIB = 1 << 30
# A card shows less than its nominal memory: ECC takes 1/16, the firmware some more; never as much as a tenth.
LEAST_VISIBLE, MOST_VISIBLE = 0.9, 1.02
MOST_CARDS = 1024
OFF_A_POWER_OF_TWO = 0.15  # of a datasheet's FLOP a clock and multiprocessor

Dtype = Literal["bf16", "fp16", "fp16-acc16", "tf32", "fp8", "fp32"]
DTYPES: tuple[Dtype, ...] = ("bf16", "fp16", "fp16-acc16", "tf32", "fp8", "fp32")
SMALLEST = 1e-9  # of what is divided by, in any unit that a profile uses
Count = Annotated[int, msgspec.Meta(gt=0, lt=int(LARGEST))]
Amount = Annotated[float, msgspec.Meta(ge=SMALLEST, lt=LARGEST)]
AmountOrZero = Annotated[float, msgspec.Meta(ge=0, lt=LARGEST)]
PciId = Annotated[str, msgspec.Meta(pattern="^[0-9A-F]{4}$")]
Currency = Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
Text = Annotated[str, msgspec.Meta(min_length=1)]
File = TypeVar("File", bound="Profile")
Entry = TypeVar("Entry")


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what a profile file may hold: a misspelt key is an error."""


class GpuProfile(Profile, frozen=True, kw_only=True):
    """A datasheet. Figures are published unless listed in `derived` or `weak`; weak ones are never used.

    Rates are dense; bf16, fp16, tf32 and fp8 accumulate in fp32. `memory_gib` are the sizes that share these figures.
    """

    id: Text
    names: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]  # as the driver prints it
    also: tuple[Text, ...] = ()  # other names that it goes by
    pci_device_ids: tuple[PciId, ...] = ()
    architecture: Text
    compute_capability: Text
    memory_gib: Annotated[tuple[Amount, ...], msgspec.Meta(min_length=1)]
    same_name_memory_gib: tuple[Amount, ...] = ()
    memory_total_mib_seen: Count | Absent = NOT_STATED
    memory_bandwidth_gb_per_s: Amount
    multiprocessors: Count | Absent = NOT_STATED
    boost_clock_mhz: Amount | Absent = NOT_STATED
    bf16_tflop_per_s: Amount | Absent = NOT_STATED
    fp16_tflop_per_s: Amount | Absent = NOT_STATED
    fp16_accumulate_tflop_per_s: Amount | Absent = NOT_STATED
    tf32_tflop_per_s: Amount | Absent = NOT_STATED
    fp8_tflop_per_s: Amount | Absent = NOT_STATED
    fp32_tflop_per_s: Amount
    power_limit_watts: Amount | Absent = NOT_STATED
    pcie_generation: Count
    pcie_lanes: Count
    nvlink_gb_per_s_per_direction: AmountOrZero
    p2p_over_pcie: Text
    temperature_target_celsius: Amount | Absent = NOT_STATED
    temperature_max_operating_celsius: Amount | Absent = NOT_STATED
    temperature_slowdown_celsius: Amount | Absent = NOT_STATED
    temperature_shutdown_celsius: Amount | Absent = NOT_STATED
    launch_price_usd: Amount | Absent = NOT_STATED
    launch_price_kind: str = ""
    derived: tuple[str, ...] = ()
    weak: tuple[str, ...] = ()
    peak_basis: Text
    sources: tuple[str, ...] = ()
    notes: str = ""

    def __post_init__(self) -> None:
        for name in (*self.derived, *self.weak):
            if not isinstance(getattr(self, name, None), int | float):
                raise ValueError(f"{self.id}: `derived` and `weak` list figures of this card, and {name!r} is none")

    def figure(self, name: str, factor: float) -> Figure | Absent:
        """One of the numbers above in SI units, saying whether it is published or derived; weak ones are Absent."""
        value = getattr(self, name)
        if isinstance(value, Absent):
            return Absent(f"no {name} in the profile {self.id}")
        if name in self.weak:
            return Absent(f"the profile {self.id} has only a weak source for {name}")
        standing = "derived" if name in self.derived else "published"
        return Figure(value=value * factor, source="datasheet", basis=f"{self.names[0]}, {standing}")


class Electricity(Profile, frozen=True, kw_only=True):
    id: Text
    default: bool = False
    per_kwh: Amount
    currency: Currency
    place: Text
    date: Text
    source: Text
    notes: str = ""
    carbon_g_per_kwh: AmountOrZero | Absent = NOT_STATED  # the grid's, a mean over a year
    carbon_date: str = ""
    carbon_source: str = ""

    def __post_init__(self) -> None:
        stated = bool(self.carbon_date and self.carbon_source)
        if isinstance(self.carbon_g_per_kwh, Absent) == stated:
            raise ValueError(f"{self.id}: carbon_g_per_kwh, carbon_date and carbon_source go together")


class CloudPrice(Profile, frozen=True, kw_only=True):
    """`gpu` is a profile's id; per GPU-hour, on demand."""

    gpu: Text
    provider: Text
    per_gpu_hour: Amount
    currency: Currency
    date: Text | Absent = Absent("the page bears no date")
    source: Text


class Prices(Profile, frozen=True):
    electricity: tuple[Electricity, ...] = ()
    cloud: tuple[CloudPrice, ...] = ()


class GpuFile(Profile, frozen=True):
    """gpus.toml. Each card's `sources` are keys of the file's own."""

    sources: dict[str, Text] = {}
    gpu: tuple[GpuProfile, ...] = ()

    def __post_init__(self) -> None:
        for gpu in self.gpu:
            for key in gpu.sources:
                if key not in self.sources:
                    raise ValueError(f"{gpu.id}: no source {key!r} under [sources]")


class OwnCard(Profile, frozen=True, kw_only=True):
    """A card of the user's own and its host, as `--on FILE.toml` reads it; `rigbench explain cards` says the units."""

    memory_gib: Amount
    memory_bandwidth_gb_per_s: Amount
    fp32_tflop_per_s: Amount
    name: Text | None = None
    bf16_tflop_per_s: Amount | Absent = NOT_STATED
    fp16_tflop_per_s: Amount | Absent = NOT_STATED
    tf32_tflop_per_s: Amount | Absent = NOT_STATED
    fp8_tflop_per_s: Amount | Absent = NOT_STATED
    multiprocessors: Count | Absent = NOT_STATED
    boost_clock_mhz: Amount | Absent = NOT_STATED
    compute_capability: Text = "not stated"
    power_limit_watts: Amount | Absent = NOT_STATED
    pcie_generation: Annotated[int, msgspec.Meta(ge=1, le=6)] = 4
    pcie_lanes: Literal[1, 2, 4, 8, 16] = 16
    nvlink_gb_per_s_per_direction: AmountOrZero = 0.0
    p2p_over_pcie: bool = False
    price_usd: Amount | Absent = NOT_STATED
    host_watts: Amount | Absent = NOT_STATED
    psu_watts: Amount | Absent = NOT_STATED
    psu_efficiency: Annotated[float, msgspec.Meta(gt=0.5, le=1)] | Absent = NOT_STATED
    host_memory_gib: Amount | Absent = NOT_STATED

    def profile(self, its_id: str) -> GpuProfile:
        shared = set(self.__struct_fields__) & set(GpuProfile.__struct_fields__) - {"memory_gib", "p2p_over_pcie"}
        return GpuProfile(
            id=its_id,
            names=(self.name or its_id,),
            architecture="not stated",
            memory_gib=(self.memory_gib,),
            p2p_over_pcie="yes (as its file says)" if self.p2p_over_pcie else "no (as its file says)",
            launch_price_usd=self.price_usd,
            launch_price_kind="" if isinstance(self.price_usd, Absent) else "as its file says",
            peak_basis="as its file says",
            **{name: getattr(self, name) for name in shared},
        )


# Bytes per second and lane of PCIe, by generation, after its line code.
PCIE_LANE_BYTES_PER_S = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
OWN_CARDS: dict[str, GpuProfile] = {}  # those that a FILE.toml named in this process, by id
OWN_FILES: dict[str, Path] = {}  # and those files


class RigProfile(Profile, frozen=True, kw_only=True):
    """A machine that one may not have: `count` cards of a GPU profile, and the host around them.

    `host_watts` is everything but the GPUs, behind the power supply; each figure says what it rests on: a source, or
    "assumption".
    """

    name: Text
    about: Text
    gpu: Text
    count: Annotated[int, msgspec.Meta(gt=0, le=1024)] = 1
    host_watts: Amount | Absent = NOT_STATED
    host_watts_basis: str = ""
    psu_watts: Amount | Absent = NOT_STATED
    psu_watts_basis: str = ""
    psu_efficiency: Annotated[float, msgspec.Meta(gt=0.5, le=1)] | Absent = NOT_STATED
    psu_efficiency_basis: str = ""
    host_memory_gib: Amount | Absent = NOT_STATED
    host_memory_basis: str = ""
    slot_bytes_per_s: Amount | Absent = NOT_STATED  # one way, of the narrowest; else the whole link is assumed
    slot_basis: str = ""
    p2p: bool | Absent = NOT_STATED  # whether cards copy to each other directly; else as such cards usually do
    p2p_basis: str = ""
    clock_share: Annotated[float, msgspec.Meta(gt=0, le=1)] | Absent = NOT_STATED  # that heat leaves the slowest card
    heat: str = ""  # what was read of it
    notes: str = ""

    @property
    def slot_by_user(self) -> bool:
        return self.slot_basis.endswith("by --link")

    def __post_init__(self) -> None:
        based = ("host_watts", "psu_watts", "psu_efficiency", "host_memory")
        for name in based:
            value = getattr(self, "host_memory_gib" if name == "host_memory" else name)
            if isinstance(value, Absent) == bool(getattr(self, f"{name}_basis")):
                raise ValueError(f'{self.name}: {name} and {name}_basis go together (a source, or "assumption")')


LINK = re.compile(r"(?:gen([1-6]))?x(1|2|4|8|16)")
WIRED = re.compile(r"(.+)@((?:(?:gen[1-6])?x(?:1|2|4|8|16)|p2p-on|p2p-off)(?:\+p2p-(?:on|off))?)")
RECORDED: dict[str, RigProfile] = {}  # those that --replay named in this process, by the folder's name
RECORDED_IN: dict[str, Path] = {}  # the folders of those


def each(pattern: str, kind: type[File]) -> list[File]:
    """The shipped files that match, as "series/*.toml", then the user's own."""
    return [_read(path, kind) for folder in folders() for path in sorted(folder.glob(pattern))]


def folders() -> list[Path]:
    """The shipped profiles, inside the wheel or beside the package in a source checkout; then the user's."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "_profiles"
    found = [shipped if shipped.is_dir() else package.parent / "profiles"]
    if named := os.environ.get(USER_FOLDER):
        if not (Path(named).is_dir() and os.access(named, os.R_OK | os.X_OK)):
            what = f"{USER_FOLDER}={named} is not a folder that can be read"
            raise RigbenchError(what, "name one that holds a gpus.toml, or unset it")
        found.append(Path(named))
    return found


@functools.cache
def _read(path: Path, kind: type[File]) -> File:
    cure = "mend it there (tables count from 0); the shipped profiles show the form"
    return read_toml(path, kind, f"the profile {path}", "check its permissions", cure)


def read_toml(path: Path, kind: type[File], where: str, unreadable: str, misfit: str) -> File:
    """One file, checked. `where` begins each refusal; `unreadable` and `misfit` are cures."""
    try:
        raw = toml(read_regular(path, LARGEST_FILE_BYTES))
    except OSError as error:
        raise RigbenchError(f"{where}: cannot read it ({reason(error)})", unreadable) from error
    except ValueError as error:
        raise RigbenchError(f"{where} is not TOML: {error}", "mend that line") from error
    try:
        return msgspec.convert(raw, kind)
    except (ValueError, RecursionError) as error:  # msgspec's, and what a number beyond all others is
        raise RigbenchError(f"{where}: {error}", misfit) from error


def gpus() -> tuple[GpuProfile, ...]:
    """Every datasheet; one of the user's replaces a shipped one of the same id."""
    written = [(gpu.id, gpu) for file in each("gpus.toml", GpuFile) for gpu in file.gpu]
    return tuple(by_name([*written, *OWN_CARDS.items()]).values())


def for_sale() -> tuple[GpuProfile, ...]:
    """The cards to suggest where one is too small: no laptop's, and none without bf16."""
    return tuple(it for it in gpus() if "laptop" not in it.id and isinstance(it.bf16_tflop_per_s, float))


def gpu(profile_id: str) -> GpuProfile:
    return one("GPU profile", profile_id, {gpu.id: gpu for gpu in gpus()})


def prices() -> Prices:
    found = each("prices.toml", Prices)
    electricity = by_name((entry.id, entry) for file in found for entry in file.electricity)
    return Prices(electricity=tuple(electricity.values()), cloud=tuple(rent for file in found for rent in file.cloud))


def electricity(place: str | None = None) -> Price | Absent:
    """The price at a place, by id; without one, the default, whose place and date belong beside every amount."""
    entries = {entry.id: entry for entry in prices().electricity}
    if place is None:
        default = next((entry for entry in reversed(entries.values()) if entry.default), None)
        return Absent("no electricity price is marked default in prices.toml") if default is None else _price(default)
    return _price(one("electricity price", place, entries))


def rigs() -> tuple[RigProfile, ...]:
    """Machines by name; one of the user's replaces a shipped one."""
    found = tuple(by_name((rig.name, rig) for rig in each("rigs/*.toml", RigProfile)).values())
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
        return found[0].id if lone else Absent(f"{_ids(found)}: memory would decide, and was not read")
    seen = memory_bytes / GIB
    fitting = [gpu for gpu in found if any(LEAST_VISIBLE <= seen / size <= MOST_VISIBLE for size in gpu.memory_gib)]
    if len(fitting) == 1:
        return fitting[0].id
    if fitting:
        return Absent(f"{_ids(fitting)} have the same name and memory")
    return Absent(f"{_ids(found)} by name or id, but not with {seen:.1f} GiB: a variant; {HOW_TO_ADD}")


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


def flop_per_clock(profile_id: str) -> dict[str, int]:
    """By dtype, what the whole card does a clock: a power of two for each multiprocessor.

    By the datasheet's peak over its multiprocessors and boost clock, rounded to that power, since some peaks are of
    another clock than the boost clock that is published (H100 NVL 0.87 of it, H200 in fp32 1.08); none, where what is
    published fits no power of two.
    """
    its = gpu(profile_id)
    clock, count = its.figure("boost_clock_mhz", 1e6), its.multiprocessors
    if isinstance(clock, Absent) or isinstance(count, Absent):
        return {}
    each = {dtype: figure.value / count / clock.value for dtype, figure in peaks(profile_id).items()}
    powers = {dtype: 2 ** round(math.log2(rate)) for dtype, rate in each.items() if rate >= 1}
    near = {dtype: power for dtype, power in powers.items() if abs(each[dtype] / power - 1) <= OFF_A_POWER_OF_TWO}
    return {dtype: power * count for dtype, power in near.items()}


def memory_bandwidth(profile_id: str) -> Figure | Absent:
    """Bytes per second of the device's own memory."""
    return gpu(profile_id).figure("memory_bandwidth_gb_per_s", 1e9)


def rig_named(text: str, option: str = "--on") -> RigProfile:
    """A rig profile by name, or cards as people name them, "2x" in front for several, or a FILE.toml of one's own card.

    Of mere cards the host is not known: its watts and memory are Absent.
    """
    if text in RECORDED:
        return RECORDED[text]
    if match := WIRED.fullmatch(text.strip()):
        return _wired(rig_named(match[1], option), match[2])
    word = "-".join(text.strip().lower().split())
    named = {rig.name: rig for rig in rigs()}
    if word in named:
        return named[word]
    count, card = _counted(text.strip())
    if not 1 <= count <= MOST_CARDS:
        raise RigbenchError(f"{option} {text[:60]!r} is {count:,} cards", f"give 1 to {MOST_CARDS:,}")
    if card.lower().endswith(".toml"):
        return own_card(Path(card), count, option)
    found = card_names.fitting(card, gpus())
    if len(found) > 1:
        listed = ", ".join(f"{gpu.id} ({' or '.join(f'{size:g}' for size in gpu.memory_gib)} GB)" for gpu in found)
        raise RigbenchError(f"{option} {text[:60]!r} may be any of {len(found)} cards", f"name one: {listed}")
    if not found:
        near = card_names.nearest(card, gpus(), named)
        near = [name if name in named or count == 1 else f"{count}x{name}" for name in near]
        meant = f"did you mean {' or '.join(near)}?" if near else "`rigbench profiles` lists them."
        raise RigbenchError(
            f"no rig or GPU profile {text[:60]!r} for {option}",
            f"{meant} A card of your own is a FILE.toml: `rigbench explain cards`",
        )
    return _of_cards(found[0], count)


def option_of(name: str) -> str:
    """How a command asks about a rig: by --on and its name or its card's file, or by the recording of it that this
    process was given, as no name says its heat and its limits.
    """
    if name in RECORDED_IN:
        return f"--replay {shlex.quote(str(RECORDED_IN[name]))}"
    found = re.fullmatch(r"(\d+x)?([^@]*)(@.*)?", name)
    if found and found[2] in OWN_FILES:
        name = shlex.quote(f"{found[1] or ''}{OWN_FILES[found[2]]}{found[3] or ''}")
    return f"--on {name}"


def wired(rigs: str, link: str | None, p2p: str | None) -> str:
    """ "A,B" with `--link` and `--p2p` said in each name, as rig_named takes it: "A@gen4x8+p2p-off".

    Raises:
        RigbenchError: no such link.
    """
    if link is not None and not LINK.fullmatch(link.lower()):
        raise RigbenchError(f"--link {link[:20]!r} is no link", "write it as x8 or gen4x8")
    if p2p not in (None, "on", "off"):
        raise RigbenchError(f"--p2p {p2p[:20]!r} is not one of them" if p2p else "--p2p is empty", "use on or off")
    said = "+".join([*([link.lower()] if link else []), *([f"p2p-{p2p}"] if p2p else [])])
    return ",".join(f"{name.strip()}@{said}" for name in rigs.split(",") if name.strip())


def _wired(rig: RigProfile, said: str) -> RigProfile:
    rig = msgspec.structs.replace(rig, name=f"{rig.name}@{said}")
    for word in said.split("+"):
        if match := LINK.fullmatch(word):
            generation, lanes = int(match[1] or gpu(rig.gpu).pcie_generation), int(match[2])
            rate = lanes * PCIE_LANE_BYTES_PER_S[generation]
            basis = f"PCIe {generation}.0 x{lanes}, by --link"
            rig = msgspec.structs.replace(rig, slot_bytes_per_s=rate, slot_basis=basis)
        else:
            rig = msgspec.structs.replace(rig, p2p=word == "p2p-on", p2p_basis="by --p2p")
    return rig


def _counted(text: str) -> tuple[int, str]:
    """ "2x 4080 Super", "4080 Super x2": how many, and of what."""
    if match := re.fullmatch(r"(\d{1,9})\s*-?[xX×*]\s*-?(.+)", text):
        count, card = int(match[1]), match[2]
        is_count = re.fullmatch("[0-9]{1,9}", card) and int(card) < count
        return (int(card), match[1]) if is_count else (count, card)  # "4090x2"
    if match := re.fullmatch(r"(.+[\w\s])(?<=[\d\s])[xX×*]\s*(\d{1,4})", text):
        return int(match[2]), match[1].strip()
    return 1, text


def _of_cards(gpu: GpuProfile, count: int) -> RigProfile:
    name = f"{count}x{gpu.id}" if count > 1 else gpu.id
    return RigProfile(name=name, about=f"{count} {gpu.names[0]}", gpu=gpu.id, count=count)


def own_card(path: Path, count: int, option: str = "--on") -> RigProfile:
    """Cards as a FILE.toml describes them, and their host. From then on this process knows the card by the file's name.

    Raises:
        RigbenchError: what is wrong in the file, and which fields there are.
    """
    needed, others = ([it.name for it in msgspec.structs.fields(OwnCard) if it.required == it_is] for it_is in (1, 0))
    fields = f"it needs {', '.join(needed)}, and may have {', '.join(others)} (`rigbench explain cards`)"
    where = f"{option} {path}"
    card = read_toml(path, OwnCard, where, f"give the path of a FILE.toml; {fields}", fields)
    shipped = {gpu.id for gpu in gpus()} - OWN_CARDS.keys()
    its_id = "-".join(re.findall(r"[a-z0-9.]+", path.stem.lower())) or "card"
    gpu = card.profile(f"own-{its_id}" if its_id in shipped else its_id)
    OWN_CARDS[gpu.id], OWN_FILES[gpu.id] = gpu, path
    host = ("host_watts", "psu_watts", "psu_efficiency", "host_memory_gib")
    stated = {name: value for name in host if not isinstance(value := getattr(card, name), Absent)}
    stated |= {f"{name.removesuffix('_gib')}_basis": path.name for name in stated}
    return msgspec.structs.replace(_of_cards(gpu, count), **stated)


def _price(entry: Electricity) -> Price:
    grams = entry.carbon_g_per_kwh
    carbon = (
        NO_CARBON
        if isinstance(grams, Absent)
        else Carbon(grams, entry.place.partition(",")[0], entry.carbon_date, entry.carbon_source)
    )
    return Price(entry.per_kwh, entry.currency, entry.place, entry.date, entry.source, carbon)


def _ids(found: Sequence[GpuProfile]) -> str:
    return " or ".join(gpu.id for gpu in found)


def by_name(pairs: Iterable[tuple[str, Entry]]) -> dict[str, Entry]:
    """The last one of a name counts: the user's after the shipped one."""
    return dict(pairs)


def one(kind: str, name: str, entries: Mapping[str, Entry]) -> Entry:
    if name not in entries:
        listed = f"there are {', '.join(entries)}" if len(entries) < 15 else "`rigbench profiles` lists them"
        raise RigbenchError(f"no {kind} {name!r}", listed)
    return entries[name]
