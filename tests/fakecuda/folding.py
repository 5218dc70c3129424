"""What of a screen is the same in every run: its words. Numbers become #, and lines that times decide are left out."""

from __future__ import annotations

import re

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
STAMP = re.compile(r"\b\d{4}-\d\d-\d\dT[\d:]+Z|\b\d{8}-\d{6}-[0-9a-f]{4}\b")
AFFINITY = re.compile(r", usable \d+ \(limited by the affinity of this process\)|host memory next to CPUs [\d-]+")
FINGERPRINT = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12}\b")
VERSION = re.compile(r"(?<=torch )[\d.]+\S*|(?<=rigbench )\d[\d.]*")
# What no time decides: names of cards and processors, places on the bus, links, return codes, settings.
FIXED = (
    r"RTX \d+|^ *\d+[KMB] on cuda|gen \d+|code \d+|[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.\d|pci\d+:\d+"
    r"|\d+th Gen|CUDA \d+\.\d+|driver [\d.]+|NCCL \d[\d.]*|\(\d\)|\w=\d|Linux [\d.]+"
)
# A number as people read it, with what stands for its size: 1.2 GB/s and 980 MB/s are the same. Not the 0 of GPU0.
NUMBER = re.compile(
    rf"(?P<fixed>{FIXED})"
    r"|(?<![\w.+-])(?:±\s?)?(?:[<>]\s?)?[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?:-\d+)?"
    r"(?:\s?(?:ns|µs|ms|s|min|h|hours?|d|days?|years?|%|x|[KMBT]|[kKMGTPE]?i?(?:B/s|bytes/s|FLOP/s|FLOP|B|W|Hz|J))(?![\w/]))?"
)
TOGETHER = re.compile(r"#(?: (?:to )?#)+")
EACH = re.compile(r"\breach #(?:, #)*(?: and #)?")  # cards that are alike reach one figure together
# A figure that times decide: there in one run, missing with its reason or a dash in the next.
MISSING = re.compile(
    r"n/a(?: \((?:[^()]*(?:noise|too few|too short|fewer than|time|not reached|scatter)[^()]*)\))?|–|one sample"
    r"|\(lib\S+: cannot open[^)]*\)"  # which library bitsandbytes misses
)
PLOT = re.compile(r"[▁▂▃▄▅▆▇█▏▎▍▌▋▊▉]")
# Lines that a search, a limit of time or a comparison of times decides.
PASSING = re.compile(
    r"#×#|faster|slower|slowest|fastest|time was up|would take too long|not run|no line|scatter|differed by|burst"
    r"|far off the line|cache to memory|of load|of rest|ran out of time|own products|training needs|least memory"
    r"|best trade-offs|of matmul"
    r"|warnings?$|for information$|notes?$|faults?,|^# tokens/s|^note (?:warm|workers|this is a)|^(?:#|GPU)[#,% ]*$"
    r"|^(?:efficiency|layer|all #$|all # (?:a step|\(# of its)|that is # of this rig"
    r"|all devices at once|to measure|takes|GB/s is|datasheet|hot|ratio|shape|change|enough|why wide|latency at|energy)"
    r"|^(?:tf32|fp\d+|bf16)(?: #)?(?: correct)?$"
)
ENDED = re.compile(r"^((?:own loader|memory map) .*) (?:time limit|interval)$")  # a row of the loader
SEVERITIES = ("fault ", "warning ", "information ")
FINDINGS_BY_SPEED = {
    *("communication-bound", "launch-bound", "data-bound", "compile-pays", "checkpointing-trades", "p2p-slower"),
    *("nccl-default-slower", "logits-dominate", "eight-bit-saves-little", "repeats-apart"),
}


def folded(screen: str) -> str:
    """Without what varies from run to run; tables and paragraphs keep their lines."""
    kept: list[str] = []
    for line in without_findings_by_speed(ESCAPE.sub("", screen).splitlines()):
        text = plain(line)
        begins = text.startswith(SEVERITIES)
        if PLOT.search(text) or (PASSING.search(text) and not begins):
            continue
        if text or (kept and kept[-1]):
            kept.append(text)
    return "\n\n".join(in_order("\n".join(kept).strip().split("\n\n"))) + "\n"


def in_order(blocks: list[str]) -> list[str]:
    """Findings by their words, since their costs order them on the screen; all else stays in its place."""
    findings = iter(sorted(block for block in blocks if block.startswith(SEVERITIES)))
    return [next(findings) if block.startswith(SEVERITIES) else block for block in blocks]


def plain(line: str) -> str:
    for pattern, word in ((STAMP, "STAMP"), (VERSION, "VERSION"), (FINGERPRINT, "RIG"), (MISSING, "#"), (AFFINITY, "")):
        line = pattern.sub(word, line)
    line = re.sub(r"\s+", " ", NUMBER.sub(lambda it: it["fixed"] or "#", line)).strip()
    line = EACH.sub("reach #", ENDED.sub(r"\1", line))
    return TOGETHER.sub("#", re.sub(r"\((?:#|[, ]|to)+\)", "#", line))


def without_findings_by_speed(lines: list[str]) -> list[str]:
    """A finding is a block of lines up to an empty one; its first line ends with its code."""
    kept, passing = [], False
    for line in lines:
        words = line.split()
        passing = bool(words) and (passing or words[-1] in FINDINGS_BY_SPEED)
        if not passing:
            kept.append(line)
    return kept
