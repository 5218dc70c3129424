"""Are the shipped profiles sound, is a GPU matched exactly or not at all, and are bad files named?"""

import json
import re

import jsonschema
import pytest

from rigbench.core import profiles
from rigbench.core.errors import BAD_INPUT, RigbenchError
from rigbench.core.record import Absent, Figure
from rigbench.document import run_schema
from rigbench.model import shape
from rigbench.report import profiles as report

GIB, MIB = 1 << 30, 1 << 20


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A folder of the user's own profiles."""
    monkeypatch.setenv("RIGBENCH_PROFILES", str(tmp_path))
    return tmp_path


def a_gpu(**changes):
    lines = {
        "id": '"my-card"',
        "names": '["NVIDIA My Card"]',
        "architecture": '"Ada"',
        "compute_capability": '"8.9"',
        "memory_gib": "[16]",
        "memory_bandwidth_gb_per_s": "500",
        "fp32_tflop_per_s": "20",
        "pcie_generation": "4",
        "pcie_lanes": "16",
        "nvlink_gb_per_s_per_direction": "0",
        "p2p_over_pcie": '"no"',
        "peak_basis": '"its box"',
    } | changes
    return "[[gpu]]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items() if value)


def test_every_shipped_profile_is_well_formed():
    assert report.check() == (
        "profiles are well formed: 104 GPUs, 3 series (diy, llama, tiny), 64 published models, "
        "11 electricity prices, 30 cloud prices, 13 rigs"
    )


def test_no_two_shipped_cards_share_a_pci_id_an_id_or_a_name_with_the_same_memory():
    gpus = profiles.gpus()
    for facts in (
        [gpu.id for gpu in gpus],
        [(name, size) for gpu in gpus for name in gpu.names for size in gpu.memory_gib],
        sum((gpu.pci_device_ids for gpu in gpus), ()),
    ):
        assert len(facts) == len(set(facts))


def test_cards_of_one_name_know_of_each_others_memory():
    by_name: dict[str, list[profiles.GpuProfile]] = {}
    for gpu in profiles.gpus():
        for name in gpu.names:
            by_name.setdefault(name, []).append(gpu)
    twins = [gpus for gpus in by_name.values() if len(gpus) > 1]
    assert {gpus[0].id for gpus in twins} == {"rtx-3080-12gb", "rtx-4060-ti-8gb", "rtx-5060-ti-8gb"}
    for a, b in twins:
        assert set(a.memory_gib) <= set(b.same_name_memory_gib)
        assert set(b.memory_gib) <= set(a.same_name_memory_gib)


@pytest.mark.parametrize("gpu", profiles.gpus(), ids=lambda gpu: gpu.id)
def test_a_cards_figures_agree_with_each_other(gpu):
    older = re.match("Maxwell|Pascal|Volta|Turing", gpu.architecture)
    assert isinstance(gpu.bf16_tflop_per_s, Absent) == bool(older)
    assert isinstance(gpu.tf32_tflop_per_s, Absent) == bool(older or gpu.id == "mi250x")
    if not older:
        assert gpu.bf16_tflop_per_s == gpu.fp16_tflop_per_s
    if isinstance(gpu.tf32_tflop_per_s, float):
        assert gpu.tf32_tflop_per_s == pytest.approx(gpu.bf16_tflop_per_s / 2, rel=0.02)
    if isinstance(gpu.fp8_tflop_per_s, float):
        assert gpu.fp8_tflop_per_s == pytest.approx(gpu.bf16_tflop_per_s * 2, rel=0.02)


def floating_point_operations_per_clock(gpu, tflop_per_s):
    return tflop_per_s * 1e6 / gpu.multiprocessors / gpu.boost_clock_mhz


# Operations per clock and multiprocessor, from NVIDIA's architecture whitepapers: GeForce runs bf16 at half rate.
PER_CLOCK = {"8.0": (128, 2048), **dict.fromkeys(("8.6", "8.9", "12.0", "12.1"), (256, 1024))}
RESTS_ON_CLOCK = [gpu for gpu in profiles.gpus() if gpu.compute_capability in PER_CLOCK and gpu.id != "a10g"]


