r"""Takes a log's text apart: rows of named numbers, whatever program wrote them. What they mean is not decided here.

Every pattern is bounded: no repeat without an end, and a number is only looked for where none goes on, so that a line
costs time in proportion to its length.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple

from rigbench.core.errors import RigbenchError
from rigbench.logs.source import lines_of

LINE_LIMIT = 10_000  # a line longer than this is no log line
MANY_LINES = 8  # of so many the last is left out if it is cut
MOST_ROWS = 1_000_000
MOST_NUMBERS = 300  # of a line
NUMBER = re.compile(
    # 1 day, 2:03:04.5 | 2:03:04 | 15:35
    r"(?<![\w.:])(?:(?P<days>\d{1,4}) days?, )?(?P<hours>\d{1,5}):(?P<minutes>\d{2})"
    r"(?::(?P<seconds>\d{2}(?:\.\d{1,9})?))?(?![\w:])"
    # 1h 23m 45s | 3m20s
    r"|(?<![\w.])(?:(?P<h>\d{1,5})h ?)?(?P<m>\d{1,3})m ?(?P<s>\d{1,2}(?:\.\d{1,9})?)s(?!\w)"
    r"|(?<![\w.])(?P<number>[-+]?(?:\d{1,18}(?:[.,]\d{1,18}){0,6}(?:[eE][-+]?\d{1,3})?(?!\d)|(?:nan|inf(?:inity)?)(?!\w)))",
    re.I,
)
UNIT = re.compile(
    r"[ \u00a0]{0,2}(?P<many>[kmgbt](?=\s?tok))?\s?(?P<unit>%|(?:milli|micro)?sec(?:ond)?s?|msecs?|ms|us|µs|μs|"
    r"s/(?:it|step|iter)|s|min(?:ute)?s?|m|hours?|hrs?|h|"
    r"(?:tok(?:en)?s?)\s?(?:/|per)\s?s(?:ec(?:ond)?)?(?:\s?(?:/|per)\s?(?:gpu|device|rank))?|"
    r"(?:it|iter|step|iteration)s?\s?/\s?s(?:ec)?|samples?\s?/\s?s(?:ec(?:ond)?)?|tok(?:en)?s?(?! ?\d))"
    r"(?![\w/]| ?[:=])",
    re.I,
)
UNITLESS = re.compile(r"(?:^|[^a-z])(?:loss|lr|learning.rate|norm|ppl|perplexity|epoch)$")
SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "ms": 1e-3, "msec": 1e-3, "millisecond": 1e-3, "millisec": 1e-3,
           "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "microsecond": 1e-6, "microsec": 1e-6, "min": 60.0, "minute": 60.0,
           "m": 60.0, "h": 3600.0, "hr": 3600.0, "hour": 3600.0}  # fmt: skip
MANY = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
SUFFIX = re.compile(r"[kKMGBT](?![A-Za-z/]| ?tok)")
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
CLOCK_TIME = r"(?P<H>\d{1,2}):(?P<M>\d{2}):(?P<S>\d{2})(?:[.,](?P<f>\d{1,9}))?"
DATES = (
    re.compile(rf"(?<!\d)(?P<y>\d{{4}})[-/.](?P<mo>\d{{1,2}})[-/.](?P<d>\d{{1,2}})[T ,_-]{{1,2}}{CLOCK_TIME}"
               r" ?(?P<zone>Z|[-+]\d{2}:?\d{2}(?!\d))?"),
    re.compile(rf"(?<!\d)(?P<a>\d{{1,2}})[/.](?P<b>\d{{1,2}})[/.](?P<y>\d{{4}}|\d{{2}})[T ,]{{1,2}}{CLOCK_TIME}"
               r" ?(?P<half>[AP]M)?"),
    re.compile(rf"\b(?P<name>{'|'.join(MONTHS)})[a-z]{{0,6}} {{1,2}}(?P<d>\d{{1,2}}),?"
               rf" (?:(?P<y>\d{{4}}) )?{CLOCK_TIME}", re.I | re.ASCII),  # else ſ is an s
    re.compile(rf"^\[(?P<mo>\d{{2}})/(?P<d>\d{{2}}) {CLOCK_TIME}"),  # detectron2
    re.compile(rf"(?:^|[\[ ])[IWEF](?P<mo>\d{{2}})(?P<d>\d{{2}}) {CLOCK_TIME}"),  # glog
    re.compile(rf"^[^\w\n]{{0,3}}{CLOCK_TIME}(?=[\] |,])"),  # the time alone, at the head of a line
)  # fmt: skip
EPOCH = re.compile(
    r"[\[ (]{0,3}(1[4-9]\d{8}(?:\.(\d{1,9}))?)(?![\w.])[\]):,]?"
)  # seconds since 1970, at the head of a line
BAR = re.compile(
    # 258/873 [15:35<43:27, 4.00s/it] and, without an end, 258it [15:35, as tqdm draws; 258/873 0:15:35 • as rich does
    r"(?<![\d.])(?:(?P<at>\d{1,12})/(?P<of>\d{1,12}|\?)|(?P<open>\d{1,12})it) {1,2}"
    r"(?:\[(?P<took>[\d:]{4,12}|\d{1,4} days?, [\d:]{4,12})[<,]|(?P<rich>\d{1,3}:\d{2}:\d{2}) [•<])"
)
RANK = re.compile(
    r"\[(?:rank|default|local_rank|gpu|worker)[ =:]?(?P<a>\d{1,5})\]"
    r"|(?<![/_] )(?<![\w/.])(?<!per )rank[ =:]{1,2}(?P<b>\d{1,5})\b"
    r"|^(?:gpu|node|host|worker)[ _-]?(?P<d>\d{1,5}): |^\(\w{1,40} pid=(?P<e>\d{1,8})(?=[,)])|^ {0,4}(?P<c>\d{1,5}): ",
    re.I,
)
COUNT_AT_THE_HEAD = re.compile(r"[ :]{0,8}\d{1,12} \| ")  # llama2.c's lines
BELOW = re.compile(r"[ :]{0,2}(?:\s{2}|\t|\{)")  # a line that goes on about the step above it
# Where between two numbers the name of the second begins: after the last of these.
BEFORE_A_NAME = re.compile(r"[|,;{}\[\]<>\t•]| - ")
BREAK = re.compile(r"\b(?:eval|valid|test|sav|checkpoint|generat|sampl)", re.I)


class Item(NamedTuple):
    """A number as it was printed, with the unit behind it, and what the last digit stands for."""

    value: float
    unit: str = ""
    resolution: float = 0.0


class Row(NamedTuple):
    """What one line, record or entry tells. The clock is seconds of any origin, its resolution beside it."""

    items: Mapping[str, Item]
    clock: Item | None = None
    rank: int | None = None
    text: str = ""
    after_break: bool = False  # something that is no training stands between the row before and this one


class Raw(NamedTuple):
    """A log taken apart."""

    kind: str  # "text", "table", "JSON"
    rows: list[Row]
    head: Mapping[str, float]  # numbers of lines that are no rows: tokens per iteration, sequence length
    summary: Mapping[str, float]  # of a file that tells of its whole run in one place
    heads: str = ""  # the first lines, in which a program names itself


def scan(text: str, name: str) -> Raw:
    """By the text's own form; the file's name decides nothing. A last line that does not end may be cut in a number."""
    whole, _, cut = text.rpartition("\n")
    if cut and whole.count("\n") >= MANY_LINES and not cut.strip().endswith(("}", "]")):
        text = whole
    start = text.lstrip()
    if start.startswith(("[", "{")) and (raw := _json(start, name)) is not None:
        return raw
    if table := _table_of(text):
        return table
    return scan_lines(lines_of(text))


# ---------------------------------------------------------------------------------------------------- lines of text


def scan_lines(lines: Iterable[str]) -> Raw:
    """Rows are lines that have numbers; an indented line without a step of its own belongs to the row above it."""
    kept = _unwrapped([line[:LINE_LIMIT] for line in lines])
    comma = _decimal_commas(kept)
    rows: list[Row] = []
    head: dict[str, float] = {}
    newest: dict[int | None, int] = {}  # of each rank, the place of its last row
    broken, dates = False, _Dates()
    for line in kept:
        bars = list(BAR.finditer(line))
        for bar in bars:  # several on a line, where carriage returns were lost
            newest[None] = len(rows)
            rows.append(_of_bar(bar, line[: bar.start()], line[bar.end() :], comma, broken))
            broken = False
        if bars or not any(mark.isdigit() for mark in line):
            broken = broken or bool(not bars and BREAK.search(line))
            continue
        clock, rest = dates.take(line)
        rank, rest = _rank(rest)
        items = items_of(rest, comma)
        if any(is_step(key) for key in items) or (COUNT_AT_THE_HEAD.match(rest) and "" in items):
            newest[rank] = newest[None] = len(rows)
            rows.append(Row(items, clock, rank, line, broken))
            broken = BREAK.search(rest) is not None and not _tells(items)
            if len(rows) > MOST_ROWS:
                raise RigbenchError(f"the log has over {MOST_ROWS:,} lines about steps", "hand back a part of it")
            continue
        for key, item in items.items():
            head.setdefault(key, item.value)
        above = newest.get(rank, newest.get(None))
        if above is not None and BELOW.match(rest) and _tells(items):
            rows[above] = rows[above]._replace(items={**items, **rows[above].items})
        else:
            broken = broken or BREAK.search(rest) is not None
    return Raw("text", _main_bar(rows), head, {}, "\n".join(kept[:400]))


def _rank(line: str) -> tuple[int | None, str]:
    """Which rank wrote a line, where that stands before it, and the line without that."""
    match = RANK.search(line[:80])
    if match is None:
        return None, line
    rank = next(int(it) for it in match.groups() if it)
    if match["c"] is not None:
        return rank, line[match.end() :]
    return rank, (line[: match.start()] + " " + line[match.end() :]).removeprefix(" :").removeprefix(":")


def _tells(items: Mapping[str, Item]) -> bool:
    return any(is_told(key, item.unit) for key, item in items.items())


def items_of(line: str, comma: bool = False) -> dict[str, Item]:
    """`iter 10: loss 8.99, time 4622.05ms` as iter, loss and time. What has no name of its own is ~s, ~tok/s, or ""."""
    items: dict[str, Item] = {}
    end, unit_end = 0, 0
    for match in islice(NUMBER.finditer(line), MOST_NUMBERS):
        between = line[unit_end : match.start()]
        of = between.strip() == "/" and end > 0  # the 90 of 31/90
        key = "of" if of else name_of(between)
        unit = None if SUFFIX.match(line, match.end()) else UNIT.match(line, match.end())
        counts = unit and "/" in unit["unit"] and (of or is_step(key))
        if unit and line[match.end()] == " " and (counts or UNITLESS.search(key) or UNIT.fullmatch(key)):
            unit = None  # the name of the next: loss 2.79 tokens/s 52000
        end, unit_end = match.end(), unit.end() if unit else match.end()
        item = _item(match, unit, comma)
        if item is None:
            continue
        if suffix := SUFFIX.match(line, end):  # 52.1k, 1.31B
            many = MANY[suffix[0].lower()]
            item, unit_end = Item(item.value * many, "", item.resolution * many), suffix.end()
        elif not unit and line[end : end + 1].isalpha():
            item = item._replace(unit="?")  # the z of +0.10z: a unit that nobody knows
        items.setdefault(key or (item.unit and f"~{item.unit}"), item)
    return items


def name_of(between: str) -> str:
    """What stands right before a number, in lower case: of `ms, mfu ` mfu, of ` | elapsed (ms): ` elapsed (ms)."""
    text = BEFORE_A_NAME.split(between[-200:])[-1].strip(" \t:=.'\"%*#>~@$").lstrip(")/.")
    text = text.rpartition("::")[2]
    head, colon, tail = text.rpartition(":")
    return " ".join(
        (tail if colon and tail.strip() else head or text).strip(" :='\"()" if text[-1:] != ")" else " :='\"").split()
    ).lower()


def _item(match: re.Match[str], unit: re.Match[str] | None, comma: bool) -> Item | None:
    if (text := match["number"]) is not None:
        number = number_of(text, comma)
        if number is None:
            return None
        value, resolution = number
    elif match["m"] is not None:
        return Item(float(match["h"] or 0) * 3600 + float(match["m"]) * 60 + float(match["s"]), "s", 1.0)
    else:
        hours, minutes, seconds = int(match["hours"]), int(match["minutes"]), match["seconds"]
        if seconds is None:  # 15:35 is minutes and seconds
            return Item(60.0 * hours + minutes, "s", 1.0)
        value = int(match["days"] or 0) * 86_400 + 3600.0 * hours + 60 * minutes + float(seconds)
        return Item(value, "s", 10.0 ** -len(seconds.partition(".")[2]))
    if not unit:
        return Item(value, "", resolution)
    word = re.sub(r"\s", "", unit["unit"].lower())
    many = MANY[(unit["many"] or "").lower()]
    factor = SECONDS.get(word, SECONDS.get(word.rstrip("s"))) if word != "s" else 1.0
    if factor is not None and word != "m":
        return Item(value * factor, "s", resolution * factor)
    return Item(value * many, "min" if word == "m" else word, resolution * many)


def number_of(text: str, comma: bool) -> tuple[float, float] | None:
    """A number and its resolution; None where it is none: 1,2 where commas group thousands, 1.2.3."""
    if text.lstrip("+-")[:1].isalpha():
        return float(text), 0.0
    point, group = (",", ".") if comma else (".", ",")
    digits, _, exponent = text.lower().partition("e")
    whole, _, fraction = digits.partition(point)
    first, *groups = whole.lstrip("+-").split(group)
    if any(len(part) != 3 for part in groups) or (groups and (len(first) > 3 or exponent)):
        return None
    if fraction and not fraction.isdigit():
        return None
    value = float(whole.replace(group, "") + "." + (fraction or "0") + ("e" + exponent if exponent else ""))
    return value, 10.0 ** (int(exponent or 0) - len(fraction)) if abs(int(exponent or 0)) < 300 else 0.0


DECIMAL = {
    mark: re.compile(rf"(?<![\w.,])\d{{1,9}}{re.escape(mark)}(?:\d{{1,2}}|\d{{4,9}})(?![.,]?\d)") for mark in ".,"
}


def _decimal_commas(lines: Iterable[str]) -> bool:
    """Whether this log's numbers have decimal commas: 4622,05, and hardly a point that could not group thousands."""
    points = commas = 0
    for line in lines:
        if "," in line:
            commas += sum(1 for _ in DECIMAL[","].finditer(line))
        points += sum(1 for _ in DECIMAL["."].finditer(line))
        if points + commas > 500:
            break
    return commas > points


