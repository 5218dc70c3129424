"""Does doctor tell what a rig's record shows, with its numbers, and nothing of a healthy one?"""

from __future__ import annotations

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
MEASURED |= {"power-steps"}  # by power steps: test_power_steps.py
MEASURED |= {"loader-too-slow", "micro-batch-small"}
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
