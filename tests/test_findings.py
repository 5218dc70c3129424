"""Does doctor tell what a rig's record shows, with its numbers, and nothing of a healthy one?"""

from __future__ import annotations

import functools
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from rich.console import Console

from rigbench import __main__
from rigbench.core import profiles
from rigbench.core.errors import RigbenchError
from rigbench.core.finding import Cost, Finding, explanation, explanations
from rigbench.core.record import Absent
from rigbench.doctor import diagnosis
from rigbench.doctor import screen as render
from rigbench.document import Run, run_schema
from rigbench.machine import kernel_log
from rigbench.machine.readings import REASONS
from rigbench.machine.record import Gpu, GpuProcess, MigDevice, NumaNode, PciDevice, PciHop, RigId, Software
from rigbench.machine.rig import Rig
from rigbench.topology import survey as probe
from rigbench.topology.record import Topology
from rigbench.topology.verdict import WORST_FIRST, diagnose, unchecked

RIGS = Path(__file__).parent / "rigs"
DUAL = "dual-rtx4080s-x8x8"
REPLACE = msgspec.structs.replace
MEASURED = {"p2p-broken", "p2p-control-fails", "p2p-slower", "nccl-default-slower"}  # by arms: test_p2p_verdict.py
MEASURED |= {"loss-not-finite", "data-bound", "communication-bound", "launch-bound"}  # by training: test_arms.py
# By results of one run against each other: test_contradictions.py.
MEASURED |= {"step-against-products", "efficiency-falls", "memory-against-caches", "repeats-apart"}
MEASURED |= {"above-its-ceiling", "measured-twice"}
# By measurements of one room: test_doctor_rooms.py.
MEASURED |= {"matmul-wrong", "matmul-low", "copies-wrong", "bandwidth-low", "collectives-wrong", "odd-host"}
MEASURED |= {"power-bound", "search-missed"}  # by products and their clock: test_matmul_clock.py
MEASURED |= {"power-steps"}  # by power steps: test_power_steps.py
MEASURED |= {"loader-too-slow", "micro-batch-small", "not-compiled"}
MEASURED |= {"odd-link", "switch-without-p2p", "tunnelled-link", "unified-memory"}  # whole rigs: test_doctor.py
MEASURED |= {"power-cap-low", "odd-card"}  # by readings under load: test_doctor.py
# By a log of NCCL: tests/wild/test_nccl_logs.py.
MEASURED |= {"nccl-chose", "nccl-setting", "nccl-no-p2p", "nccl-socket", "nccl-shared-memory"}
MEASURED |= {"logits-dominate", "eight-bit-saves-little", "checkpointing-trades", "compile-pays"}

# Every recording's exact findings, and the facts in it that justify them; none may hold a warning.
DUAL_4080 = {
    "p2p-refused": "information",  # status 1 both ways between GeForce cards: the driver's policy, not the rig's fault
    "pcie-slot": "information",  # root ports of 8 lanes above cards of 16; both run at what the port has
    "persistence-off": "information",  # persistence mode 0, and neither card drives a display
}
EXPECTED: dict[str, dict[str, str]] = {
    "wsl2-rtx2080ti": {"virtual-machine": "information"},
    DUAL: DUAL_4080,
    "dual-rtx4080s-throttling": DUAL_4080,  # at rest when it is read; its heat comes later in the sequence
    "epyc7502-4x4090": {},  # the tree and names alone: nothing else was recorded
    # Persistence 0, display 0. BAR1 is 256 MiB of 8 GiB, but a card of that generation cannot have more.
    "geforce-rtx-2080-super-driver-610.57.04": {"persistence-off": "information"},
    # Persistence 0, but the display keeps the driver open; gen 1 now is rest, gen 4 under load.
    "geforce-rtx-4080-super-driver-595.71.05": {},
    "h100-80gb-hbm3-driver-590.48.01": {"pcie-replays": "information"},  # 9 of them
    "h200-driver-590.48.01": {},
    "stelline-puget-wrx90": {},  # gen 1 now and no reading under load: open, not a finding
    "wrx90-2switch-flat": {},  # as the EPYC
}


@functools.cache
def recorded(name: str = DUAL) -> Topology:
    return probe.run(Rig.replay(RIGS / name), profiles.match_gpu)


def with_gpu(topology: Topology, index: int = 0, **facts: Any) -> Topology:
    gpus = [REPLACE(gpu, **facts) if gpu.index == index else gpu for gpu in topology.gpus]
    return REPLACE(topology, gpus=tuple(gpus))


def with_pair(topology: Topology, **facts: Any) -> Topology:
    return REPLACE(topology, pairs=tuple(REPLACE(pair, **facts) for pair in topology.pairs))


def allowed(topology: Topology) -> Topology:
    return with_pair(topology, read_code=0, write_code=0)


def with_path(topology: Topology, index: int = 0, **facts: Any) -> Topology:
    paths = list(topology.paths)
    paths[index] = REPLACE(paths[index], **facts)
    return REPLACE(topology, paths=tuple(paths))


def with_hop(topology: Topology, index: int = 0, **facts: Any) -> Topology:
    return with_path(topology, index, hops=tuple(REPLACE(hop, **facts) for hop in topology.paths[index].hops))


def with_isolation(topology: Topology, **facts: Any) -> Topology:
    return REPLACE(topology, isolation=REPLACE(topology.isolation, **facts))


def on_nodes(topology: Topology, *memory: int | Absent) -> Topology:
    nodes = tuple(NumaNode(number, f"{number}", size) for number, size in enumerate(memory))
    gpus = tuple(REPLACE(gpu, numa_node=gpu.index) for gpu in topology.gpus)
    return REPLACE(topology, numa_nodes=nodes, gpus=gpus)


def below_a_switch(topology: Topology) -> Topology:
    """Both cards behind one uplink of 31.5 GB/s at best; their own links made as wide."""
    for index in (0, 1):
        own = REPLACE(topology.paths[index].hops[0], width_now_lanes=16, width_best_lanes=16, best_bytes_per_s=31.5e9)
        up: PciHop = REPLACE(own, port="0000:00:01.0", device="0000:01:00.0", best_bytes_per_s=31.5e9, limits=())
        facts = {"best_bytes_per_s": 31.5e9, "narrowest": up.device, "shared_with": (f"GPU{1 - index}",)}
        topology = with_path(topology, index, hops=(up, REPLACE(own, device=f"0000:0{index + 2}:00.0")), **facts)
    return topology


def without_driver(topology: Topology, reason: str) -> Topology:
    blank: dict[str, Any] = dict.fromkeys(Gpu.__struct_fields__, Absent("no driver"))
    gpus = [Gpu(**blank | {"index": gpu.index, "pci_bus_id": gpu.pci_bus_id}) for gpu in topology.gpus]
    return REPLACE(topology, gpus=tuple(gpus), driver_gpus=Absent(reason), pairs=())


