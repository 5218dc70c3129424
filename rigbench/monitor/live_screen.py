"""Lays out the live picture of a watch: text for a terminal of any size, from what was read alone."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from rich.text import Text

from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.core.screen import MARK_OF, MARKS, Fact, bar, known, mapped, missing, printable, spark
from rigbench.monitor import limits
from rigbench.monitor.limits import OK, Judged
from rigbench.monitor.record import Gone, Monitor, MonitorGpu, MonitorProcess, Watched
from rigbench.monitor.screen import gpu_facts, host_facts, kernel_words, length, rhythm

LABEL = 10  # columns, with what is left free before it
LEAST_WIDTH = 20
WORDS_FROM = 72  # columns: narrower, a mark stands without the words after it
WORDS = len("warn nearly full") + 2
SHORTEST_BAR, LONGEST_BAR, LONGEST_SPARK = 4, 40, 60
NUMBERS = len("14 of 16 GiB")
COMPOSED = "composed"  # how the note on a recording begins that no machine ever gave as it is
KEYS = "q quit · h help · p pause"
_share = units.format_share
HELP = (
    ("busy", "share of time in which any kernel ran; not how much of the card it filled"),
    ("memory", f"of the card; note from {_share(limits.LITTLE_LEFT)}, warn from {_share(limits.NEARLY_FULL)}"),
    ("power", f"of the card's own limit; note from {_share(limits.AT_POWER_LIMIT)}: normal, it sets the clock"),
    ("heat", "warn where the driver lowers clocks (its target), fault where the hardware does"),
    ("fan", f"note from {_share(limits.FULL_SPEED)}: there is no more air to be had"),
    ("clock", "of the multiprocessors, and what slows it down; traffic over PCIe, in one window of 20 ms"),
    ("history", "right of busy and power: the last minute; full height is 100 % and the limit"),
    ("host", f"note from {_share(limits.CORES_TAKEN)} of the cores, warn from {_share(limits.HOST_FULL)} of memory"),
    ("process", "on a GPU, worst first: memory there, children (data loaders) and the cores they use"),
    ("hints", "what the last minute suggests, and what to run next; a hint is not a measurement"),
    ("colours", "green ok, dim note, yellow warn, red fault; the word stands beside it"),
    ("keys", "q ends with a summary, as Ctrl-C; p holds the picture while readings go on; h goes back"),
)

Chart = Sequence[tuple[float, float]]
Charts = Mapping[str, Mapping[str, Chart]]  # by card, then by reading


class View(NamedTuple):
    """What the user asked for."""

    keys: bool = True  # are read
    paused: bool = False
    explained: bool = False


READ = View()


class Detail(NamedTuple):
    """How much of a picture there is room for."""

    card: Literal["a line a reading", "heat, fan and clock in one", "a line"]
    evidence: int | None  # lines a hint
    processes: int


DETAILS = (
    Detail("a line a reading", None, 8),
    Detail("a line a reading", 1, 3),
    Detail("heat, fan and clock in one", 1, 3),
    Detail("heat, fan and clock in one", 0, 2),
    Detail("a line", None, 8),
    Detail("a line", 1, 3),
    Detail("a line", 0, 1),
)


class Gauge(NamedTuple):
    name: str
    label: str
    share: float | None  # of its limit, where it has one
    text: str
    judged: Judged
    reading: str = ""  # that has a chart
    top: float | None = None  # of the chart


def frame(monitor: Monitor, charts: Charts, width: int, height: int, view: View = READ) -> Text:
    """One picture that fits: less is told of hints and processes first, then a line a card."""
    width = max(LEAST_WIDTH, width)
    room = max(2, height - 1)
    end = _footer(monitor, view)
    if view.explained:
        told = (*HELP, *(("note", note) for note in monitor.notes))
        lines = [
            Text("what the lines mean", "bold"),
            *(it for label, text in told for it in _wrapped(label, text, width)),
        ]
    else:
        for detail in DETAILS:
            lines = [
                *_head(monitor, width),
                *_cards(monitor, charts, width, detail),
                *_host(monitor, width),
                *_processes(monitor, detail.processes, width),
                *_hints(monitor, width, detail.evidence),
            ]
            if len(lines) + 1 <= room:
                break
    if len(lines) + 1 > room:
        shown = max(1, room - 2)
        more = Text(f"… {len(lines) - shown} more lines; a taller window shows them", "dim")
        lines = [*lines[:shown], *([more] if room > 2 else [])]
    made = Text(no_wrap=True, overflow="crop", end="")
    for line in (*lines, end):
        line.truncate(width)
        line.rstrip()
        made.append_text(line)
        made.append("\n")
    return made[:-1]


def _head(monitor: Monitor, width: int) -> Iterator[Text]:
    composed = any(note.startswith(COMPOSED) for note in monitor.notes)
    what = f"a recorded rig {'(composed) ' if composed else ''}" if monitor.replayed else ""
    yield Text(f"watching {what}for {length(monitor.seconds)}, every {rhythm(monitor.interval_seconds)}", "bold")
    if isinstance(monitor.gpu_count, Absent):
        for line in textwrap.wrap(printable(f"warn no GPU is seen ({monitor.gpu_count.reason})"), width):
            yield Text(line, MARKS["warn"])


def _footer(monitor: Monitor, view: View) -> Text:
    if not view.keys:
        return Text("Ctrl-C ends it with a summary", "dim")
    if view.paused:
        return Text("paused" if monitor.replayed else "paused, readings go on", MARKS["warn"]).append(
            " · p goes on · q quit · h help", "dim"
        )
    return Text(KEYS.replace("h help", "h back") if view.explained else KEYS, "dim")


def _cards(monitor: Monitor, charts: Charts, width: int, detail: Detail) -> Iterator[Text]:
    if detail.card == "a line":
        yield from _compact(monitor, width)
        return
    gauges = {gpu.device: _gauges(gpu) for gpu in monitor.gpus}
    numbers = max([NUMBERS, *(len(it.text) for its, _ in gauges.values() for it in its)])
    words = WORDS if width >= WORDS_FROM else len("fault") + 1
    room = width - LABEL - numbers - words - 4
    has_spark = room >= 3 * SHORTEST_BAR
    bars = max(0, min(LONGEST_BAR, room * 2 // 5 if has_spark else room))
    sparks = min(LONGEST_SPARK, room - bars) if has_spark else 0
    before = LABEL + bars + numbers + words + 3
    for gpu in monitor.gpus:
        title = Text(printable(f"{gpu.device} {gpu.name if isinstance(gpu.name, str) else ''}".rstrip()), "bold")
        ago = f"{length(monitor.window_seconds)} ago"
        if sparks > len(ago) + len(" now") and len(title) < before:
            title.append(" " * (before - len(title)) + ago + "now".rjust(sparks - len(ago)), "not bold dim")
        yield title
        if isinstance(gpu.gone, Gone):
            yield from _alarm(
                "fault", f"answers no more since {length(gpu.gone.since_seconds)}: {gpu.gone.reason}", width
            )
            continue
        if isinstance(gpu.frozen, str):
            yield from _alarm("warn", gpu.frozen, width)
        its, silent = gauges[gpu.device]
        beside = [it for it in its if it.name in ("temperature", "fan") and detail.card != "a line a reading"]
        for it in (it for it in its if it not in beside):
            line = Text(f"  {it.label}".ljust(LABEL))
            if bars >= SHORTEST_BAR:
                line.append(bar(it.share or 0.0, bars) + " ", MARKS[it.judged[0]])
            line.append(it.text.rjust(numbers) + "  ").append_text(_judged(it.judged, words))
            chart = charts.get(gpu.device, {}).get(it.reading, ())
            if sparks and chart:
                start = monitor.seconds - monitor.window_seconds
                line.append(" " + spark(chart, sparks, start, monitor.seconds, top=it.top))
            yield line
        yield from _clock(gpu, monitor, width, beside)
        if silent:
            yield from _wrapped("", silent, width, "dim")


def _clock(gpu: MonitorGpu, monitor: Monitor, width: int, beside: Sequence[Gauge]) -> Iterator[Text]:
    """The clock and what holds it down, then what has no line of its own, then traffic."""
    facts = gpu_facts(gpu, monitor, now=True)
    clock, traffic = facts["clock"][1], facts["PCIe"][1]
    pieces = [Text(clock if isinstance(clock, str) else "n/a")]
    judged = limits.held(gpu.throttle_now)
    if judged[1]:
        pieces.append(_judged(judged))
    for it in beside:
        pieces.append(Text(f"{it.label} {it.text} ").append_text(_judged(it.judged)))
        pieces[-1].rstrip()
    if isinstance(traffic, str):
        pieces.append(Text(f"PCIe {traffic.partition(';')[0]}"))
    yield from _flowing("clock", pieces, width)


def _compact(monitor: Monitor, width: int) -> Iterator[Text]:
    """A line a card, in columns; those that matter least are left out where it is narrow."""
    rows: list[tuple[MonitorGpu, dict[str, Gauge], Judged]] = []
    for gpu in monitor.gpus:
        its = {it.name: it for it in _gauges(gpu)[0]}
        facts = gpu_facts(gpu, monitor, now=True)
        clock, heat = facts["clock"][1], facts["heat"][1]
        if isinstance(clock, str):
            its["clock"] = Gauge("clock", "clock", None, clock, OK)
        if isinstance(heat, str):
            its["temperature"] = its["temperature"]._replace(text=heat)
        mark, reasons = limits.held(gpu.throttle_now)
        first = " ".join(reasons.split(", ")[0].split()[:2])  # "thermal slowdown", without "by the driver"
        rows.append((gpu, its, _worst([(mark, first), *(it.judged for it in its.values())])))
    names = ("utilisation", "memory", "power", "temperature", "fan", "clock")
    texts = {name: max((len(its[name].text) for _, its, _ in rows if name in its), default=0) for name in names}
    devices = max((len(gpu.device) for gpu in monitor.gpus), default=0)
    words = min(max((len(" ".join(judged)) for _, _, judged in rows), default=0), 2 * WORDS) + 2
    left, shown = width - devices, list[str]()
    barred: dict[str, int] = {}
    for name in names:
        kept = words if name in ("fan", "clock") or width >= WORDS_FROM else len("fault") + 2
        if texts[name] and left - kept >= texts[name] + 2:
            shown.append(name)
            left -= texts[name] + 2
    words = min(words, left)
    for name in shown[:4]:
        cells = min(LONGEST_BAR // 2, (left - words) // max(1, min(4, len(shown))) - 1)
        cells = cells if cells >= SHORTEST_BAR else min(2 * SHORTEST_BAR, left - words - 1) if name == shown[0] else 0
        if cells >= SHORTEST_BAR:
            barred[name] = cells
    for gpu, its, judged in rows:
        line = Text(printable(gpu.device).ljust(devices), "bold")
        line = Text().append_text(line)
        if isinstance(gpu.gone, Gone):
            yield line.append(
                printable(f"  fault gone since {length(gpu.gone.since_seconds)}: {gpu.gone.reason}"), MARKS["fault"]
            )
            continue
        for name in shown:
            it = its.get(name, Gauge(name, name, None, "n/a", OK))
            line.append("  ")
            if name in barred:
                line.append(bar(it.share or 0.0, barred[name]) + " ", MARKS[it.judged[0]])
            line.append(it.text.rjust(texts[name]), MARKS[it.judged[0]] if it.judged[0] != "ok" else "")
        yield line.append("  ").append_text(_judged(judged, words - 2))


def _gauges(gpu: MonitorGpu) -> tuple[list[Gauge], str]:
    """What has a reading now, and which readings are missing for what reason."""
    share, memory, power = _now(gpu.utilisation_share), _now(gpu.memory_used_bytes), _now(gpu.power_watts)
    heat, fan = _now(gpu.temperature_celsius), _now(gpu.fan_share)
    total, limit = gpu.memory_total_bytes, gpu.power_limit_watts
    hot = gpu.target_celsius if isinstance(gpu.slowdown_celsius, Absent) else gpu.slowdown_celsius
    made: list[Gauge] = []
    if not isinstance(share, Absent):
        text = units.format_share(share)
        made.append(Gauge("utilisation", "busy", share, text, limits.busy(share), "utilisation_share", 1.0))
    if not isinstance(memory, Absent):
        used = None if isinstance(total, Absent) or not total else memory / total
        judged = OK if used is None else limits.memory(used)
        text = _of(units.format_bytes(memory), mapped(total, units.format_bytes))
        made.append(Gauge("memory", "memory", used, text, judged))
    if not isinstance(power, Absent):
        used = None if isinstance(limit, Absent) or not limit else power / limit
        judged = OK if used is None else limits.power(used)
        text = _of(units.format_watts(power), mapped(limit, units.format_watts))
        top = None if used is None or isinstance(limit, Absent) else limit
        made.append(Gauge("power", "power", used, text, judged, "power_watts", top))
    if not isinstance(heat, Absent):
        judged = limits.heat(heat, gpu.target_celsius, gpu.slowdown_celsius)
        used = None if isinstance(hot, Absent) or not hot else heat / hot
        text = _of(f"{heat:.0f} °C", mapped(hot, lambda celsius: f"{celsius:.0f} °C"))
        made.append(Gauge("temperature", "heat", used, text, judged))
    if not isinstance(fan, Absent):
        made.append(Gauge("fan", "fan", fan, units.format_share(fan), limits.fan(fan)))
    read = {"busy": share, "memory": memory, "power": power, "heat": heat, "fan": fan}
    return made, missing((name, mapped(value, str)) for name, value in read.items())


def _host(monitor: Monitor, width: int) -> Iterator[Text]:
    host, facts = monitor.host, host_facts(monitor.host, now=True)
    cells = 6 if width < 100 else 12
    pieces: list[Text] = []
    busy, used, total = _now(host.busy_share), _now(host.memory_used_bytes), host.memory_total_bytes
    if not isinstance(busy, Absent):
        pieces.append(_piece("CPU", busy, units.format_share(busy), limits.cores(busy), cells))
    if not isinstance(used, Absent) and not isinstance(total, Absent) and total:
        text = _of(units.format_bytes(used), units.format_bytes(total))
        pieces.append(_piece("memory", used / total, text, limits.host_memory(used / total), cells))
    cores = f" of {host.core_count} cores" if isinstance(host.core_count, int) else ""
    full = _now(host.cores_at_limit)
    cores += f", {full:.0f} fully busy" if not isinstance(full, Absent) and full else ""
    rest = [
        facts["disks"][1],
        mapped(_now(host.load_average), lambda load: f"load {units.format_significant(load, 2)}{cores}"),
        mapped(facts["heat"][1], lambda text: f"CPU {text}"),
        mapped(facts["swap"][1], lambda text: f"swap {text}" if text else ""),
    ]
    pieces += [Text(text) for text in rest if isinstance(text, str) and text]
    yield from _flowing("host", pieces or [Text("no reading", "dim")], width, "bold")


def _piece(label: str, share: float, text: str, judged: Judged, cells: int) -> Text:
    made = Text(f"{label} ").append(bar(share, cells), MARKS[judged[0]]).append(f" {text}")
    return made.append(" ").append_text(_judged(judged)) if judged[0] != "ok" else made


def _processes(monitor: Monitor, most: int, width: int) -> Iterator[Text]:
    """On which GPU, who, how much: those with a child at a core's limit first, then by memory."""
    listed: list[tuple[str, MonitorProcess]] = []
    unknown: list[Fact] = []
    for gpu in monitor.gpus:
        if not isinstance(gpu.processes, Absent):
            listed += [(gpu.device, one) for one in gpu.processes]
        elif not isinstance(gpu.gone, Gone):
            unknown.append((gpu.device, gpu.processes))
    listed.sort(key=lambda it: (limits.loaders(it[1].children_at_limit)[0] == "ok", -_bytes(it[1])))
    names = [one.name if isinstance(one.name, str) else "a process" for _, one in listed[:most]]
    pids, wide = max((len(str(one.pid)) for _, one in listed[:most]), default=0), max(map(len, names), default=0)
    for number, ((device, one), name) in enumerate(zip(listed, names, strict=False)):
        judged = limits.loaders(one.children_at_limit)
        facts: list[Fact] = [
            ("memory", mapped(one.memory_bytes, units.format_bytes)),
            ("children", "" if not one.children else mapped(one.children, lambda count: f"{count} children")),
            ("cores", mapped(one.cores, lambda cores: f"{cores:.1f} cores")),
        ]
        pieces = [Text(printable(f"{device} {one.pid:>{pids}} {name:<{wide}}")), Text(known(facts))]
        pieces += [_judged(judged)] if judged[0] != "ok" else []
        yield from _flowing("process" if not number else " ", pieces, width, "bold")
    if len(listed) > most:
        yield Text(" " * LABEL + f"{len(listed) - most} more", "dim")
    if not listed and not unknown and monitor.gpus:
        yield from _flowing("process", [Text("none on a GPU")], width, "bold")
    if unknown:
        yield from _flowing("process", [Text(printable(missing(unknown)), "dim")], width, "bold")


