"""Do DDP, FSDP2 and 8-bit optimizers train on a real card, with the losses of a plain process? All at once on one card.

One rank under torchrun: the wrapping, NCCL's group and gloo beside it, with nobody to exchange with. Speeds say nothing
here, since all of them share the card.
"""

from __future__ import annotations

import sys

from one_shot.piece import RANK, RIGBENCH, Piece, finished, last

SIZE = ("--params", "15M", "--micro-batch", "4", "--seconds", "3s")
TINY = ("--layers", "2", "--width", "64", "--vocab", "512", "--seq", "32", "--micro-batch", "2", "--seconds", "1s")
# Name: its words, whether under torchrun, and how far its first losses may lie from the plain ones, as a share.
ARMS = {
    "plain": (("--strategy", "single"), False, 0.0),
    "ddp": (("--strategy", "ddp"), True, 1e-3),
    "fsdp2": (("--strategy", "fsdp2"), True, 1e-3),
    "fsdp2-offload": (("--strategy", "fsdp2-offload"), True, 1e-3),
    "adamw8bit": (("--optimizer", "adamw8bit"), False, 2e-2),
    "paged-adamw8bit": (("--optimizer", "paged-adamw8bit"), False, 2e-2),
}
FIRST = 8  # losses to compare


def main() -> int:
    piece = Piece("wrapped")
    names = ("plain", "fsdp2", "adamw8bit") if piece.tiny else tuple(ARMS)
    words = (
        "train-probe",
        *(TINY if piece.tiny else SIZE),
        "--arms",
        "one",
        "--precision",
        "fp32",
        "--share",
        "--keep-disturbed",
    )
    started = {
        name: piece.started(*words, *ARMS[name][0], start=RANK if ARMS[name][1] else RIGBENCH, home=f"home-{name}")
        for name in names
    }
    plain: list[float] = []
    for name, process in started.items():
        run, code, errors = finished(process)
        (its,) = run.get("slices") or [{}]
        if its.get("type") != "slice":
            piece.row(arm=name, exit=code, said=last(errors))
            piece.learn(f"{name}: no slice, exit {code}: {last(errors)}", off=True)
            continue
        losses = its["steps"]["loss"]
        plain = plain or losses
        both = min(FIRST, len(losses), len(plain))
        apart = max(abs(one / other - 1) for one, other in zip(losses[:both], plain[:both], strict=True))
        memory = {key: its["memory"][key] for key in ("allocated_bytes", "reserved_bytes")}
        piece.row(arm=name, exit=code, losses=losses[:FIRST], apart=apart, memory=memory, recipe=its["recipe"])
        said = f"{name}: {len(losses)} steps, loss {losses[0]:.4f} to {losses[-1]:.4f}, "
        piece.learn(f"{said}first {both} losses apart by {apart:.2%} at most", off=apart > ARMS[name][2])
    return piece.end()


if __name__ == "__main__":
    sys.exit(main())
