"""Every place where foreign text can stand, with every text that could do something to a terminal or a page."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from rigbench.core import progress
from rigbench.document import Run

from . import environments, inputs, inside
from .inputs import RIGS, STORED, TESTS, Words
from .mutations import TEXTS

Place = Callable[[Path, str], Iterator[Words]]
QUOTED = re.compile(r'"[^"\n]*"')
MARK = "a\x9bb"  # whether a place takes any text
REPORTS = ("report", "--verbose"), ("report",), ("doctor",), ("report", "--format", "md"), ("report", "--format", "csv")
OTHERS = ("report", "--format", "openmetrics"), ("report", "--format", "pytest-benchmark"), ("report", "--json")
LIVELY = ("topology",), ("topology", "--verbose"), ("doctor",), ("thermals",), ("monitor",), ("topology", "--json")


def _strings(it: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every text in a document but its types."""
    for key, value in list(it.items() if isinstance(it, dict) else enumerate(it) if isinstance(it, list) else ()):
        if isinstance(value, str) and key != "type":
            yield it, key
        yield from _strings(value)


def _told(document: Any, text: str, takes: Callable[[Any], bool]) -> Any:
    """The document with the text in all places that take it: those by the same name are tried together."""
    made = json.loads(json.dumps(document))
    by_name: dict[str, list[tuple[Any, Any]]] = {}
    for holder, key in _strings(made):
        by_name.setdefault(str(key) if isinstance(holder, dict) else "list", []).append((holder, key))
    for places in by_name.values():
        before = [holder[key] for holder, key in places]
        for holder, key in places:
            holder[key] = MARK
        fits = takes(made)
        for (holder, key), value in zip(places, before, strict=True):
            holder[key] = text if fits else value
    return made


def _is_run(document: Any) -> bool:
    try:
        msgspec.convert(document, Run)
    except (ValueError, TypeError):
        return False
    return True


def stored_run(folder: Path, text: str) -> Iterator[Words]:
    (folder / "runs").mkdir()
    for number, document in enumerate(inputs.documents()):
        file = folder / "runs" / f"2026{number:04}-000000-abcd.json"
        file.write_text(json.dumps(_told(document, text, _is_run) | {"id": document["id"]}))  # which is refused
        for way in (*REPORTS, *(OTHERS if number % 4 == 0 else ())):
            yield [*way, file]
        if number % 6 == 0:
            page = folder / "page.html"
            yield ["report", file, page, "--html"]
            assert not page.exists() or not (raw := inside.raw_in(page.read_text())), raw
            assert not page.exists() or "<script>alert(1)" not in page.read_text()
            assert not page.exists() or "<img src=x" not in page.read_text()
    yield from (
        ["report", "--list", "--all"],
        ["compare", STORED, file],
        ["fleet", folder / "runs"],
        ["backtest", "--summary"],
    )


def tables_keys(folder: Path, text: str) -> Iterator[Words]:
    """Names that are keys: throttle reasons, transports, environment variables."""
    for number, document in enumerate(inputs.documents()):
        made = json.loads(json.dumps(document))
        holders = [made]
        while holders:
            it = holders.pop()
            for _key, value in list(
                it.items() if isinstance(it, dict) else enumerate(it) if isinstance(it, list) else ()
            ):
                holders.append(value)
                if isinstance(value, dict) and value and "type" not in value and "schema" not in value:
                    before = dict(value)
                    value.clear()
                    value.update({f"{text}{place}": entry for place, entry in enumerate(before.values())})
                    if not _is_run(made):
                        value.clear()
                        value.update(before)
        file = folder / f"{number}.json"
        file.write_text(json.dumps(made))
        yield from ([*way, file] for way in REPORTS[:2])


def capture(folder: Path, text: str) -> Iterator[Words]:
    for number, rig in enumerate(RIGS):
        made = folder / str(number)
        shutil.copytree(rig, made)
        known = json.loads((rig / "rig.json").read_text())
        for holder, key in _strings(known):
            holder[key] = text
        known["rigbench_capture"] = 1
        known["note"] = "composed " + text
        (made / "rig.json").write_text(json.dumps(known))
        if "\n" not in text and '"' not in text:
            driver = (rig / "nvml.txt").read_text()
            (made / "nvml.txt").write_bytes(QUOTED.sub(lambda _: f'"{text}"', driver).encode(errors="surrogatepass"))
        lines = (TESTS / "kernel" / "riser_new_words.txt").read_text().splitlines()
        (made / "kernel.txt").write_bytes("\n".join(f"{it} {text}" for it in lines).encode(errors="surrogatepass"))
        (made / "files.json").write_text(
            json.dumps({"files": {"sys/block/sda/device/model": text, "sys/block/sda/size": "9"}})
        )
        yield from (["--replay", made, *way] for way in LIVELY)
        yield ["--replay", made, "capture", "-o", folder / f"{number}-again"]


