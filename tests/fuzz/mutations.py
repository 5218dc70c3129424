"""Changes documents and texts at random, by hand of a seeded generator."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

TEXTS = {
    "ESC": "\x1b]0;pwned\x07\x1b[31mRED\x1b[0m",
    "C1": "\x9b31mRED\x9d0;pwned\x9c",
    "bidi": "\u202egnp.exe\u2066x\u200f\u061c",
    "line ends": "a\nrigbench: saved as 1\r\nb\u2028c\x85d\x0be\x0cf",
    "markup": "[/][red]x[/red][bold",
    "HTML": "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;",
    "10 kB": "A" * 10_000,
    "half a character": "\ud800x\udfff",
    "backspace": "safe\b\b\b\bevil\x7f\x00",
    "hidden": "\U000e0041\ufeff\u200b\ufff9x",
    "formula": '=cmd|"/c calc"!A1',
    "braces": "{0.__class__} %s %(x)d ${HOME} `id`",
    "path": "../../../../etc/passwd",
    "nothing": "",
    "wide": "\u4e2d\u6587\U0001f600e\u0301",
}
NUMBERS = (0, -1, 1, 2, 2**31, 2**63 - 1, -(2**63), 10**18)
FLOATS = (0.0, -0.0, -1.0, 1e-308, 1e-9, 1.0, 1e9, 1e18, 1e100, 1e308, -1e308)
ABSENT = {"type": "absent", "reason": "\x1b[31mnot said"}
ANYTHING: tuple[Any, ...] = (None, True, [], {}, "x", 0, -1, 1e308, ABSENT, [[[]]], 10**30)
TOKENS = (
    *(b"9" * 500, b"9" * 5000, b"1e400", b"-1", b"nan", b"inf", b"0", b"1e308", b"0x1f", b"1_000", b"1,000,000", b"\xff"),
    *(b"[" * 3000, b"{" * 3000, b'"', b"'''", b"\0", b"\x1b[2J", b"\xc2\x9b", b"\xe2\x80\xae", b"\xed\xa0\x80", b"\r\n"),
    *(b"\n\n", b"\t", b" " * 3000, b",", b",,,,", b";", b"=", b"= =", b"#", b"[/]", b"\xef\xbb\xbf", b"\\u0000", b"A" * 9000),
    *(b"null", b"true", b"2026-01-01", b"12:34:56", b"[a]", b"[[a]]", b"a.b.c = 1", b"1e-400", b"00000000:01:00.0", b"%"),
)  # fmt: skip


def document(it: Any, chance: random.Random, times: int) -> Any:
    """A changed copy of a JSON document. Mostly a value becomes another of its type, which a reader lets in."""
    it = copy.deepcopy(it)
    for _ in range(times):
        places = list(_places(it))
        if not places:
            return it
        holder, key = chance.choice(places)
        value, way = holder[key], chance.random()
        if way < 0.08:
            del holder[key]
        elif way < 0.16:
            holder[key] = chance.choice(ANYTHING)
        elif way < 0.22:
            holder[key] = copy.deepcopy(ABSENT)
        elif way < 0.3 and isinstance(holder, dict):
            other_holder, other_key = chance.choice(places)
            holder[key] = copy.deepcopy(other_holder[other_key])
        elif isinstance(value, bool):
            holder[key] = not value
        elif isinstance(value, int):
            holder[key] = chance.choice((*NUMBERS, value + 1, value * 1000))
        elif isinstance(value, float):
            holder[key] = chance.choice((*FLOATS, -value, value * 1e6, value * 1e-6))
        elif isinstance(value, str):
            holder[key] = chance.choice((*TEXTS.values(), value + value, value[: len(value) // 2], value.upper()))
        elif isinstance(value, list):
            holder[key] = chance.choice(([], value[:-1], value * 2, value[:1], value[::-1], [*value, None]))
        elif isinstance(value, dict) and value and "type" not in value:
            holder[key] = {chance.choice(list(TEXTS.values())): entry for entry in value.values()}
    return it


def _places(it: Any) -> Any:
    items = it.items() if isinstance(it, dict) else enumerate(it) if isinstance(it, list) else ()
    for number, (key, value) in enumerate(items):
        if key != "type" or number > 0:
            yield it, key
        if not isinstance(it, list) or number < 3 or number == len(it) - 1:  # of long lists the ends are enough
            yield from _places(value)


def encoded(it: Any) -> bytes:
    return json.dumps(it, ensure_ascii=True).encode()


def text(content: bytes, chance: random.Random, times: int) -> bytes:
    for _ in range(times):
        lines = content.split(b"\n")
        at, way = chance.randrange(len(lines)), chance.randrange(9)
        if way == 0:
            lines[at] = b""
        elif way == 1:
            lines[at:at] = [lines[at]] * chance.choice((1, 3, 50))
        elif way == 2:
            other = chance.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif way == 3:
            lines = lines[: at + 1]
        elif way == 4:
            lines[at] = chance.choice(TOKENS)
        elif way == 5 and lines[at]:
            where = chance.randrange(len(lines[at]))
            lines[at] = lines[at][:where] + bytes([chance.randrange(256)]) + lines[at][where + 1 :]
        else:
            words = lines[at].replace(b",", b" , ").split(b" ")
            words[chance.randrange(len(words))] = chance.choice(
                (*TOKENS, *(it.encode(errors="surrogatepass") for it in TEXTS.values()))
            )
            lines[at] = b" ".join(words).replace(b" , ", b",")
        content = b"\n".join(lines)
    return content
