"""A watched training: what is asked, what was seen of its steps, when it will end, what the machine did."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.finding import Finding, Severity
from rigbench.core.options import NOT_GIVEN, TEXT, Option, Reader, seconds, whole
from rigbench.core.record import Absent, Figure, Record
from rigbench.monitor.record import Monitor

METHOD = 1
UNTIL_IT_ENDS = Absent("until it ends")
NO_STEPS = Absent("no step was seen")
EndedBy = Literal["itself", "--steps", "--for", "--until-steady", "the user", "a signal"]


class Options(Record, frozen=True, kw_only=True):
    steps: Annotated[
        int | Absent, Option(whole(1, 10**9), "End it after so many of its steps, by SIGINT, then SIGTERM.", "N")
    ] = UNTIL_IT_ENDS
    for_seconds: Annotated[
        float | Absent, Option(seconds(1.0), "End it after so long, as 90 or 5m.", "T", ("--for",))
    ] = UNTIL_IT_ENDS
    until_steady: Annotated[bool, Option(None, "End it when its rate is known to ±2 %.")] = False
    tokens: Annotated[
        float | Absent,
        Option(
            Reader(units.parse_count), "Tokens it will have trained at its end, where its output does not say.", "N"
        ),
    ] = NOT_GIVEN
    tokens_per_step: Annotated[
        float | Absent,
        Option(Reader(units.parse_count), "Tokens of one optimizer step, of all GPUs, where it does not say.", "N"),
    ] = NOT_GIVEN
    budget: Annotated[str | Absent, Option(TEXT, "A stored budget that it should keep to.", "RUN")] = NOT_GIVEN
    foot: Annotated[
        Literal["on", "off"], Option(None, "A line at the terminal's foot while it runs.", names=("--panel",))
    ] = "on"


class SeenSteps(Record, frozen=True, kw_only=True):
    """What was seen of a training's steps. Columns are equally long; what was too much was thinned evenly."""

    source: str
    said: tuple[str, ...]
    unit: Literal["tokens", "steps"]
    at_seconds: tuple[float, ...]  # since the start, when each row's step was done
    step: tuple[int, ...]
    rate: Estimate | Absent  # units a second, steady: without its start, pauses and evaluations
    step_seconds: Estimate | Absent  # a step's share of the wall's time, pauses and evaluations in it
    total_steps: int | Absent
    tokens_per_step: float | Absent
    loss_broke: str | Absent = Absent("no loss was seen that is no number")


class Forecast(Record, frozen=True, kw_only=True):
    """When it will end, as told at one moment."""

    told_after_seconds: float
    done_share: float
    rest_seconds: Estimate
    whole_seconds: Estimate
    kwh: Figure | Absent  # of the GPUs, the whole
    money: Figure | Absent
    currency: str = ""


class Own(Record, frozen=True, kw_only=True):
    """What watching cost, measured on itself."""

    cpu_seconds: float  # rigbench's own, the relay's and the driver's child's, from the command's start on
    start_cpu_seconds: float  # until then: loading rigbench
    wall_seconds: float
    hook_seconds_per_step: float | Absent = Absent("the hook was not called")

    @property
    def core_share(self) -> float:
        return self.cpu_seconds / self.wall_seconds if self.wall_seconds > 0 else 0.0


class Told(Record, frozen=True, kw_only=True):
    """An alarm, and when it was raised."""

    code: str
    severity: Severity
    where: str
    text: str
    after_seconds: float


class Beside(Record, frozen=True, kw_only=True):
    """What the kernel's log or NCCL wrote while it ran; seconds are since the start, and up to a reading late."""

    source: Literal["kernel", "NCCL"]
    severity: Severity
    text: str
    count: int
    first_seconds: float
    last_seconds: float


class Training(Record, frozen=True, kw_only=True):
    method: int
    command: tuple[str, ...]
    started_at: str
    seconds: float
    exit_code: int  # the command's, 128 + N for signal N
    ended_by: EndedBy
    steps: SeenSteps | Absent
    forecasts: tuple[Forecast, ...]  # the first that was sure enough, then at every tenth of the way
    model_flops_share: Figure | Absent  # of the GPUs' published peak
    gpus: tuple[str, ...] = ()  # those it was seen on, as in `monitor`
    planned: str = ""  # the budget it was held against, and how it stood at the end
    monitor: Monitor
    findings: tuple[Finding, ...]  # the most costly first
    alarms: tuple[Told, ...] = ()
    beside: tuple[Beside, ...] = ()
    own: Own
    lost_output: bool = False
    left_behind: bool = False  # something that it started went on writing after its end, unwatched


def program(command: Sequence[str]) -> str:
    """What of a command tells one training from another: its script or module, else its first word."""
    for before, word in zip(("", *command), command, strict=False):
        if before == "-m" and word != "torch.distributed.run":
            return word
        if word.endswith((".py", ".sh", ".sbatch")) and not word.startswith("-"):
            return posixpath.basename(word)
    return posixpath.basename(command[0]) if command else ""


class View(NamedTuple):
    """What the panel shows."""

    seconds: float
    unit: str
    rate: Estimate | Absent
    step: int | None
    total_steps: int | None
    forecast: Forecast | None
    model_flops_share: Figure | Absent
    monitor: Monitor
    gpus: tuple[str, ...]
    stalled_seconds: float | None
    planned: str
