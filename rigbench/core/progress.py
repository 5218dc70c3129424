"""Tells how far work is: a live bar on a terminal, a line per stage elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol

TOLD_AFTER_SECONDS = 1.0  # a stage shorter than this needs no bar
FIRST_LINE_SECONDS, LINE_EVERY_SECONDS = 2.0, 15.0  # without a terminal, a long stage gives signs of life so often
stopping = False  # the work is being ended in good order, as the user said stop


def say_stopping() -> None:
    """The answer to Ctrl-C, of whoever ends the work and keeps what there is."""
    global stopping
    stopping = True
    sys.stderr.write("rigbench: stopping; keeping what was measured …\n")


class Progress(Protocol):
    """Where the stages tell how far they are."""

    def stage(self, text: str, weight_seconds: float) -> None: ...

    def update(self, share: float, text: str) -> None: ...

    def line(self, text: str, style: str = "") -> None: ...  # one that stays

    def close(self) -> None: ...


class Silent:
    """For --quiet and --json."""

    def stage(self, text: str, weight_seconds: float) -> None: ...

    def update(self, share: float, text: str) -> None: ...

    def line(self, text: str, style: str = "") -> None: ...

    def close(self) -> None: ...


SILENT = Silent()


class Lines:
    """For a pipe or a log: a line when a stage begins, one after two seconds, then one every 15 while it lasts."""

    def __init__(self) -> None:
        self._stage, self._due = "", 0.0

    def stage(self, text: str, weight_seconds: float) -> None:
        self._stage, self._due = text, time.monotonic() + FIRST_LINE_SECONDS
        if weight_seconds >= TOLD_AFTER_SECONDS:
            sys.stderr.write(f"{_printable(text)} …\n")

    def update(self, share: float, text: str) -> None:
        if time.monotonic() > self._due:
            self._due = time.monotonic() + LINE_EVERY_SECONDS
            sys.stderr.write(_printable(f"{self._stage}: {share:.0%}, {text}") + "\n")

    def line(self, text: str, style: str = "") -> None:
        sys.stderr.write(f"{_printable(text)}\n")

    def close(self) -> None: ...


class Bar:
    """For a terminal: the stage, a bar, the time it has taken, and what the probe says."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, ProgressColumn, Task
        from rich.text import Text

        from rigbench.core import screen
        from rigbench.core.screen import printable

        class Words(ProgressColumn):
            """The time, then as much of the description as the line has room for: the rest is never shortened."""

            def render(_, task: Task) -> Text:  # noqa: N805
                time, stage = self.time(), str(task.fields["stage"])
                made = Text.assemble(
                    (time, "progress.elapsed"), (f" {printable(task.description)}", "dim"), no_wrap=True
                )
                made.truncate(max(len(time), console.width - len(stage) - bar - 3), overflow="ellipsis")
                return made

        class Stage(ProgressColumn):
            def render(_, task: Task) -> Text:  # noqa: N805
                return Text(printable(str(task.fields["stage"])), no_wrap=True)

        self._began = time.monotonic()
        self.time: Callable[[], str] = lambda: clock_text(time.monotonic() - self._began)
        console = screen.console(stderr=True)
        bar = min(24, console.width // 4)
        self._progress = Progress(Stage(), BarColumn(bar_width=bar), Words(), console=console, transient=True)
        self._task = self._progress.add_task("", total=1.0, stage="")
        self._started = False

    def stage(self, text: str, weight_seconds: float) -> None:
        self._began = time.monotonic()
        if weight_seconds >= TOLD_AFTER_SECONDS and not self._started:
            self._progress.start()
            self._started = True
        self._progress.reset(self._task, total=1.0, stage=text, description="")

    def update(self, share: float, text: str) -> None:
        self._progress.update(self._task, completed=share, description=text)

    def line(self, text: str, style: str = "") -> None:
        from rich.text import Text

        self._progress.console.print(Text(text, style=style), soft_wrap=True)

    def close(self) -> None:
        if self._started:
            self._progress.stop()


def _printable(text: str) -> str:
    from rigbench.core.screen import printable

    return printable(text)


def clock_text(seconds: float) -> str:
    """ "0:40", "1:02:03"."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def make_progress(quiet: bool) -> Silent | Lines | Bar:
    if quiet:
        return SILENT
    return Bar() if sys.stderr.isatty() else Lines()
