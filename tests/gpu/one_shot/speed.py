"""Does a training go as fast as was predicted for this card before it was seen, inside of the interval?"""

from __future__ import annotations

import sys
from typing import Any

from one_shot.piece import Piece, last

SECONDS = 5.0
# Model, compiled, micro-batch: none of those that the constants were fitted on.
TRAININGS = (
    ("120M", True, 32),
    ("5M", True, 32),
    ("15M", False, 8),
    ("60M", False, 8),
    ("500M", False, 8),
    ("30M", True, 8),
)
NEEDED_SECONDS = {False: 10.0, True: 30.0}  # of a training, at the least: compiling is done twice
TINY = ((("--layers", "2", "--width", "64", "--vocab", "512", "--seq", "32"), False, 2),)


def slice_of(run: dict[str, Any]) -> dict[str, Any]:
    (first,) = run.get("slices") or [{}]
    return first if first.get("type") == "slice" else {}


def predicted(run: dict[str, Any]) -> dict[str, Any]:
    rows = (run.get("arms") or {}).get("rows") or [{}]
    return rows[0].get("time") or {}


def main() -> int:
    piece = Piece("speed")
    card = "rtx-4080-super" if piece.tiny else ""
    inside = asked = 0
    for model, compiled, micro_batch in TINY if piece.tiny else TRAININGS:
        if piece.left_seconds() < NEEDED_SECONDS[compiled]:
            piece.learn(f"no time left for {model} {'compiled' if compiled else 'eager'}")
            continue
        shape = model if piece.tiny else ("--params", model)
        how = ("--compile", "on" if compiled else "off", "--micro-batch", str(micro_batch), "--precision", "bf16")
        words = ("train-probe", *shape, *how, "--arms", "one")
        seconds = 1.0 if piece.tiny else SECONDS
        run, code, errors = piece.rigbench(*words, "--seconds", f"{seconds:g}s", "--share", "--keep-disturbed")
        its = slice_of(run)
        name = f"{model if not piece.tiny else 'tiny'} {'compiled' if compiled else 'eager'}, micro-batch {micro_batch}"
        if not its:
            piece.learn(f"{name}: no slice, exit {code}: {last(errors)}", off=True)
            continue
        card = card or its["device"]["name"].removeprefix("NVIDIA ").lower().replace(" ", "-")
        told, code, errors = piece.rigbench(*words, "--on", card)
        rate, step = its["items_per_s"], predicted(told).get("tokens_per_s")
        facts = {"tokens_per_s": rate["value"], "low": rate["low"], "high": rate["high"], "memory": its["memory"]}
        piece.row(training=name, predicted=step, compile=its["compile"], draws=its["draws"], **facts)
        if not step:
            piece.learn(f"{name}: {rate['value']:,.0f} tokens/s; no prediction, exit {code}: {last(errors)}", off=True)
            continue
        asked += 1
        held = step["low"] <= rate["value"] <= step["high"]
        inside += held
        words_of = f"{rate['value']:,.0f} tokens/s, predicted {step['value']:,.0f}"
        words_of += f" ({step['low']:,.0f} to {step['high']:,.0f}): {step['value'] / rate['value']:.2f} of it"
        piece.learn(f"{name}: {words_of}{'' if held else ', outside'}")
    piece.learn(f"{inside} of {asked} inside of their 90 % intervals", off=inside < 0.6 * asked)
    return piece.end()


if __name__ == "__main__":
    sys.exit(main())
