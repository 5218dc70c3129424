"""What is known of a rig and of a model's training on it? Plain values, wherever they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rigbench.backtest.record import Coverage
from rigbench.backtest.verdict import corrected
from rigbench.budget.comparable import Chosen, StoredSlice
from rigbench.budget.money import NO_PURCHASE, NO_RENT, RentPrice, RigPrice
from rigbench.budget.rates import rate
from rigbench.budget.record import Configuration, NextSlice, Rate
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure
from rigbench.model.record import Model
from rigbench.train.record import Compile
from rigbench.work.record import Power

HOUR = 3600.0
Ends = tuple[float, float, float]  # middle, low, high
# Slices last minutes; a case takes half an hour to warm through, and clocks fall meanwhile. Assumed where not measured.
HOT_ASSUMED = (0.0, 0.0, 0.05)
HOT_WORDS = "not measured: 0 to 5 % more is assumed (`rigbench thermals` measures it, or --hot-over-cold)"


@dataclass(frozen=True)
class Forecast:
    """One model on one rig. Seconds None: not known, to be assumed."""

    model: Model
    rate: Rate
    tokens_per_step: int
    batch: str
    optimizer: str
    compiled: bool
    compile_seconds: float | None = None
    startup_seconds: float | None = None

    @property
    def hours_per_token(self) -> Ends:
        its = self.rate.tokens_per_s
        return 1 / its.value / HOUR, 1 / its.high / HOUR, 1 / its.low / HOUR


@dataclass(frozen=True)
class Known:
    """What else is known of a rig, beside slices. `hot_extra` is the share of more hours once hot: middle, low, high.

    `peak_flops_per_s` is the datasheet's, of all cards that train, in the precision that they train in.
    """

    peak_flops_per_s: Figure | Absent
    hot_extra: Ends = HOT_ASSUMED
    hot_basis: str = HOT_WORDS
    rent: RentPrice | Absent = NO_RENT
    purchase: RigPrice | Absent = NO_PURCHASE
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    next_slice: NextSlice | None = None


NOTHING_KNOWN = Known(Absent("no datasheet of this device"))


@dataclass(frozen=True)
class Machine:
    """One rig. `name` empty: this one."""

    configuration: Configuration
    cards: int
    card: str
    power: Power | Absent
    name: str = ""
    left_out: tuple[str, ...] = ()
    known: Known = NOTHING_KNOWN

    def declared_hot(self, ratio: float) -> Machine:
        """With hot over cold throughput as the user says."""
        extra = 1 / ratio - 1
        basis = f"hot over cold {ratio:g} (--hot-over-cold)"
        return replace(self, known=replace(self.known, hot_extra=(extra, extra, extra), hot_basis=basis))


def from_slices(
    models: Sequence[Model],
    chosen: Chosen,
    history: Coverage | None,
    better: Mapping[str, Rate],
    batch_tokens: int | None,
) -> tuple[Forecast, ...]:
    """Each model from this rig's slices: measured, else as `better` has it where that is surer, else interpolated.

    Raises:
        RigbenchError: every measured size is too far from one of the models; exit 3.
    """
    return tuple(_from_slices(model, chosen, history, better.get(model.name), batch_tokens) for model in models)


def hot(ratio: Estimate, basis: str) -> tuple[Ends, str]:
    """A rig's `hot_extra` and `hot_basis` from hot over cold throughput."""
    ends = (1 / max(end, 0.01) - 1 for end in (ratio.value, ratio.high, ratio.low))
    value, low, high = (max(0.0, end) for end in ends)
    return (value, low, high), f"hot over cold {ratio.value:.3f}, {basis}"


def _from_slices(
    model: Model, chosen: Chosen, history: Coverage | None, better: Rate | None, batch_tokens: int | None
) -> Forecast:
    its = _surer(model, chosen, better)
    its = corrected(its, history) if history else its
    own = [stored for stored in chosen.slices if stored.slice.model.shape == model.shape]
    like = own or [_nearest(model, chosen.slices)]
    tokens = like[0].slice.tokens_per_step
    words = f"{tokens:,} tokens, as the slices had"
    if batch_tokens is not None:
        tokens, words = batch_tokens, f"{batch_tokens:,} tokens (--batch-tokens; the rate is of {tokens:,})"
    compiles = [stored.slice.compile.cold_seconds for stored in like if isinstance(stored.slice.compile, Compile)]
    starts = [_startup(stored) for stored in like]
    return Forecast(
        model=model,
        rate=its,
        tokens_per_step=tokens,
        batch=words,
        optimizer=chosen.configuration.optimizer,
        compiled=chosen.configuration.compiled,
        compile_seconds=math.fsum(compiles) / len(compiles) if compiles else None,
        startup_seconds=math.fsum(starts) / len(starts),
    )


def _surer(model: Model, chosen: Chosen, better: Rate | None) -> Rate:
    """A measured rate stands; the step's model counts where it is surer than interpolation and agrees with it."""
    try:
        its = rate(model, chosen)
    except RigbenchError:
        if better is None:
            raise
        return better
    if its.source == "measured" or better is None:
        return its
    agrees = its.tokens_per_s.low <= better.tokens_per_s.value <= its.tokens_per_s.high
    return better if agrees and _half_width(better) < _half_width(its) else its


def _half_width(its: Rate) -> float:
    """In logarithms, brought to 95 %."""
    estimate = its.tokens_per_s
    at_95 = 1.0 if estimate.level >= 0.95 else 1.96 / 1.645
    return at_95 * math.log(estimate.high / estimate.low) / 2


def _nearest(model: Model, slices: Sequence[StoredSlice]) -> StoredSlice:
    return min(slices, key=lambda stored: abs(math.log(stored.slice.model.flop_per_token / model.flop_per_token)))


def _startup(stored: StoredSlice) -> float:
    """Seconds before the first step, and what the steps before the steady window took beyond steady ones."""
    its = stored.slice
    before = its.steps.seconds[: its.steady_from]
    compiling = its.compile.cold_seconds if isinstance(its.compile, Compile) else 0.0
    return its.setup_seconds + max(0.0, math.fsum(before) - len(before) * its.step_seconds.value - compiling)
