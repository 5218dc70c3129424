"""The command that heats: thermals."""

from __future__ import annotations

import sys

from rigbench.command import Common, command
from rigbench.thermals.record import Options


@command("device", "replay")
def thermals(common: Common, options: Options) -> int:
    """Sustained load on all GPUs at once: steady temperature, what it costs in speed, what held the clocks down.

    Changes no setting, and stops 2 °C below a card's own slowdown limit.
    """
    import contextlib

    import msgspec
    from rich.console import Console

    from rigbench.job import Job
    from rigbench.thermals import soak
    from rigbench.thermals.live import Display

    options = msgspec.structs.replace(options, device=common.device or "auto")
    # A picture on a terminal only: elsewhere the progress is told in lines, and a replay takes no time.
    drawn = not common.quiet and not common.replay and sys.stderr.isatty()

    def work(job: Job) -> None:
        with Display(Console(stderr=True)) if drawn else contextlib.nullcontext() as display:
            soak.run(job, options, display)

    return common.answer(work)
