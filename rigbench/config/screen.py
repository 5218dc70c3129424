"""Shows settings: what is set and where, and what a command could be told."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from rigbench.core.config import FILE, Setting
from rigbench.core.screen import grid, table


def show(
    given: Sequence[tuple[Setting, str]], keys: Sequence[tuple[str, str]], user_file: str, console: Console
) -> None:
    """`given`: each setting with why it is of no use, "" where it is; `keys`: those to explain, with what they are."""
    if given:
        in_effect: set[tuple[str, str]] = set()
        rows = []
        for setting, wrong in given:
            place = (setting.command, setting.key)
            state = f"not used: {wrong}" if wrong else "replaced by the one above" if place in in_effect else ""
            in_effect |= set() if wrong else {place}
            rows.append((setting.key, setting.value, setting.command or "all", setting.origin, state))
        console.print(table(("key", "value", "for", "from", ""), rows))
    else:
        console.print("nothing is set")
    places = [("yours", user_file), ("a folder's", f"{FILE} in the folder that you are in")]
    console.print(grid(places if keys else [*places, ("keys", "rigbench config budget lists those of a command")]))
    if keys:
        console.print()
        console.print(grid(keys))
