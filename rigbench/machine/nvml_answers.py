"""What does a driver's answer amount to: a value of the right kind, or the reason why there is none?"""

from __future__ import annotations

from typing import Any

from rigbench.core.record import Absent


def text(answer: Any) -> str | Absent:
    return answer if isinstance(answer, Absent) else (str(answer) or Absent("empty answer"))


def number(answer: Any) -> int | Absent:
    return answer if isinstance(answer, Absent) else int(answer)


def over(answer: Any, divisor: int) -> float | Absent:
    return answer if isinstance(answer, Absent) else answer / divisor


def positive(answer: Any) -> int | Absent:
    """A reading whose 0 means that there is none: link widths in a virtual machine, the power of a running card."""
    return answer if isinstance(answer, Absent) else (int(answer) or Absent("not reported"))


def switch(answer: Any) -> bool | Absent:
    """nvmlEnableState_t: 0 is off."""
    return answer if isinstance(answer, Absent) else bool(answer)


def performance_state(answer: Any) -> int | Absent:
    return answer if isinstance(answer, Absent) else (int(answer) if 0 <= answer <= 15 else Absent("unknown"))


def member(answer: Any, name: str) -> Any | Absent:
    return answer if isinstance(answer, Absent) else getattr(answer, name)


def bus_id_of(info: Any) -> str | Absent:
    """`0000:01:00.0`, as sysfs writes it, from NVML's numbers; its text has an eight-digit domain."""
    if isinstance(info, Absent):
        return info
    return f"{info.domain:04x}:{info.bus:02x}:{info.device:02x}.0"


def field_value(field: Any) -> int | float:
    """A field's number by its nvmlValueType_t."""
    members = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}
    value: int | float = getattr(field.value, members.get(field.valueType, "ullVal"), field.value.ullVal)
    return value
