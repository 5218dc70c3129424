"""The screen kit: text made printable, tables, facts, intervals, bars and sparklines, as every screen shows them."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Record, Skipped

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

T = TypeVar("T")
Mark = Literal["ok", "note", "warn", "fault"]
# Controls (C0, C1), what turns the direction of writing or hides (Unicode's UAX 9, tags), halves of characters.
UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f]"
)
LONG_WORD = re.compile(r"(\S{200})\S{100,}(\S{80})")
FOLDED = 16  # columns: a longer text is folded, and a longer word broken, as a path or an id
Fact = tuple[str, str | Absent]  # what it is called where it is missing, and its text


def printable(text: str) -> str:
    """Foreign text (a file's, a driver's, a process's) that can do nothing to a terminal: the only way to show it."""
    return UNPRINTABLE.sub("\ufffd", " ".join(text.splitlines())).replace("\t", " ")


def escaped(document: str) -> str:
    """A JSON document that says the same, with JSON's escapes for whatever a terminal might obey."""
    return UNPRINTABLE.sub(lambda it: json.dumps(it[0])[1:-1], document)


def told(line: str) -> str:
    """A line about something, printable; of a word that nobody would read to its end, as a path of 4,096 characters,
    its beginning and its end."""
    return LONG_WORD.sub(r"\1…\2", " ".join(printable(line).split()))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> Columns:
    """A table without a frame. A heading that begins with ">" stands above numbers, set to the right, one with
    "=" above names that may not be broken.

    Where it does not fit, words fold and numbers never do: columns that then still do not fit follow below, beside the
    rows' names again.
    """
    return Columns(list(columns), [list(map(printable, row)) for row in rows], title)


class Columns:
    """What `table` returns; laid out when it is printed, since only then its width is known."""

    def __init__(self, columns: list[str], rows: list[list[str]], title: str) -> None:
        self.headings = [heading.removeprefix(">").removeprefix("=") for heading in columns]
        self.are_whole = [heading.startswith((">", "=")) for heading in columns]
        self.are_numbers = [heading.startswith(">") for heading in columns]
        self.rows, self.title = rows, title

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        left, title = list(range(len(self.headings))), self.title
        while left:
            fitting = self._fitting(left, options.max_width)
            yield self._made(fitting, options.max_width, title)
            left, title = [*left[: self._named()], *left[len(fitting) :]] if len(fitting) < len(left) else [], ""

    def _fitting(self, left: list[int], width: int) -> list[int]:
        """As many from the left as fit closely set; those that name a row and one more at the least."""
        count = len(left)
        while count > self._named() + 1 and self._width(left[:count], 1) > width:
            count -= 1
        return left[:count]

    def _named(self) -> int:
        """How many columns of words are on the left: they name the rows."""
        return max(1, next((place for place, is_number in enumerate(self.are_numbers) if is_number), 1))

    def _made(self, places: list[int], width: int, title: str) -> Table:
        from rich.table import Table
        from rich.text import Text

        fits = self._width(places, 2) <= width
        made = Table(title=Text(printable(title)) if title else None, title_justify="left", box=None)
        made.padding = (0, 1) if fits else (0, 1, 0, 0)
        narrow = self._width(places, 2, folded=False) > width
        for place in places:
            heading, is_number = self.headings[place], self.are_numbers[place]
            if narrow and is_number:  # its words one below the other, as far as the numbers are narrower
                heading = "\n".join(textwrap.wrap(heading, self._least(place), break_long_words=False))
            justify: JustifyMethod = "right" if is_number else "left"
            made.add_column(
                Text(heading),
                justify=justify,
                overflow="fold",
                no_wrap=self.are_whole[place],
                min_width=self._least(place),
            )
        for row in self.rows:
            made.add_row(*(Text(row[place]) for place in places))
        return made

    def _width(self, places: list[int], gap: int, folded: bool = True) -> int:
        """What they need at the least, or without any fold; `gap` between two."""
        each = [self._least(place) if folded else self._natural(place) for place in places]
        return sum(each) + gap * len(each)

    def _least(self, place: int) -> int:
        """The longest number; of a column of words FOLDED, where its texts are longer."""
        texts = [row[place] for row in self.rows]
        words = [
            word for text in (self.headings[place], *([] if self.are_whole[place] else texts)) for word in text.split()
        ]
        least = max((len(word) for word in words), default=1)
        if self.are_whole[place]:
            return max([least, *map(len, texts)])
        return min(max(least, self._natural(place)), FOLDED)

    def _natural(self, place: int) -> int:
        return max(len(text) for text in (self.headings[place], *(row[place] for row in self.rows)))


def skipped(name: str, reason: str, console: Console) -> None:
    """A probe that could not run, and why."""
    from rich.text import Text

    console.print(Text(f"{name} skipped: {printable(reason)}", style="yellow"))


class HasRooms(Protocol):
    @property
    def id(self) -> str: ...
    def rooms(self) -> dict[str, tuple[Record, ...]]: ...


def show_rooms(run: HasRooms, console: Console, whole: bool = True, quiet: bool = False) -> None:
    """What every probe found, by the screen of the feature that its record belongs to.

    A feature whose screen has `show_run` shows its rooms itself, since they belong together, with what it skipped.
    Not `whole`: by the screen's `brief` or `brief_run`, the answer on one screen, where it has one; `quiet`: its
    verdict and its table alone.
    """
    shown: set[str] = set()
    for name, room in run.rooms().items():
        for result in [result for result in room if not isinstance(result, Skipped)] or room:
            if isinstance(result, Skipped):
                skipped(result.probe if result.probe == name else f"{name}, {result.probe}", result.reason, console)
                continue
            feature = type(result).__module__.rpartition(".")[0]
            if feature in shown:
                continue
            if shown:
                console.print()
            screen = importlib.import_module(f"{feature}.screen")
            if not whole and hasattr(screen, "brief_run"):
                screen.brief_run(run, console, quiet)
            elif not whole and hasattr(screen, "brief"):
                screen.brief(result, console, quiet, run.id)
            elif hasattr(screen, "show_run"):
                screen.show_run(run, console)
            else:
                screen.show(result, console)
            shown.add(feature)


def line(facts: Iterable[Fact], separator: str = ", ") -> str:
    """`43 °C, P8; n/a (not supported): power, memory`: what is known, then what is not, by reason."""
    facts = list(facts)
    return "; ".join(part for part in (known(facts, separator), missing(facts)) if part)


def known(facts: Iterable[Fact], separator: str = ", ") -> str:
    return separator.join(text for _, text in facts if isinstance(text, str) and text)


def missing(facts: Iterable[Fact]) -> str:
    """`n/a (not supported): power, memory`, reason by reason."""
    names: dict[str, list[str]] = {}
    for name, text in facts:
        if isinstance(text, Absent):
            names.setdefault(text.reason, []).append(name)
    return "; ".join(f"n/a ({reason}): {', '.join(dict.fromkeys(listed))}" for reason, listed in names.items())


def mapped(value: T | Absent, formatted: Callable[[T], str], name: str = "") -> str | Absent:
    return value if isinstance(value, Absent) else f"{name} {formatted(value)}".strip()


def of_limit(value: T | Absent, limit: T | Absent, formatted: Callable[[T], str]) -> str | Absent:
    """A reading against its limit; the reading alone where there is none."""
    if isinstance(value, Absent) or isinstance(limit, Absent):
        return mapped(value, formatted)
    return f"{formatted(value)} of {formatted(limit)}"


def if_known(text: str | Absent) -> str:
    """For facts that many machines lack and nobody misses."""
    return "" if isinstance(text, Absent) else text


def listed(names: Sequence[str]) -> str:
    """ "GPU0", "GPU0 and GPU1", "GPU0, GPU1 and GPU2"; of more than four the ends and how many."""
    if len(names) > 4:
        return f"{names[0]} to {names[-1]} ({len(names)})"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def counted(number: int | Absent, noun: str) -> str | Absent:
    return mapped(number, lambda count: f"{count} {noun}{'' if count == 1 else 's'}")


def size(size_bytes: int) -> str:
    return units.format_bytes(size_bytes)


def gigabytes(bytes_per_s: float | Absent) -> str:
    """The number alone, under a heading or beside others in GB/s."""
    return "" if isinstance(bytes_per_s, Absent) else units.format_significant(bytes_per_s / 1e9)


def degrees(celsius: float) -> str:
    return f"{celsius:g} °C"


def grid(rows: Iterable[tuple[str, str]]) -> RenderableType:
    """A narrow column of labels beside text that wraps."""
    from rich.table import Table
    from rich.text import Text

    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True, min_width=8)
    made.add_column(overflow="fold")
    for label, text in rows:
        made.add_row(Text(f"  {label}"), Text(printable(text)))
    return made


