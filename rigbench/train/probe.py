"""Trains a slice: a decoder or a program of the user's, in one process or as one of several ranks."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch

from rigbench.core import stats
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.failures import is_out_of_memory, not_compiled
from rigbench.core.record import Absent, EndedBy
from rigbench.machine import host
from rigbench.machine.accelerator import choose_device, open_device
from rigbench.machine.sysfs import Sysfs
from rigbench.model import counts, lora, nf4
from rigbench.model.batches import Batches
from rigbench.model.gpt import Decoder
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.model.tokens import open_all, zipf_tokens
from rigbench.store import now
from rigbench.train import own as programs
from rigbench.train import parallel
from rigbench.train.record import (
    DEFAULT_MICRO_BATCH,
    OWN_MICRO_BATCH,
    PARTS,
    AnySlice,
    Options,
    OwnModel,
    OwnSlice,
    PrecisionTrial,
    Slice,
    Steps,
    Vram,
)
from rigbench.train.steps import StepLoop, Trained, autocast, stepped
from rigbench.work.process import Report
from rigbench.work.ranks import World, free_bytes, join, kind_for, opened
from rigbench.work.timing import sample_until_tight

TRIAL_SECONDS = 3.0  # for each candidate precision
TRIAL_TOKENS = 256  # enough rows that the matrix products dominate, few enough to decide in a second or two
LEAST_BYTES = 16  # a parameter: fp32 weight, gradient and two AdamW moments
ALONE_STEPS = 4  # of rank 0 while the others wait, after one to warm up
MOST_EVENTS = 100


def run(options: Options, report: Report, world: World | None = None) -> AnySlice:
    """One slice in this process, which must be fresh; of several ranks, all come to the record of all of them.

    Raises:
        RigbenchError: bad token data or a program not as the contract says (exit 2), no such device or a model that
            does not fit (exit 3).
    """
    its_own = isinstance(options.model, OwnModel)
    with programs.within_free_memory(choose_device(options.device)) if its_own else contextlib.nullcontext():
        return Slicing(options, report, world).run()


class Slicing:
    """Tokens, device, recipe, model and steps, in this order; all of it is there before the next begins."""

    def __init__(self, options: Options, report: Report, world: World | None) -> None:
        self.options, self.report, self.world, self.model = options, report, world, options.model
        self.started_at, self.started = now(), time.perf_counter()
        self.events: list[str] = []
        self.now_in = "starting"
        its = options.model
        self.vocabulary, self.sequence = (
            (its.vocabulary, its.items_per_sample)
            if isinstance(its, OwnModel)
            else (its.shape.vocabulary, its.shape.sequence)
        )
        report.progress(0.0, "token data")
        self.tokens: Any = None  # ids and what is known of them; a program may make its own batches
        if isinstance(self.vocabulary, int) and options.data:
            self.tokens = open_all(Path(options.data), options.data_dtype, self.vocabulary, self.sequence)
        elif isinstance(self.vocabulary, int):
            self.tokens = zipf_tokens(Path(options.cache), self.vocabulary)
        torch.manual_seed(options.seed)
        self.accelerator = (
            opened(kind_for(options.device.partition(":")[0], world), world) if world else open_device(options.device)
        )
        refuse_beyond_memory(options, self.accelerator.device.kind, world)
        self.device, self.kind = self.accelerator.torch_device, self.accelerator.device.kind
        self.before_model_bytes = host.process_resident_bytes(Sysfs())
        self.hosts = join(world, report, parallel.BACKENDS[self.kind], word=options.host_name) if world else ()
        self.own: programs.Own | None = None
        self.built = time.perf_counter()
        if isinstance(self.model, OwnModel):
            report.progress(0.0, f"calling {self.model.name}")
            self.own = programs.load(self.model.name, options.folder, options.vocabulary, options.sequence)
            if self.own.batch and self.model.unit == "tokens":
                self.own = self.own._replace(sequence=self.model.items_per_sample)
            report.check()
        self.precision_trials: tuple[PrecisionTrial, ...] = ()
        self.recipe, self.chosen_by = self._recipe()
        self.split_over = torch.cuda.device_count() if self.recipe.strategy == "data-parallel" else 1

    def _recipe(self) -> tuple[Recipe, dict[str, str]]:
        """With nothing left to be chosen, and by whom precision and micro-batch were."""
        recipe = self.options.recipe
        precision, precision_by = self._precision(recipe)
        defaults = OWN_MICRO_BATCH if self.own else DEFAULT_MICRO_BATCH
        micro_batch_by = self.options.micro_batch_by if recipe.micro_batch else f"default on {self.kind}"
        fixed = self.model.fixed_samples if isinstance(self.model, OwnModel) else 0
        if fixed:
            programs.refuse_other_size(self.model.name, fixed, recipe.micro_batch)
            micro_batch_by = "as the program's own batches are"
        chosen = msgspec.structs.replace(
            recipe,
            precision=precision,
            micro_batch=recipe.micro_batch or fixed or defaults[self.kind],
            ranks=self.world.size if self.world else 1,
        )
        return chosen, {"precision_chosen_by": precision_by, "micro_batch_chosen_by": micro_batch_by}

    def _precision(self, recipe: Recipe) -> tuple[str, str]:
        """bf16 autocast where all GPUs have it; on a CPU what trains a one-block model of this width faster, measured.

        All ranks must choose alike, so none of them measures; nor is a program of the user's measured, as a CPU's
        kernels for bf16 are not for every layer.
        """
        lacking = self._without_bf16(recipe) if self.kind == "cuda" else []
        if recipe.precision != "auto":
            if lacking and recipe.dtype == "bf16":
                self.events.append(f"{', '.join(lacking)}: no bf16 of its own, emulated")
            return recipe.precision, "--precision"
        if recipe.adapter == "qlora":
            return "bf16-pure", "what 4-bit weights unpack to"
        if self.kind == "cuda":
            if not lacking and recipe.adapted:
                return "bf16-pure", "frozen weights need no fp32"
            if not lacking:
                return "bf16", "the device multiplies bf16 natively"
            return "fp32", f"{', '.join(lacking)} does not multiply bf16"
        if self.world or self.own:
            return "fp32", f"default {'of ranks ' if self.world else ''}on cpu"
        self.report.progress(0.0, "fp32 or bf16: measuring which is faster here")
        self.precision_trials = (self._trial("fp32"), self._trial("bf16"))
        fastest = min(self.precision_trials, key=lambda trial: trial.timing.estimate.value)
        return fastest.precision, "measured on one block of this model"

    def _without_bf16(self, recipe: Recipe) -> list[str]:
        """The cards that work and do not multiply bf16 natively; the same on every rank."""
        several = range(torch.cuda.device_count()) if recipe.strategy == "data-parallel" else [self.device]
        names = []
        for device in several:
            with torch.cuda.device(device):
                if not torch.cuda.is_bf16_supported(including_emulation=False):
                    names.append(torch.cuda.get_device_name(device))
        if self.world:
            names = [name for own in parallel.gathered(names) for name in own]
        return list(dict.fromkeys(names))

    def _trial(self, precision: Literal["fp32", "bf16"]) -> PrecisionTrial:
        assert isinstance(self.model, Model)
        shape = msgspec.structs.replace(self.model.shape, layers=1)
        model = Decoder(shape).to(self.device)
        block = torch.randint(shape.vocabulary, (1, min(shape.sequence, TRIAL_TOKENS) + 1), device=self.device)

        def work(_: int) -> None:
            with autocast(precision, self.kind):
                loss = model(block[:, :-1], block[:, 1:])
            loss.backward()

        timing = sample_until_tight(
            lambda count: self.accelerator.timed(work, count, prepare=lambda _: None),  # never flushed
            time.perf_counter,
            target_half_width=0.05,
            limit_seconds=TRIAL_SECONDS,
            should_stop=self.report.should_stop,
        )
        return PrecisionTrial(precision=precision, timing=timing)

    def run(self) -> AnySlice:
        """A decoder's default micro-batch that does not fit one process is halved, and said."""
        while True:
            try:
                with self._source() as source:
                    return self._slice(source)
            except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
                if not is_out_of_memory(error):
                    raise
            self.report.partial(None)  # which would keep the model alive
            if self.recipe.compiled:
                torch._dynamo.reset()  # whose programs hold what they were made for
            gc.collect()
            self.accelerator.empty_cache()
            count = self.recipe.micro_batch
            if self.options.recipe.micro_batch or count == 1 or self.own or self.world:
                raise self._does_not_fit(count)
            self.events.append(f"out of memory at micro-batch {count}; went on with {count // 2}")
            self.recipe = msgspec.structs.replace(self.recipe, micro_batch=count // 2)

    def _does_not_fit(self, micro_batch: int) -> RigbenchError:
        whose, cure = "this device's", "--checkpointing on, or a smaller model"
        if self.world:
            whose, cure = f"rank {self.world.rank}'s", "--strategy fsdp2, or a smaller model"
        return RigbenchError(
            f"{self.model.name} at micro-batch {micro_batch} does not fit {whose} memory "
            f"(out of memory in {self.now_in})",
            "try a smaller --micro-batch" if self.own else f"try a smaller --micro-batch, {cure}",
            exit_code=NOTHING,
        )

    def _source(self) -> Any:
        """The user's batches, or rigbench's token data."""
        if self.own and self.own.batch:
            # In pure bf16 the weights are, so what they meet must be.
            floats = torch.bfloat16 if self.recipe.precision == "bf16-pure" else None
            return programs.OwnBatches(self.own, self.recipe.micro_batch, self.device, floats=floats)
        assert isinstance(self.vocabulary, int)
        tokens, data = self.tokens
        count, seed = self.recipe.micro_batch, 1 + (self.world.rank if self.world else 0)
        return Batches(tokens, data.dtype, self.vocabulary, count, self.sequence, self.device, data.name, seed=seed)

    def _slice(self, source: Any) -> AnySlice:
        """Build the model, step it, and make the record; also at any moment before, should this process die."""
        self.report.check()
        self.report.progress(0.0, "building the model")
        if not self.own:
            self.built = time.perf_counter()
        self.accelerator.reset_peak_memory()
        trained, recipe = self.trained(self.recipe), self.recipe
        self.accelerator.synchronize()
        self.setup_seconds = time.perf_counter() - self.built
        self.items = recipe.micro_batch * recipe.accumulation * recipe.ranks * self.sequence
        made = parallel.RankLoop if self.world else StepLoop
        loop = made(
            self.accelerator, trained, source, self.options, self.items, self.own.unit if self.own else "tokens"
        )

        def record(ended_by: EndedBy) -> AnySlice:
            """As this process sees it."""
            return self._record(loop.columns(), loop.watch.steady_from, loop.events, self._peaks(), ended_by)

        try:
            ended_by = loop.run(self.report, record)
        except Exception as error:  # of the user's own code, or a compiler: whatever it is, it is raised again
            if is_out_of_memory(error) or isinstance(error, RigbenchError):
                raise
            if recipe.compiled and (refusal := not_compiled(error)):
                what = f"torch.compile cannot be used here ({refusal})"
                raise RigbenchError(what, "use --compile off", NOTHING) from None
            if self.own:
                raise self.own.explained(loop.now_in, error) from None
            raise
        finally:
            self.now_in = loop.now_in
        return self._of_all_ranks(loop, ended_by) if isinstance(loop, parallel.RankLoop) else record(ended_by)

    def trained(self, recipe: Recipe) -> Trained:
        self.now_in = "building the model"
        weights = torch.bfloat16 if recipe.precision == "bf16-pure" else None
        if self.own:
            module = self.own.module.to(self.device, weights)
        else:
            assert isinstance(self.model, Model)
            built = Decoder(self.model.shape, checkpointing=recipe.checkpoint_every, loss_chunks=recipe.loss_chunks)
            module = built.to(self.device, weights or torch.float32)
            if recipe.adapted:
                lora.adapt(module, recipe, nf4.layer if recipe.adapter == "qlora" else None)
        wrapped = parallel.wrap(module, recipe.strategy, self.device, self.options.clip_norm)
        self.now_in = "building the optimizer"
        if self.own:
            wrapped = wrapped._replace(called=self.own.losses)
        return stepped(wrapped, recipe, self.kind, self.options.learning_rate)

    def _record(self, steps: Steps, steady_from: int, events: list[str], memory: Vram, ended_by: EndedBy) -> AnySlice:
        """Every figure follows from the raw steps."""
        model, recipe, steady = self.model, self.recipe, steps.seconds[steady_from:]
        rate = stats.rate_estimate(self.items, steady)
        flop = model.flop_per_item if isinstance(model, OwnModel) else model.flop_per_token
        shares = {name: math.fsum(getattr(steps, f"{name}_seconds")[steady_from:]) for name in PARTS}
        facts: dict[str, Any] = {
            "started_at": self.started_at,
            "seconds": time.perf_counter() - self.started,
            "device": self.accelerator.device,
            "model": model,
            "recipe": recipe,
            **self.chosen_by,
            "host_allocator": self.options.host_allocator,
            "steps": steps,
            "steady_from": steady_from,
            "ended_by": ended_by,
            "target_half_width": self.options.target_half_width,
            "items_per_step": self.items,
            "items_per_s": rate,
            "step_seconds": stats.median_estimate(steady),
            "outliers": len(stats.outliers(steady)),
            "split_over": self.split_over,
            "step_share": {name: seconds / math.fsum(steady) for name, seconds in shares.items()},
            "model_flops_per_s": flop if isinstance(flop, Absent) else rate.value * flop,
            "setup_seconds": self.setup_seconds,
            "memory": memory,
            "events": (*self.events, *events)[:MOST_EVENTS],
        }
        if isinstance(model, OwnModel):
            return OwnSlice(**facts)
        if recipe.adapted:
            hardware_flop = counts.adapted_hardware_flop_per_token(model.shape, recipe)
        else:
            hardware_flop = counts.hardware_flop_per_token(model.shape, recipe.checkpoint_every, recipe.loss_chunks)
        return Slice(
            **facts,
            data=self.tokens[1],
            precision_trials=self.precision_trials,
            hardware_flops_per_s=rate.value * hardware_flop,
        )

    def _peaks(self) -> Vram:
        """Peak memory since the accelerator's count was reset, and of this process."""
        device, on_gpu = self.accelerator, self.kind == "cuda"
        uuid, free = device.device.uuid, self.options.free_bytes_before
        before = free.get(uuid) if isinstance(uuid, str) else None
        context = device.used_outside_allocator_bytes(
            Absent("the driver did not report what others hold on this card") if before is None else before
        )
        known = "reserved, without the context" if isinstance(context, Absent) else "reserved plus context"
        return Vram(
            allocated_bytes=device.allocated_peak_bytes(),
            reserved_bytes=device.reserved_peak_bytes(),
            process_bytes=host.process_peak_bytes(Sysfs()),
            context_bytes=context,
            before_model_bytes=self.before_model_bytes,
            allocator_retries=device.allocator_retries(),
            deciding=f"{known}, on the device" if on_gpu else "process, in host memory",
        )

    def _of_all_ranks(self, loop: parallel.RankLoop, ended_by: EndedBy) -> AnySlice:
        """The slowest rank's steps and the largest peaks; then what they wait for each other, and rank 0 alone."""
        every = parallel.gathered((loop.columns(), self._peaks()), tuple[Steps, Vram])
        by_rank = [columns for columns, _ in every]
        steps = parallel.slowest(by_rank)
        steady_from = 1 + stats.steady_start(steps.seconds[1:]) if len(steps.seconds) > 1 else 0
        memory = _largest([peak for _, peak in every])
        together = self._record(steps, steady_from, loop.events, memory, ended_by)
        if ended_by == "interrupted":
            return together
        self.report.partial(together)
        self.report.progress(0.9, "steps without gradient sync")
        apart = loop.trained.wrapped.apart
        if apart is None:
            event = "gradient sync not measured: this torch cannot leave out that of fully_shard"
            return msgspec.structs.replace(together, events=(*together.events, event))
        kind = tuple[tuple[float, ...], tuple[float, ...]]
        pairs = parallel.gathered(parallel.timed_pairs(loop, self.options, apart), kind)
        exchange = parallel.split(
            together.step_seconds.value,
            self.hosts,
            [one.seconds for one in by_rank],
            [with_one for with_one, _ in pairs],
            [without_one for _, without_one in pairs],
            self._alone(loop),
        )
        return msgspec.structs.replace(together, exchange=exchange)

    def _alone(self, loop: StepLoop) -> tuple[float, ...] | Absent:
        """Rank 0's steps of the whole model while the others wait; the same on every rank."""
        if isinstance(self.options.alone, Absent):
            return self.options.alone
        self.report.progress(0.95, "one rank alone")
        leads = self.world is not None and self.world.rank == 0
        seconds = parallel.gathered(self._steps_alone(loop) if leads else (), tuple[float, ...] | str)[0]
        return Absent(seconds) if isinstance(seconds, str) else seconds

    def _steps_alone(self, loop: StepLoop) -> tuple[float, ...] | str:
        """Beside what this rank holds of the model already."""
        needed, free = _least_bytes(self.recipe, self.model), free_bytes(self.accelerator)
        if needed > free:
            return f"one rank alone needs {needed / 2**30:.1f} GiB more, and {free / 2**30:.1f} GiB are free"
        recipe = msgspec.structs.replace(self.recipe, strategy="single", ranks=1)
        try:
            alone = StepLoop(self.accelerator, self.trained(recipe), loop.source, self.options, 1)
            return tuple(alone.one_step() for _ in range(1 + ALONE_STEPS))[1:]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return "one rank alone ran out of memory"


def refuse_beyond_memory(options: Options, kind: str, world: World | None) -> None:
    """Weights, gradients and moments of all ranks of this host: below that it would page, or the system ends a rank.

    Raises:
        RigbenchError: the host has less to give.
    """
    recipe, model = options.recipe, options.model
    if isinstance(model, OwnModel) or (kind == "cuda" and recipe.strategy != "fsdp2-offload"):
        return
    usable = host.memory(Sysfs()).usable_bytes
    size = world.size if world else 1
    here = int(os.environ.get("LOCAL_WORLD_SIZE", size)) if world else 1
    shares = size if recipe.strategy.startswith("fsdp2") else 1
    needed = _least_bytes(recipe, model) * here // shares
    if isinstance(usable, Absent) or needed <= usable:
        return
    over = f" over {here} ranks of this host" if world else ""
    raise RigbenchError(
        f"{model.name}{over} needs at least {needed / 2**30:.1f} GiB for weights, gradients and optimizer states, and "
        f"this host has {usable / 2**30:.1f} GiB to give",
        "choose a smaller model, or --strategy fsdp2" if world and shares == 1 else "choose a smaller model",
        exit_code=NOTHING,
    )


def _least_bytes(recipe: Recipe, model: Model | OwnModel) -> int:
    """Of weights, gradients and moments; frozen weights have but themselves, 4 bits of them half a byte."""
    each = 8 if recipe.precision == "bf16-pure" or recipe.optimizer.endswith("8bit") else LEAST_BYTES
    if isinstance(model, OwnModel) or not recipe.adapted:
        return each * model.total_parameters
    frozen = model.total_parameters - model.trained
    return each * model.trained + (frozen // 2 if recipe.adapter == "qlora" else recipe.weight_bytes * frozen)


def _largest(peaks: list[Vram]) -> Vram:
    """Of all ranks the peaks of the one that took most of each."""
    first = peaks[0]

    def most(name: str) -> Any:
        known = [getattr(one, name) for one in peaks if not isinstance(getattr(one, name), Absent)]
        return max(known, default=getattr(first, name))

    named = {name: most(name) for name in Vram.__struct_fields__ if name != "deciding"}
    return Vram(**named, deciding=f"{first.deciding}, of the rank that takes most")
