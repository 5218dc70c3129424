"""Opens every GPU that a whole run would use. Runs in a process of its own, before anything is measured."""

from __future__ import annotations

from rigbench.everything.record import Opened
from rigbench.everything.record import OpenOptions as Options
from rigbench.machine.accelerator import cuda_devices, no_kernels, open_device
from rigbench.work.process import Report


def run(options: Options, report: Report) -> Opened:
    """
    Raises:
        RigbenchError: there are GPUs, and torch cannot use them, or one of them cannot be opened.
    """
    opened = [open_device(options.device, flushed=False).device]
    if opened[0].kind == "cuda" and ":" not in options.device:
        for index, device in enumerate(cuda_devices()):
            if device.uuid != opened[0].uuid and not no_kernels(index):
                opened.append(open_device(f"cuda:{index}", flushed=False).device)
    return Opened(tuple(opened))
