"""How fast does this rig train the user's own model? Their module and batches in rigbench's loop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rigbench.core import stats
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, EndedBy
from rigbench.machine import host
from rigbench.machine.accelerator import Accelerator, open_device
from rigbench.machine.sysfs import Sysfs
from rigbench.model.batches import Batches
from rigbench.model.recipe import Precision, Recipe
from rigbench.model.tokens import open_tokens, zipf_tokens
from rigbench.store import now
from rigbench.train.options import SliceOptions
from rigbench.train.own_batches import OwnBatches
from rigbench.train.own_model import Own, load
from rigbench.train.record import OwnModel, OwnSlice
from rigbench.train.steps import StepLoop
from rigbench.train.summary import Chosen, shares
from rigbench.train.training import is_out_of_memory, peaks, train
from rigbench.work.process import Report

if TYPE_CHECKING:
    import torch

METHOD = 1
DEFAULT_MICRO_BATCH = {"cpu": 4, "cuda": 32}


class Options(SliceOptions, frozen=True, kw_only=True):
    """`model` is what a trial in another process told of it, `folder` where the command was typed."""

    model: OwnModel
    folder: str
    vocabulary: int = 0
    sequence: int = 0


def run(options: Options, report: Report) -> OwnSlice:
    """
    Raises:
        RigbenchError: the program is not as the contract says (exit 2), or does not fit (exit 3).
    """
    started_at, started = now(), time.perf_counter()
    report.progress(0.0, "loading torch")
    import torch

    torch.manual_seed(options.seed)
    sysfs = Sysfs()
    accelerator = open_device(options.device)
    before = host.process_resident_bytes(sysfs)
    report.progress(0.0, f"calling {options.model.name}")
    built = time.perf_counter()
    own = load(options.model.name, options.folder, options.vocabulary, options.sequence)
    report.check()
    accelerator.reset_peak_memory()
    chosen = _chosen(options, accelerator)
    try:
        own.module.to(accelerator.torch_device)
        with _source(own, options, chosen.recipe, accelerator) as source:
            return _slice(options, own, chosen, accelerator, source, report, (started_at, started, built), before)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    raise RigbenchError(
        f"{options.model.name} at micro-batch {chosen.recipe.micro_batch} does not fit this device's memory",
        "try a smaller --micro-batch",
        exit_code=NOTHING,
    )


def _chosen(options: Options, accelerator: Accelerator) -> Chosen:
    kind = accelerator.device.kind
    precision, chosen_by = _precision(options, kind)
    micro_batch = options.recipe.micro_batch or DEFAULT_MICRO_BATCH[kind]
    recipe = msgspec.structs.replace(options.recipe, precision=precision, micro_batch=micro_batch)
    return Chosen(recipe, chosen_by, "--micro-batch" if options.recipe.micro_batch else f"default on {kind}")


def _precision(options: Options, kind: str) -> tuple[Precision, str]:
    """bf16 autocast where a GPU has it, else what the weights have: a CPU's kernels for it are not for every layer."""
    import torch

    if options.recipe.precision != "auto":
        return options.recipe.precision, "--precision"
    if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", "the device multiplies bf16 natively"
    return "fp32", f"default on {kind}"


def _source(own: Own, options: Options, recipe: Recipe, accelerator: Accelerator) -> Any:
    """The user's batches, or rigbench's token data for a language model."""
    if own.batch:
        return OwnBatches(own, recipe.micro_batch, accelerator.torch_device, floats=_floats(recipe))
    if options.data:
        tokens, data = open_tokens(Path(options.data), options.data_dtype, own.vocabulary, own.sequence)
    else:
        tokens, data = zipf_tokens(Path(options.cache), own.vocabulary)
    return Batches(
        tokens, data.dtype, own.vocabulary, recipe.micro_batch, own.sequence, accelerator.torch_device, data.name
    )


def _floats(recipe: Recipe) -> torch.dtype | None:
    """In pure bf16 the weights are, so what they meet must be."""
    import torch

    return torch.bfloat16 if recipe.precision == "bf16-pure" else None


def _slice(
    options: Options,
    own: Own,
    chosen: Chosen,
    accelerator: Accelerator,
    source: Any,
    report: Report,
    began: tuple[str, float, float],
    before_model_bytes: int | Absent,
) -> OwnSlice:
    recipe = chosen.recipe
    if recipe.precision == "bf16-pure":
        import torch

        own.module.to(torch.bfloat16)
    kind = accelerator.device.kind
    trained = train(own.module, recipe, kind, options.learning_rate, options.clip_norm, called=own.losses)
    accelerator.synchronize()
    started_at, started, built = began
    setup_seconds = time.perf_counter() - built
    items = recipe.micro_batch * recipe.accumulation * own.items_per_sample
    loop = StepLoop(accelerator, trained, source, items, options.patience, f"{own.unit}/s")

    def record(ended_by: EndedBy) -> OwnSlice:
        steps, steady_from = loop.columns(), loop.watch.steady_from
        steady = steps.seconds[steady_from:]
        rate = loop.watch.rate(items)
        flop = options.model.flop_per_item
        return OwnSlice(
            method=METHOD,
            started_at=started_at,
            seconds=time.perf_counter() - started,
            device=accelerator.device,
            model=options.model,
            recipe=recipe,
            precision_chosen_by=chosen.precision_chosen_by,
            micro_batch_chosen_by=chosen.micro_batch_chosen_by,
            host_allocator=options.host_allocator,
            steps=steps,
            steady_from=steady_from,
            ended_by=ended_by,
            target_half_width=options.target_half_width,
            items_per_step=items,
            items_per_s=rate,
            step_seconds=stats.median_estimate(steady),
            outliers=len(stats.outliers(steady)),
            step_share=shares(steps, steady_from),
            model_flops_per_s=flop if isinstance(flop, Absent) else rate.value * flop,
            mfu=Absent("not compared with a datasheet"),
            setup_seconds=setup_seconds,
            memory=peaks(accelerator, before_model_bytes),
            energy=Absent("no sensor was read beside this slice"),
            telemetry=Absent("no sensor was read beside this slice"),
            events=tuple(loop.events[:100]),
        )

    try:
        return record(loop.run(report, lambda: report.partial(record("worker died"))))
    except RigbenchError:
        raise
    except Exception as error:
        if isinstance(error, (RuntimeError, MemoryError)) and is_out_of_memory(error):
            raise
        raise own.explained(loop.now_in, error) from None
