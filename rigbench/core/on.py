"""Which hardware is meant by `--on 2xrtx-4080`? A rig profile, or so many cards of a GPU profile."""

from __future__ import annotations

import difflib
import re

from rigbench.core import profiles
from rigbench.core.errors import RigbenchError
from rigbench.core.profile_files import RigProfile

MOST_CARDS = 1024


def rig(text: str, option: str = "--on") -> RigProfile:
    """A rig profile by name, or cards by a GPU profile's id or the maker's name, "2x" in front for several.

    Of mere cards the host is not known: its watts and memory are Absent.

    Raises:
        RigbenchError: nothing has that name, or the number of cards is none; the nearest names are said.
    """
    word = "-".join(text.strip().lower().split())
    rigs = {rig.name: rig for rig in profiles.rigs()}
    if word in rigs:
        return rigs[word]
    match = re.fullmatch(r"(\d{1,9})-?[x×]-?(.+)", word)
    count, card = (int(match[1]), match[2]) if match else (1, word)
    cards = {gpu.id: gpu for gpu in profiles.gpus()}
    by_name = {"-".join(name.lower().split()): gpu for gpu in cards.values() for name in gpu.names}
    prefixes = ("", "nvidia-", "nvidia-geforce-", "nvidia-geforce-rtx-", "nvidia-rtx-")  # "4090", "a6000"
    found = cards.get(card) or next(
        (by_name[key] for key in (f"{it}{card}" for it in prefixes) if key in by_name), None
    )
    if found is None:
        raise RigbenchError(f"no rig or GPU profile {text[:60]!r} for {option}", _nearest(card, [*rigs, *cards]))
    if not 1 <= count <= MOST_CARDS:
        raise RigbenchError(f"{option} {text[:60]!r} is {count:,} cards", f"give 1 to {MOST_CARDS:,}")
    several = f"{count}x{found.id}"
    return RigProfile(
        name=several if count > 1 else found.id, about=f"{count} {found.names[0]}", gpu=found.id, count=count
    )


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6) or [name for name in known if word and word in name]
    return f"did you mean {' or '.join(near[:3])}?" if near else "`rigbench profiles` lists them"
