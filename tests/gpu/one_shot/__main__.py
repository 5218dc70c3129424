"""Runs every piece, each in a process of its own under its own limit, the most valuable first; then a summary.

python -m one_shot OUT [--tiny] [--only main,vram] [--minutes 8]

OUT/summary.json is written anew after each piece: per piece how it ended, its seconds, what was learnt. The exit code
is 0 where all of them ended well, 2 where there is no card, else 1.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from one_shot.piece import last, read, write

GRACE_SECONDS = 6.0  # from the request to stop, which keeps what there is, to the end by force
TINY_PACE = 5.0  # a CPU that plays a card takes so much longer, small as everything is then
FEWEST_SECONDS = 8.0  # with less, a piece would only have loaded torch
STOPPED = (124, 137)  # timeout(1): by the request, by force


class Group(NamedTuple):
    """A piece, and the seconds that it has on the slowest card that it was sized for (none was timed yet)."""

    name: str
    seconds: float
    asks: str
    command: tuple[str, ...] = ()  # instead of the module of its name


# At most so long each; what a piece leaves goes to those after it, and what is left at the end to the tests.
GROUPS = (
    Group("rig", 25.0, "what is this machine, and what does rigbench make of it?"),
    Group("main", 180.0, "does `rigbench run --quick` answer, how long does it take, which rooms are empty?"),
    Group("vram", 45.0, "does a training step take the memory that was predicted, arm by arm, size by size?"),
    Group("ceiling", 25.0, "is the matmul ceiling at least what a plain scan over cubes finds?"),
    Group("loop", 120.0, "does a slice train as fast as a plain loop of the same model, eager and compiled?"),
    Group("energy", 25.0, "do energy counter and integrated power agree?"),
    Group("speed", 150.0, "does training go as fast as was predicted before the card was seen?"),
    Group("resume", 60.0, "does a stopped training go on nearer to what it was than another seed is?"),
    Group("holds", 20.0, "do the holds cover the host's time, and does flushing the L2 matter?"),
    Group("heat", 80.0, "does a minute of load heat the card, and is it told?"),
    Group("wrapped", 50.0, "do FSDP2, DDP and 8-bit optimizers train, with the losses of a single process?"),
    Group("suite", 0.0, "what do the tests of tests/gpu say?"),
)


def run_all(
    groups: Sequence[Group], out: Path, total_seconds: float, tiny: bool = False, seen: Any = None
) -> dict[str, Any]:
    """The summary. A group's time is its own, or what is left; the last one takes all that is left.

    `seen` is what torch sees of the card.
    """
    began = time.monotonic()
    said, ended = asked_of_the_driver(), []
    facts = {"started_at": now(), "tiny": tiny, "software": software(), "torch": seen}
    facts["card"] = {name: said[name] for name in IDENTITY if name in said}
    before = {name: said[name] for name in said if name not in IDENTITY}
    write(out / "summary.json", facts | {"ended": "running", "groups": ended})
    for group in groups:
        left = total_seconds - (time.monotonic() - began)
        wanted = group.seconds or left - GRACE_SECONDS
        limit = min(wanted, left - GRACE_SECONDS)
        ended.append(run(group, out, limit, tiny))
        tell(ended[-1])
        write(out / "summary.json", facts | {"ended": "running", "groups": ended})
    after = asked_of_the_driver()
    changed = sorted(name for name in before if before[name] != after.get(name))
    found = facts | {"seconds": round(time.monotonic() - began, 1), "groups": ended}
    found |= {"settings": before, "settings_changed": changed, "ended": "finished"}
    write(out / "summary.json", found)
    return found


def run(group: Group, out: Path, limit: float, tiny: bool) -> dict[str, Any]:
    """How one group ended. Whatever it wrote before it was ended is kept and read."""
    about = {"name": group.name, "asks": group.asks, "limit_seconds": round(limit, 1)}
    if limit < FEWEST_SECONDS and not group.command:
        return about | {"status": "no time left", "seconds": 0.0, "why": "", "learnt": [], "off": []}
    (out / f"{group.name}.json").unlink(missing_ok=True)
    words = [sys.executable, "-m", f"one_shot.{group.name}", str(out), "--seconds", f"{limit:.0f}"]
    words = list(group.command) or words + ["--tiny"] * tiny
    began = time.monotonic()
    with (out / f"{group.name}.log").open("wb") as log:
        # INT first: rigbench and the pieces then keep what they have. The whole group of processes gets it.
        ender = ["timeout", "--signal=INT", f"--kill-after={GRACE_SECONDS:g}", f"{limit:.1f}"]
        code = subprocess.run([*ender, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log).returncode
    code = 128 - code if code < 0 else code  # timeout(1) dies as its command did, and by force of its own signal
    seconds = time.monotonic() - began
    kept = read(out / f"{group.name}.json")
    status = "ok" if code == 0 else "timed out" if code in STOPPED and seconds >= limit - 0.5 else "failed"
    off = kept.get("off", [])
    said = last((out / f"{group.name}.log").read_text(errors="replace"))[:300]
    said = f"it was killed by signal {code - 128}" if code > 128 else said
    failed = "; ".join(off) if off and code == 1 else f"exit {code}: {said}"
    why = {"ok": "", "timed out": f"ended after {seconds:.0f} s", "failed": failed}[status]
    found = about | {"status": status, "seconds": round(seconds, 1), "why": why}
    return found | {"learnt": kept.get("learnt", []), "off": off}


def tell(one: dict[str, Any]) -> None:
    print(f"{one['name']:8} {one['status']:12} {one['seconds']:6.1f} s  {one['why']}", flush=True)
    for line in one["learnt"]:
        print(f"{'':8} {line}", flush=True)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def software() -> dict[str, Any]:
    found: dict[str, Any] = {"python": platform.python_version(), "kernel": platform.release()}
    from importlib import metadata

    for name in ("rigbench", "torch", "triton", "bitsandbytes", "nvidia-ml-py", "nvidia-nccl-cu12", "nvidia-nccl-cu13"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    said = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found | {"commit": said.stdout.strip() or "not a git checkout"}


IDENTITY = ("name", "count", "driver", "memory_bytes", "used_bytes")


def asked_of_the_driver() -> dict[str, Any]:
    """In a process of its own: a driver that hangs costs these answers and nothing else."""
    try:
        said = subprocess.run([sys.executable, "-m", "one_shot.driver"], capture_output=True, text=True, timeout=20)
        return json.loads(said.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        return {"driver": f"no answer: {type(error).__name__}"}


def torch_card() -> dict[str, Any] | str:
    """What torch sees, or why it sees no card."""
    try:
        words = [sys.executable, "-m", "one_shot.torch_card"]
        said = subprocess.run(words, capture_output=True, text=True, timeout=90)
        return json.loads(said.stdout) if said.returncode == 0 else last(said.stderr)
    except subprocess.TimeoutExpired:
        return "torch did not come up"


def without_caches(out: Path) -> None:
    """What can be made anew is no result: tokens, the index of runs."""
    for home in out.glob("home*"):
        shutil.rmtree(home / "cache", ignore_errors=True)
        for index in home.glob("index.sqlite*"):
            index.unlink()


def main(words: list[str] | None = None) -> int:
    asked = argparse.ArgumentParser(prog="one_shot.sh", description="All that one card can tell, in one command.")
    asked.add_argument("out", type=Path)
    asked.add_argument("--tiny", action="store_true", help="small sizes, no judgement of speeds: for a fake card")
    asked.add_argument("--only", metavar="A,B", help=f"some of {', '.join(group.name for group in GROUPS)}")
    asked.add_argument("--minutes", type=float, help="for everything (default: 8, or 40 if tiny: CPUs are slow)")
    options = asked.parse_args(words)
    names = options.only.split(",") if options.only else [group.name for group in GROUPS]
    if unknown := set(names) - {group.name for group in GROUPS}:
        asked.error(f"--only: no group {', '.join(sorted(unknown))}")
    if shutil.which("timeout") is None:
        asked.error("timeout(1) is missing; it belongs to coreutils")
    pace = TINY_PACE if options.tiny else 1.0
    chosen = [group._replace(seconds=pace * group.seconds) for group in GROUPS if group.name in names]
    minutes = options.minutes or 8.0 * pace
    began, seen = time.monotonic(), torch_card()
    if isinstance(seen, str):
        print(f"one_shot.sh: {seen}", file=sys.stderr)
        return 2
    left = 60 * minutes - (time.monotonic() - began)
    found = run_all(chosen, options.out, left, options.tiny, seen)
    without_caches(options.out)
    for name in found["settings_changed"]:
        print(f"settings: {name} is not what it was before", flush=True)
    print(f"{found['seconds']:.0f} s, all in {options.out}", flush=True)
    well = all(one["status"] == "ok" for one in found["groups"]) and not found["settings_changed"]
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
