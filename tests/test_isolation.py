"""Are the IOMMU's mode and the ACS bits read right, with root's eyes and without?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigbench.core.record import Absent
from rigbench.machine import host, pci, peers
from rigbench.machine.record import Isolation
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import RecordedSysfs, Sysfs

OFF = tuple(f"{name}-" for name in pci.ACS_BITS)
REDIRECTING = tuple(f"{name}{'+' if name in ('SrcValid', 'ReqRedir') else '-'}" for name in pci.ACS_BITS)
GROUPS = peers.GROUPS


@pytest.mark.parametrize("port_type", [*pci.PORT_TYPES.values()])
@pytest.mark.parametrize("acs", [OFF, REDIRECTING])
def test_a_composed_configuration_space_reads_back(port_type: str, acs: tuple[str, ...]) -> None:
    content = pci.compose_configuration(port_type, acs)
    assert (pci.parse_port_type(content), pci.parse_acs(content)) == (port_type, acs)


def test_what_was_not_recorded_is_not_read_back_as_off() -> None:
    assert pci.parse_acs(pci.compose_configuration("Root Port", None)) == Absent("not reported")
    assert pci.parse_port_type(pci.compose_configuration(None, OFF)) == Absent("no PCI Express capability")


def test_without_root_the_configuration_space_is_too_short(tmp_path: Path) -> None:
    (tmp_path / "config").write_bytes(bytes(64))
    assert pci.configuration(Sysfs(tmp_path), "") == Absent("only root may read it")


@given(st.binary(max_size=600))
def test_no_configuration_space_breaks_the_reader(content: bytes) -> None:
    pci.parse_port_type(content)
    pci.parse_acs(content)


def test_a_ring_of_capabilities_ends() -> None:
    content = bytearray(512)
    content[0x06], content[0x34], content[0x40:0x42] = 0x10, 0x40, bytes([0x01, 0x40])
    content[0x100:0x104] = (0x100 << 20 | 1).to_bytes(4, "little")
    assert pci.parse_port_type(bytes(content)) == Absent("no PCI Express capability")
    assert pci.parse_acs(bytes(content)) == Absent("no ACS capability")


def switched(acs: tuple[str, ...] | None, groups: tuple[int, int] | None) -> dict[str, dict[str, Any]]:
    """Two GPUs below one switch."""
    port: dict[str, Any] = {"root": "pci0000:00", "class": "0x060400"} | ({"acs": acs} if acs else {})
    gpu = {"root": "pci0000:00", "class": "0x030000", "vendor": "0x10de"}
    functions = {
        "0000:00:01.0": port | {"port_type": "Root Port"},
        "0000:01:00.0": {"root": "pci0000:00", "class": "0x060400", "parent": "0000:00:01.0"},
        "0000:02:00.0": port | {"parent": "0000:01:00.0"},
        "0000:02:01.0": port | {"parent": "0000:01:00.0"},
        "0000:03:00.0": gpu | {"parent": "0000:02:00.0"},
        "0000:04:00.0": gpu | {"parent": "0000:02:01.0"},
    }
    for bus_id, group in zip(("0000:03:00.0", "0000:04:00.0"), groups or (), strict=False):
        functions[bus_id]["iommu_group"] = group
    return functions


def found(tmp_path: Path, functions: dict[str, Any], **host: Any) -> Isolation:
    (tmp_path / "pci.json").write_text(json.dumps(functions))
    (tmp_path / "rig.json").write_text(json.dumps({"rigbench_capture": 1, **host}))
    sysfs = Rig.replay(tmp_path).sysfs
    devices = pci.devices(sysfs)
    assert isinstance(devices, tuple)
    tree = {device.bus_id: device for device in devices}
    return peers.isolation(sysfs, tree, ["0000:03:00.0", "0000:04:00.0"])


def test_redirecting_ports_above_gpus_are_named(tmp_path: Path) -> None:
    answer = found(tmp_path, switched(REDIRECTING, None))
    assert answer.acs_redirecting == ("0000:00:01.0", "0000:02:00.0", "0000:02:01.0")
    harmless = ("SrcValid+", *OFF[1:])
    assert found(tmp_path, switched(harmless, None)).acs_redirecting == ()
    assert found(tmp_path, switched(harmless, None)).acs_readable == 3
    assert isinstance(found(tmp_path, switched(None, None)).acs_redirecting, Absent)


def test_groups_tell_without_root_that_acs_isolates(tmp_path: Path) -> None:
    assert found(tmp_path, switched(None, (17, 18)), iommu="DMA").acs_separated == (("0000:03:00.0", "0000:04:00.0"),)
    assert found(tmp_path, switched(None, (17, 17)), iommu="DMA").acs_separated == ()


@pytest.mark.parametrize(
    ("recorded", "mode"),
    [
        ("DMA", "translating"),
        ("DMA-FQ", "translating"),
        ("identity", "passthrough"),
        ("off", "off"),
        (None, Absent("not recorded")),
    ],
)
def test_the_iommus_mode_comes_back_from_a_recording(tmp_path: Path, recorded: str | None, mode: str | Absent) -> None:
    assert found(tmp_path, switched(None, None), iommu=recorded).iommu == mode


def test_the_gpus_own_groups_decide(tmp_path: Path) -> None:
    files = {f"{GROUPS}/1/type": "DMA", f"{GROUPS}/2/type": "identity", f"{GROUPS}/3/type": "identity"}
    sysfs = RecordedSysfs(files, {})
    assert peers.iommu_type(sysfs, [2, 3]) == "identity"
    assert peers.iommu_type(sysfs, [1, 2]) == "DMA"
    assert peers.iommu_type(sysfs, [Absent("none")]) == "DMA"
    assert peers.iommu_type(RecordedSysfs({}, {}, [GROUPS]), []) == "off"


def test_only_words_about_pci_are_kept_of_the_kernels_command_line() -> None:
    line = "BOOT_IMAGE=/vmlinuz root=UUID=1234 intel_iommu=on iommu=pt user=jane pci=realloc"
    assert peers.kernel_words(RecordedSysfs({"proc/cmdline": line}, {})) == (
        "intel_iommu=on",
        "iommu=pt",
        "pci=realloc",
    )


def test_the_drivers_flavour_and_its_orders() -> None:
    opened = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  595.71.05  Release Build"
    closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07"
    assert (host.parse_flavour(opened), host.parse_flavour(closed)) == ("open", "closed")
    assert isinstance(host.parse_flavour("?"), Absent)
    params = 'ResmanDebugLevel: 4294967295\nRegistryDwords: "ForceP2P=17"\nOther: 1'
    assert host.driver_overrides(RecordedSysfs({"proc/driver/nvidia/params": params}, {})) == "ForceP2P=17"
    nothing = RecordedSysfs({"proc/driver/nvidia/params": 'RegistryDwords: ""'}, {})
    assert host.driver_overrides(nothing) == Absent("none")


def test_what_a_capture_keeps_of_the_driver_comes_back(tmp_path: Path) -> None:
    driver = {"driver": "595.71.05", "driver_flavour": "closed", "driver_overrides": "ForceP2P=17"}
    (tmp_path / "rig.json").write_text(json.dumps(driver | {"cmdline": "iommu=pt"}))
    sysfs = Rig.replay(tmp_path).sysfs
    assert (host.driver_flavour(sysfs), host.driver_overrides(sysfs)) == ("closed", "ForceP2P=17")
    assert peers.kernel_words(sysfs) == ("iommu=pt",)
