"""Does a capture bring the rig back as it was read, the same bytes each time, and tell nobody whose it is?"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from fakenvml.expand_sysfs import expand_recording, write
from fakenvml.library import FakeDriver
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from rigbench.capture import command as capturing
from rigbench.capture.record import CaptureSummary
from rigbench.core import profiles
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.machine import capture
from rigbench.machine.nvml import Nvml
from rigbench.machine.redact import Redaction
from rigbench.machine.replay import ReplayedDriver, parse_recording
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import Sysfs
from rigbench.topology import screen as render
from rigbench.topology import survey as topology
from rigbench.topology.record import Topology

RIGS = Path(__file__).parent / "rigs"
ALL = sorted(path.parent.name for path in RIGS.glob("*/rig.json"))
WITH_TREE = sorted(path.parent.name for path in RIGS.glob("*/pci.json"))

SECRETS = (
    *("GPU-4f3b1e8a-90cd-11ef-a0b1-0242ac120002", "MIG-4f3b1e8a-90cd-11ef-a0b1-0242ac120003", "1563221009876"),
    *("train-llm", "4242", "alice", "secret-host", "98:03:9b:a1:b2:c3", "9803:9b03:00a1:b2c3", "ip=192.168.7.9"),
)
SECRETIVE = """sys nvmlDeviceGetCount_v2 = 0 2
0 nvmlDeviceGetUUID = 0 "GPU-4f3b1e8a-90cd-11ef-a0b1-0242ac120002"
1 nvmlDeviceGetUUID = 0 "GPU-4f3b1e8a-90cd-11ef-a0b1-0242ac120002"
* nvmlDeviceGetName = 0 "NVIDIA H100 of alice@secret-host"
* nvmlDeviceGetSerial = 0 "1563221009876"
* nvmlDeviceGetMigMode = 0 1 1
* nvmlDeviceGetMaxMigDeviceCount = 0 1
0 nvmlDeviceGetMigDeviceHandleByIndex/0 = 0 100
100 nvmlDeviceGetName = 0 "MIG 1g.10gb"
100 nvmlDeviceGetUUID = 0 "MIG-4f3b1e8a-90cd-11ef-a0b1-0242ac120003"
0 nvmlDeviceGetComputeRunningProcesses_v3 = 0 4242 1073741824 17 5
1 nvmlDeviceGetComputeRunningProcesses_v3 = 0 4242 1073741824
sys nvmlSystemGetProcessName/4242 = 0 "/home/alice/train-llm"
0 nvmlDeviceGetPciInfo_v3 = 0 "00000000:01:00.0" 0x233010DE 0x16C110DE
"""


def take(source: Path, folder: Path, **options: bool) -> CaptureSummary:
    return capturing.record(folder, source, options.get("load", False), options.get("force", False))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def read(rig: Rig) -> Topology:
    return topology.run(rig, lambda *_facts: Absent("no profile"))


def screen(found: Topology) -> str:
    console = Console(file=io.StringIO(), width=100, highlight=False)
    render.show(found, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def recorded(rig: Rig) -> capture.Captured:
    return capture.record(rig, capturing.read_everything, lambda _rig: Absent("not here"))


@pytest.mark.parametrize("name", ALL)
def test_capturing_a_replay_of_a_capture_gives_the_same_bytes_and_the_same_screen(name: str, tmp_path: Path) -> None:
    take(RIGS / name, tmp_path / "A")
    take(tmp_path / "A", tmp_path / "B", load=True)
    assert contents(tmp_path / "A") == contents(tmp_path / "B")
    assert screen(read(Rig.replay(tmp_path / "A"))) == screen(read(Rig.replay(RIGS / name)))


@pytest.mark.parametrize("name", WITH_TREE)
def test_a_tree_of_real_files_is_captured_as_the_recording_it_came_from(name: str, tmp_path: Path) -> None:
    expand_recording(RIGS / name, tmp_path / "root")
    nvml = Nvml.replay(RIGS / name / "nvml.txt")
    files = recorded(Rig(Sysfs(tmp_path / "root"), nvml)).files
    found, wanted = json.loads(files["pci.json"]), json.loads((RIGS / name / "pci.json").read_text())
    assert list(found) == sorted(wanted)
    for bus_id, function in found.items():
        assert {key: wanted[bus_id].get(key, function[key]) for key in function} == function


LIVE_FILES = {
    "proc/cpuinfo": "\n\n".join(
        f"processor\t: {cpu}\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\nphysical id\t: 0\ncore id\t\t: {cpu}\n"
        "flags\t\t: fpu lm avx2 fma\nbugs\t\t: spectre_v1"
        for cpu in range(4)
    ),
    "proc/meminfo": "MemTotal:       65536000 kB\nMemFree: 1 kB\nMemAvailable:   60000000 kB\nSwapTotal:  0 kB",
    "proc/self/status": "Name:\talice-job\nPid:\t4242\nCpus_allowed_list:\t0-3",
    "proc/self/cgroup": "0::/user.slice/user-alice.slice",
    "proc/cmdline": "BOOT_IMAGE=/vmlinuz-secret-host root=UUID=4242 iommu=pt nvidia-drm.modeset=1 ip=192.168.7.9 quiet",
    "proc/sys/kernel/osrelease": "6.8.0-secret-host",
    "proc/sys/kernel/hostname": "secret-host",
    "proc/4242/comm": "train-llm",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module  595.71.05  (alice@secret-host)",
    "proc/driver/nvidia/params": 'Mobile: 4294967295\nRegistryDwords: "ForceP2P=17"\nTemporaryFilePath: "/home/alice"',
    "sys/devices/system/cpu/online": "0-3",
    "sys/devices/system/cpu/cpu0/cache/index3/level": "3",
    "sys/devices/system/cpu/cpu0/cache/index3/size": "36608K",
    "sys/devices/system/cpu/cpu0/cache/index3/shared_cpu_list": "0-3",
    "sys/class/dmi/id/product_name": "X12 98:03:9b:a1:b2:c3 9803:9b03:00a1:b2c3",
    "sys/block/sda/device/model": "DISK of alice@secret-host",
    "sys/block/sda/size": "1000",
    "sys/block/loop0/size": "8",
}


@pytest.fixture
def live(tmp_path: Path) -> Rig:
    """A rig of real files and a driver, full of things that are nobody's business."""
    expand_recording(RIGS / "dual-rtx4080s-x8x8", tmp_path / "root")
    write(tmp_path / "root", LIVE_FILES)
    return Rig(Sysfs(tmp_path / "root"), Nvml(ReplayedDriver(parse_recording(SECRETIVE))))


