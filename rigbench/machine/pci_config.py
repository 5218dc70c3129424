"""What does a PCI function's configuration space say: what kind of port it is, and which ACS bits are on?

Only root sees more than the first 64 bytes. Offsets and bits are those of linux/pci_regs.h.
"""

from __future__ import annotations

from rigbench.core.record import Absent
from rigbench.machine.sysfs import Sysfs

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


def read(sysfs: Sysfs, folder: str) -> tuple[str | Absent, tuple[str, ...] | Absent] | Absent:
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


def compose(port_type: str | None, acs: tuple[str, ...] | None) -> bytes:
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


def _number(content: bytes, place: int, size: int) -> int:
    return int.from_bytes(content[place : place + size], "little")
