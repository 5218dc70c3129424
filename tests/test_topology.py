"""Does a recorded rig come back as the rig it was: its facts, the vendor's matrix, the whole screen?"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakenvml.expand_sysfs import expand, expand_recording, write
from rich.console import Console

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.machine import pci
from rigbench.machine.nvml import NO_DRIVER, Nvml
from rigbench.machine.record import GpuProcess, PciDevice
from rigbench.machine.replay import ReplayedDriver, parse_recording
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import Sysfs
from rigbench.topology import gpus_screen as render_gpus
from rigbench.topology import screen as render
from rigbench.topology import survey as probe
from rigbench.topology.record import Topology

RIGS = Path(__file__).parent / "rigs"
ALL = sorted(path.name for path in RIGS.iterdir() if (path / "rig.json").exists())
WITH_MATRIX = [name for name in ALL if (RIGS / name / "expected.json").exists()]
NOT_REPORTED = Absent("not reported")


def match_profile(device_id: str | None, name: str | None, _memory_bytes: int | None) -> str | Absent:
    return {"2702": "rtx-4080-super"}.get(device_id or "", Absent(f"no profile for {name}"))


def read(rig: Rig) -> Topology:
    return probe.run(rig, match_profile)


def screen(topology: Topology) -> str:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    render.show(topology, console)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def without_driver(root: Path) -> Rig:
    return Rig(Sysfs(root), Nvml(Absent(NO_DRIVER)))


@pytest.mark.parametrize("name", ALL)
def test_the_whole_screen_of_every_recorded_rig(name: str) -> None:
    assert screen(read(Rig.replay(RIGS / name))) == (RIGS / name / "screen.txt").read_text()


@pytest.mark.parametrize("name", WITH_MATRIX)
def test_the_matrix_is_what_the_vendors_tool_printed(name: str) -> None:
    expected = json.loads((RIGS / name / "expected.json").read_text())
    found = read(Rig.replay(RIGS / name))
    assert {label: list(row) for label, row in found.matrix.items()} == expected["topo"]
    assert list(found.matrix) == expected["labels"]
    assert {label: found.matrix_bus_ids[label] for label in expected.get("bdf", {})} == expected.get("bdf", {})
    assert not [warning for warning in found.warnings if "in the PCI tree" in warning]


@pytest.mark.parametrize("name", WITH_MATRIX)
def test_real_files_and_a_replay_give_the_same_tree(name: str, tmp_path: Path) -> None:
    expand_recording(RIGS / name, tmp_path)
    replayed = Rig.replay(RIGS / name)
    assert comparable(pci.devices(Sysfs(tmp_path))) == comparable(pci.devices(replayed.sysfs))


def comparable(functions: tuple[PciDevice, ...] | Absent) -> list[dict[str, object]]:
    """Without what the folder of files does not hold, and whatever the words for a missing reading are."""
    assert isinstance(functions, tuple)
    facts = [msgspec.structs.asdict(function) for function in functions]
    return [
        {
            name: None if isinstance(value, Absent) or value == {} else value
            for name, value in function.items()
            if name not in ("port_type", "acs")
        }
        for function in facts
    ]


@pytest.mark.parametrize("name", ALL)
def test_a_topology_survives_json(name: str) -> None:
    found = read(Rig.replay(RIGS / name))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Topology) == found


CPU_ONLY = {
    "proc/cpuinfo": "\n\n".join(
        f"processor\t: {cpu}\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD Ryzen 9 7950X 16-Core Processor\n"
        f"physical id\t: 0\ncore id\t\t: {cpu % 16}\nflags\t\t: fpu lm f16c fma avx2 avx512f avx512_bf16"
        for cpu in range(32)
    ),
    "proc/meminfo": "MemTotal:       65536000 kB\nMemAvailable:   60000000 kB\nSwapTotal:       8388608 kB",
    "proc/self/status": "Name:\tpython\nCpus_allowed_list:\t0-15",
    "proc/self/cgroup": "0::/training.slice/job.scope",
    "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw",
    "proc/sys/kernel/osrelease": "6.8.0-60-generic",
    "proc/sys/kernel/arch": "x86_64",
    "sys/fs/cgroup/training.slice/cpu.max": "600000 100000",
    "sys/fs/cgroup/training.slice/job.scope/cpu.max": "max 100000",
    "sys/fs/cgroup/training.slice/memory.max": "max",
    "sys/fs/cgroup/training.slice/job.scope/memory.max": "17179869184",
    "sys/fs/cgroup/training.slice/job.scope/memory.current": "4294967296",
    "sys/fs/cgroup/training.slice/job.scope/memory.stat": "anon 1\ninactive_file 1073741824",
    "sys/devices/system/cpu/online": "0-31",
    "sys/devices/system/node/node0/cpulist": "0-31",
    "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal:       65536000 kB",
    "sys/devices/pci0000:00/0000:00:01.2/0000:02:00.0/nvme/nvme0/nvme0n1/size": "3907029168",
    "sys/devices/pci0000:00/0000:00:01.2/0000:02:00.0/nvme/nvme0/nvme0n1/queue/rotational": "0",
    "sys/devices/pci0000:00/0000:00:01.2/0000:02:00.0/nvme/nvme0/nvme0n1/device/model": "Samsung SSD 990 PRO 2TB",
}
CPU_ONLY_PCI: dict[str, dict[str, Any]] = {
    "0000:00:01.2": {"root": "pci0000:00", "class": "0x060400", "vendor": "0x1022", "max_speed": 16.0, "max_width": 4},
    "0000:00:08.1": {"root": "pci0000:00", "class": "0x060400", "vendor": "0x1022", "max_speed": 16.0, "max_width": 16},
    "0000:02:00.0": {
        "root": "pci0000:00",
        "parent": "0000:00:01.2",
        "class": "0x010802",
        "vendor": "0x144d",
        "max_speed": 16.0,
        "max_width": 4,
        "cur_speed": 8.0,
        "cur_width": 2,
    },
    "0000:0d:00.6": {"root": "pci0000:00", "parent": "0000:00:08.1", "class": "0x040300"},
}


CPU_ONLY_SCREEN = """\
Host
  CPU     AMD Ryzen 9 7950X 16-Core Processor, x86_64
          32 CPUs, 16 cores, 1 socket, usable 6 (limited by the cgroup quota)
          avx2 fma f16c avx512f avx512_bf16
  memory  62.5 GiB, usable 13 GiB, cgroup limit 16 GiB, swap 8 GiB
  NUMA    node 0: CPUs 0-31, 62.5 GiB
  system  Linux 6.8.0-60-generic
          n/a (not reported): L2, L3; n/a (no such file): IOMMU
