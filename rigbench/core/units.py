"""Quantities: read as people type them, shown as people read them.

The only place where units are parsed or printed; everywhere else quantities are SI, with the unit in the name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from rigbench.core.errors import RigbenchError

SECONDS_PER_YEAR = 365.25 * 86400

# Four layers of 12·d² weights at width 16, half of the narrowest head, are 12,288: below that there is no decoder.
FEWEST_PARAMETERS, MOST_PARAMETERS = 10_000, 10**12
MOST_FLOP = 1e30  # a hundred thousand times the largest training run known in 2025
MOST_COUNT = 1e18
MOST_BYTES = 2**60
LONGEST_SECONDS = 1000 * SECONDS_PER_YEAR
LEAST = 1e-12  # of whatever is typed, which is then divided by

_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y", "R", "Q")
_COUNTS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_FLOP = {"": 1.0, **{f"{prefix}FLOP": 1e3**power for power, prefix in enumerate(_PREFIXES)}}
_DECIMAL_BYTES = {f"{prefix}B": 1e3**power for power, prefix in enumerate(_PREFIXES[:7])}
_BINARY_BYTES = {f"{prefix.upper()}iB": 2.0 ** (10 * power) for power, prefix in enumerate(_PREFIXES[:7]) if prefix}
_BYTES = {"": 1.0, **_DECIMAL_BYTES, **_BINARY_BYTES}
_SECONDS = {
    **dict.fromkeys(("ns",), 1e-9),
    **dict.fromkeys(("us", "µs", "μs"), 1e-6),
    **dict.fromkeys(("ms",), 1e-3),
    **dict.fromkeys(("", "s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604800.0),
    **dict.fromkeys(("year", "years"), SECONDS_PER_YEAR),
}
_NUMBER = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_QUANTITY = rf"(?s)([+-]?)({_NUMBER})\s*([^0-9.,+-].*)?"
_DURATION_PART = rf"({_NUMBER})\s*([a-zµμ]*)\s*"


def parse_parameters(text: str, option: str = "--params") -> int:
    """ "120M", "1.5B", "124475904" or "1.2e8" as a number of parameters.

    Raises:
        RigbenchError: not a positive quantity, an unknown unit, or no size that a decoder could have.
    """
    value = _quantity(text, option, _COUNTS, "120M or 1.5B")
    if value < FEWEST_PARAMETERS:
        why = f"fewer than the {FEWEST_PARAMETERS:,} parameters of the smallest decoder"
        _refuse(text, option, f"is {why}", "write millions as in 120M")
    if value > MOST_PARAMETERS:
        _refuse(text, option, "is more than a trillion parameters", "write millions as in 120M")
    return round(value)


def parse_flops(text: str, option: str = "--flops") -> float:
    """ "1.2e18", "1.2EFLOP" or "300 PFLOPs" as a number of floating-point operations.

    Raises:
        RigbenchError: not a positive quantity, an unknown unit, a rate such as EFLOP/s, or beyond 1e30.
    """
    example = "1.2e18 or 1.2 EFLOP"
    compact = text.lower().replace(" ", "")
    if compact.endswith(("flop/s", "flops/s", "flop/sec", "flops/sec", "flop/second", "flops/second")):
        _refuse(text, option, "is a rate, operations per second", f"give a total, such as {example}")
    plurals = {f"{name}s": factor for name, factor in _FLOP.items() if name}
    value = _quantity(text, option, _FLOP, example, plurals)
    if value > MOST_FLOP:
        _refuse(text, option, "is more than any computer could do (1e30)", f"write it as {example}")
    return value


def parse_bytes(text: str, option: str) -> int:
    """ "16GiB", "512MB" or "4096" as bytes; K, M, G are powers of 1000 and Ki, Mi, Gi powers of 1024.

    Raises:
        RigbenchError: not a positive quantity, an unknown unit, less than a byte, or beyond 1 EiB.
    """
    value = _quantity(text, option, _BYTES, "16GiB or 512MB")
    if value < 1:
        _refuse(text, option, "is less than one byte", "write it as 16GiB or 512MB")
    if value > MOST_BYTES:
        _refuse(text, option, "is more than 1 EiB", "write it as 16GiB or 512MB")
    return round(value)


def parse_seconds(text: str, option: str) -> float:
    """ "48h", "1h30m", "2.5 min", "500ms" or "45" (seconds) as seconds.

    Raises:
        RigbenchError: not a positive duration, an unknown unit, a part without one, or beyond 1000 years.
    """
    example = "48h, 1h30m, 2.5 min or 45 (seconds)"
    stripped = text.strip().lower()
    _refuse_words(stripped, text, option, example)
    if stripped.startswith("-"):
        _quantity(text, option, _SECONDS, example)  # says why: zero or negative
    total, position, parts = 0.0, 0, 0
    while position < len(stripped):
        match = re.match(_DURATION_PART, stripped[position:])
        if match is None:
            _refuse(text, option, "is not a duration", f"write it as {example}")
        number, unit = match.groups()
        if unit not in _SECONDS:
            _refuse(text, option, f"has a unit that I do not know, {unit!r}", f"write it as {example}")
        position, parts = position + match.end(), parts + 1
        if not unit and (parts > 1 or position < len(stripped)):
            _refuse(text, option, f"has no unit after {number}", f"write it as {example}")
        total += float(number.replace(",", "")) * _SECONDS[unit]
    return _positive(total, text, option, LONGEST_SECONDS, "is more than 1000 years", example)


def parse_count(text: str, option: str) -> float:
    """ "10B", "2.5e9" or "1024" as a number of things, such as tokens.

    Raises:
        RigbenchError: not a positive quantity, an unknown unit, less than one, or beyond 1e18.
    """
    example = "10B, 300M or 1024"
    value = _quantity(text, option, _COUNTS, example)
    if value < 1:
        _refuse(text, option, "is less than one", f"write it as {example}")
    if value > MOST_COUNT:
        _refuse(text, option, "is absurdly many (above 1e18)", f"write it as {example}")
    return value


def parse_number(text: str, option: str, low: float, high: float) -> float:
    """A plain positive number from `low` to `high`, both included.

    Raises:
        RigbenchError: not a positive number, has a unit, or lies outside the bounds.
    """
    bounds = f"a number from {format_significant(low)} to {format_significant(high)}"
    value = _quantity(text, option, {"": 1.0}, bounds)
    if not low <= value <= high:
        _refuse(text, option, f"is {'below' if value < low else 'above'} the sensible range", f"give {bounds}")
    return value


def parse_whole(text: str, option: str, low: int, high: int) -> int:
    """A count of things that cannot be halved.

    Raises:
        RigbenchError: it is not a whole number within the two.
    """
    word = text.strip().replace(",", "").replace("_", "")
    if re.fullmatch("[0-9]{1,30}", word) and low <= int(word) <= high:
        return int(word)
    raise RigbenchError(f"{option} {text[:40]!r} is not a whole number from {low:,} to {high:,}", "give one, like 8")


def _quantity(
    text: str,
    option: str,
    units: Mapping[str, float],
    example: str,
    plurals: Mapping[str, float] | None = None,
) -> float:
    """A positive finite number times its unit. Units are read without regard to case, and listed when unknown."""
    stripped = text.strip()
    _refuse_words(stripped.lower(), text, option, example)
    match = re.fullmatch(_QUANTITY, stripped)
    if match is None:
        _refuse(text, option, "is not a number", f"write it as {example}")
    sign, digits, unit = match.group(1), match.group(2), match.group(3) or ""
    factors = {name.lower(): factor for name, factor in {**units, **(plurals or {})}.items()}
    if unit.lower() not in factors:
        known = [name for name in units if name]
        cure = f"use {', '.join(known)} or none, as in {example}" if known else f"give {example}"
        _refuse(text, option, f"has a unit that I do not know, {_quoted(unit)}", cure)
    value = float(f"{sign}{digits.replace(',', '')}") * factors[unit.lower()]
    return _positive(value, text, option, math.inf, "", example)


def _positive(value: float, text: str, option: str, most: float, too_much: str, example: str) -> float:
    if value == 0:
        _refuse(text, option, "is zero", f"write it as {example}")
    if value < 0:
        _refuse(text, option, "is negative", f"write it as {example}")
    if value < LEAST:
        _refuse(text, option, "is next to nothing", f"write it as {example}")
    if math.isinf(value):
        _refuse(text, option, "is too large to be a number", f"write it as {example}")
    if value > most:
        _refuse(text, option, too_much, f"write it as {example}")
    return value


def _refuse_words(lowered: str, text: str, option: str, example: str) -> None:
    """Say what is wrong with nothing at all, and with the words for numbers that are none."""
    if not lowered:
        _refuse(text, option, "is empty", f"write it as {example}")
    if lowered.lstrip("+-") == "nan":
        _refuse(text, option, "is not a number", f"write it as {example}")
    if lowered.lstrip("+-") in ("inf", "infinity"):
        _refuse(text, option, "is not finite", f"write it as {example}")


def _refuse(text: str, option: str, why: str, cure: str) -> NoReturn:
    raise RigbenchError(f"{option} {_quoted(text)} {why}", cure)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def format_significant(value: float, digits: int = 3) -> str:
    """ "37,200" for 37234 and "0.0123" for 0.012345; whole `int` values that fit are shown as they are."""
    if value == 0 or (isinstance(value, int) and abs(value) < 10**digits):
        return f"{value:.0f}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if not -5 <= int(exponent) < 15:
        return f"{mantissa}e{int(exponent)}"
    return f"{float(f'{mantissa}e{exponent}'):,.{max(0, digits - 1 - int(exponent))}f}"


def format_count(count: float) -> str:
    """ "124.5M", "1.3B", "10B" where it is exactly that; below 100,000 every digit: "50,304"."""
    if abs(count) < 100_000:
        return f"{count:,.0f}"
    for factor, letter in ((1e3, "K"), (1e6, "M"), (1e9, "B"), (1e12, "T")):
        scaled = count / factor
        if abs(scaled) < 999.95 or letter == "T":
            break
    return f"{scaled:,.0f}{letter}" if scaled == int(scaled) else f"{scaled:,.1f}{letter}"


def format_flop(flop: float) -> str:
    """ "1.2 EFLOP"."""
    return _scaled(flop, 1000.0, [f"{prefix}FLOP" for prefix in _PREFIXES], strip=True)


def format_flops_per_s(flops_per_s: float) -> str:
    """ "142 TFLOP/s"."""
    return _scaled(flops_per_s, 1000.0, [f"{prefix}FLOP/s" for prefix in _PREFIXES])


def format_bytes(size_bytes: float) -> str:
    """ "15.7 GiB": a capacity, in powers of 1024."""
    return _scaled(size_bytes, 1024.0, ["B", *_BINARY_BYTES], strip=True)


def format_bytes_per_s(bytes_per_s: float) -> str:
    """ "26.3 GB/s": a rate, in powers of 1000."""
    return _scaled(bytes_per_s, 1000.0, [f"{name}/s" for name in _DECIMAL_BYTES])


def format_seconds(seconds: float) -> str:
    """ "310 µs", "12.3 ms", "4.21 s", "12 min 5 s", "3 h 12 min", "2 d 5 h", "140 d", "3.20 years"."""
    if seconds < 0:
        return f"-{format_seconds(-seconds)}"
    if seconds == 0:
        return "0 s"
    if seconds < 0.9995:
        return _scaled(seconds * 1e9, 1000.0, ["ns", "µs", "ms"])
    if seconds < 59.95:
        return f"{_three_digits(seconds)} s"
    if _nearest(seconds) < 3600:
        return _two_units(_nearest(seconds), 60, "min", "s")
    if _nearest(seconds / 60) < 6000:  # two days are said in hours, as plans are made; and half an hour is 2 % of a day
        return _two_units(_nearest(seconds / 60), 60, "h", "min")
    if _nearest(seconds / 3600) < 2400:
        return _two_units(_nearest(seconds / 3600), 24, "d", "h")
    if _nearest(seconds / 86400) <= 730:
        return f"{_nearest(seconds / 86400)} d"
    return f"{format_significant(seconds / SECONDS_PER_YEAR)} years"


class Scale(NamedTuple):
    """A quantity's units with their size in SI, each used from `least` of the size before it on."""

    steps: tuple[tuple[float, str], ...]
    least: tuple[float, ...] = ()  # per step, in SI, from which on it is used; without: its own size


