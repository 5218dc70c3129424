"""What the pieces share: their options, a file of results that survives what happens next, and rigbench's command.

A piece is one question to a real card. It writes what it knows after every row, so that one that hangs or dies keeps
what it had; it ends with 1 where something is off, which means: outside what this project says of itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RIGBENCH = ("-m", "rigbench")
RANK = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", *RIGBENCH)  # one, under torchrun
LAST_SECONDS = 4.0  # from the request to stop to the end by force, and a little less


class Piece:
    """`rows` are measurements, `learnt` sentences for people, `off` those of them that say something is wrong."""

    def __init__(self, name: str, words: list[str] | None = None) -> None:
        asked = argparse.ArgumentParser(prog=f"one_shot.{name}")
        asked.add_argument("out", type=Path, help="a folder")
        asked.add_argument("--tiny", action="store_true", help="small enough for a CPU that plays the card")
        asked.add_argument("--seconds", type=float, default=600.0, help="what there is; the piece is ended then")
        options = asked.parse_args(words)
        self.name, self.out, self.tiny = name, options.out, options.tiny
        self.began, self.limit_seconds = time.monotonic(), options.seconds
        self.kept: dict[str, Any] = {"piece": name, "tiny": self.tiny, "rows": [], "learnt": [], "off": []}
        self.keep()

    def left_seconds(self) -> float:
        return self.limit_seconds - (time.monotonic() - self.began)

    def keep(self, **fields: Any) -> None:
        self.kept |= fields
        write(self.out / f"{self.name}.json", self.kept)

    def row(self, **fields: Any) -> None:
        self.kept["rows"].append(fields)
        print(json.dumps(fields), flush=True)
        self.keep()

    def learn(self, line: str, off: bool = False) -> None:
        """`off` counts for nothing in a tiny run: a CPU that plays a card has no speeds to be wrong about."""
        self.kept["learnt"].append(line)
        if off and not self.tiny:
            self.kept["off"].append(line)
        print(f"OFF: {line}" if off else line, flush=True)
        self.keep()

    def end(self) -> int:
        self.keep(seconds=time.monotonic() - self.began)
        return 1 if self.kept["off"] else 0

    def rigbench(self, *words: str) -> tuple[dict[str, Any], int, str]:
        """(the run's document, exit code, what it said on standard error); no document: {}."""
        return finished(self.started(*words))

    def started(self, *words: str, start: Sequence[str] = RIGBENCH, home: str = "home") -> subprocess.Popen[str]:
        command = [sys.executable, *start, *words, "--json", "--home", str(self.out / home)]
        print("+", " ".join(command), flush=True)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> tuple[dict[str, Any], int, str]:
    try:
        out, err = process.communicate()
    except KeyboardInterrupt:  # it was told too, and hands over what it has
        out, err = process.communicate(timeout=LAST_SECONDS)
    sys.stderr.write(err)
    try:
        document = json.loads(out)
    except ValueError:
        document = {}
    return document, process.returncode, err


def last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def write(path: Path, value: Any) -> None:
    """Whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    beside.replace(path)


def read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def value(record: Any) -> float | None:
    """Of an estimate or a figure of rigbench's documents; None where it is missing."""
    return record.get("value") if isinstance(record, dict) else record


def summary(samples: list[float]) -> dict[str, float]:
    ordered = sorted(samples)
    return {
        "n": len(ordered),
        "least": ordered[0],
        "median": statistics.median(ordered),
        "p95": ordered[int(0.95 * (len(ordered) - 1))],
        "most": ordered[-1],
    }