def _unwrapped(lines: list[str]) -> list[str]:
    """Lines that a terminal broke at its width, whole again: many are as long as the longest, and no step follows."""
    width = max(map(len, lines), default=0)
    if not 60 <= width <= 400:
        return lines
    full = [index for index, line in enumerate(lines[:-1]) if len(line) == width]
    rests = [lines[index + 1] for index in full]
    steps = sum(any(is_step(key) for key in items_of(rest)) for rest in rests[:200])
    if len(full) < 3 or steps > len(rests[:200]) / 10:
        return lines
    whole: list[str] = []
    joined = False
    for line in lines:
        if joined:
            whole[-1] += line
        else:
            whole.append(line)
        joined = len(line) == width
    return whole


def _of_bar(bar: re.Match[str], before: str, behind: str, comma: bool, broken: bool) -> Row:
    took = bar["took"] or bar["rich"]
    elapsed = items_of(took)
    seconds = next(iter(elapsed.values())) if elapsed else Item(math.nan)
    title = re.sub(r"\d{1,3}%.*|[^\w ]", "", before[-60:]).strip().lower()
    items = {"bar": Item(float(bar["at"] or bar["open"])), "bar elapsed": seconds}
    if (bar["of"] or "?").isdigit():
        items["bar of"] = Item(float(bar["of"]))
    rest = behind.partition("]")[0] if "]" in behind else behind
    told = items_of(rest, comma)
    told = {
        key: it for key, it in told.items() if key[:1] not in ("", "~") and (key == "global_step" or not is_step(key))
    }
    return Row({**told, **items}, None, None, title, broken)


