"""Why torch cannot use the GPUs that are here, one line with the cure each: from facts as real machines told them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from rigbench.core.errors import NOTHING
from rigbench.core.record import Absent
from rigbench.machine import nvml, obstacles
from rigbench.machine.obstacles import Card, DeviceFile, Facts, Torch, obstacle, unopened
from rigbench.machine.record import GpuProcess
from rigbench.machine.rig import Rig

CUDA13 = Torch("2.13.0+cu130", "13.0")
CPU_BUILD = Torch("2.13.0+cpu", None)
OPEN = tuple(DeviceFile(path, "open") for path in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia-uvm"))
# A desktop with one card and everything in order, but that torch sees none.
SOUND = Facts(
    CUDA13,
    cards=1,
    bound_to="nvidia",
    module_loaded=True,
    started=0,
    driver="580.95.05",
    driver_cuda="13.0",
    files=OPEN,
)
NO_LIBRARY = SOUND._replace(library=False, started=None, driver="", driver_cuda="", nvml="no NVIDIA driver found")
TOO_OLD = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 12020). Please update your GPU "
    "driver by downloading and installing a new version"
)
UNKNOWN = (
    "CUDA initialization: CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env "
    "variable CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero."
)
NOT_YET = (
    "CUDA initialization: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
    "NumCudaDevices() that might have already set an error? Error 802: system not yet initialized"
)
HERE = "torch does not see the NVIDIA GPU that is here: "
OR_CPU = "; or measure the CPU: --device cpu"


def closed(path: str, group: str) -> tuple[DeviceFile, ...]:
    return tuple(DeviceFile(file.path, "closed", group) if file.path == path else file for file in OPEN)


def without(path: str) -> tuple[DeviceFile, ...]:
    return tuple(file._replace(state="missing") if file.path == path else file for file in OPEN)


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        # What torch was built for.
        (
            SOUND._replace(torch=CPU_BUILD),
            HERE + "torch 2.13.0+cpu is a CPU build; install a CUDA build of torch: see pytorch.org/get-started, "
            "or measure the CPU: --device cpu",
        ),
        (
            Facts(Torch("2.13.0+rocm7.0", None, "ROCm", seen=2)),
            "torch 2.13.0+rocm7.0 is built for ROCm, and rigbench measures NVIDIA GPUs only; what works here: --device "
            "cpu, --replay DIR and --on NAME",
        ),
        (
            SOUND._replace(torch=Torch("2.13.0+xpu", None, "XPU")),
            "torch 2.13.0+xpu is built for XPU, and rigbench measures NVIDIA GPUs only; install a CUDA build of torch: "
            "see pytorch.org/get-started; or measure the CPU: --device cpu",
        ),
        # A driver that is older than torch's CUDA, as NVML, cuInit or torch's own warning tell it.
        (
            SOUND._replace(driver="535.183.01", driver_cuda="12.2", torch=CUDA13._replace(says=TOO_OLD)),
            HERE
            + "the NVIDIA driver 535.183.01 serves CUDA 12.2, torch was built for 13.0; update the driver to 580 or "
            "newer, or install a torch built for CUDA 12 (pytorch.org/get-started)" + OR_CPU,
        ),
        (
            SOUND._replace(driver="470.256.02", driver_cuda="11.4", torch=Torch("2.6.0+cu124", "12.4")),
            HERE
            + "the NVIDIA driver 470.256.02 serves CUDA 11.4, torch was built for 12.4; update the driver to 525 or "
            "newer, or install a torch built for CUDA 11 (pytorch.org/get-started)" + OR_CPU,
        ),
        (
            SOUND._replace(driver="", driver_cuda="", torch=CUDA13._replace(says=TOO_OLD)),
            HERE + "the NVIDIA driver is too old, torch was built for 13.0; update the driver to 580 or newer" + OR_CPU,
        ),
        # No permission.
        (
            SOUND._replace(files=closed("/dev/nvidia0", "video"), started=100),
            HERE
            + "no permission to open /dev/nvidia0; join the group video (sudo usermod -aG video $USER, then log in "
            "again)" + OR_CPU,
        ),
        (
            SOUND._replace(files=closed("/dev/nvidiactl", ""), started=100, nvml="no permission to open the driver"),
            HERE
            + "no permission to open /dev/nvidiactl; join the group video and render (sudo usermod -aG video,render "
            "$USER, then log in again)" + OR_CPU,
        ),
        (
            SOUND._replace(files=closed("/dev/nvidia0", "video"), started=100, in_container=True),
            HERE + "no permission to open /dev/nvidia0; give the container the GPUs (docker run --gpus all; podman run "
            "--device nvidia.com/gpu=all)" + OR_CPU,
        ),
        # Containers.
        (
            NO_LIBRARY._replace(in_container=True),
            HERE + "this container has no driver's library (libcuda.so.1); give the container the GPUs (docker run "
            "--gpus all; podman run --device nvidia.com/gpu=all)" + OR_CPU,
        ),
        (
            SOUND._replace(in_container=True, files=without("/dev/nvidia-uvm"), started=100),
            HERE + "this container has no /dev/nvidia-uvm; give the container the GPUs (docker run --gpus all; podman "
            "run --device nvidia.com/gpu=all)" + OR_CPU,
        ),
        # The driver is not there, not loaded, or not whole.
        (
            NO_LIBRARY._replace(bound_to="nouveau", module_loaded=False),
            HERE + "the card runs under nouveau; install NVIDIA's driver in its place, then restart" + OR_CPU,
        ),
        (NO_LIBRARY._replace(bound_to=""), HERE + "no NVIDIA driver is installed (libcuda.so.1); install it" + OR_CPU),
        (
            SOUND._replace(started=100, module_loaded=False, driver_cuda="", files=without("/dev/nvidiactl")),
            HERE
            + "the NVIDIA driver's kernel module is not loaded; sudo modprobe nvidia, or reinstall the driver"
            + OR_CPU,
        ),
        (
            SOUND._replace(started=999, files=without("/dev/nvidia-uvm")),
            HERE + "/dev/nvidia-uvm is missing; make it: sudo nvidia-modprobe -u -c 0" + OR_CPU,
        ),
        # CUDA does not start.
        (
            SOUND._replace(started=999, torch=CUDA13._replace(says=UNKNOWN)),
            HERE
            + "CUDA says 999, an unknown error; after a suspend: sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm; "
            "else restart the machine" + OR_CPU,
        ),
        (
            SOUND._replace(torch=CUDA13._replace(says=UNKNOWN)),
            HERE
            + "CUDA says 999, an unknown error; after a suspend: sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm; "
            "else restart the machine" + OR_CPU,
        ),
        (
            SOUND._replace(started=3),
            HERE + "CUDA says 3, the driver could not be initialised; after a suspend: sudo rmmod nvidia_uvm && sudo "
            "modprobe nvidia_uvm; else restart the machine" + OR_CPU,
        ),
        (
            SOUND._replace(cards=8, torch=CUDA13._replace(says=NOT_YET)),
            "torch sees none of 8 NVIDIA GPUs: CUDA says 802, the system is not yet initialised: cards behind an "
            "NVSwitch wait for their fabric manager; start it (sudo systemctl start nvidia-fabricmanager, of the "
            "driver's version); after a suspend: sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm; else restart "
            "the machine" + OR_CPU,
        ),
        (
            SOUND._replace(started=803),
            HERE
            + "CUDA says 803, the driver's kernel module and its library differ in version; restart after a driver's "
            "update; in a container, use an image without a driver of its own" + OR_CPU,
        ),
        (
            SOUND._replace(started=100, cards=2, modes=("prohibited", "prohibited")),
            "torch sees none of 2 NVIDIA GPUs: compute mode prohibited lets no process use them; allow it: sudo "
            "nvidia-smi -c DEFAULT" + OR_CPU,
        ),
        # WSL2.
        (
            NO_LIBRARY._replace(guest_of="WSL2", files=(DeviceFile("/dev/dxg", "open"),)),
            HERE + "the loader does not find libcuda.so.1; install NVIDIA's driver on Windows and none inside WSL, run "
            "wsl --update and wsl --shutdown there, and keep /usr/lib/wsl/lib in reach of the loader" + OR_CPU,
        ),
        (
            SOUND._replace(guest_of="WSL2", files=(DeviceFile("/dev/dxg", "missing"),), started=100),
            HERE
            + "WSL2 shows no /dev/dxg; install NVIDIA's driver on Windows and none inside WSL, run wsl --update and "
            "wsl --shutdown there, and keep /usr/lib/wsl/lib in reach of the loader" + OR_CPU,
        ),
        # What nobody foresaw is quoted.
        (
            SOUND._replace(started=719),
            HERE + "CUDA says 719; see nvidia-smi and dmesg" + OR_CPU,
        ),
        (
            SOUND._replace(nvml="the NVIDIA driver and its library differ in version; restart after the update"),
            HERE + "the NVIDIA driver and its library differ in version; restart after the update" + OR_CPU,
        ),
    ],
)
def test_what_is_in_the_way_is_one_line_with_its_cure(facts: Facts, line: str) -> None:
    refused = obstacle(facts)
    assert refused is not None
    assert str(refused) == line
    assert refused.exit_code == NOTHING


@pytest.mark.parametrize(
    "facts",
    [
        Facts(CPU_BUILD),  # a laptop without a card
        Facts(CUDA13, library=False),
        Facts(Torch("2.13.0+rocm7.0", None, "ROCm")),  # as the index of wheels may give it, on a machine without cards
        SOUND._replace(torch=CUDA13._replace(seen=1)),
        SOUND._replace(torch=CUDA13._replace(seen=1), driver="610.57.04", driver_cuda="14.1"),  # newer than torch's
        SOUND._replace(
            torch=Torch("2.8.0+cu129", "12.9", seen=2), driver="525.60.13", driver_cuda="12.0"
        ),  # minor version
        SOUND._replace(hidden=True),  # somebody wants none
        SOUND._replace(torch=CPU_BUILD, hidden=True),
    ],
)
def test_nothing_is_in_the_way_where_there_is_no_card_or_torch_sees_it(facts: Facts) -> None:
    assert obstacle(facts) is None


def test_a_device_that_was_asked_for_is_missed_even_without_any_sign_of_a_card() -> None:
    asked = {
        Facts(CPU_BUILD): "torch sees 0 CUDA devices: torch 2.13.0+cpu is a CPU build; install a CUDA build",
        Facts(CUDA13, library=False): "torch sees 0 CUDA devices: no NVIDIA driver is installed",
        Facts(CUDA13, library=False, in_container=True): "torch sees 0 CUDA devices: this container has no driver's",
        SOUND._replace(hidden=True): "torch sees 0 CUDA devices: CUDA_VISIBLE_DEVICES hides them all; unset it, or",
        Facts(
            CUDA13, driver_cuda="13.0", module_loaded=True, started=100
        ): "torch sees 0 CUDA devices: the driver lists",
    }
    for facts, start in asked.items():
        assert str(obstacle(facts, asked=True)).startswith(start)


BUSY = (
    "CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors might be asynchronously reported"
)
MINE = Card("cuda:1 (NVIDIA GeForce RTX 4090)", 3)


@pytest.mark.parametrize(
    ("card", "error", "others", "line"),
    [
        (
            MINE._replace(compute_mode="exclusive process", holders=("python (pid 4242)",)),
            BUSY,
            True,
            "cuda:1 (NVIDIA GeForce RTX 4090) is in compute mode exclusive process, held by python (pid 4242); wait "
            "for its end, share the card (sudo nvidia-smi -i 3 -c DEFAULT), or take another card with --device cuda:N",
        ),
        (
            MINE._replace(compute_mode="exclusive process"),
            BUSY,
            False,
            "cuda:1 (NVIDIA GeForce RTX 4090) is in compute mode exclusive process, and another process holds it; wait "
            "for its end, share the card (sudo nvidia-smi -i 3 -c DEFAULT), or measure the CPU: --device cpu",
        ),
        (
            MINE._replace(compute_mode="prohibited"),
            BUSY,
            False,
            "cuda:1 (NVIDIA GeForce RTX 4090) is in compute mode prohibited; allow it (sudo nvidia-smi -i 3 -c DEFAULT)"
            ", or measure the CPU: --device cpu",
        ),
        (
            MINE._replace(compute_mode="default"),
            BUSY,
            False,
            "cuda:1 (NVIDIA GeForce RTX 4090) cannot be opened: all cards are busy or unavailable; end what holds them "
            "(nvidia-smi lists processes and compute modes); or measure the CPU: --device cpu",
        ),
        (
            MINE._replace(holders=("python (pid 1)", "Xorg (pid 2)")),
            "CUDA error: out of memory",
            True,
            "cuda:1 (NVIDIA GeForce RTX 4090) has no memory left (held by python (pid 1) and Xorg (pid 2)); end what "
            "holds it, or take another card with --device cuda:N",
        ),
        (
            Card("cuda:0", None),
            "CUDA error: uncorrectable ECC error encountered",
            False,
            "cuda:0 cannot be opened: a card has an uncorrectable memory error; reset it (nvidia-smi --gpu-reset), or "
            "restart; or measure the CPU: --device cpu",
        ),
        (
            Card("cuda:0", None),
            "CUDA error: something new\nand more",
            False,
            "cuda:0 cannot be opened: CUDA error: something new; see nvidia-smi and dmesg; or measure the CPU: "
            "--device cpu",
        ),
    ],
)
def test_a_card_that_cannot_be_opened_says_who_holds_it(card: Card, error: str, others: bool, line: str) -> None:
    refused = unopened(card, error, others)
    assert str(refused) == line
    assert refused.exit_code == NOTHING


def test_every_code_has_its_wording_and_its_cure() -> None:
    assert set(obstacles.WORDINGS.values()) - set(obstacles.CODES) == {obstacles.TOO_OLD, obstacles.NO_DEVICE}
    for what, cure in obstacles.CODES.values():
        assert what == what.strip(".")
        assert cure


# Real processes, on what this machine can be made to look like.


def test_a_cpu_build_beside_a_card_refuses_before_anything_is_measured(fake_driver, tmp_path: Path) -> None:
    """The driver lists two cards, and this torch is a CPU build."""
    import torch

    assert torch.version.cuda is None
    recording = Path(__file__).parent / "rigs" / "dual-rtx4080s-x8x8" / "nvml.txt"
    done = fake_driver.run("matmul", recording=recording, home=tmp_path)
    assert done.returncode == NOTHING, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("rigbench: ")]
    assert said[-1].startswith(
        f"rigbench: torch sees none of 2 NVIDIA GPUs: torch {torch.__version__} is a CPU build; "
    )
    assert not done.stdout


def test_devices_are_read_from_this_machine(tmp_path: Path) -> None:
    facts = obstacles.look(CPU_BUILD)
    assert {file.path for file in facts.files} >= {"/dev/nvidiactl"} or facts.guest_of == "WSL2"
    from privileges import ordinary

    mine = tmp_path / "nvidia0"
    mine.write_text("")
    assert obstacles._device_file(str(mine)).state == "open"
    mine.chmod(0o060)
    with ordinary():
        assert obstacles._device_file(str(mine)).state == "closed"
    assert obstacles._device_file(str(tmp_path / "none")).state == "missing"


def test_a_rig_under_wsl2_has_no_card_in_its_pci_tree_and_is_read_all_the_same(rigbench) -> None:
    """Composed of what nvidia-smi -q and lspci print there: the tree holds Microsoft's device alone."""
    rig = str(Path(__file__).parent / "rigs" / "wsl2-rtx2080ti")
    said = {
        command: rigbench(*command.split(), "--replay", rig)
        for command in ("topology -v", "doctor -v", "monitor --once -v")
    }
    assert {command: code for command, (code, _, _) in said.items()} == dict.fromkeys(said, 0)
    assert "virtual machine:\n          WSL2" in re.sub(" +\n", "\n", said["topology -v"][1])
    assert "GPU0    NVIDIA GeForce RTX 2080 Ti, 11 GiB, 0000:2d:00.0, rtx-2080-ti" in said["topology -v"][1]
    assert "no problem in what was checked" in said["doctor -v"][1]
    assert "n/a (not supported): utilisation" in said["monitor --once -v"][1]


