"""Chooses the stored slices of a rig that may stand in one projection, and says why others were left out."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from rigbench.budget.record import Configuration
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, Device
from rigbench.machine.cuda_map import Cards
from rigbench.model.recipe import Recipe, RecipeOptions, Strategy
from rigbench.model.record import Model
from rigbench.train.record import FEWEST_STEPS, Slice, StoredSlice

MOST_LINES = 8
ANY_RECIPE = RecipeOptions()
ANY = Absent("any")  # what tells one card of a kind from another


class Wanted(NamedTuple):
    """How a full run trains on this rig; no cards: on a CPU, or on GPUs that the driver does not tell of."""

    cards: Cards = Cards()
    strategy: Strategy = "single"

    @property
    def ranks(self) -> int:
        return max(1, len(self.cards.gpus))

    def option(self, strategy: Strategy) -> str:
        """What a command must say to train so: all alike cards train together by themselves, a single one alone."""
        return f" --strategy {strategy}" if strategy != "single" or self.cards.hidden else ""

    @property
    def remark(self) -> str:
        """Which of the rig's cards are not counted, and why."""
        cards = self.cards
        if not cards.gpus or not cards.hidden:
            return ""
        return f"{one_of_cards(len(cards.gpus), len(cards.gpus) + len(cards.hidden))}: {cards.why}"

    def fits(self, device: Device, ranks: int) -> bool:
        """Whether a slice of so many of such cards is one of what a full run would be."""
        names = [gpu.name for gpu in self.cards.gpus]
        return not names or (device.kind == "cuda" and device.name in names and ranks == len(names))

    def on_one(self, why: str) -> Wanted:
        """One card of several, since all together did not train."""
        first = self.cards.first
        return Wanted(first._replace(why="; ".join(filter(None, (self.cards.why, why)))))


ANYHOW = Wanted()


def one_of_cards(count: int, of: int) -> str:
    return f"{'one' if count == 1 else count} of {of} cards"


class Chosen(NamedTuple):
    """The slices of one configuration, and a line for each kind of slice that was left out."""

    configuration: Configuration
    slices: tuple[StoredSlice, ...]
    left_out: tuple[str, ...]
    its: Wanted = ANYHOW

    def nearest(self, model: Model) -> StoredSlice:
        """The slice nearest in size."""

        def away(stored: StoredSlice) -> float:
            return abs(math.log(stored.slice.model.flop_per_token / model.flop_per_token))

        return min(self.slices, key=away)