def with_card_on_the_bus(topology: Topology) -> Topology:
    card = next(device for device in topology.pci if device.kind == "GPU")
    extra: PciDevice = REPLACE(card, bus_id="0000:09:00.0")
    return REPLACE(topology, pci=(*topology.pci, extra))


def all_absent(topology: Topology, reason: str) -> Topology:
    return with_gpu(topology, **{name: Absent(reason) for name in Gpu.__struct_fields__ if name != "index"})


def with_log(topology: Topology, name: str) -> Topology:
    lines = (Path(__file__).parent / "kernel" / name).read_text().splitlines()
    return REPLACE(topology, kernel_events=kernel_log.merged(kernel_log.events(lines)))


def in_parts(topology: Topology, *parts: MigDevice) -> Topology:
    return with_gpu(topology, mig_enabled=True, mig_devices=parts)


PART = MigDevice(0, "MIG-1", "NVIDIA H100 MIG 1g.10gb", 10 << 30)
TRAINING = GpuProcess(4242, "compute", "python", 4 << 30)
ROOT_PORTS = ("0000:00:01.0", "0000:00:01.1")
NARROW = {"width_now_lanes": 4, "width_best_lanes": 8}
# code, severity, what was changed in the record of a healthy pair of cards, words that the evidence must hold
ALTERED: list[tuple[str, str, Callable[[Topology], Topology], str]] = [
    ("no-driver", "fault", lambda rig: without_driver(rig, "kernel module is not loaded"), "kernel module is not"),
    ("gpu-lost", "fault", lambda rig: all_absent(rig, "GPU is lost"), "GPU is lost (15)"),
    ("gpu-lost", "fault", lambda rig: with_gpu(rig, power_watts=Absent("GPU is lost")), "GPU is lost (15)"),
    ("gpu-unreadable", "fault", lambda rig: all_absent(rig, "external power cable not attached"), "power cable"),
    ("gpu-unreadable", "fault", lambda rig: all_absent(rig, "unknown driver error"), "unknown driver error"),
    ("gpu-unreadable", "fault", lambda rig: with_gpu(rig, fan_share=Absent("GPU needs a reset")), "needs a reset"),
    ("ecc-uncorrected", "fault", lambda rig: with_gpu(rig, ecc_uncorrected_errors_since_load=2), "2 uncorrected"),
    ("row-remap-failed", "fault", lambda rig: with_gpu(rig, row_remap_failed=True), "remap failed"),
    ("row-remap-pending", "warning", lambda rig: with_gpu(rig, row_remap_pending=True), "remap is pending"),
    ("memory-errors", "information", lambda rig: with_gpu(rig, remapped_rows_corrected=3), "3 rows remapped"),
    ("memory-errors", "information", lambda rig: with_gpu(rig, ecc_corrected_errors=7), "7 corrected ECC errors"),
    ("pcie-width", "warning", lambda rig: with_hop(rig, **NARROW), "x4 of x8 lanes between 0000:00:01.0"),
    ("pcie-width", "warning", lambda rig: with_hop(rig, 2, width_now_lanes=2), "x2 of x4 lanes"),
    ("pcie-width", "information", lambda rig: with_hop(rig, width_best_lanes=16), "GPU1 hangs on the same slot"),
    ("pcie-generation", "warning", lambda rig: with_hop(rig, generation_awake=3), "gen 3 while it copied, gen 4"),
    ("pcie-generation", "information", lambda rig: with_hop(rig, 2, generation_awake=3), "gen 3 now, gen 4 possible"),
    ("chipset-lanes", "warning", lambda rig: with_path(rig, chipset="AMD chipset (switch 1)"), "AMD chipset"),
    ("shared-uplink", "information", below_a_switch, "31.5 GB/s between 0000:00:01.0 and 0000:01:00.0, shared by 2"),
    ("pcie-slot", "information", lambda rig: rig, "0000:00:01.0 is x8, the card below it x16"),
    ("iommu-translating", "warning", allowed, "IOMMU groups of type DMA-FQ"),
    ("acs-redirect", "warning", lambda rig: with_isolation(allowed(rig), acs_redirecting=ROOT_PORTS), "0000:00:01.1"),
    ("acs-redirect", "information", lambda rig: with_isolation(rig, acs_redirecting=ROOT_PORTS), "redirect bits set"),
    ("acs-redirect", "information", lambda rig: with_isolation(rig, acs_separated=(ROOT_PORTS,)), "different groups"),
    ("p2p-refused", "information", lambda rig: rig, "reads with code 1"),
    ("p2p-refused", "warning", lambda rig: with_pair(rig, read_code=4), "reads with code 4"),
    ("p2p-refused", "warning", lambda rig: with_gpu(with_gpu(rig, name="RTX A6000"), 1, name="RTX A6000"), "code 1"),
    ("rebar-off", "warning", lambda rig: with_gpu(allowed(rig), bar1_covers_memory=False), "of 16 GiB"),
    ("rebar-off", "information", lambda rig: with_gpu(rig, bar1_covers_memory=False), "of 16 GiB"),
    ("numa-split", "information", lambda rig: on_nodes(rig, 1 << 36, 1 << 36), "GPU1 on node 1"),
    ("numa-far", "warning", lambda rig: on_nodes(rig, 1 << 36, 0), "node 1 has no memory"),
    ("near-slowdown", "warning", lambda rig: with_gpu(rig, temperature_celsius=92.0), "92 °C, slows down at 96"),
    ("throttled", "warning", lambda rig: with_gpu(rig, throttle_bits=0x24), "software thermal slowdown (0x20)"),
    ("power-limit", "warning", lambda rig: with_gpu(rig, power_limit_watts=200.0), "limit 200 W, 62 % of the default"),
    ("gpu-in-use", "warning", lambda rig: with_gpu(rig, processes=(TRAINING,)), "compute process 4242 (python), 4 GiB"),
    ("mig-on", "warning", lambda rig: in_parts(rig, PART), "MIG mode is on; its parts: NVIDIA H100 MIG 1g.10gb"),
    ("mig-on", "warning", lambda rig: in_parts(rig), "no part is made"),
    ("mig-on", "warning", lambda rig: with_gpu(rig, mig_enabled=True, mig_devices=Absent("no permission")), "n/a (no"),
    ("mixed-gpus", "information", lambda rig: with_gpu(rig, name="RTX 3090", pci_device_id="2204"), "GPU0: RTX 3090"),
    ("pcie-replays", "information", lambda rig: with_gpu(rig, pcie_replays=12), "12 replays"),
    ("persistence-off", "information", lambda rig: rig, "persistence mode is off"),
    ("matrix-differs", "information", lambda rig: with_pair(rig, driver_label="SYS"), "PHB in the PCI tree, SYS"),
    ("gpu-not-listed", "information", with_card_on_the_bus, "the driver lists 2, the PCI tree holds 3"),
    ("kernel-gpu", "fault", lambda rig: with_log(rig, "gpu_falls_off.txt"), "the card fell off the bus (Xid 79)"),
    ("kernel-pcie", "warning", lambda rig: with_log(rig, "riser_new_words.txt"), "PCIe errors that the link mended"),
    (
        "kernel-host",
        "warning",
        lambda rig: with_log(rig, "host.json"),
        "the CPU was too hot, and slowed down (CPU), once",
    ),
    ("kernel-oom", "warning", lambda rig: with_log(rig, "host.json"), "for want of memory, once, on 2026-11-28 at 22:"),
    ("kernel-disk", "fault", lambda rig: with_log(rig, "host.json"), "a disk could not be read or written (nvme1)"),
    ("virtual-machine", "information", lambda rig: REPLACE(rig, virtual_machine="QEMU"), "it runs on: QEMU"),
]


