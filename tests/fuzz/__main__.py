"""python -m tests.fuzz --minutes 1 --seed 7, or --inputs 10000, --only 1234, --processes 300, --hostile, --environments

Damaged files, options and names, each given to the commands that read it. A failure is an exit code that the contract
does not know, a traceback, an internal error, more than 10 s of processor time, or a raw character on the terminal.
What fails is kept in fuzz-failures/, a folder for each distinct way, and can be made again: --seed S --only NUMBER.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from . import environments, hostile, inputs, inside

KEPT = Path("fuzz-failures")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inputs", type=int, default=10**9, help="how many inputs; without it, as --minutes says")
    parser.add_argument(
        "--first", type=int, default=0, help="the number to begin with, as an earlier go's last line says"
    )
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--only", type=int, help="this one alone, with its trace")
    parser.add_argument("--processes", type=int, help="so many of them, each in processes of its own")
    parser.add_argument("--hostile", action="store_true", help="every place of foreign text with every hostile text")
    parser.add_argument("--environments", action="store_true", help="real processes in odd environments")
    asked = parser.parse_args()
    began = time.monotonic()
    minutes = asked.minutes if asked.minutes is not None else 1e9 if asked.inputs < 10**9 else 1.0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch, inside.prepared(Path(scratch) / "home"):
        (Path(scratch) / "home").mkdir()
        if asked.environments:
            return environments.tried(Path(scratch))
        if asked.hostile:
            return hostile.tried(Path(scratch))
        if asked.processes:
            return processes(asked.seed, asked.processes, Path(scratch))
        numbers = [asked.only] if asked.only is not None else range(asked.first, asked.inputs)
        done, failures = 0, Counter[str]()
        codes = Counter[int]()

        def said() -> str:
            return (
                f"{done - sum(failures.values()):,} of {done:,} inputs from {asked.first:,} on kept the contract; "
                f"{len(failures)} distinct failures; seed {asked.seed}, {time.monotonic() - began:.0f} s; "
                f"exit codes {dict(sorted(codes.items()))}"
            )

        for number in numbers:
            if time.monotonic() - began > 60 * minutes:
                break
            for kind, trace in failures_of(asked.seed, number, Path(scratch), codes):
                failures[kind] += 1
                if failures[kind] == 1 or asked.only is not None:
                    print(f"FAIL {number}: {kind}\n{trace if asked.only is not None else ''}", flush=True)
            done += 1
            if done % 500 == 0:
                print(said(), flush=True)
        print(said())
        return 1 if failures else 0


def failures_of(seed: int, number: int, scratch: Path, codes: Counter[int]) -> list[tuple[str, str]]:
    """The first command of an input that broke the contract, and how; the input is then kept."""
    folder = scratch / "input"
    folder.mkdir()
    here, kept = Path.cwd(), dict(os.environ)
    make = inputs.drawn(seed, number)[0].__name__
    found: list[tuple[str, str]] = []
    try:
        for typed in inputs.commands(seed, number, folder):
            told = inside.told(*typed)
            codes[told.code] += 1
            if told.kind:
                found = [
                    (
                        f"{make}: {told.kind}",
                        f"rigbench {' '.join(map(str, typed))[:2000]}\n{told.trace}\n{told.err[-2000:]}",
                    )
                ]
                break
    except inside.Hang:
        raise
    except Exception as error:  # noqa: BLE001 - a reader that is asked itself
        found = [(f"{make}: {inside._place(error)}", traceback.format_exc())]
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(kept)
    for kind, trace in found:
        place = KEPT / "".join(letter if letter.isalnum() else "-" for letter in kind)[:100]
        if not place.exists():
            shutil.copytree(folder, place, symlinks=True)
            (place / "what.txt").write_text(f"seed {seed} input {number}\n{trace}", errors="replace")
    shutil.rmtree(folder)
    return found


def processes(seed: int, count: int, scratch: Path) -> int:
    """The same inputs, read by real processes."""
    failures, tried, number = 0, 0, 0
    while tried < count:
        folder = scratch / "input"
        folder.mkdir()
        here, kept = Path.cwd(), dict(os.environ)
        for typed in list(inputs.commands(seed, number, folder))[:1]:
            tried += 1
            how = environments.end([sys.executable, "-m", "rigbench", *map(os.fspath, typed)], dict(os.environ))
            if how.kind:
                failures += 1
                print(f"FAIL {number}: {how.kind}: {typed}", flush=True)
        os.chdir(here)
        os.environ.clear()
        os.environ.update(kept)
        shutil.rmtree(folder)
        number += 1
    print(f"{tried - failures:,} of {tried:,} real processes kept the contract; seed {seed}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