WIDE = 0.5  # half an interval over the middle, from which on no middle is told


def span(its: Estimate | Figure, unit: str) -> str:
    """ "5.1 h (4.6 to 5.7)": the one notation of a number with its 90 % interval; `unit` as units.format_span takes it.

    "5.1 h (4.6 to 5.7, 75 %)" where few samples cover less, "5.1 h (one sample)", and of an interval that says little
    the range alone: "3.1 to 9.8 h".
    """
    low, high = its.ends if isinstance(its, Figure) else (its.low, its.high)
    if isinstance(its, Estimate) and its.level == 0 and its.n <= 1:
        return f"{units.format_span(its.value, its.value, its.value, unit)} (one sample)"
    if high - low > 2 * WIDE * abs(its.value):
        return units.format_range(low, high, unit)
    text = units.format_span(its.value, low, high, unit)
    covers_less = isinstance(its, Estimate) and 0 < its.level < 0.899 and text.endswith(")")
    return f"{text[:-1]}, {units.format_share(its.level)})" if covers_less else text  # type: ignore[union-attr]


def middle(its: Estimate, unit: str) -> str:
    """As `span`, without the ends: "2,500 tokens/s", rounded to what they support; the range where that is all."""
    text = span(its, unit)
    return text.partition(" (")[0] if its.has_middle else text


