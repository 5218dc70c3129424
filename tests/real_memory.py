"""What did a training step really allocate on this CPU? torch's own profiler tells, and the replica replays it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from rigbench.model import optim
from rigbench.predict.allocator import Allocator

# Kernels of the CPU that take scratch memory of their own, which no GPU takes: oneDNN's products, flash attention.
WITH_SCRATCH = ("aten::mm", "aten::addmm", "aten::bmm")


def peaks(work: Callable[[], object], before: list[int] | None = None) -> tuple[int, int]:
    """(allocated, reserved) peak bytes of what `work` allocates, after storages of the sizes `before`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    allocator, live = Allocator(), {}
    for size in before or []:
        allocator.allocate(size)
    for _, address, size in sorted(_events(profiler.profiler.kineto_results.experimental_event_tree())):
        if size > 0:
            live[address] = allocator.allocate(size)
        elif address in live:
            allocator.release(live.pop(address))
    return allocator.peak_allocated_bytes, allocator.peak_reserved_bytes


def train(model, sequences, shape, precision="fp32", accumulation=1, foreach=False, optimizer=None):
    """Two steps of the loop that is predicted, without clipping."""
    if optimizer is None:
        optimizer = optim.build("adamw", model)
    for group in optimizer.param_groups:
        group.update(fused=not foreach, foreach=foreach)
    for _ in range(2):
        for _ in range(accumulation):
            block = torch.zeros((sequences, shape.sequence + 1), dtype=torch.int64)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = model(block[:, :-1], block[:, 1:])
            loss.backward()
            del loss, block
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _events(nodes, inside=False):
    found = []
    for node in nodes:
        scratch = node.name in WITH_SCRATCH or "flash_attention" in node.name
        if node.tag.name == "Allocation":
            found.append((node.start_time_ns, node.extra_fields.ptr, node.extra_fields.alloc_size))
        below = _events(node.children, inside or scratch)
        found += _outliving(below) if scratch and not inside else below
    return found


def _outliving(events):
    """Without what was both made and freed in here."""
    live, scratch = {}, set()
    for event in sorted(events):
        _, address, size = event
        if size > 0:
            live[address] = event
        elif address in live:
            scratch |= {live.pop(address), event}
    return [event for event in events if event not in scratch]
