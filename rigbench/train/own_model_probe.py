"""What is the user's own model? Loaded and tried for one micro-step, before anything is measured with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rigbench.core.record import Absent, Record
from rigbench.machine.accelerator import choose_device
from rigbench.train.own_model import Own, Trial, load, trial
from rigbench.train.record import OwnModel
from rigbench.work.process import Report

if TYPE_CHECKING:
    from torch import nn

TRIAL_SAMPLES = 2  # one would do, but a norm over a batch of one has nothing to divide by
BASIS = (
    "counted by torch in a forward and backward pass of {samples} samples, what is recomputed too, attention unfused"
)


class Options(Record, frozen=True):
    """`folder` is where the command was typed. `vocabulary`, `sequence` 0: as the module says."""

    name: str
    folder: str
    vocabulary: int = 0
    sequence: int = 0
    device: str = "auto"
    seed: int = 0


def run(options: Options, report: Report) -> OwnModel:
    """
    Raises:
        RigbenchError: the factory or what it makes is not as the contract says (exit 2), or it ran out of memory (3).
    """
    report.progress(0.0, "loading torch")
    import torch

    torch.manual_seed(options.seed)
    device = choose_device(options.device)
    if device != "cpu":
        torch.cuda.set_device(device)
    report.progress(0.3, f"calling {options.name}")
    own = load(options.name, options.folder, options.vocabulary, options.sequence)
    report.check()
    report.progress(0.6, "one trial step")
    return described(own, trial(own, device, TRIAL_SAMPLES))


def described(own: Own, tried: Trial) -> OwnModel:
    weights = list(own.module.parameters())
    items = tried.samples * own.items_per_sample
    return OwnModel(
        name=own.name,
        unit=own.unit,
        items_per_sample=own.items_per_sample,
        vocabulary=own.vocabulary or Absent("it makes its own batches"),
        batch=tried.batch,
        total_parameters=sum(weight.numel() for weight in weights),
        trainable_parameters=sum(weight.numel() for weight in weights if weight.requires_grad),
        unused_parameters=tried.unused_parameters,
        flop_per_item=_uncounted(own.module, tried) or tried.flop / items,
        flop_basis=BASIS.format(samples=tried.samples),
        trial_samples=tried.samples,
        loss=tried.loss,
    )


def _uncounted(module: nn.Module, tried: Trial) -> Absent | None:
    """Why torch's counter cannot be believed: it passes over fused recurrent layers, as over kernels of the user's."""
    from torch import nn

    recurrent = next((type(part).__name__ for part in module.modules() if isinstance(part, nn.RNNBase)), None)
    if recurrent:
        return Absent(f"torch's counter does not see nn.{recurrent}")
    return None if tried.flop else Absent("torch's counter saw no product and no convolution")