@pytest.mark.parametrize("gpu", RESTS_ON_CLOCK, ids=lambda gpu: gpu.id)
def test_peaks_follow_from_multiprocessors_and_clock(gpu):
    fp32, bf16 = PER_CLOCK[gpu.compute_capability]
    half = 2 if "GeForce" in gpu.names[0] or gpu.id == "l40" else 1
    assert floating_point_operations_per_clock(gpu, gpu.fp32_tflop_per_s) == pytest.approx(fp32, rel=0.01)
    assert floating_point_operations_per_clock(gpu, gpu.bf16_tflop_per_s) == pytest.approx(bf16 / half, rel=0.015)


# NVIDIA's whitepapers: dense bf16 with fp32 accumulate.
@pytest.mark.parametrize(
    ("gpu", "tflop_per_s", "standing"),
    [
        ("rtx-4090", 165.2, "published"),
        ("rtx-4080", 97.5, "published"),
        ("rtx-3090", 71, "published"),
        ("rtx-4080-super", 104.4, "derived"),
        ("a100-sxm4-80gb", 312, "published"),
        ("h100-80gb-hbm3", 989.5, "published"),
    ],
)
def test_the_bf16_peak_is_dense_with_fp32_accumulate(gpu, tflop_per_s, standing):
    peak = profiles.peak(gpu, "bf16")
    assert peak.value == pytest.approx(tflop_per_s * 1e12)
    assert (peak.source, peak.basis) == (
        "datasheet",
        f"{profiles.gpu(gpu).names[0]}, {standing}, dense, fp32 accumulate",
    )


def test_a_card_without_bf16_has_no_bf16_peak():
    assert set(profiles.peaks("t4")) == {"fp16", "fp16-acc16", "fp32"}
    assert profiles.peak("t4", "fp16-acc16").basis.endswith("dense, fp16 accumulate")
    assert profiles.peak("t4", "bf16") == Absent("no bf16_tflop_per_s in the profile t4")
    assert set(profiles.peaks("gtx-1080-ti")) == {"fp32"}


def test_a_weak_figure_is_kept_but_never_a_peak():
    assert profiles.gpu("a10g").bf16_tflop_per_s == 70
    assert profiles.peaks("a10g") == {}
    assert profiles.peak("a10g", "bf16") == Absent("the profile a10g has only a weak source for bf16_tflop_per_s")
    assert isinstance(profiles.memory_bandwidth("a10g"), Figure)


def test_an_mi250x_is_two_devices_and_the_profile_is_of_one():
    assert profiles.memory_bandwidth("mi250x").value == pytest.approx(3277e9 / 2)
    assert profiles.peak("mi250x", "bf16").value == pytest.approx(383e12 / 2)


@pytest.mark.parametrize(
    ("pci_id", "name", "memory_mib", "profile"),
    [  # as the driver reported them on real machines
        ("2702", "NVIDIA GeForce RTX 4080 SUPER", 16376, "rtx-4080-super"),
        ("2330", "NVIDIA H100 80GB HBM3", 81559, "h100-80gb-hbm3"),
        ("2335", "NVIDIA H200", 143771, "h200"),
        ("26B1", "NVIDIA RTX 6000 Ada Generation", 49140, "rtx-6000-ada-generation"),
        (
            "2bb1",
            "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
            97887,
            "rtx-pro-6000-blackwell-workstation-edition",
        ),
        ("27B8", "NVIDIA L4", 23034, "l4"),
        (None, "Tesla T4", 15109, "t4"),
        (None, "Tesla V100-SXM2-32GB", 32510, "v100-sxm2-32gb"),
        (None, "NVIDIA GeForce RTX 4060 Ti", 8188, "rtx-4060-ti-8gb"),
        (None, "NVIDIA GeForce RTX 3080", 12288, "rtx-3080-12gb"),
        (None, "NVIDIA GeForce RTX 3080", 10240, "rtx-3080"),
        ("0x2684", None, None, "rtx-4090"),
        (None, "GeForce RTX 3090", None, "rtx-3090"),
    ],
)
def test_a_card_is_matched_by_pci_id_then_by_exact_name(pci_id, name, memory_mib, profile):
    assert profiles.match_gpu(pci_id, name, memory_mib * MIB if memory_mib else None) == profile


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4050 Laptop GPU",
        "NVIDIA GeForce RTX 5090 D",
        "NVIDIA GeForce RTX 5080 Ti",
        "NVIDIA GeForce RTX 2070 Super with Max-Q Design",
        "NVIDIA GeForce RTX 409",
        "nvidia geforce rtx 4090",
        "4090",
        "",
    ],
)
def test_a_similar_name_stays_unknown_and_says_how_to_add_a_profile(name):
    answer = profiles.match_gpu("FFFF", name, None)
    assert isinstance(answer, Absent)
    assert "gpus.toml says how to add one" in answer.reason


