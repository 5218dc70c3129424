"""How does the P2P measurement look on a screen?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rigbench.core import stats, units
from rigbench.core.finding_screen import places
from rigbench.core.record import Absent, Skipped, Tally
from rigbench.core.screen import grid
from rigbench.p2p.record import P2p, P2pArm, PairVerdict, SpeedRatio

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

STYLES = {
    "works": "green",
    "broken": "red",
    "not available": "yellow",
    "inconclusive": "yellow",
    "not applicable": "dim",
}
CONVENTION = "GB/s is 1e9 bytes/s; all_reduce counts its own bytes once (algbw), by the slowest rank"


def show(result: P2p | Skipped, console: Console) -> None:
    """The verdict, what to export, the evidence of each pair, the speeds, every arm."""
    from rich.text import Text

    if isinstance(result, Skipped):
        console.print(Text(f"p2p skipped: {result.reason}", style="yellow"))
        return
    console.print(Text.assemble((_head(result), "bold"), (result.verdict, f"bold {STYLES[result.verdict]}")))
    console.print(Text(f"  {result.reason}"))
    if not result.arms:
        return
    console.print(Text(f"  {_software(result)}", style="dim"))
    console.print()
    console.print(grid(_advice(result)))
    for alike in _groups(result.pairs):
        first = alike[0]
        title = places([f"{one} and {other}" for one, other in (pair.pair for pair in alike)]), "bold"
        reason = f", {first.reason}" if len(result.pairs) > 1 else ""
        console.print()
        console.print(Text.assemble(title, (": ", "bold"), (first.verdict, STYLES[first.verdict]), reason))
        console.print(grid(("" if place else "evidence", line) for place, line in enumerate(first.evidence)))
    if result.speeds:
        console.print()
        console.print(_speeds(result))
    console.print()
    console.print(_arms(result))
    if any(arm.reduces for arm in result.arms):
        console.print(Text(f"  {CONVENTION}", style="dim"))


def _head(result: P2p) -> str:
    devices = result.devices
    if len(devices) < 2:
        return "P2P: "
    return f"P2P between {' and '.join(devices) if len(devices) == 2 else f'{len(devices)} GPUs'}: "


def _groups(pairs: Sequence[PairVerdict]) -> list[list[PairVerdict]]:
    """Pairs of which everything is said alike are shown together."""
    groups: dict[tuple[object, ...], list[PairVerdict]] = {}
    for pair in pairs:
        groups.setdefault((pair.verdict, pair.reason, pair.evidence), []).append(pair)
    return list(groups.values())


def _software(result: P2p) -> str:
    names = ", ".join(f"{result.device_names.count(name)} × {name}" for name in dict.fromkeys(result.device_names))
    version = result.nccl_version
    return f"{names}; NCCL {f'n/a ({version.reason})' if isinstance(version, Absent) else version}"


def _advice(result: P2p) -> Iterator[tuple[str, str]]:
    advice = result.advice
    if isinstance(advice, Absent):
        yield "to set", f"n/a ({advice.reason})"
        return
    lines = [f"export {name}={value}" for name, value in advice.environment.items()] or ["nothing: NCCL's defaults"]
    yield "to set", lines[0]
    for line in lines[1:]:
        yield "", line
    yield "because", advice.reason
    for note in advice.notes:
        yield "note", note


def _speeds(result: P2p) -> Table:
    names = ("what", "each", "setting", "GB/s", "P2P off", "times as fast", "interval", "faster")
    table = _table("speed against P2P off, settings in turns", names, right=(3, 4, 5))
    for ratio in result.speeds:
        table.add_row(
            ratio.what,
            units.format_bytes(ratio.size_bytes),
            ratio.setting,
            _gb_per_s(ratio.bytes_per_s),
            _gb_per_s(ratio.against_bytes_per_s),
            f"{ratio.ratio.value:.2f}",
            _interval(ratio),
            ratio.faster,
        )
    return table


def _interval(ratio: SpeedRatio) -> str:
    if ratio.ratio.level == 0:
        return "one pair"
    return f"{ratio.ratio.low:.2f} to {ratio.ratio.high:.2f}"


def _arms(result: P2p) -> Table:
    sizes = sorted({times.size_bytes for arm in result.arms for times in arm.reduces})
    timed = [f"all_reduce {units.format_bytes(size)}" for size in sizes]
    logged = any(isinstance(arm.transports, Tally) for arm in result.arms)
    names = ("try", "setting", "ended", "checks", "wrong", *timed, *["NCCL went over"] * logged)
    table = _table("every try, in order", names, right=(0, *range(3, 5 + len(sizes))))
    for number, arm in enumerate(result.arms, 1):
        checked, wrong = (sum(getattr(check, what) for check in arm.checks) for what in ("checked", "wrong"))
        times = [_time(arm, size) for size in sizes]
        cells = (str(number), arm.setting, arm.ended, f"{checked:,}", f"{wrong:,}", *times)
        table.add_row(*cells, *[_carried(arm)] * logged)
    return table


def _time(arm: P2pArm, size_bytes: int) -> str:
    seconds = arm.reduce_seconds(size_bytes)
    return units.format_seconds(stats.median(seconds)) if seconds else "–"


def _carried(arm: P2pArm) -> str:
    if isinstance(arm.transports, Absent):
        return f"n/a ({arm.transports.reason})"
    return ", ".join(f"{count} × {name}" for name, count in arm.transports.counts.items()) or "–"


def _gb_per_s(bytes_per_s: float) -> str:
    return units.format_significant(bytes_per_s / 1e9)


def _table(title: str, names: tuple[str, ...], right: tuple[int, ...]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None)
    for index, name in enumerate(names):
        table.add_column(name, justify="right" if index in right else "left")
    return table
