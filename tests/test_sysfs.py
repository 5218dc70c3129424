"""Does the one place that reads the kernel's files survive whatever is in them?"""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

import pytest
from fakenvml.expand_sysfs import expand_recording, write
from hypothesis import given, settings
from hypothesis import strategies as st
from privileges import ordinary

from rigbench.core.record import Absent
from rigbench.machine import host, pci, peers
from rigbench.machine.nvml import Nvml
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import READ_LIMIT_BYTES, RecordedSysfs, Sysfs, decode_text, parse_cpu_list, parse_int
from rigbench.topology import survey as topology


def test_a_file_is_read_without_its_newline(tmp_path: Path) -> None:
    (tmp_path / "sys").mkdir()
    (tmp_path / "sys/vendor").write_text("0x10de\n")
    sysfs = Sysfs(tmp_path)
    assert sysfs.read_text("sys/vendor") == "0x10de"
    assert sysfs.read_text("/sys/vendor") == "0x10de"
    assert sysfs.list_dir("sys") == ("vendor",)
    assert sysfs.exists("sys/vendor")
    assert not sysfs.exists("sys/device")


def test_what_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    (tmp_path / "escape").write_bytes(b"Samsung \x1b[31mSSD")
    (tmp_path / "loop").symlink_to("loop")
    sysfs = Sysfs(tmp_path)
    assert sysfs.read_text("missing") == Absent("no such file")
    assert sysfs.read_text("folder") == Absent("a directory")
    assert sysfs.read_text("folder/below/missing") == Absent("no such file")
    assert sysfs.read_text("binary") == Absent("not text")
    assert sysfs.read_text("escape") == Absent("not text")
    assert sysfs.read_text("loop") == Absent("a loop of links")
    assert sysfs.read_text("nul\x00byte") == Absent("not a path")
    assert sysfs.list_dir("binary") == Absent("no such file")


def test_no_permission_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("1")
    (tmp_path / "secret").chmod(0)
    with ordinary():
        assert Sysfs(tmp_path).read_text("secret") == Absent("no permission")


def test_a_refusal_by_the_kernel_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "energy_uj").write_text("1")

    def refuse(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert Sysfs(tmp_path).read_text("energy_uj") == Absent("no permission")


def test_a_huge_file_is_not_swallowed(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(READ_LIMIT_BYTES * 100)
    assert Sysfs(tmp_path).read_text("huge") == Absent("too large to be a kernel's file")


def test_a_pipe_does_not_hold_us_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(Sysfs(tmp_path).read_text("pipe")), daemon=True)
    thread.start()
    thread.join(5)
    assert answers == [""]


def test_nothing_outside_the_root_is_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").write_text("not yours")
    (root / "link").symlink_to("../outside")
    (root / "absolute").symlink_to(tmp_path / "outside")
    sysfs = Sysfs(root)
    assert sysfs.read_text("../outside") == Absent("no such file")
    assert sysfs.read_text("link") == Absent("points outside the tree")
    assert sysfs.read_text("absolute") == Absent("points outside the tree")
    assert sysfs.real_path("link") == Absent("points outside the tree")


def test_names_that_are_not_text_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "sda").mkdir()
    os.mkdir(os.fsencode(tmp_path) + b"/\xff\xfe")
    assert Sysfs(tmp_path).list_dir("") == ("sda",)


def test_numbers_are_numbers_or_absent() -> None:
    assert parse_int("12") == 12
    assert parse_int("-1") == -1
    assert parse_int("9223372036854771712") == 9223372036854771712
    for text in ("", "max", "0x10", "1e3", "9" * 19, "9" * 5000, "١٢"):
        assert parse_int(text) == Absent("not a number")


def test_cpu_lists_are_read_and_nonsense_left_out() -> None:
    assert parse_cpu_list("0-3,8") == {0, 1, 2, 3, 8}
    assert parse_cpu_list("") == frozenset()
    assert parse_cpu_list("3-1,x,99999999999") == frozenset()


def test_a_recorded_tree_answers_like_a_folder(tmp_path: Path) -> None:
    files = {"sys/devices/pci0000:00/0000:01:00.0/vendor": "0x10de", "proc/meminfo": "MemTotal: 1 kB"}
    links = {"sys/bus/pci/devices/0000:01:00.0": "sys/devices/pci0000:00/0000:01:00.0"}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    for path, target in links.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).symlink_to(tmp_path / target)
    folder, memory = Sysfs(tmp_path), RecordedSysfs(files, links)
    for path in ("sys", "sys/bus/pci/devices", "sys/bus/pci/devices/0000:01:00.0", "proc", ""):
        assert memory.list_dir(path) == folder.list_dir(path)
        assert memory.real_path(path) == folder.real_path(path) or path == ""
    for path in (*files, "sys/bus/pci/devices/0000:01:00.0/vendor"):
        assert memory.read_text(path) == folder.read_text(path)
    assert isinstance(memory.read_text("sys/devices"), Absent)
    assert memory.list_dir("etc") == Absent("not recorded")


@given(st.binary(max_size=200))
def test_any_bytes_are_clean_text_or_absent(content: bytes) -> None:
    text = decode_text(content)
    assert isinstance(text, Absent) or not any(ord(letter) < 32 and letter not in "\t\n" for letter in text)


