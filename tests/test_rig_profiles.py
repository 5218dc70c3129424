"""Are the shipped rigs sound, and does --on find what is meant?"""

import shlex

import pytest

from rigbench.core import card_names, profiles
from rigbench.core.errors import BAD_INPUT, RigbenchError
from rigbench.core.record import Absent
from rigbench.doctor.topics import topic
from rigbench.report.profiles import check

RIG = """name = "mine"
about = "my rig"
gpu = "rtx-3090"
count = 3
host_watts = 120
host_watts_basis = "a wall meter"
"""


@pytest.fixture(autouse=True)
def no_own_cards(monkeypatch):
    monkeypatch.setattr(profiles, "OWN_CARDS", {})


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
        ("4090", "rtx-4090", 1),
        ("RTX4090", "rtx-4090", 1),
        ("RTX 4090 24GB", "rtx-4090", 1),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "rtx-4090-laptop", 1),
        ("4090 mobile", "rtx-4090-laptop", 1),
        ("4090D", "rtx-4090-d", 1),
        ("2x 4080 Super", "rtx-4080-super", 2),
        ("4080 SUPER x2", "rtx-4080-super", 2),
        ("4070", "rtx-4070", 1),
        ("4070 super", "rtx-4070-super", 1),
        ("4070Ti", "rtx-4070-ti", 1),
        ("RTX 4070Ti Super", "rtx-4070-ti-super", 1),
        ("4060 Ti 8 GB", "rtx-4060-ti-8gb", 1),
        ("4060 Ti 16GB", "rtx-4060-ti", 1),
        ("A100-SXM4-80GB", "a100-sxm4-80gb", 1),
        ("A100 SXM 40GB", "a100-sxm4-40gb", 1),
        ("H100 PCIe", "h100-pcie", 1),
        ("8x H100 SXM5", "h100-80gb-hbm3", 8),
        ("Tesla V100-SXM2-32GB", "v100-sxm2-32gb", 1),
        ("dgx-spark", "gb10", 1),
        ("RTX 6000 Ada", "rtx-6000-ada-generation", 1),
        ("A6000", "rtx-a6000", 1),
        ("rtx pro 6000 max-q", "rtx-pro-6000-blackwell-max-q", 1),
        ("titan rtx", "titan-rtx", 1),
        ("rtx-3070", "rtx-3070", 1),
        ("rtx-3080-ti", "rtx-3080-ti", 1),
        ("rtx-4070-ti", "rtx-4070-ti", 1),
        ("rtx-4060", "rtx-4060", 1),
        ("rtx-5070", "rtx-5070", 1),
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
        ("2xrtx-408", "did you mean 2xrtx-4080"),
        ("2xrtx4800", "did you mean 2xrtx-4080 or 2x"),
        ("4x 4095", "did you mean 4xrtx-"),
        ("dual-rtx-4070", "did you mean dual-rtx-"),
        ("5090D", "did you mean rtx-5090 or "),
        ("RTX 2080 with Max-Q Design", "did you mean rtx-2080 or "),
        ("4090 48GB", "did you mean rtx-4090 or "),
        ("RTX 4050 Laptop GPU", "A card of your own is a FILE.toml: `rigbench explain cards`"),
        ("GTX Titan", "did you mean gtx-titan-x"),
        ("nvidia", "`rigbench profiles` lists them"),
        ("24gb", "`rigbench profiles` lists them"),
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


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (
            "a100",
            ["a100-pcie-40gb (40 GB)", "a100-80gb-pcie (80 GB)", "a100-sxm4-40gb (40 GB)", "a100-sxm4-80gb (80 GB)"],
        ),
        ("A100 80GB", ["a100-80gb-pcie (80 GB)", "a100-sxm4-80gb (80 GB)"]),
        ("8xh100", ["h100-pcie (80 GB)", "h100-80gb-hbm3 (80 GB)", "h100-nvl (94 GB)"]),
        ("v100 32GB", ["v100-sxm2-32gb (32 GB)", "v100-pcie-32gb (32 GB)"]),
        (
            "rtx-pro-6000",
            [f"rtx-pro-6000-blackwell-{which} (96 GB)" for which in ("workstation-edition", "max-q", "server")],
        ),
    ],
)
def test_a_beginning_of_several_names_is_refused_with_exactly_those(words, ids):
    with pytest.raises(RigbenchError) as refusal:
        profiles.rig_named(words)
    assert str(refusal.value) == f"--on {words!r} may be any of {len(ids)} cards; name one: {', '.join(ids)}"
    assert refusal.value.exit_code == BAD_INPUT


