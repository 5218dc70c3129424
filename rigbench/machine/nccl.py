"""Which way will NCCL take between two GPUs by default, why, and what changes it? A prediction from NCCL's own rules.

paths.cc, ncclTopoCheckP2p (2.19 to 2.30): P2P up to level PXB; up to SYS on AMD processors with at most two GPUs; where
the driver's P2P status for reads or writes is not OK, none. Otherwise shared memory of the host.
"""

from __future__ import annotations

from rigbench.core.record import Absent
from rigbench.machine.record import NcclChoice

LEVELS = ("PIX", "PXB", "PHB", "NODE", "SYS")
DEFAULT_LEVEL = "PXB"
AMD_VENDOR = "AuthenticAMD"
AMD_GPUS_AT_MOST = 2
OK = 0


def choice(
    label: str,
    read_code: int | Absent,
    write_code: int | Absent,
    gpus: int,
    cpu_vendor: str | Absent,
) -> NcclChoice | Absent:
    """`label` is the pair's cell of the matrix, `gpus` how many take part."""
    if label.startswith("NV"):
        off = "NCCL_P2P_DISABLE=1 turns it off"
        return NcclChoice("P2P over NVLink", f"{label[2:]} active NVLinks join them", off)
    if label not in LEVELS:
        return Absent("what lies between them is not known")
    codes = [code for code in (read_code, write_code) if isinstance(code, int)]
    if any(code != OK for code in codes):
        cure = Absent("no variable changes that while the driver refuses P2P")
        return NcclChoice("shared memory (SHM)", "the driver refuses P2P between them", cure)
    if gpus <= AMD_GPUS_AT_MOST and isinstance(cpu_vendor, Absent) and LEVELS.index(label) > 1:
        return Absent("it depends on the CPU's vendor, which is not known")
    if_allowed = "" if codes else ", if the driver allows it"
    amd_pair = gpus <= AMD_GPUS_AT_MOST and cpu_vendor == AMD_VENDOR
    if LEVELS.index(label) <= LEVELS.index("SYS" if amd_pair else DEFAULT_LEVEL):
        on_amd = "an AMD CPU with at most two GPUs allows any distance"
        why = on_amd if amd_pair else f"{label} is within PXB, the default limit"
        return NcclChoice(f"P2P over PCIe{if_allowed}", why, "NCCL_P2P_DISABLE=1 turns it off")
    change = f"NCCL_P2P_LEVEL={level(label)} allows P2P{if_allowed}; measure both"
    return NcclChoice("shared memory (SHM)", f"{label} is farther than PXB, the default limit for P2P", change)


def level(label: str) -> str:
    """What NCCL_P2P_LEVEL must be for P2P over a label beyond the default limit."""
    return "PHB" if label in ("PHB", "NODE") else "SYS"  # NCCL counts a NUMA node's host bridges as one
