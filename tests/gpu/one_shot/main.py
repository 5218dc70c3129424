"""Does `rigbench run --quick` answer on this card, how long does it take, and which of its rooms stay empty?"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable
from typing import Any

from one_shot.piece import Piece, last, value, write

COMMAND = ("run", "--quick")
# Of a fake card, whose whole runs tests/fakecuda tries: one room stands for all.
TINY = ("matmul", "--params", "5M", "--micro-batch", "1", "--dtypes", "bf16", "--seconds", "6s", "--hot-seconds", "1s")
ROOMS = ("topology", "bandwidth", "p2p", "collectives", "matmul", "dataloader", "budget")
FINDING = re.compile(r"\(([a-z0-9]+(?:-[a-z0-9]+)+)\)$")  # a fault of the rig ends with its code, one of ours does not


def rooms(run: dict[str, Any]) -> dict[str, str]:
    """Each room of the run: "" where it was measured, else why not."""
    found = {}
    for name in ROOMS:
        room = run.get(name) or {"type": "absent", "reason": "no such room"}
        found[name] = room.get("reason", "") if room["type"] in ("absent", "skipped") else ""
    slices = run.get("slices", [])
    skipped = [one.get("reason", "") for one in slices if one["type"] == "skipped"]
    return found | {"slices": "; ".join(skipped) if slices else "no slice"}


def ceilings(run: dict[str, Any]) -> dict[str, float]:
    """FLOP/s by dtype, of the matmul room of a run."""
    room = run.get("matmul", {})
    return {dtype: one["value"] for dtype, one in room.get("best_flops_per_s", {}).items()}


def slices(run: dict[str, Any]) -> Iterable[str]:
    for one in run.get("slices", []):
        if one["type"] == "slice":
            rate, its = value(one["items_per_s"]), one["recipe"]
            how = f"{its['precision']}{', compiled' if its['compiled'] else ''}, micro-batch {its['micro_batch']}"
            mfu = one["mfu"].get("value")
            yield f"{one['model']['name']} ({how}): {rate:,.0f} tokens/s" + (f", MFU {mfu:.3f}" if mfu else "")


def disturbances(run: dict[str, Any]) -> list[str]:
    """What else the machine did beside the probes: a line a room, every attempt."""
    found = {}
    for one in run.get("disturbances", []):
        for sentence in one["evidence"]:
            found[f"{one['room']} was disturbed: {sentence}"] = None
    return list(found)


def ours(errors: str) -> list[str]:
    """The faults among the lines on standard error that are not findings about the rig."""
    faults = [line.partition("fault: ")[2] for line in errors.splitlines() if "fault: " in line]
    return [line for line in faults if not FINDING.search(line)]


def main() -> int:
    piece = Piece("main")
    began = time.monotonic()
    command = TINY if piece.tiny else COMMAND
    run, code, errors = piece.rigbench(*command)
    seconds = time.monotonic() - began
    write(piece.out / "run.json", run)
    piece.row(command=" ".join(command), exit=code, seconds=seconds, rooms=rooms(run), ceilings=ceilings(run))
    piece.learn(f"rigbench {' '.join(command)}: exit {code} after {seconds:.0f} s")
    for line in errors.splitlines():
        if "fault: " in line or "warning: " in line:
            piece.learn(line)
    for line in disturbances(run):
        piece.learn(line)
    for line in slices(run):
        piece.learn(line)
    if not run or code not in (0, 1) or ours(errors):
        piece.learn(f"it did not answer as it should: {'; '.join(ours(errors)) or last(errors)}", off=True)
    for name, why in rooms(run).items():
        if why and not piece.tiny:
            piece.learn(f"{name} stayed empty: {why}", off="one GPU" not in why)
    return piece.end()


if __name__ == "__main__":
    sys.exit(main())
