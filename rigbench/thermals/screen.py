"""How does a heat soak look on a screen: the verdict, then each device's heat, speed, and what held it down?"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rigbench.core import units
from rigbench.core.record import Absent, Skipped
from rigbench.thermals import card_screen as thermals_card
from rigbench.thermals.record import HeatCard, PowerAdvice, Thermals

if TYPE_CHECKING:
    from rich.console import Console

LABEL = 10  # columns


def show(result: Thermals | Skipped, console: Console) -> None:
    """One screen for two cards: what their owner needs to know, worst first."""
    from rich.text import Text

    if isinstance(result, Skipped):
        console.print(Text(f"thermals skipped: {result.reason}", style="yellow"))
        return
    _tell(_what(result), "italic", console)
    _tell(_verdict(result), "bold", console)
    for card in result.cards:
        console.print(Text.assemble((card.name, "bold"), f"  {card.device_name}"))
        room = max(20, console.width - LABEL - 1)
        for label, text, style in thermals_card.rows(result, card, room):
            for index, line in enumerate(textwrap.wrap(text, room)):
                head = f"  {'' if index else label}".ljust(LABEL)
                console.print(Text.assemble((head, "dim"), " ", (line, style)))
    for note in result.notes:
        _tell(f"  note: {note}", "yellow", console)
    for line, style in _power(result):
        _tell(line, style, console)


def _tell(text: str, style: str, console: Console) -> None:
    """A line, and where it is too long more of them, indented."""
    from rich.text import Text

    for line in textwrap.wrap(text, console.width, subsequent_indent="    "):
        console.print(Text(line, style=style))


def _what(result: Thermals) -> str:
    if result.replayed:
        steps = len(result.telemetry.at_seconds)
        step = thermals_card.moment(result.telemetry.period_seconds)
        readings = f"{steps} readings, taken as {step} apart" if steps > 1 else "one reading"
        return f"thermals of a recording: {readings}; no load was run, so no throughput"
    loads = [card.load for card in result.cards if not isinstance(card.load, Absent)]
    if not loads:
        return "thermals: no device was loaded"
    devices = f"{len(loads)} GPUs at once" if len(loads) > 1 else loads[0].device.kind
    product = f"{loads[0].dtype} {loads[0].m}×{loads[0].n}×{loads[0].k}"
    named = "" if isinstance(result.label, Absent) else f", label {result.label}"
    longest = max(card.loaded_seconds for card in result.cards)
    return f"thermals on {devices}: {product} products for {units.format_seconds(longest)}{named}"


def _verdict(result: Thermals) -> str:
    """Whether it is over, and which card is the one to look at."""
    if not result.cards:
        return f"nothing was measured: {result.ended_because}"
    said = ""
    for severity in ("fault", "warning"):
        whose_fault = [card.name for card in result.cards if severity in _severities(card)]
        said += f"{severity.upper()} on {', '.join(whose_fault)}; " if whose_fault else ""
    open_cards = [card.name for card in result.cards if not card.settled.settled]
    if result.ended_by in ("safety stop", "sensors silent", "worker died", "interrupted"):
        said += f"{result.ended_by.upper()}: {result.ended_because}"
    elif open_cards:
        whose = f" ({', '.join(open_cards)})" if len(open_cards) < len(result.cards) else ""
        said += f"not settled{whose}"
    else:
        on = {card.settled.what for card in result.cards}
        said += f"settled{', in throughput: no temperature can be read' if on == {'throughput'} else ''}"
    if isinstance(result.hottest, Absent) or isinstance(result.spread_celsius, Absent):
        return said
    if result.spread_celsius < 1:
        return f"{said}; all within 1 °C of each other"
    coolest = "the other" if len(result.cards) == 2 else "the coolest"
    return f"{said}; {result.hottest} is the hottest, {result.spread_celsius:.0f} °C above {coolest}"


def _severities(card: HeatCard) -> set[str]:
    return {it.severity for it in card.throttling} | ({"fault"} if card.faults else set())


def _power(result: Thermals) -> Iterator[tuple[str, str]]:
    if isinstance(result.power, Absent):
        if not result.replayed:
            yield f"power advice: n/a ({result.power.reason})", "dim"
        return
    yield from _advice(result.power)


def _advice(advice: PowerAdvice) -> Iterator[tuple[str, str]]:
    yield "throughput per watt, from the newest run of each label", "bold"
    best = max(point.flops_per_s.value / point.watts for point in advice.points)
    for point in advice.points:
        per_watt = point.flops_per_s.value / point.watts
        mark = "  knee" if point.label == advice.knee else "  plateau" if point.label in advice.plateau else ""
        rate = units.format_flops_per_s(point.flops_per_s.value)
        share = units.format_share(per_watt / best)
        watts = units.format_watts(point.watts)
        yield f"  {point.label:<8} {watts:>8}  {rate:>14}  {units.format_flop(per_watt)} per joule, {share}{mark}", ""
    yield f"  {advice.sentence}", ""
    for command in advice.commands:
        yield f"  to set it (rigbench does not): {command}", ""
