"""Are token files read as what they are, whoever wrote them, and named for what they are where they are none?"""

import gzip
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from rigbench.core.errors import RigbenchError
from rigbench.model.batches import Batches
from rigbench.model.tokens import open_all, open_tokens

IDS = np.random.default_rng(7).integers(256, 50_000, 3000)


def llm_c(ids, magic=20240520, version=1, dtype="<u2", said=None):
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(ids) if said is None else said
    return header.tobytes() + np.asarray(ids, dtype).tobytes()


def npy(ids, **how):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(ids), **how)
    return file.getvalue()


def megatron(folder, ids, code, dtype, sizes, version=1, name="corpus"):
    documents = len(sizes)
    pointers = np.concatenate([[0], np.cumsum(sizes)[:-1]]) * np.dtype(dtype).itemsize
    (folder / f"{name}.bin").write_bytes(np.asarray(ids, dtype).tobytes())
    (folder / f"{name}.idx").write_bytes(
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", version, code, len(sizes), documents + 1)
        + np.asarray(sizes, "<i4").tobytes()
        + pointers.astype("<i8").tobytes()
        + np.arange(documents + 1, dtype="<i8").tobytes()
    )
    return folder / f"{name}.bin"


@pytest.mark.parametrize(
    ("name", "content", "dtype", "layout"),
    [
        ("fineweb_train_000001.bin", llm_c(IDS), "uint16", "llm.c's shard (20240520)"),
        ("llama_000000.bin", llm_c(IDS + 70_000, 20240801, 7, "<u4"), "uint32", "llm.c's shard (20240801)"),
        ("edufineweb_000001.npy", npy(IDS.astype("<u2")), "uint16", "an .npy array"),
        ("ids.npy", npy(IDS.astype("<i4")), "int32", "an .npy array"),
        ("rows.npy", npy(IDS.astype("<i8").reshape(30, 100)), "int64", "an .npy array"),
        ("new.npy", npy(IDS.astype("<u4"), version=(2, 0)), "uint32", "an .npy array"),
        ("part.npy", IDS.astype("<u2").tobytes(), "uint16", "raw ids"),  # as OLMo writes them: the suffix lies
        ("train.bin", IDS.astype("<u2").tobytes(), "uint16", "raw ids"),
        ("wide.bin", IDS.astype("<i4").tobytes(), "uint32", "raw ids (read as uint16 every second id is 0)"),
        ("wider.bin", (IDS * 5).astype("<u4").tobytes(), "uint32", "raw ids (read as uint16 every second id is 0)"),
        ("widest.bin", IDS.astype("<i8").tobytes(), "int64", None),
        ("marked.bin", b"\xff" * 4 + IDS[2:].astype("<u2").tobytes(), "uint16", "raw ids"),  # as Arrow's streams begin
        ("letters.bin", (IDS % 65).astype("<u2").tobytes(), "uint16", "raw ids"),
        (
            "wide_letters.bin",
            (IDS % 65).astype("<i4").tobytes(),
            "uint32",
            "raw ids (read as uint16 every second id is 0)",
        ),
        ("widest_letters.bin", (IDS % 65).astype("<i8").tobytes(), "int64", None),
    ],
)
def test_a_file_of_ids_is_read_by_its_own_header_or_by_what_its_ids_look_like(tmp_path, name, content, dtype, layout):
    (tmp_path / name).write_bytes(content)
    ids, data = open_tokens(tmp_path / name, "auto", None, 64)
    made = {"llama_000000": IDS + 70_000, "wider": IDS * 5, "marked": np.concatenate([[65535, 65535], IDS[2:]])}
    expected = IDS % 65 if "letters" in name else made.get(name.partition(".")[0], IDS)
    assert np.array_equal(ids, expected)
    assert (data.tokens, data.dtype) == (3000, dtype)
    assert layout in (None, data.layout)


