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
        (6, "Downstream Port"),
        (7, "PCI-Express to PCI/PCI-X Bridge"),
        (8, "PCI/PCI-X to PCI-Express Bridge"),
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


@pytest.mark.parametrize(
    ("code", "vendor", "kind"),
    [
        ("030000", "10de", "GPU"),
        ("030000", "1002", "GPU"),
        ("030000", "8086", "GPU"),
        ("030000", "1a03", "display"),  # of a server's management controller
        ("030200", "10de", "GPU"),
        ("030200", "1234", "GPU"),
        ("068000", "10de", "NVSwitch"),
        ("068000", "8086", "bridge"),
        ("060000", "8086", "host bridge"),
        ("060100", "8086", "ISA bridge"),
        ("060400", "8086", "bridge"),
        ("010802", "144d", "NVMe"),
        ("010601", "8086", "storage"),
        ("020000", "15b3", "NIC"),
        ("020700", "15b3", "NIC"),
        ("040300", "10de", "audio"),
        ("040100", "10de", "multimedia"),
        ("050000", "8086", "memory"),
        ("0c0330", "8086", "USB"),
        ("0c0500", "8086", "other"),
        ("120000", "1da3", "accelerator"),
        ("unknown", "10de", "other"),
    ],
)
def test_a_class_code_in_words(code: str, vendor: str, kind: str) -> None:
    assert pci.kind_of(code, vendor) == kind


def test_a_links_generation_is_that_of_its_speed() -> None:
    speeds = (2.5e9, 5e9, 8e9, 16e9, 32e9, 64e9, 128e9)
    assert [pci.link_generation(speed) for speed in speeds] == [1, 2, 3, 4, 5, 6, 7]
    assert pci.link_generation(7e9) == pci.link_generation(NOT_REPORTED) == NOT_REPORTED


def test_a_card_could_be_as_large_as_its_lowest_and_highest_bit() -> None:
    assert pci.parse_resize(f"{1 | 1 << 41:x}") == (1 << 20, 1 << 61)
    assert pci.parse_resize(f"{1 << 42:x}") == NOT_REPORTED
    assert pci.parse_resize(Absent("no such file")) == Absent("no such file")


def chain(*places: int, port_at: int = 0) -> bytes:
    """A configuration space with capabilities at these places in turn; at one of them PCI Express, a root port."""
    content = bytearray(256)
    content[0x06], content[0x34] = 0x10, places[0]
    for place, following in zip(places, (*places[1:], 0), strict=True):
        content[place & 0xFC : (place & 0xFC) + 4] = bytes([0x05, following, 0, 0])
    if port_at:
        content[port_at], content[port_at + 2 : port_at + 4] = 0x10, bytes([0x42, 0x01])  # of a slot, as a riser's
    return bytes(content)


def test_the_chain_of_capabilities_is_followed_to_its_end() -> None:
    longest = range(0x40, 0x100, 4)  # as many as there is room for
    assert pci.parse_port_type(chain(*longest, port_at=0xFC)) == "Root Port"
    assert pci.parse_port_type(chain(0x40, port_at=0x40)) == "Root Port"
    assert pci.parse_port_type(chain(0x53, 0x62, port_at=0x60)) == "Root Port"  # the two lowest bits are reserved
    nothing = Absent("no PCI Express capability")
    assert pci.parse_port_type(chain(0x40, 0x50, 0x40)) == nothing  # a ring
    assert pci.parse_port_type(chain(0x3C, port_at=0x3C)) == nothing  # the header itself
    odd = bytearray(chain(0x40, port_at=0x40))
    odd[0x42] = 0x32
    assert pci.parse_port_type(bytes(odd)) == Absent("unknown port type 3")


def extended(count: int, acs_at: int, low_bits: int = 0) -> bytes:
    """`count` extended capabilities, of which the `acs_at`-th has all of ACS but the first and the last bit."""
    content = bytearray(0x100 + 8 * count + 8)
    for number in range(1, count + 1):
        place, following = 0x100 + 8 * (number - 1), 0x100 + 8 * number if number < count else 0
        kind = 0x0D if number == acs_at else 0x01
        header = (following | low_bits) << 20 | 1 << 16 | kind
        content[place : place + 8] = header.to_bytes(4, "little") + bytes([0xFF, 0x00, 0x3E, 0x00])
    return bytes(content)