def codes(found: tuple[Finding, ...]) -> dict[str, str]:
    return {finding.code: finding.severity for finding in found}


def named(found: tuple[Finding, ...], code: str) -> Finding:
    return next(finding for finding in found if finding.code == code)


def test_every_recording_here_has_its_expectation() -> None:
    assert set(EXPECTED) <= {path.name for path in RIGS.iterdir()}


@pytest.mark.parametrize("name", sorted(path.name for path in RIGS.iterdir() if (path / "rig.json").exists()))
def test_a_recorded_rig_has_exactly_the_findings_that_its_facts_justify(name: str) -> None:
    assert codes(diagnose(recorded(name))) == EXPECTED[name]


@pytest.mark.parametrize(
    ("code", "severity", "alter", "words"), ALTERED, ids=[f"{row[0]}-{i}" for i, row in enumerate(ALTERED)]
)
def test_one_changed_fact_is_one_finding_with_that_fact_in_its_evidence(
    code: str, severity: str, alter: Callable[[Topology], Topology], words: str
) -> None:
    found = named(diagnose(alter(recorded())), code)
    assert found.severity == severity
    assert any(words in sentence for sentence in found.evidence), found.evidence
    assert found.cure
    assert isinstance(found.cost, Cost) or found.cost.reason


def test_every_code_has_a_test_and_an_explanation_with_sources() -> None:
    assert {row[0] for row in ALTERED} | MEASURED == set(explanations())
    assert all(about.sources and about.means and about.costs and about.cure for about in explanations().values())
    by_code: dict[str, set[str]] = {}
    for code, severity, _, _ in ALTERED:
        by_code.setdefault(code, set()).add(severity)
    for code, severities in by_code.items():
        assert all(severity in explanation(code).severity for severity in severities), code