def _main_bar(rows: list[Row]) -> list[Row]:
    """Of several progress bars (loading, evaluating, mapping) the one that is drawn for longest."""
    bars: dict[tuple[str, float], float] = {}
    for row in rows:
        if "bar" in row.items:
            key = (re.sub(r"\d", "", row.text), row.items["bar of"].value if "bar of" in row.items else 0.0)
            bars[key] = max(bars.get(key, 0.0), row.items["bar elapsed"].value)
    if len(bars) < 2:
        return rows
    main = max(bars, key=lambda key: bars[key])
    kept: list[Row] = []
    broken = False
    for row in rows:
        if "bar" in row.items:
            key = (re.sub(r"\d", "", row.text), row.items["bar of"].value if "bar of" in row.items else 0.0)
            if key != main:
                broken = True
                continue
            row = row._replace(after_break=row.after_break or broken)
            broken = False
        kept.append(row)
    return kept


class _Dates:
    """Dates of a log: one way of writing them, the years that are not said, midnight where only the time is."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.day_first: bool | None = None
        self.days = 0

    def take(self, line: str) -> tuple[Item | None, str]:
        """The clock at a line's head and the line without it."""
        if match := EPOCH.match(line):
            return Item(float(match[1]), "s", 10.0 ** -len(match[2] or "")), line[match.end() :]
        for pattern in DATES:
            if match := pattern.search(line[:200]):
                seconds = self._seconds({key: it for key, it in match.groupdict().items() if it})
                if seconds is None:
                    continue
                fraction = match["f"] or ""
                return Item(seconds, "s", 10.0 ** -len(fraction)), line[: match.start()] + " - " + line[match.end() :]
        return None, line

    def _seconds(self, it: dict[str, str]) -> float | None:
        if "a" in it:
            first, second = int(it["a"]), int(it["b"])
            if self.day_first is None and max(first, second) > 12:
                self.day_first = first > 12
            it["d"], it["mo"] = (it["a"], it["b"]) if self.day_first else (it["b"], it["a"])
        month = MONTHS.index(it["name"][:3].lower()) + 1 if "name" in it else int(it.get("mo", 1))
        year = int(it.get("y", "2000"))
        hour = int(it["H"]) % 12 + 12 * (it["half"].upper() == "PM") if "half" in it else int(it["H"])
        zone = it.get("zone", "Z")
        offset = 0 if zone == "Z" else int(zone[0] + "1") * (int(zone[1:3]) * 3600 + int(zone[-2:]) * 60)
        try:
            day = datetime(year + 2000 * (year < 100), month, int(it.get("d", 1)), hour, int(it["M"]), tzinfo=UTC)
        except ValueError:
            return None
        seconds = day.timestamp() + int(it["S"]) + float("0." + it.get("f", "0")) - offset
        if "d" not in it:  # the time alone: a jump back by half a day is midnight
            seconds += self.days * 86_400
            if self.last is not None and seconds < self.last - 43_200:
                self.days += 1
                seconds += 86_400
            self.last = seconds
        return seconds


