"""Runs rigbench's own command line with the plan of `run` made small: a tenth of the seconds (three tenths of those of
slices), two models of 64 tokens that know 512, and of P2P the same checks of fewer bytes.

python tests/fakecuda/small_run.py run --quick
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import msgspec

from rigbench.model import shape

SHARE, OF_SLICES, SEQUENCE, VOCABULARY, MODELS = 0.1, 0.3, 64, 512, 2
P2P_BYTES, P2P_ROUNDS, P2P_SECONDS = 1 << 20, 2, 600.0


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
        sizes = {"sequence": SEQUENCE, "vocabulary": VOCABULARY}
        models = [
            msgspec.structs.replace(model, shape=msgspec.structs.replace(model.shape, **sizes))
            for model in whole.models[:MODELS]
        ]
        return msgspec.structs.replace(whole, models=tuple(models))

    return of


shape.series = small(shape.series)  # before anything takes it by name
plan, p2p, training = map(
    importlib.import_module, ("rigbench.everything.plan", "rigbench.p2p.command", "rigbench.budget.training")
)
for name in ("BandwidthOptions", "CollectivesOptions", "MatmulOptions", "DataloaderOptions", "SoakOptions"):
    setattr(plan, name, shortened(getattr(plan, name)))
training.QUICK_SECONDS = tuple(OF_SLICES * seconds for seconds in training.QUICK_SECONDS)
training.ALONE_SECONDS *= OF_SLICES
plan.P2pOptions = partial(plan.P2pOptions, limit_seconds=P2P_SECONDS)
p2p.ArmOptions = partial(
    p2p.ArmOptions,
    rounds=P2P_ROUNDS,
    write_sizes=(8, 4096, P2P_BYTES),
    reduce_sizes=(4, P2P_BYTES),
    copy_bytes=P2P_BYTES,
    row_seconds=0.4 * SHARE,
)
importlib.import_module("rigbench.__main__").main()
