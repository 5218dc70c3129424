"""Does text become exactly its ids, in memory that does not grow, with bad input named and nothing left behind?"""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from privileges import ordinary

from rigbench import __main__
from rigbench.core.errors import RigbenchError
from rigbench.core.progress import Silent
from rigbench.core.record import Absent
from rigbench.dataloader import packing
from rigbench.dataloader.record import PackOptions
from rigbench.model import text
from rigbench.model.record import Packed
from rigbench.model.tokens import open_tokens

END = 256


def pack(tmp_path, *sources, **how) -> tuple[list[int], Packed]:
    """Pack, and read back what was written with numpy alone."""
    output = tmp_path / "out.bin"
    packed = packing.run(sources, output, PackOptions(**how), Silent())
    ids = np.fromfile(output, "<u2" if packed.dtype == "uint16" else "<u4").tolist()
    beside = output.with_name("out.bin.json").read_bytes()
    assert msgspec.json.decode(beside, type=Packed) == packed
    assert packed.tokens == len(ids)
    assert packed.largest_id == max(ids)
    return ids, packed


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(path: Path, *texts: str, field: str = "text") -> Path:
    return write(path, "".join(json.dumps({"id": 1, field: one}) + "\n" for one in texts))


def words(tmp_path, extra=(), **ids: int) -> Path:
    """A tokenizer.json of whole words, written by hand."""
    document = {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": token, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False}
            for token, number in extra
        ],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": "unk"},
    }  # fmt: skip
    return write(tmp_path / "tok.json", json.dumps(document))


def test_a_text_file_is_one_document_of_its_bytes(tmp_path):
    content = "Grüße\nsecond line, no end"
    ids, packed = pack(tmp_path, write(tmp_path / "a.txt", content))
    assert ids == [*content.encode(), END]
    assert packed == Packed(
        rigbench=packed.rigbench,
        made_at=packed.made_at,
        file="out.bin",
        dtype="uint16",
        tokens=28,
        documents=1,
        tokenizer="bytes",
        tokenizer_sha256=Absent("bytes need no file"),
        vocabulary=257,
        largest_id=256,
        end_of_text=256,
        sources=("a.txt",),
        source_bytes=27,
        bad_lines=0,
        cut_documents=0,
    )


def test_sources_follow_each_other_with_an_end_after_every_document(tmp_path):
    first = jsonl(tmp_path / "a.jsonl", "ab", "", "c")
    second = write(tmp_path / "b.txt", "d\n")
    ids, packed = pack(tmp_path, first, second)
    assert ids == [97, 98, END, 99, END, 100, 10, END]
    assert (packed.documents, packed.sources) == (3, ("a.jsonl", "b.txt"))


def test_without_an_end_documents_touch(tmp_path):
    ids, packed = pack(tmp_path, jsonl(tmp_path / "a.jsonl", "ab", "c"), end_of_text="none")
    assert (ids, packed.vocabulary, packed.end_of_text) == ([97, 98, 99], 256, Absent("--eot none"))


def test_a_named_field_makes_any_source_jsonl(tmp_path):
    ids, _ = pack(tmp_path, jsonl(tmp_path / "dump", "ab", field="body.text"), field="body.text")
    assert ids == [97, 98, END]


def test_a_byte_order_mark_and_blank_lines_are_no_text(tmp_path):
    marked = write(tmp_path / "a.txt", b"\xef\xbb\xbfab")
    gaps = write(tmp_path / "b.jsonl", '\n  \n{"text": "c"}\n\n')
    assert pack(tmp_path, marked, gaps)[0] == [97, 98, END, 99, END]


