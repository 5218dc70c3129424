"""Shows a P2P measurement: the verdict, what to export, the evidence of each pair, the speeds, every try."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.text import Text

from rigbench.core import stats, units
from rigbench.core.estimate import Estimate
from rigbench.core.finding_screen import places
from rigbench.core.record import Absent, Tally
from rigbench.core.screen import Headline, Mark, closing, gigabytes, grid, headline, marked, printable, table
from rigbench.p2p.record import P2p, PairVerdict

STYLES = {"works": "green", "broken": "red", "not applicable": "dim"}  # what is neither good nor bad is yellow
MARKS: dict[str, Mark] = {"works": "ok", "broken": "fault", "inconclusive": "warn"}  # else a note
CONVENTION = "GB/s is 1e9 bytes/s; all_reduce counts its own bytes once (algbw), by the slowest rank"


def verdict(result: P2p) -> Headline:
    """Whether GPUs reach each other, and whether that is faster than the way through the host."""
    between = f" between {_between(result)}" if len(result.devices) > 1 else ""
    text = f"P2P {'is ' * (result.verdict in ('broken', 'inconclusive', 'not available', 'not applicable'))}"
    text += f"{result.verdict}{between}"
    mark = MARKS.get(result.verdict, "note")
    reduces = [it for it in result.speeds if it.what == "all_reduce" and it.faster != "ambiguous"]
    if result.verdict == "works" and reduces:
        best = max(reduces, key=lambda it: it.ratio.value)
        if best.faster == best.setting:
            return mark, f"{text}, and {best.setting} is {_times(best.ratio)} as fast as the host's memory"
        return "warn", f"{text}, but the way through the host is faster: {best.setting} is {_times(best.ratio)} as fast"
    return mark, f"{text}: {result.reason}"


def _between(result: P2p) -> str:
    return " and ".join(result.devices) if len(result.devices) == 2 else f"{len(result.devices)} GPUs"


def _times(ratio: Estimate) -> str:
    ends = f"({ratio.low:.2f} to {ratio.high:.2f})" if ratio.level else "(one pair)"
    return f"{ratio.value:.2f} times {ends}"


def brief(result: P2p, console: Console, quiet: bool = False, run_id: str = "RUN") -> None:
    headline("p2p", verdict(result), console)
    if not result.arms:
        return
    console.print(_settings(result))
    if quiet:
        return
    marked(_odd(result), console)
    console.print(grid((label, line) for label, line in _advice(result) if label in ("to set", "")))
    checked = sum(check.checked for arm in result.arms for check in arm.checks)
    tries = max(sum(arm.setting == one.setting for arm in result.arms) for one in result.arms)
    sure = f"{checked:,} checks by the GPU that received the data; {'' if tries > 1 else 'one try'}"
    sure += f"each setting tried {tries} times, in turns" if tries > 1 else " a setting"
    closing(sure, f"rigbench report {run_id} p2p has every try and the evidence of each pair", console)


def _settings(result: P2p) -> RenderableType:
    """A row a setting: what arrived, and how fast the largest all_reduce was."""
    largest = max((times.size_bytes for arm in result.arms for times in arm.reduces), default=0)
    ratios = {it.setting: it for it in result.speeds if (it.what, it.size_bytes) == ("all_reduce", largest)}
    rows = []
    for setting in dict.fromkeys(arm.setting for arm in result.arms):
        own = [arm for arm in result.arms if arm.setting == setting]
        checks = [check for arm in own for check in arm.checks]
        seconds = [second for arm in own for second in arm.reduce_seconds(largest)]
        ratio = ratios.get(setting)
        rows.append(
            (
                setting,
                ", ".join(dict.fromkeys(arm.ended for arm in own)),
                f"{sum(check.checked for check in checks):,}",
                f"{sum(check.wrong for check in checks):,}",
                units.format_seconds(stats.median(seconds)) if seconds else "–",
                f"{ratio.ratio.value:.2f}" if ratio else "–",
                (f"{ratio.ratio.low:.2f} to {ratio.ratio.high:.2f}" if ratio.ratio.level else "one pair")
                if ratio
                else "–",
            )
        )
    reduce = f">all_reduce {units.format_bytes(largest)}"
    shown = (7 if ratios else 5) if largest else 4
    columns = ("setting", "ended", ">checks", ">wrong", reduce, ">times P2P off", ">90 % interval")
    return table(columns[:shown], [row[:shown] for row in rows])


def _odd(result: P2p) -> Iterator[Headline]:
    """Pairs that are not like the verdict says, and what bears on them."""
    bad = [pair for pair in result.pairs if pair.verdict in ("broken", "inconclusive")]
    groups: dict[tuple[str, str], list[str]] = {}
    for pair in bad if len(result.pairs) > 1 else ():
        groups.setdefault((pair.verdict, pair.reason), []).append(" and ".join(pair.pair))
    for (how, reason), names in groups.items():
        yield MARKS[how], f"{places(names)}: {how}, {reason}"
    for name in dict.fromkeys(arm.setting for arm in result.arms if arm.ended in ("hung", "died")):
        arm = next(it for it in result.arms if it.setting == name and it.ended in ("hung", "died"))
        yield "fault", f"{name} {arm.ended}{f' at {arm.at}' if arm.at else ''}: {arm.reason}"
    if isinstance(result.advice, Absent):
        yield "warn", f"nothing can be advised: {result.advice.reason}"
    else:
        yield "note", result.advice.reason
        yield from (("note", note) for note in result.advice.notes)


def show(result: P2p, console: Console) -> None:
    head = f"P2P between {_between(result)}: " if len(result.devices) > 1 else "P2P: "
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
    columns = ("what", "each", "setting", ">GB/s", ">P2P off", ">times as fast", ">90 % interval", "faster")
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