def span_cells(its: Estimate, unit: str) -> tuple[str, str]:
    """The same as two cells, the number and its ends, under headings that say the unit; the ends alone where they are
    too far apart for a number."""
    if its.level == 0 and its.n <= 1:
        return units.span_parts(its.value, its.value, its.value, unit)[0], "one sample"
    if not its.has_middle:
        low, high = (units.format_significant(float(end), 2) for end in (its.low, its.high))
        return "–", f"{low} to {high}"
    text, ends, _ = units.span_parts(its.value, its.low, its.high, unit)
    return text, ends if its.level >= 0.899 or not ends else f"{ends} ({units.format_share(its.level)})"


MARK_OF: dict[str, Mark] = {"fault": "fault", "warning": "warn", "information": "note"}  # of a finding's severity
MARKS = {"ok": "green", "note": "dim", "warn": "yellow", "fault": "bold red"}
Headline = tuple[Mark, str]  # how it is, and a sentence with the number that says so


def headline(name: str, its: Headline, console: Console) -> None:
    """The verdict: the first line of a first screen."""
    from rich.text import Text

    mark, sentence = its
    console.print(Text.assemble((mark.ljust(5), f"bold {MARKS[mark]}"), (f" {name}: {printable(sentence)}", "bold")))


def marked(lines: Iterable[Headline], console: Console) -> None:
    """What is odd, worst first, a line each beside the word that says how bad it is."""
    from rich.table import Table
    from rich.text import Text

    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    worst_first = list(MARKS)[::-1].index
    for mark, text in sorted(lines, key=lambda line: worst_first(line[0])):
        made.add_row(Text(f"  {mark}", style=MARKS[mark]), Text(printable(text)))
    if made.row_count:
        console.print(made)


def closing(sure: str, following: str, console: Console) -> None:
    """The last lines of a first screen: how sure it is, where there is more and what comes next."""
    console.print(grid([*([("how sure", sure)] if sure else []), ("more", following)]))


SEVERITY_STYLES = {"fault": "bold red", "warning": "yellow", "information": ""}
EIGHTHS = " ▏▎▍▌▋▊▉"
SHORTEST, LONGEST = 6, 24
GAP = 2


def bar(share: float, width: int) -> str:
    """A share of `width` cells in eighths of a cell, padded to `width`; never empty for what is not zero."""
    eighths = max(0, min(8 * width, round(8 * width * share)))
    if share > 0:
        eighths = max(1, eighths)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (EIGHTHS[rest] if rest else "")).ljust(width)


