"""Tells what a file of token ids is: its header, its type, its length, and what it is instead where it is none.

Sources: llm.c, dev/data/data_common.py and llmc/dataloader.h (its shards, which modded-nanogpt reads too); Megatron-LM,
megatron/core/datasets/indexed_dataset.py (the .idx); numpy, numpy/lib/format.py; and each format's own magic number.
"""

from __future__ import annotations

import glob
import math
import re
import shlex
import struct
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rigbench.core.errors import RigbenchError
from rigbench.model.record import AskedDtype, Dtype

if TYPE_CHECKING:
    import numpy as np

ITEM_BYTES: dict[Dtype, int] = {
    "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
}  # fmt: skip
HEAD_BYTES = 1 << 20  # of a file, to tell what it is
SHARD_SUFFIXES = (".bin", ".npy", ".ds")
LLM_C_INTS = 256
LLM_C_BYTES = 4 * LLM_C_INTS
LLM_C: dict[int, Dtype] = {20240520: "uint16", 20240801: "uint32"}
LLM_C_OTHERS = {
    20240326: "a model's weights",
    20240327: "a training run's state",
    20240522: "an evaluation's questions",
}
MOST_ZEROS_BUT = 12  # numbers after an llm.c header's first three that may be in use
MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_TYPES: dict[int, Dtype] = {1: "uint8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
LARGEST_HIGH_HALF = 16  # ids below 2**20: no vocabulary is larger
FEWEST_PAIRS = 32
PACK = "`rigbench pack {name} -o tokens.bin` makes ids of its text"
ARROW_STREAM = re.compile(rb"\xff{4}...\0[\x04-\x40]\0{3}", re.DOTALL)  # its mark, length and root
# What a file begins with, what it is then, and what to do about it. {name} is for a shell, {stem} without its suffix.
MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "packed by gzip", "unpack it first: `gunzip -k {name}`"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", "unpack it first: `zstd -d {name}`"),
    (b"BZh", "packed by bzip2", "unpack it first: `bunzip2 -k {name}`"),
    (b"\xfd7zXZ\x00", "packed by xz", "unpack it first: `unxz -k {name}`"),
    (b"\x04\x22\x4d\x18", "packed by lz4", "unpack it first: `lz4 -d {name}`"),
    (b"PAR1", "a Parquet file", PACK + " (pip install 'rigbench[arrow]')"),
    (b"ARROW1\x00\x00", "an Arrow file", PACK + " (pip install 'rigbench[arrow]')"),
    (b"\xff\xff\xff\xff", "a stream of Arrow records", PACK + " (pip install 'rigbench[arrow]')"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "write its ids to a file: h5py's [:], then numpy's tofile"),
    (b"SQLite format 3\x00", "an SQLite database", "write its ids to a file with numpy's tofile"),
    (MEGATRON_MAGIC, "the index of a Megatron file", "give the .bin beside it"),
)  # fmt: skip
NUMPY_MAGIC = b"\x93NUMPY"


class Shard(NamedTuple):
    """A file of ids, `tokens` of them from `offset_bytes` on."""

    path: Path
    dtype: Dtype
    offset_bytes: int
    tokens: int
    layout: str  # "raw ids", "llm.c's shard": how that is known


def find(given: Path) -> list[Path]:
    """The files that a path, a folder, a pattern such as `fineweb_train_*.bin`, or Megatron's prefix stands for.

    Raises:
        RigbenchError: none.
    """
    if given.is_dir():
        files = sorted(file for file in given.iterdir() if file.suffix in SHARD_SUFFIXES and file.is_file())
        training = [file for file in files if "train" in file.name]
        if not files:
            there = sorted({file.suffix for file in given.iterdir() if file.is_file() and file.suffix})
            held = f"it holds {', '.join(there[:4])}" if there else "it holds no files"
            raise RigbenchError(f"{given} is a directory without token files ({held})", "give a .bin or .npy of ids")
        return training or files
    if given.exists():
        return [given.with_suffix(".bin") if given.suffix == ".idx" and given.with_suffix(".bin").exists() else given]
    if glob.has_magic(str(given)):
        if not (files := [Path(name) for name in sorted(glob.glob(str(given)))]):
            raise RigbenchError(f"no file is like {given}", "check the folder and the pattern")
        return [file for file in files if file.suffix != ".idx"] or files
    prefixed = Path(f"{given}.bin")
    return [prefixed if prefixed.exists() and Path(f"{given}.idx").exists() else given]


