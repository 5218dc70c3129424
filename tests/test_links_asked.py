"""Does what is said, recorded or assumed of links decide a prediction for several cards, and is it told?"""

import csv
import io
import json
import shutil
from pathlib import Path

import msgspec
import pytest

from rigbench.core import profiles
from rigbench.core.errors import BAD_INPUT, NOTHING, RigbenchError
from rigbench.core.record import Absent
from rigbench.model.recipe import Recipe
from rigbench.model.shape import model_named
from rigbench.predict import ceilings, recorded, steptime
from rigbench.predict.steptime import HOST_BYTES_PER_S, OFFLOAD_PASSES

RIGS = Path(__file__).parent / "rigs"


@pytest.fixture(autouse=True)
def nothing_recorded(monkeypatch):
    monkeypatch.setattr(profiles, "RECORDED", {})
    monkeypatch.setattr(profiles, "RECORDED_IN", {})
    monkeypatch.setattr(profiles, "OWN_CARDS", {})


def link(name):
    found = ceilings.from_rig(profiles.rig_named(name))
    return found.link.bytes_per_s


# Two cards: an all_reduce's ring sends each byte once each way, so that its rate is the link's. PCIe 4.0 has 1.969 GB/s
# a lane; through host memory 30 % of it, direct 70 %.
@pytest.mark.parametrize(
    ("words", "gb_per_s", "basis"),
    [
        ((None, None), 0.3 * 16 * 1.969, "PCIe 4.0 x16, assumed; through host memory, assumed; 30 % of it"),
        (("x8", None), 0.3 * 8 * 1.969, "PCIe 4.0 x8, by --link; through host memory, assumed; 30 % of it"),
        (("gen3x4", "on"), 0.7 * 4 * 0.985, "PCIe 3.0 x4, by --link; peer copies, by --p2p; 70 % of it"),
        ((None, "off"), 0.3 * 16 * 1.969, "PCIe 4.0 x16, assumed; through host memory, by --p2p; 30 % of it"),
    ],
)
def test_a_link_is_as_wide_as_was_said(words, gb_per_s, basis):
    name = profiles.wired("2xrtx-4090", *words) if any(words) else "2xrtx-4090"
    found = link(name)
    assert found.value == pytest.approx(gb_per_s * 1e9)
    assert found.basis == basis


def test_a_slot_takes_the_place_of_nvlink():
    assert link("8xh100-80gb-hbm3").basis.startswith("NVLink")
    assert link(profiles.wired("8xh100-80gb-hbm3", "x16", None)).basis.startswith("PCIe 5.0 x16, by --link")


def test_every_rig_that_is_named_gets_the_link():
    assert profiles.wired("2x4090, 4x3090", "x8", "off") == "2x4090@x8+p2p-off,4x3090@x8+p2p-off"
    assert profiles.rig_named("2x4090@x8+p2p-off").name == "2xrtx-4090@x8+p2p-off"


@pytest.mark.parametrize("words", [("x3", None), ("gen9x16", None), ("wide", None), (None, "maybe"), (None, "")])
def test_no_such_link_is_refused(words):
    with pytest.raises(RigbenchError) as refusal:
        profiles.wired("2x4090", *words)
    assert refusal.value.exit_code == BAD_INPUT


def test_a_recorded_rig_is_the_rig():
    name = recorded.rig_of(RIGS / "dual-rtx4080s-x8x8")
    rig = profiles.rig_named(name)
    assert (name, rig.gpu, rig.count) == ("2xrtx-4080-super@gen4x8+p2p-off", "rtx-4080-super", 2)
    assert link(name).basis == "PCIe 4.0 x8, as recorded; through host memory, as recorded; 30 % of it"
    assert profiles.option_of(name) == f"--replay {RIGS / 'dual-rtx4080s-x8x8'}"
    # As --on would take it, where another process names it; but heat and limits are in no name.
    profiles.RECORDED.clear()
    profiles.RECORDED_IN.clear()
    assert profiles.option_of(name) == f"--on {name}"
    assert link(name).value == pytest.approx(0.3 * 8 * 1.969e9)


def test_a_recorded_power_limit_counts():
    rig = profiles.rig_named(recorded.rig_of(RIGS / "dual-rtx4080s-throttling"))
    limit = profiles.gpu(rig.gpu).power_limit_watts
    lines = (RIGS / "dual-rtx4080s-throttling" / "nvml.txt").read_text().splitlines()
    milliwatts = [int(it.split(" = 0 ")[1]) for it in lines if "PowerManagementLimit " in it and " = 0 " in it]
    assert limit == (min(milliwatts) / 1000 if milliwatts else 320)


def test_a_recording_without_a_known_card_is_refused(tmp_path):
    (tmp_path / "nvml.txt").write_text("")
    (tmp_path / "rig.json").write_text(json.dumps({"rigbench_capture": 1}))
    with pytest.raises(RigbenchError) as refusal:
        recorded.rig_of(tmp_path)
    assert refusal.value.exit_code in (BAD_INPUT, NOTHING)


