"""Says why torch cannot use the NVIDIA GPUs that a machine has, and what to do: one line from the facts, which are read
at the end of this file.

Codes are those of cuda.h (CUresult) and driver_types.h (cudaError), which agree here.
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import Any, NamedTuple

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent
from rigbench.machine.sysfs import Sysfs

CPU_INSTEAD = "or measure the CPU: --device cpu"
INSTALL_CUDA_BUILD = "install a CUDA build of torch: see pytorch.org/get-started"
# The oldest driver that serves each CUDA on Linux: CUDA compatibility guide, minor version compatibility.
OLDEST_DRIVERS = {11: "450", 12: "525", 13: "580"}
IN_CONTAINER = "give the container the GPUs (docker run --gpus all; podman run --device nvidia.com/gpu=all)"
RELOAD = "after a suspend: sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm; else restart the machine"
TOO_OLD, NO_DEVICE = 35, 100
CODES = {
    2: ("its memory is full before anything started", "end what holds it (nvidia-smi lists processes)"),
    3: ("the driver could not be initialised", RELOAD),
    34: ("the stub of the CUDA toolkit is loaded instead of the driver's library", "take stubs/ off LD_LIBRARY_PATH"),
    46: ("all cards are busy or unavailable", "end what holds them (nvidia-smi lists processes and compute modes)"),
    101: ("no such device", "check CUDA_VISIBLE_DEVICES"),
    214: ("a card has an uncorrectable memory error", "reset it (nvidia-smi --gpu-reset), or restart"),
    802: (
        "the system is not yet initialised: cards behind an NVSwitch wait for their fabric manager",
        f"start it (sudo systemctl start nvidia-fabricmanager, of the driver's version); {RELOAD}",
    ),
    803: (
        "the driver's kernel module and its library differ in version",
        "restart after a driver's update; in a container, use an image without a driver of its own",
    ),
    804: (
        "a forward-compatibility library is in use, which this card does not support",
        "take cuda-compat off LD_LIBRARY_PATH, or update the driver itself",
    ),
    999: ("an unknown error", RELOAD),
}
# How torch words what it does not number (c10/cuda/CUDAFunctions.cpp, cudaGetErrorString).
WORDINGS = {
    r"driver on your system is too old": TOO_OLD,
    r"driver initialization failed|initialization error": 3,
    r"busy or unavailable": 46,
    r"system not yet initialized": 802,
    r"system has unsupported display driver / cuda driver combination": 803,
    r"forward compatibility was attempted": 804,
    r"uncorrectable ECC": 214,
    r"out of memory": 2,
    r"stub library": 34,
    r"no CUDA-capable device": NO_DEVICE,
    r"unknown error": 999,
}


class Torch(NamedTuple):
    version: str
    cuda: str | None  # that it was built for, "12.8"; None in a CPU build
    other: str | None = None  # "ROCm" or "XPU" where it was built for another maker's GPUs
    seen: int = 0  # devices
    says: str = ""  # what it warned of while it looked for them


class DeviceFile(NamedTuple):
    path: str
    state: str  # "open", "closed": no permission, or "missing"
    group: str = ""  # whose members may open it, where the file says so


class Facts(NamedTuple):
    """What bears on it. Versions of CUDA as "12.2"."""

    torch: Torch
    cards: int = 0  # NVIDIA's, that the driver or the PCI tree lists
    hidden: bool = False  # CUDA_VISIBLE_DEVICES leaves none
    guest_of: str = ""
    in_container: bool = False
    bound_to: str = ""  # the kernel driver of the first card in the PCI tree: nvidia, nouveau, vfio-pci
    module_loaded: bool = False
    library: bool = True  # the loader finds libcuda.so.1
    started: int | None = None  # what the driver's cuInit answers
    driver: str = ""  # "535.183.01"
    driver_cuda: str = ""  # the newest CUDA that it serves
    nvml: str = ""  # why the driver answers no questions
    modes: tuple[str, ...] = ()  # compute modes of the cards that the driver lists
    files: tuple[DeviceFile, ...] = ()


class Card(NamedTuple):
    """One that could not be opened."""

    label: str  # "cuda:0 (NVIDIA GeForce RTX 4090)"
    nvml_index: int | None
    compute_mode: str = ""
    holders: tuple[str, ...] = ()  # "python (pid 4242)"


def obstacle(facts: Facts, asked: bool = False) -> RigbenchError | None:
    """Why no GPU can be used, though there is one or one was `asked` for. None: nothing is wrong with having none."""
    torch = facts.torch
    if torch.other and (torch.seen or facts.cards or asked):
        what = f"torch {torch.version} is built for {torch.other}, and rigbench measures NVIDIA GPUs only"
        cure = INSTALL_CUDA_BUILD if facts.cards else "what works here: --device cpu, --replay DIR and --on NAME"
        return _refused(what, f"{cure}; {CPU_INSTEAD}" if facts.cards else cure)
    if torch.seen or (facts.hidden and not asked) or not (facts.cards or asked):
        return None
    there = "torch does not see the NVIDIA GPU that is here"
    if facts.cards != 1:
        there = f"torch sees none of {facts.cards} NVIDIA GPUs" if facts.cards else "torch sees 0 CUDA devices"
    if facts.hidden:
        return _refused("torch sees 0 CUDA devices: CUDA_VISIBLE_DEVICES hides them all", f"unset it, {CPU_INSTEAD}")
    if torch.cuda is None:
        return _refused(f"{there}: torch {torch.version} is a CPU build", f"{INSTALL_CUDA_BUILD}, {CPU_INSTEAD}")
    what, cure = _cause(facts)
    return _refused(f"{there}: {what}", f"{cure}; {CPU_INSTEAD}")


def _refused(what: str, cure: str) -> RigbenchError:
    return RigbenchError(what, cure, NOTHING)


def _cause(facts: Facts) -> tuple[str, str]:
    """What stands between a CUDA build of torch and the GPUs, and its cure; the first that applies."""
    code = facts.started or _worded(facts.torch.says)
    closed = [file for file in facts.files if file.state == "closed"]
    missing = [file for file in facts.files if file.state == "missing"]
    wsl = facts.guest_of == "WSL2"
    if closed:
        groups = sorted({file.group for file in closed if file.group}) or ["video", "render"]
        names = " and ".join(groups)
        cure = f"join the group {names} (sudo usermod -aG {','.join(groups)} $USER, then log in again)"
        return f"no permission to open {closed[0].path}", IN_CONTAINER if facts.in_container else cure
    if wsl and (missing or not facts.library):
        what = f"WSL2 shows no {missing[0].path}" if missing else "the loader does not find libcuda.so.1"
        cure = "install NVIDIA's driver on Windows and none inside WSL, run wsl --update and wsl --shutdown there"
        return what, f"{cure}, and keep /usr/lib/wsl/lib in reach of the loader"
    if not facts.library:
        if facts.in_container:
            return "this container has no driver's library (libcuda.so.1)", IN_CONTAINER
        if facts.bound_to in ("nouveau", "nova_core"):
            return f"the card runs under {facts.bound_to}", "install NVIDIA's driver in its place, then restart"
        return "no NVIDIA driver is installed (libcuda.so.1)", "install it"
    old = _too_old(facts, code)
    if old:
        return old
    if missing and facts.in_container:
        return f"this container has no {missing[0].path}", IN_CONTAINER
    if not wsl and not facts.module_loaded and missing:
        return "the NVIDIA driver's kernel module is not loaded", "sudo modprobe nvidia, or reinstall the driver"
    if missing:
        return f"{missing[0].path} is missing", "make it: sudo nvidia-modprobe -u -c 0"
    if facts.modes and all(mode == "prohibited" for mode in facts.modes):
        return "compute mode prohibited lets no process use them", "allow it: sudo nvidia-smi -c DEFAULT"
    if code in CODES:
        what, cure = CODES[code]
        return f"CUDA says {code}, {what}", cure
    if facts.nvml:
        return facts.nvml.partition("; ")[0], facts.nvml.partition("; ")[2] or "see dmesg"
    if not facts.cards:
        return "the driver lists no GPU", "see nvidia-smi"
    said = " ".join(facts.torch.says.split())[:160]
    return said or (f"CUDA says {code}" if code else "CUDA lists none"), "see nvidia-smi and dmesg"


def _too_old(facts: Facts, code: int | None) -> tuple[str, str] | None:
    """A driver serves every CUDA of its major version, and those before (minor-version compatibility)."""
    built = int((facts.torch.cuda or "0").partition(".")[0])
    serves = int(facts.driver_cuda.partition(".")[0] or 0)
    if not (0 < serves < built or code == TOO_OLD):
        return None
    driver = f"the NVIDIA driver{f' {facts.driver}' if facts.driver else ''}"
    what = f"{driver} serves CUDA {facts.driver_cuda}" if serves else f"{driver} is too old"
    oldest = f" to {OLDEST_DRIVERS[built]} or newer" if built in OLDEST_DRIVERS else ""
    otherwise = f", or install a torch built for CUDA {serves} (pytorch.org/get-started)" if serves >= 11 else ""
    return f"{what}, torch was built for {facts.torch.cuda}", f"update the driver{oldest}{otherwise}"


def _worded(text: str) -> int | None:
    numbered = re.search(r"\bError (\d{1,4})\b", text)
    if numbered:
        return int(numbered[1])
    return next((code for words, code in WORDINGS.items() if re.search(words, text, re.I)), None)


def unopened(card: Card, error: str, others: bool = False) -> RigbenchError:
    """Why a card that torch lists could not be opened. `others`: there are more."""
    code = _worded(error)
    elsewhere = "take another card with --device cuda:N" if others else "measure the CPU: --device cpu"
    reset = f"sudo nvidia-smi{'' if card.nvml_index is None else f' -i {card.nvml_index}'} -c DEFAULT"
    if card.compute_mode.startswith("prohibited"):
        return _refused(f"{card.label} is in compute mode prohibited", f"allow it ({reset}), or {elsewhere}")
    holder = f", held by {' and '.join(card.holders)}" if card.holders else ", and another process holds it"
    if code == 46 and card.compute_mode.startswith("exclusive"):
        what = f"{card.label} is in compute mode {card.compute_mode}{holder}"
        return _refused(what, f"wait for its end, share the card ({reset}), or {elsewhere}")
    if code == 2:
        held = f" (held by {' and '.join(card.holders)})" if card.holders else ""
        return _refused(f"{card.label} has no memory left{held}", f"end what holds it, or {elsewhere}")
    what, cure = CODES.get(code or 0, (" ".join(error.partition("\n")[0].split())[:160], "see nvidia-smi and dmesg"))
    return _refused(f"{card.label} cannot be opened: {what}", f"{cure}; or {elsewhere}")


# The facts, read where torch is loaded.


def devices(asked: str = "") -> int:
    """How many CUDA devices torch sees. `asked` is a device that somebody named.

    Raises:
        RigbenchError: none, though one is here or was asked for; or they are another maker's.
    """
    import warnings

    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    version: Any = torch.version
    other = "ROCm" if getattr(version, "hip", None) else "XPU" if getattr(version, "xpu", None) else None
    if seen and not other:
        return seen
    _said.extend(str(it.message) for it in said if "CUDA" in str(it.message))
    built = Torch(str(torch.__version__), torch.version.cuda, other, seen, " ".join(_said))
    refused = obstacle(look(built), bool(asked))
    if refused and asked:
        raise RigbenchError(f"--device {asked}: {refused.what_happened}", refused.what_to_do, NOTHING)
    if refused:
        raise refused
    return 0


_said: list[str] = []  # torch warns only the first time that it looks for devices


def refused_card(index: int, error: str) -> RigbenchError:
    """Why a card that torch lists could not be opened, with what the driver tells of it."""
    import torch

    from rigbench.machine import cuda_map
    from rigbench.machine.nvml import Nvml

    label, found = f"cuda:{index}", Nvml.live().gpus()
    gpus = () if isinstance(found, Absent) else found
    environment = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER")
    indices = cuda_map.visible(gpus, *environment).indices
    gpu = next((gpu for gpu in gpus if indices[index : index + 1] == (gpu.index,)), None)
    several = torch.cuda.device_count() > 1
    if gpu is None:
        return unopened(Card(label, None), error, several)
    processes = () if isinstance(gpu.processes, Absent) else gpu.processes
    names = [(it.pid, Sysfs().read_text(f"proc/{it.pid}/comm")) for it in processes if it.pid != os.getpid()]
    holders = tuple(f"pid {pid}" if isinstance(name, Absent) else f"{name} (pid {pid})" for pid, name in names)
    card = f"{label} ({gpu.name})" if isinstance(gpu.name, str) else label
    return unopened(Card(card, gpu.index, str(gpu.compute_mode), holders), error, several)


@cache
def look(torch: Torch) -> Facts:
    """This machine, as far as it bears on what torch sees."""
    from rigbench.machine import host, pci
    from rigbench.machine.nvml import Nvml

    sysfs, nvml = Sysfs(), Nvml.live()
    tree = pci.devices(sysfs)
    functions = () if isinstance(tree, Absent) else tree
    cards = [it.bus_id for it in functions if it.kind == "GPU" and it.vendor_id == pci.NVIDIA]
    bound = [str(sysfs.real_path(f"sys/bus/pci/devices/{bus_id}/driver")).rpartition("/")[2] for bus_id in cards]
    mine = [name for name in bound if name != "vfio-pci"]  # those are a virtual machine's
    listed, absent = nvml.gpu_count(), nvml.absent
    guest_of = host.virtual_machine(sysfs)
    wsl = guest_of == "WSL2"
    started, driver_cuda = _cuda_driver()
    count = len(mine) if isinstance(listed, Absent) else max(listed, len(mine))
    told = ["" if isinstance(it, Absent) else it for it in (nvml.driver_version(), nvml.cuda_driver_version())]
    modes = [nvml.reading(index, "compute_mode") for index in range(0 if isinstance(listed, Absent) else listed)]
    return Facts(
        torch=torch,
        cards=count,
        hidden=os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1", "NoDevFiles"),
        guest_of="" if isinstance(guest_of, Absent) else guest_of,
        in_container=any(map(os.path.exists, ("/.dockerenv", "/run/.containerenv"))) or "container" in os.environ,
        bound_to=mine[0] if mine else "",
        module_loaded=not isinstance(sysfs.read_text("proc/driver/nvidia/version"), Absent),
        library=started is not None,
        started=started,
        driver=told[0],
        driver_cuda=told[1] or driver_cuda,
        nvml=absent.reason if absent else "",
        modes=tuple(map(str, modes)),
        files=tuple(map(_device_file, ("/dev/dxg",) if wsl else ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia-uvm"))),
    )


def _cuda_driver() -> tuple[int | None, str]:
    """What cuInit answers here, None where there is no library; and the newest CUDA that the driver serves."""
    import ctypes

    try:
        library = ctypes.CDLL("libcuda.so.1")
        version = ctypes.c_int()
        code = int(library.cuInit(0))
        library.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None, ""
    return code, f"{version.value // 1000}.{version.value % 1000 // 10}" if version.value else ""


def _device_file(path: str) -> DeviceFile:
    if not os.path.exists(path):
        return DeviceFile(path, "missing")
    if os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        return DeviceFile(path, "open")
    import grp

    status = os.stat(path)
    group = ""
    if status.st_mode & 0o060 == 0o060 and status.st_gid:
        try:
            group = grp.getgrgid(status.st_gid).gr_name
        except KeyError:
            group = str(status.st_gid)
    return DeviceFile(path, "closed", group)