HEALTHY: dict[str, Callable[[Topology], Topology]] = {
    "a link at rest": lambda rig: with_gpu(
        with_hop(rig, generation_awake=Absent("idle")), link_generation_awake=Absent("not read under load")
    ),
    "a link whose only low reading was taken at rest": lambda rig: with_gpu(
        with_hop(rig, generation_awake=1), link_generation_awake=Absent("the load left it in P8")
    ),
    "an ordinary power cap": lambda rig: with_gpu(rig, throttle_bits=0x4 | 0x1),
    "a desktop on the card": lambda rig: with_gpu(rig, processes=(GpuProcess(1, "graphics", "Xorg", 1 << 28),)),
    "warm, and far from its limit": lambda rig: with_gpu(rig, temperature_celsius=84.0),
    "NVLink beside a translating IOMMU": lambda rig: with_pair(allowed(rig), label="NV4", driver_label="SYS"),
    "a code that the driver does not know": lambda rig: with_pair(rig, read_code=6, write_code=6),
    "a card that cannot resize its window": lambda rig: with_gpu(
        rig, bar1_covers_memory=False, compute_capability="7.5"
    ),
    "a recording without a driver": lambda rig: without_driver(rig, "the recording has no nvml.txt"),
    "ACS that redirects nothing": lambda rig: with_isolation(rig, acs_redirecting=(), acs_readable=2),
    "a chipset whose port claims more lanes than are wired": lambda rig: with_path(
        rig,
        2,
        chipset="AMD chipset (switch 0000:02:00.0)",
        hops=(REPLACE(rig.paths[2].hops[0], device="0000:02:00.0", width_best_lanes=8), *rig.paths[2].hops),
    ),
    "one node": lambda rig: on_nodes(rig, 1 << 36),
    "a driver that refuses to name a card": lambda rig: all_absent(rig, "no permission"),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_no_false_alarm(name: str) -> None:
    found = codes(diagnose(HEALTHY[name](recorded())))
    assert found.items() <= DUAL_4080.items()


def test_links_of_a_virtual_machine_are_not_judged() -> None:
    rig = with_isolation(with_hop(recorded(), **NARROW), acs_redirecting=ROOT_PORTS)
    guest = REPLACE(with_gpu(rig, bar1_covers_memory=False), virtual_machine="QEMU")
    assert codes(diagnose(guest)) == {
        "virtual-machine": "information",
        "p2p-refused": "information",
        "persistence-off": "information",
    }
    assert [item.what for item in unchecked(guest) if "virtual machine" in item.reason] == ["links", "ReBAR", "ACS"]


def test_what_a_narrow_link_costs_is_told_with_both_figures() -> None:
    found = named(diagnose(with_hop(recorded(), **NARROW)), "pcie-width")
    assert isinstance(found.cost, Cost)
    assert found.cost.sentence == "7.88 GB/s each way in theory, instead of 15.8 GB/s"
    assert (found.cost.now.value, found.cost.possible.value) == pytest.approx((15.754e9 / 2, 15.754e9), rel=1e-4)
    assert found.where == ("GPU0",)


def test_what_a_part_of_a_card_is_of_the_whole_is_told_with_both_figures() -> None:
    small = REPLACE(PART, index=1, memory_total_bytes=5 << 30)
    found = named(diagnose(in_parts(recorded(), small, PART)), "mig-on")
    assert isinstance(found.cost, Cost)
    assert (found.cost.sentence, found.cost.unit) == ("10 GiB of 16 GiB for a process", "bytes")
    assert (found.where, found.commands[-1]) == (("GPU0",), "sudo nvidia-smi -i 0 -mig 0")
    assert "-dci" in found.commands[0]
    none = named(diagnose(in_parts(recorded())), "mig-on")
    assert isinstance(none.cost, Absent)
    assert none.commands == ("sudo nvidia-smi -i 0 -mig 0",)


def test_a_shared_uplink_costs_each_card_its_share() -> None:
    found = [item for item in diagnose(below_a_switch(recorded())) if item.code == "shared-uplink"]
    assert [item.where for item in found] == [("GPU0", "GPU1")]
    assert isinstance(found[0].cost, Cost)
    assert found[0].cost.sentence == "15.8 GB/s each way in theory when all 2 copy at once, instead of 31.5 GB/s"


def test_cards_with_margins_instead_of_degrees_are_judged_by_them() -> None:
    blind = with_gpu(recorded(), slowdown_celsius=Absent("not supported"), slowdown_at_margin_celsius=-2.0)
    assert "near-slowdown" in codes(diagnose(with_gpu(blind, margin_celsius=2.0)))
    assert "near-slowdown" not in codes(diagnose(with_gpu(blind, margin_celsius=20.0)))


@pytest.mark.parametrize(("celsius", "near"), [(85.0, True), (84.5, False)])
def test_five_degrees_below_the_slowdown_is_near(celsius: float, near: bool) -> None:
    rig = with_gpu(recorded(), temperature_celsius=celsius, slowdown_celsius=90.0)
    assert ("near-slowdown" in codes(diagnose(rig))) is near


@pytest.mark.parametrize(("lanes", "severity"), [(4, "information"), (2, "warning")])
def test_boards_split_a_slot_down_to_four_lanes(lanes: int, severity: str) -> None:
    rig = with_hop(recorded(), width_now_lanes=lanes, width_best_lanes=16)
    assert named(diagnose(rig), "pcie-width").severity == severity


def test_a_card_behind_the_chipset_has_that_finding_and_none_of_its_slot() -> None:
    found = diagnose(with_path(recorded(), chipset="Z790 chipset"))
    assert named(found, "chipset-lanes").where == ("GPU0",)
    assert named(found, "pcie-slot").where == ("GPU1",)


def test_a_link_above_the_cards_is_told_where_it_is_slower_or_shared() -> None:
    rig = recorded()
    own = rig.paths[0].hops[-1]
    for rate, shared, is_told in ((1.0, (), False), (0.5, (), True), (1.0, ("GPU1",), True)):
        above = REPLACE(own, device="0000:00:01.0", best_bytes_per_s=rate * own.best_bytes_per_s)
        changed = with_path(rig, hops=(above, own), narrowest=above.device, shared_with=shared)
        assert ("shared-uplink" in codes(diagnose(changed))) is is_told


@pytest.mark.parametrize(("code", "severity"), [(5, "information"), (3, "warning")])
def test_unlike_cards_are_refused_for_their_difference_and_for_nothing_else(code: int, severity: str) -> None:
    rig = with_pair(with_gpu(recorded(), name="NVIDIA A40", pci_device_id="2235"), read_code=code, write_code=code)
    rig = with_gpu(rig, 1, name="NVIDIA A10", pci_device_id="2236")
    assert named(diagnose(rig), "p2p-refused").severity == severity


UNTOLD = Absent("not reported")


def by_code(topology: Topology, code: str) -> list[Finding]:
    return [item for item in diagnose(topology) if item.code == code]


def with_way(topology: Topology, *above: dict[str, Any], index: int = 0, **facts: Any) -> Topology:
    """Links above a card's own, from the host down: what each has other than the card's."""
    own = topology.paths[index].hops[-1]
    hops = [REPLACE(own, port=f"0000:0{i}:00.0", device=f"0000:0{i}:01.0", **it) for i, it in enumerate(above)]
    return with_path(topology, index, hops=(*hops, own), **facts)


def with_function(topology: Topology, bus_id: str, **facts: Any) -> Topology:
    return REPLACE(topology, pci=tuple(REPLACE(it, **facts) if it.bus_id == bus_id else it for it in topology.pci))


def test_lanes_are_missing_of_a_link_with_two_ends_that_are_known() -> None:
    below = with_hop(recorded(), **NARROW, port=UNTOLD)  # a container without the PCI tree
    assert by_code(below, "pcie-width") == []
    slot = next(item for item in by_code(below, "pcie-slot") if item.where == ("GPU0",))
    assert slot.evidence == ("x4 of the card's x8 lanes; without a PCI tree the slot's own are not known",)
    assert isinstance(slot.cost, Cost)
    assert slot.cost.sentence == "7.88 GB/s each way in theory, instead of 15.8 GB/s"
    for facts in ({"width_best_lanes": UNTOLD}, {"width_now_lanes": UNTOLD}):
        assert codes(diagnose(with_hop(recorded(), **facts))).items() <= DUAL_4080.items()


def test_missing_lanes_above_a_card_are_told_but_of_a_chipsets_own_links() -> None:
    rig = with_way(recorded(), NARROW)
    assert [item.evidence for item in by_code(rig, "pcie-width")] == [
        ("x4 of x8 lanes between 0000:00:00.0 and 0000:00:01.0",)
    ]
    assert by_code(with_path(rig, chipset="Z790 chipset"), "pcie-width") == []
    own = with_hop(with_path(recorded(), chipset="Z790 chipset"), **NARROW)
    assert len(by_code(own, "pcie-width")) == 1


def test_a_link_that_two_cards_share_is_told_once_and_a_tunnel_never() -> None:
    rig = below_a_switch(recorded())
    for index in (0, 1):
        up, own = rig.paths[index].hops
        rig = with_path(rig, index, hops=(REPLACE(up, **NARROW), own))
    assert [item.where for item in by_code(rig, "pcie-width")] == [("GPU0",)]
    assert by_code(with_hop(recorded(), **NARROW, tunnelled=True), "pcie-width") == []


@pytest.mark.parametrize(
    ("facts", "severity"),
    [
        ({"port": "0000:00:01.1", "width_now_lanes": 8}, "information"),  # 8 and 8 of 16
        ({"port": "0000:00:01.1", "width_now_lanes": 9}, "warning"),  # more than the slot has
        ({"port": "0000:00:01.1", "width_now_lanes": UNTOLD}, "warning"),
        ({"port": "0000:00:02.1", "width_now_lanes": 8}, "warning"),  # another slot
        ({"port": UNTOLD, "width_now_lanes": 8}, "warning"),
    ],
)
def test_a_neighbour_is_on_the_same_slot_and_its_lanes_fit_beside(facts: dict[str, Any], severity: str) -> None:
    rig = with_hop(with_hop(recorded(), 1, width_best_lanes=UNTOLD, **facts), width_best_lanes=16)
    (found,) = by_code(rig, "pcie-width")
    assert (found.where, found.severity) == (("GPU0",), severity)


@pytest.mark.parametrize("index", [0, 1])
def test_the_generation_under_load_is_that_of_the_cards_own_reading(index: int) -> None:
    slow = with_hop(with_hop(recorded(), 0, generation_awake=3), 1, generation_awake=3)
    unread = with_gpu(slow, index, link_generation_awake=Absent("the load left it in P8"))
    assert [item.where for item in by_code(unread, "pcie-generation")] == [(f"GPU{1 - index}",)]


def test_a_generation_is_told_of_cards_and_drives_and_of_nothing_above_them() -> None:
    assert by_code(with_way(recorded(), {"generation_awake": 3}), "pcie-generation") == []
    assert by_code(with_path(with_hop(recorded(), 2, generation_awake=3), 2, kind="NIC"), "pcie-generation") == []
    for facts in ({"generation_awake": UNTOLD}, {"generation_awake": 3, "generation_best": UNTOLD}):
        assert by_code(with_hop(recorded(), **facts), "pcie-generation") == []


@pytest.mark.parametrize(("lanes", "possible"), [(8, 16e9), (4, 8e9)])
def test_a_generation_costs_what_the_lanes_that_there_are_would_carry(lanes: int, possible: float) -> None:
    facts = {"generation_awake": 3, "awake_bytes_per_s": 4e9, "best_bytes_per_s": 16e9, "width_now_lanes": lanes}
    (found,) = by_code(with_hop(recorded(), **facts), "pcie-generation")
    assert isinstance(found.cost, Cost)
    assert (found.cost.now.value, found.cost.possible.value) == (4e9, possible)


@pytest.mark.parametrize(
    ("now", "cost"),
    [
        (8e9, "8.00 GB/s each way in theory, instead of 31.0 GB/s"),
        (31e9, "no less in theory; a measurement shows what sharing the lanes costs"),
        (40e9, "no less in theory; a measurement shows what sharing the lanes costs"),
        (UNTOLD, "the link's speed is not reported"),
    ],
)
def test_a_way_through_the_chipset_costs_what_the_card_alone_could_move_less_that(now: Any, cost: str) -> None:
    rig = with_path(recorded(), chipset="Z790 chipset", best_bytes_per_s=now)
    rig = with_function(rig, "0000:01:00.0", link_max_bytes_per_s=31e9)
    (found,) = by_code(rig, "chipset-lanes")
    assert (found.cost.sentence if isinstance(found.cost, Cost) else found.cost.reason) == cost
    (found,) = by_code(REPLACE(rig, pci=()), "chipset-lanes")
    assert found.cost == Absent("the link's speed is not reported")


def test_a_slot_is_told_where_the_card_could_move_more() -> None:
    def slots(**facts: Any) -> list[tuple[str, ...]]:
        return [item.where for item in by_code(with_hop(recorded(), **facts), "pcie-slot")]

    possible = next(it.link_max_bytes_per_s for it in recorded().pci if it.bus_id == "0000:01:00.0")
    assert slots() == [("GPU0", "GPU1")]
    assert slots(best_bytes_per_s=possible) == slots(best_bytes_per_s=UNTOLD) == [("GPU1",)]
    (narrow, _) = by_code(with_hop(recorded(), **NARROW, best_bytes_per_s=2e9), "pcie-slot")
    assert narrow.evidence == ("0000:00:01.0 is x8, the card below it x16",)
    assert [item.where for item in by_code(with_path(recorded(), hops=()), "pcie-slot")] == [("GPU1",)]


def test_a_slot_is_the_last_link_of_a_longer_way() -> None:
    rig = with_way(recorded(), {"best_bytes_per_s": 99e9, "limits": ()}, {"best_bytes_per_s": 99e9, "limits": ()})
    assert [item.where for item in by_code(rig, "pcie-slot")] == [("GPU0", "GPU1")]


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({}, "1.00 GB/s between 0000:01:00.0 and 0000:01:01.0"),
        ({"shared_with": ("GPU1",)}, "1.00 GB/s between 0000:01:00.0 and 0000:01:01.0, shared by 2 GPUs"),
        ({"narrowest": "0000:01:00.0"}, ""),  # the card's own
        ({"chipset": "Z790 chipset"}, ""),  # which has its own finding
    ],
)
def test_a_narrow_link_above_the_cards_own_is_found_wherever_it_is(facts: dict[str, Any], told: str) -> None:
    way = ({}, {"best_bytes_per_s": 1e9}, {})
    rig = with_way(recorded(), *way, **{"narrowest": "0000:01:01.0", **facts})
    assert [item.evidence[0] for item in by_code(rig, "shared-uplink")] == [told] * bool(told)
    unread = ({}, {"best_bytes_per_s": UNTOLD}, {})
    assert by_code(with_way(recorded(), *unread, **{"narrowest": "0000:01:01.0", **facts}), "shared-uplink") == []


