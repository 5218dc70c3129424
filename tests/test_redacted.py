"""Does what leaves the machine tell nobody whose it is, and keep every number?"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakenvml.expand_sysfs import expand_recording, write
from test_capture import LIVE_FILES, RIGS, SECRETIVE, SECRETS
from test_stored_runs import REPORTS, RUNS

from rigbench import store
from rigbench.collectives.record import RankHost
from rigbench.core.record import Absent, Skipped
from rigbench.document import Run
from rigbench.machine import host
from rigbench.machine.nvml import Nvml
from rigbench.machine.record import Software
from rigbench.machine.redact import Redaction
from rigbench.machine.replay import ReplayedDriver, parse_recording
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import Sysfs
from rigbench.redacted import Redacted, _Secrets, redacted
from rigbench.topology import survey, verdict
from rigbench.work.record import Disturbance, GpuBeside

STORED = [*RUNS, *REPORTS]
TOLD = (
    "train-llm (pid 4242) of alice@secret-host at 192.168.7.9 and fe80::1 reads /home/alice/work/data.bin; "
    "booted with ip=192.168.7.9"
)
REGISTRY = "nvidia.NVreg_RegistryDwords="
MORE = ("192.168.7.9", "fe80::1", "data.bin", "/home", "bob", "private", "rank-zero", "RMSecret")


@pytest.fixture
def secretive(tmp_path: Path) -> Run:
    """A run of the rig that the tests of captures record, with what besides may stand in a run's file."""
    expand_recording(RIGS / "dual-rtx4080s-x8x8", tmp_path / "root")
    write(tmp_path / "root", LIVE_FILES | {"proc/driver/nvidia/params": 'RegistryDwords: "ForceP2P=17;RMSecret=bob"'})
    rig = Rig(Sysfs(tmp_path / "root"), Nvml(ReplayedDriver(parse_recording(SECRETIVE))))
    topology = survey.run(rig, lambda *_facts: Absent("no profile"))
    beside = GpuBeside(device="GPU0", others=("train-llm (pid 4242)", "tmux: bob (pid 7)"))
    return Run(
        id="20261128-120000-abcd",
        started_at="2026-11-28T12:00:00Z",
        command="run",
        status="finished",
        rig=host.rig_id(host.cpu(rig.sysfs), host.memory(rig.sysfs), [(SECRETS[0], "H100 of alice@secret-host")]),
        software=Software(
            *("0.1.0", "3.11", "2.13", Absent("none"), "595.71.05", "13.0", "6.8.0-45-secret-host"),
            environment={"LD_PRELOAD": "libc.so", "NCCL_SOCKET_IFNAME": "eth0"},
        ),
        topology=topology,
        bandwidth=Skipped("bandwidth", TOLD),
        findings=verdict.diagnose(topology),
        warnings=(TOLD, "GPU0 is in use by 4242: rates may be lower", "~bob/x is full", "C:\\Users\\bob\\private.txt"),
        disturbances=(Disturbance(room="bandwidth", evidence=(TOLD,), gpus=(beside,)),),
    )


def left_in(public: Redacted) -> list[str]:
    written = store.encode(public.run).decode()
    patterns = {it: re.compile(rf"(?<![\d.]){re.escape(it)}(?![\d.])", re.IGNORECASE) for it in (*SECRETS, *MORE)}
    return [secret for secret, pattern in patterns.items() if pattern.search(written)]