def test_a_tokenizer_file_gives_the_ids_and_its_hash_is_kept(tmp_path):
    import hashlib

    pytest.importorskip("tokenizers")
    tokenizer = words(tmp_path, [("<|endoftext|>", 3)], unk=0, hello=1, world=2)
    ids, packed = pack(tmp_path, jsonl(tmp_path / "a.jsonl", "hello world", "world stranger"), tokenizer=str(tokenizer))
    assert ids == [1, 2, 3, 2, 0, 3]
    assert (packed.tokenizer, packed.vocabulary, packed.end_of_text, packed.dtype) == ("tok.json", 4, 3, "uint16")
    assert packed.tokenizer_sha256 == hashlib.sha256(tokenizer.read_bytes()).hexdigest()


def test_ids_beyond_16_bits_are_written_in_32(tmp_path):
    pytest.importorskip("tokenizers")
    tokenizer = words(tmp_path, unk=0, hello=70_000)
    source = jsonl(tmp_path / "a.jsonl", "hello unk")
    ids, packed = pack(tmp_path, source, tokenizer=str(tokenizer), end_of_text="unk")
    assert (ids, packed.dtype, packed.vocabulary) == ([70_000, 0, 0], "uint32", 70_001)
    with pytest.raises(RigbenchError, match="--dtype uint16 cannot hold the 70,001 ids"):
        pack(tmp_path, source, tokenizer=str(tokenizer), end_of_text="unk", dtype="uint16", force=True)


def test_what_was_packed_is_opened_with_its_own_type_and_vocabulary(tmp_path):
    pack(tmp_path, write(tmp_path / "a.txt", "x" * 100))
    tokens, data = open_tokens(tmp_path / "out.bin", "auto", 50304, 16)
    assert (tokens.size, data.dtype) == (101, "uint16")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"nope", r"is not JSON \("),
        (b'{"text": "cut', "is not JSON"),
        (b'{"body": "x"}', "has no field 'text'"),
        (b'{"text": 3}', "has int in the field 'text' instead of text"),
        (b'{"text": null}', "has null in the field 'text' instead of text"),
        (b'["x"]', "is array instead of an object"),
        (b'{"text": "\xff"}', "is not UTF-8"),
        (b'{"text": "' + b"x" * 200 + b'"}', "is longer than"),
        (b"[" * 100_000, "is array instead of an object"),
    ],
)
def test_a_bad_line_is_named_by_its_number_or_counted(tmp_path, monkeypatch, line, said):
    monkeypatch.setattr(text, "LONGEST_LINE_BYTES", 100 if b"xxx" in line else 1 << 20)
    source = write(tmp_path / "bad.jsonl", b'{"text": "a"}\n\n' + line + b'\n{"text": "b"}\n')
    with pytest.raises(RigbenchError, match=rf"bad.jsonl, line 3: {said}") as caught:
        pack(tmp_path, source)
    assert "--skip-bad" in caught.value.what_to_do
    assert caught.value.exit_code == 2
    assert os.listdir(tmp_path) == ["bad.jsonl"]
    ids, packed = pack(tmp_path, source, skip_bad=True)
    assert (ids, packed.bad_lines) == ([97, END, 98, END], 1)


@pytest.mark.parametrize(("junk", "said"), [(b"\x80\x81", "is not UTF-8 text"), (b"a\0b", "holds a NUL byte")])
def test_binary_junk_in_a_text_is_named_by_its_line(tmp_path, monkeypatch, junk, said):
    monkeypatch.setattr(text, "PIECE_BYTES", 8)
    source = write(tmp_path / "junk.txt", b"one\ntwo\nthree\n" + junk + b"\nfive\n")
    with pytest.raises(RigbenchError, match=f"junk.txt, line 4: {said}"):
        pack(tmp_path, source)
    ids, packed = pack(tmp_path, source, skip_bad=True)
    assert bytes(ids[:-1]) == b"one\ntwo\nthree\nfive\n"
    assert packed.bad_lines == 1


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1), st.integers(4, 40))
def test_a_text_read_in_pieces_is_the_same_text(tmp_path_factory, content, piece):
    source = write(tmp_path_factory.mktemp("pieces") / "a.txt", content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "PIECE_BYTES", piece)
        patch.setattr(text, "LONGEST_LINE_BYTES", 2 * piece)
        tally = text.Tally(skip_bad=False)
        pieces = list(text.text_pieces(source, tally))
    assert "".join(pieces) == content.removeprefix("\ufeff")
    assert tally.cut_documents == (len(pieces) > 1)