@pytest.mark.parametrize(("code", "dtype", "name"), [(4, "<i4", "int32"), (8, "<u2", "uint16"), (5, "<i8", "int64")])
@pytest.mark.parametrize("given", ["corpus.bin", "corpus.idx", "corpus"])
def test_a_megatron_file_has_the_type_and_length_of_its_index(tmp_path, code, dtype, name, given):
    megatron(tmp_path, IDS, code, dtype, [1000, 1500, 500])
    ids, data = open_tokens(tmp_path / given, "auto", 50_000, 64)
    assert np.array_equal(ids, IDS)
    assert (data.name, data.dtype, data.layout) == ("corpus.bin", name, "Megatron's file, 3 documents by its .idx")


def zipped(**files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.bin", llm_c(IDS, said=100_000), r"its header says 100,000 tokens, and 3,000 are there; it was cut short"),
        ("a.bin", llm_c(IDS, 20240326), r"begins with 20240326: a model's weights, not token ids"),
        ("a.bin", llm_c(IDS, 20251231), r"begins with 20251231: a header like llm.c's, of a kind that is not known"),
        ("a.npy", npy(IDS.astype("<f4")), r"\.npy file of <f4, which is read as no ids; `python -c"),
        ("a.npy", npy(IDS.astype(object)), r"\.npy file of \|O, which is read as no ids; write its ids to a file"),
        ("a.npy", npy(IDS.astype(">u2")), r"\.npy file of >u2, which is read as no ids"),
        ("a.npy", npy(IDS.astype("<u2"))[:-100], r"its header says 3,000 tokens, and 2,950 are there"),
        ("a.npy", b"\x93NUMPY\x01\x00\x10\x00{broken header!}\n", r"broken header"),
        (
            "a.bin.gz",
            gzip.compress(IDS.astype("<u2").tobytes(), mtime=0),
            r"is packed by gzip, not token ids; .*gunzip -k",
        ),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "x"}\n' * 99, mtime=0),
            r"is packed by gzip.*rigbench pack .* makes ids",
        ),
        ("a.bin.zst", b"\x28\xb5\x2f\xfd" + bytes(999), r"is packed by zstd, not token ids; .*zstd -d"),
        ("my a.parquet", b"PAR1" + bytes(999) + b"PAR1", r"is a Parquet file.*rigbench pack '.*my a.parquet' -o"),
        ("a.arrow", b"ARROW1\0\0" + bytes(999), r"is an Arrow file.*rigbench\[arrow\]"),
        ("a.arrow", b"\xff\xff\xff\xff\x70\x03\0\0\x10\0\0\0" + bytes(999), r"is a stream of Arrow records"),
        ("a.npz", zipped(arr_0__npy=b"x" * 99), r"is a zip \(numpy's .npz\?\)"),
        ("a.pt", zipped(**{"archive__data.pkl": b"x" * 99}), r"is a tensor that torch saved, .*torch.load"),
        ("a.pkl", pickle.dumps(IDS.tolist()), r"is what Python's pickle wrote, not token ids"),
        ("shard.00000.mds", b"\x05\0\0\0" + IDS.astype("<u2").tobytes(), r"is a shard of mosaicml-streaming"),
        ("a.idx", b"MMIDIDX\0\0" + bytes(999), r"is the index of a Megatron file, not token ids; give the .bin"),
        ("a.txt", b"Once upon a time, \xe2\x80\x9cthere\xe2\x80\x9d was a mat.\n" * 99, r"is text, not token ids"),
        ("a.jsonl", b'\xef\xbb\xbf{"text": "a"}\n' * 99, r"is text, not token ids; .*rigbench pack"),
    ],
)
def test_what_is_no_file_of_ids_is_named_with_the_command_that_converts_it(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RigbenchError, match=said) as caught:
        open_tokens(tmp_path / name, "auto", None, 64)
    assert caught.value.exit_code == 2
    assert caught.value.what_to_do


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sizes": [5000]}, r"corpus.idx says 5,000 tokens, and 3,000 are there"),
        ({"code": 7, "sizes": [3000]}, r"type code 7, which holds no ids"),
        ({"version": 2, "sizes": [3000]}, r"version 2, which holds no ids"),
    ],
)
def test_a_megatron_index_that_does_not_fit_is_refused(tmp_path, changes, said):
    path = megatron(tmp_path, IDS, **({"code": 4, "dtype": "<i4"} | changes))
    with pytest.raises(RigbenchError, match=said):
        open_tokens(path, "auto", None, 64)