def test_nothing_known_is_unknown():
    assert profiles.match_gpu(None, None, None).reason.startswith("no profile of a GPU without name and PCI id; ")


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [("NVIDIA GeForce RTX 2060", 6, 12), ("NVIDIA GeForce RTX 3060", 12, 8), ("NVIDIA GeForce RTX 3080", 12, 20)],
)
def test_variants_under_one_name_are_told_apart_by_memory(name, right, wrong):
    assert isinstance(profiles.match_gpu(None, name, right * GIB), str)
    assert f"not with {wrong}.0 GiB" in profiles.match_gpu(None, name, wrong * GIB).reason
    assert "memory would decide" in profiles.match_gpu(None, name, None).reason


def test_a_pci_id_and_a_name_of_different_cards_match_neither():
    answer = profiles.match_gpu("2684", "NVIDIA GeForce RTX 3090", 24 * GIB)
    assert answer == Absent("PCI id 2684 is of rtx-4090, the name 'NVIDIA GeForce RTX 3090' of rtx-3090")


def test_a_mig_slice_has_no_datasheet():
    assert "MIG" in profiles.match_gpu("20B0", "NVIDIA A100-SXM4-40GB MIG 3g.20gb", 20 * GIB).reason


def test_the_default_price_carries_its_place_and_date():
    price = profiles.electricity()
    assert (price.per_kwh, price.currency, price.place, price.date) == (
        0.2872,
        "EUR",
        "EU-27, household average",
        "2025-H1",
    )
    assert profiles.electricity("us").currency == "USD"
    with pytest.raises(RigbenchError, match="no electricity price 'mars'; there are eu-27, us"):
        profiles.electricity("mars")


def test_a_users_own_profiles_add_to_the_shipped_ones_and_replace_those_of_the_same_id(own_folder):
    (own_folder / "gpus.toml").write_text(a_gpu() + a_gpu(id='"rtx-4090"', names='["NVIDIA GeForce RTX 4090"]'))
    (own_folder / "prices.toml").write_text(
        '[[electricity]]\nid = "home"\ndefault = true\nper_kwh = 0.1\ncurrency = "EUR"\nplace = "home"\ndate = "2026"\n'
        'source = "my bill"\n'
    )
    assert profiles.match_gpu(None, "NVIDIA My Card", 16 * GIB) == "my-card"
    assert profiles.gpu("rtx-4090").peak_basis == "its box"
    assert len(profiles.gpus()) == 105
    assert profiles.electricity().source == "my bill"


