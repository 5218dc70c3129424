"""The command that reads this rig: topology."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rigbench.command import Common, command
from rigbench.core.typer_options import Load

if TYPE_CHECKING:
    from rich.console import Console

    from rigbench.document import Run


@command("replay")
def topology(common: Common, load: Load = False) -> int:
    """This rig as sysfs and the driver tell it: CPU, memory, NUMA, the PCI tree with its links, disks, GPUs."""
    from rigbench.topology import diagnosis as survey

    return common.answer(lambda job: survey.topology(job, load), _show_topology)


def _show_topology(run: Run, console: Console) -> None:
    from rigbench.machine.record import Topology
    from rigbench.topology import screen as render

    if isinstance(run.topology, Topology):
        render.show(run.topology, console)