def test_the_chain_of_extended_capabilities_is_followed_for_48_of_them() -> None:
    on = ("SrcValid-", "TransBlk+", "ReqRedir+", "CmpltRedir+", "UpstreamFwd+", "EgressCtrl+", "DirectTrans-")
    assert pci.parse_acs(extended(1, 1)) == pci.parse_acs(extended(48, 48)) == pci.parse_acs(extended(3, 3, 3)) == on
    none = Absent("no ACS capability")
    assert pci.parse_acs(extended(1, 0)) == pci.parse_acs(extended(49, 49)) == none
    assert pci.parse_acs(bytes(257)) == none
    assert pci.parse_acs(bytes(256)) == Absent("not reported")


class Folder:
    """What a function's folder holds."""

    def __init__(self, config: bytes | Absent = NOT_REPORTED, there: str = "") -> None:
        self.config, self.there = config, there

    def read_bytes(self, path: str) -> bytes | Absent:
        assert path == "here/config"
        return self.config

    def exists(self, path: str) -> bool:
        return path == self.there


def test_more_than_64_bytes_are_read_by_root_alone() -> None:
    def told(config: bytes | Absent) -> object:
        return pci.configuration(Folder(config), "here")  # type: ignore[arg-type]

    assert told(bytes(64)) == Absent("only root may read it")
    assert told(bytes(65)) == (Absent("no PCI Express capability"), Absent("not reported"))
    assert told(Absent("gone")) == Absent("gone")


def test_a_recorded_configuration_is_written_as_the_kernel_would_show_it() -> None:
    """By linux/pci_regs.h: the lists' heads, a root port of version 2, ACS of version 1 and its control."""
    whole = pci.compose_configuration("Root Port", ("SrcValid+", "TransBlk-", "ReqRedir+", "DirectTrans+"))
    written = {place: byte for place, byte in enumerate(whole) if byte}
    assert written == {0x06: 0x10, 0x34: 0x40, 0x40: 0x10, 0x42: 0x42, 0x100: 0x0D, 0x102: 0x01, 0x106: 0x45}
    assert len(whole) == 512
    short = pci.compose_configuration("Endpoint", None)
    assert {place: byte for place, byte in enumerate(short) if byte} == {0x06: 0x10, 0x34: 0x40, 0x40: 0x10, 0x42: 0x02}
    assert len(short) == 256
    assert pci.compose_configuration(None, ()) == bytes(512)


def test_cards_that_can_reach_a_gpus_memory_are_infiniband_mellanoxs_and_those_with_verbs() -> None:
    def reaches(kind: str = "NIC", class_code: str = "020000", vendor: str = "8086", there: str = "") -> bool:
        blank = dict.fromkeys(PciDevice.__struct_fields__, NOT_REPORTED)
        facts = {"bus_id": "0000:01:00.0", "kind": kind, "class_code": class_code, "vendor_id": vendor}
        found = pci.rdma_nics(Folder(there=there), [PciDevice(**(blank | facts))])  # type: ignore[arg-type]
        return found == ("0000:01:00.0",)

    verbs = "sys/bus/pci/devices/0000:01:00.0/infiniband"
    assert [reaches(class_code="020700"), reaches(vendor="15b3"), reaches(there=verbs)] == [True] * 3
    assert [reaches(), reaches("bridge", vendor="15b3"), reaches("NVMe", there=verbs)] == [False] * 3


def test_a_ring_of_parents_ends() -> None:
    first, second = "0000:01:00.0", "0000:02:00.0"
    blank = dict.fromkeys(PciDevice.__struct_fields__, NOT_REPORTED)
    tree = {
        place: PciDevice(**(blank | {"bus_id": place, "parent": parent}))  # type: ignore[arg-type]
        for place, parent in ((first, second), (second, first))
    }
    assert pci.path_to(tree, first) == [second, first]
    assert pci.path_to(tree, "0000:ff:00.0") == ["0000:ff:00.0"]


def test_an_identifier_is_four_to_six_hexadecimal_digits() -> None:
    assert [pci._hex(text) for text in ("0x10de", "0x15B3", "0x030000")] == ["10de", "15b3", "030000"]
    assert {pci._hex(text) for text in ("10de", "0x1", "0xwxyz", "", NOT_REPORTED)} == {"unknown"}
