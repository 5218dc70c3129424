"""Are the shipped rigs sound, and does --on find what is meant?"""

import pytest

from rigbench.core import profiles
from rigbench.core.errors import BAD_INPUT, RigbenchError
from rigbench.core.record import Absent
from rigbench.report.profiles import check

RIG = """name = "mine"
about = "my rig"
gpu = "rtx-3090"
count = 3
host_watts = 120
host_watts_basis = "a wall meter"
"""


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    (tmp_path / "rigs").mkdir()
    monkeypatch.setenv("RIGBENCH_PROFILES", str(tmp_path))
    return tmp_path / "rigs"


def test_the_rigs_that_people_ask_for_are_shipped():
    assert {"dual-rtx-4080", "dual-rtx-3090", "quad-rtx-4090", "single-h200"} <= {rig.name for rig in profiles.rigs()}


@pytest.mark.parametrize("rig", profiles.rigs(), ids=lambda rig: rig.name)
def test_a_shipped_rig_is_whole_and_its_power_supply_carries_it(rig):
    watts = profiles.gpu(rig.gpu).power_limit_watts * rig.count + rig.host_watts
    assert isinstance(rig.psu_watts, Absent) or watts < rig.psu_watts < 3 * watts
    assert not isinstance(rig.host_memory_gib, Absent)
    assert rig.host_watts_basis.startswith("assumption") or "data sheet" in rig.host_watts_basis
    assert rig.name not in {gpu.id for gpu in profiles.gpus()}
    assert profiles.rig_named(rig.name) == rig


@pytest.mark.parametrize(
    ("words", "gpu", "count"),
    [
        ("dual-rtx-4080", "rtx-4080", 2),
        ("rtx-4080", "rtx-4080", 1),
        ("2xrtx-4080", "rtx-4080", 2),
        ("8×h100-80gb-hbm3", "h100-80gb-hbm3", 8),
        ("RTX 4090", "rtx-4090", 1),
        (" 4 x RTX 3090 ", "rtx-3090", 4),
        ("NVIDIA GeForce RTX 4060 Ti", "rtx-4060-ti", 1),
        ("Tesla T4", "t4", 1),
    ],
)
def test_hardware_is_named_as_people_name_it(words, gpu, count):
    rig = profiles.rig_named(words)
    assert (rig.gpu, rig.count) == (gpu, count)


def test_of_mere_cards_the_host_is_not_known():
    assert profiles.rig_named("2xrtx-4080").host_watts == Absent("not stated")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("rtx-4098", "no rig or GPU profile 'rtx-4098' for --on; did you mean rtx-4090 or "),
        ("2xrtx-408", "did you mean rtx-4080"),
        ("dual-rtx-4070", "did you mean dual-rtx-"),
        ("rtx-490", "did you mean rtx-4090"),
        ("0xrtx-4080", "is 0 cards; give 1 to 1,024"),
        ("5000xrtx-4080", "is 5,000 cards; give 1 to 1,024"),
        ("-1xrtx-4080", "no rig or GPU profile"),
        ("", "no rig or GPU profile ''"),
        ("x", "no rig or GPU profile 'x'"),
        ("abacus", "`rigbench profiles` lists them"),
    ],
)
def test_unknown_hardware_is_refused_with_what_comes_near(words, complaint):
    with pytest.raises(RigbenchError) as refusal:
        profiles.rig_named(words)
    assert complaint in str(refusal.value)
    assert refusal.value.exit_code == BAD_INPUT


def test_a_rig_of_ones_own_adds_to_the_shipped_ones(own_folder):
    (own_folder / "mine.toml").write_text(RIG)
    assert profiles.rig_named("mine").host_watts == 120
    assert isinstance(profiles.rig_named("mine").psu_watts, Absent)
    assert len(profiles.rigs()) == 14


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (RIG.replace("count = 3", "count = 0"), r"at `\$\.count`"),
        (RIG.replace("count = 3", "cards = 3"), "unknown field `cards`"),
        (RIG.replace('host_watts_basis = "a wall meter"\n', ""), "mine: host_watts and host_watts_basis go together"),
        (RIG + "psu_efficiency = 90\n", r"at `\$\.psu_efficiency`"),
        (RIG + 'psu_watts_basis = "its label"\n', "mine: psu_watts and psu_watts_basis go together"),
        (RIG.replace("rtx-3090", "rtx-9090"), "the rig mine has the GPU 'rtx-9090', which has no profile"),
        ("name = ", "is not TOML"),
    ],
)
def test_a_malformed_rig_is_named_with_a_cure(own_folder, text, complaint):
    (own_folder / "mine.toml").write_text(text)
    with pytest.raises(RigbenchError, match=complaint) as refusal:
        check()
    assert refusal.value.what_to_do
    assert refusal.value.exit_code == BAD_INPUT