def _metric(unit: str, base: float = 1000.0) -> Scale:
    return Scale(tuple((base**power, f"{prefix}{unit}") for power, prefix in enumerate(_PREFIXES)))


_TIME = ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "days"))
SCALES = {
    # A minute and a half is said in seconds, two days in hours, as plans are made.
    "seconds": Scale(
        (*_TIME, (SECONDS_PER_YEAR, "years")), (1e-9, 1e-6, 1e-3, 1.0, 90.0, 5400.0, 172900.0, 2 * SECONDS_PER_YEAR)
    ),
    "bytes/s": Scale(tuple((1000.0**power, f"{name}/s") for power, name in enumerate(_DECIMAL_BYTES))),
    "bytes": Scale(tuple((1024.0**power, name) for power, name in enumerate(("B", *_BINARY_BYTES)))),
    "FLOP/s": _metric("FLOP/s"),
    "FLOP": _metric("FLOP"),
    "share": Scale(((0.01, "%"),)),
}


def format_span(value: float, low: float, high: float, unit: str) -> str:
    """ "5.1 h (4.6 to 5.7)": the one notation of a number and its interval, in one unit, as precise as the interval.

    `unit` is one of SCALES, whose unit is chosen by the middle, or any other, taken as it is.
    """
    text, ends, name = span_parts(value, low, high, unit)
    return f"{text} {name} ({ends})" if ends else f"{text} {name}"


