"""What a plan's hours cost on rented cards, which share of a rig's price they use up, and when buying breaks even."""

from __future__ import annotations

from rigbench.budget.record import BreakEven, CardPrice, Purchase, Rent, RigPrice
from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Price
from rigbench.work import power as cost
from rigbench.work.record import Power

LIFETIME_HOURS = 3 * 8766.0
LIFETIME_WORDS = "3 years around the clock, assumed (lifetime)"
NO_RENT = Absent("no rent is known of such a card; give --set rent='1.50 USD'")
NO_PURCHASE = Absent("no price is known of this rig; give --set purchase='2400 USD'")
AN_HOUR = Estimate(1.0, 1.0, 1.0, 1.0, "an hour", 0)


def rent(hours: Estimate, price: CardPrice | Absent, cards: int) -> Rent | Absent:
    """As many cards as train, at a price a card."""
    if isinstance(price, Absent):
        return price
    per_hour = cards * price.per_hour
    times = f"{cards} × " if cards > 1 else ""
    basis = f"{times}{units.format_money(price.per_hour, price.currency)} an hour: {price.name}"
    return Rent(per_hour, price.currency, price.name, (hours * per_hour).figure(basis))


def purchase(hours: Estimate, price: RigPrice | Absent, lifetime_seconds: float | Absent) -> Purchase | Absent:
    """The hours' share of the price: worn out after the lifetime, whatever it did before."""
    if isinstance(price, Absent):
        return price
    lifetime, words = LIFETIME_HOURS, LIFETIME_WORDS
    if not isinstance(lifetime_seconds, Absent):
        lifetime, words = lifetime_seconds / 3600, f"{units.format_seconds(lifetime_seconds)} (lifetime)"
    amount = units.format_money(price.price.value, price.currency)
    share = (hours * (price.price.value / lifetime)).figure(f"{amount} ({price.price.basis}) over {words}")
    return Purchase(price.price, price.currency, lifetime, share)


def break_even(
    hours: Estimate, rented: Rent | Absent, bought: Purchase | Absent, power: Power | Absent, price: Price | Absent
) -> BreakEven | Absent:
    """Hours after which price and electricity of the own rig come to less than renting the same hours."""
    running = cost.money(cost.kwh(AN_HOUR, power), power, price)
    if isinstance(rented, Absent):
        return rented
    if isinstance(bought, Absent):
        return bought
    if isinstance(running, Absent):
        return running
    currency = price.currency if isinstance(price, Price) else ""
    if len({rented.currency, bought.currency, currency}) > 1:
        return Absent(
            f"rent in {rented.currency}, purchase in {bought.currency}, electricity in {currency}; "
            "give rent, purchase, price or place in one currency"
        )
    if running.value >= rented.per_hour:
        return Absent("renting costs less an hour than the electricity alone")
    saved = [rented.per_hour - an_hour for an_hour in (running.value, *running.ends)]
    value, *ends = (bought.price.value / an_hour for an_hour in saved if an_hour > 0)
    basis = f"{units.format_money(running.value, currency)} of electricity an hour against the rent"
    found = Figure(value, "predicted", basis, min(value, *ends), max(value, *ends))
    return BreakEven(hours=found, runs=value / hours.value)