@pytest.mark.parametrize(
    ("content", "asked", "said"),
    [
        (IDS.astype("<i4").tobytes(), "uint16", r"does not hold uint16 ids: read as uint16 every second id is 0"),
        (IDS.astype("<u2").tobytes(), "uint32", r"does not hold uint32 ids: .*half of them are beyond 1,048,576"),
        (llm_c(IDS), "uint32", r"is llm.c's shard \(20240520\) of uint16, and --data-dtype says uint32"),
        (IDS.astype("<i8").tobytes(), "uint32", r"does not hold uint32 ids: .* all but one are 0, so they are int64"),
    ],
)
def test_a_wrong_type_that_was_asked_for_is_recognised(tmp_path, content, asked, said):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(RigbenchError, match=said):
        open_tokens(tmp_path / "a.bin", asked, None, 64)


@pytest.mark.parametrize("given", ["", "fineweb_train_*.bin", "fineweb_*_00000?.bin"])
def test_a_folder_or_a_pattern_is_all_of_its_shards_without_those_for_validation(tmp_path, given):
    for number in range(3):
        (tmp_path / f"fineweb_train_{number:06}.bin").write_bytes(llm_c(IDS + number))
    if given != "fineweb_*_00000?.bin":
        (tmp_path / "fineweb_val_000000.bin").write_bytes(llm_c(IDS * 0))
    (tmp_path / "readme.md").write_text("hello")
    parts, data = open_all(tmp_path / given, "auto", 50_300, 64)
    assert (len(parts), data.tokens) == (3, 9000)
    assert data.layout == "3 files, each llm.c's shard (20240520)"
    with Batches(parts, data.dtype, 50_300, 512, 64, "cpu", data.name) as batches:
        rows = torch.cat([batches.next()[0] for _ in range(4)])
    seen = set()
    for row in rows.numpy():
        places = [(n, int(at)) for n in range(3) for at in np.flatnonzero(IDS[:-64] + n == row[0])]
        found = [place for place in places if np.array_equal(IDS[place[1] : place[1] + 64] + place[0], row)]
        assert len(found) == 1, "a window that is in none of the files, or spans two"
        seen.add(found[0][0])
    assert seen == {0, 1, 2}
    first, counted = open_tokens(tmp_path / given, "auto", None, 64)
    assert first.size == 3000
    assert counted.layout.startswith("fineweb_train_000000.bin, the first of 3 files")


@pytest.mark.parametrize(
    ("files", "given", "said"),
    [
        ({"a.parquet": b"PAR1"}, "", r"directory without token files \(it holds .parquet\)"),
        ({}, "", r"directory without token files \(it holds no files\)"),
        ({"a.bin": b""}, "b_*.bin", r"no file is like .*b_\*.bin"),
        ({"a.bin": llm_c(IDS), "b.bin": llm_c(IDS, 20240801, 7, "<u4")}, "", r"b.bin holds uint32 ids, and a.bin"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_read_as_one_is_refused(tmp_path, files, given, said):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RigbenchError, match=said):
        open_all(tmp_path / given, "auto", None, 64)


def test_a_shard_that_shrinks_is_no_crash(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.bin").write_bytes(llm_c(IDS))
    parts, data = open_all(tmp_path, "auto", 50_000, 64)
    (tmp_path / "b.bin").write_bytes(llm_c(IDS[:1000]))
    with (
        Batches(parts, data.dtype, 50_000, 64, 64, "cpu", "b.bin") as batches,
        pytest.raises(RigbenchError, match="shrank from 7,024 to 3,024 bytes"),
    ):
        batches.next()