def format_range(low: float, high: float, unit: str) -> str:
    """ "3.1 to 9.8 h": where no middle may be told."""
    size, name = _step(math.sqrt(low * high) if low > 0 else high, unit)
    return f"{format_significant(float(low / size), 2)} to {format_significant(float(high / size), 2)} {name}"


def span_parts(value: float, low: float, high: float, unit: str) -> tuple[str, str, str]:
    """(middle, "low to high" or "" where nothing is open, unit), for a table that has them in columns."""
    size, name = _step(abs(value), unit)
    value, low, high = value / size, low / size, high / size
    if high <= low:
        return _three_digits(value), "", name
    # To the digit in which half of the half width begins: 5.1 (4.6 to 5.7), 101,000 (99,000 to 103,000).
    place = math.floor(math.log10((high - low) / 4))
    place = min(place, math.floor(math.log10(abs(value)))) if value else place
    place = max(place, math.floor(math.log10(max(abs(value), abs(high)))) - 3)  # four digits are enough for anybody
    middle, below, above = (_to_place(it, place) for it in (value, low, high))
    return middle, f"{below} to {above}", name


def _step(value: float, unit: str) -> tuple[float, str]:
    if unit not in SCALES:
        return 1.0, unit
    steps, least = SCALES[unit].steps, SCALES[unit].least or tuple(size for size, _ in SCALES[unit].steps)
    return next(
        (step for step, from_ in zip(reversed(steps), reversed(least), strict=True) if value >= from_), steps[0]
    )