GPUs
  driver  n/a (no NVIDIA driver found (libnvidia-ml.so.1); install it, or replay
          a capture with --replay DIR)
PCI tree (links one way, in theory)
                              link now  at best   GB/s
  pci0000:00
  └─ 0000:00:01.2 bridge                gen 4 x4
     └─ 0000:02:00.0 nvme0n1  gen 3 x2  gen 4 x4  7.88
  2 other functions not shown, see --json
Disks
  nvme0n1  Samsung SSD 990 PRO 2TB, 1.82 TiB, on nvme, solid state
"""


@pytest.fixture
def cpu_only(tmp_path: Path) -> Rig:
    expand(CPU_ONLY_PCI, tmp_path)
    write(tmp_path, CPU_ONLY)
    (tmp_path / "sys/block").mkdir()
    drive = "../devices/pci0000:00/0000:00:01.2/0000:02:00.0/nvme/nvme0/nvme0n1"
    (tmp_path / "sys/block/nvme0n1").symlink_to(drive)
    return without_driver(tmp_path)


def test_the_whole_screen_of_a_host_without_a_gpu_in_a_container(cpu_only: Rig) -> None:
    assert screen(read(cpu_only)) == CPU_ONLY_SCREEN


def test_every_number_on_the_screen_is_in_the_record(cpu_only: Rig) -> None:
    found = read(cpu_only)
    assert (found.cpu.usable_cpus, found.cpu.cgroup_limit_cpus, found.cpu.affinity_cpus) == (6.0, 6.0, 16)
    assert found.memory.cgroup_limit_bytes == 16 << 30
    assert found.memory.usable_bytes == 13 << 30
    drive = next(function for function in found.pci if function.kind == "NVMe")
    assert (drive.link_generation, drive.link_max_generation) == (3, 4)
    assert drive.link_bytes_per_s == pytest.approx(8e9 * 2 * 128 / 130 / 8)
    assert drive.name == "Samsung SSD 990 PRO 2TB"


def test_a_recording_without_a_driver_shows_the_cards_of_its_tree(tmp_path: Path) -> None:
    for name in ("rig.json", "pci.json"):
        (tmp_path / name).write_text((RIGS / "dual-rtx4080s-x8x8" / name).read_text())
    found = read(Rig.replay(tmp_path))
    assert [(gpu.pci_bus_id, gpu.profile, gpu.name) for gpu in found.gpus] == [
        ("0000:01:00.0", "rtx-4080-super", Absent("no driver")),
        ("0000:03:00.0", "rtx-4080-super", Absent("no driver")),
    ]
    assert found.driver_gpus == Absent("the recording has no nvml.txt")
    assert found.matrix["GPU0"] == ("X", "PHB")
    assert "the recording has no nvml.txt: GPUs are those of the PCI tree" in found.warnings


def test_a_folder_that_holds_no_capture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RigbenchError, match="holds no capture; record a rig with rigbench capture"):
        Rig.replay(tmp_path)
    with pytest.raises(RigbenchError, match="is not a folder"):
        Rig.replay(tmp_path / "missing")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rig.json", "{"),
        ("rig.json", "[]"),
        ("rig.json", '{"rigbench_capture": 2}'),
        ("rig.json", '{"nodes": {"0": 5}}'),
        ("pci.json", '{"0000:01:00.0": {}}'),
        ("pci.json", '{"0000:01:00.0": {"root": 5}}'),
        ("pci.json", "\xff"),
    ],
)
def test_a_capture_with_a_broken_file_is_one_clear_error(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(RigbenchError, match=name):
        Rig.replay(tmp_path)


def test_a_tree_whose_parents_run_in_a_ring_is_still_shown(tmp_path: Path) -> None:
    ring = {
        "0000:01:00.0": {"root": "../../etc", "parent": "0000:02:00.0", "class": "0x030000", "vendor": "0x10de"},
        "0000:02:00.0": {"root": "pci0000:00", "parent": "0000:01:00.0", "class": "0x030000", "vendor": "0x10de"},
        "../../../escape": {"root": "pci0000:00"},
    }
    (tmp_path / "pci.json").write_text(json.dumps(ring))
    found = read(Rig.replay(tmp_path))
    assert [function.bus_id for function in found.pci] == ["0000:01:00.0", "0000:02:00.0"]
    assert "0000:01:00.0" in screen(found)


def test_links_in_a_virtual_machine_are_labelled(tmp_path: Path) -> None:
    for name in ("rig.json", "pci.json", "nvml.txt"):
        text = (RIGS / "dual-rtx4080s-x8x8" / name).read_text()
        (tmp_path / name).write_text(text.replace('"virtual": false', '"virtual": true'))
    found = read(Rig.replay(tmp_path))
    assert found.virtual_machine == "a hypervisor that gives no name"
    assert screen(found).count("link, BAR and ACS readings cannot be trusted") == 2


def test_a_driver_that_disagrees_with_the_tree_is_told(tmp_path: Path) -> None:
    for name in ("rig.json", "pci.json", "nvml.txt"):
        text = (RIGS / "dual-rtx4080s-x8x8" / name).read_text()
        (tmp_path / name).write_text(text.replace("TopologyCommonAncestor/1 = 0 30", "TopologyCommonAncestor/1 = 0 50"))
    found = read(Rig.replay(tmp_path))
    assert found.warnings[1:] == ("GPU0-GPU1 is PHB in the PCI tree, SYS for the driver",)
    assert found.matrix["GPU0"] == ("X", "PHB")


def test_nvlink_beats_the_way_over_pci(tmp_path: Path) -> None:
    text = (RIGS / "dual-rtx4080s-x8x8" / "nvml.txt").read_text()
    for link in range(4):
        text += f"* nvmlDeviceGetNvLinkState/{link} = 0 1\n* nvmlDeviceGetNvLinkRemoteDeviceType/{link} = 0 2\n"
    (tmp_path / "nvml.txt").write_text(text)
    assert read(Rig.replay(tmp_path)).matrix == {"GPU0": ("X", "NV4"), "GPU1": ("NV4", "X")}


def test_the_drivers_word_is_taken_where_there_is_no_tree(tmp_path: Path) -> None:
    (tmp_path / "nvml.txt").write_text((RIGS / "dual-rtx4080s-x8x8" / "nvml.txt").read_text())
    assert read(Rig.replay(tmp_path)).matrix == {"GPU0": ("X", "PHB"), "GPU1": ("PHB", "X")}


def test_an_idle_cards_generation_is_information() -> None:
    found = read(Rig.replay(RIGS / "dual-rtx4080s-x8x8"))
    gpu, path = found.gpus[0], found.paths[0]
    loaded = "gen 4 x8, 15.8 GB/s each way; gen 1 now (idle); expect 11.8 to 14.5"
    assert next(iter(render_gpus.way(gpu, path))) == loaded
    unloaded = without_load("dual-rtx4080s-x8x8")
    assert isinstance(unloaded.paths[0].awake_bytes_per_s, Absent)
    assert next(iter(render_gpus.way(unloaded.gpus[0], unloaded.paths[0]))) == (
        "gen 1 now (idle), capable of gen 4 x8, 15.8 GB/s each way; expect 11.8 to 14.5"
    )


def without_load(name: str) -> Topology:
    rig = Rig.replay(RIGS / name)
    return read(Rig(rig.sysfs, rig.nvml, replayed=True))


def test_a_link_that_stays_slow_under_load_is_told(tmp_path: Path) -> None:
    copy(RIGS / "dual-rtx4080s-x8x8", tmp_path)
    load = (tmp_path / "load.nvml.txt").read_text()
    (tmp_path / "load.nvml.txt").write_text(
        load.replace("CurrPcieLinkGeneration = 0 4", "CurrPcieLinkGeneration = 0 1 ; 0 1 ; 0 3")
    )
    found = read(Rig.replay(tmp_path))
    assert found.gpus[0].link_generation_awake == 3
    assert next(iter(render_gpus.way(found.gpus[0], found.paths[0]))) == (
        "gen 3 x8 at work, 7.88 GB/s each way; capable of gen 4 x8, 15.8 GB/s each way; expect 5.91 to 7.25"
    )


def test_a_reading_in_a_state_of_rest_is_no_reading_under_load(tmp_path: Path) -> None:
    copy(RIGS / "dual-rtx4080s-x8x8", tmp_path)
    load = (tmp_path / "load.nvml.txt").read_text()
    (tmp_path / "load.nvml.txt").write_text(load.replace("PerformanceState = 0 2", "PerformanceState = 0 8"))
    found = read(Rig.replay(tmp_path))
    assert found.gpus[0].link_generation_awake == Absent("the load left it in P8")


def copy(recording: Path, target: Path) -> None:
    for path in recording.iterdir():
        (target / path.name).write_text(path.read_text())


def test_processes_are_told_with_what_is_known_of_them(tmp_path: Path) -> None:
    copy(RIGS / "dual-rtx4080s-x8x8", tmp_path)
    with (tmp_path / "nvml.txt").open("a") as file:
        file.write("0 nvmlDeviceGetComputeRunningProcesses_v3 = 0 4242 1073741824\n")
        file.write("0 nvmlDeviceGetGraphicsRunningProcesses_v3 = 0 4242 1073741824 77 18446744073709551615\n")
    processes = read(Rig.replay(tmp_path)).gpus[0].processes
    assert processes == (
        GpuProcess(4242, "compute", Absent("not recorded"), 1 << 30),
        GpuProcess(77, "graphics", Absent("not recorded"), Absent("not reported")),
    )
    assert "compute process 4242 (name n/a (not recorded)), 1 GiB" in screen(read(Rig.replay(tmp_path)))


def test_markup_in_a_name_is_printed_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "nvml.txt").write_text(
        'sys nvmlDeviceGetCount_v2 = 0 1\n0 nvmlDeviceGetName = 0 "[bold]RTX[/nonsense]"\n'
    )
    assert "[bold]RTX[/nonsense]" in screen(read(Rig.replay(tmp_path)))


def test_a_lost_gpu_leaves_the_screen_of_the_others(tmp_path: Path) -> None:
    text = (RIGS / "dual-rtx4080s-x8x8" / "nvml.txt").read_text() + "0 nvmlDeviceGetHandleByIndex_v2 = 15\n"
    rig = Rig(Rig.replay(RIGS / "dual-rtx4080s-x8x8").sysfs, Nvml(ReplayedDriver(parse_recording(text))))
    lines = screen(read(rig))
    assert "GPU0    a card that reports nothing" in lines
    assert "n/a (GPU is lost): name, memory, bus id" in lines
    assert "GPU1    NVIDIA GeForce RTX 4080 SUPER, 16 GiB, 0000:03:00.0" in lines


@pytest.mark.parametrize(
    "rig", ["Rig.live(ask_driver=False)", f"Rig.replay(Path({str(RIGS / 'wrx90-2switch-flat')!r}))"]
)
def test_a_topology_loads_nothing_heavy(rig: str) -> None:
    code = (
        "import sys; from pathlib import Path; from rigbench.machine.rig import Rig; "
        "from rigbench.topology import survey as topology; from rigbench.core.record import Absent; "
        f"topology.run({rig}, lambda *facts: Absent('none')); "
        "print(sorted({'torch', 'numpy', 'pynvml', 'rich', 'psutil'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


if (
    __name__ == "__main__"
):  # python tests/test_topology.py draws the recorded screens anew, to be read before they are kept
    for rig_name in ALL:
        (RIGS / rig_name / "screen.txt").write_text(screen(read(Rig.replay(RIGS / rig_name))))