def _bytes(one: MonitorProcess) -> int:
    return -1 if isinstance(one.memory_bytes, Absent) else one.memory_bytes


def _hints(monitor: Monitor, width: int, evidence: int | None) -> Iterator[Text]:
    """What holds now, then what did; where there is little room, less of what was seen and nothing of what is over."""
    for seen in monitor.kernel:
        event, mark = seen.event, MARK_OF[seen.event.severity]
        for line in textwrap.wrap(f"{mark} kernel: {kernel_words(event)}, after {length(seen.last_seconds)}", width):
            yield Text(line, f"bold {MARKS[mark]}")
        for text in (*(event.text, event.meaning)[: 2 if evidence is None else evidence], f"next: {event.do}"):
            for number, part in enumerate(textwrap.wrap(printable(text), max(10, width - 4))):
                yield Text(f"{'    ' if number else '  '}{part}", "" if text.startswith("next: ") else "dim")
    for hint in (held.hint for held in monitor.hints if held.holds_now):
        mark = MARK_OF[hint.severity]
        for line in textwrap.wrap(printable(f"{mark} {hint.title}"), width):
            yield Text(line, f"bold {MARKS[mark]}")
        for text in (*hint.evidence[:evidence], f"next: {hint.cure}"):
            for number, part in enumerate(textwrap.wrap(printable(text), max(10, width - 4))):
                yield Text(f"{'    ' if number else '  '}{part}", "" if text.startswith("next: ") else "dim")
    for held in monitor.hints if evidence is None else ():
        if not held.holds_now:
            mark = MARK_OF[held.hint.severity]
            for line in textwrap.wrap(
                printable(f"no more, last after {length(held.last_seconds)}: {mark} {held.hint.title}"), width
            ):
                yield Text(line, "dim")


