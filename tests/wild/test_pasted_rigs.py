"""Does what people paste of their rigs become a capture that says no more and no less than they did?"""

import gzip
import json
import re
import time

import pytest
from pasted_rigs import Card, lspci, matrix, query, table, xml

from rigbench.capture.command import from_pasted, record
from rigbench.capture.pasted import capture_of
from rigbench.core import profiles
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.machine.rig import Rig
from rigbench.topology import survey

TWO = [Card(), Card("41:00.0", width=(16, 16), reasons=("SW Power Cap", "HW Slowdown", "HW Thermal Slowdown"))]


def topology(tmp_path, *texts):
    paths = []
    tmp_path.mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        paths.append(tmp_path / f"pasted-{number}.txt")
        paths[-1].write_bytes(text if isinstance(text, bytes) else text.encode())
    from_pasted(tmp_path / "made", paths, False)
    rig = Rig.replay(tmp_path / "made")
    return rig, survey.run(rig, profiles.match_gpu)


@pytest.mark.parametrize("text", [query(TWO), query(TWO, old=True), xml(TWO), query(TWO).replace("\n", "\r\n")])
def test_a_query_says_what_the_driver_said(tmp_path, text):
    rig, found = topology(tmp_path, text)
    first, second = found.gpus
    assert (first.name, first.pci_bus_id, first.memory_total_bytes) == (TWO[0].name, "0000:01:00.0", 24564 << 20)
    assert (first.link_generation_now, first.link_generation_max, first.link_width_now_lanes) == (1, 4, 8)
    assert (second.link_width_now_lanes, first.link_width_max_lanes) == (16, 16)
    assert (first.power_limit_watts, first.power_limit_min_watts, first.power_limit_max_watts) == (450, 150, 600)
    assert first.bar1_total_bytes == 32768 << 20
    assert rig.nvml.driver_version() == "550.54.14"
    reading = rig.nvml.reading
    assert reading(0, "throttle_bits") == 0x1
    assert reading(1, "throttle_bits") == 0x4 | 0x8 | 0x40
    assert (reading(0, "temperature_celsius"), reading(0, "slowdown_celsius")) == (41, 92)
    assert (reading(0, "power_watts"), reading(0, "sm_clock_hertz"), reading(0, "pcie_replays")) == (21.3, 210e6, 7)
    unsaid = Absent(f"not in what this recording was made from nvidia-smi -q{' -x' * text.startswith('<?xml')}")
    assert reading(0, "energy_joules") == unsaid
    assert reading(0, "memory_temperature_celsius") == unsaid
    made = "".join(path.read_text() for path in (tmp_path / "made").iterdir())
    assert TWO[0].uuid not in made
    assert "1320220000000" not in made


def test_a_table_of_windows_has_the_drivers_model_where_linux_has_persistence(tmp_path):
    rows = re.sub(r"(\| +\d  .*?) (On|Off) +\|", r"\1 WDDM |", table(TWO), count=2)
    assert rows.count("WDDM") == 2
    _, found = topology(tmp_path, "C:\\Users\\someone>nvidia-smi\r\n" + rows.replace("\n", "\r\n"))
    assert [card.memory_total_bytes for card in found.gpus] == [24564 << 20] * 2
    assert "PersistenceMode" not in (tmp_path / "made" / "nvml.txt").read_text()


MIG = """\
+---------------------------------------------------------------------------------------+
| NVIDIA-SMI 540.3.0                Driver Version: {driver}          CUDA Version: 12.6     |
|-----------------------------------------+----------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id        Disp.A | Volatile Uncorr. ECC |
|=========================================+======================+======================|
|   0  {name}          {mode}  | {bus} {display} |                  N/A |
| N/A   N/A  N/A               N/A /  N/A | Not Supported        |     N/A          N/A |
|                                         |                      |{mig:>21} |
+-----------------------------------------+----------------------+----------------------+
"""


