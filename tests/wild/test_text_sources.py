"""Is text read as people have it: packed, marked, nested, separated, in columns; and is what is not read named?"""

import bz2
import gzip
import json
import lzma
import subprocess
import sys
import types

import numpy as np
import pytest

from rigbench.core.errors import RigbenchError
from rigbench.core.progress import Silent
from rigbench.dataloader import packing
from rigbench.dataloader.record import PackOptions
from rigbench.logs import source

END = 256
TEXTS = ["größe of\na fox", "a second", "the third"]
IDS = [id for text in TEXTS for id in [*text.encode(), END]]


def lines(key="text", end="\n", mark=b"", **others):
    return mark + "".join(json.dumps({"id": 1, key: text, **others}) + end for text in TEXTS).encode()


def nested(*names):
    def put(text):
        for name in reversed(names):
            text = {name: text, "score": 0.5}
        return text

    return "".join(json.dumps(put(text)) + "\n" for text in TEXTS).encode()


MORE = nested("a", "b").split(b"\n", 1)[1]


def pack(tmp_path, name, content, **how):
    (tmp_path / name).write_bytes(content)
    output = tmp_path / "out.bin"
    packed = packing.run([tmp_path / name], output, PackOptions(**how), Silent())
    return np.fromfile(output, "<u2").tolist(), packed


@pytest.fixture
def zstd(monkeypatch):
    """A stand-in for zstandard that reads frames of raw blocks, which is how `stored` writes them (RFC 8878)."""

    class ZstdError(Exception):
        pass

    class Frame:
        """As zstandard's decompressobj: `eof` where the frame has ended, `unused_data` what lies behind it."""

        def __init__(self):
            self.packed, self.eof, self.unused_data = b"", False, b""

        def decompress(self, packed):
            self.packed += packed
            if self.packed[4:5] not in (b"", b"\x20"):
                raise ZstdError("not a frame of one segment")
            at, last, content = 6, False, b""
            while not last:
                header = int.from_bytes(self.packed[at : at + 3], "little")
                last, end = bool(header & 1), at + 3 + (header >> 3)
                if len(self.packed) < max(end, at + 3):
                    return b""  # more must come
                content += self.packed[at + 3 : end]
                at = end
            self.eof, self.unused_data = True, self.packed[at:]
            return content

    class ZstdDecompressor:
        def decompressobj(self):
            return Frame()

    module = types.ModuleType("zstandard")
    module.ZstdDecompressor, module.ZstdError = ZstdDecompressor, ZstdError
    monkeypatch.setitem(sys.modules, "zstandard", module)
    monkeypatch.setitem(sys.modules, "compression", None)  # Python 3.14's own


def stored(content):
    """A zstd frame of one raw block: magic, one segment, its size in a byte (of which nobody here looks), blocks."""
    return b"\x28\xb5\x2f\xfd\x20\x00" + (len(content) << 3 | 1).to_bytes(3, "little") + content


@pytest.mark.parametrize(
    ("name", "content", "how"),
    [
        ("a.jsonl", lines(), {}),
        ("marked.jsonl", lines(mark=b"\xef\xbb\xbf"), {}),
        ("windows.jsonl", lines(end="\r\n"), {}),
        ("dump.jsonl.gz", gzip.compress(lines(), mtime=0), {}),
        ("parts.json.gz", gzip.compress(lines()[:9], mtime=0) + gzip.compress(lines()[9:], mtime=0), {}),
        ("dump.jsonl.bz2", bz2.compress(lines()), {}),
        ("dump.ndjson.xz", lzma.compress(lines(mark=b"\xef\xbb\xbf")), {}),
        ("nested.jsonl", nested("data", "text"), {"field": "data.text"}),
        ("deep.jsonl", nested("a", "b", "c"), {"field": "a.b.c"}),
        ("dotted.jsonl", lines("data.text"), {"field": "data.text"}),
        ("mixed.jsonl", lines("a.b")[: len(lines("a.b").split(b"\n")[0]) + 1] + MORE, {"field": "a.b"}),
        ("stories.txt", b"\n<|endoftext|>\n".join(text.encode() for text in TEXTS), {"separator": "<|endoftext|>"}),
        ("ended.txt", b"".join(text.encode() + b"\n<|eos|>\r\n" for text in TEXTS), {"separator": "<|eos|>"}),
        ("marked.txt", b"\xef\xbb\xbf" + "@@".join(TEXTS).encode(), {"separator": "@@"}),
        ("stories.txt.gz", gzip.compress("@@".join(TEXTS).encode(), mtime=0), {"separator": "@@"}),
    ],
)
def test_every_document_is_packed_whatever_holds_it(tmp_path, name, content, how):
    ids, packed = pack(tmp_path, name, content, **how)
    assert ids == IDS
    assert (packed.documents, packed.bad_lines, packed.unsplit) == (3, 0, ())


