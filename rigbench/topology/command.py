"""The command that reads this rig: topology."""

from __future__ import annotations

from rigbench.command import Common, command
from rigbench.topology.record import Options


@command("replay")
def topology(common: Common, options: Options) -> int:
    """This rig as sysfs and the driver tell it: CPU, memory, NUMA, the PCI tree with its links, disks, GPUs."""
    from rigbench.topology import survey

    return common.answer(lambda job: survey.topology(job, options.load))
