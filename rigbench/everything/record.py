"""The options of a whole run."""

from __future__ import annotations

from typing import Annotated

from rigbench.budget.record import FLOP
from rigbench.core.options import TEXT, Option
from rigbench.core.record import Record


class Options(Record, frozen=True, kw_only=True):
    quick: Annotated[
        bool,
        Option(None, "Under 5 minutes on 2 CPU cores: three sizes, shorter probes, no heat test.", names=("--quick",)),
    ] = False
    flops: Annotated[float, Option(FLOP, "The compute budget in FLOP, as 1.2e18 or 1.2EFLOP.", "C")] = 1.2e18
    series: Annotated[str, Option(TEXT, "The series of models: diy (GPT-2 style) or llama.", "NAME")] = "diy"
