"""Reads the PCI tree: every function with its link, its place, its configuration space, and what lies between two."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rigbench.core.record import Absent
from rigbench.machine.record import PciDevice
from rigbench.machine.sysfs import Sysfs

DEVICES = "sys/bus/pci/devices"
BUS_ID = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
HOST_BRIDGE = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")
NOT_REPORTED = Absent("not reported")

BRIDGE = "0604"
NO_CARD = Absent("not asked of this kind")
NVIDIA, MELLANOX, GPU_VENDORS = "10de", "15b3", ("10de", "1002", "8086")
# PCI class codes: the first four hex digits decide, else the first two (PCI Code and ID Assignment Specification).
KINDS = {
    "0600": "host bridge",
    "0601": "ISA bridge",
    "0604": "bridge",
    "0108": "NVMe",
    "0403": "audio",
    "0c03": "USB",
    "01": "storage",
    "02": "NIC",
    "03": "display",
    "04": "multimedia",
    "05": "memory",
    "06": "bridge",
    "12": "accelerator",
}
# Gigatransfers per second: the generation and the share that its encoding leaves for data
# (8b/10b, then 128b/130b, then 242 of a 256-byte FLIT; hwloc, include/private/misc.h).
GENERATIONS = {
    2.5e9: (1, 8 / 10),
    5e9: (2, 8 / 10),
    8e9: (3, 128 / 130),
    16e9: (4, 128 / 130),
    32e9: (5, 128 / 130),
    64e9: (6, 242 / 256),
    128e9: (7, 242 / 256),
}
LINK_WIDTHS = (1, 2, 4, 8, 12, 16, 32)  # virtual machines show 0, 63 or 255

# A PCI function's configuration space, of which only root sees more than the first 64 bytes (linux/pci_regs.h).
ORDINARY_BYTES, CONVENTIONAL_BYTES = 64, 256
STATUS, HAS_CAPABILITIES, FIRST_CAPABILITY = 0x06, 0x10, 0x34
PCI_EXPRESS, ACS = 0x10, 0x0D
MOST_CAPABILITIES = 48  # a broken chain may run in a ring

PORT_TYPES = {
    0x0: "Endpoint",
    0x1: "Legacy Endpoint",
    0x4: "Root Port",
    0x5: "Upstream Port",
    0x6: "Downstream Port",
    0x7: "PCI-Express to PCI/PCI-X Bridge",
    0x8: "PCI/PCI-X to PCI-Express Bridge",
    0x9: "Root Complex Integrated Endpoint",
    0xA: "Root Complex Event Collector",
}
ACS_BITS = ("SrcValid", "TransBlk", "ReqRedir", "CmpltRedir", "UpstreamFwd", "EgressCtrl", "DirectTrans")


def devices(sysfs: Sysfs) -> tuple[PciDevice, ...] | Absent:
    """Every PCI function, in bus order, or why there is no PCI tree."""
    names = sysfs.list_dir(DEVICES)
    if isinstance(names, Absent):
        return Absent(f"no PCI bus in sysfs ({names.reason})")
    return tuple(_device(sysfs, name) for name in names if BUS_ID.fullmatch(name))


def _device(sysfs: Sysfs, bus_id: str) -> PciDevice:
    folder = f"{DEVICES}/{bus_id}"
    root, parent = parse_place(sysfs.real_path(folder), bus_id)
    vendor, device, class_code = (_hex(sysfs.read_text(f"{folder}/{name}")) for name in ("vendor", "device", "class"))
    numa_node = sysfs.read_int(f"{folder}/numa_node")
    config = configuration(sysfs, folder) if class_code.startswith(BRIDGE) or is_card(class_code) else NO_CARD
    port_type, acs = (config, config) if isinstance(config, Absent) else config
    speed = parse_link_speed(sysfs.read_text(f"{folder}/current_link_speed"))
    max_speed = parse_link_speed(sysfs.read_text(f"{folder}/max_link_speed"))
    width = parse_link_width(sysfs.read_text(f"{folder}/current_link_width"))
    max_width = parse_link_width(sysfs.read_text(f"{folder}/max_link_width"))
    return PciDevice(
        bus_id=bus_id,
        parent=parent,
        root=root,
        class_code=class_code,
        kind=kind_of(class_code, vendor),
        vendor_id=vendor,
        device_id=device,
        name=Absent("sysfs holds no names"),
        numa_node=numa_node if isinstance(numa_node, int) and numa_node >= 0 else NOT_REPORTED,
        link_generation=link_generation(speed),
        link_max_generation=link_generation(max_speed),
        link_width_lanes=width,
        link_max_width_lanes=max_width,
        link_bytes_per_s=link_bytes_per_s(speed, width),
        link_max_bytes_per_s=link_bytes_per_s(max_speed, max_width),
        local_cpus=sysfs.read_text(f"{folder}/local_cpulist") or NOT_REPORTED,
        port_type=port_type,
        acs=acs,
        iommu_group=parse_group(sysfs.real_path(f"{folder}/iommu_group")),
        bar1_possible_bytes=parse_resize(sysfs.read_text(f"{folder}/resource1_resize")),
    )


def is_card(class_code: str) -> bool:
    """A function whose memory windows matter here: GPUs, network cards, drives and accelerators."""
    return class_code[:2] in ("01", "02", "03", "12")


def parse_group(real_path: str | Absent) -> int | Absent:
    """`sys/kernel/iommu_groups/17` is 17."""
    name = "" if isinstance(real_path, Absent) else real_path.rpartition("/")[2]
    return int(name) if re.fullmatch(r"\d{1,6}", name) else Absent("in no IOMMU group")


def parse_resize(text: str | Absent) -> tuple[int, ...] | Absent:
    """`resource1_resize`: bit n is set where BAR 1 could have 2^n MiB (kernel's ABI/testing/sysfs-bus-pci)."""
    if isinstance(text, Absent):
        return text
    bits = int(text, 16) if re.fullmatch(r"[0-9a-fA-F]{1,16}", text) else 0
    return tuple(1 << (20 + bit) for bit in range(42) if bits >> bit & 1) or NOT_REPORTED


def parse_place(real_path: str | Absent, bus_id: str) -> tuple[str, str | Absent]:
    """(host bridge, parent function) from where a device's link leads.

    `sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0` hangs on `pci0000:00` below `0000:00:01.0`. A drive behind a
    storage controller's own bus (Intel VMD) hangs below that controller.
    """
    parts = [] if isinstance(real_path, Absent) else real_path.split("/")
    root = next((part for part in parts if HOST_BRIDGE.fullmatch(part)), "unknown")
    above = [part for part in parts if BUS_ID.fullmatch(part) and part != bus_id]
    return root, above[-1] if above else Absent("on the root bus" if root != "unknown" else "not in the device tree")


def kind_of(class_code: str, vendor_id: str) -> str:
    """A class code such as "030000" in words."""
    if class_code.startswith("0302") or (class_code.startswith("0300") and vendor_id in GPU_VENDORS):
        return "GPU"
    if class_code.startswith("0680") and vendor_id == NVIDIA:
        return "NVSwitch"
    return KINDS.get(class_code[:4]) or KINDS.get(class_code[:2], "other")


def parse_link_speed(text: str | Absent) -> float | Absent:
    """`16.0 GT/s PCIe`, or `8 GT/s` from old kernels, in transfers per second."""
    match = None if isinstance(text, Absent) else re.fullmatch(r"(\d{1,3}(?:\.\d)?) GT/s(?: PCIe)?", text)
    speed = float(match[1]) * 1e9 if match else 0.0
    return speed if speed in GENERATIONS else NOT_REPORTED


def parse_link_width(text: str | Absent) -> int | Absent:
    """`16`, or `x16`, in lanes."""
    match = None if isinstance(text, Absent) else re.fullmatch(r"x?(\d{1,3})", text)
    return int(match[1]) if match and int(match[1]) in LINK_WIDTHS else NOT_REPORTED


def link_generation(transfers_per_s: float | Absent) -> int | Absent:
    if isinstance(transfers_per_s, Absent):
        return transfers_per_s
    return GENERATIONS[transfers_per_s][0] if transfers_per_s in GENERATIONS else NOT_REPORTED


def link_bytes_per_s(transfers_per_s: float | Absent, lanes: int | Absent) -> float | Absent:
    """What a link carries one way in theory: transfers × lanes × encoding / 8."""
    if isinstance(transfers_per_s, Absent) or isinstance(lanes, Absent) or transfers_per_s not in GENERATIONS:
        return NOT_REPORTED
    _generation, encoding = GENERATIONS[transfers_per_s]
    return transfers_per_s * lanes * encoding / 8


def configuration(sysfs: Sysfs, folder: str) -> tuple[str | Absent, tuple[str, ...] | Absent] | Absent:
    """(port type, ACS bits) of a function's folder."""
    content = sysfs.read_bytes(f"{folder}/config")
    if isinstance(content, Absent):
        return content
    if len(content) <= ORDINARY_BYTES:
        return Absent("only root may read it")
    return parse_port_type(content), parse_acs(content)


def parse_port_type(content: bytes) -> str | Absent:
    """From the PCI Express capability, in lspci's words."""
    place = _number(content, FIRST_CAPABILITY, 1) & 0xFC
    for _ in range(MOST_CAPABILITIES if _number(content, STATUS, 2) & HAS_CAPABILITIES else 0):
        if place < ORDINARY_BYTES:
            break
        if _number(content, place, 1) == PCI_EXPRESS:
            kind = _number(content, place + 2, 2) >> 4 & 0xF
            return PORT_TYPES.get(kind, Absent(f"unknown port type {kind}"))
        place = _number(content, place + 1, 1) & 0xFC
    return Absent("no PCI Express capability")


def parse_acs(content: bytes) -> tuple[str, ...] | Absent:
    """The ACS control register as lspci prints it: ("SrcValid+", "TransBlk-", …)."""
    if len(content) <= CONVENTIONAL_BYTES:
        return Absent("not reported")
    place = CONVENTIONAL_BYTES
    for _ in range(MOST_CAPABILITIES):
        header = _number(content, place, 4)
        if header & 0xFFFF == ACS:
            control = _number(content, place + 6, 2)
            return tuple(f"{name}{'+' if control >> bit & 1 else '-'}" for bit, name in enumerate(ACS_BITS))
        place = header >> 20 & 0xFFC
        if place < CONVENTIONAL_BYTES:
            break
    return Absent("no ACS capability")


def compose_configuration(port_type: str | None, acs: tuple[str, ...] | None) -> bytes:
    """A configuration space that says this and nothing else; as short as what was not recorded demands."""
    content = bytearray(CONVENTIONAL_BYTES if acs is None else 2 * CONVENTIONAL_BYTES)
    kind = next((number for number, name in PORT_TYPES.items() if name == port_type), None)
    if kind is not None:
        content[STATUS], content[FIRST_CAPABILITY] = HAS_CAPABILITIES, ORDINARY_BYTES
        content[ORDINARY_BYTES : ORDINARY_BYTES + 4] = bytes([PCI_EXPRESS, 0, kind << 4 | 2, 0])
    if acs:
        control = sum(1 << bit for bit, name in enumerate(ACS_BITS) if f"{name}+" in acs)
        content[CONVENTIONAL_BYTES : CONVENTIONAL_BYTES + 8] = bytes([ACS, 0, 1, 0, 0, 0, control, 0])
    return bytes(content)


def rdma_nics(sysfs: Sysfs, tree: Sequence[PciDevice]) -> tuple[str, ...]:
    """The network cards that the vendor's matrix lists: those that can reach GPU memory themselves."""
    return tuple(
        device.bus_id
        for device in tree
        if device.kind == "NIC"
        and (
            device.class_code.startswith("0207")
            or device.vendor_id == MELLANOX
            or sysfs.exists(f"{DEVICES}/{device.bus_id}/infiniband")
        )
    )


def path_to(tree: Mapping[str, PciDevice], bus_id: str) -> list[str]:
    """The functions from below the host bridge down to this one, itself included."""
    path = [bus_id]
    while path[0] in tree and isinstance(parent := tree[path[0]].parent, str) and parent not in path:
        path.insert(0, parent)
    return path


def label(tree: Mapping[str, PciDevice], one: str, other: str) -> str | Absent:
    """What lies between two functions, in the vendor tool's words.

    PIX one switch, PXB several, PHB the host bridge, NODE several host bridges of a NUMA node, SYS the socket link.
    """
    if one not in tree or other not in tree:
        return Absent("not in the PCI tree")
    first, second = tree[one], tree[other]
    if "unknown" in (first.root, second.root):
        return Absent("the PCI tree does not show its host bridge")
    same_node = first.numa_node == second.numa_node
    if first.root != second.root:
        return "NODE" if same_node else "SYS"
    paths = path_to(tree, one), path_to(tree, other)
    shared = sum(1 for a, b in zip(*paths, strict=False) if a == b)
    if shared == 0 and one.rpartition(".")[0] != other.rpartition(".")[0]:
        return "PHB" if same_node else "SYS"
    # Below a switch's upstream port come its own downstream port and the device: deeper means another switch.
    return "PIX" if all(len(path) - shared <= 2 for path in paths) else "PXB"


def _hex(text: str | Absent) -> str:
    """`0x10de` is "10de"; what is not such a number is "unknown"."""
    return text[2:].lower() if isinstance(text, str) and re.fullmatch(r"0x[0-9a-fA-F]{4,6}", text) else "unknown"


def _number(content: bytes, place: int, size: int) -> int:
    return int.from_bytes(content[place : place + size], "little")
