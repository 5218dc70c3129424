"""Reads the kernel's log: the lines that bear on GPUs, PCIe, memory, heat or disks, and what they mean.

`events` is pure, of any text: /dev/kmsg, `journalctl -k` (short, short-monotonic, short-iso, json), dmesg with any of
its options, a syslog file. `KernelLog` stands at the edge and follows one of them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.files import opened
from rigbench.core.finding import WORST_FIRST, Severity
from rigbench.core.record import Absent
from rigbench.machine.host import NOT_A_DISK
from rigbench.machine.pci import DEVICES
from rigbench.machine.record import KernelEvent
from rigbench.machine.redact import Redaction
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import UNPRINTABLE, Sysfs

KMSG, ELSEWHERE = "/dev/kmsg", "RIGBENCH_KERNEL_LOG"
LINE_LIMIT, JSON_LIMIT = 2048, 64 << 10  # printk gives 1 KiB and a prefix; a line of JSON has fields beside it
TEXT_LIMIT = 240
RECORD_BYTES = 8192  # CONSOLE_EXT_LOG_MAX, printk.c: a shorter buffer is refused with EINVAL
MOST_LINES = 20_000  # of one look: a ring of 2 MiB holds fewer
TWIN_SECONDS = 2.0  # two lines about one error
# Lines of one device that are about one event, however many come within so many seconds.
AS_ONE = {"xid-79": 30.0, "gpu-lost": 30.0, "link-down": 5.0, "aer-fatal": 2.0, "cpu-hot": 2.0}
NO_TIME, NO_DEVICE, NO_PROCESS = Absent("the line has none"), Absent("the line names none"), Absent("not said")
NOT_A_GPU = Absent("no GPU of this rig")
RESTRICTED = (
    "the kernel's log is closed to this user (kernel.dmesg_restrict); to open it: `sudo usermod -aG adm $USER` and log "
    "in again, or `sudo sysctl kernel.dmesg_restrict=0`, or run this with sudo"
)
NONE_HERE = (
    "there is no kernel log here, as in most containers; look on the host (sudo dmesg), or name its log, where it is "
    "mounted: RIGBENCH_KERNEL_LOG=FILE"
)
JOURNAL = ("journalctl", "-k", "-b", "-o", "short-monotonic", "--no-pager", "-q")
RECENT_SECONDS = 7 * 86400.0  # an error of last month that did not come back holds nothing up
MOST_EVENTS, MOST_RECORDED = 50, 500
LONGEST_TEXT = 8 << 20  # of a log file's end

BDF = r"[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(?:\.[0-7])?"
DRIVER = rf"[\w.+-]{{1,40}} ({BDF}): "  # dev_printk: driver, device


class _Rule(NamedTuple):
    """A message that begins so. Groups may be named `device`, `number`, `pid`, `process`, `more`."""

    code: str
    pattern: re.Pattern[str]


def _rules(*pairs: tuple[str, str]) -> tuple[_Rule, ...]:
    return tuple(_Rule(code, re.compile(pattern)) for code, pattern in pairs)


_AT = rf"[\w.+-]{{1,40}} (?P<device>{BDF}): (?:AER: )?"
_DISK = r"(?P<device>[\w.!-]{1,40})"
# Patterns are matched from the message's start and hold no repetition inside a repetition: linear in the line's length.
# Sources: drivers/pci/pcie/{aer,dpc}.c, pci/hotplug/pciehp_ctrl.c, mm/oom_kill.c, arch/x86 therm_throt.c,
# block/blk-core.c, nvme/host/pci.c, fs/{ext4,xfs,btrfs}, edac_mc.c, kernel/{watchdog,hung_task}.c; NVIDIA's open kernel
# modules (nv.c, os.c).
RULES = _rules(
    ("xid", rf"NVRM: Xid \((?:PCI:)?(?P<device>{BDF})\): (?P<number>\d{{1,5}})\b,?(?P<more>.*)"),
    ("gpu-lost", rf"NVRM: (?:The NVIDIA )?GPU (?P<device>{BDF})\b.{{0,120}}?has fallen off the bus"),
    ("driver-start", rf"NVRM: (?:GPU (?P<device>{BDF}): )?(?:RmInitAdapter failed|rm_init_adapter\S{{0,8}} failed)"),
    ("driver-mismatch", r"NVRM: API mismatch:"),
    ("driver", rf"NVRM: (?:GPU (?P<device>{BDF}): )?.{{0,200}}?(?i:\b(?:fail|error|unable|cannot|timed? ?out|refus))"),
    ("aer-corrected", _AT + r"(?:PCIe|CXL) Bus Error: severity=Correct(?:ed|able)"),
    ("aer-fatal", _AT + r"(?:PCIe|CXL) Bus Error: severity=Uncorrect(?:ed|able) \(Fatal\)"),
    ("aer-nonfatal", _AT + r"(?:PCIe|CXL) Bus Error: severity=Uncorrect(?:ed|able)"),
    ("aer-report", rf"{DRIVER}AER: (?:Multiple )?(?P<number>Correct|Uncorrect)(?:ed|able)(?P<more> \((?:Non-)?Fatal\))?"
     rf" error (?:message )?received(?: from|:) (?:(?P<device>{BDF})|id=)"),
    ("aer-fatal", _AT + r"(?:device recovery failed|can't recover)"),
    ("aer-nonfatal", _AT + r"aer_uncor_severity: "),
    ("aer", _AT + r"aer_status: "),
    ("link-down", _AT + r"DPC: containment event"),
    ("link-down", rf"pcieport (?P<device>{BDF}): pciehp: Slot\([^)]{{0,40}}\): (?:Link Down|Card not present)"),
    ("oom", r"(?:Memory cgroup o|O)ut of memory: Kill(?:ed)? process (?P<pid>\d{1,10}) \((?P<process>.{0,64}?)\)"),
    ("cpu-hot", r"(?:mce: )?(?P<device>CPU\d{1,5}): (?P<more>Core|Package) temperature (?:is )?above threshold"),
    ("critical-heat", r"(?i)(?:thermal thermal_zone\d{1,3}: |mce: )?(?:[\w-]{1,40}: )?critical temperature reached"),
    ("critical-heat", r"reboot: HARDWARE PROTECTION shutdown \(Temperature too high\)"),
    ("memory-uncorrected", r"EDAC (?P<device>\w{1,20}): \d{1,9} UE "),
    ("memory-corrected", r"EDAC (?P<device>\w{1,20}): \d{1,9} CE "),
    ("machine-check", r"mce: \[Hardware Error\]: (?:Machine check events logged|CPU \d{1,5}: Machine Check)"),
    ("lockup", r"watchdog: BUG: (?:soft|hard) lockup|NMI watchdog: (?:BUG: |Watchdog detected )"),
    ("hung", r"INFO: task (?P<process>.{1,64}?):(?P<pid>\d{1,10}) blocked for more than"),
    ("disk", r"nvme (?P<device>nvme\d{1,4}): (?:controller is down|Removing after probe|Disabling device after|"
     r"Device not ready|Identify Controller failed)"),
    ("disk-slow", r"nvme (?P<device>nvme\d{1,4}): I/O .{1,60}? timeout"),
    ("disk", rf"(?:\w{{1,20}}_req\w{{1,10}}: )?(?:critical )?(?:I/O|medium|target|nexus) error, dev {_DISK}"),
    ("disk", rf"Buffer I/O error on (?:dev|device) {_DISK}"),
    ("disk-slow", r"(?P<device>ata\d{1,4}(?:\.\d{1,2})?): (?:exception Emask|failed command:|hard resetting link)"),
    ("filesystem", rf"(?:EXT4-fs error \(device |XFS \(|BTRFS (?:error|critical) \(device ){_DISK}\)"
     r"(?:: (?:.{0,60}(?i:error|corruption|shutting down))?|.{0,5}:)"),
    ("filesystem", rf"EXT4-fs \({_DISK}\): (?:Remounting filesystem read-only|I/O error|shut down)"),
    ("filesystem", rf"BTRFS (?:info|warning|error|critical) \(device {_DISK}.{{0,20}}\): forced readonly"),
)  # fmt: skip
NEEDLE = re.compile(
    r"NVRM:|AER|Bus Error|aer_|DPC|pciehp|ut of memory|emperature|EDAC|mce:|lockup|atchdog|blocked for|nvme|error|ata\d"
    r"|orruption|EXT4-fs|BTRFS"
)
# The driver writes this in three lines: one record of /dev/kmsg, lines of their own in a syslog, indented in dmesg.
LOST_CARD, LOST_REST = re.compile(rf"NVRM: The NVIDIA GPU {BDF}\Z"), re.compile(r"NVRM: (fallen off the bus.*)")
BETWEEN_LINES = re.compile(r"\n\s*(?:NVRM: )?")
QUIET_FILESYSTEM = re.compile(r"XFS \([^)]{1,40}\): (?!.{0,60}(?i:error|corruption|shutting down))")

# How a line of each kind of log begins: what stands before the message.
KMSG_PREFIX = re.compile(r"(\d{1,4}),\d{1,20},(\d{1,20}),[^;]{0,40};")
RAW_PRIORITY = re.compile(r"<\d{1,3}>")
DECODED_PRIORITY = re.compile(r"[a-z0-9]{1,8} {0,4}:[a-z]{1,7} {0,4}: ")
SECONDS = re.compile(r"\[ {0,12}(\d{1,10}\.\d{1,9})\](?:\[ {0,6}[TC]\d{1,10}\])? ?")
HUMAN = re.compile(r"\[([A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4})\] ?")
ISO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)([.,]\d{1,9})?(Z|[+-]\d\d:?\d\d)? ")
SYSLOG = re.compile(r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d ")
HOST_KERNEL = re.compile(r"(?:\S{1,64} )?kernel: ")
ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")
NAMED = re.compile(r"\bpid='?(<?\w{1,12}>?)'?,? ?|\bname=([^,]{0,64})(?:, ?|$)")


class _Words(msgspec.Struct, frozen=True):
    severity: Severity
    title: str
    meaning: str
    do: str


class Line(NamedTuple):
    monotonic_seconds: float | None
    wall_seconds: float | None
    message: str


def events(lines: Iterable[str], booted: float | None = None) -> list[KernelEvent]:
    """What the lines tell, in their order; of two lines about one error the one that says more.

    `booted` is the time of day, in seconds since 1970, at which the monotonic clock stood at 0, for logs that tell that
    clock alone.
    """
    reader = Reader(booted)
    return [*reader.read(lines), *reader.rest()]


def merged(told: Sequence[KernelEvent]) -> tuple[KernelEvent, ...]:
    """Alike events of one device as one with their count, worst first, then in time."""
    first: dict[tuple[str, str], KernelEvent] = {}
    for event in told:
        key = event.code, str(event.device)
        before = first.get(key)
        if before is None:
            first[key] = event
        else:
            last = event.monotonic_seconds
            first[key] = msgspec.structs.replace(
                before,
                count=before.count + event.count,
                last_monotonic_seconds=before.last_monotonic_seconds if isinstance(last, Absent) else last,
            )
    return tuple(sorted(first.values(), key=lambda event: WORST_FIRST.index(event.severity)))


class Reader:
    """Reads lines as they come. One that may be followed by a better one about the same error waits for the next."""

    def __init__(self, booted: float | None = None) -> None:
        self._booted = booted
        self._waiting: KernelEvent | None = None
        self._told: dict[tuple[str, str], KernelEvent] = {}

    def read(self, lines: Iterable[str]) -> Iterator[KernelEvent]:
        for line, code, match in _telling(lines):
            event = self._event(line, code, match)
            waiting, self._waiting = self._waiting, None
            if waiting is not None and not (event.code == waiting.code and _close(waiting, event, TWIN_SECONDS)):
                yield waiting
            if code == "aer-report":
                self._waiting = event
            elif not self._is_told(event):
                yield event

    def rest(self) -> list[KernelEvent]:
        """What waited for a better line."""
        waiting, self._waiting = self._waiting, None
        return [waiting] if waiting else []

    def _is_told(self, event: KernelEvent) -> bool:
        """The driver says twice that a card fell off the bus, and more often while programs ask for it."""
        if event.code not in AS_ONE:
            return False
        key = "gpu-lost" if event.code == "xid-79" else event.code, str(event.device)
        before = self._told.get(key)
        self._told[key] = event
        return before is not None and _close(before, event, AS_ONE[event.code])

    def _event(self, line: Line, code: str, match: re.Match[str]) -> KernelEvent:
        groups = match.groupdict()
        number, more = groups.get("number") or "", groups.get("more") or ""
        device = (groups.get("device") or "").rstrip(".") or None
        pid, process = groups.get("pid"), groups.get("process")
        name, table = code, _table()
        if code == "xid":
            name = f"xid-{int(number)}"
            named = dict(zip(("pid", "process"), _named(more), strict=True))
            pid, process = named["pid"], named["process"]
        elif code == "aer-report":
            name = "aer-corrected" if number == "Correct" else "aer-fatal" if more == " (Fatal)" else "aer-nonfatal"
        elif code == "cpu-hot" and more == "Package":
            device = "CPU"  # each of its cores tells the same
        if device and re.fullmatch(BDF, device):
            device = bus_id(device)
        words = table["xid"].get(name[4:], table["kind"]["xid"]) if code == "xid" else table["kind"][name]
        mono, wall = line.monotonic_seconds, line.wall_seconds
        if wall is None and mono is not None and self._booted is not None:
            wall = self._booted + mono
        return KernelEvent(
            code=name,
            severity=words.severity,
            title=words.title.format(number=number),
            meaning=words.meaning,
            do=words.do.replace("/dev/DISK", f"/dev/{device}" if code.startswith("disk") and device else "/dev/DISK"),
            device=device or NO_DEVICE,
            label=NOT_A_GPU,
            pid=int(pid) if pid and pid.isdecimal() else NO_PROCESS,
            process=process if process else NO_PROCESS,
            text=_printable(NAMED.sub("", line.message)),
            monotonic_seconds=NO_TIME if mono is None else mono,
            wall_seconds=NO_TIME if wall is None else wall,
        )


def _telling(lines: Iterable[str]) -> Iterator[tuple[Line, str, re.Match[str]]]:
    """Those that say something, with what."""
    card: Line | None = None
    for text in lines:
        if (line := parse(text)) is None:
            continue
        line = line._replace(message=BETWEEN_LINES.sub(" ", line.message))
        if card and (rest := LOST_REST.match(line.message)):
            line, card = card._replace(message=f"{card.message} has {rest[1]}"), None
        elif LOST_CARD.match(line.message):
            card = line
        if match := _matched(line.message):
            yield line, *match


def parse(text: str) -> Line | None:
    """A line of any of the logs; None where nothing in it can be of interest."""
    if text.startswith("{"):
        return _journal(text) if len(text) <= JSON_LIMIT else None
    text = text[:LINE_LIMIT].rstrip("\r\n")
    if not NEEDLE.search(text):
        return None
    if text.startswith(" "):  # a continuation, of /dev/kmsg or of a message of several lines
        text = text.lstrip()
        return Line(None, None, text) if text.startswith("NVRM: fallen off") else None
    if match := KMSG_PREFIX.match(text):
        if int(match[1]) >> 3:  # a facility: not the kernel's own words
            return None
        return Line(int(match[2]) / 1e6, None, ESCAPE.sub(lambda it: chr(int(it[1], 16)), text[match.end() :]))
    mono = wall = None
    at = 0
    for prefix in (RAW_PRIORITY, DECODED_PRIORITY):
        if match := prefix.match(text, at):
            at = match.end()
    if match := ISO.match(text, at):
        at, wall = match.end(), _iso(match)
    elif match := HUMAN.match(text, at):
        at, wall = match.end(), _human(match[1])
    elif match := SYSLOG.match(text, at):  # no year: no time of day
        at = match.end()
    for prefix in (SECONDS, HOST_KERNEL, SECONDS):
        if match := prefix.match(text, at):
            at = match.end()
            mono = float(match[1]) if prefix is SECONDS else mono
    return Line(mono, wall, text[at:])


def _journal(text: str) -> Line | None:
    try:
        entry: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    message = entry.get("MESSAGE") if isinstance(entry, dict) else None
    if isinstance(message, list):  # bytes that are no text
        message = "".join(chr(one) for one in message if isinstance(one, int) and 0 < one < 256)
    if not isinstance(message, str) or entry.get("_TRANSPORT", "kernel") != "kernel":
        return None
    mono = entry.get("_SOURCE_MONOTONIC_TIMESTAMP") or entry.get("__MONOTONIC_TIMESTAMP")
    both = [
        int(stamp) / 1e6 if isinstance(stamp, str) and re.fullmatch(r"\d{1,18}", stamp) else None
        for stamp in (mono, entry.get("__REALTIME_TIMESTAMP"))
    ]
    return Line(both[0], both[1], message[:LINE_LIMIT])


def _iso(match: re.Match[str]) -> float | None:
    with contextlib.suppress(ValueError, OverflowError):
        zone = (match[3] or "").replace("Z", "+00:00")
        moment = datetime.fromisoformat(match[1] + zone)
        return moment.timestamp() + float((match[2] or ".0").replace(",", "."))
    return None


def _human(text: str) -> float | None:
    with contextlib.suppress(ValueError, OverflowError):
        return datetime.strptime(text, "%a %b %d %H:%M:%S %Y").timestamp()  # dmesg -T writes the local time
    return None


def _matched(message: str) -> tuple[str, re.Match[str]] | None:
    if not NEEDLE.search(message):
        return None
    for code, pattern in RULES:
        if match := pattern.match(message):
            device = match.groupdict().get("device") or ""
            if code == "disk" and NOT_A_DISK.match(device):
                return None
            return None if code == "filesystem" and QUIET_FILESYSTEM.match(message) else (code, match)
    return None


def _named(more: str) -> tuple[str | None, str | None]:
    """(pid, name) of what the driver writes as `pid='<unknown>', name=<unknown>, …` or `pid=12, …`."""
    pid = re.search(r"\bpid='?(\d{1,10})", more)
    name = re.search(r"\bname=([^,<]{1,64})", more)
    return pid[1] if pid else None, _printable(name[1].strip()) if name else None


def _close(one: KernelEvent, other: KernelEvent, seconds: float) -> bool:
    """Whether two lines may be about one error; where neither tells a time, they stand beside each other."""
    clocks = (one.monotonic_seconds, other.monotonic_seconds), (one.wall_seconds, other.wall_seconds)
    apart = [abs(a - b) for a, b in clocks if not isinstance(a, Absent) and not isinstance(b, Absent)]
    return not apart or apart[0] <= seconds


def _printable(text: str) -> str:
    text = "".join(letter if letter.isprintable() else "?" for letter in UNPRINTABLE.sub("?", text))
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"


def bus_id(text: str) -> str:
    """As sysfs writes it: `PCI:0000:01:00` of a line is 0000:01:00.0."""
    domain, bus, rest = text.lower().split(":")
    return f"{int(domain, 16):04x}:{bus}:{rest if '.' in rest else rest + '.0'}"


@functools.cache
def _table() -> Mapping[str, Mapping[str, _Words]]:
    text = resources.files(__package__).joinpath("kernel_events.toml").read_bytes()
    return msgspec.toml.decode(text, type=dict[str, dict[str, _Words]])


def labels_of(sysfs: Sysfs, places: Mapping[str, str]) -> dict[str, str]:
    """A GPU's label by its PCI address, and by those of the bridges above it; `places` are the addresses by label."""
    labels: dict[str, list[str]] = {}
    for label, place in places.items():
        way = sysfs.real_path(f"{DEVICES}/{place}")
        above = [] if isinstance(way, Absent) else [part for part in way.split("/") if re.fullmatch(BDF, part)]
        for address in dict.fromkeys((place, *above)):
            labels.setdefault(address, []).append(label)
    return {address: ", ".join(names) for address, names in labels.items()}


