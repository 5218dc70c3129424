"""Which build of the NVIDIA driver is it, and what was it told? From what its kernel module shows in /proc."""

from __future__ import annotations

import re

from rigbench.core.record import Absent
from rigbench.machine.sysfs import Sysfs

FOLDER = "proc/driver/nvidia"


def flavour(sysfs: Sysfs) -> str | Absent:
    """ "open" or "closed": they differ in what they allow between GPUs."""
    version = sysfs.read_text(f"{FOLDER}/version")
    return version if isinstance(version, Absent) else parse_flavour(version)


def parse_flavour(version: str) -> str | Absent:
    if "Open Kernel Module" in version:
        return "open"
    return "closed" if "Kernel Module" in version else Absent("not told by this driver")


def overrides(sysfs: Sysfs) -> str | Absent:
    """The registry words that the module was given, such as `ForceP2P=17`."""
    text = sysfs.read_text(f"{FOLDER}/params")
    if isinstance(text, Absent):
        return text
    words = re.search(r'^RegistryDwords: "(.*)"$', text, re.MULTILINE)
    return (words[1] if words else "") or Absent("none")
