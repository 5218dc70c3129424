"""Shows a watch while it goes on: a picture on a terminal of any size, lines where there is none."""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.text import Text

from rigbench.core.record import Absent
from rigbench.core.screen import LEVELS, SEVERITY_STYLES, Fact, LivePicture, known, printable
from rigbench.monitor.record import Gone, Monitor, MonitorGpu
from rigbench.monitor.screen import gpu_facts, host_facts, length, rhythm, word
from rigbench.work.telemetry import IDLE, REASONS

LABEL = 7  # columns
LEAST_WIDTH = 20

Line = tuple[str, str]  # text, style
Chart = Sequence[tuple[float, float]]


class Display(LivePicture):
    def __call__(self, monitor: Monitor, charts: Mapping[str, Chart]) -> None:
        width, height = self.console.size
        with contextlib.suppress(OSError, ValueError, AttributeError):
            size = os.get_terminal_size(self.console.file.fileno())  # as it is now: COLUMNS may be another one's
            if size.columns and size.lines:
                width, height = size
        self.draw(frame(monitor, charts, width, height))


class Lines:
    """For a pipe or a log: a line per GPU and one for the host at every tick, a hint when it comes and when it goes."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write, self._first = write, True
        self._held: frozenset[str] = frozenset()

    def __call__(self, monitor: Monitor, charts: Mapping[str, Chart]) -> None:
        at = f"{monitor.seconds:.1f} s" if monitor.interval_seconds < 1 else length(monitor.seconds)
        if isinstance(monitor.gpu_count, Absent) and self._first:
            self._write(f"no GPU is seen ({monitor.gpu_count.reason})\n")
        self._first = False
        for gpu in monitor.gpus:
            self._write(f"{at}  {gpu.device}  {printable(_terse(gpu, monitor))}\n")
        self._write(f"{at}  host  {_host(monitor)}\n")
        now = {held.hint.title: held.hint for held in monitor.hints if held.holds_now}
        for title in now.keys() - self._held:
            hint, seen = now[title], printable("; ".join(now[title].evidence))
            self._write(f"{at}  {word(hint.severity)}: {title} ({seen}); next: {hint.cure}\n")
        for title in self._held - now.keys():
            self._write(f"{at}  no more: {title}\n")
        self._held = frozenset(now)

    def close(self) -> None:
        return None


def frame(monitor: Monitor, charts: Mapping[str, Chart], width: int, height: int) -> Text:
    """One picture that fits: every GPU in full, in a line each where the terminal is too low for that."""
    width = max(LEAST_WIDTH, width)
    for full, evidence in ((True, True), (True, False), (False, True)):
        gpus = (_full if full else _short)(monitor, charts, width)
        lines = [*_head(monitor, width), *gpus, *_hints(monitor, width, evidence)]
        if len(lines) < height:
            break
    else:
        hidden = len(lines) - (height - 2)
        lines = [*lines[: max(1, height - 2)], (f"… {hidden} more lines; a taller window shows them", "dim")]
    text = Text(no_wrap=True, overflow="crop", end="")
    for number, (line, style) in enumerate(lines):
        text.append(("\n" if number else "") + printable(line[:width]), style=style)
    return text


def _full(monitor: Monitor, charts: Mapping[str, Chart], width: int) -> Iterator[Line]:
    def labelled(label: str, text: str, severity: str = "information") -> Iterator[Line]:
        """`label` once, then its text under itself as wide as there is room."""
        for number, part in enumerate(textwrap.wrap(text, max(10, width - 2 - LABEL))):
            yield f"  {label if not number else '':<{LABEL}}{part}", SEVERITY_STYLES[severity]

    for gpu in monitor.gpus:
        yield f"{gpu.device} {gpu.name if isinstance(gpu.name, str) else ''}".rstrip(), "bold"
        if isinstance(gpu.gone, Gone):
            yield from labelled("gone", f"since {length(gpu.gone.since_seconds)}: {gpu.gone.reason}", "fault")
            continue
        if isinstance(gpu.frozen, str):
            yield from labelled("frozen", gpu.frozen, "warning")
        facts = gpu_facts(gpu, monitor, now=True)
        text = {label: it if isinstance(it, str) else f"n/a ({it.reason})" for label, (_, it) in facts.items()}
        if isinstance(facts["busy"][1], str):
            shares = [share for _, share in charts.get(gpu.device, ())]
            text["busy"] = f"{text['busy']:<5} {_bars(shares, width - 2 - LABEL - 6)}".rstrip()
        held = _held(gpu)
        text["held"] = f"now: {', '.join(held)}; {text['held']}" if held else text["held"]
        yield from labelled("busy", text["busy"])
        yield from labelled("now", _readings(facts))
        for label in ("held", "PCIe", "in use"):
            yield from labelled(label, text[label])
    yield "host", "bold"
    yield from labelled("now", _host(monitor))


def _short(monitor: Monitor, charts: Mapping[str, Chart], width: int) -> Iterator[Line]:
    for gpu in monitor.gpus:
        style = SEVERITY_STYLES["fault"] if isinstance(gpu.gone, Gone) else ""
        yield f"{gpu.device} {_terse(gpu, monitor)}", style
    yield f"host {_host(monitor)}", ""


def _head(monitor: Monitor, width: int) -> Iterator[Line]:
    what = f"watching for {length(monitor.seconds)}, every {rhythm(monitor.interval_seconds)}"
    endings = ("; Ctrl-C ends it with a summary", "; Ctrl-C ends it", "; Ctrl-C ends", "")
    yield next(f"{what}{ending}" for ending in endings if len(what + ending) <= width or not ending), "dim"
    if isinstance(monitor.gpu_count, Absent):
        for line in textwrap.wrap(f"no GPU is seen ({monitor.gpu_count.reason})", width):
            yield line, "yellow"


def _hints(monitor: Monitor, width: int, evidence: bool) -> Iterator[Line]:
    """What holds now; where there is little room, only the first of what was seen."""
    for hint in (held.hint for held in monitor.hints if held.holds_now):
        for line in textwrap.wrap(f"{word(hint.severity)}: {hint.title}", width):
            yield line, SEVERITY_STYLES[hint.severity] or "bold"
        for text in (*hint.evidence[: None if evidence else 1], f"next: {hint.cure}"):
            for number, part in enumerate(textwrap.wrap(text, max(10, width - 4))):
                yield f"{'    ' if number else '  '}{part}", "dim"


def _terse(gpu: MonitorGpu, monitor: Monitor) -> str:
    if isinstance(gpu.gone, Gone):
        return f"gone since {length(gpu.gone.since_seconds)}: {gpu.gone.reason}"
    facts = gpu_facts(gpu, monitor, now=True)
    busy = facts["busy"][1]
    return ", ".join([busy if isinstance(busy, str) else "busy n/a", _readings(facts), *_held(gpu)])


def _readings(facts: Mapping[str, Fact]) -> str:
    readings = [facts[label] for label in ("memory", "power", "heat", "clock", "fan")]
    silent = [name for name, text in readings if isinstance(text, Absent)]
    text = known(readings)
    return f"{text}; n/a: {', '.join(silent)}" if silent and text else text or "no sensor answers"


def _held(gpu: MonitorGpu) -> list[str]:
    """What holds it down now."""
    return [REASONS.get(name, name) for name in gpu.throttle_now if name != IDLE]


def _host(monitor: Monitor) -> str:
    facts = host_facts(monitor.host, now=True)
    return known(facts[label] for label in ("CPU", "heat", "memory", "disks")) or "no reading"


def _bars(shares: Sequence[float], room: int) -> str:
    """Shares from 0 to 1 at full height, the last one at the right end; more than there is room for in groups."""
    if room < 4 or len(shares) < 2:
        return ""
    size = -(-len(shares) // room)
    first = len(shares) % size  # the oldest group may be cut, never the newest
    groups = [shares[max(0, start) : start + size] for start in range(first - size if first else 0, len(shares), size)]
    means = [sum(group) / len(group) for group in groups if group]
    return "".join(LEVELS[min(len(LEVELS) - 1, int(max(0.0, mean) * len(LEVELS)))] for mean in means)
