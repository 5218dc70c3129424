"""Are links, places and the vendor's labels told right from the kernel's words?"""

from __future__ import annotations

import pytest

from rigbench.core.record import Absent
from rigbench.machine import pci
from rigbench.machine.record import PciDevice

NOT_REPORTED = Absent("not reported")


@pytest.mark.parametrize(
    ("text", "speed"),
    [
        ("16.0 GT/s PCIe", 16e9),
        ("2.5 GT/s PCIe", 2.5e9),
        ("8 GT/s", 8e9),
        ("64.0 GT/s PCIe", 64e9),
        ("Unknown", NOT_REPORTED),
        ("Unknown speed", NOT_REPORTED),
        ("16.0 MT/s", NOT_REPORTED),
        ("3.0 GT/s", NOT_REPORTED),
        ("", NOT_REPORTED),
        (Absent("no such file"), NOT_REPORTED),
    ],
)
def test_link_speeds_are_read_and_others_refused(text: str | Absent, speed: float | Absent) -> None:
    assert pci.parse_link_speed(text) == speed


def test_link_widths_of_virtual_machines_are_not_reported() -> None:
    assert [pci.parse_link_width(text) for text in ("16", "x8", "1")] == [16, 8, 1]
    widths = (1, 2, 4, 8, 12, 16, 32)  # PCI Express Base Specification: the widths that a link may have
    assert [lanes for lanes in range(64) if pci.parse_link_width(str(lanes)) == lanes] == list(widths)
    assert {pci.parse_link_width(text) for text in ("0", "63", "255", "", "x", "-8")} == {NOT_REPORTED}


def test_what_a_link_carries_follows_its_encoding() -> None:
    # TOPOLOGY: x16 carries 4.0, 8.0, 15.75, 31.5, 63.0, 121 and 242 GB/s one way.
    speeds = (2.5e9, 5e9, 8e9, 16e9, 32e9, 64e9, 128e9)
    rates = [pci.link_bytes_per_s(speed, 16) for speed in speeds]
    assert rates == pytest.approx([4e9, 8e9, 15.754e9, 31.508e9, 63.015e9, 121e9, 242e9], rel=1e-4)
    assert pci.link_bytes_per_s(NOT_REPORTED, 16) == pci.link_bytes_per_s(7e9, 16) == NOT_REPORTED
    assert pci.link_bytes_per_s(8e9, NOT_REPORTED) == NOT_REPORTED


def function(bus_id: str, *above: str, root: str = "pci0000:00", numa: int | Absent = 0) -> dict[str, PciDevice]:
    """A function and the bridges above it, top first."""
    path = [*above, bus_id]
    blank = dict.fromkeys(PciDevice.__struct_fields__, NOT_REPORTED) | {"root": root, "numa_node": numa}
    places = zip(path, [Absent("on the root bus"), *path], strict=False)
    return {place: PciDevice(**(blank | {"bus_id": place, "parent": parent})) for place, parent in places}  # type: ignore[arg-type]


def test_labels_of_shapes_that_no_recording_here_has() -> None:
    switch = "0000:00:01.0", "0000:01:00.0"
    tree = {
        **function("0000:03:00.0", *switch, "0000:02:00.0"),
        **function("0000:04:00.0", *switch, "0000:02:01.0"),
        **function("0000:08:00.0", *switch, "0000:02:02.0", "0000:06:00.0", "0000:07:00.0"),
        **function("0000:09:00.0", "0000:00:02.0"),
        **function("0000:0a:00.0", "0000:00:03.0", numa=1),
        **function("0000:21:00.0", root="pci0000:20"),
        **function("0000:21:00.1", root="pci0000:20"),
        **function("0001:01:00.0", root="pci0001:00", numa=1),
        **function("0000:55:00.0", root="unknown"),
    }
    first = "0000:03:00.0"
    assert pci.label(tree, first, "0000:04:00.0") == "PIX"
    assert pci.label(tree, first, "0000:08:00.0") == "PXB"
    assert pci.label(tree, first, "0000:09:00.0") == "PHB"
    assert pci.label(tree, first, "0000:0a:00.0") == "SYS"
    assert pci.label(tree, first, "0000:21:00.0") == "NODE"
    assert pci.label(tree, "0000:21:00.0", "0000:21:00.1") == "PIX"
    assert pci.label(tree, first, "0001:01:00.0") == "SYS"
    assert isinstance(pci.label(tree, first, "0000:55:00.0"), Absent)
    assert isinstance(pci.label(tree, first, "0000:ff:00.0"), Absent)


def test_a_drive_behind_its_controllers_own_bus_hangs_below_the_controller() -> None:
    path = "sys/devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0"
    assert pci.parse_place(path, "10000:e1:00.0") == ("pci0000:00", "10000:e0:06.0")
    assert pci.parse_place("sys/devices/platform/x/pci000f:00/000f:00:00.0", "000f:00:00.0")[0] == "pci000f:00"
    assert pci.parse_place("elsewhere", "0000:01:00.0") == ("unknown", Absent("not in the device tree"))


def test_the_sizes_that_a_card_could_have_are_powers_of_two() -> None:
    assert pci.parse_resize("0000000000007fc0") == tuple(1 << power for power in range(26, 35))
    assert pci.parse_resize("0") == pci.parse_resize("x") == NOT_REPORTED


def test_an_iommu_group_is_the_last_part_of_its_place() -> None:
    assert pci.parse_group("sys/kernel/iommu_groups/17") == 17
    assert isinstance(pci.parse_group("sys/kernel/iommu_groups/x"), Absent)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (0, "Endpoint"),
        (1, "Legacy Endpoint"),
        (4, "Root Port"),
        (5, "Upstream Port"),
        (9, "Root Complex Integrated Endpoint"),
        (10, "Root Complex Event Collector"),
    ],
)
def test_a_configuration_space_written_by_hand_tells_its_port(kind: int, name: str) -> None:
    """Offsets and values of linux/pci_regs.h: status 0x06 bit 4, first capability 0x34, PCI Express 0x10, ACS 0x0d."""
    content = bytearray(512)
    content[0x06], content[0x34] = 0x10, 0x50
    content[0x50:0x54] = bytes([0x05, 0x60, 0x80, 0x00])  # message-signalled interrupts first, and the next at 0x60
    content[0x60:0x64] = bytes([0x10, 0x01, kind << 4 | 2, 0x00])
    content[0x100:0x104] = (0x140 << 20 | 1 << 16 | 0x01).to_bytes(4, "little")  # error reporting first
    content[0x140:0x148] = bytes([0x0D, 0x00, 0x01, 0x00, 0xFF, 0x00, 0x5D, 0x00])
    assert pci.parse_port_type(bytes(content)) == name
    acs = ("SrcValid+", "TransBlk-", "ReqRedir+", "CmpltRedir+", "UpstreamFwd+", "EgressCtrl-", "DirectTrans+")
    assert pci.parse_acs(bytes(content)) == acs
    content[0x06], content[0x34] = 0, 0x60  # no list of capabilities, whatever stands there
    assert pci.parse_port_type(bytes(content)) == Absent("no PCI Express capability")


@pytest.mark.parametrize(
    ("code", "a_card"),
    [("030000", True), ("010802", True), ("020000", True), ("120000", True), ("060400", False), ("0c0330", False)],
)
def test_displays_drives_networks_and_accelerators_are_cards(code: str, a_card: bool) -> None:
    assert pci.is_card(code) is a_card
