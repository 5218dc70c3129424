"""Does the screen kit keep numbers whole, fold words, and say what it left out?"""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rigbench.core.screen import closing, headline, marked, table

HEADINGS = ("operation", ">latency", ">interval", ">bus GB/s", ">of the link", "right")
ROWS = [
    ("all_reduce", "12.3 µs", "11.2 to 13.4", "6.61", "83 %", "48/48"),
    ("reduce_scatter", "112.3 µs", "111.2 to 113.4", "6.61", "83 %", "48/48"),
]
AT_50 = """
                                              of
                                        bus  the
operation       latency       interval GB/s link
all_reduce      12.3 µs   11.2 to 13.4 6.61 83 %
reduce_scatter 112.3 µs 111.2 to 113.4 6.61 83 %
 operation       right
 all_reduce      48/48
 reduce_scatter  48/48
"""
FIRST_SCREEN = """
warn  naps: a nap of 2 ms takes 2.1 ms
  warn  this machine was busy: a sentence that is so
        long that it goes on below itself
  note  another
  how sure  90 % intervals
  more      rigbench report
"""


def printed(width: int, *things: object) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    for thing in things:
        thing(console) if callable(thing) else console.print(thing)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def test_columns_that_do_not_fit_go_below_beside_the_first():
    assert printed(50, table(HEADINGS, ROWS)) == AT_50.strip("\n")


@pytest.mark.parametrize("width", range(32, 130, 7))
def test_no_number_is_ever_cut_and_no_line_too_long(width):
    shown = printed(width, table(HEADINGS, ROWS, "operations between two ranks"))
    assert max(map(len, shown.splitlines())) <= width
    assert all(cell in shown for row in ROWS for cell in row)


def test_a_text_folds_at_words_beside_whole_numbers():
    shown = printed(30, table(("what", ">tokens/s"), [("a sentence of many words that must fold", "1,234.5")]))
    assert [line.strip() for line in shown.splitlines()] == [
        "what                tokens/s",
        "a sentence of many   1,234.5",
        "words that must",
        "fold",
    ]


def test_a_first_screens_parts():
    shown = printed(
        52,
        lambda it: headline("naps", ("warn", "a nap of 2 ms takes 2.1 ms"), it),
        lambda it: marked(
            [
                ("warn", "this machine was busy: a sentence that is so long that it goes on below itself"),
                ("note", "another"),
            ],
            it,
        ),
        lambda it: closing("90 % intervals", "rigbench report", it),
    )
    assert shown == FIRST_SCREEN.strip("\n")
