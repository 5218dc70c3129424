"""How do several probes work at once, each for itself, watched and stopped by a parent that has other things to do?

Unlike the ranks of a group they do not share a fate: one that dies or hangs ends alone, and keeps what it handed over.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Record
from rigbench.work.process import GRACE_SECONDS, Child, Lines
from rigbench.work.workers import Outcome

T = TypeVar("T", bound=Record)


class Crew(Generic[T]):
    """A process per name, begun when the crew is entered and gone when it is left.

    `latest` is what each has handed over so far, `outcomes` how those that have ended did. `clock` is in seconds.
    """

    def __init__(
        self,
        probe: str,
        options: Mapping[str, Record],
        result_type: type[T],
        limit_seconds: float,
        on_progress: Callable[[float, str], None] = lambda share, text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.latest: dict[str, T] = {}
        self.outcomes: dict[str, Outcome[T]] = {}
        self._probe, self._options, self._result_type = probe, options, result_type
        self._limit_seconds, self._on_progress, self._clock = limit_seconds, on_progress, clock
        self._names = list(options)
        self._children: dict[str, Child] = {}
        self._deadlines: dict[str, float] = {}
        self._told: set[str] = set()
        self._lines: Lines = queue.SimpleQueue()

    def __enter__(self) -> Crew[T]:
        for index, name in enumerate(self._names):
            child = Child(self._probe, "workers", self._options[name], {}, name)
            self._children[name] = child
            self._deadlines[name] = self._clock() + self._limit_seconds
            child.hear(index, self._lines)
        return self

    def __exit__(self, *_exception: object) -> None:
        for child in self._children.values():
            child.kill()

    def working(self) -> list[str]:
        return [name for name in self._names if name not in self.outcomes]

    def stop(self, name: str | None = None) -> None:
        """Tell one, or all, to end with what they have; half a minute later they are ended."""
        for one in self.working() if name is None else [name]:
            if one not in self._told:
                self._told.add(one)
                self._children[one].tell(b"stop")
                self._deadlines[one] = min(self._deadlines[one], self._clock() + GRACE_SECONDS)

    def listen(self, seconds: float) -> None:
        """Note what they say, for a time or until the last has ended.

        Raises:
            RigbenchError: a probe refused its options.
        """
        until = self._clock() + seconds
        while self.working() and (left := until - self._clock()) > 0:
            try:
                index, line = self._lines.get(timeout=left)
            except queue.Empty:
                break
            self._take(self._names[index], line)
        for name in self.working():
            if self._clock() > self._deadlines[name]:
                self._children[name].kill()
                reason = "it did not stop when told to" if name in self._told else "it took far longer than planned"
                self.outcomes[name] = Outcome(self.latest.get(name), "hung", f"{reason}; its processes were ended")

    def _take(self, name: str, line: bytes) -> None:
        if name in self.outcomes:
            return
        if not line:
            reason = self._children[name].epitaph().removeprefix(f"{name}: ")
            self.outcomes[name] = Outcome(self.latest.get(name), "died", reason)
            return
        message = msgspec.json.decode(line)
        if "progress" in message:
            self._on_progress(*message["progress"])
        elif "error" in message:
            raise RigbenchError(**message["error"])
        elif "partial" in message:
            self.latest[name] = msgspec.convert(message["partial"], self._result_type)
        elif "result" in message:
            self.latest[name] = msgspec.convert(message["result"], self._result_type)
            self._end(name, Outcome(self.latest[name], "finished"))
        elif "stopped" in message:
            self._end(name, Outcome(self.latest.get(name), "interrupted"))

    def _end(self, name: str, outcome: Outcome[T]) -> None:
        """A child waits to be ended once it has answered, holding its device's memory meanwhile."""
        self.outcomes[name] = outcome
        self._children[name].kill()
