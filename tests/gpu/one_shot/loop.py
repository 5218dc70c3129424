"""Does a slice of rigbench train as fast as plain_loop.py, which knows nothing of rigbench, eager and compiled?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from one_shot.piece import Piece, last

# Few layers: a compile takes seconds a layer, and the comparison is about the loop.
SIZES, MICRO_BATCH, SECONDS = {"layers": 4, "width": 768, "heads": 12, "vocab": 50304, "seq": 1024}, 16, 6.0
TINY, TINY_MICRO_BATCH, TINY_SECONDS = {"layers": 2, "width": 64, "heads": 2, "vocab": 512, "seq": 32}, 2, 1.0
LEAST, MOST = 0.95, 1.05


def plain(sizes: dict[str, int], micro_batch: int, seconds: float, compiled: bool) -> dict[str, Any] | str:
    words = [*map(str, sizes.values()), str(micro_batch), str(seconds), *(["--compile"] if compiled else [])]
    command = [sys.executable, str(Path(__file__).with_name("plain_loop.py")), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    sys.stderr.write(done.stderr)
    return json.loads(last(done.stdout)) if done.returncode == 0 else last(done.stderr)


def main() -> int:
    piece = Piece("loop")
    sizes = TINY if piece.tiny else SIZES
    micro_batch, seconds = (TINY_MICRO_BATCH, TINY_SECONDS) if piece.tiny else (MICRO_BATCH, SECONDS)
    shape = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    for compiled in (False, True):
        how = "compiled" if compiled else "eager"
        other = plain(sizes, micro_batch, seconds, compiled)
        if isinstance(other, str):
            piece.learn(f"{how}: the plain loop failed: {other}", off=True)
            continue
        piece.row(how=how, by="plain loop", **other)
        choice = ["--compile", "on" if compiled else "off", "--micro-batch", str(micro_batch), "--arms", "one"]
        words = ["train-probe", *shape, *choice, "--precision", "bf16", "--seconds", f"{seconds:g}s", "--share"]
        run, code, errors = piece.rigbench(*words)
        (slice_,) = run.get("slices") or [{}]
        if slice_.get("type") != "slice":
            piece.learn(f"{how}: rigbench gave no slice, exit {code}: {last(errors)}", off=True)
            continue
        rate = slice_["items_per_s"]
        memory, losses = slice_["memory"]["allocated_bytes"], slice_["steps"]["loss"]
        facts = {"tokens_per_s": rate["value"], "low": rate["low"], "high": rate["high"], "peak": memory}
        ended = {"ended_by": slice_["ended_by"], "steps": len(losses), "loss": [losses[0], losses[-1]]}
        piece.row(how=how, by="rigbench", **facts, **ended, step_share=slice_["step_share"])
        ratio = rate["value"] / other["tokens_per_s"]
        rates = f"{rate['value']:,.0f} of {other['tokens_per_s']:,.0f} tokens/s"
        piece.learn(f"{how}: rigbench over a plain loop {ratio:.3f} ({rates})", off=not LEAST <= ratio <= MOST)
    return piece.end()


if __name__ == "__main__":
    sys.exit(main())