def test_no_secret_of_the_capture_tests_is_left(secretive: Run) -> None:
    assert [secret for secret in SECRETS[:2] if secret not in store.encode(secretive).decode()] == []
    public = redacted(secretive)
    assert left_in(public) == []
    assert public.counts.keys() >= {"UUIDs", "process ids", "process names", "paths", "IP addresses", "registry words"}
    assert public.run.topology.driver_overrides == "ForceP2P=17;…"
    assert public.run.software.kernel == "6.8.0-45-host-host"
    assert redacted(public.run).run == public.run


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_no_secret_is_left_in_whatever_text_of_a_run(path: Path) -> None:
    """Every sentence of a stored run tells all of them."""
    free = {"reason", "basis", "evidence", "warnings", "notes", "title", "assumptions", "events", "sentence", "model"}

    def told(value: Any, field: str) -> Any:
        if isinstance(value, dict):
            return {key: told(item, key) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [told(item, field) for item in value]
        return TOLD if isinstance(value, str) and field in free else value

    document = msgspec.to_builtins(store.read(path))
    run = msgspec.convert(told(document, ""), Run)
    assert "192.168.7.9" in store.encode(run).decode()
    assert left_in(redacted(run)) == []


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_no_number_is_changed(path: Path) -> None:
    def numbers(value: Any) -> Any:
        if isinstance(value, dict):
            return [numbers(item) for key, item in value.items() if key != "pid"]  # of a program the kernel ended
        if isinstance(value, list | tuple):
            words = value and all(isinstance(item, str) for item in value)  # a command's, of which none is left
            return None if words else [numbers(item) for item in value]
        return None if isinstance(value, str) else value

    run = store.read(path)
    public = redacted(run, host_name="secret-host", user_name="bob")
    assert numbers(msgspec.to_builtins(public.run)) == numbers(msgspec.to_builtins(run))
    assert public.run.rooms().keys() == run.rooms().keys()


def test_the_names_of_this_machine_are_hidden_wherever_they_stand(secretive: Run) -> None:
    run = msgspec.structs.replace(secretive, warnings=("rank-zero waits for private", "Rank-Zero, privateer, host"))
    assert redacted(run, "rank-zero", "private").run.warnings == ("host waits for user", "host, privateer, host")


def test_several_hosts_stay_several() -> None:
    run = store.read(next(path for path in STORED if path.stem == "run-quick-every-probe"))
    hosts = tuple(RankHost(name, "f", (rank,)) for rank, name in enumerate(("node-a", "node-b", "node-a")))
    collectives = msgspec.structs.replace(run.collectives, hosts=hosts)
    run = msgspec.structs.replace(run, collectives=collectives, warnings=("node-b is slow",))
    public = redacted(run).run
    assert [its.name for its in public.collectives.hosts] == ["host", "host 2", "host"]
    assert public.warnings == ("host 2 is slow",)


@pytest.mark.parametrize(
    ("word", "public"),
    [
        ("nvidia-drm.modeset=1", "nvidia-drm.modeset=1"),
        ("nvidia.NVreg_EnableGpuFirmware=0x0", "nvidia.NVreg_EnableGpuFirmware=0x0"),
        (f'{REGISTRY}"ForceP2P=0x11;RMForceP2PType=1"', f"{REGISTRY}ForceP2P=0x11;RMForceP2PType=1"),
        (f"{REGISTRY}RMSecret=bob;ForceP2P=17", f"{REGISTRY}…;ForceP2P=17"),
        ("nvidia.NVreg_TemporaryFilePath=/home/bob", "nvidia.NVreg_TemporaryFilePath=…"),
        ("nvidia.NVreg_Anything=bob", "nvidia.NVreg_Anything=…"),
        ("root=UUID=bob", ""),
    ],
)  # fmt: skip
def test_of_the_kernels_command_line_only_what_bears_on_gpus_stays(word: str, public: str) -> None:
    redaction = Redaction()
    assert redaction.kernel_words(f"{word} quiet").removesuffix("quiet").strip() == public
    assert redaction.kernel_words(public) == public


@pytest.mark.parametrize(
    ("model", "public"),
    [
        ("Samsung SSD 990 PRO 2TB", "Samsung SSD 990 PRO 2TB"),
        ("WD_BLACK SN850X 1000GB", "WD_BLACK SN850X 1000GB"),
        ("bobs stick S4EWNX0R123456 256GB", "… … … 256GB"),
        ("", ""),
    ],
)
def test_of_a_disks_model_only_what_names_its_kind_stays(model: str, public: str) -> None:
    assert Redaction().disk_model(model) == public
    assert Redaction().disk_model(public) == public


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("2xrtx-4090@gen4x8+p2p-off", "2xrtx-4090@gen4x8+p2p-off"),
        ("rtx-4080-super@x8", "rtx-4080-super@x8"),
        ("16xh100-80gb-hbm3@p2p-on", "16xh100-80gb-hbm3@p2p-on"),
        ("alice@x1", "user@host"),
        ("bob7@gen-server", "user@host"),
    ],
)
def test_a_rig_with_its_link_is_no_person(text: str, public: str) -> None:
    assert Redaction().text(f"on {text}, predicted") == f"on {public}, predicted"


def test_a_command_line_is_hidden_whole() -> None:
    document = {"type": "training", "command": ("python", "train.py", "--key=private"), "steps": 3}
    assert _Secrets().hidden(document, "", "") == {"type": "training", "command": ["COMMAND"], "steps": 3}


@pytest.mark.parametrize("part", ["A", "a.", "a@", "/a", "~a", "9", "0:", "1.", " ", "a ("])
def test_a_long_text_is_redacted_in_a_time_that_grows_with_its_length(part: str) -> None:
    """A pattern that tries each start anew would take the better part of an hour."""
    text, its = part * 300_000, _Secrets()
    its.learn(text, "", "")
    its.know_all()
    assert its.hidden(text, "", "")


def test_a_kernel_that_is_built_for_gpus_names_nobody(secretive: Run) -> None:
    """As it was seen, "6.18.44-fc-v657-gpu": each GPU of the run became a "host 2", its UUID with it."""
    software = msgspec.structs.replace(secretive.software, kernel="6.18.44-fc-v657-gpu")
    public = redacted(msgspec.structs.replace(secretive, software=software)).run
    assert public.software.kernel == software.kernel
    assert [gpu.uuid[:12] for gpu in public.topology.gpus] == ["GPU-00000000"] * len(public.topology.gpus)


@pytest.mark.parametrize("stored", RUNS, ids=str)
def test_a_person_and_a_host_may_be_called_as_any_word_of_a_run(stored: Path) -> None:
    """A rig's user named rig, a host named measured: the document can still be read, and the host's name is hidden."""
    words = sorted(set(re.findall(r"[^\W\d_][\w.-]{2,}", stored.read_text())))
    run = store.read(stored)
    for word in ("rig", "measured", "single", "package", "foreach", *random.Random(1).sample(words, 6)):
        hidden = redacted(msgspec.structs.replace(run, host=word), word, word).run
        assert (hidden.rig.fingerprint, hidden.host) == (run.rig.fingerprint, "host")


@pytest.mark.parametrize("name", ["RTX", "GeForce", "cpu", "nvidia"])
def test_a_host_may_be_called_as_its_card(name: str) -> None:
    assert Redaction(name).text(f"NVIDIA GeForce RTX 4090, {name}") == f"NVIDIA GeForce RTX 4090, {name}"


@pytest.mark.parametrize("written", ["silvia", "Silvia", "sılvıa", "SİLVİA", "ſilvia"])
def test_a_name_is_hidden_in_whatever_case_it_is_written(written: str) -> None:
    its = _Secrets()
    its.know("user and host names", "silvia", "user")
    its.know_all()
    assert its.hidden(f"of {written}", "", "") == "of user"
