"""What rigbench reads, damaged: each kind makes an input in a folder, and names the commands that are to read it."""

from __future__ import annotations

import contextlib
import functools
import json
import random
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.machine import kernel_log
from rigbench.model import tokens

from . import inside, mutations

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
sys.path[:0] = [str(TESTS), str(TESTS / "wild")]
import pasted_rigs  # noqa: E402
import written_logs  # noqa: E402

STORED = TESTS / "runs" / "schema-1.json"
RIGS = [path.parent for name in ("rigs", "heat", "held_back") for path in sorted((TESTS / name).glob("*/rig.json"))]
Words = list[str | Path]
Make = Callable[[random.Random, Path], list[Words]]
NOT_ASKED = {"type": "absent", "reason": "not asked for"}
ALWAYS = ("type", "schema", "id", "started_at", "command", "look", "status", "rig", "software")
SHAPE = b"""name = "mine"
style = "llama"
layers = 12
width = 768
heads = 12
kv_heads = 4
ffn_width = 2048
vocabulary = 50304
sequence = 1024
tied_head = true
"""
CONFIG = {
    "model_type": "llama", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 32000,
    "num_key_value_heads": 4, "intermediate_size": 2048, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    "rope_scaling": {"factor": 2.0}, "head_dim": 64, "architectures": ["LlamaForCausalLM"],
}  # fmt: skip
MIXTURE = CONFIG | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
SETTINGS = b"""price = "0.30 EUR"
params = "120M"
place = "germany"
psu-watts = 850
[budget]
hours = 48
compile = true
optimizer = "adamw"
"""
KNOWN = b"""card,cards,model,precision,compiled,micro_batch,tokens_per_s
rtx-4090,1,gpt2,bf16,yes,16,150000
rtx-4090,2,gpt2,bf16,no,8,250000
rtx-3090,1,llama2.c-15M,bf16,yes,32,500000
"""
NCCL = b"""NCCL version 2.21.5+cuda12.4
node7:1801:1801 [0] NCCL INFO Bootstrap : Using eth0:10.0.0.7<0>
node7:1801:1801 [0] NCCL INFO NET/IB : No device found.
node7:1801:1801 [0] NCCL INFO Using network Socket
node7:1801:1801 [0] NCCL INFO NCCL_P2P_DISABLE set by environment to 1.
node7:1801:1801 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/read
node7:1801:1801 [0] NCCL INFO Channel 01/0 : 1[1] -> 0[0] [send] via NET/Socket/0
node7:1801:1801 [0] NCCL INFO Trees [0] 1/-1/-1->0->-1 [1] 1/-1/-1->0->-1
node7:1801:1801 [0] misc/shmutils.cc:113 NCCL WARN Error while creating shared memory segment /dev/shm/nccl-U (size 9)
"""
ON = ("rtx-4080", "2xrtx-4080", "h100-sxm", "cpu", "rtx-3060+rtx-4090", "nothing", "0xrtx-4080", "-1xrtx-4080", "")
QUANTITIES = (
    "120M", "1.5B", "1.2e18", "1.2EFLOP", "0.30 EUR", "48", "48h", "90d", "5%", "16GiB", "512MB", "1e400", "nan", "-5", "0",
    "9" * 5000, "1e308", "1,000", "1_000", "١٢", "²", "½", " 5 ", "5 5", "1e-400", "+1", ".5", "5.", "0x10", "inf", "1h30m",
    "1:30", "5M,15M,60M", "5M" * 900, "diy", "llama", "on", "off", "auto", "bf16", "gen4x8", "x8", "x0", "x99", "gen9x16",
)  # fmt: skip


@functools.cache
def documents() -> list[Any]:
    """Stored runs, each with one room or as it is; those that no file has are made from recorded rigs."""
    whole = [
        json.loads(path.read_bytes())
        for path in (STORED, *sorted(ROOT.glob("reports/*/*.json")), *sorted(TESTS.glob("runs/*/*.json")))
        if _is_run(path)
    ]
    home = Path(inside.os.environ["RIGBENCH_HOME"])
    for rig in RIGS:
        for name in ("topology", "thermals", "doctor"):
            inside.told("--replay", rig, name, "--home", home / "made")
    whole += [json.loads(path.read_bytes()) for path in sorted((home / "made" / "runs").glob("*.json"))]
    single: list[Any] = []
    for run in whole:
        rooms = [key for key in run if key not in ALWAYS and run[key] not in (NOT_ASKED, [], {})]
        single += [{key: run[key] for key in (*ALWAYS, room) if key in run} for room in rooms]
    return [it for it in (*single, *whole) if len(json.dumps(it)) < 200_000]


