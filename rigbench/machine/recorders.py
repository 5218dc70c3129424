"""What was asked of this machine, and what did it answer? Stand-ins for the two gates that keep everything read."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import partial
from typing import Any

from rigbench.core.record import Absent
from rigbench.machine.replay import SUCCESS, Answer, Recording, ReplayedLibrary, name_of, sort_arguments
from rigbench.machine.sysfs import Sysfs

INSUFFICIENT_SIZE, FUNCTION_NOT_FOUND = 7, 13
ANOTHER_NAME_WILL_BE_TRIED = (2, 3, 13, 25, 26)
MIG_SCOPES = 100  # parts of device 0 are recorded from here on, those of device 1 from twice this
NOT_RECORDED = ("nvmlErrorString", "nvmlShutdown", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetHandleByPciBusId_v2")
VALUE_MEMBERS = {1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}  # nvml.h, nvmlValueType_t


class RecordingLibrary:
    """Put in `pynvml.nvmlLib` before a driver library: passes every call on and keeps its answer.

    It undoes what ReplayedLibrary does, so that both name a call alike. Of a replayed library the whole recorded
    sequence of a call is kept, however often it was asked.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._answers: Recording = {}
        self._indices: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)
        function = getattr(self._library, name, None)
        if name in NOT_RECORDED and function is not None:
            return function
        self.__dict__[name] = recorded = partial(self._call, name, function)
        return recorded

    def recording(self) -> Recording:
        """What was asked so far. A sequence ends where its last answer begins to repeat."""
        if isinstance(self._library, ReplayedLibrary):
            return {call: self._library.recorded(*call) or answers[:1] for call, answers in self._answers.items()}
        return {key: _without_repeats(answers) for key, answers in self._answers.items()}

    def _call(self, name: str, function: Any, *arguments: Any) -> int:
        code: int = FUNCTION_NOT_FOUND if function is None else function(*arguments)
        for scope, key, answer in self._read(name, code, arguments):
            self._answers.setdefault((scope, key), []).append(answer)
        return code

    def _read(self, name: str, code: int, arguments: tuple[Any, ...]) -> Iterator[tuple[str, str, Answer]]:
        """(whose it is, the call's name, its answer) of a call; several for one that reads several fields."""
        if name.startswith("nvmlInit"):
            if code != SUCCESS:
                yield "sys", name, Answer(code, ())
            return
        if name == "nvmlDeviceGetHandleByIndex_v2":
            index, output = arguments
            if code == SUCCESS:
                self._indices[_address(output._obj)] = index.value
            else:
                yield str(index.value), name, Answer(code, ())
            return
        scope, numbers, outputs, buffer = sort_arguments(arguments, self._scope)
        if scope == "?":
            return  # a handle that we did not see handed out
        if name == "nvmlDeviceGetFieldValues":
            for field in outputs[0]:
                own = field.nvmlReturn if code == SUCCESS else code
                yield scope, f"{name}/{field.fieldId}/{field.scopeId}", Answer(own, () if own else _field(field))
            return
        if name == "nvmlDeviceGetMigDeviceHandleByIndex" and code == SUCCESS:
            part = MIG_SCOPES * (int(scope) + 1) + int(numbers[0])
            self._indices[_address(outputs[0])] = part
            yield scope, name_of(name, numbers, outputs, buffer), Answer(code, (part,))
            return
        values = _values(name, outputs, buffer) if code == SUCCESS else ()
        if values is not None and not _asks_for_room(name, code) and not _asks_again(name, code):
            yield scope, name_of(name, numbers, outputs, buffer), Answer(code, values)

    def _scope(self, handle: Any) -> str:
        return str(self._indices.get(_address(handle), "?"))


class RecordingSysfs(Sysfs):
    """Passes every reading on to another tree and keeps it, by its path."""

    def __init__(self, sysfs: Sysfs) -> None:
        self._sysfs = sysfs
        self.texts: dict[str, str | Absent] = {}
        self.contents: dict[str, bytes | Absent] = {}
        self.listings: dict[str, tuple[str, ...] | Absent] = {}
        self.places: dict[str, str | Absent] = {}
        self.existing: dict[str, bool] = {}

    def read_text(self, path: str) -> str | Absent:
        return self.texts.setdefault(path, self._sysfs.read_text(path))

    def read_bytes(self, path: str) -> bytes | Absent:
        return self.contents.setdefault(path, self._sysfs.read_bytes(path))

    def list_dir(self, path: str) -> tuple[str, ...] | Absent:
        return self.listings.setdefault(path, self._sysfs.list_dir(path))

    def real_path(self, path: str) -> str | Absent:
        return self.places.setdefault(path, self._sysfs.real_path(path))

    def exists(self, path: str) -> bool:
        return self.existing.setdefault(path, self._sysfs.exists(path))


def _without_repeats(answers: list[Answer]) -> list[Answer]:
    last = len(answers)
    while last > 1 and answers[last - 2] == answers[-1]:
        last -= 1
    return answers[:last]


def _asks_for_room(name: str, code: int) -> bool:
    """pynvml first asks how many processes there are; the list itself comes with the second call."""
    return code == INSUFFICIENT_SIZE and "RunningProcesses" in name


def _asks_again(name: str, code: int) -> bool:
    """A driver without the newer name is asked under the older one at once, which is what gets recorded."""
    return code in ANOTHER_NAME_WILL_BE_TRIED and name == "nvmlDeviceGetTemperatureV"


def _values(name: str, outputs: list[Any], buffer: Any) -> tuple[int | str, ...] | None:
    """What a call wrote, in the order in which a replay writes it back; None where the format has no form for it."""
    if buffer is not None:
        return (_text(buffer.value),)
    if "RunningProcesses" in name:
        listed = outputs[1] or ()
        return tuple(number for process in listed[: outputs[0].value] for number in (process.pid, _used(process)))
    target = outputs[0] if outputs else None
    if isinstance(target, ctypes.Array):
        words = [int(word) for word in target]
        while len(words) > 1 and not words[-1]:
            words.pop()
        return tuple(words)
    values = _members(target) if isinstance(target, ctypes.Structure) else [_plain(output) for output in outputs]
    return None if any(value is None for value in values) else tuple(value for value in values if value is not None)


def _members(structure: Any) -> list[int | str | None]:
    kind = type(structure).__name__
    if "Pci" in kind:
        return [_text(structure.busId), structure.pciDeviceId, structure.pciSubSystemId]
    skipped = {"version", "sensorType"} if "Memory_v2" in kind else {"version", "sensorType", "reserved"}
    names = [field[0] for field in structure._fields_ if field[0] not in skipped]
    return [_simple(getattr(structure, name)) for name in names]


def _plain(output: Any) -> int | str | None:
    return None if isinstance(output, ctypes._Pointer) else _simple(getattr(output, "value", None))


def _simple(value: Any) -> int | str | None:
    if isinstance(value, str | bytes):
        return _text(value)
    return int(value) if isinstance(value, int) else None


def _used(process: Any) -> int:
    return int(process.usedGpuMemory or 0)


def _field(field: Any) -> tuple[int, int]:
    member = VALUE_MEMBERS.get(field.valueType, "ullVal")
    return int(field.valueType), int(getattr(field.value, member))


def _text(value: str | bytes) -> str:
    text = value if isinstance(value, str) else value.decode(errors="replace")
    return "".join(letter if letter.isprintable() and letter != '"' else "?" for letter in text)


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