@pytest.mark.usefixtures("zstd")
def test_zstd_is_read_by_pack_and_by_backtest_where_its_library_is(tmp_path):
    assert pack(tmp_path, "dump.jsonl.zst", stored(lines()[:30]) + stored(lines()[30:]))[0] == IDS
    assert source.text_of(stored(b"step 1 | 250 ms\n"), "a.log.zst") == "step 1 | 250 ms\n"
    with pytest.raises(RigbenchError, match=r"cannot be unpacked .it ends within a frame.*cut short"):
        pack(tmp_path, "cut.jsonl.zst", stored(lines())[:-9], force=True)
    with pytest.raises(RigbenchError, match=r"a.log.zst is cut short"):
        source.text_of(stored(lines())[:-9], "a.log.zst")
    broken = stored(lines()).replace(b"\x20", b"\x21", 1)
    with pytest.raises(RigbenchError, match=r"cannot be unpacked .*zstd: not a frame"):
        source.text_of(broken, "a.log.zst")


def test_without_its_library_zstd_is_named_with_two_cures(tmp_path, monkeypatch):
    for module in ("zstandard", "compression"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RigbenchError, match=r"packed by zstd.*`zstd -d a.jsonl.zst`, or pip install 'rigbench\[z"):
        pack(tmp_path, "a.jsonl.zst", stored(lines()))


ARRAY = json.dumps([{"text": text} for text in TEXTS])


