"""How fast do several ranks train the model together, and what of a step do they wait for each other?"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rigbench.core import stats
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, EndedBy
from rigbench.machine import host
from rigbench.machine.accelerator import Accelerator
from rigbench.machine.sysfs import Sysfs
from rigbench.model.batches import Batches
from rigbench.model.recipe import Precision, Recipe
from rigbench.model.tokens import open_tokens, zipf_tokens
from rigbench.store import now
from rigbench.train import parallel
from rigbench.train.options import DecoderOptions
from rigbench.train.rank_steps import RankLoop, gathered, slowest, split, timed_pairs
from rigbench.train.record import Slice, Steps, Vram
from rigbench.train.steps import StepLoop
from rigbench.train.summary import Chosen, Ground, Seen, sliced
from rigbench.train.training import Trained, decoder, is_out_of_memory, peaks, train
from rigbench.work.process import Report
from rigbench.work.ranks import World, free_bytes, join, kind_for, opened

if TYPE_CHECKING:
    from torch import nn

METHOD = 1
DEFAULT_MICRO_BATCH = {"cpu": 1, "cuda": 8}
LEAST_BYTES = 16  # a parameter: fp32 weight, gradient and two AdamW moments
ALONE_STEPS = 4  # of rank 0 while the others wait, after one to warm up
EXCHANGE_METHOD = (
    "steps with and without exchange of gradients and weights in turn, in the same ranks; then rank 0 alone"
)


class Options(DecoderOptions, frozen=True, kw_only=True):
    """The same for every rank, but for its host's name."""

    host_name: str = ""


def run(options: Options, report: Report, world: World) -> Slice:
    """One rank's part; every rank comes to the record of all of them.

    Raises:
        RigbenchError: bad token data (exit 2), no device for this rank, or it does not fit (exit 3).
    """
    started_at, started = now(), time.perf_counter()
    shape = options.model.shape
    if options.data:
        tokens, data = open_tokens(Path(options.data), options.data_dtype, shape.vocabulary, shape.sequence)
    else:
        tokens, data = zipf_tokens(Path(options.cache), shape.vocabulary)
    report.progress(0.0, "loading torch")
    import torch

    torch.manual_seed(options.seed)
    kind = kind_for(options.device.partition(":")[0], world)
    accelerator = opened(kind, world)
    _refuse_beyond_memory(options, kind, world)
    before = host.process_resident_bytes(Sysfs())
    hosts = join(world, report, parallel.BACKENDS[kind], word=options.host_name or "here")
    chosen = _chosen(options, kind, world.size)
    micro_batch = chosen.recipe.micro_batch
    ground = Ground(chosen, data, (), before, started_at, started, [], ["starting"])
    batches = Batches(
        tokens, data.dtype, shape.vocabulary, micro_batch, shape.sequence, accelerator.torch_device, data.name,
        seed=1 + world.rank,
    )  # fmt: skip
    try:
        with batches:
            return _Slicing(options, ground, accelerator, batches, report, world, hosts).run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    raise RigbenchError(
        f"{options.model.name} at micro-batch {micro_batch} does not fit rank {world.rank}'s memory "
        f"(out of memory in {ground.failed_in[-1]})",
        "try a smaller --micro-batch, --strategy fsdp2, or a smaller model",
        exit_code=NOTHING,
    )


def _refuse_beyond_memory(options: Options, kind: str, world: World) -> None:
    """Weights, gradients and moments of all ranks of this host: below that it would page, or the system ends a rank.

    Raises:
        RigbenchError: the host has less to give.
    """
    if kind == "cuda" and options.recipe.strategy != "fsdp2-offload":
        return
    usable = host.memory(Sysfs()).usable_bytes
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    shares = world.size if options.recipe.strategy.startswith("fsdp2") else 1
    each = (
        LEAST_BYTES if options.recipe.precision != "bf16-pure" and not options.recipe.optimizer.endswith("8bit") else 8
    )
    needed = each * options.model.total_parameters * here // shares
    if isinstance(usable, Absent) or needed <= usable:
        return
    raise RigbenchError(
        f"{options.model.name} over {here} ranks of this host needs at least {needed / 2**30:.1f} GiB for weights, "
        f"gradients and optimizer states, and it has {usable / 2**30:.1f} GiB to give",
        "choose a smaller model" if shares > 1 else "choose a smaller model, or --strategy fsdp2",
        exit_code=NOTHING,
    )


def _chosen(options: Options, kind: str, ranks: int) -> Chosen:
    precision, chosen_by = _precision(options, kind)
    micro_batch = options.recipe.micro_batch or DEFAULT_MICRO_BATCH[kind]
    recipe = msgspec.structs.replace(options.recipe, precision=precision, micro_batch=micro_batch, ranks=ranks)
    return Chosen(recipe, chosen_by, "--micro-batch" if options.recipe.micro_batch else f"default on {kind}")


def _precision(options: Options, kind: str) -> tuple[Precision, str]:
    """All ranks must choose alike, so none measures: bf16 where the GPU has it, fp32 on CPUs."""
    import torch

    if options.recipe.precision != "auto":
        return options.recipe.precision, "--precision"
    if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", "the device multiplies bf16 natively"
    return "fp32", f"default of ranks on {kind}"