@pytest.mark.parametrize("mig", ["Enabled", "Disabled", "N/A"])
def test_the_last_row_of_a_card_says_whether_it_is_parted(tmp_path, mig):
    text = MIG.format(
        driver="550.54.15", name="NVIDIA A100-SXM4-40GB", mode="On", bus="00000000:07:00.0", display="Off", mig=mig
    )
    rig, _ = topology(tmp_path, text)
    said = rig.nvml.reading(0, "mig_enabled")
    assert said is (mig == "Enabled") if mig != "N/A" else isinstance(said, Absent)


def test_a_jetson_has_no_bus_no_memory_and_no_driver_of_its_own(tmp_path):
    text = MIG.format(
        driver="N/A    ", name="Orin (nvgpu)        ", mode="N/A", bus="N/A            ", display="N/A", mig="N/A"
    )
    rig, found = topology(tmp_path, text)
    [card] = found.gpus
    assert card.name == "NVIDIA Orin (nvgpu)"
    assert isinstance(card.memory_total_bytes, Absent)
    assert isinstance(rig.nvml.driver_version(), Absent)


def test_amds_tools_are_named(tmp_path):
    (tmp_path / "a").write_text("=== ROCm System Management Interface ===\n0  2  0x74a1  44.0°C  142.0W  750.0W  0%\n")
    with pytest.raises(RigbenchError, match="is of AMD's cards"):
        capture_of([tmp_path / "a"])


def test_the_plain_table_says_less_and_the_rest_is_absent_with_that_reason(tmp_path):
    rig, found = topology(tmp_path, table(TWO))
    [first, second] = found.gpus
    assert (first.name, second.pci_bus_id, first.memory_total_bytes) == (TWO[0].name, "0000:41:00.0", 24564 << 20)
    assert first.link_width_now_lanes == Absent("not in what this recording was made from nvidia-smi")
    assert rig.nvml.reading(1, "power_watts") == 21
    assert "someone" not in "".join(path.read_text() for path in (tmp_path / "made").iterdir())


@pytest.mark.parametrize(
    ("labels", "pairs", "links"),
    [
        ([["X", "PHB"], ["PHB", "X"]], {"PHB"}, 0),
        ([["X", "NV4"], ["NV4", "X"]], {"NV4"}, 4),
        ([["X", *["NV18"] * 3], ["NV18", "X", "NV18", "NV18"], ["NV18"] * 2 + ["X", "NV18"], ["NV18"] * 3 + ["X"]],
         {"NV18"}, 18),
        ([["X", "SYS", "PIX"], ["SYS", "X", "SYS"], ["PIX", "SYS", "X"]], {"SYS", "PIX"}, 0),
    ],
)  # fmt: skip
def test_a_matrix_gives_the_drivers_own_labels_and_its_nvlinks(tmp_path, labels, pairs, links):
    cards = [Card(f"{16 * number + 1:02x}:00.0") for number in range(len(labels))]
    nodes = (("0-15,32-47", "0"), ("16-31,48-63", "1"))
    rig, found = topology(tmp_path, query(cards), matrix(labels, nodes))
    if links:
        assert set(rig.nvml.nvlinks(len(labels)).values()) == {links}
        return
    for one, row in enumerate(labels):
        for other, label in enumerate(row):
            assert one == other or rig.nvml.common_ancestor(one, other) == label
    assert json.loads((tmp_path / "made/rig.json").read_text())["nodes"] == {"0": "0-15,32-47", "1": "16-31,48-63"}
    assert len(found.gpus) == len(labels)


BRIDGE, CARD = "Intel Corporation Device 460d", "NVIDIA Corporation AD102 [GeForce RTX 4090]"
FUNCTIONS = [
    ("00:01.0", "PCI bridge", BRIDGE, "8086:460d", "01", (2.5, 8), (16, 16), "Root Port (Slot+)"),
    ("01:00.0", "VGA compatible controller", CARD, "10de:2684", "", (2.5, 8), (16, 16), "Legacy Endpoint"),
    ("40:01.0", "PCI bridge", BRIDGE, "8086:460d", "41", (16, 16), (16, 16), "Root Port (Slot+)"),
    ("41:00.0", "VGA compatible controller", CARD, "10de:2684", "", (16, 16), (16, 16), "Legacy Endpoint"),
]


