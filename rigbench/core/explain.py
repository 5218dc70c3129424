"""What does a code mean, at length? The table of all codes, worst first."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from importlib import resources

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.finding import Explanation

FILE = "explanations.toml"


@functools.cache
def explanations() -> Mapping[str, Explanation]:
    text = resources.files(__package__).joinpath(FILE).read_bytes()
    table = msgspec.toml.decode(text, type=dict[str, dict[str, str | list[str]]])
    return {code: msgspec.convert(entry | {"code": code}, Explanation) for code, entry in table.items()}


def explanation(code: str) -> Explanation:
    """One code's.

    Raises:
        RigbenchError: there is no such code; the nearest are named.
    """
    table = explanations()
    if code in table:
        return table[code]
    near = difflib.get_close_matches(code.lower().replace("_", "-").replace(" ", "-"), table, cutoff=0.4)
    cure = f"did you mean {' or '.join(near)}?" if near else "`rigbench explain` lists them all"
    raise RigbenchError(f"no finding has the code {code!r}", cure)