# ------------------------------------------------------------------------------------------------- tables and JSON


csv.field_size_limit(1 << 30)  # a quotation mark that nobody closes makes a cell of all that follows
NAME = re.compile(r"(?:[A-Za-z_][^|:=]{0,200}(?::[^|:= ]{1,60})?)?")  # of a column; the first may have none


def _table_of(text: str) -> Raw | None:
    """A CSV, TSV or semicolon table with a header of names; None where the text is none."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        return None
    for mark in ",;\t":
        names = [name.strip().strip('"') for name in lines[0].split(mark)]
        some = [line.count(mark) for line in lines[1:20]]
        if len(names) < 2 or not all(NAME.fullmatch(name) for name in names):
            continue
        if sum(count >= len(names) - 1 for count in some) > 0.8 * len(some):
            return read_table(text, mark)
    return None


def read_table(text: str, mark: str = ",") -> Raw:
    """Rows of a table by their columns' names; a cell that is no number tells nothing."""
    comma = mark != "," and _decimal_commas(text.splitlines()[1:])
    rows: list[Row] = []
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark)
    names = [name.strip().lower() for name in reader.fieldnames or () if name]
    for line in reader:
        cells = {(name or "").strip().lower(): cell for name, cell in line.items() if isinstance(cell, str)}
        rows.append(of_cells(cells, comma))
    if not any(row.items for row in rows):
        what = f"no column has numbers (columns: {', '.join(names[:8]) or 'none'})"
        raise RigbenchError(what, "give a table of steps")
    return Raw("table", rows, dict.fromkeys(names, math.nan), {})


