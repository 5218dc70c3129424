"""How far a whole run is: which of its stages, how long it has taken of about how long, and each stage's result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rigbench.core.progress import Bar, Progress, clock_text
from rigbench.core.screen import MARKS, Headline, printable

ALMOST = 0.95  # a stage that takes longer than planned stays here
TELLS_A_PACE = 0.1  # of the plan that must be done


class Overall:
    """A progress that shows the stages of a plan as one: "3/9 matmul", and beside it "0:40 of about 3:00"."""

    def __init__(
        self, inner: Progress, stages: Sequence[tuple[str, float]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`stages`: the name of each and about what it takes, in seconds."""
        self._inner, self._clock = inner, clock
        self._stages = list(stages)
        self._planned = sum(weight for _, weight in stages)
        self._number, self._probe = 0, ""
        self._earlier = -1.0  # seconds of the plan that were done before this session, by a run that is resumed
        self._started = self._began = clock()
        if isinstance(inner, Bar):
            inner.time = self.time

    def begin(self, name: str) -> None:
        """The next stage; those between, which are left out, count as done."""
        self._number = [stage for stage, _ in self._stages].index(name)
        self._earlier = self._before() if self._earlier < 0 else self._earlier
        self._began, self._probe = self._clock(), ""
        time = "" if isinstance(self._inner, Bar) else f", {self.time()}"
        self._inner.stage(f"{self._number + 1}/{len(self._stages)} {name}{time}", self._weight)
        self.update(0.0, "")

    def end(self, name: str, result: Headline) -> None:
        """A line that stays: what the stage came to."""
        mark, sentence = result
        self._inner.line(f"{mark:<5} {name:<11} {printable(sentence)}", MARKS[mark])

    def line(self, text: str, style: str = "") -> None:
        self._inner.line(text, style)

    def stage(self, text: str, weight_seconds: float) -> None:
        """A probe of the stage under way begins; the whole's bar goes on."""
        self._probe = text
        self.update(0.0, "")

    def update(self, share: float, text: str) -> None:
        words = ": ".join(part for part in (self._probe, text) if part)
        self._inner.update(self.share(), words if isinstance(self._inner, Bar) else f"{self.time()}, {words}")

    def close(self) -> None:
        self._inner.close()

    @property
    def _weight(self) -> float:
        return self._stages[self._number][1]

    def share(self) -> float:
        """Of the whole that is done, by the seconds planned: a stage under way is never quite done."""
        under_way = min(self._clock() - self._began, ALMOST * self._weight)
        return (self._before() + under_way) / self._planned

    def time(self) -> str:
        """What has passed, and what all of it takes: what is left at the pace of the stages that are done."""
        passed, before = self._clock() - self._started, self._before()
        done = before - max(self._earlier, 0.0)
        pace = (self._began - self._started) / done if done >= TELLS_A_PACE * self._planned else 1.0
        stage = max(self._clock() - self._began, pace * self._weight)
        total = self._began - self._started + stage + pace * (self._planned - before - self._weight)
        return f"{clock_text(passed)} of about {clock_text(total)}"

    def _before(self) -> float:
        return sum(weight for _, weight in self._stages[: self._number])
