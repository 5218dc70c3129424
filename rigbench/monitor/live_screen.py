"""How does a watch look while it goes on: a picture on a terminal of any size, lines where there is none?"""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.core.screen import LEVELS, known
from rigbench.monitor.record import Gone, Monitor, MonitorGpu, Watched
from rigbench.monitor.screen import (
    IDLE,
    PCIE_WINDOW,
    STYLES,
    company,
    cpu,
    disks,
    held_down,
    length,
    megahertz,
    of,
    rhythm,
    word,
)
from rigbench.work.throttle import REASONS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

LABEL = 7  # columns
LEAST_WIDTH = 20
Line = tuple[str, str]  # text, style
Chart = Sequence[tuple[float, float]]


class Display:
    """A live picture on a terminal; leaves nothing behind when closed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None

    def __call__(self, monitor: Monitor, charts: Mapping[str, Chart]) -> None:
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=self._console, transient=True, auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        self._live.update(frame(monitor, charts, *self._size()), refresh=True)

    def _size(self) -> tuple[int, int]:
        """The terminal's own, as it is now: COLUMNS may be another one's."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found = os.get_terminal_size(self._console.file.fileno())
            if found.columns and found.lines:
                return found.columns, found.lines
        return self._console.size.width, self._console.size.height

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


class Lines:
    """For a pipe or a log: a line per GPU and one for the host at every tick, a hint when it comes and when it goes."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._held: frozenset[str] = frozenset()
        self._said_absent = False

    def __call__(self, monitor: Monitor, charts: Mapping[str, Chart]) -> None:
        at = f"{monitor.seconds:.1f} s" if monitor.interval_seconds < 1 else length(monitor.seconds)
        if not isinstance(monitor.gpus_absent, msgspec.UnsetType) and not self._said_absent:
            self._said_absent = True
            self._write(f"no GPU is seen ({monitor.gpus_absent.reason})\n")
        for gpu in monitor.gpus:
            self._write(f"{at}  {gpu.device}  {_terse(gpu)}\n")
        self._write(f"{at}  host  {_host(monitor)}\n")
        now = {held.hint.sentence: held.hint for held in monitor.hints if held.holds_now}
        for sentence in now.keys() - self._held:
            seen = "; ".join(now[sentence].evidence)
            self._write(f"{at}  {word(now[sentence].severity)}: {sentence} ({seen}); next: {now[sentence].next}\n")
        for sentence in self._held - now.keys():
            self._write(f"{at}  no more: {sentence}\n")
        self._held = frozenset(now)

    def close(self) -> None:
        return None


def frame(monitor: Monitor, charts: Mapping[str, Chart], width: int, height: int) -> Text:
    """One picture that fits: every GPU in full, in a line each where the terminal is too low for that."""
    from rich.text import Text

    width = max(LEAST_WIDTH, width)
    lines = list(_full(monitor, charts, width, evidence=True))
    if len(lines) > height - 1:
        lines = list(_full(monitor, charts, width, evidence=False))
    if len(lines) > height - 1:
        lines = list(_short(monitor, width))
    if len(lines) > height - 1:
        hidden = len(lines) - (height - 2)
        lines = [*lines[: max(1, height - 2)], (f"… {hidden} more lines; a taller window shows them", "dim")]
    text = Text(no_wrap=True, overflow="crop", end="")
    for number, (said, style) in enumerate(lines):
        text.append(("\n" if number else "") + said[:width], style=style)
    return text


def _full(monitor: Monitor, charts: Mapping[str, Chart], width: int, evidence: bool) -> Iterator[Line]:
    yield from _head(monitor, width)
    for gpu in monitor.gpus:
        name = gpu.name if isinstance(gpu.name, str) else ""
        yield f"{gpu.device} {name}".rstrip(), "bold"
        if isinstance(gpu.gone, Gone):
            yield from _labelled("gone", f"since {length(gpu.gone.since_seconds)}: {gpu.gone.reason}", width, "fault")
            continue
        if isinstance(gpu.frozen, str):
            yield from _labelled("frozen", gpu.frozen, width, "warning")
        yield from _labelled("busy", _busy(gpu, charts.get(gpu.device, ()), width - 2 - LABEL), width)
        yield from _labelled("now", _readings(gpu), width)
        yield from _labelled("held", _held(gpu), width)
        yield from _labelled("PCIe", _traffic(gpu, monitor), width)
        told = company(gpu)
        yield from _labelled("in use", told if isinstance(told, str) else f"n/a ({told.reason})", width)
    yield "host", "bold"
    yield from _labelled("now", _host(monitor), width)
    yield from _hints(monitor, width, evidence)


def _short(monitor: Monitor, width: int) -> Iterator[Line]:
    yield from _head(monitor, width)
    for gpu in monitor.gpus:
        style = STYLES["fault"] if isinstance(gpu.gone, Gone) else ""
        yield f"{gpu.device} {_terse(gpu)}", style
    yield f"host {_host(monitor)}", ""
    yield from _hints(monitor, width, True)


def _head(monitor: Monitor, width: int) -> Iterator[Line]:
    told = f"watching for {length(monitor.seconds)}, every {rhythm(monitor.interval_seconds)}"
    endings = ("; Ctrl-C ends it with a summary", "; Ctrl-C ends it", "; Ctrl-C ends", "")
    yield next(f"{told}{ending}" for ending in endings if len(told + ending) <= width or not ending), "dim"
    if not isinstance(monitor.gpus_absent, msgspec.UnsetType):
        for line in textwrap.wrap(f"no GPU is seen ({monitor.gpus_absent.reason})", width):
            yield line, "yellow"


def _labelled(label: str, text: str, width: int, severity: str = "information") -> Iterator[Line]:
    """`label` once, then its text under itself as wide as there is room."""
    for number, part in enumerate(textwrap.wrap(text, max(10, width - 2 - LABEL))):
        yield f"  {label if not number else '':<{LABEL}}{part}", STYLES[severity]


def _busy(gpu: MonitorGpu, chart: Chart, width: int) -> str:
    share = now(gpu.utilisation_share, units.format_share)
    if isinstance(share, Absent):
        return f"n/a ({share.reason})"
    return f"{share:<5} {_bars([value for _, value in chart], width - 6)}".rstrip()


def _bars(shares: Sequence[float], room: int) -> str:
    """Shares from 0 to 1 at full height, the last one at the right end; more than there is room for in groups."""
    if room < 4 or len(shares) < 2:
        return ""
    size = -(-len(shares) // room)
    first = len(shares) % size  # the oldest group may be cut, never the newest
    groups = [shares[max(0, start) : start + size] for start in range(first - size if first else 0, len(shares), size)]
    means = [sum(group) / len(group) for group in groups if group]
    return "".join(LEVELS[min(len(LEVELS) - 1, int(max(0.0, mean) * len(LEVELS)))] for mean in means)


def now(watched: Watched | Absent, shown: Callable[[float], str]) -> str | Absent:
    """The last reading."""
    if isinstance(watched, Absent):
        return watched
    return watched.now if isinstance(watched.now, Absent) else shown(watched.now)


def _now_of(watched: Any, shown: Any) -> str | Absent:
    return now(watched, shown)


def _readings(gpu: MonitorGpu) -> str:
    limit = gpu.power_limit_watts
    watts = now(gpu.power_watts, units.format_watts)
    if isinstance(watts, str) and isinstance(limit, float):
        watts = f"{watts.removesuffix(' W')} of {units.format_watts(limit)}"
    facts = [
        ("memory", of(now(gpu.memory_used_bytes, units.format_bytes), gpu.memory_total_bytes)),
        ("power", watts),
        ("temperature", now(gpu.temperature_celsius, lambda celsius: f"{celsius:.0f} °C")),
        ("clock", now(gpu.sm_clock_hertz, megahertz)),
        ("fan", now(gpu.fan_share, lambda share: f"fan {units.format_share(share)}")),
    ]
    silent = [name for name, text in facts if isinstance(text, Absent)]
    told = known(facts)
    return f"{told}; n/a: {', '.join(silent)}" if silent and told else told or "no sensor answers"


def _held(gpu: MonitorGpu) -> str:
    since = held_down(gpu)
    held = [REASONS.get(name, name) for name in gpu.throttle_now if name != IDLE]
    this = f"now: {', '.join(held)}; " if held else ""
    return f"{this}{since if isinstance(since, str) else f'n/a ({since.reason})'}"


def _traffic(gpu: MonitorGpu, monitor: Monitor) -> str:
    ways = [now(one, units.format_bytes_per_s) for one in (gpu.to_gpu_bytes_per_s, gpu.from_gpu_bytes_per_s)]
    for way in ways:
        if isinstance(way, Absent):
            return f"n/a ({way.reason})"
    return f"in {ways[0]}, out {ways[1]} ({PCIE_WINDOW} each {rhythm(monitor.slow_seconds)})"


def _terse(gpu: MonitorGpu) -> str:
    if isinstance(gpu.gone, Gone):
        return f"gone since {length(gpu.gone.since_seconds)}: {gpu.gone.reason}"
    share = now(gpu.utilisation_share, units.format_share)
    held = [REASONS.get(name, name) for name in gpu.throttle_now if name != IDLE]
    return ", ".join([share if isinstance(share, str) else "busy n/a", _readings(gpu), *held])


def _host(monitor: Monitor) -> str:
    host = monitor.host
    facts = [
        ("CPU", cpu(host, _now_of)),
        ("temperature", now(host.temperature_celsius, lambda celsius: f"{celsius:.0f} °C")),
        ("memory", of(now(host.memory_used_bytes, units.format_bytes), host.memory_total_bytes)),
        ("disks", disks(host, _now_of)),
    ]
    told = known([(name, f"CPU {text}" if name == "CPU" and isinstance(text, str) else text) for name, text in facts])
    return told or "no reading"


def _hints(monitor: Monitor, width: int, evidence: bool) -> Iterator[Line]:
    """What holds now; where there is little room, only the first of what was seen."""
    for held in monitor.hints:
        if not held.holds_now:
            continue
        hint = held.hint
        for line in textwrap.wrap(f"{word(hint.severity)}: {hint.sentence}", width):
            yield line, STYLES[hint.severity] or "bold"
        for text in (*hint.evidence[: None if evidence else 1], f"next: {hint.next}"):
            for number, part in enumerate(textwrap.wrap(text, max(10, width - 4))):
                yield f"{'    ' if number else '  '}{part}", "dim"