def recognised(path: Path, head: bytes, size_bytes: int, asked: AskedDtype) -> Shard:
    """What a file is, by its first bytes, what lies beside it, and what was asked for.

    Raises:
        RigbenchError: it is no file of ids, shorter than it says, or of another type than was asked for.
    """
    known = _megatron(path, size_bytes) or _llm_c(path, head, size_bytes) or _numpy(path, head, size_bytes)
    if known:
        if asked not in ("auto", known.dtype) and {asked, known.dtype} != {"int32", "uint32"}:
            what = f"{path.name} is {known.layout} of {known.dtype}, and --data-dtype says {asked}"
            raise RigbenchError(what, "leave --data-dtype out")
        return known
    _refuse_others(path, head)
    if asked == "auto":
        dtype, why = _raw_type(head)
    else:
        dtype, why = asked, ""
        believed = _raw_type(head, asked)
        if believed[0] != asked:
            what = f"{path.name} does not hold {asked} ids: {believed[1]}, so they are {believed[0]}"
            raise RigbenchError(what, "leave --data-dtype out")
    return Shard(path, dtype, 0, size_bytes // ITEM_BYTES[dtype], f"raw ids ({why})" if why else "raw ids")


def _raw_type(head: bytes, asked: Dtype = "uint16") -> tuple[Dtype, str]:
    """The narrowest type by which ids look like ids, and why it is not the one that was asked for."""
    import numpy as np

    usable = len(head) // 16 * 16
    halves = np.frombuffer(head[:usable], "<u2")
    low, high = halves[0::2], halves[1::2]
    if len(high) < FEWEST_PAIRS:
        return asked, ""
    small = bool(low.any() and not high.any())  # ids of bytes or letters
    wide = small or bool(high.max() < LARGEST_HIGH_HALF and low.max() >= 1 << 8)
    if wide and not low[1::2].any() and not high[1::2].any():
        return "int64", "" if asked == "int64" else f"read as {asked}, of every few ids all but one are 0"
    if wide:
        return ("uint32", "read as uint16 every second id is 0") if asked == "uint16" else (asked, "")
    if ITEM_BYTES[asked] == 4 and float(np.median(halves.view("<u4"))) >= LARGEST_HIGH_HALF << 16:
        return "uint16", f"read as {asked} half of them are beyond {LARGEST_HIGH_HALF << 16:,}"
    return asked, ""


def _llm_c(path: Path, head: bytes, size_bytes: int) -> Shard | None:
    if len(head) < LLM_C_BYTES:
        return None
    magic, version, tokens, *rest = struct.unpack_from(f"<{LLM_C_INTS}i", head)
    dated = 2020_01_01 <= magic <= 2039_12_31 and 1 <= magic // 100 % 100 <= 12 and 1 <= magic % 100 <= 31
    if not dated or not 0 <= version < 1000 or sum(map(bool, rest)) > MOST_ZEROS_BUT:
        return None
    if magic not in LLM_C:
        what = LLM_C_OTHERS.get(magic, "a header like llm.c's, of a kind that is not known here")
        cure = "give a shard of ids (20240520 is uint16, 20240801 is uint32)"
        raise RigbenchError(f"{path.name} begins with {magic}: {what}, not token ids", cure)
    there = (size_bytes - LLM_C_BYTES) // ITEM_BYTES[LLM_C[magic]]
    _check_length(path, "its header", tokens, there)
    return Shard(path, LLM_C[magic], LLM_C_BYTES, tokens, f"llm.c's shard ({magic})")


def _numpy(path: Path, head: bytes, size_bytes: int) -> Shard | None:
    if not head.startswith(NUMPY_MAGIC):
        return None
    import io

    import numpy as np

    file = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, kind = read(file)
    except (ValueError, KeyError, SyntaxError, tokenize.TokenError) as error:  # numpy parses it as Python
        raise RigbenchError(f"{path.name} is a .npy file with a broken header ({error})", "save it again") from None
    dtype = next((name for name in ITEM_BYTES if np.dtype(f"<{kind.kind}{kind.itemsize}") == np.dtype(name)), None) \
        if kind.kind in "iu" else None  # fmt: skip
    save = f"`python -c \"import numpy as np; np.load({str(path)!r}).astype('<u4').ravel().tofile('tokens.bin')\"`"
    save = save if kind.kind in "iufb" else "write its ids to a file with numpy's tofile"
    if dtype is None or kind.byteorder == ">" or (fortran and len(shape) > 1):
        order = " in column order" if fortran and len(shape) > 1 else ""
        raise RigbenchError(f"{path.name} is a .npy file of {kind.str}{order}, which is read as no ids", save)
    tokens = math.prod(shape)
    _check_length(path, "its header", tokens, (size_bytes - file.tell()) // ITEM_BYTES[dtype])
    return Shard(path, dtype, file.tell(), tokens, "an .npy array")


def _megatron(path: Path, size_bytes: int) -> Shard | None:
    """With the .idx beside a .bin: its type, and how many ids the sizes of its sequences add up to."""
    index = path.with_suffix(".idx")
    if path.suffix != ".bin" or not index.is_file():
        return None
    import numpy as np

    with index.open("rb") as file:
        head = file.read(34)
        if len(head) < 34 or not head.startswith(MEGATRON_MAGIC):
            return None
        version, code, sequences, documents = struct.unpack_from("<QBQQ", head, len(MEGATRON_MAGIC))
        cure = "write both again with the program that made them"
        if version != 1 or code not in MEGATRON_TYPES:
            what = f"version {version}" if version != 1 else f"type code {code}"
            raise RigbenchError(f"{index.name} is a Megatron index of {what}, which holds no ids that are known", cure)
        if index.stat().st_size < 34 + 12 * sequences:
            raise RigbenchError(f"{index.name} is cut short: it says {sequences:,} sequences", cure)
        tokens = int(np.fromfile(file, "<i4", sequences).sum(dtype=np.int64))
    dtype = MEGATRON_TYPES[code]
    _check_length(path, index.name, tokens, size_bytes // ITEM_BYTES[dtype])
    of = f"{max(0, documents - 1):,} documents"
    return Shard(path, dtype, 0, tokens, f"Megatron's file, {of} by its .idx")


def _check_length(path: Path, who: str, said: int, there: int) -> None:
    if said != there:
        raise RigbenchError(
            f"{path.name}: {who} says {said:,} tokens, and {max(there, 0):,} are there",
            "it was cut short or replaced: fetch or write it again",
        )


def _refuse_others(path: Path, head: bytes) -> None:
    name = shlex.quote(str(path))
    for magic, what, cure in MAGIC:
        if head.startswith(magic) and (magic != b"\xff\xff\xff\xff" or ARROW_STREAM.match(head)):
            if what.startswith("packed") and {".json", ".jsonl", ".ndjson", ".txt"}.intersection(path.suffixes):
                cure = PACK
            raise RigbenchError(f"{path.name} is {what}, not token ids", cure.format(name=name))
    if head.startswith(b"PK\x03\x04"):
        load = "torch.load({0!r}).numpy()" if b"data.pkl" in head[:256] else "numpy.load({0!r})['NAME']"
        how = f"`python -c \"import numpy, torch; {load.format(str(path))}.astype('<u4').tofile('tokens.bin')\"`"
        what = "a tensor that torch saved" if b"data.pkl" in head[:256] else "a zip (numpy's .npz?)"
        raise RigbenchError(f"{path.name} is {what}, not token ids", how)
    if path.suffix in (".pkl", ".pickle", ".mds"):  # whose first bytes could be ids
        what = "a shard of mosaicml-streaming" if path.suffix == ".mds" else "what Python's pickle wrote"
        raise RigbenchError(f"{path.name} is {what}, not token ids", "write its ids to a file with numpy's tofile")
    if head[257:262] == b"ustar":
        raise RigbenchError(f"{path.name} is a tar archive, not token ids", f"unpack it first: `tar xf {name}`")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < len(head) and b'"dtype"' in head[8:4096]:
        raise RigbenchError(f"{path.name} is a safetensors file, not token ids", "give a file of ids")
    if len(head) > 2 and is_text(head):
        raise RigbenchError(f"{path.name} is text, not token ids", PACK.format(name=name))


def is_text(head: bytes) -> bool:
    """UTF-8 without control characters, but for a character that is cut at the end."""
    if b"\0" in head:
        return False
    for cut in range(4):
        try:
            text = head[: len(head) - cut].decode()
            break
        except UnicodeDecodeError:
            continue
    else:
        return False
    return all(sign.isprintable() or sign.isspace() or sign == "\ufeff" for sign in text[:4096])


def summary(shards: Sequence[Shard]) -> str:
    """How they are laid out, in words."""
    first = shards[0]
    return first.layout if len(shards) == 1 else f"{len(shards):,} files, each {first.layout.partition(',')[0]}"


def mapped(shard: Shard) -> np.ndarray[Any, Any]:
    """A memory map of its ids, [tokens], read as unsigned: a negative id is then beyond every vocabulary."""
    import numpy as np

    whole = np.memmap(shard.path, np.uint8, mode="r")  # from the first byte on, so that a file that shrank is noticed
    item = ITEM_BYTES[shard.dtype]
    ids = whole[shard.offset_bytes : shard.offset_bytes + shard.tokens * item]
    return ids.view(f"<u{item}")
