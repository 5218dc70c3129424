"""What do stored probes and datasheets say a device can do at most, and which of them is taken?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_bandwidth
import msgspec
import pytest

from rigbench.bandwidth.record import Bandwidth, BandwidthPart
from rigbench.core import profiles
from rigbench.core.record import Absent, Device
from rigbench.document import Run
from rigbench.matmul.record import Matmul
from rigbench.predict import ceilings
from rigbench.predict.record import Ceilings

REPORT = Path(__file__).parent / "runs" / "xeon-2.5ghz-2-cores" / "run-quick-every-probe.json"
NOT_ASKED = Absent("not asked for")


def stored(**rooms: Any) -> Run:
    """A run of a CPU whose matrix products were measured, with the rooms that a test gives it."""
    run = msgspec.json.decode(REPORT.read_bytes(), type=Run)
    others = dict.fromkeys(("bandwidth", "collectives", "dataloader"), NOT_ASKED)
    return msgspec.structs.replace(run, **{"slices": (), **others, **rooms})


def bandwidth(device: Device, **gb_per_s: float) -> Bandwidth:
    """Copies inside of places, by their names with _ for a space."""
    ways = [(name.replace("_", " "), rate) for name, rate in gb_per_s.items()]
    part = BandwidthPart(
        name="part",
        devices=(device,),
        seconds=1.0,
        host_cpus=Absent("not reported"),
        transfers=tuple(fake_bandwidth.transfer(f"{place}>{place}", rate) for place, rate in ways),
        not_run=(),
        ended="finished",
    )
    return Bandwidth(
        method=1,
        started_at="2026-01-01T00:00:00Z",
        seconds=1.0,
        verdict="fine",
        parts=(part,),
        judged=(),
        virtual_machine=Absent("none"),
        gpus=(),
        links=(),
        pairs=(),
        memory_datasheet={},
    )


def on_a_4090(**changes: Any) -> Matmul:
    matmul = stored().matmul
    assert isinstance(matmul, Matmul)
    return msgspec.structs.replace(matmul, device=card(), **changes)


def card() -> Device:
    return fake_bandwidth.device(0, name="NVIDIA GeForce RTX 4090", memory_total_bytes=25_757_220_864)


def known(runs: list[Run]) -> Ceilings:
    found = ceilings.from_runs(runs)
    assert isinstance(found, Ceilings), found
    return found


def test_a_cpu_is_what_its_probes_measured() -> None:
    cpu = fake_bandwidth.cpu()
    found = known([stored(bandwidth=bandwidth(cpu, node_0=19.0, all_nodes=21.0))])
    raw = json.loads(REPORT.read_text())["matmul"]["best_flops_per_s"]
    assert {dtype: figure.value for dtype, figure in found.matmul_flops_per_s.items()} == {
        dtype: rate["value"] for dtype, rate in raw.items()
    }
    assert found.memory_bytes_per_s.value == 21e9
    assert (found.kind, found.source, found.count) == ("cpu", "measured", 1)
    assert all(figure.source == "measured" for figure in found.matmul_flops_per_s.values())
    assert found.matmul_flops_per_s["fp32"].basis.startswith("sustained ceiling, run ")


def test_the_newest_run_that_has_measured_it_counts() -> None:
    cpu = fake_bandwidth.cpu()
    new = stored(bandwidth=bandwidth(cpu, node_0=30.0), matmul=NOT_ASKED, id="new")
    old = stored(bandwidth=bandwidth(cpu, node_0=10.0), id="old")
    found = known([new, old])
    assert found.memory_bytes_per_s.value == 30e9
    assert found.rests_on == ("old", "new")


def test_a_copy_that_brought_wrong_data_is_no_ceiling() -> None:
    wrong = bandwidth(fake_bandwidth.cpu(), node_0=10.0)
    fast = fake_bandwidth.transfer("node 0>node 0", 99.0, correct=False)
    part = msgspec.structs.replace(wrong.parts[0], transfers=(*wrong.parts[0].transfers, fast))
    found = known([stored(bandwidth=msgspec.structs.replace(wrong, parts=(part,)))])
    assert found.memory_bytes_per_s.value == 10e9


def test_a_gpus_own_memory_counts_and_not_its_hosts() -> None:
    measured = bandwidth(card(), **{"node_0": 2000.0, "cuda:0": 900.0})
    found = known([stored(matmul=on_a_4090(), bandwidth=measured)])
    assert found.memory_bytes_per_s.value == 900e9
    assert found.kind == "cuda"


def test_what_no_probe_measured_of_a_gpu_comes_from_its_datasheet() -> None:
    found = known([stored(matmul=on_a_4090())])
    datasheet = ceilings.from_rig(profiles.rig_named("rtx-4090"))
    assert isinstance(datasheet, Ceilings)
    assert found.memory_bytes_per_s == datasheet.memory_bytes_per_s
    assert found.memory_bytes_per_s.source == "datasheet"
    assert found.tdp_watts == datasheet.tdp_watts
    assert found.source == "measured"


def test_a_gpu_whose_products_were_not_measured_has_its_datasheets_peaks() -> None:
    found = known([stored(matmul=NOT_ASKED, bandwidth=bandwidth(card(), **{"cuda:0": 900.0}))])
    assert found.source == "datasheet"
    assert found.matmul_flops_per_s["bf16"].value == pytest.approx(165.2e12)


@pytest.mark.parametrize(
    ("rooms", "reason"),
    [
        ({"matmul": NOT_ASKED}, "no stored run has measured matrix products; run `rigbench matmul`"),
        ({}, "the memory's bandwidth is not known (no stored run has measured bandwidth); run `rigbench bandwidth`"),
    ],
)
def test_a_missing_probe_is_named_with_the_command_that_cures_it(rooms: dict[str, Any], reason: str) -> None:
    assert ceilings.from_runs([stored(**rooms)]) == Absent(reason)


def test_without_runs_nothing_is_known() -> None:
    assert isinstance(ceilings.from_runs([]), Absent)


def test_a_rig_profile_has_every_figure_from_its_datasheet() -> None:
    found = ceilings.from_rig(profiles.rig_named("dual-rtx-4080"))
    assert isinstance(found, Ceilings)
    assert (found.count, found.source, found.rests_on) == (2, "datasheet", ("profile rtx-4080",))
    assert found.matmul_flops_per_s["bf16"].value == pytest.approx(97.5e12, rel=2e-3)  # half of the headline
    assert msgspec.json.decode(msgspec.json.encode(found), type=Ceilings) == found
