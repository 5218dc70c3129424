"""Shows watts: what they cover, which part takes how many, and how much of the power supply is used."""

from __future__ import annotations

from collections.abc import Iterator

from rigbench.core import units
from rigbench.work.record import Power, PsuHeadroom


def lines(power: Power) -> Iterator[tuple[str, str]]:
    """(label, text) of each line; a part's source stands beside it."""
    watts = power.watts
    yield "power", f"{units.format_watts(watts.value)} ({power.covers}), {watts.source}: {watts.basis}"
    for part in power.split:
        yield "", f"{part.name} {units.format_watts(part.watts.value)}, {part.watts.source}: {part.watts.basis}"
    if isinstance(power.psu, PsuHeadroom):
        psu = power.psu
        rating, peak = psu.rating_watts, psu.peak_watts
        yield (
            "supply",
            f"peak {units.format_watts(peak.value)} ({peak.basis}) is {units.format_share(psu.share)} of its "
            f"{units.format_watts(rating.value)} ({rating.source}: {rating.basis})",
        )
