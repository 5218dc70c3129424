"""Which disks could feed a training run, and how are they attached?"""

from __future__ import annotations

import re

from rigbench.core.record import Absent
from rigbench.machine.record import Disk
from rigbench.machine.sysfs import Sysfs

BLOCK = "sys/block"
SECTOR_BYTES = 512  # /sys/block/*/size counts these, whatever the disk's own sectors are
NOT_A_DISK = re.compile(r"(loop|ram|zram|dm-|md|nbd|sr|fd|zd)\d")
PCI_BUS_ID = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def disks(sysfs: Sysfs) -> tuple[Disk, ...]:
    names = sysfs.list_dir(BLOCK)
    if isinstance(names, Absent):
        return ()
    return tuple(_disk(sysfs, name) for name in names if not NOT_A_DISK.match(name))


def _disk(sysfs: Sysfs, name: str) -> Disk:
    path = sysfs.real_path(f"{BLOCK}/{name}")
    transport = transport_of(name, "" if isinstance(path, Absent) else path)
    sectors = sysfs.read_int(f"{BLOCK}/{name}/size")
    rotational = sysfs.read_text(f"{BLOCK}/{name}/queue/rotational")
    if transport == "virtio":
        rotational = Absent("a virtual disk does not tell")
    return Disk(
        name=name,
        model=_model(sysfs, name),
        size_bytes=sectors if isinstance(sectors, Absent) else sectors * SECTOR_BYTES,
        rotational=rotational if isinstance(rotational, Absent) else rotational == "1",
        transport=transport,
        pci_bus_id=_pci_bus_id(sysfs, name, path),
    )


def transport_of(name: str, path: str) -> str:
    """How a disk is attached, from its name and where it hangs in the device tree."""
    if name.startswith("nvme"):
        return "nvme"
    if name.startswith("mmcblk"):
        return "mmc"
    for part, transport in (("/usb", "usb"), ("/virtio", "virtio"), ("/ata", "sata"), ("/vmbus", "hyper-v")):
        if part in path.lower():
            return transport
    return "scsi" if "/host" in path else "unknown"


def _model(sysfs: Sysfs, name: str) -> str | Absent:
    model = sysfs.read_text(f"{BLOCK}/{name}/device/model")
    return Absent("not reported") if isinstance(model, Absent) or not model else model


def _pci_bus_id(sysfs: Sysfs, name: str, path: str | Absent) -> str | Absent:
    """The last PCI function on the way to the disk. A multipath NVMe disk hangs elsewhere: ask its controller."""
    paths = [path]
    controller = re.match(r"nvme\d+", name)
    if controller:
        paths.append(sysfs.real_path(f"sys/class/nvme/{controller[0]}"))
    for candidate in paths:
        found = [] if isinstance(candidate, Absent) else PCI_BUS_ID.findall(candidate)
        if found:
            return str(found[-1])
    return Absent("not on a PCI bus")