def _is_run(path: Path) -> bool:
    return b'"schema"' in path.read_bytes()[:200]


def run(chance: random.Random, folder: Path) -> list[Words]:
    file = folder / "runs" / "20260101-000000-abcd.json"
    file.parent.mkdir()
    changed = mutations.document(chance.choice(documents()), chance, chance.choice((1, 1, 2, 3, 8)))
    content = mutations.encoded(changed)
    file.write_bytes(content if chance.random() < 0.97 else mutations.text(content, chance, 1))
    views: list[Words] = [
        ["report", file], ["report", "--verbose", file], ["report", "--list"], ["report", file, "--format", "md"],
        ["report", file, "--format", "csv"], ["report", file, "--format", "openmetrics"], ["report", file, "--json"],
        ["report", file, "--format", "pytest-benchmark"], ["doctor", file], ["compare", STORED, file],
        ["fleet", file, STORED, STORED], ["backtest", "--summary"], ["report", file, "--quiet"],
        ["report", file, "--keep-disturbed"],
    ]  # fmt: skip
    if chance.random() < 0.05:  # the page takes as long as all others
        return [["report", file, folder / "page.html", "--html"]]
    return [["report", "--verbose", file], *chance.sample(views, 2)]


def capture(chance: random.Random, folder: Path) -> list[Words]:
    rig = folder / "rig"
    shutil.copytree(chance.choice(RIGS), rig)
    for name in chance.sample([path.name for path in sorted(rig.iterdir())], 1):
        content = (rig / name).read_bytes()
        if name.endswith(".json") and chance.random() < 0.8:
            content = mutations.encoded(mutations.document(json.loads(content), chance, chance.choice((1, 2, 5))))
        else:
            content = mutations.text(content, chance, chance.choice((1, 2, 5)))
        (rig / name).write_bytes(content)
    if chance.random() < 0.2:
        (rig / "kernel.txt").write_bytes(
            mutations.text((TESTS / "kernel" / "riser_new_words.txt").read_bytes(), chance, 3)
        )
    ways: list[Words] = [
        ["topology"],
        ["doctor"],
        ["thermals"],
        ["monitor"],
        ["topology", "-v"],
        ["capture", "-o", folder / "B"],
    ]
    return [["--replay", rig, *chance.choice(ways)]]


def model(chance: random.Random, folder: Path) -> list[Words]:
    if chance.random() < 0.5:
        file = folder / "mine.toml"
        file.write_bytes(mutations.text(SHAPE, chance, chance.choice((1, 2, 3))))
    else:
        file = folder / "config.json"
        config = mutations.document(chance.choice((CONFIG, MIXTURE)), chance, chance.choice((1, 2, 3)))
        file.write_bytes(
            mutations.encoded(config) if chance.random() < 0.9 else mutations.text(mutations.encoded(config), chance, 1)
        )
    if chance.random() < 0.15:
        return [["capacity", "--on", "rtx-4080", "--model", file]]
    return [["budget", "--on", chance.choice(ON[:3]), "--model", file]]


def profile(chance: random.Random, folder: Path) -> list[Words]:
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    file = chance.choice(sorted((folder / "profiles").rglob("*.toml")))
    file.write_bytes(mutations.text(file.read_bytes(), chance, chance.choice((1, 2, 3))))
    inside.os.environ["RIGBENCH_PROFILES"] = str(folder / "profiles")
    ways: list[Words] = [["profiles"], ["profiles", "check"], ["profiles", "rtx-4080"], ["profiles", "--json"]]
    if "rigs" in file.parts or "templates" in file.parts:
        return [["budget", "--on", file], chance.choice(ways)]
    return [chance.choice(ways)]


def settings(chance: random.Random, folder: Path) -> list[Words]:
    (folder / "rigbench.toml").write_bytes(mutations.text(SETTINGS, chance, chance.choice((1, 2, 4))))
    inside.os.chdir(folder)
    return [chance.choice([["config"], ["config", "budget"], ["config", "--json"]]), ["budget", "--on", "rtx-4080"]]