def test_a_live_rig_and_its_capture_show_the_same_screen(live: Rig, tmp_path: Path) -> None:
    capture.write(tmp_path / "A", recorded(live).files)
    expected, replayed = screen(read(live)), screen(read(Rig.replay(tmp_path / "A")))
    redacted = {
        "DISK of alice@secret-host": "DISK … …",
        "alice@secret-host": "user@host",
        "secret-host": "host",
        "no such file": "not recorded",
    }
    for secret, word in redacted.items():
        expected = expected.replace(secret, word)
    assert "IOMMU" in replayed
    # Whose process it is stands in no capture; the line that says it breaks elsewhere then.
    assert [line.split() for line in expected.splitlines() if "process" not in line and line.strip() != "5 B"] == [
        line.split() for line in replayed.splitlines() if "process" not in line and line.strip() != "recorded)), 5 B"
    ]


def test_a_capture_of_a_live_rig_is_the_same_when_its_replay_is_captured(live: Rig, tmp_path: Path) -> None:
    capture.write(tmp_path / "A", recorded(live).files)
    take(tmp_path / "A", tmp_path / "B")
    assert contents(tmp_path / "A") == contents(tmp_path / "B")


def test_no_secret_is_in_a_capture_and_each_kind_is_told(live: Rig) -> None:
    captured = recorded(live)
    written = "\n".join(captured.files.values())
    assert [secret for secret in SECRETS if secret.lower() in written.lower()] == []
    assert captured.redacted["UUIDs"] >= 3
    assert captured.redacted["process ids"] >= 2
    assert captured.redacted["words of the kernel's command line"] == 3
    assert {"user and host names", "MAC addresses", "GUIDs"} <= captured.redacted.keys()
    assert {"proc/self/cgroup", "proc/N/comm"} <= set(captured.left_out)


def test_equal_secrets_stay_equal(live: Rig) -> None:
    recording = parse_recording(recorded(live).files["nvml.txt"])
    assert recording["0", "nvmlDeviceGetUUID"] == recording["1", "nvmlDeviceGetUUID"]
    assert recording["0", "nvmlDeviceGetUUID"][0].values == ("GPU-00000000-0000-0000-0000-000000000000",)
    first, second = (recording[scope, "nvmlDeviceGetComputeRunningProcesses_v3"][0].values for scope in "01")
    assert first == (1, 1 << 30, 2, 5)
    assert second == (1, 1 << 30)