READERS = (
    host.cpu,
    host.memory,
    host.numa_nodes,
    host.virtual_machine,
    host.kernel,
    host.process_peak_bytes,
    host.disks,
    pci.devices,
    host.driver_flavour,
    host.driver_overrides,
    peers.kernel_words,
    lambda sysfs: peers.iommu_type(sysfs, []),
)
PATHS = st.sampled_from(
    [
        "proc/cpuinfo",
        "proc/meminfo",
        "proc/self/cgroup",
        "proc/self/mountinfo",
        "proc/self/status",
        "sys/devices/system/cpu/online",
        "sys/devices/system/cpu/cpu0/cache/index3/size",
        "sys/devices/system/cpu/cpu0/cache/index3/level",
        "sys/devices/system/cpu/cpu0/cache/index3/shared_cpu_list",
        "sys/devices/system/node/node0/meminfo",
        "sys/fs/cgroup/cpu.max",
        "sys/fs/cgroup/memory.max",
        "sys/block/sda/size",
        "sys/block/nvme0n1/queue/rotational",
        "sys/bus/pci/devices/0000:01:00.0/class",
        "sys/bus/pci/devices/0000:01:00.0/numa_node",
        "sys/bus/pci/devices/0000:01:00.0/max_link_speed",
        "sys/bus/pci/devices/0000:01:00.0/current_link_width",
        "sys/bus/pci/devices/0000:01:00.0/resource",
        "sys/bus/pci/devices/0000:01:00.0/resource1_resize",
        "sys/bus/pci/devices/0000:01:00.0/config",
        "sys/kernel/iommu_groups/0/type",
        "proc/cmdline",
        "proc/driver/nvidia/version",
        "proc/driver/nvidia/params",
    ]
)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            "0::/../../..\n4:memory:/a/b",
            "1 2 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
            "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
            "0-4294967295",
            "-5 0",
            "max 100000",
            "processor: 0\nflags: hypervisor\n\nprocessor",
            "16.0 GT/s PCIe",
            "MemTotal: 99999999999999999999 kB",
        ]
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(PATHS, TEXTS))
def test_no_content_breaks_a_reader(files: dict[str, str]) -> None:
    sysfs = RecordedSysfs(files, {})
    for reader in READERS:
        reader(sysfs)


def test_recorded_links_that_run_in_a_ring_end() -> None:
    sysfs = RecordedSysfs({}, {"sys/a": "sys/b", "sys/b": "sys/a"})
    assert sysfs.read_text("sys/a/file") == Absent("not recorded")
    assert isinstance(sysfs.real_path("sys/a"), str | Absent)


def test_folders_may_be_empty_in_a_recording() -> None:
    sysfs = RecordedSysfs({}, {}, ["sys/kernel/iommu_groups"])
    assert sysfs.list_dir("sys/kernel/iommu_groups") == ()
    assert sysfs.exists("sys/kernel/iommu_groups")


def test_bytes_are_handed_over_as_they_are(tmp_path: Path) -> None:
    content = bytes(range(256))
    (tmp_path / "config").write_bytes(content)
    assert Sysfs(tmp_path).read_bytes("config") == content
    assert RecordedSysfs({"config": content.decode("latin-1")}, {}).read_bytes("config") == content
    assert RecordedSysfs({}, {}).read_bytes("config") == Absent("not recorded")


class Refusing(Sysfs):
    """Files that the kernel would not let this user read, which root's own tests cannot make."""

    def __init__(self, root: Path, refused: set[str]) -> None:
        super().__init__(root)
        self._refused = refused

    def read_bytes(self, path: str) -> bytes | Absent:
        name = path.rpartition("/")[2]
        return Absent("no permission") if name in self._refused else super().read_bytes(path)


NAMES = (
    *("class", "vendor", "device", "numa_node", "local_cpulist", "resource", "max_link_speed", "current_link_speed"),
    *("max_link_width", "current_link_width", "config", "cpulist"),
)
HARM = st.sampled_from(["missing", "empty", "garbage", "huge", "refused", "loop", "folder"])


def spoil(path: Path, harm: str) -> None:
    if path.exists() or path.is_symlink():
        path.unlink()
    if harm == "loop":
        path.symlink_to(path.name)
    elif harm == "folder":
        path.mkdir()
    elif harm == "huge":
        with path.open("wb") as file:
            file.truncate(READ_LIMIT_BYTES + 1)
    elif harm != "missing":
        path.write_bytes(b"" if harm == "empty" else b"\x00\xff0x10de \x1b[31m-1")


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.tuples(st.integers(0, 6), st.sampled_from(NAMES)), HARM, max_size=6))
def test_no_state_of_the_kernels_files_breaks_a_topology(harms: dict[tuple[int, str], str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        expand_recording(Path(__file__).parent / "rigs" / "stelline-puget-wrx90", root)
        write(root, {"proc/cpuinfo": "processor: 0\nmodel name: x", "proc/meminfo": "MemTotal: 1 kB"})
        functions = sorted((root / "sys/bus/pci/devices").iterdir())
        for (number, name), harm in harms.items():
            spoil(functions[number].resolve() / name, harm)
        sysfs = Refusing(root, {name for (_, name), harm in harms.items() if harm == "refused"})
        found = topology.run(Rig(sysfs, Nvml(Absent("no driver"))), lambda *_: Absent("no profile"))
        assert len(found.pci) == 7
        assert len(found.paths) >= len([function for function in found.pci if function.kind == "GPU"])