def pci_names(folder: Path, text: str) -> Iterator[Words]:
    made = folder / "rig"
    shutil.copytree(next(rig for rig in RIGS if (rig / "pci.json").exists()), made)
    functions = json.loads((made / "pci.json").read_text())
    for function in functions.values():
        for holder, key in _strings(function):
            if key not in ("parent", "root"):
                holder[key] = text
    (made / "pci.json").write_text(json.dumps(functions | {text: next(iter(functions.values()))}))
    yield from (["--replay", made, *way] for way in LIVELY)


def profiles(folder: Path, text: str) -> Iterator[Words]:
    """A text of a profile, one file after another; a lone half of a character cannot stand in TOML."""
    quoted = json.dumps(text.encode(errors="replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")
    for name in ("gpus.toml", "prices.toml", "models.toml", "rigs/dual-rtx-4080-super.toml", "series/diy.toml"):
        source = inputs.ROOT / "profiles" / name
        if not source.exists():
            source = sorted((inputs.ROOT / "profiles").glob(f"{Path(name).parent}/*.toml"))[0]
        made = folder / "profiles" / source.relative_to(inputs.ROOT / "profiles")
        made.parent.mkdir(parents=True, exist_ok=True)
        for key in ("name", "source", "about", "notes", "place", "id"):
            made.write_text(re.sub(rf'(?m)^({key} = )".*"$', lambda it: it[1] + quoted, source.read_text(), count=2))
            os.environ["RIGBENCH_PROFILES"] = str(folder / "profiles")
            yield from (["profiles"], ["profiles", "--json"])
            if source.parent.name == "rigs":
                yield ["budget", "--on", made]
        made.unlink()


def model_file(folder: Path, text: str) -> Iterator[Words]:
    toml, config = folder / "m.toml", folder / "config.json"
    quoted = json.dumps(text.encode(errors="replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")
    toml.write_text(inputs.SHAPE.decode().replace('"mine"', quoted))
    yield from (["budget", "--on", "rtx-4080", "--model", toml], ["capacity", "--on", "rtx-4080", "--model", toml])
    toml.write_text(f"{quoted} = 1\n" + inputs.SHAPE.decode())
    yield ["budget", "--on", "rtx-4080", "--model", toml]
    for changed in ({"_name_or_path": text}, {"model_type": text}, {"hidden_act": text}, {"num_hidden_layers": text}):
        config.write_text(json.dumps(inputs.CONFIG | changed))
        yield ["budget", "--on", "rtx-4080", "--model", config]


def settings(folder: Path, text: str) -> Iterator[Words]:
    os.chdir(folder)
    quoted = json.dumps(text.encode(errors="replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")
    for line in (f"price = {quoted}", f"{quoted} = 1", f"[{quoted}]\nx = 1", f"params = {quoted}", f"home = {quoted}"):
        (folder / "rigbench.toml").write_text(line)
        yield from (["config"], ["config", "budget"], ["config", "--json"], ["budget", "--on", "rtx-4080"])
    (folder / "rigbench.toml").unlink()
    (folder / "rigbench.toml").write_bytes(text.encode(errors="surrogatepass"))
    yield ["config"]


def logs(folder: Path, text: str) -> Iterator[Words]:
    file, raw = folder / "a.csv", text.encode(errors="surrogatepass")
    for content in (
        b"step,%s,loss\n1,2,3\n2,3,4\n" % raw, b"step,time,loss\n1,%s,3\n2,%s,4\n" % (raw, raw), b"step 1 loss 2 %s\n" % raw * 9,
        b'{"step": 1, "x": "%s"}\n' % raw, raw,
    ):  # fmt: skip
        file.write_bytes(content)
        yield ["backtest", STORED, file, "--model", "5M"]
        yield ["backtest", "--on", "rtx-4090", "--model", "120M", file]
    nccl = folder / "nccl.log"
    nccl.write_bytes(inputs.NCCL.replace(b"eth0", raw).replace(b"node7", raw) + b"a NCCL WARN %s\n" % raw)
    yield ["doctor", "--nccl-log", nccl, STORED]
    known = folder / "known.csv"
    for word in (b"rtx-4090", b"gpt2", b"bf16", b"150000", b"model"):
        known.write_bytes(inputs.KNOWN.replace(word, raw))
        yield ["budget", "--on", "rtx-4090", "--params", "120M", "--known", known]


def pasted(folder: Path, text: str) -> Iterator[Words]:
    raw = text.encode(errors="surrogatepass")
    cards = [inputs.pasted_rigs.Card(name="NAME", uuid="GPU-UUID")]
    for number, form in enumerate((inputs.pasted_rigs.query, inputs.pasted_rigs.xml, inputs.pasted_rigs.table)):
        file, rig = folder / f"{number}.txt", folder / f"rig{number}"
        content = form(cards).encode().replace(b"NAME", raw).replace(b"550.54.14", raw).replace(b"GPU-UUID", raw)
        file.write_bytes(content)
        yield ["capture", "-o", rig, "--from", file]
        if rig.exists():
            yield from (["--replay", rig, *way] for way in LIVELY[:3])


def recording(folder: Path, text: str) -> Iterator[Words]:
    lines = [json.loads(line) for line in inputs._recording().splitlines()]
    for line in lines:
        for holder, key in _strings(line):
            holder[key] = text
    file = folder / "watched.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    yield from (["monitor", "--from", file], ["monitor", "--from", file, "--json"])


def home(folder: Path, text: str) -> Iterator[Words]:
    rig = json.loads(STORED.read_text())["rig"]["fingerprint"]
    (folder / "accepted.json").write_text(json.dumps({rig: {text: text, "no-gpu": text}}))
    yield ["doctor", STORED]


def file_names(folder: Path, text: str) -> Iterator[Words]:
    name = text.replace("/", "_").replace("\0", "_")[:80] or "x"
    try:
        name.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        name = os.fsdecode(b"a\xff\xfe\xed\xa0\x80b")
    mine = folder / name
    mine.mkdir()
    for words in (
        ["report"], ["doctor"], ["--replay", "@", "topology"], ["compare", "@"], ["fleet"], ["budget", "--on"], ["backtest", STORED],
        ["capacity", "--on", "rtx-4080", "--model"], ["monitor", "--from"], ["doctor", STORED, "--nccl-log"], ["config"], ["explain"],
        ["pack", "--tokenizer", "bytes", "-o", mine / "y.bin"], ["pack", STORED, "--tokenizer"], ["budget", "--known"],
    ):  # fmt: skip
        for suffix in (".json", ".toml", ".txt"):
            at = mine / f"{name}{suffix}"
            given = [it if it != "@" else at for it in words]
            yield given if "@" in words else [*given, at]
            at.write_text("x = [")
            yield given if "@" in words else [*given, at]
            at.unlink()
    yield ["topology", "--replay", RIGS[0], "--home", mine / "home"]
    yield ["report", "--home", mine / "home"]
    yield ["--replay", RIGS[0], "capture", "-o", mine / "captured"]
    yield ["report", STORED, mine / "page.html", "--html"]


def options(folder: Path, text: str) -> Iterator[Words]:
    text = text.replace("\0", "_")
    try:
        text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        text = os.fsdecode(b"a\xff\xed\xa0\x80b")
    names = (
        "--flops", "--tokens", "--hours", "--money", "--params", "--model", "--series", "--split", "--optimizer", "--compile",
        "--attention", "--program", "--known", "--price", "--wall-watts", "--link", "--p2p", "--set", "--device",
    )  # fmt: skip
    yield from (["budget", "--on", "rtx-4080", name, text] for name in names)
    yield from (
        ["budget", "--on", "rtx-4080", "--set", f"{key}={text}"] for key in (text or "x", "rent", "place", "loss")
    )
    yield from (
        [name, text] for name in ("report", "doctor", "explain", "profiles", "config", "compare", "fleet", "backtest")
    )
    yield from (
        ["report", STORED, text],
        ["report", STORED, "--label", text],
        ["report", "--prune", text],
        [text],
        ["--" + text],
    )
    yield from (
        ["doctor", STORED, "--accept", text, "--because", text],
        ["doctor", STORED, "--forget", text],
        ["budget", "--" + text],
    )
    yield from (
        [name, "--device", text] for name in ("matmul", "bandwidth", "p2p", "collectives", "train-probe", "dataloader")
    )
    yield from (
        ["train-probe", "--device", "cpu", name, text]
        for name in ("--data", "--model", "--precision", "--strategy", "--arms")
    )
    yield from (
        ["budget", "--on", text],
        ["capacity", "--on", text],
        ["budget", "--on", f"{text},{text}"],
        ["capacity", "--model", text],
    )
    yield from (
        ["report", STORED, "--format", text],
        ["profiles", "--template", text],
        ["compare", STORED, STORED, "--same-within", text],
    )


def environment(folder: Path, text: str) -> Iterator[Words]:
    text = text.replace("\0", "_")
    try:
        text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        text = os.fsdecode(b"a\xff\xed\xa0\x80b")
    before = dict(os.environ)
    for name in (
        "RIGBENCH_PROFILES", "CUDA_VISIBLE_DEVICES", "NCCL_DEBUG", "NCCL_P2P_LEVEL", "PYTORCH_CUDA_ALLOC_CONF", "TERM", "COLUMNS",
        "LANG", "TZ", "XDG_CONFIG_HOME", "OMP_NUM_THREADS", "HOME", "TMPDIR", "NO_COLOR", "RANK", "WORLD_SIZE", "RIGBENCH_HOME",
    ):  # fmt: skip
        os.environ[name] = text
        yield from (["budget", "--on", "rtx-4080"], ["--replay", RIGS[0], "topology"], ["report", STORED])
        os.environ.clear()
        os.environ.update(before)


def kernel_log(folder: Path, text: str) -> Iterator[Words]:
    """Of this machine, in lines of a GPU and of a disk."""
    line = text.replace("\n", " ").encode(errors="surrogatepass")
    (folder / "kernel.log").write_bytes(
        b"[ 100.000001] NVRM: Xid (PCI:0000:01:00): 79, pid=1234, name=%s, GPU has fallen off the bus.\n" % line
        + b"[ 101.000001] pcieport 0000:00:01.0: AER: Corrected error message received from %s\n" % line
        + b"[ 102.000001] nvme nvme0: I/O error %s, dev nvme0n1, sector 5\n%s\n" % (line, line)
    )
    os.environ["RIGBENCH_KERNEL_LOG"] = str(folder / "kernel.log")
    yield from (
        ["topology", "--json"],
        ["doctor"],
        ["doctor", "--json"],
        ["monitor", "--once", "--interval", "0.1s"],
        ["run", "--quick", "--device", "cpu"],
    )
    yield from (["report", "--verbose", file] for file in sorted(folder.glob("runs/*.json")))


def process_names(folder: Path, text: str) -> Iterator[Words]:
    """Of those that use a recorded card."""
    for number, rig in enumerate(it for it in RIGS if (it / "nvml.txt").exists()):
        made = folder / str(number)
        shutil.copytree(rig, made)
        for name in ("nvml.txt", "load.nvml.txt"):
            if (made / name).exists():
                driver = re.sub(
                    r"(RunningProcesses_v3 =) \d.*", r"\1 0 4711 1073741824 4712 5", (made / name).read_text()
                )
                (made / name).write_text(driver)
        files = {f"proc/{pid}/{name}": text for pid in (4711, 4712) for name in ("comm", "cmdline", "status", "stat")}
        (made / "files.json").write_text(json.dumps({"files": files}))
        yield from (["--replay", made, *way] for way in (*LIVELY, ("monitor", "--verbose"), ("monitor", "--json")))


def watched(folder: Path, text: str) -> Iterator[Words]:
    """What a watched program writes, which goes to the terminal as it is, is in nothing that rigbench says of it."""
    program, raw = folder / "train.py", text.encode(errors="surrogatepass")
    lines = b"number of parameters: 5M %s\n" % raw + b"%s: 9\nstep 3 loss nan %s\n" % (raw, raw)
    for form in (
        b"iter %d: loss 2.%%b, time 100ms\n",
        b"step %d %s 1.5 loss 2\n",
        b'{"step": %d, "%s": 1, "loss": "%s"}\n',
    ):
        filled = [form.replace(b"%d", b"%d" % step).replace(b"%s", raw).replace(b"%b", raw) for step in range(9)]
        lines += b"".join(filled)
    (folder / "lines").write_bytes(lines)
    program.write_text(f"import os, sys\nos.write(1, open({str(folder / 'lines')!r}, 'rb').read())\nsys.exit(3)\n")
    word = text.replace("\0", "_").encode(errors="replace").decode()
    kept, own = [os.dup(1), os.dup(2)], folder / "own"
    streams = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for path in (Path(os.devnull), own)]
    for fd, stream in enumerate(streams, start=1):
        os.dup2(stream, fd)
    try:
        for way in (["--json"], [], ["--tokens-per-step", "99"]):
            os.ftruncate(streams[1], 0)  # with --json, what the program writes stands there too
            yield ["watch", "--home", folder, *way, "--", sys.executable, program, word]
        yield ["watch", "--home", folder, "--", word or "x"]
    finally:
        for fd, before in enumerate(kept, start=1):
            os.dup2(before, fd)
        for fd in (*kept, *streams):
            os.close(fd)
        progress.stopping = False
    assert inside.raw_in(own.read_text(errors="replace").replace("\r\n", "\n")) == ""
    yield from (["report", "--verbose", file] for file in sorted(folder.glob("runs/*.json")))


def own_code(folder: Path, text: str) -> Iterator[Words]:
    """A program of one's own, in processes of its own: what it prints, and how it fails."""
    module = "import sys\nclass Hostile(Exception): pass\ndef make():\n    sys.stdout.write({0})\n    sys.stderr.write({0})\n"
    (folder / "hostile.py").write_text(
        module.format(ascii(text.encode(errors="replace").decode())) + f"    raise Hostile({text!a})\n"
    )
    os.chdir(folder)
    yield Real(["capacity", "--on", "rtx-4080", "--model", "hostile:make"])
    yield Real(["dataloader", "--device", "cpu", "--dataset", "hostile:make", "--seconds", "1"])
    yield Real(["train-probe", "--device", "cpu", "--arms", "one", "--model", "hostile:make"])


class Real(list[str | Path]):
    """Words of a command that needs a process of its own."""


PLACES: dict[str, Place] = {
    "every text of a stored run": stored_run, "names that are keys in a stored run": tables_keys, "every text of a capture": capture,
    "PCI functions of a capture": pci_names, "profiles": profiles, "models' files": model_file, "rigbench.toml": settings,
    "logs and CSV files": logs, "pasted text": pasted, "a recording of monitor": recording, "accepted findings": home,
    "this machine's kernel log": kernel_log, "names of processes": process_names, "what a watched program writes": watched,
    "a program of one's own": own_code, "names of files": file_names, "options and arguments": options, "the environment": environment,
}  # fmt: skip


def combination(place: str, text: str, scratch: Path, every: int = 1) -> tuple[int, list[str]]:
    """How many commands met this text in this place, and what each failure was. `every` third one alone, or so."""
    folder = scratch / "hostile"
    folder.mkdir()
    here, before = Path.cwd(), dict(os.environ)
    commands, failed = 0, []
    try:
        for number, typed in enumerate(PLACES[place](folder, TEXTS[text])):
            if number % every:
                continue
            words = typed if "--home" in typed else [*typed, "--home", folder]
            commands += 1
            if isinstance(typed, Real):
                python = [sys.executable, "-m", "rigbench", *map(os.fspath, words)]
                kind, trace = environments.end(python, os.environ | {"PYTHONPATH": str(inputs.ROOT)}).kind, ""
            else:
                told = inside.told(*words)
                kind, trace = told.kind, told.trace
            if kind:
                failed.append(f"{place} × {text}: {kind}: {typed}\n{trace}")
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder)
    return commands, failed


def tried(scratch: Path) -> int:
    """All of them."""
    commands, failures, began = 0, 0, time.monotonic()
    for place in PLACES:
        for text in TEXTS:
            done, failed = combination(place, text, scratch)
            commands, failures = commands + done, failures + len(failed)
            for line in failed[:2]:
                print(f"FAIL {line[:3000]}", flush=True)
        print(f"{place}: done after {time.monotonic() - began:.0f} s", flush=True)
    print(f"{failures} of {commands:,} commands failed or wrote raw text: {len(PLACES)} places × {len(TEXTS)} texts")
    return 1 if failures else 0