def test_the_readable_part_is_in_the_terms_of_the_format(live: Rig) -> None:
    host = json.loads(recorded(live).files["rig.json"])
    assert (host["rigbench_capture"], host["redacted"], host["virtual"]) == (1, True, False)
    assert (host["cpu"], host["cpu_vendor"], host["nodes"]) == ("Xeon", "GenuineIntel", {"0": "0-27"})
    assert host["cmdline"] == "iommu=pt nvidia-drm.modeset=1 quiet"
    assert (host["driver_flavour"], host["driver_overrides"]) == ("open", "ForceP2P=17")


def test_sequences_are_kept_whole_from_a_replay_and_as_read_from_a_machine() -> None:
    lines = (
        SECRETIVE
        + "0 nvmlDeviceGetCurrPcieLinkGeneration = 0 1 ; 0 1 ; 0 4\n0 nvmlDeviceGetTemperature/0 = 0 40 ; 15\n"
    )
    library = ReplayedDriver(parse_recording(lines))
    replayed = parse_recording(recorded(Rig(Sysfs(Path("/nowhere")), Nvml(library), replayed=True)).files["nvml.txt"])
    assert [answer.values for answer in replayed["0", "nvmlDeviceGetCurrPcieLinkGeneration"]] == [(1,), (1,), (4,)]
    assert [answer.code for answer in replayed["0", "nvmlDeviceGetTemperature/0"]] == [0, 15]
    live = capture.record(
        Rig(Sysfs(Path("/nowhere")), Nvml(_Opaque(parse_recording(lines)))),
        lambda rig: [rig.nvml.ask(0, "nvmlDeviceGetCurrPcieLinkGeneration") for _ in range(6)],
        lambda _rig: Absent("not here"),
    )
    as_read = parse_recording(live.files["nvml.txt"])
    assert [answer.values for answer in as_read["0", "nvmlDeviceGetCurrPcieLinkGeneration"]] == [(1,), (1,), (4,)]


class _Opaque:
    """A driver library that does not tell that it is a replay."""

    trouble = None

    def __init__(self, recording: Any) -> None:
        self.ask = ReplayedDriver(recording).ask