def test_bad_sources_and_outputs_are_refused_before_anything_is_read(tmp_path):
    good = write(tmp_path / "a.txt", "text")
    there = write(tmp_path / "there.bin", "old")
    refused = {
        (tmp_path / "none.txt", tmp_path / "o.bin"): "cannot read .*none.txt .no such file",
        (tmp_path, tmp_path / "o.bin"): "is a directory",
        (good / "x", tmp_path / "o.bin"): "cannot read .*not a directory",
        (write(tmp_path / "empty.txt", ""), tmp_path / "o.bin"): "empty.txt is empty",
        (write(tmp_path / "blank.jsonl", "\n\n"), tmp_path / "o.bin"): "the sources hold no text",
        (good, good): "is one of the sources",
        (good, tmp_path): "-o .* is a directory",
        (good, tmp_path / "no" / "o.bin"): "there is no folder",
        (good, there): "there.bin is there already; .* --force",
        (good, Path("/dev/null")): "/dev/null is not a regular file",
    }
    before = sorted(os.listdir(tmp_path)), there.read_text()
    for (source, output), said in refused.items():
        with pytest.raises(RigbenchError, match=said) as caught:
            packing.run([source], output, PackOptions(), Silent())
        assert caught.value.exit_code == 2
    assert (sorted(os.listdir(tmp_path)), there.read_text()) == before


def test_a_source_without_permission_is_refused(tmp_path):
    source = write(tmp_path / "a.txt", "text")
    source.chmod(0)
    with ordinary(), pytest.raises(RigbenchError, match="permission denied"):
        pack(tmp_path, source)


def test_bad_tokenizers_are_refused_with_the_cure(tmp_path, monkeypatch):
    source = jsonl(tmp_path / "a.jsonl", "x")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    tokenizer = str(words(tmp_path, unk=0))
    with pytest.raises(RigbenchError, match=r"not installed; pip install 'rigbench\[tokenizers\]'"):
        pack(tmp_path, source, tokenizer=tokenizer)
    monkeypatch.undo()
    pytest.importorskip("tokenizers")
    for how, said in {
        ("none.json", None): "--tokenizer: cannot read none.json .no such file or directory",
        (str(source), None): "a.jsonl is not a tokenizer.json",
        (tokenizer, None): "tok.json has no end-of-text token that I know; name the token with --eot",
        (tokenizer, "<end>"): "--eot '<end>': tok.json has no such token",
        ("bytes", "</s>"): "--eot '</s>': bytes have no such token",
    }.items():
        with pytest.raises(RigbenchError, match=said):
            pack(tmp_path, source, tokenizer=how[0], **{"end_of_text": how[1]} if how[1] else {})


def test_force_replaces_a_file_and_a_failure_leaves_the_old_one_whole(tmp_path):
    pack(tmp_path, write(tmp_path / "a.txt", "old"))
    before = {name: (tmp_path / name).read_bytes() for name in ("out.bin", "out.bin.json")}
    with pytest.raises(RigbenchError, match="line 1"):
        pack(tmp_path, write(tmp_path / "bad.jsonl", "nope"), force=True)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert pack(tmp_path, tmp_path / "bad.jsonl", tmp_path / "a.txt", force=True, skip_bad=True)[0] == [*b"old", END]
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "bad.jsonl", "out.bin", "out.bin.json"]