def _to_place(value: float, place: int) -> str:
    """To the digit of 10^place, with thousands apart."""
    return f"{round(value, -place) + 0.0:,.{max(0, -place)}f}"


def format_share(share: float) -> str:
    """ "86 %", "4.2 %", "0.4 %"; what is not zero never shows as zero."""
    percent = abs(share) * 100
    sign = "-" if share < 0 else ""
    if percent == 0:
        return "0 %"
    if percent < 0.005:
        return f"{sign}<0.01 %"
    decimals = 2 if percent < 0.095 else 1 if percent < 9.95 else 0
    return f"{sign}{percent:,.{decimals}f} %"


def format_plus_minus(half_width_share: float) -> str:
    """ "±1.2 %"."""
    return f"±{format_share(abs(half_width_share))}"


def format_rate(per_second: float) -> str:
    """ "1,235 tokens/s", "12.3 tokens/s"."""
    return f"{_three_digits(per_second)} tokens/s"


def format_watts(watts: float) -> str:
    """ "320 W", "12.3 W", "1,250 W"."""
    return f"{_three_digits(watts)} W"


def format_money(value: float, currency: str) -> str:
    """ "1,234 EUR", "12.50 EUR", "0.307 EUR": cents, and below one unit as many digits as a price per kWh needs."""
    if abs(value) >= 999.995:
        return f"{value:,.0f} {currency}"
    if abs(value) >= 0.9995:
        return f"{value:.2f} {currency}"
    whole, _, decimals = format_significant(float(value)).partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')} {currency}" if "e" not in decimals else f"0.00 {currency}"


def _scaled(value: float, base: float, units: list[str], *, strip: bool = False) -> str:
    """Three digits in the largest unit that leaves at least one before the point; `strip` drops trailing zeros."""
    if value < 0:
        return f"-{_scaled(-value, base, units, strip=strip)}"
    power = 0
    while value >= base - 0.5 and power < len(units) - 1:
        value, power = value / base, power + 1
    text = _three_digits(value)
    if "." in text and (strip or (power == 0 and value == int(value))):
        text = text.rstrip("0").rstrip(".")
    return f"{text} {units[power]}"


def _three_digits(value: float) -> str:
    """Three significant digits, but never fewer than all before the point: "4.21", "42.1", "421", "4,210"."""
    if abs(value) < 0.9995:
        return format_significant(value)
    if abs(value) >= 99.95:
        return f"{_nearest(value):,}"
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}"


def _two_units(count: int, per_large: int, large: str, small: str) -> str:
    whole, rest = divmod(count, per_large)
    return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"


def _nearest(value: float) -> int:
    """To the nearest whole number, halves up, as people round."""
    return math.floor(value + 0.5)