def test_offload_is_slower_by_what_it_moves_and_steps_on_the_host():
    model, limits = model_named("120M"), ceilings.from_rig(profiles.rig_named("2xrtx-4090"))
    plain = Recipe(precision="bf16", compiled=True, strategy="fsdp2", ranks=2, micro_batch=8)
    away = msgspec.structs.replace(plain, strategy="fsdp2-offload")
    inside, outside = steptime.predict(model, plain, limits), steptime.predict(model, away, limits)
    weights = 4 * model.total_parameters
    # Half of the weights, there twice and back once, at 80 % of 16 lanes; then ten passes over all of them.
    by_hand = 3 * weights / 2 / (0.8 * 16 * 1.969e9) + OFFLOAD_PASSES * weights / HOST_BYTES_PER_S
    assert outside.part("offload") == pytest.approx(by_hand)
    assert outside.part("optimizer") == 0 < inside.part("optimizer")
    assert outside.seconds.value == pytest.approx(inside.seconds.value - inside.part("optimizer") + by_hand, rel=0.01)
    assert outside.seconds.half_width > inside.seconds.half_width
    assert any("80 % of it" in note for note in outside.notes)
    narrow = ceilings.from_rig(profiles.rig_named("2xrtx-4090@x4"))
    assert steptime.predict(model, away, narrow).part("offload") > outside.part("offload")


def test_offload_where_the_rate_to_the_host_is_not_known_is_only_measured():
    model, limits = model_named("120M"), ceilings.from_rig(profiles.rig_named("2xrtx-4090"))
    unknown = msgspec.structs.replace(limits, host_bytes_per_s=Absent("not read"))
    recipe = Recipe(precision="bf16", strategy="fsdp2-offload", ranks=2, micro_batch=8)
    with pytest.raises(RigbenchError, match="only measured here"):
        steptime.predict(model, recipe, unknown)


def test_the_card_that_heat_slows_decides_and_is_told():
    hot = ceilings.from_rig(profiles.rig_named(recorded.rig_of(RIGS / "dual-rtx4080s-throttling")))
    profiles.RECORDED.clear()
    free = ceilings.from_rig(profiles.rig_named("2xrtx-4080-super@gen4x8+p2p-off"))
    # The recording's hot card ends its load at 2.18 GHz, the one beside it at 2.53 (its README): 0.86
    ratio = hot.matmul_flops_per_s["bf16"].value / profiles.peaks("rtx-4080-super")["bf16"].value
    assert 0.84 < ratio < 0.88
    assert hot.heat.startswith("GPU0 72 °C, GPU1 84 °C at most under the recorded load; GPU1 is slowed to 0.86 of")
    model = model_named("120M")
    steps = [
        steptime.predict(model, Recipe(precision="bf16", compiled=True, strategy="ddp", ranks=2, micro_batch=16), its)
        for its in (hot, free)
    ]
    assert 0.85 < steps[0].tokens_per_s.value / steps[1].tokens_per_s.value < 1


def unlike(tmp_path, name: str, device: int, gib: float) -> str:
    """Two RTX 4080 SUPERs whose second card is made another one."""
    folder = tmp_path / "rig"
    shutil.copytree(RIGS / "dual-rtx4080s-x8x8", folder)
    for path in folder.glob("*nvml.txt"):
        lines = []
        for line in path.read_text().splitlines():
            if line.startswith("1 nvmlDeviceGetName"):
                line = f'1 nvmlDeviceGetName = 0 "{name}"'
            if line.startswith("1 nvmlDeviceGetPciInfo_v3"):
                *head, _, subsystem = line.split()
                line = " ".join([*head, str(device << 16 | 0x10DE), subsystem])
            if line.startswith("* nvmlDeviceGetMemoryInfo_v2"):
                total = round(gib * 2**30)
                lines.append(f"1 nvmlDeviceGetMemoryInfo_v2 = 0 {total} 0 {total} 0")
            lines.append(line)
        path.write_text("\n".join(lines) + "\n")
    return recorded.rig_of(folder)


def test_of_unlike_cards_the_slowest_decides_where_all_are_faster_than_the_fast_ones_alone(tmp_path):
    rig = profiles.rig_named(unlike(tmp_path, "NVIDIA GeForce RTX 3090", 0x2204, 24))
    card = profiles.gpu(rig.gpu)  # 71 TFLOP/s twice are more than 104 once; 16 GiB are the least
    assert (rig.count, card.bf16_tflop_per_s, min(card.memory_gib)) == (2, 71, 16)
    assert rig.notes.startswith("of unlike cards (1 × NVIDIA GeForce RTX 4080 SUPER, 1 × NVIDIA GeForce RTX 3090)")


def test_a_card_that_is_too_slow_is_left_out_of_a_recorded_rig(tmp_path):
    rig = profiles.rig_named(unlike(tmp_path, "NVIDIA GeForce RTX 3060", 0x2503, 12))
    assert (rig.count, rig.gpu) == (1, "rtx-4080-super")
    assert "RTX 3060 left out" in rig.notes


def test_the_next_command_names_the_recording_and_a_table_has_what_was_predicted(rigbench):
    asked = ("--params", "5M", "--arms", "one", "--micro-batch", "4")
    code, out, _ = rigbench("--replay", RIGS / "dual-rtx4080s-x8x8", "train-probe", *asked)
    assert code == 0
    assert f"next: rigbench budget --replay {RIGS / 'dual-rtx4080s-x8x8'}" in " ".join(out.split())
    _, out, _ = rigbench("report", "--format", "csv")
    rows = {row["metric"]: row for row in csv.DictReader(io.StringIO(out)) if row["room"] == "arms"}
    assert rows.keys() == {"peak_bytes", "tokens_per_s", "step_seconds"}
    assert float(rows["tokens_per_s"]["value"]) * float(rows["step_seconds"]["value"]) == pytest.approx(2 * 4 * 1024)
    assert rows["peak_bytes"]["what"].endswith("predicted")
    under = "device 2xrtx-4080-super@gen4x8+p2p-off; count 2; method 2; micro-batch 4"
    assert {row["under"] for row in rows.values()} == {under}