def labelled(found: Iterable[KernelEvent], labels: Mapping[str, str]) -> list[KernelEvent]:
    """With the label of the GPU that each is of; `labels` as of `labels_of`."""
    return [msgspec.structs.replace(it, label=labels.get(str(it.device), NOT_A_GPU)) for it in found]


def so_far(rig: Rig, places: Mapping[str, str]) -> tuple[KernelEvent, ...] | Absent:
    """What the kernel's log of a rig holds, of a live one for the last seven days; `places` as in `labels_of`."""
    lines = rig.kernel_lines if rig.replayed else lines_so_far()
    if isinstance(lines, Absent):
        return lines
    found = events(lines, booted=None if rig.replayed else booted())
    if not rig.replayed:
        least = time.time() - RECENT_SECONDS
        found = [it for it in found if isinstance(it.wall_seconds, Absent) or it.wall_seconds >= least]
    return merged(labelled(found, labels_of(rig.sysfs, places)) if found else [])[:MOST_EVENTS]


def booted() -> float:
    """The time of day, in seconds since 1970, at which the monotonic clock stood at 0."""
    return time.time() - time.monotonic()


def recorded(rig: Rig, redaction: Redaction) -> str | None:
    """The lines of a rig's log that say something, without what tells whose machine it is; None where none is read."""
    lines = rig.kernel_lines if rig.replayed else lines_so_far()
    if isinstance(lines, Absent):
        return None
    start = None if rig.replayed else booted()
    kept = [line for line, *_ in _telling(lines)][-MOST_RECORDED:]
    return "".join(f"{_as_recorded(line, start, redaction)}\n" for line in kept)


