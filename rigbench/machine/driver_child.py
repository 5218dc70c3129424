"""Answers for the NVIDIA driver in a process of its own, so that a call that hangs or crashes harms nobody else.

One request a line on standard input, `["0", ["nvmlDeviceGetTemperature/0", …]]`: whose, and which calls, named as a
recording names them. One line of answer a call, as soon as it is there: `[0, [43]]`, the return code and its values.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
INIT, HANDLE = "nvmlInitWithFlags", "nvmlDeviceGetHandleByIndex_v2"
NO_LIBRARY, FUNCTION_NOT_FOUND, LOST = 12, 13, 15  # nvml.h, nvmlReturn_t
NOT_IN_PYNVML, NOT_TEXT = -1, -2  # our own
ANOTHER_NAME_WILL_BE_TRIED = (2, 3, 13, 25, 26)
MEMORY_INFO_V2 = 0x2000028  # nvml.h, nvmlMemory_v2: sizeof(structure) | 2 << 24
NOT_AVAILABLE = (1 << 64) - 1  # nvml.h, NVML_VALUE_NOT_AVAILABLE
VALUE_MEMBERS = {1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}  # nvml.h, nvmlValueType_t
OF_TWO_GPUS = ("nvmlDeviceGetTopologyCommonAncestor", "nvmlDeviceGetP2PStatus")
MIG_SCOPES = 100  # parts of device 0 are recorded from here on, those of device 1 from twice this

Answer = tuple[int, tuple[Any, ...]]


class Library:
    """A driver library behind pynvml, which knows its structures."""

    trouble = None

    def __init__(self, library: Any) -> None:
        import pynvml

        self._pynvml: Any = pynvml
        self._handles: dict[str, Any] = {}
        pynvml.nvmlLib = library
        pynvml._nvmlGetFunctionPointer_cache.clear()

    def ask(self, scope: str, *keys: str) -> list[Answer]:
        return list(self.answers(scope, keys))

    def answers(self, scope: str, keys: Iterable[str]) -> Iterator[Answer]:
        """A GPU that is lost is asked nothing more."""
        lost = False
        for key in keys:
            answer = (LOST, ()) if lost else self._ask(scope, key)
            lost = answer[0] == LOST
            yield answer

    def _ask(self, scope: str, key: str) -> Answer:
        name, *numbers = key.split("/")
        try:
            return self._call(scope, name, [int(number) for number in numbers])
        except self._pynvml.NVMLError as error:
            return error.value, ()
        except self._pynvml.NVMLLibraryMismatchError:  # how some calls say that the driver has no such function
            return FUNCTION_NOT_FOUND, ()
        except UnicodeDecodeError:
            return NOT_TEXT, ()

    def _call(self, scope: str, name: str, numbers: list[int]) -> Answer:
        nvml = self._pynvml
        if name == HANDLE:
            self._handles[scope] = nvml.nvmlDeviceGetHandleByIndex(int(scope))
            return 0, ()
        arguments: list[Any] = [] if scope == "sys" else [self._handles[scope]]
        if name in OF_TWO_GPUS:
            arguments.append(self._handles[str(numbers.pop(0))])
        if name == INIT:
            numbers = [0]
        elif name == "nvmlDeviceGetMemoryInfo_v2":
            numbers = [MEMORY_INFO_V2]
        elif name == "nvmlDeviceGetFieldValues":  # the field's number and scope; each has a return code of its own
            [field] = nvml.nvmlDeviceGetFieldValues(arguments[0], [tuple(numbers)])
            value = getattr(field.value, VALUE_MEMBERS.get(field.valueType, "ullVal"))
            return field.nvmlReturn, () if field.nvmlReturn else (field.valueType, value)
        elif name == "nvmlDeviceGetMigDeviceHandleByIndex":
            part = MIG_SCOPES * (int(scope) + 1) + numbers[0]
            self._handles[str(part)] = nvml.nvmlDeviceGetMigDeviceHandleByIndex(*arguments, *numbers)
            return 0, (part,)
        elif name == "nvmlDeviceGetTemperature":  # recorded under the name that every driver has had
            newer = getattr(nvml, "nvmlDeviceGetTemperatureV", nvml.nvmlDeviceGetTemperature)
            try:
                return 0, (newer(*arguments, *numbers),)
            except nvml.NVMLError as error:
                if error.value not in ANOTHER_NAME_WILL_BE_TRIED:
                    raise
        function = getattr(nvml, name, None) or getattr(nvml, name.rpartition("_v")[0], None)
        return (0, values_of(function(*arguments, *numbers))) if function else (NOT_IN_PYNVML, ())


def values_of(answer: Any) -> tuple[int | str, ...]:
    """What pynvml gives, as a recording holds it: a structure by its members, a process by its id and its bytes."""
    if answer is None:
        return ()
    if isinstance(answer, bytes):  # old pynvml hands over bytes
        return (answer.decode(),)
    if isinstance(answer, int | str):
        return (answer,)
    if isinstance(answer, list | tuple):
        return tuple(value for item in answer for value in values_of(item))
    if hasattr(answer, "usedGpuMemory"):
        return answer.pid, NOT_AVAILABLE if answer.usedGpuMemory is None else answer.usedGpuMemory
    if hasattr(answer, "busId"):
        return (*values_of(answer.busId), answer.pciDeviceId, answer.pciSubSystemId)
    return tuple(getattr(answer, name) for name, *_ in answer._fields_ if name != "version")


def serve() -> None:
    """Until standard input ends, as it does when the parent does, however that died; even within a call that hangs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    out = os.dup(1)
    os.dup2(2, 1)  # whatever the driver prints must not end up between our lines
    threading.Thread(target=_leash, daemon=True).start()
    import pynvml  # noqa: F401, before this is ready: without it, nothing is asked

    library: Library | None = None
    os.write(out, b"[0, []]\n")  # ready: from now on time is the driver's
    for line in sys.stdin.buffer:
        scope, keys = json.loads(line)
        try:
            library = library or Library(ctypes.CDLL(LIBRARY))
        except OSError:
            library = None
        for answer in library.answers(scope, keys) if library else [(NO_LIBRARY, ())] * len(keys):
            os.write(out, json.dumps(answer).encode() + b"\n")


def _leash() -> None:
    hangup = select.poll()
    hangup.register(0, 0)  # nothing but its end
    hangup.poll()
    os._exit(0)
