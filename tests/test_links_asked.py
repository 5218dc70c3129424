"""Does what is said, recorded or assumed of links decide a prediction for several cards, and is it told?"""

import json
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
    # As --on would take it, so that the next command can name it too.
    profiles.RECORDED.clear()
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