def test_a_disk_that_takes_no_more_is_one_line_and_nothing_is_left(tmp_path):
    source = write(tmp_path / "a.txt", "line\n" * 100_000)

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [sys.executable, "-m", "rigbench", "pack", str(source), "-o", str(tmp_path / "out.bin")],
        capture_output=True,
        text=True,
        preexec_fn=limited,
    )
    assert done.returncode == 2
    assert "out.bin (file too large) after" in done.stderr
    assert "left nothing of it; free space" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("rigbench: cannot write")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_one_line_and_nothing_is_left(tmp_path):
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root and mount namespaces")
    source, small = write(tmp_path / "a.txt", "line\n" * 100_000), tmp_path / "small"
    small.mkdir()
    script = (
        f"mount -t tmpfs -o size=256k none {small} && {sys.executable} -m rigbench pack {source} -o {small}/out.bin; "
        f"echo code $?; ls -A {small} | wc -l"
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["code", "2", "0"]
    assert "out.bin (no space left on device) after" in done.stderr


def test_the_disk_may_also_fill_up_with_the_document_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "encode", lambda packed: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(RigbenchError, match="no space left"):
        pack(tmp_path, write(tmp_path / "a.txt", "text"))
    assert os.listdir(tmp_path) == ["a.txt"]


def start_from_pipe(tmp_path) -> tuple[subprocess.Popen[str], int]:
    """Packing from a pipe, which gives as much as is written to it, and ends when we say so."""
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, "-m", "rigbench", "pack", str(pipe), "-o", str(tmp_path / "out.bin")],
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, os.open(pipe, os.O_WRONLY)


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    process, pipe = start_from_pipe(tmp_path)
    os.write(pipe, b'{"text": "so far"}\n' * 2000)
    for _ in range(100):
        if len(os.listdir(tmp_path)) == 3:  # the pipe and two files under way
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    os.close(pipe)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "rigbench: interrupted; nothing was written"
    assert os.listdir(tmp_path) == ["pipe.jsonl"]


def test_memory_does_not_grow_with_the_source(tmp_path):
    def peak_kib(megabytes: int) -> int:
        folder = tmp_path / str(megabytes)
        folder.mkdir()
        process, pipe = start_from_pipe(folder)
        block = json.dumps({"text": "word " * 2000}).encode() + b"\n"
        for _ in range(megabytes * 100):
            os.write(pipe, block)
        status = Path(f"/proc/{process.pid}/status").read_text()
        os.close(pipe)
        process.communicate(timeout=60)
        assert process.returncode == 0
        assert (folder / "out.bin").stat().st_size == megabytes * 100 * 2 * 10_001
        (folder / "out.bin").unlink()
        return int(status.partition("VmHWM:")[2].split()[0])

    small, large = peak_kib(10), peak_kib(100)
    assert large - small < 8 << 10  # ten times the text, 180 MB more of ids


def test_the_command_shows_what_it_wrote_and_json_is_the_document_beside_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", '{"text": "abc"}\nnope\n')

    def call(*typed: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rigbench", "pack", *typed])
        code = __main__._run()
        return (code, *capsys.readouterr())

    code, out, err = call("a.jsonl", "-o", "out.bin", "--skip-bad")
    assert (code, err) == (0, "")
    assert [line.rstrip() for line in out.splitlines()] == [
        "warn  pack: out.bin: 4 tokens of 1 document, uint16, 8 B",
        "  warn  left out: 1 bad line (--skip-bad)",
        "  from       a.jsonl: 21 B, 5.25 bytes a token",
        "  tokenizer  bytes, vocabulary 257, end of text 256, largest id 256",
        "  next       rigbench dataloader --data out.bin (how fast it loads)",
    ]
    code, out, err = call("a.jsonl", "-o", "out.bin", "--skip-bad", "--force", "--json")
    assert (code, out, err) == (0, (tmp_path / "out.bin.json").read_text(), "")
    code, out, err = call("a.jsonl", "-o", "out.bin")
    assert (code, out) == (2, "")
    assert err == "rigbench: out.bin is there already; name another file, or replace it with --force\n"