def test_a_narrow_link_is_held_against_the_cards_own() -> None:
    rig = with_way(recorded(), {"best_bytes_per_s": 20e9}, {"best_bytes_per_s": 99e9}, narrowest="0000:00:01.0")
    assert by_code(rig, "shared-uplink") == []  # the card's own carries 15.8
    rig = with_way(recorded(), {"best_bytes_per_s": 1e9}, {"best_bytes_per_s": 0.5e9}, narrowest="0000:00:01.0")
    (found,) = by_code(rig, "shared-uplink")
    assert isinstance(found.cost, Cost)
    assert found.cost.sentence == "1.00 GB/s each way in theory, instead of 15.8 GB/s"
    *above, own = rig.paths[0].hops
    silent = with_path(rig, hops=(*above, REPLACE(own, best_bytes_per_s=UNTOLD)))
    assert by_code(silent, "shared-uplink") == []


# nvmlClocksEventReason*: idleness 0x1, chosen clocks 0x2, power cap 0x4, sync boost 0x10, display clocks 0x100.
@pytest.mark.parametrize(
    ("bits", "words"),
    [(0x8, "hardware slowdown (0x8)"), (0x20, "software thermal slowdown (0x20)")]
    + [(0x40, "hardware thermal slowdown (0x40)"), (0x80, "power brake (0x80)")]
    + [(bits, "") for bits in (0x0, 0x1, 0x2, 0x4, 0x10, 0x100, UNTOLD)],
)
def test_clocks_are_held_down_by_heat_and_cut_power(bits: Any, words: str) -> None:
    found = by_code(with_gpu(recorded(), throttle_bits=bits), "throttled")
    assert [item.evidence for item in found] == [(f"slowed down by {words}",)] * bool(words)


@pytest.mark.parametrize(
    ("margin", "at", "near"), [(3.0, -2.0, True), (3.5, -2.0, False), (7.0, 2.0, True), (3.0, UNTOLD, False)]
)
def test_five_degrees_of_margin_are_near(margin: float, at: Any, near: bool) -> None:
    blind = with_gpu(recorded(), slowdown_celsius=UNTOLD, margin_celsius=margin, slowdown_at_margin_celsius=at)
    assert ("near-slowdown" in codes(diagnose(blind))) is near


@pytest.mark.parametrize(
    ("limit", "default", "told"),
    [(319.5, 320.0, True), (319.6, 320.0, False), (350.0, 320.0, False), (200.0, UNTOLD, False), (UNTOLD, 1.0, False)],
)
def test_half_a_watt_below_the_default_is_a_limit(limit: Any, default: Any, told: bool) -> None:
    rig = with_gpu(recorded(), power_limit_watts=limit, power_limit_default_watts=default)
    assert ("power-limit" in codes(diagnose(rig))) is told


@pytest.mark.parametrize(
    ("facts", "guest", "told"),
    [
        ({"persistence": False, "display_active": False}, UNTOLD, True),
        ({"persistence": False, "display_active": UNTOLD}, UNTOLD, True),
        ({"persistence": False, "display_active": True}, UNTOLD, False),
        ({"persistence": UNTOLD}, UNTOLD, False),
        ({"persistence": True}, UNTOLD, False),
        ({"persistence": False, "display_active": False}, "QEMU", True),
        ({"persistence": False, "display_active": False}, "WSL2", False),
    ],
)
def test_persistence_matters_where_nothing_else_keeps_the_driver_open(
    facts: dict[str, Any], guest: Any, told: bool
) -> None:
    rig = REPLACE(with_gpu(with_gpu(recorded(), 1, persistence=True), **facts), virtual_machine=guest)
    assert ("persistence-off" in codes(diagnose(rig))) is told


