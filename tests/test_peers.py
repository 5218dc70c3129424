"""Are a pair's P2P codes, what bears on them, and NCCL's default path told right?"""

from __future__ import annotations

from pathlib import Path

import pytest

from rigbench.core.record import Absent
from rigbench.machine import peers
from rigbench.machine.nvml import Nvml
from rigbench.machine.record import Isolation, NcclChoice
from rigbench.machine.replay import ReplayedDriver, parse_recording

RIGS = Path(__file__).parent / "rigs"
UNKNOWN = Absent("not supported")


@pytest.mark.parametrize(
    ("label", "code", "gpus", "vendor", "transport", "change"),
    [
        ("NV4", 0, 2, "GenuineIntel", "P2P over NVLink", "NCCL_P2P_DISABLE=1"),
        ("PIX", 0, 8, "GenuineIntel", "P2P over PCIe", "NCCL_P2P_DISABLE=1"),
        ("PXB", 0, 8, "AuthenticAMD", "P2P over PCIe", "NCCL_P2P_DISABLE=1"),
        ("PHB", 0, 2, "GenuineIntel", "shared memory (SHM)", "NCCL_P2P_LEVEL=PHB"),
        ("PHB", 0, 4, "AuthenticAMD", "shared memory (SHM)", "NCCL_P2P_LEVEL=PHB"),
        ("NODE", 0, 4, "AuthenticAMD", "shared memory (SHM)", "NCCL_P2P_LEVEL=PHB"),
        ("SYS", 0, 4, "AuthenticAMD", "shared memory (SHM)", "NCCL_P2P_LEVEL=SYS"),
        ("SYS", 0, 2, "AuthenticAMD", "P2P over PCIe", "NCCL_P2P_DISABLE=1"),
        ("PHB", 1, 2, "AuthenticAMD", "shared memory (SHM)", None),
        ("PIX", 5, 2, "GenuineIntel", "shared memory (SHM)", None),
    ],
)
def test_the_path_that_nccl_takes_by_default(
    label: str, code: int, gpus: int, vendor: str, transport: str, change: str | None
) -> None:
    choice = peers.nccl_choice(label, code, code, gpus, vendor)
    assert isinstance(choice, NcclChoice)
    assert (choice.transport, choice.source) == (transport, "predicted")
    assert isinstance(choice.change, Absent) if change is None else change in str(choice.change)


def test_a_prediction_without_its_facts_is_conditional_or_absent() -> None:
    unasked = peers.nccl_choice("PIX", UNKNOWN, UNKNOWN, 8, UNKNOWN)
    assert isinstance(unasked, NcclChoice)
    assert unasked.transport == "P2P over PCIe, if the driver allows it"
    assert isinstance(peers.nccl_choice("PHB", 0, 0, 2, UNKNOWN), Absent)
    assert isinstance(peers.nccl_choice("n/a", 0, 0, 2, "AuthenticAMD"), Absent)


def test_the_direction_that_is_refused_decides() -> None:
    text = (RIGS / "dual-rtx4080s-x8x8" / "nvml.txt").read_text() + "0 nvmlDeviceGetP2PStatus/1/0 = 0 0\n"
    nvml = Nvml(ReplayedDriver(parse_recording(text)))
    assert peers.worse(nvml, 0, 1, peers.READ) == 1
    lost = Nvml(ReplayedDriver(parse_recording(text + "1 nvmlDeviceGetHandleByIndex_v2 = 15\n")))
    assert peers.worse(lost, 0, 1, peers.READ) == Absent("GPU is lost")


def test_facts_stand_beside_a_code() -> None:
    nvml = Nvml.replay(RIGS / "dual-rtx4080s-x8x8" / "nvml.txt")
    one, other = nvml.gpu(0), nvml.gpu(1)
    facts = peers.pair_facts(one, other, 1, 1)
    assert facts[0].startswith("code 1 was seen where the chipset is not in the driver's table")
    assert facts[1:] == [
        "cards of one kind: NVIDIA GeForce RTX 4080 SUPER",
        "BAR1 covers the memory of both (ReBAR on)",
    ]
    apart = Isolation("translating", "DMA-FQ", ("0000:00:01.0",), 1, (("a", "b"),), ())
    assert peers.rig_facts("Xeon", apart, "open", "ForceP2P=17", "KVM") == [
        "CPU: Xeon",
        "IOMMU: translating (DMA-FQ)",
        "ACS redirects peer traffic at 0000:00:01.0",
        "ACS isolates GPUs below one switch: their IOMMU groups differ",
        "driver: the open kernel module",
        "driver registry settings: ForceP2P=17",
        "a virtual machine, which decides this itself",
    ]
