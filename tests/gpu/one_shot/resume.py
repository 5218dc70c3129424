"""Does a training that was stopped on this card go on nearer to what it was than another seed is?"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from pathlib import Path

import psutil

from one_shot.piece import Piece, finished, last, read

SERIES = """
name = "small"
about = "one model that takes seconds"
source = "rigbench"
shape = { style = "gpt2", vocabulary = 257, sequence = 128, tied_head = true, biases = true }
models = [{ name = "100k", layers = 4, width = 64, heads = 2 }]
"""
BATCH, STEPS, TINY_STEPS = 16, 3500, 600
SAVE_SECONDS = 6  # a record is written 5 s after a checkpoint: a kill then loses what lies between
WAIT_SECONDS = 45.0
APART = re.compile(r"the loss of step (\d+) is (\S+) off what it was before the stop; another seed's is (\S+) off")


def beyond_its_checkpoint(folder: Path) -> bool:
    """The second seed's record holds steps that its last checkpoint does not."""
    records = [read(path) for path in folder.glob("*/*-1/record.json")]
    return any(it["checkpoints"] and len(it["training_loss"]) > it["checkpoints"][-1]["step"] for it in records if it)


def main() -> int:
    piece = Piece("resume")
    series, data = piece.out / "small.toml", piece.out / "text.bin"
    series.write_text(SERIES)
    text = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    data.write_bytes(bytes(part for byte in text * 20 for part in (byte, 0)))  # ids of two bytes
    tokens = 128 * BATCH * (TINY_STEPS if piece.tiny else STEPS)
    words = ("--series", str(series), "--data", str(data), "--tokens", str(tokens), "--batch", str(BATCH))
    many = ("--seeds", "2", "--save-every", f"{SAVE_SECONDS}s")
    process = piece.started("scaling", "run", *words, *many, home="home-resume")
    patience = WAIT_SECONDS * (5 if piece.tiny else 1)
    began, folder = time.monotonic(), piece.out / "home-resume" / "scaling"
    while process.poll() is None and time.monotonic() - began < patience and not beyond_its_checkpoint(folder):
        time.sleep(0.1)
    ended, whole = process.poll() is not None, psutil.Process(process.pid)
    for one in [] if ended else [*whole.children(recursive=True), whole]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    _, _, errors = finished(process)
    stored = sorted((piece.out / "home-resume" / "runs").glob("*.json"))
    if ended or not stored:
        piece.learn(f"it could not be killed on its way: {last(errors)}", off=True)
        return piece.end()
    again, code, errors = finished(piece.started("scaling", "run", "--resume", stored[-1].stem, home="home-resume"))
    events = [text for it in again.get("scaling", []) for text in it.get("events", [])]
    piece.row(exit=code, events=events, losses=[it.get("training_loss", [])[-1:] for it in again.get("scaling", [])])
    told = next((found for text in events if (found := APART.search(text))), None)
    if code != 0:
        piece.learn(f"it did not go on: exit {code}, {last(errors)}", off=True)
    elif told:
        step, off, seeds = told.groups()
        words_of = f"step {step} again is {off} off what it was; another seed is {seeds} off"
        piece.learn(words_of, off=float(off) >= float(seeds))
    else:
        piece.learn("it went on with the same losses to the bit" if not events else "; ".join(events))
    return piece.end()


if __name__ == "__main__":
    sys.exit(main())
