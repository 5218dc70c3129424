"""Makes a capture from what people paste or attach: nvidia-smi's outputs, lspci's, a bug report's, NCCL's log.

What none of them says stays unsaid: a replay answers for it with that reason. Forms: nvidia-smi of drivers 450 to 590,
lspci of pciutils 3.6 to 3.13, NCCL 2.13 to 2.30. Every pattern is anchored or bounded, so a line costs its length.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rigbench.core.errors import RigbenchError
from rigbench.logs import source
from rigbench.machine.driver import Answer
from rigbench.machine.redact import Redaction
from rigbench.machine.replay import Recording, as_text
from rigbench.machine.rig import MADE_FROM

LONGEST_LINE = 4000  # characters that are looked at
MOST_GPUS = 64
LABELS = {"PIX": 10, "PXB": 20, "PHB": 30, "NODE": 40, "SYS": 50}  # nvml.h, nvmlGpuTopologyLevel_t
SWITCH = 2  # nvmlIntNvLinkDeviceType_t
REASONS = (  # nvml.h, nvmlClocksEventReason…, by nvidia-smi's words without spaces
    ("idle", 0x1), ("applications clocks setting", 0x2), ("sw power cap", 0x4), ("hw slowdown", 0x8),
    ("sync boost", 0x10), ("sw thermal slowdown", 0x20), ("hw thermal slowdown", 0x40),
    ("hw power brake slowdown", 0x80), ("display clock setting", 0x100),
)  # fmt: skip
NUMBER = re.compile(r"-?\d{1,12}(?:\.\d{1,6})?")
NO_VALUE = {"", "n/a", "[n/a]", "not supported", "[not supported]", "unknown error"}


class Pasted(NamedTuple):
    files: dict[str, str]  # of the capture, by name
    kinds: tuple[str, ...]  # what was recognised, in words
    gpus: int
    redacted: dict[str, int]


def capture_of(paths: Sequence[Path]) -> Pasted:
    """
    Raises:
        RigbenchError: a file cannot be read, or none of them is anything that is known.
    """
    made = _Made()
    for path in paths:
        text, _ = source.read(path)
        if not made.read(text):
            if re.search(r"ROCm System Management|AMD-SMI|amdgpu version", text[:20_000]):
                raise RigbenchError(
                    f"{path.name} is of AMD's cards", "a capture is made of NVIDIA's tools and of lspci"
                )
            raise RigbenchError(
                f"{path.name} is nothing that is known here",
                "give the output of nvidia-smi (also -q, -q -x, topo -m), lspci -vvv or -tv, nvidia-bug-report.log.gz, "
                "or a log with NCCL_DEBUG=INFO",
            )
    return made.capture()


class _Made:
    """What has been read so far: calls of the driver, functions of the PCI bus, facts of the host."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.driver: Recording = {}
        self.functions: dict[str, dict[str, Any]] = {}
        self.host: dict[str, Any] = {}
        self.kernel: list[str] = []
        self.nccl: list[str] = []
        self.gpus = 0

    def read(self, text: str) -> bool:
        """Whether it is anything that is known."""
        lines = [line[:LONGEST_LINE].rstrip() for line in source.lines_of(text)]
        readers: tuple[tuple[str, Callable[[str, list[str]], bool]], ...] = (
            ("nvidia-smi -q -x", self._xml),
            ("nvidia-smi -q", self._query),
            ("nvidia-smi topo -m", self._matrix),
            ("nvidia-smi", self._table),
            ("lspci", self._lspci),
            ("lspci -tv", self._tree),
            ("the host's files", self._host),
            ("the kernel's log", self._kernel),
            ("NCCL's log", self._nccl),
        )
        kinds = [name for name, reader in readers if reader(text, lines)]
        self.kinds += [name for name in kinds if name not in self.kinds]
        return bool(kinds)

    def say(self, scope: int | str, call: str, *values: int | str) -> None:
        """An answer, unless a fuller source has given one."""
        self.driver.setdefault((str(scope), call if call.startswith("nvmlSystem") else f"nvmlDeviceGet{call}"),
                               [Answer(0, values)])  # fmt: skip
        if isinstance(scope, int):
            self.gpus = max(self.gpus, scope + 1)

    def capture(self) -> Pasted:
        kinds = tuple(self.kinds)
        redaction = Redaction(self.host.pop("host_name", ""))
        nodes = {function["numa"] for function in self.functions.values() if function.get("numa", -1) >= 0}
        known = self.host.setdefault("nodes", {})
        known |= {str(node): "" for node in sorted(nodes) if str(node) not in known}
        [version] = self.driver.get(("sys", "nvmlSystemGetDriverVersion"), [Answer(0, ("",))])
        document = {
            "rigbench_capture": 1,
            "driver": str(version.values[0]),
            "kernel": "",
            "cmdline": "",
            "virtual": None,
        }
        document |= self.host | {"redacted": True, "note": f"{MADE_FROM} {', '.join(kinds)}"}
        document["cmdline"] = redaction.kernel_words(str(document["cmdline"]))
        files = {}
        if self.driver:
            self.driver["sys", "nvmlDeviceGetCount_v2"] = [Answer(0, (self.gpus,))]
            files["nvml.txt"] = as_text(redaction.recording(self.driver))
        if self.functions:
            files["pci.json"] = json.dumps(self.functions, indent=1) + "\n"
        if self.kernel:
            files["kernel.txt"] = "\n".join(redaction.kernel_message(line) for line in self.kernel) + "\n"
        if self.nccl:
            files["nccl.txt"] = "\n".join(redaction.text(line) for line in self.nccl) + "\n"
        files["rig.json"] = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        return Pasted(files, kinds, self.gpus, dict(sorted(redaction.counts.items())))

    # nvidia-smi

    def _xml(self, text: str, lines: list[str]) -> bool:
        start, end = text.find("<nvidia_smi_log>"), text.find("</nvidia_smi_log>")
        if start < 0 or end < start:
            return False
        try:
            root = ElementTree.fromstring(text[start : end + len("</nvidia_smi_log>")])
        except ElementTree.ParseError:
            return False
        facts = {
            "driver version": root.findtext("driver_version", ""),
            "cuda version": root.findtext("cuda_version", ""),
        }
        self._system(facts)
        for index, gpu in enumerate(root.findall("gpu")[:MOST_GPUS]):
            found = dict(_elements(gpu))
            found["bus id"] = gpu.get("id", "")
            self._gpu(index, found)
        return True

    def _query(self, text: str, lines: list[str]) -> bool:
        if "NVSMI LOG" not in text:
            return False
        begun = next(number for number, line in enumerate(lines) if "NVSMI LOG" in line)
        path: list[tuple[int, str]] = []
        system: dict[str, str] = {}
        gpus: list[dict[str, str]] = []
        for line in lines[begun + 1 :]:
            if line.startswith(("____", "====", "*** ")):
                break
            if head := re.match(r"GPU ([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f])$", line):
                gpus.append({"bus id": head[1]})
                path = []
                continue
            name, colon, value = line.partition(" : ")
            indent = len(line) - len(line.lstrip())
            if not name.strip():
                continue
            while path and path[-1][0] >= indent:
                path.pop()
            key = "/".join([*(words for _, words in path), name.strip().lower()])
            if colon:
                (gpus[-1] if gpus else system).setdefault(key, value.strip())
            else:
                key = name.strip().rstrip(":").strip().lower()
            path.append((indent, name.strip().rstrip(":").strip().lower()))
        self._system(system)
        for index, gpu in enumerate(gpus[:MOST_GPUS]):
            self._gpu(index, gpu)
        return bool(gpus)

    def _system(self, facts: dict[str, str]) -> None:
        if (version := facts.get("driver version", "")).lower() not in NO_VALUE:
            self.say("sys", "nvmlSystemGetDriverVersion", version)
        if match := re.match(r"(\d{1,3})\.(\d{1,3})", facts.get("cuda version") or ""):
            self.say("sys", "nvmlSystemGetCudaDriverVersion_v2", int(match[1]) * 1000 + int(match[2]) * 10)

    def _gpu(self, index: int, facts: dict[str, str]) -> None:
        """Of `nvidia-smi -q`, its headings as a path; the names of -x are made to be those."""
        for call, keys, read in FIELDS:
            value = next((facts[key] for key in keys if key in facts), "")
            if value.lower() not in NO_VALUE and (number := read(value)) is not None:
                self.say(index, call, number)
        self._bus(index, facts)
        if "product name" in facts:
            self.say(index, "Name", _named(facts["product name"]))
        if facts.get("gpu uuid", "").startswith("GPU-"):
            self.say(index, "UUID", facts["gpu uuid"])
        memory = [_bytes(facts.get(f"fb memory usage/{name}", "")) for name in ("total", "reserved", "free", "used")]
        total, reserved, free, used = memory
        if total is not None and free is not None and used is not None:
            if reserved is not None:
                self.say(index, "MemoryInfo_v2", total, reserved, free, used)
            self.say(index, "MemoryInfo", total, free, used)
        limits = [_milli(facts.get(key, "")) for key in _power("min power limit") + _power("max power limit")]
        known = [limit for limit in limits if limit is not None]
        if len(known) >= 2:
            self.say(index, "PowerManagementLimitConstraints", min(known), max(known))
        states = [
            (bit, facts[key].lower() == "active")
            for words, bit in REASONS
            for kind in ("clocks event reasons", "clocks throttle reasons")
            for key in (f"{kind}/{words}", f"{kind}/hw slowdown/{words}")
            if key in facts
        ]
        if states:
            self.say(index, "CurrentClocksEventReasons", sum({bit for bit, active in states if active}))
        rows = [facts.get(f"remapped rows/{name}", "") for name in ROWS]
        if all(rows) and not NO_VALUE & {row.lower() for row in rows}:
            self.say(
                index,
                "RemappedRows",
                *(int(row) if re.fullmatch("[0-9]{1,9}", row) else int(row.lower() == "yes") for row in rows),
            )

    def _bus(self, index: int, facts: dict[str, str]) -> None:
        device = re.match(r"(?:0x)?([0-9A-Fa-f]{8})", facts.get("pci/device id", ""))
        if re.fullmatch(r"[0-9A-Fa-f]{4,8}(?::[0-9A-Fa-f]{2}){2}\.[0-9A-Fa-f]", facts.get("bus id", "")):
            self.say(index, "PciInfo_v3", facts["bus id"], int(device[1], 16) if device else 0)

    def _table(self, text: str, lines: list[str]) -> bool:
        """The plain table: a card's rows lie between two lines; older drivers' have no row for MIG."""
        head = re.search(
            r"NVIDIA-SMI\s{1,9}\S{1,40}\s{1,40}Driver Version: (\S{1,40})(?:\s{1,40}CUDA Version: (\S{1,40}))?", text
        )
        if head is None:
            return False
        self._system({"driver version": head[1], "cuda version": head[2] or ""})
        found, index = False, -1
        for line in lines:
            if line.startswith("| Processes") or "Processes:" in line[:14]:
                break
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) != 3:
                continue
            if first := re.match(r"(\d{1,2})  +(\S.{0,60}?)\s+(On|Off|N/A|WDDM|TCC|MCDM)$", cells[0]):
                index, found = int(first[1]), True
                if index >= MOST_GPUS:
                    break
                bus = re.match(r"[0-9A-Fa-f]{8}(?::[0-9A-Fa-f]{2}){2}\.[0-9A-Fa-f]", cells[1])
                self._gpu(
                    index,
                    {
                        "bus id": bus[0] if bus else "",
                        "persistence mode": first[3],
                        "display active": cells[1].split()[-1],
                    },
                )
                if not first[2].endswith("..."):  # a name that is cut short is no name
                    self.say(index, "Name", _named(first[2]))
                continue
            if index >= 0 and cells[2] in ("Enabled", "Disabled"):
                self._gpu(index, {"mig mode/current": cells[2]})
            usage = re.match(r"(?:(\d{1,3})%|N/A|ERR!)\s+(?:(\d{1,3})C|N/A|ERR!)\s+(?:P(\d{1,2})|N/A|ERR!)", cells[0])
            if usage and index >= 0:
                watts = re.search(r"(\d{1,4})W\s*/\s*(\d{1,4})W$", cells[0])
                memory = re.match(r"(\d{1,7})MiB\s*/\s*(\d{1,7})MiB$", cells[1])
                busy = re.match(r"(\d{1,3})%", cells[2])
                values = {
                    "FanSpeed": (usage[1], 1),
                    "Temperature/0": (usage[2], 1),
                    "PerformanceState": (usage[3], 1),
                    "PowerUsage": (watts and watts[1], 1000),
                    "EnforcedPowerLimit": (watts and watts[2], 1000),
                }
                for call, (value, by) in values.items():
                    if value:
                        self.say(index, call, int(value) * by)
                if memory:
                    used, total = (int(it) << 20 for it in memory.groups())
                    self.say(index, "MemoryInfo", total, total - used, used)
                if busy:
                    self.say(index, "UtilizationRates", int(busy[1]), 0)
        return found

    def _matrix(self, text: str, lines: list[str]) -> bool:
        """The driver's own labels; NV# as links to a switch where every pair has as many, else as links of a pair."""
        for number, line in enumerate(lines):
            columns = re.split(r"\s{2,}|\t+", line.strip()) if "GPU0" in line and "CPU Affinity" in line else []
            if "GPU0" in columns:
                rows = [
                    re.split(r"\s*\t+\s*|\s{2,}", row.strip()) for row in lines[number + 1 : number + 1 + MOST_GPUS]
                ]
                break
        else:
            return False
        names = [column for column in columns if re.fullmatch(r"GPU\d{1,2}", column)]
        by_name = {row[0]: row[1:] for row in rows if row and row[0] in names}
        links: dict[int, dict[int, int]] = {}
        for one, name in enumerate(names):
            for other, label in enumerate(by_name.get(name, ())[: len(names)]):
                if label in LABELS:
                    self.say(one, f"TopologyCommonAncestor/{other}", LABELS[label])
                elif bonded := re.fullmatch(r"NV(\d{1,2})", label):
                    links.setdefault(one, {})[other] = int(bonded[1])
            self.gpus = max(self.gpus, one + 1)
        self._links(links, len(names))
        if "NUMA Affinity" in columns:
            self.host.setdefault("nodes", {}).update(_nodes(columns, by_name.values()))
        return bool(by_name)

    def _links(self, links: dict[int, dict[int, int]], gpus: int) -> None:
        switched = gpus > 2 and len({count for its in links.values() for count in its.values()}) == 1 and all(
            len(its) == gpus - 1 for its in links.values()
        )  # fmt: skip
        for one, its in links.items():
            number = 0
            for other, count in list(its.items())[: 1 if switched else None]:
                bus = self.driver.get((str(other), "nvmlDeviceGetPciInfo_v3"))
                for _ in range(count):
                    self.say(one, f"NvLinkState/{number}", 1)
                    if switched:
                        self.say(one, f"NvLinkRemoteDeviceType/{number}", SWITCH)
                    elif bus:
                        self.say(one, f"NvLinkRemotePciInfo_v2/{number}", *bus[0].values)
                    number += 1

    # lspci

    def _lspci(self, text: str, lines: list[str]) -> bool:
        if not re.search(r"(?:VGA compatible|3D) controller|PCI bridge", text):
            return False
        secondary: dict[str, str] = {}  # a bridge by the bus below it
        function: dict[str, Any] = {}
        found = False
        for line in lines:
            if head := HEAD.match(line):
                bus_id = f"{head['domain'] or '0000'}:{head['place']}".lower()
                function = self.functions.setdefault(bus_id, {"parent": None})
                function |= _identity(head["what"])
                found = found or function.get("vendor") == "0x10de"
                continue
            if not line.startswith(("\t", " ")):
                function = {}
                continue
            if not function:
                continue
            body = line.strip()
            if match := re.match(r"Bus: primary=[0-9a-f]{2}, secondary=([0-9a-f]{2}), subordinate", body):
                secondary[f"{bus_id[:5]}{match[1]}"] = bus_id
            elif match := re.match(r"LnkCap:\s.{0,40}?Speed ([\d.]{1,5})GT/s[^,]{0,20}, Width x(\d{1,2})", body):
                found = True
                function |= {"max_speed": float(match[1]), "max_width": int(match[2])}
            elif match := re.match(r"LnkSta:\s.{0,20}?Speed ([\d.]{1,5})GT/s[^,]{0,20}, Width x(\d{1,2})", body):
                function |= {"cur_speed": float(match[1]), "cur_width": int(match[2])}
            elif match := re.match(r"NUMA node: (\d{1,3})", body):
                function["numa"] = int(match[1])
            elif match := re.match(r"IOMMU group: (\d{1,5})", body):
                function["iommu_group"] = int(match[1])
            elif match := re.match(r"ACSCtl:\s(.{1,200})", body):
                function["acs"] = [word for word in match[1].split() if word.endswith("+")]
            elif match := re.match(
                r"Capabilities: \[\w{1,8}\] Express (?:\(v\d\) )?([A-Z][\w /-]{3,40}?)(?:,| \(|$)", body
            ):
                function["port_type"] = "Root Port" if match[1].startswith("Root Port") else match[1]
        self._parents(secondary)
        return found

    def _tree(self, text: str, lines: list[str]) -> bool:
        """`lspci -tv`: where a column branches, the bus of that column goes on."""
        buses: dict[int, tuple[str, str | None]] = {}  # by the column of its branches: the bus, the bridge above it
        found = False
        for line in lines:
            start = re.match(r"[ |]{0,200}[-+\\]", line)
            if start is None or ("[" not in line and not re.match(r"[ |]{0,200}[+\\]-[0-9a-f]{2}\.[0-7]", line)):
                continue
            at = start.end() - 1
            bus = buses.get(at, ("", None))
            place = ""  # the last function of this line
            while at < len(line):
                if root := ROOT_BUS.match(line, at):
                    bus, at = (root[1], None), root.end()
                elif below := BUS_BELOW.match(line, at):
                    bus, at = (f"{bus[0][:5]}{below[1]}", place), below.end()
                elif bus[0] and (device := FUNCTION.match(line, at)):
                    place = f"{bus[0]}:{device[1]}"
                    function = self.functions.setdefault(place, {"parent": None})
                    function["parent"] = function["parent"] or bus[1]
                    if device[2]:
                        found = True
                        self.functions[place] = _described(device[2]) | function
                    elif line[device.end() : device.end() + 2] == "-[":
                        self.functions[place] = {"class": "0x060400"} | function
                    at = len(line) if device[2] else device.end()
                elif line[at] in "+\\-| ":
                    if line[at] == "+" and bus[0]:
                        buses[at] = bus
                    at += 1
                else:
                    break
        self._parents({})
        return found

    def _parents(self, secondary: dict[str, str]) -> None:
        for bus_id, function in self.functions.items():
            function["parent"] = secondary.get(bus_id[:7], function["parent"])
        for bus_id, function in self.functions.items():
            top, seen = bus_id, {bus_id}
            while (above := self.functions[top]["parent"]) in self.functions and above not in seen:
                top = above
                seen.add(above)
            function["root"] = f"pci{top[:7]}"

    # The host

    def _host(self, text: str, lines: list[str]) -> bool:
        """What a bug report holds of the kernel's files."""
        told: dict[str, Any] = {}
        if match := re.search(r"^Linux version (\S{1,80})", text, re.M):
            told["kernel"] = match[1]
        if match := re.search(r"^uname: Linux (\S{1,80}) (\S{1,80})", text, re.M):
            told |= {"host_name": match[1], "kernel": match[2]}
        if match := re.search(r"^\*\*\* /proc/cmdline\n(?:\*\*\* .{0,200}\n)?(.{1,2000})$", text, re.M):
            told["cmdline"] = match[1]
        if match := re.search(r"^model name\s{1,9}: (.{1,100})$", text, re.M):
            told["cpu"] = match[1].strip()
        if match := re.search(r"^vendor_id\s{1,9}: (\S{1,40})$", text, re.M):
            told["cpu_vendor"] = match[1]
        if match := re.search(r"^flags\s{1,9}: (.{0,3000})", text, re.M):
            told["virtual"] = "hypervisor" in match[1].split()
        if match := re.search(
            r"^NVRM version: NVIDIA UNIX (Open )?.{0,80}?Kernel Module.{0,40}?  (\d{3}\.[\d.]{2,12})", text, re.M
        ):
            told["driver_flavour"] = "open" if match[1] else "proprietary"
            self.say("sys", "nvmlSystemGetDriverVersion", match[2])
        self.host = told | self.host
        return bool(told)

    def _kernel(self, text: str, lines: list[str]) -> bool:
        told = [line for line in lines if re.search(r"NVRM: |AER: |pcieport |nvidia .{0,20}: ", line[:300])]
        self.kernel += [line for line in dict.fromkeys(told) if line not in self.kernel][:5000]
        return bool(told)

    def _nccl(self, text: str, lines: list[str]) -> bool:
        told = [line for line in lines if "NCCL INFO" in line or "NCCL WARN" in line]
        for line in told:
            if match := re.search(r"cudaDev (\d{1,2}) (?:nvmlDev \d{1,2} )?busId ([0-9a-f]{3,12})\b", line):
                bus = int(match[2], 16)  # nccl/src/misc/utils.cc, int64ToBusId: domain, bus, device, function
                at = f"{bus >> 20:08x}:{bus >> 12 & 0xFF:02x}:{bus >> 4 & 0xFF:02x}.{bus & 0xF:x}"
                self.say(int(match[1]), "PciInfo_v3", at, 0)
        kept = [match[0] for line in told if (match := OF_NCCL.search(line))]  # neither hosts nor addresses
        self.nccl += kept[:20000]
        return bool(told)


