"""Finds the cards that a name means, as people write it: "4090", "RTX 4070 Ti SUPER 16GB", "A100-SXM4-80GB"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rigbench.core.profiles import GpuProfile

Words = frozenset[str]
# Words that say nothing of which card it is.
NOISE = {"nvidia", "geforce", "amd", "instinct", "tesla", "gpu", "gpus", "graphics", "card", "edition", "generation"}
NOISE |= {"with", "design"}
SERIES = {"rtx", "gtx"}  # said or not, but of a Titan, where they are all that tells two apart
SAME = {"mobile": "laptop", "notebook": "laptop", "sxm2": "sxm", "sxm3": "sxm", "sxm4": "sxm", "sxm5": "sxm"}
# Words that make another card of one: never added to what was said.
VARIANTS = {"ti", "super", "laptop", "d", "maxq", "sff", "server", "embedded"}
MEMORY = re.compile(r"(\d+)(?:gb|g|gib)")


def words(name: str) -> Words:
    """A name's words: "RTX4070Ti 12 GB" is {4070, ti, 12gb}."""
    text = re.sub(r"max[ -]?q", "maxq", name.lower())
    text = re.sub(r"(\d)\s*(gb|gib|g)\b", r"\1gb", text)
    text = re.sub(r"\b(rtx|gtx|dgx|titan)(?=[a-z]?\d)", r"\1 ", text)
    text = re.sub(r"\b(\d{3,4})(ti|super|laptop|mobile|d)", r"\1 \2", text)
    text = re.sub(r"\bti(super)\b", r"ti \1", text)
    text = re.sub(r"\b([ahv]\d{2,3})(sxm|pcie|nvl)", r"\1 \2", text)
    found = {SAME.get(word, word) for word in re.findall(r"[a-z0-9]+", text)} - NOISE
    return frozenset(found if "titan" in found else found - SERIES)


def fitting(text: str, gpus: Iterable[GpuProfile]) -> tuple[GpuProfile, ...]:
    """The one card that a name means, or all those that it may mean; () where it names none.

    A name may say the card's memory or architecture too. What it leaves out may tell one from another: "a100" is four
    cards. One that is left over is meant, unless it is a variant that was not said.
    """
    said = words(text)
    exact: list[GpuProfile] = []
    begun: list[GpuProfile] = []
    unsaid: set[str] = set()
    for gpu in gpus:
        aside = {f"{size:g}gb" for size in gpu.memory_gib} | set(gpu.architecture.lower().split())
        names = [words(name) for name in (gpu.id, *gpu.names, *gpu.also)]
        if said == names[0]:
            return (gpu,)
        if any(name and name <= said <= name | aside for name in names):
            exact.append(gpu)
        wider = [name for name in names if said <= name | aside]
        if wider:
            begun.append(gpu)
            unsaid |= VARIANTS & (min(wider, key=len) - said)
    if exact:
        most = max(len(said & words(gpu.id)) for gpu in exact)
        best = [gpu for gpu in exact if len(said & words(gpu.id)) == most]
        fewest = min(len(words(gpu.id)) for gpu in best)
        return tuple(gpu for gpu in best if len(words(gpu.id)) == fewest)
    if not any(any(letter.isdigit() for letter in word) and not MEMORY.fullmatch(word) for word in said):
        return ()
    return () if len(begun) == 1 and unsaid else tuple(begun)


def _digits(name: str) -> list[str]:
    return sorted(filter(str.isdigit, name))


def nearest(text: str, gpus: Sequence[GpuProfile], others: Iterable[str] = ()) -> list[str]:
    """Ids of at most three cards, or other names, that come near to a name that means none."""
    said = {word for word in words(text) if not MEMORY.fullmatch(word)}
    numbers = {word for word in said if any(letter.isdigit() for letter in word)}
    alike = [gpu.id for gpu in gpus if numbers & words(gpu.id)] if numbers else []
    alike.sort(key=lambda name: len(words(name) ^ said))
    word = "-".join(text.lower().split())
    known = [*others, *(gpu.id for gpu in gpus)]
    written = f"rtx-{word}" if word.isdigit() else word
    near = difflib.get_close_matches(written, known, n=6, cutoff=0.6)
    if not alike:  # first those that two swapped digits made
        near.sort(key=lambda name: _digits(name) != _digits(word))
    near = near[:3]
    near += [name for name in known if len(word) > 1 and word in name]
    return list(dict.fromkeys([*near[:1], *alike, *near] if near and near[0] in others else [*alike, *near]))[:3]
