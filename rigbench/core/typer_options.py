"""Options still spoken in typer's terms; each goes as its commands take records of Options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class TokenType(StrEnum):
    auto = "auto"
    uint16 = "uint16"
    uint32 = "uint32"


Flops = Annotated[str, typer.Option(help="The compute budget in FLOP, as 1.2e18 or 1.2EFLOP.")]
Series = Annotated[str, typer.Option(help="The series of models: diy (GPT-2 style) or llama.")]
Seq = Annotated[str | None, typer.Option(metavar="N", help="Tokens per sequence. Default: the series' own.")]
Price = Annotated[
    str | None, typer.Option(metavar="'0.30 EUR'", help="Electricity per kWh. Default: the price of --place.")
]
Place = Annotated[
    str | None, typer.Option(metavar="ID", help="Whose electricity price; `rigbench profiles` lists them.")
]
Load = Annotated[
    bool,
    typer.Option("--load", help="Also read the links while every GPU copies, for about 10 s."),
]
