"""Runs rigbench's own command line with the plan of `run` made small: a tenth of the seconds, two models of 64 tokens.

python tests/fakecuda/small_run.py run --quick
"""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from rigbench import __main__
from rigbench.budget import training
from rigbench.everything import plan
from rigbench.model import shape

SHARE, SEQUENCE, MODELS = 0.1, 64, 2
LIMIT_SECONDS = 600.0  # of a try of P2P, whose sizes stay as they are


def shortened(options: Any) -> Any:
    """These options, with a tenth of the seconds where the plan gives any."""

    def made(**words: Any) -> Any:
        seconds = words.get("seconds")
        return options(**words | ({"seconds": SHARE * seconds} if isinstance(seconds, float) else {}))

    return made


def small(series: Any) -> Any:
    """The function that gives a series by its name, with its smallest models alone, of a short sequence."""

    def of(name: str) -> Any:
        whole = series(name)
        models = [
            msgspec.structs.replace(model, shape=msgspec.structs.replace(model.shape, sequence=SEQUENCE))
            for model in whole.models[:MODELS]
        ]
        return msgspec.structs.replace(whole, models=tuple(models))

    return of


for name in ("BandwidthOptions", "CollectivesOptions", "MatmulOptions", "DataloaderOptions", "SoakOptions"):
    setattr(plan, name, shortened(getattr(plan, name)))
training.QUICK_SECONDS = tuple(SHARE * seconds for seconds in training.QUICK_SECONDS)
training.ALONE_SECONDS *= SHARE
plan.P2pOptions = partial(plan.P2pOptions, limit_seconds=LIMIT_SECONDS)
shape.series = small(shape.series)
__main__.main()