def test_two_profiles_of_one_name_are_told_apart_by_memory_or_not_at_all(own_folder):
    (own_folder / "gpus.toml").write_text(a_gpu() + a_gpu(id='"my-8gb"', memory_gib="[8]"))
    assert profiles.match_gpu(None, "NVIDIA My Card", 8 * GIB) == "my-8gb"
    assert profiles.match_gpu(None, "NVIDIA My Card", None).reason.startswith("my-card or my-8gb: memory would decide")
    (own_folder / "more").mkdir()
    twins = own_folder / "more" / "gpus.toml"
    twins.write_text(a_gpu() + a_gpu(id='"twin"'))
    assert {gpu.id for gpu in profiles._read(twins, profiles.GpuFile).gpu} == {"my-card", "twin"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[gpu]\n", "is not TOML.*line 1"),
        (a_gpu(colour='"red"'), r"unknown field `colour` - at `\$\.gpu\[0\]`"),
        (a_gpu() + a_gpu(memory_gib='"16"'), r"Expected `array`, got `str` - at `\$\.gpu\[1\]\.memory_gib`"),
        (a_gpu(fp32_tflop_per_s="nan"), r"at `\$\.gpu\[0\]\.fp32_tflop_per_s`"),
        (a_gpu(fp32_tflop_per_s="inf"), r"at `\$\.gpu\[0\]\.fp32_tflop_per_s`"),
        (a_gpu(fp32_tflop_per_s="1e-308"), r"at `\$\.gpu\[0\]\.fp32_tflop_per_s`"),
        (a_gpu(pcie_lanes="-16"), r"at `\$\.gpu\[0\]\.pcie_lanes`"),
        (a_gpu(pci_device_ids='["0x2684"]'), r"at `\$\.gpu\[0\]\.pci_device_ids\[0\]`"),
        (a_gpu(id=""), r"missing required field `id` - at `\$\.gpu\[0\]`"),
        (a_gpu(weak='["bf16_tflop_per_s"]'), "my-card: `derived` and `weak` list figures of this card"),
        (a_gpu(sources='["hearsay"]'), "my-card: no source 'hearsay'"),
    ],
)
def test_a_malformed_profile_is_named_with_the_place_in_it_and_a_cure(own_folder, text, complaint):
    (own_folder / "gpus.toml").write_text(text)
    with pytest.raises(RigbenchError, match=complaint) as refusal:
        profiles.gpus()
    assert str(own_folder / "gpus.toml") in refusal.value.what_happened
    assert refusal.value.what_to_do
    assert refusal.value.exit_code == BAD_INPUT


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ('{ name = "1M", layers = 4, width = 100, heads = 3, ffn_width = 8 }', "1M: heads must divide the width"),
        ('{ name = "1M", layers = 4, width = 96, heads = 3, kv_heads = 2, ffn_width = 8 }', "and kv_heads the heads"),
        ('{ name = "1M", layers = 4, width = 96, heads = 3 }', "1M: a llama's ffn_width must be stated"),
        ('{ name = "1M", layers = 0, width = 96, heads = 3 }', r"at `\$\.models\[0\]\.layers`"),
    ],
)
def test_an_impossible_shape_is_refused(own_folder, model, complaint):
    (own_folder / "series").mkdir()
    (own_folder / "series" / "mine.toml").write_text(
        f'name = "mine"\nabout = "a"\nsource = "s"\nmodels = [{model}]\n'
        '[shape]\nstyle = "llama"\nvocabulary = 100\nsequence = 10\ntied_head = true\nbiases = false\n'
    )
    with pytest.raises(RigbenchError, match=complaint):
        shape.series("mine")


def test_unreadable_and_missing_places_get_one_line(own_folder, monkeypatch):
    (own_folder / "gpus.toml").mkdir()
    with pytest.raises(RigbenchError, match="cannot read it"):
        profiles.gpus()
    monkeypatch.setenv("RIGBENCH_PROFILES", str(own_folder / "nowhere"))
    with pytest.raises(RigbenchError, match="is not a folder"):
        profiles.gpus()


@pytest.mark.parametrize("question", [profiles.gpu, shape.series, report.as_json])
def test_an_unknown_name_is_refused(question):
    with pytest.raises(RigbenchError, match="'rtx-9090'"):
        question("rtx-9090")


@pytest.mark.parametrize("name", ["rtx-4090", "diy", "pythia-160m", "eu-27"])
def test_any_profile_can_be_had_as_json(name):
    assert json.loads(report.as_json(name)).get("id", json.loads(report.as_json(name)).get("name")) == name
    assert set(json.loads(report.as_json())) == {"gpus", "series", "models", "prices", "rigs"}


def test_the_schema_of_a_run_is_a_json_schema():
    jsonschema.Draft202012Validator.check_schema(json.loads(run_schema()))