def test_what_others_hold_is_counted_where_it_is_reported() -> None:
    def found(*processes: GpuProcess, **facts: Any) -> Finding:
        return named(diagnose(with_gpu(recorded(), processes=processes, **facts)), "gpu-in-use")

    silent, drawing = GpuProcess(7, "compute", UNTOLD, UNTOLD), GpuProcess(8, "graphics", "Xorg", 1 << 30)
    both = found(TRAINING, silent, drawing, memory_total_bytes=16 << 30)
    assert both.evidence == ("compute process 4242 (python), 4 GiB", "compute process 7")
    assert both.commands == ("ps -fp 4242,7",)
    assert isinstance(both.cost, Cost)
    assert (both.cost.now.value, both.cost.possible.value) == (12 << 30, 16 << 30)
    unpriced = Absent("the memory that it holds is not reported")
    assert found(silent).cost == found(TRAINING, memory_total_bytes=UNTOLD).cost == unpriced


CONSUMER, SERVER = ("NVIDIA GeForce RTX 4090", "2684"), ("NVIDIA A40", "2235")
PLAIN_CARDS = (SERVER, SERVER)


# nvmlGpuP2PStatus_t: 1 chipset (or policy), 2 card, 3 disabled by a registry key, 4 topology, 5 not of one kind
@pytest.mark.parametrize(
    ("cards", "codes_of", "guest", "severity"),
    [
        ((CONSUMER, CONSUMER), (1, 1), False, "information"),
        ((CONSUMER, CONSUMER), (2, 2), False, "information"),
        ((CONSUMER, CONSUMER), (1, 2), False, "information"),
        ((CONSUMER, CONSUMER), (3, 3), False, "warning"),
        ((CONSUMER, CONSUMER), (1, 3), False, "warning"),
        ((CONSUMER, SERVER), (1, 1), False, "information"),
        (PLAIN_CARDS, (1, 1), False, "warning"),
        (PLAIN_CARDS, (5, 5), False, "warning"),
        (PLAIN_CARDS, (4, 4), True, "information"),
        ((SERVER, ("NVIDIA A10", "2236")), (5, 5), False, "information"),
        ((SERVER, ("NVIDIA A10", "2236")), (1, 5), False, "warning"),
    ],
)
def test_a_refusal_is_expected_of_consumer_cards_unlike_ones_and_guests(
    cards: tuple[tuple[str, str], ...], codes_of: tuple[int, int], guest: bool, severity: str
) -> None:
    rig = with_pair(recorded(), read_code=codes_of[0], write_code=codes_of[1])
    for index, (name, device_id) in enumerate(cards):
        rig = with_gpu(rig, index, name=name, pci_device_id=device_id)
    assert named(diagnose(REPLACE(rig, virtual_machine="QEMU") if guest else rig), "p2p-refused").severity == severity


@pytest.mark.parametrize("read", [0, 6, UNTOLD])
def test_only_what_is_refused_is_named(read: Any) -> None:
    found = named(diagnose(with_pair(recorded(), read_code=read)), "p2p-refused")
    refused = "reads with code 6, writes with code 1" if read == 6 else "writes with code 1"
    assert found.evidence[0] == f"the driver refuses {refused}"


def test_a_driver_that_died_before_it_listed_anything_is_a_fault_of_all_cards() -> None:
    rig = REPLACE(recorded(), driver_gpus=Absent("the driver does not answer"), gpus=(), pairs=(), paths=())
    assert [(item.code, item.where) for item in diagnose(rig)] == [("gpu-unreadable", ("all GPUs",))]
    assert diagnose(REPLACE(rig, driver_gpus=Absent("kernel module is not loaded"))) == ()
    on_the_bus = without_driver(recorded(), "the driver does not answer")
    assert [item.code for item in diagnose(on_the_bus) if item.severity == "fault"] == ["no-driver"]


def test_a_card_without_a_name_is_unreadable_where_nothing_of_it_can_be_told() -> None:
    odd = Absent("unknown driver error")
    assert by_code(with_gpu(recorded(), name=odd, uuid=odd), "gpu-unreadable") == []
    (found,) = by_code(with_gpu(recorded(), name=odd, uuid=odd, pci_bus_id=odd), "gpu-unreadable")
    assert found.evidence == ("the driver's answer: unknown driver error",)
    assert by_code(with_gpu(recorded(), name=odd, uuid=Absent("no permission"), pci_bus_id=odd), "gpu-unreadable") == []


def test_a_card_that_is_lost_is_not_told_a_second_time_as_unreadable() -> None:
    rig = with_gpu(recorded(), power_watts=Absent("GPU is lost"), fan_share=Absent("GPU needs a reset"))
    assert set(codes(diagnose(rig))) - set(DUAL_4080) == {"gpu-lost"}


def test_only_nvidia_cards_that_the_driver_could_list_are_missed() -> None:
    rig = with_card_on_the_bus(recorded())
    assert by_code(with_function(rig, "0000:09:00.0", vendor_id="8086"), "gpu-not-listed") == []
    assert by_code(with_function(rig, "0000:09:00.0", kind="other"), "gpu-not-listed") == []
    assert by_code(with_gpu(rig, pci_bus_id=UNTOLD), "gpu-not-listed") == []
    assert by_code(REPLACE(rig, driver_gpus=Absent("no driver")), "gpu-not-listed") == []
    (found,) = by_code(rig, "gpu-not-listed")
    assert found.where == ("0000:09:00.0",)


def test_redirects_matter_between_cards_and_have_their_commands() -> None:
    set_here = with_isolation(recorded(), acs_redirecting=ROOT_PORTS)
    (found,) = by_code(set_here, "acs-redirect")
    assert found.commands == tuple(f"sudo setpci -v -s {port} ECAP_ACS+0x6.w=0000" for port in ROOT_PORTS)
    (found,) = by_code(with_isolation(recorded(), acs_separated=(ROOT_PORTS,)), "acs-redirect")
    assert found.commands == ("sudo lspci -vvv | grep -E '^[0-9a-f]|ACSCtl'",)
    assert by_code(REPLACE(set_here, pairs=()), "acs-redirect") == []
    assert by_code(with_pair(set_here, label="NV4"), "acs-redirect") == []


MEMORY = 16 << 30