def of_cells(cells: Mapping[str, object], comma: bool = False) -> Row:
    """A record's numbers; a date or a duration is one too."""
    items: dict[str, Item] = {}
    for name, cell in cells.items():
        if isinstance(cell, bool) or cell is None:
            continue
        text = str(cell).strip()
        clock, _ = _Dates().take(text) if text[4:5] in "-/" or text[2:3] in "/." else (None, "")
        if clock is not None:
            items[name] = clock._replace(unit="date")
        elif match := NUMBER.fullmatch(text):
            item = _item(match, None, comma)
            if item is not None:
                items[name] = item._replace(resolution=max(item.resolution, 1e-6)) if item.unit != "s" else item
    return Row(items, None, None, "", False)


def _json(text: str, name: str) -> Raw | None:
    """A record a line, a list of records, an object of columns, or an object that has the list in it."""
    records: list[dict[str, object]] = []
    first = text.splitlines()[0].strip()
    if first.startswith("{") and first.endswith("}"):
        for line in text.splitlines():
            try:
                record = json.loads(line[: 10 * LINE_LIMIT]) if line.strip().startswith("{") else None
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict):
                records.append(record)
        if len(records) > 1:
            return Raw("JSON", [of_cells(_flat(record)) for record in records], {}, {})
    try:
        document = json.loads(text)
    except ValueError:
        if '"log_history"' in text[:2000]:
            raise RigbenchError(f"{name} was cut short: it is no whole JSON", "give the whole file") from None
        try:  # a list that was cut short, or has more behind it
            document = json.loads(text[: text.rfind("},") + 1] + "]") if first.startswith("[") else None
        except (ValueError, RecursionError):
            return None
    except RecursionError:
        raise RigbenchError(f"{name} is nested too deeply", "give the log itself") from None
    summary: dict[str, float] = {}
    if isinstance(document, dict):
        summary = {key: float(it) for key, it in document.items() if isinstance(it, int | float) and abs(it) < 1e300}
        lists = [it for it in document.values() if isinstance(it, list) and it and isinstance(it[0], dict)]
        if isinstance(document.get("log_history"), list):
            summary["log_history"] = 1.0
            document = document["log_history"]
        elif lists:
            document = max(lists, key=len)
        else:
            document = _columns(document)
    records = [record for record in document if isinstance(record, dict)] if isinstance(document, list) else []
    return Raw("JSON", [of_cells(_flat(record)) for record in records], {}, summary) if records or summary else None


