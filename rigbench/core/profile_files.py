"""How are profile files found, read and checked?"""

from __future__ import annotations

import functools
import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, Figure
from rigbench.model.record import Shape

USER_FOLDER = "RIGBENCH_PROFILES"
NOT_STATED = Absent("not stated")
LARGEST = 1e15  # TOML writes infinities; a datasheet does not

Count = Annotated[int, msgspec.Meta(gt=0, lt=int(LARGEST))]
Amount = Annotated[float, msgspec.Meta(gt=0, lt=LARGEST)]
AmountOrZero = Annotated[float, msgspec.Meta(ge=0, lt=LARGEST)]
PciId = Annotated[str, msgspec.Meta(pattern="^[0-9A-F]{4}$")]
Currency = Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
Text = Annotated[str, msgspec.Meta(min_length=1)]
File = TypeVar("File", bound="Profile")


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what a profile file may hold: a misspelt key is an error."""


class GpuProfile(Profile, frozen=True, kw_only=True):
    """A datasheet. Figures are published unless listed in `derived` or `weak`; weak ones are never used.

    Rates are dense; bf16, fp16, tf32 and fp8 accumulate in fp32. `memory_gib` are the sizes that share these figures.
    """

    id: Text
    names: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]
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


class SeriesModel(Profile, frozen=True):
    """One size of a series, or one published model with its authors' own total.

    `also` are other names it goes by. The shape's own count may lie `published_within` (a share) of that total.
    """

    name: Text
    shape: Shape
    published_parameters: int | Absent
    also: tuple[str, ...] = ()
    published_within: float = 0.0


class Series(Profile, frozen=True):
    """Models that differ in size alone."""

    name: Text
    about: Text
    source: Text
    models: tuple[SeriesModel, ...]


class Electricity(Profile, frozen=True, kw_only=True):
    id: Text
    default: bool = False
    per_kwh: Amount
    currency: Currency
    place: Text
    date: Text
    source: Text
    notes: str = ""


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


class Common(Profile, frozen=True):
    style: Literal["gpt2", "neox", "llama"]
    vocabulary: Count
    sequence: Count
    tied_head: bool
    biases: bool


class Size(Profile, frozen=True, kw_only=True):
    name: Text
    layers: Count
    width: Count
    heads: Count
    kv_heads: Count | None = None
    ffn_width: Count | None = None
    vocabulary: Count | None = None
    published_parameters: Count | Absent = NOT_STATED
    also: tuple[Text, ...] = ()


class SeriesFile(Profile, frozen=True):
    """A series as written: what its models share, and a line a model."""

    name: Text
    about: Text
    source: Text
    shape: Common
    models: Annotated[tuple[Size, ...], msgspec.Meta(min_length=1)]
    published_within: Annotated[float, msgspec.Meta(ge=0, lt=0.5)] = 0.0

    def __post_init__(self) -> None:
        for size in self.models:
            if size.width % size.heads or size.heads % (size.kv_heads or size.heads):
                raise ValueError(f"{size.name}: heads must divide the width, and kv_heads the heads")
            if self.shape.style == "llama" and size.ffn_width is None:
                raise ValueError(f"{size.name}: a llama's ffn_width must be stated")

    def series(self) -> Series:
        models = tuple(
            SeriesModel(size.name, self._shape(size), size.published_parameters, size.also, self.published_within)
            for size in self.models
        )
        return Series(name=self.name, about=self.about, source=self.source, models=models)

    def _shape(self, size: Size) -> Shape:
        return Shape(
            style=self.shape.style,
            layers=size.layers,
            width=size.width,
            heads=size.heads,
            kv_heads=size.kv_heads or size.heads,
            ffn_width=size.ffn_width or 4 * size.width,
            vocabulary=size.vocabulary or self.shape.vocabulary,
            sequence=self.shape.sequence,
            tied_head=self.shape.tied_head,
            biases=self.shape.biases,
        )


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

    def __post_init__(self) -> None:
        based = ("host_watts", "psu_watts", "psu_efficiency", "host_memory")
        for name in based:
            value = getattr(self, "host_memory_gib" if name == "host_memory" else name)
            if isinstance(value, Absent) == bool(getattr(self, f"{name}_basis")):
                raise ValueError(f'{self.name}: {name} and {name}_basis go together (a source, or "assumption")')


class ModelsFile(Profile, frozen=True):
    family: tuple[SeriesFile, ...] = ()


def each(name: str, kind: type[File]) -> list[File]:
    """The shipped file of that name, then the user's own."""
    return [read(folder / name, kind) for folder in folders() if (folder / name).exists()]


def each_series() -> list[SeriesFile]:
    paths = (path for folder in folders() for path in sorted((folder / "series").glob("*.toml")))
    return [read(path, SeriesFile) for path in paths]


def each_rig() -> list[RigProfile]:
    """The shipped rigs, then the user's own."""
    paths = (path for folder in folders() for path in sorted((folder / "rigs").glob("*.toml")))
    return [read(path, RigProfile) for path in paths]


def folders() -> list[Path]:
    """The shipped profiles, inside the wheel or beside the package in a source checkout; then the user's.

    Raises:
        RigbenchError: the folder that the user named is none.
    """
    package = Path(__file__).resolve().parents[1]
    shipped = package / "_profiles"
    found = [shipped if shipped.is_dir() else package.parent / "profiles"]
    if named := os.environ.get(USER_FOLDER):
        if not Path(named).is_dir():
            raise RigbenchError(
                f"{USER_FOLDER}={named} is not a folder", "name one that holds a gpus.toml, or unset it"
            )
        found.append(Path(named))
    return found


@functools.cache
def read(path: Path, kind: type[File]) -> File:
    """One file, checked.

    Raises:
        RigbenchError: it cannot be read, is not TOML, or does not say what such a file should.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RigbenchError(f"cannot read the profile {path} ({error.strerror})", "check its permissions") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RigbenchError(f"the profile {path} is not TOML: {error}", "mend that line") from error
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        cure = "mend it there (tables count from 0); the shipped profiles show the form"
        raise RigbenchError(f"the profile {path}: {error}", cure) from error