OF_NCCL = re.compile(
    r"NCCL (?:INFO|WARN) (?:Channel \d.{0,20} : .{1,160}|NCCL_(?:P2P|SHM|IB|NET|ALGO|PROTO)\w{0,30} set .{1,80}"
    r"|P2P is disabled between .{1,60}|Using network \S{1,40}|NET/IB : No device found"
    r"|Error while creating shared .{1,120})"
)
NVRM = re.compile(
    r"^NVRM version: NVIDIA UNIX (Open )?.{0,80}?Kernel Module.{0,40}?  (\d{3}\.[\d.]{2,12})", re.MULTILINE
)
ROOT_BUS = re.compile(r"\[([0-9a-f]{4}:[0-9a-f]{2})\]")
BUS_BELOW = re.compile(r"\[([0-9a-f]{2})(?:-[0-9a-f]{2})?\]")
FUNCTION = re.compile(r"([0-9a-f]{2}\.[0-7])(?:  (.{1,200}))?")
HEAD = re.compile(
    r"(?:(?P<domain>[0-9a-f]{4}):)?(?P<place>[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]) (?P<what>[A-Z].{3,300})", re.ASCII
)
CLASSES = {
    "VGA compatible controller": "0x030000", "3D controller": "0x030200", "PCI bridge": "0x060400",
    "Host bridge": "0x060000", "Non-Volatile memory controller": "0x010802", "Ethernet controller": "0x020000",
    "Infiniband controller": "0x020700", "Audio device": "0x040300", "USB controller": "0x0c0330",
    "Bridge": "0x068000",
}  # fmt: skip
VENDORS = {
    "NVIDIA": "0x10de", "Intel": "0x8086", "Advanced Micro": "0x1022", "Mellanox": "0x15b3", "PLX": "0x10b5",
    "Broadcom": "0x1000", "Microsemi": "0x11f8", "ASMedia": "0x1b21", "Samsung": "0x144d",
}  # fmt: skip
NO_CARD = ("Audio", "USB", "UCSI", "Type-C", "NVSwitch", "Bridge", "Ethernet", "BlueField")