@pytest.mark.parametrize(
    ("name", "content", "how", "said"),
    [
        ("a.json", ARRAY, {}, r"line 1: an array begins, and JSONL has an object a line; `jq -c '.\[\]' .*a.json > "),
        ("a.json", json.dumps([{"text": "a"}], indent=1), {}, r"line 1: an array begins.*jq -c"),
        (
            "a.json",
            json.dumps({"text": "a"}, indent=1),
            {},
            r"line 1: a document over several lines begins; `jq -c ",
        ),
        ("a.jsonl", '{"text": "a"}\n[1]\n', {}, r"line 2: is array instead of an object"),
        (
            "a.jsonl",
            lines("content"),
            {},
            r"has no field 'text' \(fields: content, id\); name one, as --field content",
        ),
        ("a.jsonl", nested("data", "text"), {}, r"has no field 'text' \(fields: data.text, score\).*--field data.text"),
        ("a.jsonl", nested("data", "body"), {"field": "data.text"}, r"no field 'data.text' \(fields: data.body"),
        ("a.jsonl", '{"n": 1}\n', {}, r"has no field 'text' \(fields: n\); mend that line"),
        ("a.jsonl", '{"data": {"text": 5}}\n', {"field": "data.text"}, r"has int in the field 'data.text'"),
        ("a.jsonl", '{"data": "text"}\n', {"field": "data.text"}, r"has str in the field 'data.text'"),
        ("a.jsonl", lines().decode().encode("utf-16"), {}, r"is UTF-16; `iconv -f UTF-16 -t UTF-8 .*a.jsonl`"),
        ("a.txt", "ab".encode("utf-16-be").join([b"\xfe\xff", b""]), {}, r"is UTF-16; `iconv"),
        ("a.jsonl.gz", gzip.compress(lines(), mtime=0)[:-12], {}, r"cannot be unpacked .*damaged or cut short"),
        ("a.jsonl.gz", b"\x1f\x8b\x08" + bytes(99), {}, r"cannot be unpacked .*damaged or cut short"),
        ("a.jsonl.xz", lzma.compress(lines())[:40] + bytes(40), {}, r"cannot be unpacked .*damaged or cut short"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_command_that_mends_it(tmp_path, name, content, how, said):
    with pytest.raises(RigbenchError, match=said) as caught:
        pack(tmp_path, name, content if isinstance(content, bytes) else content.encode(), **how)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out.bin").exists()


def test_the_command_that_is_named_for_an_array_does_what_it_says(tmp_path):
    (tmp_path / "a.json").write_text(ARRAY)
    script = "import json, sys\nfor one in json.load(open(sys.argv[1])): print(json.dumps(one))"  # as `jq -c '.[]'`
    turned = subprocess.run([sys.executable, "-c", script, tmp_path / "a.json"], capture_output=True, check=True).stdout
    assert pack(tmp_path, "a.jsonl", turned)[0] == IDS


def test_an_end_of_text_within_plain_text_is_said_with_its_count(tmp_path, capsys, monkeypatch):
    from rigbench import __main__

    (tmp_path / "s.txt").write_text("one.\n<|endoftext|>\n" * 19)
    typed = ["pack", str(tmp_path / "s.txt"), "-o", str(tmp_path / "s.bin"), "--quiet"]
    monkeypatch.setattr(sys, "argv", ["rigbench", *typed])
    assert __main__._run() == 0
    assert "<|endoftext|> 19 times: --separator '<|endoftext|>'" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("piece", [1, 7, 64])
def test_a_separator_is_found_across_pieces_and_a_long_document_is_cut(tmp_path, monkeypatch, piece):
    monkeypatch.setattr("rigbench.model.text.PIECE_BYTES", piece)
    ids, packed = pack(tmp_path, "s.txt", "\n--##--\n".join(TEXTS).encode(), separator="--##--")
    assert ids == IDS
    assert packed.documents == 3


def columns(monkeypatch, rows, names):
    """A stand-in for pyarrow with the calls that are used of it."""

    class Batch:
        def column(self, name):
            return types.SimpleNamespace(to_pylist=lambda: [row[names.index(name)] for row in rows])

    class ParquetFile:
        schema_arrow = types.SimpleNamespace(names=names)

        def __init__(self, path):
            assert path.read_bytes().startswith(b"PAR1")

        def iter_batches(self, batch_size, columns):
            return iter([Batch(), Batch()])

    whole = types.SimpleNamespace(schema=schema(names), num_record_batches=2, get_batch=lambda number: Batch())

    class Stream(list):
        schema = schema(names)

    arrow, ipc, parquet = (types.ModuleType(name) for name in ("pyarrow", "pyarrow.ipc", "pyarrow.parquet"))
    arrow.ArrowException, arrow.memory_map = type("ArrowException", (Exception,), {}), lambda path: path
    ipc.open_file, ipc.open_stream = lambda file: whole, lambda file: Stream([Batch(), Batch()])
    parquet.ParquetFile = ParquetFile
    arrow.ipc, arrow.parquet = ipc, parquet
    for module in (arrow, ipc, parquet):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def schema(names):
    return types.SimpleNamespace(names=names)


@pytest.mark.parametrize("magic", [b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff\x80\0\0\0\x10\0\0\0"])
def test_a_column_of_parquet_or_arrow_is_its_documents(tmp_path, monkeypatch, magic):
    columns(monkeypatch, [(1, text) for text in [*TEXTS, "", None]], ["id", "content"])
    assert pack(tmp_path, "a.parquet", magic + bytes(99), field="content")[0] == [*IDS, *IDS]
    with pytest.raises(RigbenchError, match=r"no column 'text' \(columns: id, content\); name one with --field"):
        pack(tmp_path, "a.parquet", magic + bytes(99), force=True)
    with pytest.raises(RigbenchError, match=r"has int in the column 'id' instead of text"):
        pack(tmp_path, "a.parquet", magic + bytes(99), field="id", force=True)


def test_without_pyarrow_a_parquet_file_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RigbenchError, match=r"is a Parquet or Arrow file.*pip install 'rigbench\[arrow\]'"):
        pack(tmp_path, "a.parquet", b"PAR1" + bytes(99))