# Other systems.

ELSEWHERE = """
import asyncio, json, os, select, signal, subprocess, sys, tempfile, threading, sqlite3, concurrent.futures
import typer, typer.main, rich.console, rich.table, msgspec, platformdirs, numpy, psutil
platform = sys.argv.pop(1)
if platform == "win32":
    for module, names in {
        signal: "SIGKILL SIGBUS SIGHUP SIGALRM SIGUSR1 SIGUSR2 SIGQUIT SIGPIPE pause setitimer ITIMER_REAL",
        select: "poll epoll POLLIN",
        os: "killpg setsid sched_getaffinity sched_setaffinity statvfs sysconf getloadavg geteuid getuid O_NONBLOCK "
            "O_CLOEXEC O_DIRECT posix_fadvise preadv mkfifo set_blocking",
    }.items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    for name in ("fcntl", "resource", "termios", "grp", "pty"):
        sys.modules[name] = None
else:
    del os.sched_getaffinity, os.sched_setaffinity, os.posix_fadvise, os.O_DIRECT
sys.platform = platform
import rigbench.__main__
rigbench.__main__.main()
"""
RIG = str(Path(__file__).parent / "rigs" / "dual-rtx4080s-x8x8")
SYSTEMS = {"win32": "Windows; run it in WSL2 (wsl --install), or use", "darwin": "macOS; use"}