def log(chance: random.Random, folder: Path) -> list[Words]:
    writers = [it for it in vars(written_logs).values() if getattr(it, "__annotations__", {}).get("it") == "Training"]
    file = folder / chance.choice(("train.log", "train.csv", "log.txt", "metrics.jsonl", "trainer_state.json"))
    lines = chance.choice(writers)(written_logs.steady(steps=chance.choice((3, 40))))
    file.write_bytes(mutations.text("\n".join(lines).encode(), chance, chance.choice((1, 3, 10))))
    words: Words = ["backtest", STORED, file, "--model", "5M"]
    if chance.random() < 0.3:
        words = ["backtest", "--on", "rtx-4090", "--model", "120M", file]
    if chance.random() < 0.2:
        words += ["--tokens-per-step", chance.choice(QUANTITIES)]
    if chance.random() < 0.1:
        words += ["--columns", chance.choice(("step=iter", "ms=a,b=c", "=", "step", "tokens=loss", "x" * 9000))]
    if chance.random() < 0.1:
        words += ["--pattern", chance.choice(("(?P<step>\\d+)", "(", "(?P<ms>.*)", "", "(?P<step>a+)+b", "(?P<x>x)"))]
    return [words]


def known(chance: random.Random, folder: Path) -> list[Words]:
    (folder / "known.csv").write_bytes(mutations.text(KNOWN, chance, chance.choice((1, 2, 4))))
    return [["budget", "--on", "rtx-4090", "--params", "120M", "--known", folder / "known.csv"]]


def token_file(chance: random.Random, folder: Path) -> list[Words]:
    """No command reads one without starting a probe: what opens it is asked itself."""
    file = folder / "ids.bin"
    heads = (
        struct.pack("<256i", 20240520, 1, 2000, *[0] * 253), struct.pack("<256i", 20240801, 7, 2000, *[0] * 253),
        b"\x93NUMPY\x01\x00v\x00{'descr': '<u2', 'fortran_order': False, 'shape': (2000,), }" + b" " * 50 + b"\n", b"",
        b"LITPKDS" + struct.pack("<QBQ", 1, 8, 2000),
    )  # fmt: skip
    ids = struct.pack("<2000H", *(chance.randrange(50_000) for _ in range(2000)))
    content = bytearray(chance.choice(heads) + ids)
    for _ in range(chance.choice((0, 1, 4))):
        content[chance.randrange(min(len(content), 1100))] = chance.randrange(256)
    file.write_bytes(content[: chance.choice((len(content), len(content), len(content) - 1, 300, 7))])
    packed = {"type": "packed", "rigbench": "0", "made_at": "x", "file": "ids.bin", "dtype": "uint16", "tokens": 2000,
              "documents": 1, "tokenizer": "bytes", "tokenizer_sha256": "x", "vocabulary": 50_000, "largest_id": 7,
              "end_of_text": 1, "sources": ["a"], "source_bytes": 1, "bad_lines": 0, "cut_documents": 0}  # fmt: skip
    if chance.random() < 0.4:
        Path(f"{file}.json").write_bytes(mutations.encoded(mutations.document(packed, chance, 2)))
    index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 3, 4) + struct.pack("<3i", 500, 500, 1000) + bytes(24 + 32)
    if chance.random() < 0.3:
        (folder / "ids.idx").write_bytes(mutations.text(index, chance, 1))
    with contextlib.suppress(RigbenchError):
        tokens.open_all(file, chance.choice(("auto", "uint16", "uint32")), chance.choice((None, 50_304, 10)), 64)
    return []


def nccl(chance: random.Random, folder: Path) -> list[Words]:
    file = folder / "nccl.log"
    file.write_bytes(mutations.text(NCCL, chance, chance.choice((1, 3, 10))))
    return [["doctor", "--nccl-log", file, STORED]]


def pasted(chance: random.Random, folder: Path) -> list[Words]:
    cards = [
        pasted_rigs.Card(),
        pasted_rigs.Card(bus="02:00.0", name=chance.choice(list(mutations.TEXTS.values())[:4])),
    ]
    texts = [
        pasted_rigs.query(cards), pasted_rigs.query(cards, old=True), pasted_rigs.xml(cards), pasted_rigs.table(cards),
        "\tGPU0\tGPU1\nGPU0\t X \tPHB\nGPU1\tPHB\t X \n", NCCL.decode(),
    ]  # fmt: skip
    chosen = chance.sample(texts, chance.choice((1, 2)))
    content = "\n".join(chosen).encode(errors="surrogatepass")
    (folder / "smi.txt").write_bytes(mutations.text(content, chance, chance.choice((1, 3, 8))))
    rig = folder / "theirs"
    after: Words = ["--replay", rig, chance.choice(("topology", "doctor", "monitor"))]
    return [["capture", "-o", rig, "--from", folder / "smi.txt"], after]


@functools.cache
def _recording() -> bytes:
    file = Path(inside.os.environ["RIGBENCH_HOME"]) / "watched.jsonl"
    inside.told("--replay", TESTS / "rigs" / "dual-rtx4080s-throttling", "monitor", "--record", file, "--force")
    return file.read_bytes()


