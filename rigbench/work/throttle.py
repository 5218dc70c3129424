"""Why were clocks held down, and for what share of the time?"""

from __future__ import annotations

from collections.abc import Sequence

from rigbench.core.record import Absent

# nvml.h, nvmlClocksEventReason*: why clocks are held down.
IDLE = "gpu_idle"
THROTTLE_BITS = {
    0x1: IDLE,
    0x2: "applications_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
    0x100: "display",
}
REASONS = {  # in words for people; idleness holds nothing down
    "applications_clocks": "clocks set by somebody",
    "sw_power_cap": "power limit",
    "hw_slowdown": "hardware slowdown",
    "sync_boost": "sync boost",
    "sw_thermal": "thermal slowdown by the driver",
    "hw_thermal": "hardware thermal slowdown",
    "hw_power_brake": "hardware power brake",
    "display": "display clocks",
}


def throttle_share(
    bits: Sequence[int | Absent] | Absent,
    at_seconds: Sequence[float] = (),
    start_seconds: float = float("-inf"),
    end_seconds: float = float("inf"),
) -> dict[str, float]:
    """The share of answered ticks, of a window if one is given, at which each reason held clocks down."""
    if isinstance(bits, Absent):
        return {}
    times = at_seconds or [0.0] * len(bits)
    answered = [
        reading
        for at, reading in zip(times, bits, strict=True)
        if start_seconds <= at <= end_seconds and not isinstance(reading, Absent)
    ]
    reasons = [reason for reading in answered for reason in decode_throttle(reading)]
    return {reason: reasons.count(reason) / len(answered) for reason in dict.fromkeys(reasons)}


def decode_throttle(bits: int) -> tuple[str, ...]:
    """The reasons whose bits are set; a bit without a name is given by its number."""
    mask = [1 << place for place in range(bits.bit_length()) if bits >> place & 1]
    return tuple(THROTTLE_BITS.get(bit, f"bit {bit:#x}") for bit in mask)