@pytest.mark.parametrize(
    ("facts", "sizes", "told"),
    [
        ({}, (256 << 20, MEMORY), True),  # by what the card lists
        ({}, (256 << 20, MEMORY - 1), False),
        ({}, (), False),
        ({"compute_capability": "8.0"}, UNTOLD, True),  # by its generation
        ({"compute_capability": "12.0"}, UNTOLD, True),
        ({"compute_capability": "7.5"}, UNTOLD, False),
        ({"compute_capability": "7.5"}, (MEMORY,), True),
        ({"compute_capability": UNTOLD}, UNTOLD, False),
        ({"bar1_covers_memory": UNTOLD}, (MEMORY,), False),
        ({"bar1_covers_memory": True}, (MEMORY,), False),
    ],
)
def test_a_window_is_told_where_the_card_could_have_a_whole_one(facts: dict[str, Any], sizes: Any, told: bool) -> None:
    rig = with_gpu(recorded(), **{"bar1_covers_memory": False, "memory_total_bytes": MEMORY, **facts})
    rig = with_function(rig, "0000:01:00.0", bar1_possible_bytes=sizes)
    assert [item.where for item in by_code(rig, "rebar-off")] == [("GPU0",)] * told
    open_question = "compute_capability" in facts and facts["compute_capability"] is UNTOLD
    reasons = [item.reason for item in unchecked(rig) if item.what == "ReBAR"]
    expected = ["neither the card's generation nor the sizes that it offers are known"] if open_question else []
    assert reasons == expected + ["not reported"] * (facts.get("bar1_covers_memory") is UNTOLD)


def test_a_whole_window_leaves_no_question_about_what_the_card_could_have() -> None:
    rig = with_gpu(recorded(), bar1_covers_memory=True, compute_capability=UNTOLD)
    assert "ReBAR" not in {item.what for item in unchecked(rig)}


def nodes(rig: Topology, *its: tuple[str, int | Absent], of: tuple[Any, Any] = (0, 1)) -> Topology:
    """Nodes by (CPUs, bytes), and the cards' nodes."""
    rig = with_gpu(with_gpu(rig, 0, numa_node=of[0]), 1, numa_node=of[1])
    return REPLACE(rig, numa_nodes=tuple(NumaNode(number, *it) for number, it in enumerate(its)))


WHOLE = ("0-7", 1 << 36)


@pytest.mark.parametrize(
    ("second", "of", "found"),
    [
        (WHOLE, (0, 1), {"numa-split": "GPU0 on node 0"}),
        (WHOLE, (0, 0), {}),
        (("", 1 << 36), (1, 1), {"numa-far": "node 1 has no CPUs"}),
        (("8-15", 0), (1, 1), {"numa-far": "node 1 has no memory"}),
        (("", 0), (1, 1), {"numa-far": "node 1 has no CPUs and no memory"}),
        (("8-15", 1), (1, 1), {}),
        (("8-15", UNTOLD), (1, 1), {}),
        (("", 0), (0, 0), {}),  # as memory on a card of its own has one, which no card here is on
    ],
)
def test_cards_are_told_of_on_nodes_that_lack_something_and_on_several(
    second: tuple[str, Any], of: tuple[int, int], found: dict[str, str]
) -> None:
    rig = nodes(recorded(), WHOLE, second, of=of)
    assert {item.code: item.evidence[0] for item in diagnose(rig) if item.code.startswith("numa")} == found
    guest = REPLACE(rig, virtual_machine="QEMU")
    assert not [item for item in diagnose(guest) if item.code.startswith("numa")]


@pytest.mark.parametrize(("count", "guest", "asked"), [(1, False, False), (2, False, True), (2, True, False)])
def test_a_cards_node_is_a_question_where_there_are_several(count: int, guest: bool, asked: bool) -> None:
    rig = nodes(recorded(), *[WHOLE] * count, of=(UNTOLD, 0))
    found = {item.what for item in unchecked(REPLACE(rig, virtual_machine="QEMU") if guest else rig)}
    assert ("NUMA node" in found) is asked


@pytest.mark.parametrize(
    ("log", "asked"),
    [
        ((), False),
        (Absent("no permission"), True),
        (Absent("not read"), False),
        (Absent("the recording holds no kernel log"), False),
    ],
)
def test_the_kernels_log_is_a_question_where_somebody_could_let_it_be_read(log: Any, asked: bool) -> None:
    found = {item.what for item in unchecked(REPLACE(recorded(), kernel_events=log))}
    assert ("the kernel's log" in found) is asked


def test_one_card_leaves_no_question_about_what_is_between_cards() -> None:
    rig = with_isolation(recorded(), iommu=UNTOLD)
    assert {"IOMMU", "ACS"} <= {item.what for item in unchecked(rig)}
    assert not {"IOMMU", "ACS", "P2P"} & {item.what for item in unchecked(REPLACE(rig, gpus=rig.gpus[:1]))}


def test_a_guest_without_cards_is_not_told_of_and_a_host_without_them_leaves_one_question() -> None:
    bare = REPLACE(recorded(), gpus=(), pairs=(), paths=(), pci=(), driver_gpus=0)
    assert diagnose(REPLACE(bare, virtual_machine="QEMU")) == ()
    assert [(item.what, item.reason) for item in unchecked(bare)] == [("GPUs", "there is none")]


def test_equal_findings_of_several_cards_are_one_that_names_them() -> None:
    rig = with_gpu(with_gpu(recorded(), 0, pcie_replays=3), 1, pcie_replays=4)
    found = [item for item in diagnose(rig) if item.code == "pcie-replays"]
    assert [(item.where, item.evidence) for item in found] == [
        (("GPU0", "GPU1"), ("GPU0: 3 replays", "GPU1: 4 replays"))
    ]


def test_findings_are_worst_first() -> None:
    rig = with_gpu(with_gpu(recorded(), power_limit_watts=200.0), 1, row_remap_failed=True)
    severities = [WORST_FIRST.index(item.severity) for item in diagnose(rig)]
    assert severities == sorted(severities)
    assert severities[:2] == [0, 1]


@pytest.mark.parametrize("reason", [*REASONS.values(), "driver error 31"])
def test_no_answer_of_the_driver_breaks_a_diagnosis(reason: str) -> None:
    for rig in (all_absent(recorded(), reason), without_driver(recorded(), reason)):
        found = diagnose(rig)
        assert all(item.where == () or "GPU1" in str(item.where) or "GPU0" in item.where for item in found)
        assert unchecked(rig)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_stored_topology_is_diagnosed_again_with_the_same_findings(name: str) -> None:
    rig = recorded(name)
    again = msgspec.json.decode(msgspec.json.encode(rig), type=Topology)
    assert diagnose(again) == diagnose(rig)
    assert unchecked(again) == unchecked(rig)


def test_what_is_not_known_is_listed_with_its_reason_and_not_passed() -> None:
    open_questions = {item.what: item for item in unchecked(recorded("epyc7502-4x4090"))}
    assert open_questions["P2P"].reason == "not supported"
    assert open_questions["link width"].where == ("GPU0", "GPU1", "GPU2", "GPU3")
    assert open_questions["IOMMU"].reason == "not recorded"
    assert {"temperature limits", "power limit", "ReBAR", "other processes", "ACS"} <= set(open_questions)


def document(topology: Topology) -> Run:
    return Run(
        id="20260101-000000-0000",
        started_at="2026-01-01T00:00:00Z",
        command="doctor",
        status="finished",
        rig=RigId("0" * 12, Absent("none"), Absent("none"), (), ()),
        software=Software("0", "3.11", *[Absent("none")] * 5),
        topology=topology,
    )


