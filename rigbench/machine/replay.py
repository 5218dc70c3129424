"""What would the driver library answer on a recorded rig? A stand-in for libnvidia-ml in plain Python.

pynvml calls `library.nvmlDeviceGetName(handle, buffer, length)` with ctypes objects. One rule serves every call: plain
numbers name it (`nvmlDeviceGetClockInfo/1`), what is passed by reference receives the recorded values in order.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from rigbench.core.errors import RigbenchError

SUCCESS, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND, INSUFFICIENT_SIZE, UNKNOWN = 0, 1, 2, 3, 6, 7, 999
HANDLE_STRIDE = 256  # device i is the address (i + 1) * 256: never null, never dereferenced

LINE = re.compile(r"(?P<scope>sys|\*|\d{1,4})\s+(?P<key>nvml[\w/]+)\s+=\s+(?P<answers>.*)")
TOKEN = re.compile(r'"(?P<text>[^"]*)"|(?P<word>[^\s"]+)')
NUMBER = re.compile(r"-?\d{1,20}|0[xX][0-9a-fA-F]{1,16}")


class Answer(NamedTuple):
    code: int
    values: tuple[int | str, ...]


Recording = dict[tuple[str, str], list[Answer]]


def parse_recording(text: str, name: str = "nvml.txt") -> Recording:
    """The lines of a recording: `0 nvmlDeviceGetTemperature/0 = 0 43 ; 15` is 43 once, then "GPU is lost".

    Raises:
        RigbenchError: a line that is not one of ours, with its number.
    """
    recording: Recording = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = LINE.fullmatch(line.strip())
        answers = _answers(match["answers"]) if match else []
        if match is None or not answers:
            raise RigbenchError(f"{name} line {number} is not a recorded call", "capture the rig again")
        recording[match["scope"], match["key"]] = answers
    return recording


def _answers(text: str) -> list[Answer]:
    """`0 43 ; 0 44 ; 15` is three answers; nothing where one of them has no return code."""
    groups: list[list[int | str]] = [[]]
    for token in TOKEN.finditer(text):
        if token["word"] == ";":
            groups.append([])
        else:
            groups[-1].append(_value(token))
    if not all(group and isinstance(group[0], int) for group in groups):
        return []
    return [Answer(int(group[0]), tuple(group[1:])) for group in groups]


def _value(token: re.Match[str]) -> int | str:
    if token["text"] is not None:
        return token["text"]
    word = token["word"]
    return int(word, 16 if "x" in word.lower() else 10) if NUMBER.fullmatch(word) else word


class ReplayedLibrary:
    """Put in `pynvml.nvmlLib`. A call that was not recorded is "not supported"; sequences advance a step a call."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._calls_so_far: dict[tuple[str, str], int] = {}
        self._opened = 0
        self.log: list[tuple[str, str, int]] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)
        function = partial(self._call, name)
        self.__dict__[name] = function
        return function

    def _call(self, name: str, *arguments: Any) -> Any:
        if name.startswith("nvmlInit"):
            return self._open(name)
        if name == "nvmlErrorString":
            return b"recorded error"
        if self._opened <= 0:
            return UNINITIALIZED
        if name == "nvmlShutdown":
            self._opened -= 1
            return SUCCESS
        try:
            return self._answer(name, arguments)
        except (TypeError, ValueError, IndexError, OverflowError):
            return UNKNOWN  # the recording holds values of the wrong kind for this call

    def _open(self, name: str) -> int:
        code = self.ask("sys", name).code if ("sys", name) in self._recording else SUCCESS
        self._opened += code == SUCCESS
        return code

    def ask(self, scope: str, key: str) -> Answer:
        """The next recorded answer of a call; its last one for ever after."""
        answers = self._recording.get((scope, key))
        if answers is None and scope != "sys":
            answers = self._recording.get(("*", key))
        step = self._calls_so_far.get((scope, key), 0)
        self._calls_so_far[scope, key] = step + 1
        answer = answers[min(step, len(answers) - 1)] if answers else Answer(NOT_SUPPORTED, ())
        self.log.append((scope, key, answer.code))
        return answer

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> int:
        if name == "nvmlDeviceGetHandleByIndex_v2":
            return self._handle_by_index(*arguments)
        if name in ("nvmlDeviceGetHandleByUUID", "nvmlDeviceGetHandleByPciBusId_v2"):
            return self._handle_by_name(name, *arguments)
        if name == "nvmlDeviceGetFieldValues":
            return self._field_values(*arguments)
        if "RunningProcesses" in name:
            return self._processes(name, *arguments)
        scope, numbers, outputs, buffer = sort_arguments(arguments, _scope)
        code, values = self.ask(scope, name_of(name, numbers, outputs, buffer))
        if code != SUCCESS:
            return code
        if buffer is not None:
            buffer.value = str(values[0]).encode()
        elif name == "nvmlDeviceGetMigDeviceHandleByIndex":
            _point(arguments[-1], int(values[0]))  # a part's own lines have a scope of its own
        elif outputs:
            _fill(outputs, values)
        return SUCCESS

    def recorded(self, scope: str, key: str) -> list[Answer]:
        """All answers of a call, wherever its sequence stands."""
        shared = self._recording.get(("*", key), []) if scope != "sys" else []
        return self._recording.get((scope, key), shared)

    def _handle_by_index(self, index: Any, output: Any) -> int:
        code, values = self.ask("sys", "nvmlDeviceGetCount_v2")
        if code != SUCCESS or index.value >= int(values[0]):
            return code or INVALID_ARGUMENT
        if (str(index.value), "nvmlDeviceGetHandleByIndex_v2") in self._recording:
            code = self.ask(str(index.value), "nvmlDeviceGetHandleByIndex_v2").code
        if code == SUCCESS:
            _point(output, index.value)
        return code

    def _handle_by_name(self, call: str, wanted: Any, output: Any) -> int:
        getter = "nvmlDeviceGetUUID" if call.endswith("UUID") else "nvmlDeviceGetPciInfo_v3"
        ending = getattr(wanted, "value", wanted).decode().lower()[-12:]
        for index in range(int(self.ask("sys", "nvmlDeviceGetCount_v2").values[0])):
            code, values = self.ask(str(index), getter)
            if code == SUCCESS and str(values[0]).lower().endswith(ending):
                _point(output, index)
                return SUCCESS
        return NOT_FOUND

    def _processes(self, name: str, handle: Any, count: Any, room: Any) -> int:
        """`0 pid bytes pid bytes`: pynvml asks for the number first, then with an array to fill."""
        code, values = self.ask(_scope(handle), name)
        if code != SUCCESS:
            return code
        places, count._obj.value = count._obj.value, len(values) // 2
        if values and (room is None or places < len(values) // 2):
            return INSUFFICIENT_SIZE
        for index, (pid, used) in enumerate(zip(values[::2], values[1::2], strict=True)):
            room[index].pid, room[index].usedGpuMemory = pid, used
        return SUCCESS

    def _field_values(self, handle: Any, _count: Any, output: Any) -> int:
        for field in output._obj:
            field.nvmlReturn, values = self.ask(
                _scope(handle), f"nvmlDeviceGetFieldValues/{field.fieldId}/{field.scopeId}"
            )
            if field.nvmlReturn == SUCCESS:
                field.valueType, field.value.ullVal = int(values[0]), int(values[1])
        return SUCCESS


def sort_arguments(arguments: tuple[Any, ...], scope_of: Callable[[Any], str]) -> tuple[str, list[Any], list[Any], Any]:
    """A call's arguments as (whose it is, the numbers in its name, what receives values, a text buffer)."""
    scope, numbers, outputs, buffer = "sys", [], [], None
    for argument in arguments:
        if hasattr(argument, "_obj"):  # byref() keeps its target here
            outputs.append(argument._obj)
        elif argument is None:
            outputs.append(None)
        elif isinstance(argument, ctypes.Array) and argument._type_ is ctypes.c_char:
            buffer = argument
        elif isinstance(argument, ctypes.Array):
            outputs.append(argument)
        elif not isinstance(argument, ctypes._Pointer):
            numbers.append(getattr(argument, "value", argument))
        elif scope == "sys":
            scope = scope_of(argument)
        else:
            numbers.append(scope_of(argument))
    return scope, numbers, outputs, buffer


def name_of(name: str, numbers: list[Any], outputs: list[Any], buffer: Any) -> str:
    """What a call is recorded as: its function and the numbers that say which of its readings is meant."""
    if name == "nvmlDeviceGetTemperatureV":  # recorded under the name that every driver has had
        name, numbers = "nvmlDeviceGetTemperature", [outputs[0].sensorType]
    elif name.startswith("nvmlDeviceSet"):
        numbers = []  # a setter's value is no part of its name
    elif buffer is not None:
        numbers = numbers[:-1]  # the room in the buffer
    elif "Affinity" in name:
        numbers = numbers[1:]  # the words in the mask
    return "/".join([name, *map(str, numbers)])


def _scope(handle: Any) -> str:
    return str((ctypes.cast(handle, ctypes.c_void_p).value or 0) // HANDLE_STRIDE - 1)


def _point(output: Any, index: int) -> None:
    ctypes.c_void_p.from_buffer(output._obj).value = (index + 1) * HANDLE_STRIDE


def _fill(outputs: list[Any], values: tuple[int | str, ...]) -> None:
    target = outputs[0]
    if isinstance(target, ctypes.Array):
        for index, value in enumerate(values[: len(target)]):
            target[index] = int(value)
    elif isinstance(target, ctypes.Structure):
        _fill_structure(target, values)
    elif len(values) < len(outputs):
        raise ValueError("fewer values recorded than the call returns")
    else:
        for output, value in zip(outputs, values, strict=False):
            output.value = value


def _fill_structure(target: Any, values: tuple[int | str, ...]) -> None:
    kind = type(target).__name__
    if "Pci" in kind:
        domain, bus, device = (int(part, 16) for part in re.split("[:.]", str(values[0]))[:3])
        target.domain, target.bus, target.device = domain, bus, device
        target.busId, target.busIdLegacy = str(values[0]).encode(), str(values[0])[-12:].encode()
        target.pciDeviceId, target.pciSubSystemId = values[1], values[2]
        return
    skipped = {"version", "sensorType"} if "Memory_v2" in kind else {"version", "sensorType", "reserved"}
    names = [field[0] for field in target._fields_ if field[0] not in skipped]
    if not values:
        raise ValueError("no values recorded")
    for name, value in zip(names, values, strict=False):
        setattr(target, name, value)
