"""Shows a P2P measurement: the verdict, what to export, the evidence of each pair, the speeds, every try."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.text import Text

from rigbench.core import stats, units
from rigbench.core.finding_screen import places
from rigbench.core.record import Absent, Tally
from rigbench.core.screen import gigabytes, grid, printable, table
from rigbench.p2p.record import P2p, PairVerdict

STYLES = {"works": "green", "broken": "red", "not applicable": "dim"}  # what is neither good nor bad is yellow
CONVENTION = "GB/s is 1e9 bytes/s; all_reduce counts its own bytes once (algbw), by the slowest rank"


def show(result: P2p, console: Console) -> None:
    devices = result.devices
    between = " and ".join(devices) if len(devices) == 2 else f"{len(devices)} GPUs"
    head = f"P2P between {between}: " if len(devices) > 1 else "P2P: "
    console.print(Text.assemble((head, "bold"), (result.verdict, f"bold {STYLES.get(result.verdict, 'yellow')}")))
    console.print(Text(printable(f"  {result.reason}")))
    if not result.arms:
        return
    names = ", ".join(f"{result.device_names.count(name)} × {name}" for name in dict.fromkeys(result.device_names))
    version = result.nccl_version
    nccl = f"n/a ({version.reason})" if isinstance(version, Absent) else version
    console.print(Text(printable(f"  {names}; NCCL {nccl}"), style="dim"))
    console.print()
    console.print(grid(_advice(result)))
    groups: dict[tuple[object, ...], list[PairVerdict]] = {}  # pairs of which everything is said alike
    for pair in result.pairs:
        groups.setdefault((pair.verdict, pair.reason, pair.evidence), []).append(pair)
    for alike in groups.values():
        first = alike[0]
        style = STYLES.get(first.verdict, "yellow")
        title = places([f"{one} and {other}" for one, other in (pair.pair for pair in alike)]), "bold"
        reason = f", {first.reason}" if len(result.pairs) > 1 else ""
        console.print()
        console.print(Text.assemble(title, (": ", "bold"), (first.verdict, style), reason))
        console.print(grid(("" if place else "evidence", line) for place, line in enumerate(first.evidence)))
    for made in ([_speeds(result)] if result.speeds else []) + [_arms(result)]:
        console.print()
        console.print(made)
    if any(arm.reduces for arm in result.arms):
        console.print(Text(f"  {CONVENTION}", style="dim"))


def _advice(result: P2p) -> Iterator[tuple[str, str]]:
    advice = result.advice
    if isinstance(advice, Absent):
        yield "to set", f"n/a ({advice.reason})"
        return
    exports = [f"export {name}={value}" for name, value in advice.environment.items()] or ["nothing: NCCL's defaults"]
    for place, line in enumerate(exports):
        yield "" if place else "to set", line
    yield "because", advice.reason
    for note in advice.notes:
        yield "note", note


def _speeds(result: P2p) -> RenderableType:
    columns = ("what", "each", "setting", ">GB/s", ">P2P off", ">times as fast", "interval", "faster")
    rows = [
        (
            it.what,
            units.format_bytes(it.size_bytes),
            it.setting,
            gigabytes(it.bytes_per_s),
            gigabytes(it.against_bytes_per_s),
            f"{it.ratio.value:.2f}",
            f"{it.ratio.low:.2f} to {it.ratio.high:.2f}" if it.ratio.level else "one pair",
            it.faster,
        )
        for it in result.speeds
    ]
    return table(columns, rows, "speed against P2P off, settings in turns")


def _arms(result: P2p) -> RenderableType:
    sizes = sorted({times.size_bytes for arm in result.arms for times in arm.reduces})
    times = [f">all_reduce {units.format_bytes(size)}" for size in sizes]
    logged = any(isinstance(arm.transports, Tally) for arm in result.arms)
    columns = (">try", "setting", "ended", ">checks", ">wrong", *times, *["NCCL went over"] * logged)
    rows = []
    for number, arm in enumerate(result.arms, 1):
        checked, wrong = sum(check.checked for check in arm.checks), sum(check.wrong for check in arm.checks)
        seconds = map(arm.reduce_seconds, sizes)
        medians = [units.format_seconds(stats.median(it)) if it else "–" for it in seconds]
        cells = [str(number), arm.setting, arm.ended, f"{checked:,}", f"{wrong:,}", *medians]
        if isinstance(arm.transports, Tally):
            cells.append(", ".join(f"{count} × {name}" for name, count in arm.transports.counts.items()) or "–")
        elif logged:
            cells.append(f"n/a ({arm.transports.reason})")
        rows.append(cells)
    return table(columns, rows, "every try, in order")