@pytest.mark.parametrize("numbers", [True, False])
def test_lspci_gives_the_tree_its_links_and_what_keeps_functions_apart(tmp_path, numbers):
    _, found = topology(tmp_path, lspci(FUNCTIONS, numbers), query(TWO))
    functions = json.loads((tmp_path / "made/pci.json").read_text())
    card = functions["0000:01:00.0"]
    assert (card["parent"], card["root"], card["numa"], card["iommu_group"]) == ("0000:00:01.0", "pci0000:00", 0, 14)
    assert (card["class"], card["vendor"], card["cur_width"], card["max_speed"]) == ("0x030000", "0x10de", 8, 16.0)
    assert functions["0000:00:01.0"]["acs"] == ["SrcValid+", "ReqRedir+"]
    assert functions["0000:00:01.0"]["port_type"] == "Root Port"
    assert [path.hops[-1].width_now_lanes for path in found.paths] == [8, 16]


TREE = """-+-[0000:c0]-+-00.0  Advanced Micro Devices, Inc. [AMD] Root Complex
 |           \\-01.1-[c1-c4]----00.0-[c2-c4]--+-00.0-[c3]--+-00.0  NVIDIA Corporation AD102 [GeForce RTX 4090]
 |                                           |            \\-00.1  NVIDIA Corporation AD102 High Definition Audio Controller
 |                                           \\-10.0-[c4]----00.0  NVIDIA Corporation AD102 [GeForce RTX 4090]
 \\-[0000:00]-+-00.0  Advanced Micro Devices, Inc. [AMD] Root Complex
             \\-03.1-[01]----00.0  NVIDIA Corporation AD102 [GeForce RTX 4090]
"""


def test_the_tree_of_lspci_says_who_shares_a_switch(tmp_path):
    _, found = topology(tmp_path, TREE)
    functions = json.loads((tmp_path / "made/pci.json").read_text())
    parents = {bus: function["parent"] for bus, function in functions.items()}
    assert parents["0000:c3:00.0"] == "0000:c2:00.0"
    assert parents["0000:c4:00.0"] == "0000:c2:10.0"
    assert parents["0000:c2:00.0"] == parents["0000:c2:10.0"] == "0000:c1:00.0"
    assert parents["0000:c1:00.0"] == "0000:c0:01.1"
    assert parents["0000:01:00.0"] == "0000:00:03.1"
    assert functions["0000:c4:00.0"]["root"] == "pci0000:c0"
    assert len(found.gpus) == 3, "the sound of a card is no card"


def test_a_bug_report_is_read_packed_with_its_host_and_without_its_names(tmp_path):
    report = "\n".join([
        "____________________________________________", "", "uname: Linux secrethost 6.8.0-45-generic #45 SMP x86_64", "",
        "*** /proc/cmdline", "*** ls: -r--r--r-- 1 root root 0 2026-11-28 12:00:00 /proc/cmdline",
        "BOOT_IMAGE=/vmlinuz root=UUID=1234-5678 iommu=pt quiet", "", "processor\t: 0", "vendor_id\t: AuthenticAMD",
        "model name\t: AMD EPYC 7502 32-Core Processor", "flags\t\t: fpu vme", "",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build", "", lspci(FUNCTIONS),
        "____________________________________________", "", query(TWO), "____________________________________________",
        "[  100.0] NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
        "[  101.0] secrethost systemd: NVRM: hello", "",
    ])  # fmt: skip
    rig, found = topology(tmp_path, gzip.compress(report.encode()))
    host = json.loads((tmp_path / "made/rig.json").read_text())
    assert (host["kernel"], host["cpu_vendor"], host["driver_flavour"]) == ("6.8.0-45-generic", "AuthenticAMD", "open")
    assert (host["cmdline"], host["virtual"]) == ("iommu=pt quiet", False)
    assert found.virtual_machine == Absent("no sign of a hypervisor")
    assert len(found.gpus) == 2
    assert any("Xid (PCI:0000:01:00): 79" in line for line in rig.kernel_lines)
    assert not re.search("secrethost|1234-5678", "".join(path.read_text() for path in (tmp_path / "made").iterdir()))


