"""Replaces what in a recording could tell whose machine it is by something that keeps equality, and counts it."""

from __future__ import annotations

import re
from collections import Counter

from rigbench.machine.driver import Answer
from rigbench.machine.replay import SUCCESS, Recording

UUID = re.compile(r"\b(GPU|MIG)-[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
ADDRESS = re.compile(r"(?<![0-9a-fA-F:])[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5,19}(?![0-9a-fA-F:])")  # InfiniBand has 20
GUID = re.compile(r"(?<![0-9a-fA-F:])[0-9a-fA-F]{4}(?::[0-9a-fA-F]{4}){3}(?![0-9a-fA-F:])")
# Not a rig with its link, as 2xrtx-4090@gen4x8+p2p-off.
WIRED = r"(?:\d{1,4}x)?(?:[a-z]{1,5}-?\d[a-z0-9-]*@(?:gen[1-6]x\d|p2p-o[nf])|[rg]tx-[a-z0-9-]+@x(?:1|2|4|8|16)\b)"
PERSON = re.compile(rf"(?<![\w.+-])(?!{WIRED})[\w.+-]++@[\w.-]+")
PROCESS_LIST, PROCESS_NAME = "RunningProcesses", "nvmlSystemGetProcessName"
UNNAMED = "process"
# A host may be called as what it holds: without these words no recording could be read.
HARDWARE = re.compile(
    r"nvidia|geforce|[rg]tx|super|tesla|quadro|titan|intel|amd|xeon|epyc|ryzen|core|cpu|gpu|model", re.I
)
# Where lines of the kernel's log name processes (mm/oom_kill.c, kernel/hung_task.c, fs/ext4, NVIDIA's driver).
PROCESSES_OF_KERNEL = (
    (re.compile(r"\bpid='?(?P<pid>\d{1,10})'?"), "pid={pid}"),
    (re.compile(r"\bname=(?P<name>[^,<]{1,64})"), "name={name}"),
    (re.compile(r"\bprocess (?P<pid>\d{1,10}) \((?P<name>.{0,64}?)\)"), "process {pid} ({name})"),
    (re.compile(r"\btask (?P<name>.{1,64}?):(?P<pid>\d{1,10})"), "task {name}:{pid}"),
    (re.compile(r"\bcomm (?P<name>[^:]{1,64}):"), "comm {name}:"),
)
# The kernel's words that bear on GPUs and PCI. Any other word may hold a name, an address or a disk's identity.
KERNEL_WORDS = re.compile(
    r"(iommu|intel_iommu|amd_iommu|iommu\.\w+|pci|pcie_aspm|pcie_ports|pcie_acs_override|pci_aspm|nvidia(?:[_-]\w+)?"
    r"|mitigations|isolcpus|nohz_full|nosmt|numa_balancing|transparent_hugepage|hugepages\w*|default_hugepagesz"
    r"|processor\.max_cstate|intel_idle\.max_cstate|intel_pstate|amd_pstate|quiet|splash|nomodeset)(?:[=.][\w.,:;=\"@/+…-]*)?"
)

# Of those a parameter of NVIDIA's modules may hold whatever its owner wrote: numbers and known registry words stay.
PARAMETER = re.compile(r"(nvidia(?:[_-]\w+)?\.\w+=)(.*)")
REGISTRY_WORD = re.compile(r"(?:ForceP2P|RM\w*P2P\w*|PeerMappingOverride|GrdmaPciTopoCheckOverride)=\w{1,10}")
PLAIN_VALUE = re.compile(r"-?\d{1,10}|0[xX][0-9a-fA-F]{1,8}|[YNyn]|")
# Of a disk's model, which is whatever its maker or enclosure says, stay makers' names and what is as short as a type.
DISK_WORD = re.compile(
    r"samsung|wdc?|western|digital|wd_black|black|blue|red|green|seagate|toshiba|kioxia|hitachi|hgst|intel|micron|crucial"
    r"|kingston|sandisk|corsair|sabrent|adata|xpg|hynix|sk|lexar|patriot|transcend|phison|msi|gigabyte|aorus|teamgroup"
    r"|solidigm|optane|ssd|hdd|nvme|m\.2|evo|pro|plus|qvo|rocket|firecuda|barracuda|ironwolf|exos|gold|purple|ultrastar"
    r"|apple|fanxiang|netac|virtual|disk|drive|qemu|vbox|vmware|google|persistentdisk|amazon|elastic|block|store|instance"
    r"|storage|harddisk|[a-z]{0,3}\d{1,4}[a-z]{0,2}",
    re.IGNORECASE,
)


class Redaction:
    """Replaces, and counts in `counts` what it replaced, by kind. The same secret always becomes the same word."""

    def __init__(self, host_name: str = "") -> None:
        self.counts: Counter[str] = Counter()
        hidden = len(host_name) > 2 and not HARDWARE.fullmatch(host_name)
        self._host_name = re.compile(rf"(?<!\w){re.escape(host_name)}(?!\w)") if hidden else None
        self._uuids: dict[str, str] = {}
        self._process_ids: dict[str, int] = {}

    def recording(self, recording: Recording) -> Recording:
        """The lines of a recording in a fixed order: the system's, then every device's."""
        for (scope, key), answers in recording.items():
            for code, values in answers if key == "nvmlDeviceGetUUID" and scope.isdigit() else ():
                for value in values:  # a device's UUID becomes its number: it is told at a glance which is meant
                    if code == SUCCESS and isinstance(value, str):
                        self._uuids.setdefault(value.lower(), _as_uuid(value, int(scope)))

        def place(call: tuple[str, str]) -> tuple[int, bool, str]:
            scope, key = call
            number = -1 if scope == "sys" else int(scope) if scope.isdigit() else 10**6
            return number, key != "nvmlDeviceGetCount_v2", key

        redacted: Recording = {}
        for scope, key in sorted(recording, key=place):
            name, _, argument = key.partition("/")
            public = f"{name}/{self._process_id(argument)}" if name == PROCESS_NAME else key
            redacted[scope, public] = [self._answer(name, answer) for answer in recording[scope, key]]
        return redacted

    def text(self, text: str) -> str:
        """A kernel file's text, or a driver's, without what names a machine or a person."""
        text = UUID.sub(lambda match: self._uuid(match[0]), text)
        text = self._replace(PERSON, "user and host names", "user@host", text)
        text = self._replace(GUID, "GUIDs", "0000:0000:0000:0000", text)
        text = ADDRESS.sub(lambda it: str(self._known("MAC addresses", it[0], re.sub("[^:]+", "00", it[0]))), text)
        return self._replace(self._host_name, "user and host names", "host", text) if self._host_name else text

    def kernel_message(self, text: str) -> str:
        """A line of the kernel's log, without processes' names and numbers."""
        for pattern, words in PROCESSES_OF_KERNEL:
            for match in reversed(list(pattern.finditer(text))):
                text = text[: match.start()] + self._process(match.groupdict(), words) + text[match.end() :]
        return self.text(text)

    def _process(self, groups: dict[str, str], words: str) -> str:
        if "name" in groups:
            self._count("process names", groups["name"] != UNNAMED)
        return words.format(pid=self._process_id(groups["pid"]) if "pid" in groups else "", name=UNNAMED)

    def kernel_words(self, text: str) -> str:
        words = text.split()
        kept = [word for word in words if KERNEL_WORDS.fullmatch(word)]
        self._count("words of the kernel's command line", len(words) - len(kept))
        return " ".join(self._parameter(word) for word in kept)

    def _parameter(self, word: str) -> str:
        match = PARAMETER.fullmatch(word)
        if match is None or PLAIN_VALUE.fullmatch(match[2].strip('"')):
            return word
        return f"{match[1]}{self.registry_words(match[2])}"

    def registry_words(self, text: str) -> str:
        """What NVIDIA's module was told, as "ForceP2P=17;RMx=y": the words that bear on P2P, and "…" for any other."""
        words = [word for word in re.split(r'[;\s"]+', text) if word]
        self._count("registry words", sum(word != "…" and not REGISTRY_WORD.fullmatch(word) for word in words))
        return ";".join(word if REGISTRY_WORD.fullmatch(word) else "…" for word in words)

    def disk_model(self, text: str) -> str:
        """ "Samsung SSD 990 PRO 2TB" as it is; "…" for a word that could be anything, as a serial number or a name."""
        words = text.split()
        self._count("words of disks' models", sum(word != "…" and not DISK_WORD.fullmatch(word) for word in words))
        return " ".join(word if DISK_WORD.fullmatch(word) else "…" for word in words)

    def _uuid(self, uuid: str) -> str:
        anonymous = self._uuids.setdefault(uuid.lower(), _as_uuid(uuid, 1000 + len(self._uuids)))
        self._count("UUIDs", anonymous != uuid)
        return anonymous

    def _answer(self, name: str, answer: Answer) -> Answer:
        if answer.code != SUCCESS:
            return Answer(answer.code, ())
        if PROCESS_LIST in name:
            pairs = zip(answer.values[::2], answer.values[1::2], strict=False)
            return Answer(SUCCESS, tuple(number for pid, used in pairs for number in (self._process_id(pid), used)))
        return Answer(SUCCESS, tuple(self._value(name, value) for value in answer.values))

    def _value(self, name: str, value: int | str) -> int | str:
        if name == PROCESS_NAME:
            return self._known("process names", value, UNNAMED)
        if name == "nvmlDeviceGetUUID":
            return self._uuid(str(value)) if str(value).lower() in self._uuids else self.text(str(value))
        if name in ("nvmlDeviceGetSerial", "nvmlDeviceGetInforomSerial"):
            return self._known("serial numbers", value, "0" * len(str(value)))
        if name == "nvmlDeviceGetPdi":
            return self._known("device identities", value, 0)
        if "Hostname" in name:
            return self._known("user and host names", value, "host")
        return self.text(value) if isinstance(value, str) else value

    def _process_id(self, process_id: int | str) -> int:
        anonymous = self._process_ids.setdefault(str(process_id), len(self._process_ids) + 1)
        self._count("process ids", str(anonymous) != str(process_id))
        return anonymous

    def _replace(self, pattern: re.Pattern[str], kind: str, word: str, text: str) -> str:
        return pattern.sub(lambda match: str(self._known(kind, match[0], word)), text)

    def _known(self, kind: str, value: int | str, word: int | str) -> int | str:
        self._count(kind, value != word)
        return word

    def _count(self, kind: str, times: int) -> None:
        if times:
            self.counts[kind] += times


def _as_uuid(uuid: str, number: int) -> str:
    kind = "MIG" if uuid.upper().startswith("MIG-") else "GPU"
    return f"{kind}-00000000-0000-0000-0000-{number:012d}"
