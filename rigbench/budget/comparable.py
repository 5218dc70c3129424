"""Which stored slices of this rig may stand in one projection, and why were the others left out?"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import msgspec

from rigbench.budget.record import Configuration
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent
from rigbench.model.recipe import Precision
from rigbench.model.record import Model
from rigbench.train.record import Slice

FEWEST_STEPS = 3  # of a slice that was cut short: fewer do not tell a rate from its noise
MOST_LINES = 8


class StoredSlice(NamedTuple):
    """A slice, and the run that it is stored in."""

    run_id: str
    slice: Slice


@dataclass(frozen=True)
class Wanted:
    """What the user asked a projection to be for; None where the choice was left to us.

    `method` is the way of measuring that counts; None: the newest that is stored.
    """

    device_kind: Literal["cpu", "cuda"] | None = None
    threads: int | None = None
    optimizer: str | None = None
    checkpointing: Literal["off", "on"] | None = None
    precision: Precision | None = None
    compiled: bool | None = None
    strategy: str | None = None
    method: int | None = None

    def allows(self, configuration: Configuration) -> bool:
        has = {"device_kind": configuration.device.kind, "threads": configuration.device.threads}
        wishes = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "method"}
        return all(
            asked is None or asked == has.get(name, getattr(configuration, name, None))
            for name, asked in wishes.items()
        )


@dataclass(frozen=True)
class Chosen:
    """The slices of one configuration, and a line for each kind of slice that was left out."""

    configuration: Configuration
    slices: tuple[StoredSlice, ...]
    left_out: tuple[str, ...]


def choose(models: Sequence[Model], measured: Sequence[StoredSlice], wanted: Wanted | None = None) -> Chosen:
    """The configuration whose slices cover most of these models, and its usable slices.

    A GPU goes before the CPU, which nobody with a GPU trains on; of equals the one with the latest slice is taken.
    Configurations are never mixed: a model measured only in another one is predicted, and the line left out says so.

    Raises:
        RigbenchError: no stored slice can be used; exit 3.
    """
    left_out: Counter[str] = Counter()
    groups: dict[tuple[object, ...], list[StoredSlice]] = defaultdict(list)
    wanted = wanted or Wanted()
    newest_method = wanted.method or max((stored.slice.method for stored in measured), default=0)
    for stored in measured:
        reason = _unusable(stored.slice, newest_method, models, wanted)
        if reason:
            left_out[f"{_names([stored])}: {reason}"] += 1
        else:
            groups[_key(stored.slice)].append(stored)
    if not groups:
        raise _nothing(models, left_out)
    best = max(groups.values(), key=lambda group: _preference(group, models))
    for group in groups.values():
        if group is not best:
            left_out[f"{_names(group)}: measured on {configuration_of(group[0].slice).words}"] += len(group)
    kept, slower = _fastest_batches(best)
    left_out.update(slower)
    newest = max(kept, key=lambda stored: stored.slice.started_at)
    return Chosen(configuration_of(newest.slice), tuple(kept), _lines(left_out))


def configuration_of(result: Slice) -> Configuration:
    recipe = result.recipe
    assert recipe.precision != "auto"  # a slice's is chosen
    return Configuration(
        device=result.device,
        optimizer=recipe.optimizer,
        checkpointing="on" if recipe.checkpoint_every else "off",
        precision=recipe.precision,
        compiled=recipe.compiled,
        strategy=recipe.strategy,
        host_allocator=result.host_allocator,
        checkpoint_every=recipe.checkpoint_every if recipe.checkpoint_every > 1 else msgspec.UNSET,
        loss_chunks=recipe.loss_chunks if recipe.loss_chunks > 1 else msgspec.UNSET,
        ranks=recipe.ranks if recipe.ranks > 1 else msgspec.UNSET,
    )


def family(model: Model) -> tuple[object, ...]:
    """Models whose speeds may be compared along the size alone."""
    return model.shape.style, model.shape.vocabulary, model.shape.sequence


def _key(result: Slice) -> tuple[object, ...]:
    device = result.device
    return (
        (device.kind, device.name, device.threads),
        msgspec.structs.replace(result.recipe, micro_batch=0, accumulation=1),
        result.host_allocator,
    )


def _unusable(result: Slice, newest_method: int, models: Sequence[Model], wanted: Wanted) -> str:
    """Why this slice cannot be used; empty where it can."""
    steady_steps = len(result.steps.seconds) - result.steady_from
    if result.method != newest_method:
        return f"measured another way (METHOD {result.method}, the newest is {newest_method})"
    if result.ended_by in ("interrupted", "worker died") and steady_steps < FEWEST_STEPS:
        return f"{result.ended_by} with too few steady steps (fewer than {FEWEST_STEPS})"
    if any(isinstance(loss, Absent) for loss in result.steps.loss[result.steady_from :]):
        return "its loss was not finite"
    if result.tokens_per_s.value <= 0:
        return "it has no rate"
    if family(result.model) not in {family(model) for model in models}:
        return "another style, vocabulary or sequence length"
    if not wanted.allows(configuration_of(result)):
        return f"not what was asked for, measured on {configuration_of(result).words}"
    return ""


def _fastest_batches(group: Sequence[StoredSlice]) -> tuple[list[StoredSlice], Counter[str]]:
    """For each shape the micro-batch (and accumulation) that trained fastest, as the full run would choose it."""
    by_shape: dict[object, dict[tuple[int, int], list[StoredSlice]]] = defaultdict(lambda: defaultdict(list))
    for stored in group:
        recipe = stored.slice.recipe
        by_shape[stored.slice.model.shape][recipe.micro_batch, recipe.accumulation].append(stored)
    kept: list[StoredSlice] = []
    left_out: Counter[str] = Counter()
    for batches in by_shape.values():
        best = max(batches, key=lambda batch: mean_log_rate(batches[batch]))
        kept += batches[best]
        for batch, slices in batches.items():
            if batch != best:
                left_out[f"{_names(slices)}: {_batch(batch)} was slower than {_batch(best)}"] += len(slices)
    return kept, left_out


def mean_log_rate(slices: Sequence[StoredSlice]) -> float:
    return math.fsum(math.log(stored.slice.tokens_per_s.value) for stored in slices) / len(slices)


def _batch(batch: tuple[int, int]) -> str:
    micro_batch, accumulation = batch
    return f"micro-batch {micro_batch}" + (f" × {accumulation} accumulated" if accumulation > 1 else "")


def _preference(group: Sequence[StoredSlice], models: Sequence[Model]) -> tuple[bool, int, str]:
    covered = {stored.slice.model.shape for stored in group} & {model.shape for model in models}
    on_gpu = group[0].slice.device.kind != "cpu"
    return on_gpu, len(covered), max(stored.slice.started_at for stored in group)


def _names(group: Sequence[StoredSlice]) -> str:
    """Which models, by size: "5M, 15M"."""
    models = {stored.slice.model.name: stored.slice.model.flop_per_token for stored in group}
    return ", ".join(sorted(models, key=lambda name: (models[name], name)))


def _lines(left_out: Counter[str]) -> tuple[str, ...]:
    lines = [f"{count} slice{'s' if count > 1 else ''} of {text}" for text, count in sorted(left_out.items())]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"and {len(lines) - MOST_LINES + 1} more kinds of slices"]
    return tuple(lines)


def _nothing(models: Sequence[Model], left_out: Counter[str]) -> RigbenchError:
    why = f" can be used ({_lines(left_out)[0]})" if left_out else " is stored"
    middle = sorted(models, key=lambda model: model.flop_per_token)[len(models) // 2]  # within reach of both ends
    cure = f"run rigbench train-probe --params {middle.name}"
    return RigbenchError(f"no slice of this rig{why}", cure, exit_code=NOTHING)