def _identity(what: str) -> dict[str, str]:
    """`VGA compatible controller [0300]: NVIDIA Corporation AD102 [GeForce RTX 4090] [10de:2684] (rev a1)`."""
    kind, _, name = what.partition(": ")
    numbered = re.search(r" \[([0-9a-f]{4})\]$", kind)
    found = {"class": f"0x{numbered[1]}00" if numbered else CLASSES.get(kind, "")}
    if ids := re.search(r"\[([0-9a-f]{4}):([0-9a-f]{4})\]", name):
        return found | {"vendor": f"0x{ids[1]}", "device": f"0x{ids[2]}"}
    if plain := re.search(r"Device ([0-9a-f]{4})\b", name):
        found["device"] = f"0x{plain[1]}"
    vendor = next((number for words, number in VENDORS.items() if name.startswith(words)), "")
    return found | ({"vendor": vendor} if vendor else {})


def _described(name: str) -> dict[str, str]:
    """Of lspci -tv, which tells no class: NVIDIA's functions are cards unless they are called something else."""
    vendor = next((number for words, number in VENDORS.items() if name.startswith(words)), "")
    card = vendor == "0x10de" and not any(word in name for word in NO_CARD)
    return {"class": "0x030000" if card else "", "vendor": vendor}


def _nodes(columns: Sequence[str], rows: Any) -> dict[str, str]:
    """NUMA nodes and their CPUs, from the last columns of the matrix."""
    width = len([column for column in columns if not column.endswith(("Affinity", "ID"))])
    found = {}
    for row in rows:
        cells = row[width:]
        if len(cells) >= 2 and re.fullmatch(r"[\d,-]{1,400}", cells[0]) and cells[1].isdigit():
            found[cells[1]] = cells[0]
    return found


