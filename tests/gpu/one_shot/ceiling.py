"""Is the matmul ceiling at least what a plain scan finds? Torch alone: cubes, the wall clock, no search."""

from __future__ import annotations

import statistics
import sys
import time

import torch

from one_shot.main import ceilings
from one_shot.piece import Piece, read

SIDES = tuple(range(1024, 16385, 1024))
LEAST, MOST = 0.97, 1.25  # the fastest product, in a short test or under load, over the best cube held for seconds
BLOCK_SECONDS, HELD_SECONDS, TRIES = 0.06, 0.8, 3


def rate(side: int, dtype: torch.dtype, block_seconds: float) -> float:
    """FLOP/s of side³, the median of a few blocks of products back to back."""
    one, other = (torch.randn(side, side, device="cuda").to(dtype) for _ in range(2))
    out = torch.empty_like(one)
    torch.mm(one, other, out=out)
    torch.cuda.synchronize()
    count, seconds = 1, []
    while len(seconds) < TRIES:
        began = time.perf_counter()
        for _ in range(count):
            torch.mm(one, other, out=out)
        torch.cuda.synchronize()
        took = time.perf_counter() - began
        if took < 0.7 * block_seconds and not seconds:
            count = max(count + 1, round(count * block_seconds / took))
        else:
            seconds.append(took / count)
    return 2 * side**3 / statistics.median(seconds)


def scan(piece: Piece, name: str, dtype: torch.dtype, sides: tuple[int, ...]) -> float:
    rates = {}
    for side in sides:
        rates[side] = rate(side, dtype, 0.01 if piece.tiny else BLOCK_SECONDS)
        piece.row(dtype=name, side=side, flops_per_s=rates[side])
    best = max(rates, key=lambda side: rates[side])
    held = rate(best, dtype, 0.01 if piece.tiny else HELD_SECONDS)
    words = f"{rates[best] / 1e12:.2f} TFLOP/s for a moment, {held / 1e12:.2f} held for seconds"
    piece.learn(f"plain scan, {name}: best cube {best}, {words}")
    return held


def main() -> int:
    piece = Piece("ceiling")
    found = ceilings(read(piece.out / "run.json"))
    if "bf16" not in found:  # the main job did not get so far
        size = ("--params", "5M", "--micro-batch", "1") if piece.tiny else ()
        words = ("--dtypes", "bf16", "--seconds", "10s", "--hot-seconds", "3s")
        found |= ceilings(piece.rigbench("matmul", *size, *words)[0])
    torch.backends.cuda.matmul.allow_tf32 = False
    plan = [("bf16", torch.bfloat16, (64, 128) if piece.tiny else SIDES)]
    if not piece.tiny and "fp32" in found:
        plan.append(("fp32", torch.float32, SIDES[3:8:2]))
    for name, dtype, sides in plan:
        best = scan(piece, name, dtype, sides)
        if name not in found:
            piece.learn(f"{name}: rigbench names no ceiling to compare", off=True)
            continue
        ratio = found[name] / best
        piece.keep(ratios=piece.kept.get("ratios", {}) | {name: ratio})
        piece.learn(f"{name}: rigbench's ceiling over the best cube {ratio:.3f}", off=not LEAST <= ratio <= MOST)
    return piece.end()


if __name__ == "__main__":
    sys.exit(main())