def _alarm(mark: str, text: str, width: int) -> Iterator[Text]:
    for line in textwrap.wrap(printable(f"{mark} {text}"), max(10, width - 2)):
        yield Text(f"  {line}", MARKS[mark])


def _judged(judged: Judged, width: int = 0) -> Text:
    """The mark and its words in its colour; nothing where all is well, no words where `width` has no room."""
    mark, words = judged
    text = "" if mark == "ok" else f"{mark} {words}"
    return Text((text if not width or len(text) <= width else text[: text.find(" ")]).ljust(width), MARKS[mark])


def _worst(them: Iterable[Judged]) -> Judged:
    return max(them, key=lambda judged: list(MARKS).index(judged[0]))


def _flowing(label: str, pieces: Sequence[Text], width: int, style: str = "") -> Iterator[Text]:
    """Pieces side by side, on the next line where one does not fit."""
    indent = "" if style else "  "
    line = Text().append((indent + label).ljust(LABEL), style)
    empty = True
    room = max(10, width - LABEL)
    folded = (
        [piece] if piece.cell_len <= room else [Text(it, piece.style) for it in textwrap.wrap(piece.plain, room)]
        for piece in pieces
    )
    for piece in itertools.chain.from_iterable(folded):
        if not empty and line.cell_len + 2 + piece.cell_len > width:
            yield line
            line, empty = Text(" " * LABEL), True
        line.append("" if empty else "  ").append_text(piece)
        empty = False
    yield line


def _wrapped(label: str, text: str, width: int, style: str = "") -> Iterator[Text]:
    for number, part in enumerate(textwrap.wrap(printable(text), max(10, width - LABEL))):
        yield Text(f"  {label if not number else ''}".ljust(LABEL) + part, style)


def _of(text: str, limit: str | Absent) -> str:
    """ "14 of 16 GiB", "596 MiB of 16 GiB"."""
    if isinstance(limit, Absent):
        return text
    number, _, unit = text.partition(" ")
    return f"{number if limit.endswith(f' {unit}') else text} of {limit}"


def _now(watched: Watched | Absent) -> float | Absent:
    return watched if isinstance(watched, Absent) else watched.now