@pytest.mark.parametrize("missing", ["rig.json", "pci.json", "nvml.txt"])
def test_a_folder_that_lacks_a_part_is_captured_without_it(missing: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in {"rig.json", "pci.json", "nvml.txt"} - {missing}:
        (source / name).write_bytes((RIGS / "dual-rtx4080s-x8x8" / name).read_bytes())
    take(source, tmp_path / "A")
    take(tmp_path / "A", tmp_path / "B")
    assert contents(tmp_path / "A") == contents(tmp_path / "B")
    if missing != "rig.json":
        assert missing not in contents(tmp_path / "A")


def test_a_load_is_copied_from_a_replay_and_its_absence_told(tmp_path: Path) -> None:
    with_load = take(RIGS / "dual-rtx4080s-throttling", tmp_path / "A", load=True)
    without = take(RIGS / "epyc7502-4x4090", tmp_path / "B", load=True)
    assert with_load.load == "load.nvml.txt"
    original = parse_recording((RIGS / "dual-rtx4080s-throttling" / "load.nvml.txt").read_text())
    assert parse_recording((tmp_path / "A" / "load.nvml.txt").read_text()) == original
    assert without.load == Absent("the recording holds none")
    assert "load.nvml.txt" not in contents(tmp_path / "B")


def test_another_capture_is_replaced_and_other_peoples_files_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "A"
    take(RIGS / "dual-rtx4080s-x8x8", folder)
    (folder / "expected.json").write_text("{}")
    take(RIGS / "h200-driver-590.48.01", folder)
    assert sorted(contents(folder)) == ["expected.json", "load.nvml.txt", "nvml.txt", "rig.json"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(RigbenchError, match="holds other files and no capture; choose another folder, or add --force"):
        take(RIGS / "h200-driver-590.48.01", tmp_path / "mine")
    assert list(contents(tmp_path / "mine")) == ["thesis.txt"]
    take(RIGS / "h200-driver-590.48.01", tmp_path / "mine", force=True)
    assert "thesis.txt" in contents(tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A", "mine"]


def test_a_folder_may_be_named_in_any_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", "deep/er/A", "../" + tmp_path.name + "/B"):
        take(RIGS / "h200-driver-590.48.01", Path(name))
        assert "rig.json" in contents(tmp_path / name)


def test_the_recording_that_is_replayed_is_never_overwritten(tmp_path: Path) -> None:
    take(RIGS / "h200-driver-590.48.01", tmp_path / "A")
    before = contents(tmp_path / "A")
    with pytest.raises(RigbenchError, match="is the recording that is replayed"):
        take(tmp_path / "A", tmp_path / "x" / ".." / "A", force=True)
    assert contents(tmp_path / "A") == before


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(RigbenchError, match=r"cannot write a capture to .* choose another folder with -o DIR"):
            take(RIGS / "h200-driver-590.48.01", place)


def test_a_disk_that_refuses_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(RigbenchError, match="No space left on device"):
        capture.write(tmp_path / "A", {"rig.json": "{}"})
    assert list(tmp_path.iterdir()) == []


def test_whole_processes_capture_a_live_rig_and_its_replay(fake_driver: FakeDriver, tmp_path: Path) -> None:
    recording = RIGS / "dual-rtx4080s-x8x8" / "nvml.txt"
    home = tmp_path / "home"
    done = fake_driver.run("capture", "-o", str(tmp_path / "A"), "--json", recording=recording, home=home)
    again = fake_driver.run(
        "--replay", str(tmp_path / "A"), "capture", "-o", str(tmp_path / "B"), "--load", recording=recording, home=home
    )
    assert (done.returncode, again.returncode) == (0, 0)
    assert json.loads(done.stdout)["gpus"] == 2
    assert done.stderr.startswith("rigbench: redacted: ")
    assert again.stderr.splitlines()[-1] == "rigbench: no load was recorded: the recording holds none"
    assert contents(tmp_path / "A") == contents(tmp_path / "B")
    assert not home.exists()


@pytest.mark.slow
def test_cards_that_cannot_be_kept_busy_leave_a_capture_without_load(fake_driver: FakeDriver, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    recording = RIGS / "dual-rtx4080s-x8x8" / "nvml.txt"
    done = fake_driver.run("capture", "-o", str(tmp_path / "A"), "--load", recording=recording, home=tmp_path)
    assert done.returncode == 0
    assert "no load was recorded: the cards could not be kept busy" in done.stderr
    assert "load.nvml.txt" not in contents(tmp_path / "A")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("98:03:9b:a1:b2:c3", "00:00:00:00:00:00"),
        ("0c42:a103:0065:bafe", "0000:0000:0000:0000"),
        ("pci0000:00/0000:00:01.0/0000:01:00.0", "pci0000:00/0000:00:01.0/0000:01:00.0"),
        ("0-27,56-83", "0-27,56-83"),
        ("gpu on tower, towering", "gpu on host, towering"),
        ("built by root@tower.lan today", "built by user@host today"),
    ],
)
def test_what_is_redacted_in_a_text(text: str, expected: str) -> None:
    assert Redaction("tower").text(text) == expected


# ---- hostile captures ----

PATHS = st.sampled_from(["../../etc/passwd", "/etc/shadow", "..", "sys/../../../etc", "\x00", "0000:01:00.0", "a/b"])
NUMBERS = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([63, 255, 1e308])
SCALARS = st.none() | st.booleans() | NUMBERS | PATHS | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PATHS | st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
HOST = st.dictionaries(
    st.sampled_from(["rigbench_capture", "kernel", "cmdline", "virtual", "cpu", "nodes", "iommu", "driver_flavour"]),
    VALUES | st.just(1) | st.dictionaries(PATHS | st.just("0"), st.just("0-3"), max_size=2),
    max_size=5,
)
FUNCTION = st.fixed_dictionaries(
    {"root": PATHS | st.just("pci0000:00")},
    optional={
        "parent": PATHS | st.none(),
        "class": st.sampled_from(["0x030000", "0x060400", "0x020000"]) | PATHS,
        "vendor": st.just("0x10de") | PATHS,
        "numa": VALUES | st.integers(-1, 3),
        "cur_speed": VALUES | st.just(16.0),
        "max_width": VALUES | st.just(16),
        "bars": VALUES | st.dictionaries(st.sampled_from(["0", "1", "x"]), NUMBERS, max_size=2),
        "acs": VALUES,
        "iommu_group": VALUES | st.integers(0, 9),
    },
)
FUNCTIONS = st.dictionaries(PATHS | st.sampled_from(["0000:00:01.0", "0000:02:00.0"]), FUNCTION, max_size=4)
MORE = st.fixed_dictionaries(
    {},
    optional={
        "files": st.dictionaries(PATHS, st.text(max_size=20), max_size=3),
        "links": st.dictionaries(PATHS | st.just("sys/block/sda"), PATHS, max_size=3),
        "folders": st.lists(PATHS, max_size=3),
    },
)
TOKENS = st.sampled_from(
    ["0", "15", ";", '"text"', '"\x1b[2J"', "-1", "99999999999999999999999", "0x1f", "../../etc", "="]
)
LINES = st.builds(
    "{} {} = {}".format,
    st.sampled_from(["sys", "*", "0", "1", "9999", "-1", "../.."]),
    st.sampled_from(
        [
            *("nvmlDeviceGetCount_v2", "nvmlDeviceGetName", "nvmlDeviceGetUUID", "nvmlDeviceGetPciInfo_v3"),
            *("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetP2PStatus/1/0", "nvmlDeviceGetFieldValues/186/0"),
            *("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetEccMode", "nvmlInitWithFlags", "nvmlSystemGetX"),
        ]
    ),
    st.lists(TOKENS, min_size=1, max_size=6).map(" ".join),
)
NVML = st.lists(LINES, max_size=6).map("\n".join)


def damaged(text: bytes, cut: int, noise: bytes) -> bytes:
    """The start of a file, then rubbish."""
    return text[: len(text) * cut // 100] + noise if cut < 100 else text


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(host=HOST, functions=FUNCTIONS, more=MORE, lines=NVML, cut=st.integers(0, 150), noise=st.binary(max_size=8))
def test_a_hostile_capture_is_refused_in_one_line_or_read(
    tmp_path_factory: pytest.TempPathFactory,
    host: dict[str, Any],
    functions: dict[str, Any],
    more: dict[str, Any],
    lines: str,
    cut: int,
    noise: bytes,
) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    texts = {"rig.json": json.dumps(host), "pci.json": json.dumps(functions), "files.json": json.dumps(more)}
    texts |= {"nvml.txt": "sys nvmlDeviceGetCount_v2 = 0 2\n" + lines}
    victim = sorted(texts)[len(noise) % len(texts)]
    for name, text in texts.items():
        content = text.encode(errors="surrogatepass")
        (folder / name).write_bytes(damaged(content, cut, noise) if name == victim else content)
    check_replay(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rig.json", b'{"kernel": "a", "kernel": "b", "nodes": {"0": "0-3"}}'),
        ("rig.json", b'{"nodes": {"0": "0-99999"}}'),
        ("rig.json", b"\xff\xfe{}"),
        ("rig.json", b"[" * 100_000),
        ("pci.json", b"null"),
        ("pci.json", b'{"0000:01:00.0": {"root": "pci0000:00", "parent": "0000:01:00.0", "class": "0x030000"}}'),
        ("pci.json", b'{"0000:01:00.0": {"root": "../../etc", "class": "0x030000", "vendor": "0x10de"}}'),
        (
            "pci.json",
            b'{"0000:01:00.0": {"root": "pci0000:00", "max_speed": 1e308, "bars": {"1": 9999999999999999999}}}',
        ),
        ("files.json", b'{"links": {"sys/block/sda": "sys/block/sda", "proc": "../../etc"}, "files": {"": ""}}'),
        ("nvml.txt", b"sys nvmlDeviceGetCount_v2 = 0 4294967295"),
        ("nvml.txt", b"sys nvmlDeviceGetCount_v2 = 0 -1"),
        ("nvml.txt", b'sys nvmlDeviceGetCount_v2 = 0 1\n0 nvmlDeviceGetName = 0 "\xff"'),
        ("nvml.txt", b"0 nvmlDeviceGetName = 0" + b" 1 ;" * 100_000),
    ],
    ids=range(13),
)
def test_known_ways_to_hurt_a_replay(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "rig.json").write_text("{}")
    (tmp_path / name).write_bytes(content)
    check_replay(tmp_path)


def check_replay(folder: Path) -> None:
    """A refusal in one line, or a topology that can be shown and captured; nothing outside the folder is opened."""
    profiles.match_gpu(None, "no such card", None)  # read once, and no part of what is replayed
    opened, refused = list[str](), ""
    with contextlib.ExitStack() as watched:
        for module, name in ((os, "open"), (os, "listdir"), (os, "scandir"), (io, "open")):
            watched.enter_context(mock.patch.object(module, name, _told_to(opened, getattr(module, name))))
        try:
            rig = Rig.replay(folder)
            screen(read(rig))
            recorded(rig)
        except RigbenchError as error:
            refused = str(error)
    assert "\n" not in refused
    assert opened
    assert [path for path in opened if not path.startswith(str(folder))] == []


def _told_to(opened: list[str], real: Callable[..., Any]) -> Callable[..., Any]:
    def told(path: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(os.fsdecode(path))
        return real(path, *arguments, **options)

    return told
