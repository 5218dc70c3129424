"""Are the host's facts and the container's limits read right?"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from fakenvml.expand_sysfs import write

from rigbench.core.record import Absent
from rigbench.machine import host
from rigbench.machine.host_load import CpuSensors
from rigbench.machine.record import Disk, NumaNode
from rigbench.machine.sysfs import RecordedSysfs, Sysfs

GIB = 1 << 30
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw"
EPYC = "\n\n".join(
    f"processor\t: {cpu}\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 7502 32-Core Processor\n"
    f"physical id\t: {cpu % 8 // 4}\ncore id\t\t: {cpu % 4}\nflags\t\t: fpu lm avx2 f16c fma"
    for cpu in range(16)
)


def recorded(files: dict[str, str], links: dict[str, str] | None = None) -> RecordedSysfs:
    return RecordedSysfs(files, links or {})


def test_a_two_socket_server_is_counted() -> None:
    cpu = host.cpu(recorded({"proc/cpuinfo": EPYC, "proc/self/status": "Cpus_allowed_list:\t0-11"}))
    assert (cpu.model, cpu.vendor, cpu.architecture) == ("AMD EPYC 7502 32-Core Processor", "AuthenticAMD", "x86_64")
    assert (cpu.logical_cpus, cpu.physical_cores, cpu.sockets) == (16, 8, 2)
    assert (cpu.affinity_cpus, cpu.usable_cpus) == (12, 12.0)
    assert cpu.instruction_sets == ("avx2", "fma", "f16c")


def test_an_arm_board_is_counted_from_sysfs() -> None:
    block = "processor\t: {}\nFeatures\t: fp asimd sve bf16 i8mm\nCPU implementer\t: 0x41\nCPU architecture: 8"
    files = {"proc/cpuinfo": "\n\n".join(block.format(cpu) for cpu in range(4)), "sys/devices/system/cpu/online": "0-3"}
    for number in range(4):
        files[f"sys/devices/system/cpu/cpu{number}/topology/physical_package_id"] = "0"
        files[f"sys/devices/system/cpu/cpu{number}/topology/core_id"] = str(number)
    files["proc/device-tree/model"] = "NVIDIA DGX Spark"
    cpu = host.cpu(recorded(files))
    assert (cpu.model, cpu.architecture, cpu.physical_cores, cpu.sockets) == ("NVIDIA DGX Spark", "aarch64", 4, 1)
    assert cpu.instruction_sets == ("asimd", "bf16", "i8mm", "sve")


def test_caches_shared_by_several_cpus_count_once() -> None:
    files = {"sys/devices/system/cpu/online": "0-3"}
    for cpu in range(4):
        for index, level, size, shared in ((2, 2, "1024K", str(cpu)), (3, 3, "32M", "0-1" if cpu < 2 else "2-3")):
            folder = f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
            files |= {f"{folder}/level": str(level), f"{folder}/size": size, f"{folder}/shared_cpu_list": shared}
    cpu = host.cpu(recorded(files))
    assert (cpu.l2_bytes, cpu.l3_bytes) == (4 << 20, 64 << 20)


def test_a_machine_that_tells_nothing_is_absent_everywhere() -> None:
    cpu, memory = host.cpu(recorded({})), host.memory(recorded({}))
    for name in ("model", "logical_cpus", "physical_cores", "sockets", "affinity_cpus", "usable_cpus", "l3_bytes"):
        assert getattr(cpu, name) == Absent("not reported")
    assert memory.total_bytes == memory.usable_bytes == Absent("not reported")
    assert host.numa_nodes(recorded({})) == ()
    assert host.disks(recorded({})) == ()


def test_the_tightest_cgroup_v2_limit_on_the_way_up_decides() -> None:
    sysfs = recorded(
        {
            "proc/self/cgroup": "0::/outer/inner",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/outer/inner/cpu.max": "max 100000",
            "sys/fs/cgroup/outer/cpu.max": "150000 100000",
            "sys/fs/cgroup/outer/inner/memory.max": str(8 * GIB),
            "sys/fs/cgroup/outer/memory.max": str(6 * GIB),
            "sys/fs/cgroup/outer/memory.current": str(3 * GIB),
            "sys/fs/cgroup/outer/memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}",
        }
    )
    assert host.cpu_limit(sysfs) == 1.5
    assert host.memory_limit(sysfs, 64 * GIB) == (6 * GIB, GIB)


def test_a_hybrid_hierarchy_is_read_controller_by_controller() -> None:
    sysfs = recorded(
        {
            "proc/self/cgroup": "9:name=systemd:/\n4:memory:/box/abc\n1:cpu,cpuacct:/box\n0::/",
            "proc/self/mountinfo": "\n".join(
                (
                    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
                    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
                    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
                )
            ),
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/box/abc/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(4 * GIB),
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/box/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 2}",
        }
    )
    assert host.cpu_limit(sysfs) == 0.5
    assert host.memory_limit(sysfs, 24 * GIB) == (4 * GIB, GIB // 2)


def test_a_container_that_sees_only_its_own_part_of_the_hierarchy() -> None:
    sysfs = recorded(
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n0::/../../other",
            "proc/self/mountinfo": "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            + V2_MOUNT,
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2 * GIB),
            "sys/fs/cgroup/cpu.max": "400000 100000",
        }
    )
    assert host.memory_limit(sysfs, 24 * GIB)[0] == 2 * GIB
    assert host.cpu_limit(sysfs) == 4.0


@pytest.mark.parametrize("limit", [24 * GIB, 9223372036854771712, "max", "0", "-1", "rubbish"])
def test_a_limit_at_or_above_physical_memory_is_none(limit: object) -> None:
    files = {
        "proc/self/cgroup": "0::/",
        "proc/self/mountinfo": V2_MOUNT,
        "sys/fs/cgroup/memory.max": str(limit),
        "proc/meminfo": f"MemTotal: {24 << 20} kB\nMemAvailable: {20 << 20} kB",
    }
    memory = host.memory(recorded(files))
    assert memory.cgroup_limit_bytes == Absent("no limit")
    assert memory.usable_bytes == 20 * GIB


def test_numa_nodes_have_their_cpus_and_memory() -> None:
    files = {
        "sys/devices/system/node/node0/cpulist": "0-15,32-47",
        "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal:  1048576 kB\nNode 0 MemFree: 1 kB",
        "sys/devices/system/node/node10/cpulist": "",
    }
    assert host.numa_nodes(recorded(files)) == (
        NumaNode(node=0, cpus="0-15,32-47", memory_total_bytes=GIB),
        NumaNode(node=10, cpus="", memory_total_bytes=Absent("not reported")),
    )


def test_virtual_machines_are_told_from_real_ones_and_containers() -> None:
    guest = "processor: 0\nflags: fpu hypervisor lm"
    real = "processor: 0\nflags: fpu lm"
    dmi = {"sys/class/dmi/id/sys_vendor": "QEMU", "sys/class/dmi/id/product_name": "Standard PC"}
    assert host.virtual_machine(recorded({"proc/cpuinfo": guest, **dmi})) == "QEMU Standard PC"
    assert host.virtual_machine(recorded({"proc/cpuinfo": guest})) == "a hypervisor that gives no name"
    assert host.virtual_machine(recorded({"proc/cpuinfo": real, ".dockerenv": ""})) == Absent("no sign of a hypervisor")
    assert host.virtual_machine(recorded({"proc/cpuinfo": "processor: 0\nFeatures: fp", **dmi})) == "QEMU Standard PC"
    for said in ({}, {"proc/cpuinfo": "processor: 0\nmodel name: AMD EPYC"}):
        assert host.virtual_machine(recorded(said)) == Absent("the processor's flags, which tell it, are not known")
    wsl = {"proc/cpuinfo": guest, "proc/sys/kernel/osrelease": "5.15.167.4-microsoft-standard-WSL2"}
    assert host.virtual_machine(recorded(wsl)) == "WSL2"


def test_disks_are_told_apart(tmp_path: Path) -> None:
    places = {
        "nvme0n1": "pci0000:00/0000:00:06.0/0000:05:00.0/nvme/nvme0/nvme0n1",
        "sda": "pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda",
        "sdb": "pci0000:00/0000:00:14.0/usb2/2-1/host6/target6:0:0/6:0:0:0/block/sdb",
        "vda": "pci0000:00/0000:00:02.0/virtio1/block/vda",
        "loop0": "virtual/block/loop0",
        "zram0": "virtual/block/zram0",
    }
    for name, place in places.items():
        write(tmp_path, {f"sys/devices/{place}/size": "2097152", f"sys/devices/{place}/queue/rotational": "1"})
        (tmp_path / "sys/block").mkdir(exist_ok=True)
        (tmp_path / "sys/block" / name).symlink_to(f"../devices/{place}")
    write(tmp_path, {f"sys/devices/{places['nvme0n1']}/device/model": "Samsung SSD 990 PRO 2TB"})
    found = host.disks(Sysfs(tmp_path))
    assert [(disk.name, disk.transport, disk.pci_bus_id) for disk in found] == [
        ("nvme0n1", "nvme", "0000:05:00.0"),
        ("sda", "sata", "0000:00:17.0"),
        ("sdb", "usb", "0000:00:14.0"),
        ("vda", "virtio", "0000:00:02.0"),
    ]
    assert found[0] == Disk("nvme0n1", "Samsung SSD 990 PRO 2TB", GIB, True, "nvme", "0000:05:00.0")
    assert found[3].rotational == Absent("a virtual disk does not report it")


def test_a_multipath_nvme_disk_is_found_through_its_controller() -> None:
    links = {
        "sys/block/nvme1n1": "sys/devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1",
        "sys/class/nvme/nvme1": "sys/devices/pci0000:40/0000:40:01.1/0000:41:00.0/nvme/nvme1",
    }
    files = {f"{links['sys/block/nvme1n1']}/size": "8", f"{links['sys/class/nvme/nvme1']}/model": "x"}
    assert host.disks(recorded(files, links))[0].pci_bus_id == "0000:41:00.0"


def rapl(*packages: str) -> dict[str, str]:
    files = {"sys/class/powercap/intel-rapl:0:0/name": "core", "sys/class/powercap/intel-rapl/enabled": "1"}
    for number, microjoules in enumerate(packages):
        zone = f"sys/class/powercap/intel-rapl:{number}"
        files |= {f"{zone}/name": f"package-{number}", f"{zone}/max_energy_range_uj": "1000000"}
        files |= {f"{zone}/energy_uj": microjoules}
    return files


def test_package_energy_adds_up_over_sockets_and_wraps_around() -> None:
    files = rapl("900000", "100000")
    sensors = CpuSensors(recorded(files))
    assert sensors.energy_joules() == 0.0
    files["sys/class/powercap/intel-rapl:0/energy_uj"] = "400000"
    files["sys/class/powercap/intel-rapl:1/energy_uj"] = "350000"
    assert sensors.energy_joules() == pytest.approx(0.5 + 0.25)


def test_an_energy_counter_that_cannot_be_read_is_a_reason() -> None:
    files = rapl("1")
    del files["sys/class/powercap/intel-rapl:0/energy_uj"]
    assert CpuSensors(recorded(files)).energy_joules() == Absent("not recorded")
    assert CpuSensors(recorded({})).energy_joules() == Absent("no package energy counter")


def test_the_hottest_package_is_the_cpu_temperature() -> None:
    files = {"sys/class/hwmon/hwmon0/name": "nvme", "sys/class/hwmon/hwmon0/temp1_input": "90000"}
    for number, degrees in ((1, "45000"), (2, "61500")):
        files |= {
            f"sys/class/hwmon/hwmon{number}/name": "k10temp",
            f"sys/class/hwmon/hwmon{number}/temp1_input": degrees,
        }
    assert CpuSensors(recorded(files)).temperature_celsius() == 61.5
    assert CpuSensors(recorded({})).temperature_celsius() == Absent("no CPU temperature sensor")


def test_process_memory_is_read_from_its_status() -> None:
    sysfs = recorded({"proc/self/status": "VmHWM:\t  2048 kB\nVmRSS:\t 1024 kB"})
    assert host.process_peak_bytes(sysfs) == 2 << 20
    assert host.process_resident_bytes(sysfs) == 1 << 20
    assert host.process_peak_bytes(recorded({"proc/self/status": "Name:\tzombie"})) == Absent("not reported")
    assert host.process_peak_bytes(recorded({})) == Absent("not recorded")


def test_the_same_rig_is_the_same_after_its_gpus_changed_order() -> None:
    from rigbench.machine.rig import Rig

    rig = Rig.replay(Path(__file__).parent / "rigs" / "dual-rtx4080s-x8x8")
    cpu, memory = host.cpu(rig.sysfs), host.memory(rig.sysfs)
    gpus = [(rig.nvml.reading(index, "uuid"), rig.nvml.reading(index, "name")) for index in (0, 1)]
    same = host.rig_id(cpu, memory, gpus)
    assert same == host.rig_id(cpu, memory, reversed(gpus))
    assert len(same.fingerprint) == 12
    assert host.rig_id(cpu, memory, gpus[:1]).fingerprint != same.fingerprint
    # A few MiB more or less, as another kernel reserves, is the same memory.
    larger = [msgspec.structs.replace(memory, total_bytes=63 * GIB + delta) for delta in (0, 20 << 20)]
    assert host.rig_id(cpu, larger[0], gpus).fingerprint == host.rig_id(cpu, larger[1], gpus).fingerprint


def test_this_very_machine_answers() -> None:
    cpu, memory = host.cpu(Sysfs()), host.memory(Sysfs())
    assert isinstance(cpu.logical_cpus, int)
    assert isinstance(cpu.usable_cpus, float)
    assert 0 < cpu.usable_cpus <= cpu.logical_cpus
    assert isinstance(memory.usable_bytes, int)
    assert isinstance(host.kernel(Sysfs()), str)
    assert isinstance(host.process_peak_bytes(Sysfs()), int)
