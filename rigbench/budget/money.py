"""What would the same hours cost on rented cards, how much of the rig's price do they use up, and what breaks even?"""

from __future__ import annotations

from dataclasses import dataclass

from rigbench.budget.record import BreakEven, Purchase, Rent
from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure

HOURS_PER_YEAR = 8766.0
LIFETIME_HOURS = 3 * HOURS_PER_YEAR
LIFETIME_WORDS = "3 years around the clock, assumed (--lifetime)"
NO_RENT = Absent("no rent is known of such a card; give --rent '1.50 USD'")
NO_PURCHASE = Absent("no price is known of this rig; give --purchase '2400 USD'")


@dataclass(frozen=True)
class RentPrice:
    """What one rented card costs an hour, and who says so."""

    per_gpu_hour: float
    currency: str
    name: str


@dataclass(frozen=True)
class RigPrice:
    """What the rig cost."""

    price: Figure
    currency: str


def rent(hours: Estimate, price: RentPrice | Absent, cards: int) -> Rent | Absent:
    """As many cards as train, at a price a card."""
    if isinstance(price, Absent):
        return price
    times = f"{cards} × " if cards > 1 else ""
    basis = f"{times}{units.format_money(price.per_gpu_hour, price.currency)} an hour: {price.name}"
    per_hour = cards * price.per_gpu_hour
    low, value, high = (per_hour * end for end in (hours.low, hours.value, hours.high))
    money = Figure(value, "predicted", basis, low, high)
    return Rent(per_hour=per_hour, currency=price.currency, name=price.name, money=money)


def purchase(hours: Estimate, price: RigPrice | Absent, lifetime_hours: float | None) -> Purchase | Absent:
    """The hours' share of the price: worn out after the lifetime (None: assumed), whatever it did before."""
    if isinstance(price, Absent):
        return price
    lifetime = lifetime_hours or LIFETIME_HOURS
    words = LIFETIME_WORDS if lifetime_hours is None else f"{units.format_seconds(lifetime * 3600)} (--lifetime)"
    each = price.price.value / lifetime
    low, value, high = (each * end for end in (hours.low, hours.value, hours.high))
    basis = f"{units.format_money(price.price.value, price.currency)} ({price.price.basis}) over {words}"
    return Purchase(
        price=price.price,
        currency=price.currency,
        lifetime_hours=lifetime,
        money=Figure(value, "predicted", basis, low, high),
    )


def break_even(
    hours: Estimate, rented: Rent | Absent, bought: Purchase | Absent, electricity: Figure | Absent, currency: str
) -> BreakEven | Absent:
    """Hours after which price and electricity of the own rig come to less than renting the same hours."""
    for missing in (rented, bought, electricity):
        if isinstance(missing, Absent):
            return missing
    assert isinstance(rented, Rent)
    assert isinstance(bought, Purchase)
    assert isinstance(electricity, Figure)
    if len({rented.currency, bought.currency, currency}) > 1:
        return Absent(
            f"rent in {rented.currency}, purchase in {bought.currency}, electricity in {currency or 'no currency'}; "
            "give --rent, --purchase, --price or --place in one currency"
        )
    running = _running(electricity, hours)
    if running[0] >= rented.per_hour:
        return Absent("renting costs less an hour than the electricity alone")
    found = [bought.price.value / (rented.per_hour - each) for each in running if each < rented.per_hour]
    basis = f"{units.format_money(running[0], currency)} of electricity an hour against the rent"
    return BreakEven(hours=Figure(found[0], "predicted", basis, min(found), max(found)), runs=found[0] / hours.value)


def _running(electricity: Figure, hours: Estimate) -> list[float]:
    """Money an hour: middle, low, high."""
    low, high = (electricity.value if isinstance(end, Absent) else end for end in (electricity.low, electricity.high))
    ends = ((electricity.value, hours.value), (low, hours.low), (high, hours.high))
    return [amount / length for amount, length in ends]
