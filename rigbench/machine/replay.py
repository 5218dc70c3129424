"""Reads, plays and makes recordings of the driver: `nvml.txt`, a line for each call with its answers in turn.

    0 nvmlDeviceGetTemperature/0 = 0 43 ; 0 44 ; 15

The scope ("sys", a GPU's index, a part's number, or "*" for every GPU without a line of its own), the call with its
arguments, and for each answer the driver's return code with the values.
"""

from __future__ import annotations

import re

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.machine.driver import Answer, Driver
from rigbench.machine.driver_child import HANDLE, INIT

SUCCESS, INVALID_ARGUMENT, NOT_SUPPORTED, UNKNOWN = 0, 2, 3, 999
COUNT = "nvmlDeviceGetCount_v2"

LINE = re.compile(r"(?P<scope>sys|\*|\d{1,4})\s+(?P<key>nvml[\w/]+)\s+=\s+(?P<answers>.*)")
TOKEN = re.compile(r'"(?P<text>[^"]*)"|(?P<word>[^\s"]+)')
NUMBER = re.compile(r"-?\d{1,20}|0[xX][0-9a-fA-F]{1,16}")
HEADER = "# a rig as rigbench read it: scope, call = code, values; what stands between semicolons was read in turn\n"

Recording = dict[tuple[str, str], list[Answer]]


def parse_recording(text: str, name: str = "nvml.txt") -> Recording:
    """
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
        word = token["word"]
        if word == ";":
            groups.append([])
        elif word is not None and NUMBER.fullmatch(word):
            groups[-1].append(int(word, 16 if "x" in word.lower() else 10))
        else:
            groups[-1].append(token["text"] if word is None else word)
    if not all(group and isinstance(group[0], int) for group in groups):
        return []
    return [Answer(int(group[0]), tuple(group[1:])) for group in groups]


def as_text(recording: Recording) -> str:
    lines = [HEADER]
    for (scope, key), answers in recording.items():
        told = []
        for code, values in answers:
            texts = ["".join(it if it.isprintable() and it != '"' else "?" for it in str(value)) for value in values]
            quoted = (f'"{it}"' if isinstance(value, str) else it for it, value in zip(texts, values, strict=True))
            told.append(" ".join([str(code), *quoted]))
        lines.append(f"{scope} {key} = {' ; '.join(told)}\n")
    return "".join(lines)


class ReplayedDriver:
    """A recorded one. A call that was not recorded is "not supported", or what `unsaid` says of it; sequences advance a
    step a call."""

    trouble = None

    def __init__(self, recording: Recording, unsaid: Absent | None = None) -> None:
        self.recording, self.unsaid = recording, unsaid
        self._calls_so_far: dict[tuple[str, str], int] = {}
        self.log: list[tuple[str, str, int]] = []

    def ask(self, scope: str, *keys: str) -> list[Answer | Absent]:
        return [self._unsaid(scope, key) or self.answer(scope, key) for key in keys]

    def _unsaid(self, scope: str, key: str) -> Absent | None:
        return None if key in (INIT, HANDLE) or self.recorded(scope, key) else self.unsaid

    def recorded(self, scope: str, key: str) -> list[Answer]:
        """All answers of a call, wherever its sequence stands."""
        shared = self.recording.get(("*", key), []) if scope != "sys" else []
        return self.recording.get((scope, key), shared)

    def answer(self, scope: str, key: str) -> Answer:
        """The next recorded answer; the last one for ever after."""
        answers = self.recorded(scope, key)
        if not answers and key in (INIT, HANDLE):  # only their failures are recorded
            counts = [answer.values[0] for answer in self.recorded("sys", COUNT) if answer.values]
            listed = key == INIT or any(isinstance(count, int) and int(scope) < count for count in counts)
            return Answer(SUCCESS if listed else INVALID_ARGUMENT, ())
        step = self._calls_so_far.get((scope, key), 0)
        self._calls_so_far[scope, key] = step + 1
        answer = answers[min(step, len(answers) - 1)] if answers else Answer(NOT_SUPPORTED, ())
        if any(isinstance(value, int) and not -(1 << 63) <= value < 1 << 64 for value in answer.values):
            answer = Answer(UNKNOWN, ())
        self.log.append((scope, key, answer.code))
        return answer

    def steps(self) -> int:
        """The length of the longest sequence of what was asked of GPUs so far."""
        return max((len(self.recorded(scope, key)) for scope, key, _ in self.log if scope != "sys"), default=1)


class RecordingDriver:
    """Passes every call on to another driver and keeps its answers.

    Of a replayed driver the whole recorded sequence of a call is kept, however often it was asked.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._answers: Recording = {}

    @property
    def trouble(self) -> Absent | None:
        return self._driver.trouble

    def ask(self, scope: str, *keys: str) -> list[Answer | Absent]:
        answers = self._driver.ask(scope, *keys)
        for key, answer in zip(keys, answers, strict=True):
            if isinstance(answer, Absent):
                continue
            code, values = answer
            if code >= 0 and not (key in (INIT, HANDLE) and code == SUCCESS):  # below 0 pynvml is to blame
                self._answers.setdefault((scope, key), []).append(Answer(code, values))
        return answers

    def recording(self) -> Recording:
        """What was asked so far. A sequence ends where its last answer begins to repeat."""
        if isinstance(self._driver, ReplayedDriver):
            return {call: self._driver.recorded(*call) or answers[:1] for call, answers in self._answers.items()}
        lasts = {call: len(answers) for call, answers in self._answers.items()}
        for call, answers in self._answers.items():
            while lasts[call] > 1 and answers[lasts[call] - 2] == answers[-1]:
                lasts[call] -= 1
        return {call: answers[: lasts[call]] for call, answers in self._answers.items()}