def choose(
    models: Sequence[Model],
    measured: Sequence[StoredSlice],
    recipe: RecipeOptions = ANY_RECIPE,
    method: int | None = None,
    its: Wanted | None = None,
) -> Chosen:
    """The configuration whose slices cover most of these models, and its usable slices.

    A GPU goes before the CPU, which nobody with a GPU trains on, and as many cards as a full run would use (`its`)
    before fewer; of equals the one with the latest slice is taken.
    Configurations are never mixed: a model measured only in another one is predicted, and the line left out says so.
    `method` is the way of measuring that counts; None: the newest that is stored.

    Raises:
        RigbenchError: no stored slice can be used; exit 3.
    """
    left_out: Counter[str] = Counter()
    groups: dict[Configuration, list[StoredSlice]] = defaultdict(list)
    method = method or max((stored.slice.method for stored in measured), default=0)
    for stored in measured:
        reason = _unusable(stored, method, models, recipe)
        if reason:
            left_out[f"{_names([stored])}: {reason}"] += 1
        else:
            configuration = configuration_of(stored.slice)
            device = msgspec.structs.replace(configuration.device, uuid=ANY, memory_total_bytes=ANY)
            groups[msgspec.structs.replace(configuration, device=device)].append(stored)
    if not groups:
        why = f" can be used ({_lines(left_out)[0]})" if left_out else " is stored"
        middle = sorted(models, key=lambda model: model.flop_per_token)[len(models) // 2]  # within reach of both ends
        cure = f"run {trains(middle, its or ANYHOW)}"
        raise RigbenchError(f"no short training run of this rig{why}", cure, exit_code=NOTHING)

    def preference(group: Sequence[StoredSlice]) -> tuple[bool, bool, bool, int, str]:
        covered = {stored.slice.model.shape for stored in group} & {model.shape for model in models}
        one = group[0].slice
        fits = its is None or its.fits(one.device, one.cards)
        usual = its is None or one.recipe.strategy == its.strategy
        return one.device.kind != "cpu", fits, usual, len(covered), max(stored.slice.started_at for stored in group)

    best = max(groups.values(), key=preference)
    for group in groups.values():
        if group is not best:
            left_out[f"{_names(group)}: measured on {configuration_of(group[0].slice).words}"] += len(group)
    kept, slower = _fastest_batches(best)
    left_out.update(slower)
    newest = max(kept, key=lambda stored: stored.slice.started_at)
    return Chosen(configuration_of(newest.slice), tuple(kept), _lines(left_out), its or ANYHOW)


def configuration_of(result: Slice) -> Configuration:
    recipe = msgspec.structs.replace(result.recipe, micro_batch=0, accumulation=1, ranks=result.cards)
    exports = tuple(f"{name}={value}" for name, value in result.exports.items())
    return Configuration(result.device, recipe, result.host_allocator, exports)


def trains(model: Model, its: Wanted, strategy: Strategy | None = None) -> str:
    """The command whose slice would do."""
    return f"rigbench train-probe --params {model.name}{its.option(strategy or its.strategy)}"


def family(model: Model) -> tuple[object, ...]:
    """Models whose speeds may be compared along the size alone."""
    return model.shape.style, model.shape.vocabulary, model.shape.sequence


def mean_log_rate(slices: Sequence[StoredSlice]) -> float:
    return math.fsum(math.log(stored.slice.tokens_per_s.value) for stored in slices) / len(slices)


def _unusable(stored: StoredSlice, method: int, models: Sequence[Model], recipe: RecipeOptions) -> str:
    """Why this slice cannot be used; empty where it can."""
    result = stored.slice
    if result.method != method:
        return f"measured another way (METHOD {result.method}, the newest is {method})"
    if stored.disturbed:
        return f"the machine was busy meanwhile ({stored.disturbed})"
    if result.ended_by in ("interrupted", "worker died") and stored.steady_steps < FEWEST_STEPS:
        return f"{result.ended_by} with too few steady steps (fewer than {FEWEST_STEPS})"
    if not stored.is_finite:
        return "its loss was not finite"
    if result.tokens_per_s.value <= 0:
        return "it has no rate"
    if family(result.model) not in {family(model) for model in models}:
        return "another style, vocabulary or sequence length"
    if not recipe.allows(result.recipe):
        return f"not what was asked for, measured on {configuration_of(result).words}"
    return ""


def _fastest_batches(group: Sequence[StoredSlice]) -> tuple[list[StoredSlice], Counter[str]]:
    """For each shape the micro-batch (and accumulation) that trained fastest, as the full run would choose it."""
    by_shape: dict[object, dict[Recipe, list[StoredSlice]]] = defaultdict(lambda: defaultdict(list))
    for stored in group:
        by_shape[stored.slice.model.shape][stored.slice.recipe].append(stored)
    kept: list[StoredSlice] = []
    left_out: Counter[str] = Counter()
    for batches in by_shape.values():
        best = max(batches, key=lambda recipe: mean_log_rate(batches[recipe]))
        kept += batches[best]
        for recipe, slices in batches.items():
            if recipe is not best:
                left_out[f"{_names(slices)}: {_batch(recipe)} was slower than {_batch(best)}"] += len(slices)
    return kept, left_out


def _batch(recipe: Recipe) -> str:
    accumulated = f" × {recipe.accumulation} accumulated" if recipe.accumulation > 1 else ""
    return f"micro-batch {recipe.micro_batch}{accumulated}"


def _names(group: Sequence[StoredSlice]) -> str:
    """Which models, by size: "5M, 15M"."""
    models = {stored.slice.model.name: stored.slice.model.flop_per_token for stored in group}
    return ", ".join(sorted(models, key=lambda name: (models[name], name)))


def _lines(left_out: Counter[str]) -> tuple[str, ...]:
    lines = [f"{count} short run{'s' if count > 1 else ''} of {text}" for text, count in sorted(left_out.items())]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"and {len(lines) - MOST_LINES + 1} more kinds of short runs"]
    return tuple(lines)
