"""What did pack write?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.model.record import Packed

if TYPE_CHECKING:
    from rich.console import Console

NAMED_SOURCES = 3


def show(packed: Packed, folder: str, console: Console, hint: bool) -> None:
    """The file, what is in it, and the command that trains on it."""
    from rich.text import Text

    size = packed.tokens * (2 if packed.dtype == "uint16" else 4)
    documents = _many(packed.documents, "document")
    facts = f": {packed.tokens:,} tokens of {documents}, {packed.dtype}, {units.format_bytes(size)}"
    console.print(Text.assemble((packed.file, "bold"), facts))
    others = len(packed.sources) - NAMED_SOURCES
    named = ", ".join(packed.sources[:NAMED_SOURCES]) + (f" and {others:,} more" if others > 0 else "")
    console.print(Text(f"  from {named}: {units.format_bytes(packed.source_bytes)}, {_density(packed)} bytes a token"))
    end = "none between documents" if isinstance(packed.end_of_text, Absent) else f"{packed.end_of_text:,}"
    console.print(
        Text(f"  tokenizer {packed.tokenizer}, vocabulary {packed.vocabulary:,}, end of text {end}, "
             f"largest id {packed.largest_id:,}")
    )  # fmt: skip
    if packed.bad_lines:
        bad = _many(packed.bad_lines, "bad line")
        console.print(Text(f"  left out: {bad} (--skip-bad)", style="yellow"))
    if packed.cut_documents and packed.tokenizer != "bytes":
        long = _many(packed.cut_documents, "long document")
        line = f"  {long} tokenized in pieces of 4 MiB: a token that spans one of their ends became two"
        console.print(Text(line, style="dim"))
    if hint:
        console.print(Text(f"  rigbench dataloader --data {folder}{packed.file} says how fast it loads", style="dim"))


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}" + "s" * (count != 1)


def _density(packed: Packed) -> str:
    return units.format_significant(packed.source_bytes / packed.tokens)
