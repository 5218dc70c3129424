"""The command that reads this rig: topology."""

from __future__ import annotations

from rigbench.command import Common, command
from rigbench.topology.record import Options


@command("replay")
def topology(common: Common, options: Options) -> int:
    """How this rig is wired: CPU, memory, NUMA, the PCI tree with its links, disks, GPUs.

    rigbench topology                     this machine
    rigbench topology --load              with the links awake, as idle ones go to sleep
    rigbench --replay CAPTURE topology    somebody else's rig
    """
    from rigbench.topology import survey

    return common.answer(lambda job: survey.topology(job, options.load), look=True)
