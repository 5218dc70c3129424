"""Does monitor tell the kernel's log, raise alarms, serve Prometheus and keep its recording in bounds?"""

from __future__ import annotations

import shutil
import socket
import sys
import urllib.request
from pathlib import Path

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from rigbench import openmetrics
from rigbench.alarms import AlarmOptions, DiskGauge, DiskLeft
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.machine.kernel_log import events, labelled
from rigbench.machine.nvml import Nvml
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import RecordedSysfs
from rigbench.monitor import command, live_screen, readings, recording, screen
from rigbench.monitor.live import Lines
from rigbench.monitor.metrics import samples, state
from rigbench.monitor.record import HostTick, Monitor, MonitorHeader, MonitorKernel, MonitorTick, Options
from rigbench.monitor.summary import Fold
from rigbench.openmetrics import Address, Sample, address_of, serve

RIGS, KERNEL = Path(__file__).parent / "rigs", Path(__file__).parent / "kernel"
HOT = RIGS / "dual-rtx4080s-throttling"
HEADER = MonitorHeader(
    started_at="2026-11-28T22:00:00Z",
    interval_seconds=1.0,
    slow_seconds=5.0,
    replayed=False,
    core_count=2,
    host_memory_total_bytes=1 << 30,
    gpu_count=Absent("none"),
)
XID = "[{}.0] NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus."


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Recorded cards that get hot, beside a log in which one fell off the bus."""
    shutil.copytree(HOT, tmp_path / "faulty")
    text = (KERNEL / "gpu_falls_off.txt").read_text()
    (tmp_path / "faulty" / "kernel.txt").write_text(text.replace("0000:41:00", "0000:01:00"))
    return tmp_path / "faulty"


def hot() -> Monitor:
    return command.watch(Options(), HOT, None)[0]


def told(monitor: Monitor) -> list[tuple[str, str, int]]:
    return [(seen.event.code, seen.event.where, seen.event.count) for seen in monitor.kernel]


def test_a_replay_tells_the_log_of_its_capture_and_counts_as_faulty(rigbench, faulty):
    code, out, _ = rigbench("--replay", str(faulty), "monitor", "-v")
    assert code == 1
    assert "kernel (fault)  GPU0 (0000:01:00.0): the card fell off the bus (Xid 79)\n" in out
    assert "next    power off and on; check power cables" in out
    assert "kernel (warning)  GPU0 (0000:01:00.0): the driver says what the card needs now (Xid 154)\n" in out


def test_new_lines_are_told_beside_the_readings_and_old_ones_are_not(monkeypatch, tmp_path):
    log = tmp_path / "kern.log"
    log.write_text(XID.format(1) + "\n")
    monkeypatch.setenv("RIGBENCH_KERNEL_LOG", str(log))
    rig = Rig(RecordedSysfs({"proc/stat": "cpu  1 2 3 4"}, {}), Nvml(Absent("no driver")))
    watch = readings.live(rig, Options(interval=0.1), lambda: False)
    fold = Fold(next(watch))
    for event in watch:
        fold.add(event)
        if isinstance(event, MonitorTick) and fold.ticks == 2:
            with log.open("a") as file:
                file.write(XID.format(100) + "\n" + XID.format(500) + "\n")
        if isinstance(event, MonitorTick) and fold.ticks == 5:
            watch.close()
            break
    assert told(fold.record()) == [("xid-79", "0000:01:00.0", 2)]
    assert fold.record().at_fault


def test_a_closed_log_is_a_note(monkeypatch):
    monkeypatch.setattr(readings, "KernelLog", lambda: Closed())
    rig = Rig(RecordedSysfs({}, {}), Nvml(Absent("no driver")))
    watch = readings.live(rig, Options(interval=0.1), lambda: True)
    assert next(watch).notes == ("closed; open it so",)
    watch.close()


class Closed:
    absent = Absent("closed; open it so")


def folded(*lines: tuple[float, str]) -> Fold:
    fold = Fold(HEADER)
    for at, line in lines:
        for event in labelled(events([line]), {"0000:01:00.0": "GPU0"}):
            fold.add(MonitorKernel(at, event))
        fold.add(MonitorTick(at, {}, HostTick()))
    return fold


def test_lines_and_pictures_tell_an_event_when_it_comes_and_again_when_there_are_more():
    said: list[str] = []
    lines = Lines(said.append)
    for fold in (folded((3.0, XID.format(1))), folded((3.0, XID.format(1)), (4.0, XID.format(900)))):
        lines(fold.record(), {})
        lines(fold.record(), {})
    heard = [line for line in said if "kernel" in line]
    assert len(heard) == 2
    assert heard[0].startswith("3 s  kernel (fault): GPU0 (0000:01:00.0): the card fell off the bus (Xid 79); next: ")
    assert "(Xid 79), 2 times; next: " in heard[1]
    picture = live_screen.frame(fold.record(), {}, 100, 40).plain
    assert "fault kernel: GPU0 (0000:01:00.0): the card fell off the bus (Xid 79), 2 times, after 4 s" in picture


def test_a_recording_holds_the_events_too(tmp_path):
    fold = folded((3.0, XID.format(1)))
    path = tmp_path / "watch.jsonl"
    with recording.Recorder(path, force=False) as recorder:
        for event in (HEADER, *(MonitorKernel(3.0, seen.event) for seen in fold.record().kernel)):
            recorder.write(event)
    assert told(command.summary(path)) == told(fold.record())


def test_hostile_log_lines_do_nothing_to_a_terminal():
    fold = folded((3.0, "[1.0] Out of memory: Killed process 7 (\x1b]0;x\x07[red]\u202e) total-vm:1kB"))
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    screen.show(fold.record(), console)
    text = console.export_text()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]" in text


# ---- alarms


def test_what_monitor_sees_becomes_alarms():
    monitor = hot()
    its = state(monitor, (), (), Absent("forever"))
    assert its.throttled == {"GPU1": "the driver slows it down at its target temperature: it needs more air"}
    assert its.lost == {}


def test_a_watch_runs_the_alert_command_once_each(rigbench, faulty, tmp_path):
    file = tmp_path / "alarms"
    code, _, err = rigbench(
        "--replay", str(faulty), "monitor", "-q", "--alert-cmd", f'printf "%s\\n" "$RIGBENCH_ALARM_CODE" >> {file}'
    )
    assert code == 1
    assert sorted(file.read_text().split()) == ["kernel", "kernel", "kernel", "throttled"]
    assert "warning" not in err


def test_a_disk_that_fills_is_measured_over_a_minute(tmp_path):
    gauge = DiskGauge(str(tmp_path))
    gauge.close()
    gauge._free.clear()
    gauge.add(0.0, 10_000)
    gauge.add(50.0, 9_500)
    assert gauge.read() == ()
    gauge.add(100.0, 9_000)
    assert gauge.read() == (DiskLeft(path=str(tmp_path), free_bytes=9_000, written_bytes_per_s=10.0),)


def test_a_recording_raises_no_alarm(rigbench):
    code, _, err = rigbench("monitor", "--from", "x", "--webhook", "http://127.0.0.1:1/")
    assert code == 2
    assert "--from FILE is a watch that is over" in err


# ---- Prometheus


def scraped(address: Address, accept: str = "text/plain") -> tuple[str, str]:
    request = urllib.request.Request(f"http://{address}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


def test_a_scrape_tells_the_newest_readings_in_both_formats():
    monitor = hot()
    with serve(Address("127.0.0.1", 0)) as exporter:
        exporter.update([Sample("rigbench_old", "Gone.", {}, 1.0)])
        exporter.update(samples(monitor))
        text, _ = scraped(exporter.address)
        modern, kind = scraped(exporter.address, "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    for families in (text_string_to_metric_families(text), openmetrics_families(modern)):
        values = {(it.name, it.labels.get("gpu", "")): it.value for family in families for it in family.samples}
        assert values["rigbench_gpu_power_watts", "GPU1"] == monitor.gpus[1].power_watts.now
        assert values["rigbench_gpu_temperature_celsius", "GPU0"] == monitor.gpus[0].temperature_celsius.now
        assert values["rigbench_gpu_memory_total_bytes", "GPU0"] == monitor.gpus[0].memory_total_bytes
        assert values["rigbench_gpu_energy_joules_total", "GPU0"] == monitor.gpus[0].energy.joules
        assert values["rigbench_gpu_up", "GPU0"] == 1.0
        assert ("rigbench_host_cpu_busy_ratio", "") not in values  # not recorded: no sample, and no 0
        assert ("rigbench_old", "") not in values


def test_the_kernels_events_are_counted_for_prometheus():
    its = {
        (sample.name, sample.labels.get("code")): sample.value
        for sample in samples(folded((1.0, XID.format(1))).record())
    }
    assert its["rigbench_kernel_events", "xid-79"] == 1.0


def test_a_port_in_use_is_said_with_the_cure():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RigbenchError, match="Address already in use") as error:
            serve(Address("127.0.0.1", port))
    assert "another program has that port" in str(error.value)
    assert error.value.exit_code == 2


def test_a_monitor_whose_port_is_taken_ends_with_2(rigbench, faulty):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = rigbench("--replay", str(faulty), "monitor", "-q", "--openmetrics", f"127.0.0.1:{port}")
    assert code == 2
    assert "give another one" in err


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(RigbenchError) as error:
        serve(Address("127.0.0.1", 0))
    assert openmetrics.INSTALL in str(error.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9464", Address("127.0.0.1", 9464)),
        (":9464", Address("127.0.0.1", 9464)),
        ("0.0.0.0:80", Address("0.0.0.0", 80)),
        ("[::1]:9464", Address("::1", 9464)),
    ],
)
def test_only_who_names_an_address_lets_others_in(text, address):
    assert address_of(text, "--openmetrics") == address


@pytest.mark.parametrize("text", ["", "x", "host:", "127.0.0.1:99999", "1 2:3", "127.0.0.1:-1", "127.0.0.1:٣"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(RigbenchError, match="is no address"):
        address_of(text, "--openmetrics")


# ---- a recording in parts


def recorded(path: Path, ticks: int, limit: int) -> None:
    with recording.Recorder(path, force=False, limit_bytes=limit) as recorder:
        recorder.write(HEADER)
        for at in range(ticks):
            recorder.write(MonitorTick(float(at), {}, HostTick(load_average=float(at))))
        assert recorder.trouble is None


def test_a_recording_stays_within_its_limit_and_is_read_as_one(tmp_path):
    path, limit = tmp_path / "night.jsonl", 64 << 10
    recorded(path, 400, limit)
    parts = sorted(tmp_path.iterdir())
    assert [part.name for part in parts] == [f"night.jsonl{end}" for end in ("", ".1", ".2", ".3")]
    assert sum(part.stat().st_size for part in parts) <= limit
    got = [event.at_seconds for event in recording.read(path) if isinstance(event, MonitorTick)]
    assert got == [float(at) for at in range(400 - len(got), 400)]  # the newest, in order, none left out
    assert len(got) > 60
    assert sum(isinstance(event, MonitorHeader) for event in recording.read(path)) == 1
    assert command.summary(path).ticks == len(got)


def test_a_part_can_be_read_alone_and_anothers_is_not_taken_for_ours(tmp_path):
    path = tmp_path / "night.jsonl"
    recorded(path, 100, 256 << 10)
    whole = list(recording.read(path))
    (tmp_path / "night.jsonl.1").write_bytes(
        msgspec.json.encode(msgspec.structs.replace(HEADER, started_at="other")) + b"\n"
    )
    assert list(recording.read(path)) == whole
    shutil.copy(path, tmp_path / "alone.jsonl")
    assert list(recording.read(tmp_path / "alone.jsonl")) == whole


def test_older_parts_are_not_overwritten_without_force_and_go_with_it(tmp_path):
    path = tmp_path / "night.jsonl"
    (tmp_path / "night.jsonl.2").write_text("precious")
    with pytest.raises(RigbenchError, match=r"night\.jsonl\.2 is there already"):
        recording.Recorder(path, force=False)
    with recording.Recorder(path, force=True):
        assert [file.name for file in tmp_path.iterdir()] == ["night.jsonl"]


def test_a_watch_killed_between_two_parts_is_read(tmp_path):
    path = tmp_path / "night.jsonl"
    recorded(path, 100, 256 << 10)
    path.rename(tmp_path / "night.jsonl.1")
    assert sum(isinstance(event, MonitorTick) for event in recording.read(path)) == 100


def test_the_options_name_their_limits(rigbench):
    code, _, err = rigbench("monitor", "--record-limit", "1KiB")
    assert code == 2
    assert "give 64KiB or more" in err
    assert not AlarmOptions().are_given