@pytest.mark.parametrize("text", ["", "hello\n", "step 1 | loss 3.0\n", "<nvidia_smi_log>broken", "\x00\x01"])
def test_what_is_none_of_them_is_refused_and_leaves_nothing(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(RigbenchError) as caught:
        from_pasted(tmp_path / "made", [tmp_path / "a.txt"], False)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("line", ["GPU0\t" + "PIX\t" * 400, "LnkCap:\t" + "9" * 4000, "| " + " " * 4000, "[" * 4000,
                                  "-+-[0000:00]" + "-+-" * 1300, "NVIDIA-SMI " + " " * 4000, "cudaDev 1 busId " + "a" * 4000])  # fmt: skip
def test_a_long_line_costs_its_length(tmp_path, line):
    """No bound in seconds: twice as many lines take about twice as long, where a square would take four times."""

    def taken(times):
        path = tmp_path / f"{times}.txt"
        path.write_text(query(TWO) + f"{line}\n" * times)
        started = time.process_time()
        capture_of([path])
        return time.process_time() - started

    taken(10)
    once, twice = (min(taken(times) for _ in range(2)) for times in (60, 120))
    assert twice < 3.5 * once + 0.05


def test_a_plain_list_of_lspci_is_cards_without_links(tmp_path):
    plain = "".join(f"{line}\n" for line in lspci(FUNCTIONS, False).split("\n") if line[:1].isdigit())
    _, found = topology(tmp_path, plain)
    assert len(found.gpus) == 2
    assert all(isinstance(gpu.link_width_now_lanes, Absent) for gpu in found.gpus)


def test_a_recording_of_pasted_text_is_not_captured_again_as_if_it_were_a_machines(tmp_path):
    topology(tmp_path, query(TWO))
    with pytest.raises(RigbenchError, match="was made from pasted text"):
        record(tmp_path / "again", tmp_path / "made", False, False)


@pytest.mark.parametrize("cut", range(0, 100, 7))
def test_a_paste_that_is_cut_anywhere_says_nothing_false(tmp_path, cut):
    text = query(TWO)
    text = text[: len(text) * cut // 100]
    if "\nGPU 0" not in text:
        return
    _, found = topology(tmp_path, text)
    for gpu in found.gpus:
        for value, true in (
            (gpu.memory_total_bytes, 24564 << 20),
            (gpu.link_generation_max, 4),
            (gpu.power_limit_watts, 450),
        ):
            assert isinstance(value, Absent) or value == true


def test_whether_it_is_a_virtual_machine_is_said_only_where_the_paste_does(tmp_path):
    _, found = topology(tmp_path, query(TWO))
    assert json.loads((tmp_path / "made/rig.json").read_text())["virtual"] is None
    assert found.virtual_machine == Absent("the processor's flags, which tell it, are not known")


def test_of_two_reports_the_first_that_says_something_of_the_host_wins(tmp_path):
    first, second = (
        f"Linux version {kernel}\nmodel name\t: {cpu}\n" for kernel, cpu in (("6.8.0", "A"), ("5.4.0", "B"))
    )
    topology(tmp_path, query(TWO), first, second + "vendor_id\t: GenuineIntel\n")
    host = json.loads((tmp_path / "made/rig.json").read_text())
    assert (host["kernel"], host["cpu"], host["cpu_vendor"]) == ("6.8.0", "A", "GenuineIntel")


@pytest.mark.parametrize("text", [query(TWO), table(TWO), lspci(FUNCTIONS), xml(TWO)])
def test_a_second_file_of_a_kind_is_known_too(tmp_path, text):
    once, twice = (topology(tmp_path / str(count), *[text] * count)[1].gpus for count in (1, 2))
    assert once == twice