def recording(chance: random.Random, folder: Path) -> list[Words]:
    lines = [json.loads(line) for line in _recording().splitlines()]
    for _ in range(chance.choice((1, 2, 4))):
        at = chance.randrange(len(lines))
        lines[at] = mutations.document(lines[at], chance, 2)
    content = b"\n".join(map(mutations.encoded, lines)) + b"\n"
    file = folder / "watched.jsonl"
    file.write_bytes(content if chance.random() < 0.9 else mutations.text(content, chance, 2))
    return [["monitor", "--from", file, *chance.choice(([], ["--json"]))]]


def words(chance: random.Random, folder: Path) -> list[Words]:
    """Options and their values, known and not."""
    values = (*QUANTITIES, *mutations.TEXTS.values(), *ON)
    for parse in (units.parse_seconds, units.parse_bytes, units.parse_flops, units.parse_parameters, units.parse_count):
        with contextlib.suppress(RigbenchError):
            parse("".join(chance.choice((*"0123456789.,eE+- ", "M", "GiB", "h", "٣", "\n")) for _ in range(9)), "--x")
    names = (
        "--flops", "--tokens", "--tokens-per-param", "--hours", "--kwh", "--money", "--params", "--model", "--split",
        "--optimizer", "--compile", "--attention", "--program", "--known", "--price", "--wall-watts", "--on", "--link", "--p2p",
        "--home", "--set", "--x", "--seconds", "--label", "--prune", "--accept", "--because",
    )  # fmt: skip
    typed: Words = ["budget", "--on", chance.choice(ON)] if chance.random() < 0.6 else [
        chance.choice(("capacity", "config", "explain", "profiles", "report", "compare", "fleet", "backtest", "doctor", "x", "capture", "pack"))
    ]  # fmt: skip
    if typed[0] == "doctor":
        typed.append(STORED)
    for _ in range(chance.choice((1, 2, 3))):
        name, value = chance.choice(names), chance.choice(values).replace("\0", "")
        typed += [name, f"flops={value}" if name == "--set" else value] if chance.random() < 0.9 else [value or "x"]
    return [
        [
            it
            if isinstance(it, Path)
            else it.encode(errors="surrogateescape").decode(errors="surrogateescape")
            if _fits(it)
            else "x"
            for it in typed
        ]
    ]


def _fits(word: str) -> bool:
    try:
        word.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def home(chance: random.Random, folder: Path) -> list[Words]:
    """What lies in it besides runs."""
    shutil.copy(STORED, folder / "x.json")
    (folder / "runs").mkdir()
    shutil.copy(STORED, folder / "runs" / "20260101-000000-abcd.json")
    accepted = {"abc": {"pcie-slot": "why"}, json.loads(STORED.read_bytes())["rig"]["fingerprint"]: {"no-gpu": "why"}}
    (folder / "accepted.json").write_bytes(
        mutations.text(mutations.encoded(mutations.document(accepted, chance, 2)), chance, 0)
    )
    (folder / "index.sqlite").write_bytes(bytes(chance.randrange(256) for _ in range(chance.choice((0, 10, 5000)))))
    steps = {"type": "underway", "pid": 1, "boot": "x", "step": 1, "planned": []}
    (folder / "power-steps.json").write_bytes(mutations.encoded(mutations.document(steps, chance, 1)))
    return [["doctor", STORED], ["report", "--list"], ["--replay", RIGS[0], "doctor"]]


def kernel(chance: random.Random, folder: Path) -> list[Words]:
    for path in sorted((TESTS / "kernel").glob("*.txt")):
        lines = mutations.text(path.read_bytes(), chance, 10).decode(errors="replace").split("\n")
        list(kernel_log.Reader().read(lines))
    return []


# How often each is tried: what has most readers and forms oftenest.
KINDS: dict[Make, int] = {
    run: 30, capture: 14, log: 14, words: 8, profile: 5, model: 6, settings: 3, known: 3, token_file: 6, nccl: 3, pasted: 4,
    recording: 4, home: 2, kernel: 1,
}  # fmt: skip


def drawn(seed: int, number: int) -> tuple[Make, random.Random]:
    """The kind of an input and its own generator: each can be made again without those before it."""
    chance = random.Random(f"{seed}/{number}")
    return chance.choices(list(KINDS), list(KINDS.values()))[0], chance


def commands(seed: int, number: int, folder: Path) -> Iterator[Words]:
    make, chance = drawn(seed, number)
    for typed in make(chance, folder):
        yield typed if "--home" in typed else [*typed, "--home", folder]