def bars(title: str, labels: Sequence[str], columns: Mapping[str, Mapping[str, float]], console: Console) -> None:
    """Rows by label, a column of bars each; as many columns side by side as fit, the others below.

    `columns` maps a column's name to the share of each label that it has. Full length is a share of 1.
    """
    from rich.text import Text

    edge = max((len(label) for label in labels), default=0) + 2
    number = len("100 %") + 1
    fitting = max(1, (console.width - edge) // (GAP + SHORTEST + number))
    names = list(columns)
    for start in range(0, len(names), fitting):
        some = names[start : start + fitting]
        width = min(LONGEST, max(SHORTEST, (console.width - edge) // len(some) - GAP - number))
        console.print(Text(title if not start else "", style="bold") if not start else Text(""))
        console.print(Text(" " * edge + "".join(" " * GAP + name.ljust(width + number) for name in some).rstrip()))
        for label in labels:
            cells = (_cell(columns[name].get(label), width, number) for name in some)
            console.print(Text((printable(label).rjust(edge) + "".join(" " * GAP + cell for cell in cells)).rstrip()))


def _cell(share: float | None, width: int, number: int) -> str:
    if share is None:
        return " " * (width + number)
    return bar(share, width) + units.format_share(share).rjust(number)


LEVELS = "▁▂▃▄▅▆▇█"
BLANK = " "


def spark(
    points: Sequence[tuple[float, float]],
    width: int,
    start: float,
    end: float,
    least_range: float = 0.0,
    top: float | None = None,
) -> str:
    """Values at rising moments as `width` cells from `start` to `end`: a cell is the mean of what falls into it.

    Lowest to highest fill the height, but `least_range` at the least, about their middle; where all are the same, half
    of it. With `top`, full height is that and no height is 0. A cell without a reading is blank; where there are fewer
    readings than cells, each lasts until the next.
    """
    if width < 1 or end <= start:
        return ""
    cells: list[list[float]] = [[] for _ in range(width)]
    for at, value in points:
        if start <= at <= end:
            cells[min(width - 1, int((at - start) / (end - start) * width))].append(value)
    if points and len(points) < width:
        _let_last(cells, math.ceil(width / len(points)) + 1)
    means = [math.fsum(cell) / len(cell) if cell else None for cell in cells]
    known = [mean for mean in means if mean is not None]
    if not known:
        return BLANK * width
    low, high = (min(known), max(known)) if top is None else (0.0, top)
    if high - low < least_range:
        low, high = (low + high - least_range) / 2, (low + high + least_range) / 2
    return "".join(BLANK if mean is None else _level(mean, low, high) for mean in means)


def _let_last(cells: list[list[float]], reach: int) -> None:
    """Fill empty cells with what is before them, as far as readings are apart, up to the last reading."""
    filled = [index for index, cell in enumerate(cells) if cell]
    for index, following in itertools.pairwise(filled):
        for empty in range(index + 1, min(following, index + 1 + reach)):
            cells[empty] = cells[index][-1:]


def _level(value: float, low: float, high: float) -> str:
    if high - low <= 1e-9 * max(abs(high), abs(low)):
        return LEVELS[len(LEVELS) // 2]
    return LEVELS[min(len(LEVELS) - 1, int((value - low) / (high - low) * len(LEVELS)))]


def console(stderr: bool = False, width: int | None = None) -> Console:
    """The only kind of console there is: whatever it shows, nothing foreign in it reaches the terminal raw.

    No colour where NO_COLOR is set; rich alone would still write escapes for bold and dim.
    """
    from rich.console import Console
    from rich.segment import Segment

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # the reader went away, as `| head` does: rich would call that a failure

        def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else UNPRINTABLE.sub("\ufffd", text), style, control)

    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Screen(stderr=stderr, highlight=False, soft_wrap=False, width=width, color_system=colours)


class LivePicture:
    """A picture on a terminal, drawn over itself; leaves nothing behind when closed."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def draw(self, text: Text) -> None:
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=self.console, transient=True, auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        self._live.update(text, refresh=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