def _elements(element: ElementTree.Element, within: str = "") -> Iterator[tuple[str, str]]:
    """The paths of -x in the words of -q."""
    for child in element:
        name = XML_NAMES.get(child.tag, child.tag.replace("_", " "))
        if len(child):
            yield from _elements(child, f"{within}{name}/" if name else within)
        yield f"{within}{name}", (child.text or "").strip()


XML_NAMES = {
    "uuid": "gpu uuid", "pci_device_id": "device id", "pci_bus_id": "bus id", "pci_gpu_link_info": "gpu link info",
    "pcie_gen": "pcie generation", "max_link_gen": "max", "current_link_gen": "current", "link_widths": "link width",
    "max_device_link_gen": "device max", "max_host_link_gen": "host max", "max_link_width": "max",
    "current_link_width": "current", "replay_counter": "replays since reset", "gpu_temp": "gpu current temp",
    "gpu_temp_slow_threshold": "gpu slowdown temp", "gpu_temp_max_threshold": "gpu shutdown temp",
    "gpu_target_temperature": "gpu target temperature", "memory_temp": "memory current temp",
    "gpu_util": "gpu", "memory_util": "memory", "graphics_clock": "graphics", "sm_clock": "sm", "mem_clock": "memory",
    "current_mig": "current", "current_ecc": "current", "enforced_power_limit": "enforced power limit",
    "gpu_power_readings": "gpu power readings", "remapped_row_corr": "correctable error",
    "remapped_row_unc": "uncorrectable error", "remapped_row_pending": "pending",
    "remapped_row_failure": "remapping failure occurred", "instant_power_draw": "instantaneous power draw",
} | {
    f"clocks_{kind}_reason{plural}_{words.replace(' ', '_').replace('idle', 'gpu_idle')}": words
    for kind in ("event", "throttle") for plural in ("", "s") for words, _ in REASONS
}  # fmt: skip
ROWS = ("correctable error", "uncorrectable error", "pending", "remapping failure occurred")


