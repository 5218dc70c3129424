"""How fast does this rig train the model? A calibrated slice of the full run: loader, forward, backward, clip, step."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Literal

import msgspec

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, EndedBy
from rigbench.machine import host
from rigbench.machine.accelerator import Accelerator, open_device
from rigbench.machine.sysfs import Sysfs
from rigbench.model.batches import Batches
from rigbench.model.recipe import Precision
from rigbench.model.tokens import open_tokens, zipf_tokens
from rigbench.store import now
from rigbench.train.options import DecoderOptions
from rigbench.train.parallel import over_cards
from rigbench.train.record import PrecisionTrial, Slice
from rigbench.train.steps import StepLoop
from rigbench.train.summary import Chosen, Ground, Seen, sliced
from rigbench.train.training import autocast, decoder, is_out_of_memory, peaks, train
from rigbench.work.process import Report
from rigbench.work.timing import sample_until_tight

METHOD = 1
DEFAULT_MICRO_BATCH = {"cpu": 1, "cuda": 8}
TRIAL_SECONDS = 3.0  # for each candidate
TRIAL_TOKENS = 256  # enough rows that the matrix products dominate, few enough to decide in a second or two


class Options(DecoderOptions, frozen=True, kw_only=True):
    """One arm on one device."""


def run(options: Options, report: Report) -> Slice:
    """One slice on one device, in this process, which must be fresh.

    Raises:
        RigbenchError: bad token data (exit 2), no such device or a model that does not fit (exit 3).
    """
    started_at, started = now(), time.perf_counter()
    report.progress(0.0, "token data")
    shape = options.model.shape
    if options.data:
        tokens, data = open_tokens(Path(options.data), options.data_dtype, shape.vocabulary, shape.sequence)
    else:
        tokens, data = zipf_tokens(Path(options.cache), shape.vocabulary)
    report.progress(0.0, "loading torch")
    import torch

    torch.manual_seed(options.seed)
    sysfs = Sysfs()
    accelerator = _open(options, sysfs)
    before_model = host.process_resident_bytes(sysfs)
    chosen, trials = _chosen(options, accelerator, report)
    events: list[str] = []
    while True:
        recipe = chosen.recipe
        count, device = recipe.micro_batch, accelerator.torch_device
        batches = Batches(tokens, data.dtype, shape.vocabulary, count, shape.sequence, device, data.name)
        failed_in: list[str] = []
        try:
            ground = Ground(chosen, data, trials, before_model, started_at, started, events, failed_in)
            with batches:
                return _slice(options, ground, accelerator, batches, report)
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not is_out_of_memory(error):
                raise
        gc.collect()
        accelerator.empty_cache()
        if options.recipe.micro_batch or recipe.micro_batch == 1:
            raise RigbenchError(
                f"{options.model.name} at micro-batch {recipe.micro_batch} does not fit this device's memory "
                f"(out of memory in {failed_in[-1]})",
                "try a smaller --micro-batch, --checkpointing on, or a smaller model",
                exit_code=NOTHING,
            )
        events.append(f"out of memory at micro-batch {recipe.micro_batch}; went on with {recipe.micro_batch // 2}")
        chosen = chosen._replace(recipe=msgspec.structs.replace(recipe, micro_batch=recipe.micro_batch // 2))


def _open(options: Options, sysfs: Sysfs) -> Accelerator:
    accelerator = open_device(options.device)
    usable = host.memory(sysfs).usable_bytes
    # fp32 weights, gradients and two AdamW moments: below this nothing can be trained, so say it before paging starts
    needed = 16 * options.model.total_parameters
    if accelerator.device.kind == "cpu" and not isinstance(usable, Absent) and needed > usable:
        raise RigbenchError(
            f"{options.model.name} needs at least {needed / 2**30:.1f} GiB for weights, gradients and AdamW states, "
            f"and this host has {usable / 2**30:.1f} GiB to give",
            "choose a smaller model",
            exit_code=NOTHING,
        )
    return accelerator


def _chosen(options: Options, accelerator: Accelerator, report: Report) -> tuple[Chosen, tuple[PrecisionTrial, ...]]:
    kind = accelerator.device.kind
    precision, chosen_by, trials = _choose_precision(options, accelerator, report)
    micro_batch = options.recipe.micro_batch or DEFAULT_MICRO_BATCH[kind]
    recipe = msgspec.structs.replace(options.recipe, precision=precision, micro_batch=micro_batch)
    return Chosen(recipe, chosen_by, "--micro-batch" if options.recipe.micro_batch else f"default on {kind}"), trials


def _choose_precision(
    options: Options, accelerator: Accelerator, report: Report
) -> tuple[Precision, str, tuple[PrecisionTrial, ...]]:
    """bf16 autocast where a GPU has it; on a CPU whichever trains a one-block model of this width faster, measured."""
    import torch

    if options.recipe.precision != "auto":
        return options.recipe.precision, "--precision", ()
    if accelerator.device.kind == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "the device multiplies bf16 natively", ()
        return "fp32", "the device does not multiply bf16", ()
    report.progress(0.0, "fp32 or bf16: measuring which is faster here")
    trials = tuple(_trial(name, options, accelerator, report) for name in ("fp32", "bf16"))
    fastest = min(trials, key=lambda trial: trial.timing.estimate.value)
    return fastest.precision, "measured on one block of this model", trials


def _trial(
    precision: Literal["fp32", "bf16"], options: Options, accelerator: Accelerator, report: Report
) -> PrecisionTrial:
    import torch

    from rigbench.model.gpt import Decoder

    shape = msgspec.structs.replace(options.model.shape, layers=1)
    model = Decoder(shape).to(accelerator.torch_device)
    length = min(shape.sequence, TRIAL_TOKENS)
    block = torch.randint(shape.vocabulary, (1, length + 1), device=accelerator.torch_device)

    def work(_: int) -> None:
        with autocast(precision, accelerator.device.kind):
            loss = model(block[:, :-1], block[:, 1:])
        loss.backward()

    timing = sample_until_tight(
        lambda count: accelerator.timed(work, count),
        time.perf_counter,
        target_half_width=0.05,
        limit_seconds=TRIAL_SECONDS,
        should_stop=report.should_stop,
    )
    return PrecisionTrial(precision=precision, timing=timing)


def _slice(options: Options, ground: Ground, accelerator: Accelerator, batches: Batches, report: Report) -> Slice:
    """Build the model, step it, and make the record; also at any moment before, should this process die."""
    report.check()
    report.progress(0.0, "building the model")
    built = time.perf_counter()
    accelerator.reset_peak_memory()
    recipe, kind = ground.chosen.recipe, accelerator.device.kind
    ground.failed_in.append("building the model")
    model = decoder(options.model, recipe, accelerator.torch_device)
    ground.failed_in.append("building the optimizer")
    called = over_cards if recipe.strategy == "data-parallel" else None
    trained = train(model, recipe, kind, options.learning_rate, options.clip_norm, called=called)
    accelerator.synchronize()
    setup_seconds = time.perf_counter() - built
    tokens_per_step = recipe.micro_batch * recipe.accumulation * options.model.shape.sequence
    loop = StepLoop(accelerator, trained, batches, tokens_per_step, options.patience)

    def record(ended_by: EndedBy) -> Slice:
        seen = Seen.of(loop, peaks(accelerator, ground.before_model_bytes), setup_seconds)
        return sliced(METHOD, options, ground, accelerator.device, seen, ended_by)

    try:
        return record(loop.run(report, lambda: report.partial(record("worker died"))))
    finally:
        ground.failed_in.append(loop.now_in)