class _Slicing:
    """Building, stepping together, stepping without exchange, and rank 0 alone."""

    def __init__(
        self,
        options: Options,
        ground: Ground,
        accelerator: Accelerator,
        batches: Batches,
        report: Report,
        world: World,
        hosts: tuple[str, ...],
    ) -> None:
        self.options, self.ground, self.accelerator, self.batches = options, ground, accelerator, batches
        self.report, self.world, self.hosts = report, world, hosts
        self._built = time.perf_counter()

    def run(self) -> Slice:
        accelerator, recipe = self.accelerator, self.ground.chosen.recipe
        accelerator.reset_peak_memory()
        trained, self.apart = self._trained(recipe)
        accelerator.synchronize()
        setup_seconds = time.perf_counter() - self._built
        tokens = recipe.micro_batch * recipe.accumulation * recipe.ranks * self.options.model.shape.sequence
        loop = RankLoop(accelerator, trained, self.batches, tokens, self.options.patience)

        def own(ended_by: EndedBy) -> Slice:
            """This rank's own view, should the group die."""
            seen = Seen.of(loop, self._peaks(), setup_seconds)
            return sliced(METHOD, self.options, self.ground, accelerator.device, seen, ended_by)

        try:
            ended_by = loop.run(self.report, lambda: self.report.partial(own("worker died")))
        finally:
            self.ground.failed_in.append(loop.now_in)
        every = gathered((loop.columns(), self._peaks()))
        by_rank = [columns for columns, _ in every]
        steps = slowest(by_rank)
        memory = _largest([peak for _, peak in every])
        steady_from = 1 + stats.steady_start(steps.seconds[1:]) if len(steps.seconds) > 1 else 0
        seen = Seen(steps, steady_from, tuple(loop.events), memory, setup_seconds)
        together = sliced(METHOD, self.options, self.ground, accelerator.device, seen, ended_by)
        if ended_by == "interrupted":
            return together
        self.report.partial(together)
        return self._scaled(together, loop, by_rank)

    def _trained(self, recipe: Recipe) -> tuple[Trained, parallel.Around | None]:
        options, accelerator = self.options, self.accelerator
        self.ground.failed_in.append("building the model")
        module: nn.Module = decoder(options.model, recipe, accelerator.torch_device)
        wrapped = parallel.wrap(module, recipe.strategy, accelerator.torch_device, options.clip_norm)
        self.ground.failed_in.append("building the optimizer")
        trained = train(
            wrapped.module,
            recipe,
            accelerator.device.kind,
            options.learning_rate,
            options.clip_norm,
            clip=wrapped.clip,
            synchronised=wrapped.synchronised,
        )
        return trained, wrapped.apart

    def _peaks(self) -> Vram:
        return peaks(self.accelerator, self.ground.before_model_bytes)

    def _scaled(self, together: Slice, loop: RankLoop, by_rank: list[Steps]) -> Slice:
        """With what the ranks wait for each other: steps with and without it in turn, then rank 0 alone."""
        self.report.progress(0.9, "steps without exchange")
        if self.apart is None:
            event = "exchange not measured: this torch cannot leave out that of fully_shard"
            return msgspec.structs.replace(together, events=(*together.events, event))
        with_it, without = timed_pairs(loop, self.options.patience, self.apart)
        samples = gathered((tuple(with_it), tuple(without)))
        found = split(
            EXCHANGE_METHOD,
            together.step_seconds.value,
            self.hosts,
            [with_one for with_one, _ in samples],
            [without_one for _, without_one in samples],
            self._alone(),
        )
        return msgspec.structs.replace(
            together, exchange=msgspec.structs.replace(found, steps_by_rank=tuple(one.seconds for one in by_rank))
        )

    def _alone(self) -> tuple[float, ...] | Absent:
        """Rank 0's steps while the others wait; the same on every rank."""
        if not self.options.scaling:
            return Absent("not asked for in a table of arms; `--arms one` times one rank alone")
        self.report.progress(0.95, "one rank alone")
        told: tuple[float, ...] | str = ()
        if self.world.rank == 0:
            told = self._steps_alone()
        told = gathered(told)[0]
        return Absent(told) if isinstance(told, str) else told

    def _steps_alone(self) -> tuple[float, ...] | str:
        """Of the whole model, beside what this rank holds of it already."""
        needed, free = LEAST_BYTES * self.options.model.total_parameters, free_bytes(self.accelerator)
        if needed > free:
            return f"one rank alone needs {needed / 2**30:.1f} GiB more, and {free / 2**30:.1f} GiB are free"
        try:
            alone = msgspec.structs.replace(self.ground.chosen.recipe, strategy="single", ranks=1)
            loop = StepLoop(self.accelerator, self._trained(alone)[0], self.batches, 1, self.options.patience)
            return tuple(loop.one_step() for _ in range(1 + ALONE_STEPS))[1:]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return "one rank alone ran out of memory"


def _largest(found: list[Vram]) -> Vram:
    """Of all ranks the peaks of the one that took most of each."""
    first = found[0]
    fields = [name for name in first.__struct_fields__ if name != "deciding"]

    def most(name: str) -> Any:
        known = [getattr(one, name) for one in found if not isinstance(getattr(one, name), Absent)]
        return max(known) if known else getattr(first, name)

    return Vram(**{name: most(name) for name in fields}, deciding=f"{first.deciding}, of the rank that takes most")
