"""Does the kernel's log say what happened, to which device and when, whoever wrote it down, and however it is attacked?

The recordings under tests/kernel are our own text, after the formats of the kernel's and the driver's source.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rigbench import store
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.machine import kernel_log
from rigbench.machine.kernel_log import KernelLog, events, labelled, labels_of, merged
from rigbench.machine.redact import Redaction
from rigbench.machine.rig import Rig
from rigbench.redacted import redacted

KERNEL, RIGS = Path(__file__).parent / "kernel", Path(__file__).parent / "rigs"
XID_31 = "NVRM: Xid (PCI:0000:01:00): 31, pid=7, name=x, MMU Fault"
XID_79 = "NVRM: Xid (PCI:0000:01:00): 79, pid=1234, name=python3, GPU has fallen off the bus."


def told(name: str, labels: Mapping[str, str] = MappingProxyType({})):
    found = labelled(events((KERNEL / name).read_text().splitlines()), labels)
    return [(event.code, event.severity, event.where) for event in found]


def test_a_gpu_that_falls_off_the_bus_is_told_once_with_whose_it_is():
    assert told("gpu_falls_off.txt", labels={"0000:41:00.0": "GPU2", "0000:40:01.1": "GPU2"}) == [
        ("xid-79", "fault", "GPU2 (0000:41:00.0)"),
        ("xid-154", "warning", "GPU2 (0000:41:00.0)"),
        ("link-down", "fault", "GPU2 (0000:40:01.1)"),
    ]


def test_an_xid_says_what_it_means_when_it_was_and_what_to_do():
    (event,) = events([f"[ 5210.410012] {XID_79}"], booted=1795900000.0)
    assert event.title == "the card fell off the bus (Xid 79)"
    assert "power, cable, riser" in event.meaning
    assert "power off and on" in event.do
    assert (event.pid, event.process) == (1234, "python3")
    assert event.text == "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus."
    assert event.monotonic_seconds == 5210.410012
    assert event.wall_seconds == 1795900000.0 + 5210.410012


def test_both_wordings_of_pcie_errors_say_the_same():
    gpu = "GPU0 (0000:01:00.0)"
    labels = {"0000:01:00.0": "GPU0"}
    assert told("riser_old_words.txt", labels=labels) == [
        ("aer-corrected", "warning", "0000:00:01.0"),
        ("aer-corrected", "warning", gpu),
        ("aer-fatal", "fault", gpu),
    ]
    assert told("riser_new_words.txt", labels=labels) == [
        ("aer-corrected", "warning", gpu),
        ("aer-corrected", "warning", gpu),
        ("aer-nonfatal", "warning", gpu),
        ("aer", "warning", "0000:00:01.0"),
    ]


def test_of_two_lines_about_one_error_the_one_that_says_more_is_kept():
    first, second, *_ = events((KERNEL / "riser_new_words.txt").read_text().splitlines())
    assert "type=Physical Layer" in first.text
    assert "message received" in second.text  # the kernel wrote no better one


def test_the_hosts_own_faults_are_told_from_the_journals_json():
    assert told("host.json") == [
        ("oom", "warning", ""),
        ("cpu-hot", "warning", "CPU"),
        ("disk-slow", "warning", "nvme1"),
        ("disk", "fault", "nvme1"),
        ("disk", "fault", "sda"),
        ("filesystem", "fault", "sda1"),
    ]
    first = events((KERNEL / "host.json").read_text().splitlines())[0]
    assert (first.pid, first.process, first.monotonic_seconds) == (4410, "pt_data_worker", 4000.0)
    assert first.wall_seconds == 1795903867.0


@pytest.mark.parametrize(
    ("line", "monotonic", "wall"),
    [
        (f"6,1234,5210410012,-;{XID_79}", 5210.410012, None),
        (f"[ 5210.410012] {XID_79}", 5210.410012, None),
        (f"[ 5210.410012][  T321] {XID_79}", 5210.410012, None),
        (f"<3>[ 5210.410012] {XID_79}", 5210.410012, None),
        (f"kern  :err   : [ 5210.410012] {XID_79}", 5210.410012, None),
        (f"[ 5210.410012] box kernel: {XID_79}", 5210.410012, None),
        (f"Nov 28 22:33:30 box kernel: [ 5210.410012] {XID_79}", 5210.410012, None),
        (f"Nov 28 22:33:30 box kernel: {XID_79}", None, None),
        (f"2026-11-28T22:33:30+0000 box kernel: {XID_79}", None, 1795905210.0),
        (f"2026-11-28T22:33:30,410012+00:00 {XID_79}", None, 1795905210.410012),
        (XID_79, None, None),
    ],
)
def test_every_log_that_holds_the_line_tells_the_same(line, monotonic, wall):
    (event,) = events([line])
    assert (event.code, event.device) == ("xid-79", "0000:01:00.0")
    for told_time, expected in ((event.monotonic_seconds, monotonic), (event.wall_seconds, wall)):
        assert isinstance(told_time, Absent) if expected is None else told_time == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "line",
    [
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  580.82.09",
        "XFS (nvme0n1p1): Mounting V5 Filesystem",
        "XFS (nvme0n1p1): Ending clean mount",
        "EXT4-fs (sda1): mounted filesystem with ordered data mode",
        "nvme nvme0: pci function 0000:01:00.0",
        "mce: CPU3: Package temperature/speed normal",
        "pcieport 0000:00:01.0: AER: enabled with IRQ 122",
        "pcieport 0000:00:01.0: AER: device recovery successful",
        "EDAC MC0: Giving out device to module skx_edac",
        f"audit: type=1400 comm={XID_79!r}",  # another's words inside a line
        f"14,1,1,-;{XID_79}",  # written to /dev/kmsg by a program, not by the kernel
    ],
)
def test_what_is_no_fault_is_not_told(line):
    assert events([line]) == []


@pytest.mark.parametrize(
    ("line", "code", "device"),
    [
        ("NVRM: Xid (PCI:0000:01:00): 79, pid=<unknown>, name=<unknown>, GPU has fallen off", "xid-79", "0000:01:00.0"),
        ("NVRM: Xid (0000:01:00): 79, GPU has fallen off the bus.", "xid-79", "0000:01:00.0"),
        ("NVRM: Xid (PCI:0002:00:00): 8, Channel 00000010", "xid-8", "0002:00:00.0"),
        ("NVRM: Xid (PCI:10000:01:00): 31, pid=3456, Ch 00000010, intr 0. MMU Fault", "xid-31", "10000:01:00.0"),
        ("NVRM: Xid (PCI:0000:8a:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01", "xid-149", "0000:8a:00.0"),
        ("NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x26:0xffff:1482)", "driver-start", "0000:01:00.0"),
        ("NVRM: RmInitAdapter failed! (0x24:0x65:1423)", "driver-start", None),
        ("NVRM: _kgspLogXid119: ******* GSP Timeout *******", "driver", None),
        ("pcieport 0000:00:1c.5: AER: Corrected error received: 0000:01:00.0", "aer-corrected", "0000:01:00.0"),
        ("pcieport 0000:00:1c.5: AER: Corrected error received: id=00e5", "aer-corrected", None),
        ("pcieport 0000:00:1c.5: AER: PCIe Bus Error: severity=Correctable, type=x", "aer-corrected", "0000:00:1c.5"),
        ("pcieport 0000:40:01.1: AER: Multiple Uncorrectable (Fatal) error received: 0000:41:00.0", "aer-fatal",
         "0000:41:00.0"),
        ("pcieport 0000:00:01.0: DPC: containment event, status:0x1f01, ERR_FATAL", "link-down", "0000:00:01.0"),
        ("Memory cgroup out of memory: Killed process 4410 (python) total-vm:123kB, UID:1000", "oom", None),
        ("Memory cgroup out of memory: Kill process 4410 (python) score 1972 or sacrifice child", "oom", None),
        ("CPU4: Core temperature is above threshold, cpu clock is throttled (total events = 12)", "cpu-hot", "CPU4"),
        ("thermal thermal_zone0: acpitz: critical temperature reached, shutting down", "critical-heat", None),
        ("reboot: HARDWARE PROTECTION shutdown (Temperature too high)", "critical-heat", None),
        ("EXT4-fs (nvme0n1p2): Remounting filesystem read-only", "filesystem", "nvme0n1p2"),
        ("XFS (dm-0): Corruption detected. Unmount and run xfs_repair", "filesystem", "dm-0"),
    ],
)  # fmt: skip
def test_the_words_of_other_kernels_and_drivers(line, code, device):
    (event,) = events([f"[  100.000000] {line}"])
    assert (event.code, event.device if isinstance(event.device, str) else None) == (code, device)


LOST = (
    "NVRM: The NVIDIA GPU 0000:0a:00.0",
    "NVRM: (PCI ID: 10de:2206) installed in this system has",
    "NVRM: fallen off the bus and is not responding to commands.",
)


@pytest.mark.parametrize(
    "log",
    [
        [f"[    5.100000] {line}" for line in LOST],
        [f"[    5.100000] {LOST[0]}", *(f"               {line}" for line in LOST[1:])],
        ["4,812,5100000,-;" + r"\x0a".join(LOST), " SUBSYSTEM=pci", " DEVICE=+pci:0000:0a:00.0"],
    ],
    ids=["syslog", "dmesg", "kmsg"],
)
def test_a_card_that_is_lost_before_the_driver_starts_is_told_in_three_lines(log):
    (event,) = events(log)
    assert (event.code, event.severity, event.device) == ("gpu-lost", "fault", "0000:0a:00.0")
    assert event.monotonic_seconds == 5.1
    assert event.text.endswith("has fallen off the bus and is not responding to commands.")


def test_a_storm_is_one_event_with_its_count():
    storm = [
        f"[{at}.000000] nvidia 0000:01:00.0: PCIe Bus Error: severity=Correctable, type=Physical Layer, (Receiver ID)"
        for at in range(1000, 3000)
    ]
    (event,) = merged(events(storm))
    assert (event.count, event.monotonic_seconds, event.last_monotonic_seconds) == (2000, 1000.0, 2999.0)


def test_the_worst_come_first():
    assert [event.severity for event in merged(events((KERNEL / "host.json").read_text().splitlines()))] == [
        *["fault"] * 3,
        *["warning"] * 3,
    ]


HOSTILE = st.text(st.characters(codec="utf-8"), max_size=300)


@given(
    HOSTILE, st.sampled_from(["", "NVRM: ", "NVRM: Xid (PCI:0000:01:00): ", "[ 1.5] nvme ", "3,1,1,-;", '{"MESSAGE":'])
)
@example("\x1b]0;title\x07\u202e", "NVRM: Xid (PCI:0000:01:00): 79, ")
@example("9" * 300, "NVRM: Xid (PCI:0000:01:00): ")
@example("[" * 5000, '{"MESSAGE":')
def test_hostile_lines_do_nothing(text, start):
    for event in events([start + text]):
        assert event.text.isprintable()
        assert len(event.text) <= kernel_log.TEXT_LIMIT


@pytest.mark.parametrize("unit", ["NVRM: ", "a ", "9", ": ", "name=", "(", "error ", "[ 1.0] ", "{", "AER: "])
def test_a_long_line_costs_no_more_than_many_short_ones(unit):
    """Work is counted by what is looked at: a line is cut before anything reads it."""
    long = unit * (1_000_000 // len(unit))
    line = kernel_log.parse(long)
    assert line is None or len(line.message) <= kernel_log.LINE_LIMIT


def test_gpus_are_known_by_their_address_and_by_the_bridges_above_them():
    rig = Rig.replay(RIGS / "wrx90-2switch-flat")
    places = {f"GPU{index}": rig.nvml.reading(index, "pci_bus_id") for index in range(rig.nvml.gpu_count())}
    labels = labels_of(rig.sysfs, places)
    assert labels["0000:24:00.0"] == labels["0000:22:01.0"] == "GPU1"  # the card, and the switch's port above it
    assert labels["0000:21:00.0"] == "GPU0, GPU1, GPU2, GPU3"  # the switch


def test_a_file_is_followed_as_it_grows_and_when_it_is_rotated(tmp_path):
    path = tmp_path / "kern.log"
    path.write_text(f"[1.0] {XID_79}\n")
    with KernelLog(path) as log:
        assert log.poll() == []  # what stood there before is not new
        with path.open("a") as file:
            file.write("[2.0] Out of memory: Killed process 7 (a")
            file.flush()
            assert log.poll() == []  # half a line
            file.write(") total-vm:1kB\n")
        assert [event.code for event in log.poll()] == ["oom"]
        assert log.poll() == []
        path.rename(tmp_path / "kern.log.1")
        path.write_text(f"[3.0] {XID_79}\n")
        log.poll()
        assert [event.code for event in log.poll()] == ["xid-79"]
        path.write_text("[4.0] NVRM: API mismatch: x\n")
        log.poll()
        assert [event.code for event in log.poll()] == ["driver-mismatch"]


def test_an_error_that_waits_for_a_better_line_comes_with_the_next_look(tmp_path):
    path = tmp_path / "kern.log"
    path.write_text("")
    report = "[2.0] pcieport 0000:00:01.0: AER: Correctable error message received from 0000:01:00.0\n"
    with KernelLog(path) as log, path.open("a") as file:
        file.write(report)
        file.flush()
        assert log.poll() == []
        assert [event.code for event in log.poll()] == ["aer-corrected"]


def test_a_file_that_cannot_be_read_is_said_with_the_cure(tmp_path):
    with pytest.raises(RigbenchError, match="No such file"):
        KernelLog(tmp_path / "none")


@pytest.mark.parametrize(
    ("error", "reason"), [(PermissionError(1, ""), "sudo usermod -aG adm"), (FileNotFoundError(2, ""), "on the host")]
)
def test_without_permission_it_is_said_how_to_get_it(monkeypatch, error, reason):
    def refuse(*_arguments):
        raise error

    monkeypatch.delenv("RIGBENCH_KERNEL_LOG")
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(kernel_log.shutil, "which", lambda name: None)
    log = KernelLog()
    assert reason in log.absent.reason
    assert log.poll() == []
    so_far = kernel_log.lines_so_far()
    assert isinstance(so_far, Absent)
    assert reason in so_far.reason


def test_where_the_device_is_closed_the_journal_is_followed(monkeypatch, tmp_path):
    program = tmp_path / "journalctl"
    line = (KERNEL / "host.json").read_text().splitlines()[0]
    program.write_text(f"#!/bin/sh\necho '{line}'\ncase \"$*\" in *-f*) exec sleep 100;; esac\n")
    program.chmod(0o755)
    monkeypatch.delenv("RIGBENCH_KERNEL_LOG")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(kernel_log, "KMSG", str(tmp_path / "none"))
    with KernelLog() as log:
        assert log.absent is None
        child = log._child
        found, until = [], time.monotonic() + 10
        while not found and time.monotonic() < until:
            found = log.poll()
            time.sleep(0.01)
        assert [event.code for event in found] == ["oom"]
        assert log.poll() == []
    assert child.returncode is not None
    assert [event.code for event in events(kernel_log.lines_so_far())] == ["oom"]


HOST_LOG = """[ 3600.500000] NVRM: Xid (PCI:0000:01:00): 31, pid=7777, name=secret_train, Ch 0000000a, MMU Fault
[ 3601.000000] Out of memory: Killed process 7777 (secret_train) total-vm:3512020kB, anon-rss:1kB, UID:1000
[ 3602.000000] INFO: task secret_train:7777 blocked for more than 120 seconds.
[ 3603.000000] EXT4-fs error (device sda1): ext4_find_entry:1455: inode #2: comm secret_train: reading directory
[ 3604.000000] usb 1-1: SerialNumber: 4C530001
"""


def test_a_capture_keeps_what_the_log_tells_without_whose_it_is_and_its_replay_gives_the_same_bytes(
    monkeypatch, tmp_path
):
    log = tmp_path / "kern.log"
    log.write_text(HOST_LOG)
    monkeypatch.setenv("RIGBENCH_KERNEL_LOG", str(log))
    monkeypatch.setattr(kernel_log, "booted", lambda: 1795900000.0)
    rig = Rig.replay(RIGS / "dual-rtx4080s-x8x8")
    live = dataclasses.replace(rig, replayed=False)
    redaction = Redaction()
    text = kernel_log.recorded(live, redaction)
    assert "secret_train" not in text
    assert "7777" not in text
    assert redaction.counts == {"process names": 4, "process ids": 3}
    assert text.startswith(
        "2026-11-28T22:06:40.500000+00:00 [ 3600.500000] NVRM: Xid (PCI:0000:01:00): 31, pid=1, name="
    )
    assert [event.code for event in events(text.splitlines())] == ["xid-31", "oom", "hung", "filesystem"]
    again = dataclasses.replace(rig, kernel_lines=tuple(text.splitlines()))
    assert kernel_log.recorded(again, Redaction()) == text
    assert kernel_log.recorded(rig, Redaction()) is None  # it holds none


def test_doctor_tells_a_recorded_rigs_log_with_evidence_and_what_it_costs(rigbench, tmp_path):
    shutil.copytree(RIGS / "dual-rtx4080s-x8x8", tmp_path / "rig")
    (tmp_path / "rig" / "kernel.txt").write_text((KERNEL / "riser_old_words.txt").read_text())
    code, out, _ = rigbench("--replay", str(tmp_path / "rig"), "doctor")
    assert code == 1
    assert out.startswith("1 fault: GPU0 with PCIe errors in the kernel's log\n")
    assert "power off and on; seat card and" in out
    assert "riser again; look at power" in out
    code, out, _ = rigbench("--replay", str(tmp_path / "rig"), "doctor", "--verbose")
    words = " ".join(out.split())
    assert "MalfTLP" not in words
    assert "PCIe Bus Error: severity=Uncorrected (Fatal)" in words
    assert "a link that goes down ends the program" in words


def test_an_export_holds_neither_the_processes_nor_their_numbers():
    (event,) = events(["[1.0] Out of memory: Killed process 77777 (secret_train) total-vm:1kB"])
    run = store.read(Path(__file__).parent / "runs" / "schema-1.json")
    run = msgspec.structs.replace(run, topology=msgspec.structs.replace(run.topology, kernel_events=(event,)))
    public = store.encode(redacted(run).run).decode()
    assert "secret_train" not in public
    assert "77777" not in public
    assert "Killed process" in public


def test_what_is_told_on_and_on_about_one_event_is_one():
    lines = [f"[{at}.0] {XID_79}" for at in (10, 20, 45, 60, 300)]
    assert [event.monotonic_seconds for event in events(lines)] == [10.0, 300.0]


def test_doctor_says_how_to_read_a_log_that_is_closed(monkeypatch, rigbench):
    monkeypatch.setattr(kernel_log, "lines_so_far", lambda: Absent(kernel_log.RESTRICTED))
    code, out, _ = rigbench("doctor", "--verbose")
    assert code == 0
    assert "sudo usermod -aG adm $USER" in " ".join(out.split())


def test_last_months_errors_are_history(monkeypatch, tmp_path):
    log = tmp_path / "kern.log"
    log.write_text(f"2020-01-01T00:00:00+0000 box kernel: {XID_79}\n{XID_31}\n")
    monkeypatch.setenv("RIGBENCH_KERNEL_LOG", str(log))
    live = dataclasses.replace(Rig.replay(RIGS / "dual-rtx4080s-x8x8"), replayed=False)
    (event,) = kernel_log.so_far(live, {"GPU0": "0000:01:00.0"})
    assert (event.count, event.label, event.wall_seconds) == (1, "GPU0", Absent("the line has none"))
