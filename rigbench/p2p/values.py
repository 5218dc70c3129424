"""Did every value arrive, and if not, what was found in its place? Judged by the device that holds the destination."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rigbench.core.record import Absent
from rigbench.p2p.record import ValueCheck, Way
from rigbench.work.copies import fill

if TYPE_CHECKING:
    import torch

FLOAT_SHIFT = 44  # leaves 20 bits, sign included: sums of 16 ranks are exact in float32
MULTIPLIER = 0xBF58476D1CE4E5B9 - (1 << 64)  # of splitmix64 (Steele, Lea and Flood 2014), as a signed 64-bit value
EVERY_ROUND, MOST_DEVICES = 1 << 16, 128  # seeds of one round; a sender and a receiver give a seed of their own


def sent_seed(round_number: int, source: int, destination: int = 0) -> int:
    """What one device sends another in one round; no two of a run are alike."""
    return EVERY_ROUND * (round_number + 1) + MOST_DEVICES * (source + 1) + destination


def before_seed(round_number: int, device: int) -> int:
    """What lies in a destination before anything is sent."""
    return EVERY_ROUND * (round_number + 1) + device


def filled_like(buffer: torch.Tensor, seed: int) -> torch.Tensor:
    """The values of a seed, worked out where the buffer lies: [n] of int64, or whole numbers of 20 bits in float32.

    Those are mixed once more: a pattern's leading bits are so regular that sums of two were often equal from one round
    to the next.
    """
    import torch

    values = fill(torch.empty(buffer.numel(), dtype=torch.int64, device=buffer.device), seed)
    if buffer.dtype == values.dtype:
        return values
    mixed = (values ^ (values >> 32)) * MULTIPLIER
    return ((mixed ^ (mixed << 20)) >> FLOAT_SHIFT).to(buffer.dtype)


class Rounds:
    """The rounds of one check, added up."""

    def __init__(self, way: Way, sources: tuple[str, ...], destination: str, both_ways: bool, size_bytes: int) -> None:
        self.way, self.sources, self.destination = way, sources, destination
        self.both_ways, self.size_bytes = both_ways, size_bytes
        names = ("checked", "wrong", "wrong_values", "unchanged", "earlier", "returned", "strayed")
        self.counts = dict.fromkeys(names, 0)
        self.first_wrong_byte: int | Absent = Absent("every value was right")

    def judge(
        self,
        found: torch.Tensor,
        expected: torch.Tensor,
        *,
        before: torch.Tensor,
        earlier: torch.Tensor | None = None,
        own: torch.Tensor | None = None,
        returned: int = 0,
        strayed: int = 0,
    ) -> None:
        """One round. All tensors are [n] on the destination's device: what `before` lay there, what an `earlier` round
        sent, what the destination itself sent (`own`). Values found elsewhere are counted by the caller.
        """
        import torch

        self.counts["checked"] += 1
        equal = torch.equal(found, expected)
        if equal and not returned and not strayed:
            return
        self.counts["wrong"] += 1
        self.counts["returned"] += returned
        self.counts["strayed"] += strayed
        if equal:
            return
        differs = found != expected
        self.counts["wrong_values"] += int(differs.sum())
        for name, candidate in (("unchanged", before), ("earlier", earlier), ("returned", own)):
            if candidate is not None:
                self.counts[name] += int(((found == candidate) & differs).sum())
        if isinstance(self.first_wrong_byte, Absent):
            self.first_wrong_byte = int(differs.to(torch.uint8).argmax()) * found.element_size()

    def record(self) -> ValueCheck:
        return ValueCheck(
            way=self.way,
            sources=self.sources,
            destination=self.destination,
            both_ways=self.both_ways,
            size_bytes=self.size_bytes,
            checked=self.counts["checked"],
            wrong=self.counts["wrong"],
            wrong_values=self.counts["wrong_values"],
            unchanged_values=self.counts["unchanged"],
            earlier_values=self.counts["earlier"],
            returned_values=self.counts["returned"],
            strayed_values=self.counts["strayed"],
            first_wrong_byte=self.first_wrong_byte,
        )