def on(platform: str, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ELSEWHERE, platform, *words]
    return subprocess.run(
        command, env=os.environ | {"RIGBENCH_HOME": str(home)}, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize("platform", SYSTEMS)
def test_another_system_is_refused_in_one_line_that_names_what_works_there(platform: str, tmp_path: Path) -> None:
    for command in (["matmul"], ["topology"], ["monitor", "--once"], ["capture", "-o", str(tmp_path / "c")]):
        done = on(platform, tmp_path, *command)
        assert done.returncode == NOTHING, done.stderr
        assert done.stderr == (
            f"rigbench: rigbench measures Linux machines, and this is {SYSTEMS[platform]} --replay DIR (a recorded "
            "rig), --on NAME (one to plan for), report, profiles or explain\n"
        )
        assert not done.stdout


@pytest.mark.parametrize("platform", SYSTEMS)
def test_what_needs_no_machine_works_on_another_system(platform: str, tmp_path: Path) -> None:
    for command in (
        ["topology", "--replay", RIG],
        ["doctor", "--replay", RIG],
        ["budget", "--flops", "1e18", "--on", "2xrtx-4080"],
        ["report", "--list", "--all"],
        ["report"],
        ["explain", "gpu-lost"],
        ["profiles"],
    ):
        done = on(platform, tmp_path, *command)
        assert done.returncode in (0, 1), (command, done.stderr)
        assert len(done.stdout.splitlines()) > 3, command
        assert "internal error" not in done.stderr


def test_a_card_that_torch_lists_and_cannot_open_is_named_with_who_holds_it(monkeypatch):
    """torch's second device of a rig of two; its process is this test's parent, whose name the system knows."""
    rig = Rig.replay(Path(__file__).parent / "rigs/dual-rtx4080s-x8x8")
    cards = rig.nvml.gpus()
    holder = msgspec.structs.replace(cards[1].processes[0], pid=os.getppid()) if cards[1].processes else None
    holder = holder or GpuProcess(pid=os.getppid(), kind="compute", memory_bytes=1 << 30, name="python")
    busy = msgspec.structs.replace(cards[1], processes=(holder,), compute_mode="exclusive process")
    monkeypatch.setattr(nvml.Nvml, "live", lambda: SimpleNamespace(gpus=lambda: (cards[0], busy)))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    name = Path(f"/proc/{os.getppid()}/comm").read_text().strip()
    words = "CUDA error: CUDA-capable device(s) is/are busy or unavailable"
    told = str(obstacles.refused_card(1, words))
    assert told.startswith("cuda:1 (NVIDIA GeForce RTX 4080 SUPER) is in compute mode exclusive process")
    assert f"held by {name} (pid {os.getppid()})" in told
    assert f"-i {busy.index} -c DEFAULT" in told
    monkeypatch.setattr(nvml.Nvml, "live", lambda: SimpleNamespace(gpus=lambda: Absent("no driver")))
    assert str(obstacles.refused_card(0, words)).startswith("cuda:0 ")