def _columns(document: dict[str, object]) -> list[dict[str, object]]:
    """{"step": {"0": 1, …}, …} or {"step": [1, …], …}, as data frames are written, record by record."""
    columns = {key: list(it.values()) if isinstance(it, dict) else it for key, it in document.items()}
    lists = {key: it for key, it in columns.items() if isinstance(it, list)}
    length = max(map(len, lists.values()), default=0)
    return [{key: it[index] for key, it in lists.items() if index < len(it)} for index in range(length)]


def _flat(record: Mapping[str, object], before: str = "", depth: int = 0) -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in record.items():
        name = f"{before}{key}".strip().lower()
        if isinstance(value, dict):
            if depth < 3:
                inner = _flat(value, "" if key == "data" else f"{name}/", depth + 1)
                flat.update({key: it for key, it in inner.items() if key not in flat})
        elif isinstance(value, list):
            continue
        else:
            flat[name] = value
    return flat


# ------------------------------------------------------------------------------------------------ what names look like

STEP_WORDS = ("step", "steps", "iter", "iters", "iteration", "iterations", "it", "update", "updates", "batch", "bar")
SECONDS_EACH = ("s/it", "s/step", "s/iter")
NOT_A_STEP = re.compile(
    r"\b(?:warmup|max|total|num|n|save|saving|logging|log|per|every|val|(?:eval|valid|test)\w{0,8}|last|end|stop|time|of|size|"
    r"micro batch|accumulation|gradient|tokens|skipped|nan|each|lr|sec|remaining|for|after|in|resum\w{0,5}|from|load|"
    r"starts?|loss|grad|norm)\b"
)


def is_step(key: str) -> bool:
    """Whether a name is that of a count of steps or iterations."""
    spaced = re.sub(r"[^a-z0-9]+", " ", key).strip()
    if not spaced or key.count(" ") > 4:
        return False
    named = spaced.split()[-1] in STEP_WORDS and not NOT_A_STEP.search(spaced) and not key.endswith(SECONDS_EACH)
    return named or spaced in ("num updates", "it")


TOLD = re.compile(
    r"tok|tps|tgs|throughput|\btime|ms\b|second|_s\b|timing|elapsed|samples|\bdt\b|step_avg|\bloss\b|runtime"
)


def is_told(key: str, unit: str) -> bool:
    """Whether a number may say how fast training went, or what its loss was."""
    told = TOLD.search(key) and not re.search(r"\b(?:val|eval|test|valid)", key)
    return unit in ("s", "min") or "/" in unit or bool(told)


def lines_with_numbers(lines: Iterable[str]) -> Iterator[str]:
    return (line.strip() for line in lines if sum(mark.isdigit() for mark in line) >= 2)
