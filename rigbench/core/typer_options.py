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
WallWatts = Annotated[
    str | None, typer.Option(metavar="W", help="The whole machine's watts at the wall while training, declared by you.")
]
HostWatts = Annotated[
    str | None, typer.Option(metavar="W", help="Watts of everything but the GPUs, added to the GPU watts measured.")
]
PsuWatts = Annotated[
    str | None, typer.Option(metavar="W", help="The power supply's rating, to tell how much of it is used at the peak.")
]
PsuEfficiency = Annotated[
    str | None, typer.Option(metavar="SHARE", help="The power supply's efficiency, as 0.92. Default: 0.90, assumed.")
]
RigProfile = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Take host watts and power supply from a rig profile, where not declared."),
]
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