def screen(topology: Topology) -> str:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    render.show(diagnosis.diagnosed(document(topology)), console)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


DUAL_SCREEN = """\
2 × NVIDIA GeForce RTX 4080 SUPER, Intel(R) Core(TM) i7-14700K, driver 595.71.05
composed recording: one real RTX 4080 SUPER recording placed twice, x8/x8
no problem in what was checked; 3 notes

information  The driver refuses P2P between GPUs  p2p-refused
  where     GPU0-GPU1
  evidence  the driver refuses reads with code 1, writes with code 1
            code 1 was seen where the chipset is not in the driver's table, or
            the driver withholds P2P from GeForce cards
            cards of one kind: NVIDIA GeForce RTX 4080 SUPER
            BAR1 covers the memory of both (ReBAR on)
            CPU: Intel(R) Core(TM) i7-14700K
            IOMMU: translating (DMA-FQ)
  cost      n/a (it takes a measurement of this rig; `rigbench explain
            p2p-refused` has published ones)
  takes     0 to 35 min (step model, as it is against cured; from none of it to
            twice)
  to do     consumer cards: nothing, NCCL goes through shared memory by itself;
            others: turn on resizable BAR, try slots below the same CPU

information  The slot offers a slower link than the card could use  pcie-slot
  where     GPU0, GPU1
  evidence  GPU0: 0000:00:01.0 is x8, the card below it x16
            GPU1: 0000:00:01.1 is x8, the card below it x16
  cost      15.8 GB/s each way in theory, instead of 31.5 GB/s
  takes     0 to 31 min (step model, as it is against cured; from none of it to
            twice)
  to do     use a slot with all lanes if the board has one free; else nothing,
            it is the board's or the CPU's limit

information  Persistence mode is off  persistence-off
  where     GPU0, GPU1
  evidence  persistence mode is off
  cost      n/a (some seconds at each start, not measured here)
  to do     run the persistence daemon, or turn the mode on after each start
            $ sudo systemctl enable --now nvidia-persistenced
            $ sudo nvidia-smi -pm 1

Not checked
          heat: not measured; `rigbench thermals` does it
          matrix products, bandwidth, P2P data, collectives, the data loader,
          training: not measured; `rigbench run --quick` does it
          ECC errors, remapped rows of GPU0, GPU1: not supported
          ACS: not reported
"""


def test_the_whole_screen_of_two_4080_supers() -> None:
    assert screen(recorded()) == DUAL_SCREEN


def test_a_rig_without_findings_is_told_so_with_what_stays_open() -> None:
    assert screen(recorded("geforce-rtx-4080-super-driver-595.71.05")) == (
        "NVIDIA GeForce RTX 4080 SUPER, driver 595.71.05\n"
        "no problem found in what was checked\n"
        "\n"
        "Not checked\n"
        "          heat: not measured; `rigbench thermals` does it\n"
        "          matrix products, bandwidth, the data loader, training: not measured;\n"
        "          `rigbench run --quick` does it\n"
        "          ECC errors, remapped rows, other processes of GPU0: not supported\n"
    )


def test_a_run_without_a_topology_cannot_be_diagnosed() -> None:
    with pytest.raises(RigbenchError, match="holds no topology; `rigbench doctor` reads one"):
        diagnosis.diagnosed(REPLACE(document(recorded()), topology=Absent("not read")))


@pytest.fixture
def rigbench(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: (exit code, standard output, standard error)."""
    monkeypatch.setenv("RIGBENCH_HOME", str(tmp_path / "home"))

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rigbench", *words])
        code = __main__._run()
        out, err = capsys.readouterr()
        return code, out, err

    return call


Rigbench = Callable[..., tuple[int, str, str]]


def test_doctor_is_the_stored_document_in_json(rigbench: Rigbench, tmp_path: Path) -> None:
    code, out, err = rigbench("--replay", str(RIGS / DUAL), "doctor", "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert [item["code"] for item in document["findings"]] == list(DUAL_4080)
    assert document["unchecked"]
    jsonschema.validate(document, json.loads(run_schema()))
    assert out == next((tmp_path / "home" / "runs").glob("*.json")).read_text()


def test_a_fault_is_exit_code_1_and_a_line(rigbench: Rigbench, tmp_path: Path) -> None:
    for path in (RIGS / DUAL).iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    with (tmp_path / "nvml.txt").open("a") as file:
        file.write("1 nvmlDeviceGetHandleByIndex_v2 = 15\n")
    code, out, err = rigbench("doctor", "--quiet", "--replay", str(tmp_path))
    assert code == 1
    assert "1 fault" in out
    assert "fault: GPU1: A GPU is lost: it no longer answers on the bus (gpu-lost)" in err


def test_warnings_and_information_are_exit_code_0(rigbench: Rigbench) -> None:
    code, out, err = rigbench("--replay", str(RIGS / DUAL), "doctor", "--quiet")
    assert (code, err) == (0, "")
    assert "no problem in what was looked at; GPU0-GPU1 without P2P" in out
    assert "rigbench explain" not in out.splitlines()[-1]


def test_a_stored_run_is_diagnosed_without_its_machine(rigbench: Rigbench, tmp_path: Path) -> None:
    rigbench("--replay", str(RIGS / DUAL), "topology", "-q")
    file = next((tmp_path / "home" / "runs").glob("*.json"))
    code, out, _ = rigbench("doctor", file.stem)
    assert code == 0
    assert "p2p-refused" in out
    code, _, err = rigbench("doctor", file.stem, "--replay", str(RIGS / DUAL))
    assert code == 2
    assert "exclude each other" in err


def test_report_shows_the_findings_of_a_run(rigbench: Rigbench) -> None:
    rigbench("--replay", str(RIGS / DUAL), "doctor", "-q")
    assert "pcie-slot" in rigbench("report")[1]


def test_explain_tells_all_about_one_code_and_lists_them(rigbench: Rigbench) -> None:
    code, out, _ = rigbench("explain", "rebar-off")
    assert code == 0
    assert all(word in out for word in ("severity", "means", "known by", "costs", "to do", "sources"))
    listed = rigbench("explain", "--verbose")[1]
    assert all(f" {name} " in listed for name in explanations())
    brief = rigbench("explain")[1]
    assert set(explanations()) < set(brief.replace(",", " ").split())
    assert len(brief.splitlines()) <= 40
    assert json.loads(rigbench("explain", "rebar-off", "--json")[1])["code"] == "rebar-off"
    entries = json.loads(rigbench("explain", "--json")[1])
    assert [one["code"] for one in entries if one["type"] == "explanation"] == list(explanations())


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("rebar", "did you mean rebar-off"),
        ("PCIE_WIDTH", "did you mean pcie-width"),
        ("zz", "`rigbench explain` lists"),
    ],
)
def test_an_unknown_code_is_bad_input_with_the_nearest_names(rigbench: Rigbench, typed: str, answer: str) -> None:
    code, out, err = rigbench("explain", typed)
    assert (code, out) == (2, "")
    assert answer in err
