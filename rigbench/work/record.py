"""What the machine does beside a piece of work: what its parts draw, what is declared and billed; what disturbed it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from rigbench.core import profiles
from rigbench.core.errors import RigbenchError
from rigbench.core.options import NOT_GIVEN, Option, Reader, number
from rigbench.core.profiles import RigProfile
from rigbench.core.record import Absent, Figure, Record

DrawName = Literal["GPUs", "other GPUs", "CPU package"]
NOT_WATCHED = Absent("not watched")
NO_RATING = Absent("the power supply's rating is not known; give --set psu-watts=W")
# 80 PLUS Gold asks for 0.90 at half load (0.87 at full, 115 V): sensors read behind the supply, the meter before it.
ASSUMED_EFFICIENCY = Figure(value=0.90, source="predicted", basis="assumed: 80 PLUS Gold at half load, 115 V")


class LoadOptions(Record, frozen=True):
    seconds: float = 30.0  # it is ended sooner, once the driver was read


class CopyLoad(Record, frozen=True):
    devices: int  # that were kept busy
    seconds: float


class WattOptions(Record, frozen=True, kw_only=True):
    """What is declared of the machine's watts. What is not is the rig profile's, where one is named."""

    panel: ClassVar = "Power and price"

    wall_watts: Annotated[
        float | Absent,
        Option(
            number(0.1, 1e6),
            "The whole machine's watts at the wall while training, declared by you.",
            "W",
            rivals=(
                "on",
                "host-watts",
            ),
        ),
    ] = NOT_GIVEN
    host_watts: Annotated[
        float | Absent,
        Option(
            number(0.1, 1e6),
            "Watts of everything but the GPUs, added to the GPU watts measured.",
            "W",
            setting=True,
            rivals=(
                "on",
                "wall-watts",
            ),
        ),
    ] = NOT_GIVEN
    psu_watts: Annotated[
        float | Absent,
        Option(
            number(0.1, 1e6),
            "The power supply's rating, to show how much of it is used at the peak.",
            "W",
            setting=True,
            rivals=("on",),
        ),
    ] = NOT_GIVEN
    psu_efficiency: Annotated[
        float | Absent,
        Option(
            number(0.5, 1.0),
            "The power supply's efficiency, as 0.92. Default: 0.90, assumed.",
            "SHARE",
            setting=True,
            rivals=("on",),
        ),
    ] = NOT_GIVEN
    rig_profile: Annotated[
        RigProfile | Absent,
        Option(
            Reader(
                profiles.rig_named, lambda profile: str(profile.name), lambda: [rig.name for rig in profiles.rigs()]
            ),
            "Take host watts and power supply from a rig profile, where not declared.",
            "NAME",
            setting=True,
            rivals=("on",),
        ),
    ] = NOT_GIVEN

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.wall_watts, Absent) and not isinstance(self.host_watts, Absent):
            raise RigbenchError("--wall-watts covers the host already", "give --wall-watts or host-watts, not both")

    @property
    def host(self) -> Figure | Absent:
        """Everything but the GPUs, the CPU included, behind the power supply."""
        return self._figure("host_watts")

    @property
    def supply(self) -> Figure | Absent:
        return self._figure("psu_watts")

    @property
    def efficiency(self) -> Figure:
        stated = self._figure("psu_efficiency")
        return ASSUMED_EFFICIENCY if isinstance(stated, Absent) else stated

    def _figure(self, name: str) -> Figure | Absent:
        value, profile = getattr(self, name), self.rig_profile
        if not isinstance(value, Absent):
            return Figure(value, "declared", name.replace("_", "-"))
        stated = profile if isinstance(profile, Absent) else getattr(profile, name)
        if isinstance(stated, Absent):
            return stated
        assert isinstance(profile, RigProfile)
        basis = f"rig profile {profile.name}, {getattr(profile, name + '_basis')}"
        return Figure(float(stated), "declared", basis)


NOTHING_DECLARED = WattOptions()


class Draw(Record, frozen=True):
    """One part's mean watts over the steady window, as its sensors tell, or why they do not.

    "GPUs" did the work, "other GPUs" stand in the same machine. `method` is Energy's.
    """

    name: DrawName
    watts: float | Absent
    method: Literal["counter", "integrated"] | Absent


class PowerPart(Record, frozen=True):
    """One part of the watts at the wall; its figure says whether it is read, declared or worked out, and from what."""

    name: str
    watts: Figure


class PsuHeadroom(Record, frozen=True):
    """The highest sampled draw behind the power supply as a share of its rating."""

    rating_watts: Figure
    peak_watts: Figure
    share: float


class Power(Record, frozen=True):
    """The watts that the kWh rest on, and what they cover."""

    watts: Figure
    covers: Literal["wall", "GPUs only", "CPU package only"]
    split: tuple[PowerPart, ...] = ()  # adds up to the wall's watts, where they were put together or taken apart
    psu: PsuHeadroom | Absent = NO_RATING
    warnings: tuple[str, ...] = ()  # where what is read contradicts what is declared


class GpuBeside(Record, frozen=True, kw_only=True):
    """What one GPU did beside a probe that was not the probe's."""

    device: str
    others: tuple[str, ...] = ()  # processes of others that computed on it, or held it
    others_share: float | Absent = Absent("the driver lists no other process")  # of its time, what they kept it busy
    before_share: float | Absent = Absent("not read")  # how busy it was before the probe touched it
    throttle_share: dict[str, float] = {}  # noqa: RUF012, msgspec copies it; the share of ticks by decoded reason


class Disturbance(Record, frozen=True, kw_only=True):
    """What else the machine did while a probe ran: raw figures, from its first word on, of all its processes' threads.

    `evidence` is the verdict on them: a sentence for each thing that disturbed it, none where it was left alone.
    """

    room: str  # of the document
    place: int = 0  # in that room: of a slice its number, of a bandwidth part or a P2P variant its own
    attempt: int = 1
    kept: bool = True  # whether the room holds this attempt
    evidence: tuple[str, ...] = ()
    wall_seconds: float = 0.0
    running_seconds: float | Absent = NOT_WATCHED  # summed over threads, also those that ended
    waiting_seconds: float | Absent = NOT_WATCHED  # runnable, and no processor for them
    others_seconds: float | Absent = NOT_WATCHED  # processor time of all other processes of the machine
    busy_seconds: float | Absent = NOT_WATCHED  # processor time of all processes
    stolen_seconds: float | Absent = NOT_WATCHED  # withheld by the hypervisor
    paused_seconds: float | Absent = NOT_WATCHED  # stopped by a signal, or frozen
    gpus: tuple[GpuBeside, ...] = ()

    @property
    def lost_seconds(self) -> float | Absent:
        """A wait counts as far as others ran meanwhile: threads of a probe that start more of them than there are
        processors wait for each other."""
        waiting, others = self.waiting_seconds, self.others_seconds
        return waiting if isinstance(waiting, Absent) or isinstance(others, Absent) else min(waiting, others)

    @property
    def lost_share(self) -> float | Absent:
        """Of its threads' running plus waiting."""
        lost, running, waiting = self.lost_seconds, self.running_seconds, self.waiting_seconds
        if isinstance(lost, Absent) or isinstance(running, Absent) or isinstance(waiting, Absent):
            return NOT_WATCHED
        return lost / (running + waiting) if running + waiting > 0 else NOT_WATCHED