def _as_recorded(line: Line, start: float | None, redaction: Redaction) -> str:
    """`2026-11-28T22:33:30.410012+00:00 [ 5210.410012] message`, of which a part may be missing."""
    mono, wall = line.monotonic_seconds, line.wall_seconds
    if wall is None and mono is not None and start is not None:
        wall = start + mono
    day = ""
    with contextlib.suppress(ValueError, OverflowError, OSError):
        day = "" if wall is None else f"{datetime.fromtimestamp(wall, UTC).isoformat(timespec='microseconds')} "
    since = "" if mono is None else f"[{mono:12.6f}] "
    return f"{day}{since}{_printable(redaction.kernel_message(line.message))}"


class KernelLog:
    """Follows the kernel's log: `poll` gives what is new, never waits, and costs one system call where nothing is.

    `source` is a file that grows; without it that of $RIGBENCH_KERNEL_LOG, /dev/kmsg or the journal, whichever may be
    read. `absent` says why there is none, and how to get it.
    """

    def __init__(self, source: Path | None = None) -> None:
        self.absent: Absent | None = None
        source = source or _elsewhere()
        self._reader = Reader(None if source else booted())
        self._path, self._kmsg, self._file, self._left = source, False, -1, b""
        self._child: subprocess.Popen[bytes] | None = None
        try:
            self._file = os.open(source or KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._kmsg = source is None
            os.lseek(self._file, 0, os.SEEK_END)
        except OSError as error:
            self._follow_journal(source, error)

    def _follow_journal(self, source: Path | None, error: OSError) -> None:
        self.close()
        if source is not None:
            raise RigbenchError(
                f"cannot read {source} ({os.strerror(error.errno or 0)})", "name a file that can be read"
            )
        self.absent = Absent(NONE_HERE if isinstance(error, FileNotFoundError) else RESTRICTED)
        if not shutil.which(JOURNAL[0]) or not _journal_lines(1):
            return
        command = [*JOURNAL, "-f", "-n", "0"]
        with contextlib.suppress(OSError):
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            assert self._child.stdout is not None
            self._file = self._child.stdout.fileno()
            os.set_blocking(self._file, False)
            self.absent = None

    def poll(self) -> list[KernelEvent]:
        """What was written since the last time."""
        waited = self._reader.rest()  # its better half would have stood beside it
        lines = self._read()
        return [*waited, *self._reader.read(lines)] if lines or waited else []

    def _read(self) -> list[str]:
        if self._file < 0:
            return []
        pieces, size = [self._left], 0
        with contextlib.suppress(BlockingIOError):
            while size < MOST_LINES * 100:
                try:
                    piece = os.read(self._file, RECORD_BYTES if self._kmsg else 1 << 16)
                except BrokenPipeError:  # /dev/kmsg: records were written over before they were read
                    continue
                if not piece:
                    break
                pieces.append(piece)
                size += len(piece)
        if self._path and not size:
            self._begin_anew()
        whole, _, self._left = b"".join(pieces).rpartition(b"\n")
        self._left = self._left[-JSON_LIMIT:]
        return whole.decode(errors="replace").split("\n") if whole else []

    def _begin_anew(self) -> None:
        """Of a file that was cut or replaced, as logs are when they are rotated."""
        assert self._path is not None
        with contextlib.suppress(OSError):
            now, ours = os.stat(self._path), os.fstat(self._file)
            if now.st_ino != ours.st_ino or now.st_dev != ours.st_dev:
                fresh = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.close(self._file)
                self._file = fresh
            elif ours.st_size < os.lseek(self._file, 0, os.SEEK_CUR):
                os.lseek(self._file, 0, os.SEEK_SET)

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
        elif self._file >= 0:
            os.close(self._file)
        self._file = -1

    def __enter__(self) -> KernelLog:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def lines_so_far() -> list[str] | Absent:
    """The kernel's log of this machine since it started, as far as it is still held."""
    if path := _elsewhere():
        try:
            with opened(path) as log:
                log.seek(max(0, path.stat().st_size - LONGEST_TEXT))
                return log.read(LONGEST_TEXT).decode(errors="replace").split("\n")
        except OSError as error:
            return Absent(f"{ELSEWHERE}={path} cannot be read ({os.strerror(error.errno or 0)})")
    try:
        file = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        why = NONE_HERE if isinstance(error, FileNotFoundError) else RESTRICTED
        return _journal_lines(MOST_LINES) or Absent(why)
    lines: list[str] = []
    try:
        while len(lines) < MOST_LINES:
            with contextlib.suppress(BrokenPipeError):
                lines.append(os.read(file, RECORD_BYTES).decode(errors="replace").partition("\n")[0])
    except BlockingIOError:
        return lines
    except OSError:
        return _journal_lines(MOST_LINES) or Absent(RESTRICTED)
    finally:
        os.close(file)
    return lines


def _elsewhere() -> Path | None:
    """A file that stands for this machine's log, as a container may be given its host's."""
    name = os.environ.get(ELSEWHERE)
    return Path(name) if name else None


def _journal_lines(count: int) -> list[str]:
    """The last lines of the journal; none where there is no journal, or this user may not read it."""
    if not shutil.which(JOURNAL[0]):
        return []
    try:
        done = subprocess.run([*JOURNAL, "-n", str(count)], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.decode(errors="replace").splitlines() if not done.returncode else []