def _named(name: str) -> str:
    """As the driver names it: the table of older nvidia-smi left `NVIDIA` out."""
    return name if name.startswith(("NVIDIA", "Tesla", "Quadro", "GRID")) else f"NVIDIA {name}"


def _whole(text: str) -> int | None:
    match = NUMBER.match(text)
    return int(float(match[0])) if match else None


def _milli(text: str) -> int | None:
    match = NUMBER.match(text)
    return round(1000 * float(match[0])) if match and text.endswith("W") else None


def _bytes(text: str) -> int | None:
    match = NUMBER.match(text)
    return int(match[0]) << 20 if match and text.endswith("MiB") else None


def _switch(text: str) -> int | None:
    states = {"enabled": 1, "on": 1, "yes": 1, "active": 1, "disabled": 0, "off": 0, "no": 0}
    return states.get(text.lower())


def _state(text: str) -> int | None:
    return int(text[1:]) if re.fullmatch(r"P\d{1,2}", text) else None


def _power(name: str) -> tuple[str, ...]:
    return tuple(f"{heading}/{name}" for heading in ("gpu power readings", "power readings"))


FIELDS: tuple[tuple[str, tuple[str, ...], Callable[[str], int | None]], ...] = (
    ("PersistenceMode", ("persistence mode",), _switch),
    ("DisplayActive", ("display active",), _switch),
    ("MinorNumber", ("minor number",), _whole),
    ("CurrPcieLinkGeneration", ("pci/gpu link info/pcie generation/current",), _whole),
    ("MaxPcieLinkGeneration", ("pci/gpu link info/pcie generation/max",), _whole),
    ("GpuMaxPcieLinkGeneration", ("pci/gpu link info/pcie generation/device max",), _whole),
    ("CurrPcieLinkWidth", ("pci/gpu link info/link width/current",), _whole),
    ("MaxPcieLinkWidth", ("pci/gpu link info/link width/max",), _whole),
    ("PcieReplayCounter", ("pci/replays since reset",), _whole),
    ("FanSpeed", ("fan speed",), _whole),
    ("PerformanceState", ("performance state",), _state),
    ("BAR1MemoryInfo", ("bar1 memory usage/total",), _bytes),
    ("Temperature/0", ("temperature/gpu current temp",), _whole),
    ("TemperatureThreshold/0", ("temperature/gpu shutdown temp",), _whole),
    ("TemperatureThreshold/1", ("temperature/gpu slowdown temp",), _whole),
    ("TemperatureThreshold/5", ("temperature/gpu target temperature",), _whole),
    ("PowerUsage", _power("power draw") + _power("average power draw") + _power("instantaneous power draw"), _milli),
    ("EnforcedPowerLimit",
     _power("enforced power limit") + _power("current power limit") + _power("power limit"), _milli),
    ("PowerManagementLimit", _power("current power limit") + _power("power limit"), _milli),
    ("PowerManagementDefaultLimit", _power("default power limit"), _milli),
    ("ClockInfo/1", ("clocks/sm",), _whole),
    ("ClockInfo/2", ("clocks/memory",), _whole),
    ("MaxClockInfo/1", ("max clocks/sm",), _whole),
    ("MigMode", ("mig mode/current",), _switch),
    ("EccMode", ("ecc mode/current",), _switch),
)  # fmt: skip
