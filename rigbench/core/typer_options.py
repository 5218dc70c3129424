"""Options still spoken in typer's terms; each goes as its commands take records of Options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class TokenType(StrEnum):
    auto = "auto"
    uint16 = "uint16"
    uint32 = "uint32"


Load = Annotated[
    bool,
    typer.Option("--load", help="Also read the links while every GPU copies, for about 10 s."),
]