@pytest.mark.parametrize("gpu", profiles.gpus(), ids=lambda gpu: gpu.id)
def test_every_name_of_a_shipped_card_finds_that_card_and_no_variant_of_it(gpu):
    same_name = {other.id for other in profiles.gpus() if set(other.names) & set(gpu.names)}
    assert profiles.rig_named(gpu.id).gpu == gpu.id
    for name in (*gpu.names, *gpu.also):
        assert profiles.rig_named(name).gpu in same_name
        assert profiles.rig_named(f"{name} {gpu.memory_gib[0]:g}GB").gpu == gpu.id
    for variant in ("Ti", "SUPER", "Laptop GPU", "Max-Q", "D"):
        try:
            found = profiles.rig_named(f"{gpu.names[0]} {variant}")
        except RigbenchError:
            continue
        assert card_names.words(variant) <= card_names.words(found.gpu)


CARD = """memory_gib = 20
memory_bandwidth_gb_per_s = 700
fp32_tflop_per_s = 40
bf16_tflop_per_s = 80
power_limit_watts = 250
host_watts = 90
"""


def test_a_card_of_ones_own_is_a_file(tmp_path):
    path = tmp_path / "My Card.toml"
    path.write_text(CARD)
    rig = profiles.rig_named(f"2x{path}")
    gpu = profiles.gpu(rig.gpu)
    assert (rig.name, rig.count, rig.host_watts, rig.host_watts_basis) == ("2xmy-card", 2, 90, "My Card.toml")
    assert (gpu.memory_gib, gpu.pcie_lanes, gpu.p2p_over_pcie) == ((20,), 16, "no (as its file says)")
    assert profiles.peak("my-card", "bf16").value == 80e12
    assert isinstance(profiles.peak("my-card", "fp8"), Absent)


def test_a_command_that_is_named_asks_about_a_card_of_ones_own_by_its_file(tmp_path):
    path = tmp_path / "my card.toml"
    path.write_text(CARD)
    rig = profiles.rig_named(f"2x{path}@x8")
    asked = profiles.option_of(rig.name)
    option, name = shlex.split(asked)
    assert option == "--on"
    assert name == f"2x{path}@x8"
    assert profiles.rig_named(name) == rig
    assert profiles.option_of("2xrtx-4080@x8") == "--on 2xrtx-4080@x8"


def test_a_card_of_ones_own_never_takes_the_place_of_a_shipped_one(tmp_path):
    path = tmp_path / "rtx-4090.toml"
    path.write_text(CARD)
    assert profiles.rig_named(str(path)).gpu == "own-rtx-4090"
    assert profiles.gpu("rtx-4090").memory_gib == (24,)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (CARD.replace("memory_gib = 20", ""), "missing required field `memory_gib`"),
        (CARD + "colour = 1\n", "unknown field `colour`"),
        (CARD.replace("= 80", "= -80"), "at `$.bf16_tflop_per_s`"),
        (CARD + "pcie_lanes = 7\n", "at `$.pcie_lanes`"),
        (None, "cannot read it"),
    ],
)
def test_a_wrong_card_of_ones_own_is_refused_with_the_fields_that_there_are(tmp_path, text, complaint):
    path = tmp_path / "card.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RigbenchError) as refusal:
        profiles.rig_named(str(path))
    assert complaint in str(refusal.value)
    assert refusal.value.exit_code == BAD_INPUT
    for field in profiles.OwnCard.__struct_fields__:
        assert field in refusal.value.what_to_do
        assert field in topic("cards").text


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
