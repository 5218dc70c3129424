"""The options of a whole run."""

from __future__ import annotations

from typing import Annotated

from rigbench.budget.record import FLOP, HOURS
from rigbench.core.options import LABEL, NOT_GIVEN, TEXT, Option, Reader
from rigbench.core.record import Absent, Device, Record

STAGES = Reader(
    lambda text, option: tuple(word.strip() for word in text.split(",") if word.strip()),
    words=lambda: ("topology", "bandwidth", "p2p", "collectives", "matmul", "training", "dataloader", "thermals"),
)


class Options(Record, frozen=True, kw_only=True):
    quick: Annotated[
        bool,
        Option(None, "Under 5 minutes on 2 CPU cores: three sizes, shorter probes, no heat test.", names=("--quick",)),
    ] = False
    flops: Annotated[float, Option(FLOP, "The compute budget in FLOP, as 1.2e18 or 1.2EFLOP.", "C")] = 1.2e18
    hours: Annotated[float | Absent, Option(HOURS, "What you were told that this takes: it is checked.", "T")] = (
        NOT_GIVEN
    )
    series: Annotated[str, Option(TEXT, "The series of models: diy (GPT-2 style) or llama.", "NAME")] = "diy"
    only: Annotated[tuple[str, ...], Option(STAGES, "These stages alone, as matmul,training.", "A,B")] = ()
    skip: Annotated[tuple[str, ...], Option(STAGES, "Not these stages.", "A,B")] = ()
    resume: Annotated[bool, Option(None, "Go on with the newest run that was killed or interrupted.")] = False
    label: Annotated[str | Absent, Option(LABEL, "Keep it under a label, for `rigbench compare`.", "NAME")] = NOT_GIVEN


class OpenOptions(Record, frozen=True):
    device: str


class Opened(Record, frozen=True):
    """What a run's probes will find."""

    devices: tuple[Device, ...]
