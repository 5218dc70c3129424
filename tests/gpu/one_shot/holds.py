"""Do the holds that precede a timed sample cover the host's time, and does flushing the L2 change what is timed?

A hold is a kernel that waits (torch.cuda._sleep): while it runs, the host hands over everything that is to be timed.
One that ends early leaves the host's own time in the sample.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from one_shot.piece import Piece, summary
from rigbench.machine import accelerator, cuda_cards

CYCLES = (100_000, 200_000, 400_000, 800_000, 1_600_000)


def event() -> Any:
    return torch.cuda.Event(enable_timing=True)


def hold_seconds(cycles: int, times: int) -> list[float]:
    found = []
    for _ in range(times):
        start, end = event(), event()
        start.record()
        torch.cuda._sleep(cycles)
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e3)
    return found


def two_copies() -> Callable[[Any, Any], None]:
    """What a sample of two opposite copies has the host do between hold and end."""
    here = torch.empty(1 << 20, dtype=torch.uint8, device="cuda")
    there = torch.empty(1 << 20, dtype=torch.uint8, pin_memory=True)
    streams = torch.cuda.Stream(), torch.cuda.Stream()

    def work(start: Any, end: Any) -> None:
        first, second = streams
        start.record(first)
        second.wait_event(start)
        with torch.cuda.stream(first):
            here.copy_(there, non_blocking=True)
        with torch.cuda.stream(second):
            there.copy_(here, non_blocking=True)
        first.wait_stream(second)
        end.record(first)

    work.stream = streams[0]  # type: ignore[attr-defined]
    return work


def one_product() -> Callable[[Any, Any], None]:
    one, other = (torch.randn(256, 256, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(one)

    def work(start: Any, end: Any) -> None:
        start.record()
        torch.mm(one, other, out=out)
        end.record()

    work.stream = torch.cuda.current_stream()  # type: ignore[attr-defined]
    return work


def covered(work: Callable[[Any, Any], None], cycles: int, times: int) -> dict[str, Any]:
    """How long the host took to hand it over, how often the hold had ended by then, and what was timed."""
    host, late, timed = [], 0, []
    for _ in range(times):
        torch.cuda.synchronize()
        start, end = event(), event()
        with torch.cuda.stream(work.stream):  # type: ignore[attr-defined]
            torch.cuda._sleep(cycles)
        began = time.perf_counter()
        work(start, end)
        host.append(time.perf_counter() - began)
        late += start.query()  # the device has passed the start: the hold was too short
        torch.cuda.synchronize()
        timed.append(start.elapsed_time(end) / 1e3)
    return {"host_seconds": summary(host), "late": late, "of": times, "timed_seconds": summary(timed)}


def by_graph(side: int, times: int) -> float | None:
    """Seconds of one product of many in a CUDA graph: no host in it at all. None where there are no graphs."""
    one, other = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(one)
    try:
        aside = torch.cuda.Stream()
        with torch.cuda.stream(aside):  # the library's workspace for another stream is made before it is recorded
            torch.mm(one, other, out=out)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(100):
                torch.mm(one, other, out=out)
    except (RuntimeError, AttributeError, TypeError):
        return None
    found = []
    for _ in range(times):
        start, end = event(), event()
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e5)
    return statistics.median(found)


def main() -> int:
    piece = Piece("holds")
    times = 5 if piece.tiny else 200
    torch.cuda.set_device(0)
    own = {module.HOLD_CYCLES for module in (accelerator, cuda_cards) if hasattr(module, "HOLD_CYCLES")}
    for cycles in sorted({*CYCLES, *own}):
        held = summary(hold_seconds(cycles, max(3, times // 10)))
        row: dict[str, Any] = {"cycles": cycles, "is_rigbenchs": cycles in own, "hold_seconds": held}
        for name, make in (("two copies", two_copies), ("one product", one_product)):
            row[name] = covered(make(), cycles, times)
        piece.row(**row)
        words = f"a hold of {cycles:,} cycles is {held['median'] * 1e6:.0f} µs"
        for name in ("two copies", "one product"):
            its = row[name]
            words += f"; {name}: the host takes {its['host_seconds']['median'] * 1e6:.0f} µs (95 %: "
            words += f"{its['host_seconds']['p95'] * 1e6:.0f}), late {its['late']} of {its['of']}"
        piece.learn(words, off=cycles in own and row["two copies"]["late"] > 0.05 * times)
    flush(piece, times)
    return piece.end()


def flush(piece: Piece, times: int) -> None:
    """Small work timed with and without a flush, by rigbench's `timed`, and the product by a graph beside it."""
    device = accelerator.CudaAccelerator(0)
    l2 = int(getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0))
    scrub = torch.empty(max(2 * l2, 1 << 20), dtype=torch.uint8, device="cuda")
    side = 256
    one, other = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out, small = torch.empty_like(one), torch.randn(1 << 20, device="cuda")
    work: dict[str, Callable[[], object]] = {
        "a product of 256³": lambda: torch.mm(one, other, out=out),
        "a sum of 4 MiB": lambda: small.sum(),
    }
    cycles = 50_000 if piece.tiny else 1_600_000
    for name, do in work.items():

        def own(flushed: bool, do: Callable[[], object] = do) -> float:
            found = []
            for index in range(times):
                start, end = event(), event()
                if flushed:
                    scrub.fill_(index & 1)
                torch.cuda._sleep(cycles)
                start.record()
                do()
                end.record()
                end.synchronize()
                found.append(start.elapsed_time(end) / 1e3)
            return statistics.median(found)

        do()
        seen = {"rigbench": statistics.median(device.timed(lambda _, do=do: do(), times))}
        late = sum(device.late)
        seen |= {"held and flushed": own(True), "held, not flushed": own(False)}
        graph = by_graph(side, 5) if name == "a product of 256³" and not piece.tiny else None
        if graph:
            seen["in a graph, not flushed"] = graph
        piece.row(work=name, seconds=seen, late=late, of=times, l2_bytes=l2)
        words = f"the host was late {late} times of {times}; "
        words += ", ".join(f"{how} {seconds * 1e6:.2f} µs" for how, seconds in seen.items())
        ratio = seen["rigbench"] / seen["held and flushed"] if seen["held and flushed"] else float("inf")
        piece.learn(f"{name}: {words}; rigbench over held and flushed {ratio:.3f}", off=abs(ratio - 1) > 0.15)


if __name__ == "__main__":
    sys.exit(main())
