"""Are token files checked before anything trains on them, and are batches what they should be?"""

import os

import msgspec
import numpy as np
import pytest
import torch

from rigbench.core.errors import RigbenchError
from rigbench.model import tokens
from rigbench.model.batches import Batches
from rigbench.model.record import Packed
from rigbench.model.tokens import open_tokens, zipf_tokens


def write(path, ids, dtype="<u2"):
    path.write_bytes(np.asarray(ids, dtype=dtype).tobytes())
    return path


def test_a_good_file_is_mapped_and_named_without_its_folder(tmp_path):
    mapped, data = open_tokens(write(tmp_path / "good.bin", range(100)), "uint16", 100, 16)
    assert mapped.tolist() == list(range(100))
    assert (data.name, data.tokens, data.kind, data.dtype) == ("good.bin", 100, "file", "uint16")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"a\0c", "holds 3 bytes, not a whole number of uint16 ids"),
        (b"\x00\x00" * 16, "holds 16 tokens, fewer than one block of 17"),
    ],
)
def test_a_bad_file_gets_one_line_with_the_cure(tmp_path, content, said):
    path = tmp_path / "bad.bin"
    path.write_bytes(content)
    with pytest.raises(RigbenchError, match=said) as caught:
        open_tokens(path, "uint16", 100, 16)
    assert caught.value.exit_code == 2
    assert caught.value.what_to_do


def test_an_id_beyond_the_vocabulary_is_named_with_its_place(tmp_path):
    ids = [*range(99), 100, 99, 101]
    path = write(tmp_path / "ids.bin", ids)
    with pytest.raises(RigbenchError, match=r"has the id 100 at token 99, beyond the vocabulary of 100.*uint32"):
        open_tokens(path, "uint16", 100, 16)


def test_an_id_beyond_the_part_scanned_first_is_found_in_its_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "SCAN_BYTES", 64)
    path = write(tmp_path / "ids.bin", [0] * 64 + [500] * 64)
    mapped, data = open_tokens(path, "uint16", 100, 16)
    batches = Batches(mapped, "uint16", 100, 8, 16, "cpu", data.name)

    def draw() -> None:
        for _ in range(20):
            batches.next()

    with pytest.raises(RigbenchError, match="has the id 500"):
        draw()


def test_a_directory_a_missing_file_and_a_device_are_refused(tmp_path):
    with pytest.raises(RigbenchError, match="is a directory"):
        open_tokens(tmp_path, "uint16", 100, 16)
    with pytest.raises(RigbenchError, match="no such file"):
        open_tokens(tmp_path / "none.bin", "uint16", 100, 16)


def test_the_shortest_file_gives_its_only_block(tmp_path):
    mapped, data = open_tokens(write(tmp_path / "short.bin", range(17)), "uint16", 100, 16)
    inputs, targets = Batches(mapped, "uint16", 100, 2, 16, "cpu", data.name).next()
    assert inputs.tolist() == [list(range(16))] * 2
    assert targets.tolist() == [list(range(1, 17))] * 2
    assert inputs.dtype == torch.int64


def test_uint32_ids_are_read_as_such(tmp_path):
    path = write(tmp_path / "wide.bin", [70_000] * 20, "<u4")
    mapped, _ = open_tokens(path, "uint32", 70_001, 16)
    assert int(mapped.max()) == 70_000


def test_a_file_that_shrinks_while_it_is_scanned_is_an_error(tmp_path, monkeypatch):
    path = write(tmp_path / "ids.bin", [1] * 1000)
    monkeypatch.setattr(tokens, "SCAN_STEP_BYTES", 64)
    whole = tokens._read_into

    def shrinking(file, buffer):
        os.truncate(path, 512)
        return whole(file, buffer)

    monkeypatch.setattr(tokens, "_read_into", shrinking)
    with pytest.raises(RigbenchError, match="shrank while it was being read"):
        open_tokens(path, "uint16", 100, 16)


def packed_beside(path, **changes):
    facts = Packed(
        rigbench="0.1.0",
        made_at="2026-11-21T00:00:00Z",
        file=path.name,
        dtype="uint32",
        tokens=20,
        documents=1,
        tokenizer="tok.json",
        tokenizer_sha256="0" * 64,
        vocabulary=100,
        largest_id=99,
        end_of_text=0,
        sources=("a.txt",),
        source_bytes=80,
        bad_lines=0,
        cut_documents=0,
    )
    path.with_name(f"{path.name}.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(facts, **changes)))
    return path


def test_the_type_of_an_id_is_taken_from_the_document_beside_the_file(tmp_path):
    path = packed_beside(write(tmp_path / "p.bin", range(20), "<u4"))
    mapped, data = open_tokens(path, "auto", 100, 16)
    assert (mapped.tolist(), data.dtype) == (list(range(20)), "uint32")


@pytest.mark.parametrize(
    ("changes", "asked", "said"),
    [
        ({"tokens": 30}, "auto", "holds 20 tokens, and p.bin.json says 30; the file was cut short or replaced"),
        ({"vocabulary": 257}, "auto", "packed with tok.json, a vocabulary of 257, and the model has 100"),
        ({}, "uint16", "was packed as uint32, and --data-dtype says uint16; leave --data-dtype out"),
        (
            {"dtype": "uint16", "tokens": 40, "vocabulary": 4},
            "auto",
            "has the id 4 at token 8, beyond",
        ),
    ],
)
def test_a_file_that_is_not_what_its_document_says_is_refused(tmp_path, changes, asked, said):
    path = packed_beside(write(tmp_path / "p.bin", range(20), "<u4"), **changes)
    with pytest.raises(RigbenchError, match=said):
        open_tokens(path, asked, 4 if changes.get("vocabulary") == 4 else 100, 16)


@pytest.mark.parametrize("junk", [b"", b"{", b"[1]", b'{"type": "run"}', b"\xff"])
def test_a_document_that_describes_no_packed_file_is_refused_not_ignored(tmp_path, junk):
    path = write(tmp_path / "p.bin", range(20))
    path.with_name("p.bin.json").write_bytes(junk)
    with pytest.raises(RigbenchError, match=r"p.bin.json does not describe a packed file .*pack the file again"):
        open_tokens(path, "auto", 100, 16)


def test_generated_tokens_are_zipf_distributed_and_the_same_again(tmp_path):
    first, data = zipf_tokens(tmp_path, 50304)
    again, _ = zipf_tokens(tmp_path, 50304)
    assert np.array_equal(first, again)
    assert data.tokens == first.size == tokens.ZIPF_TOKENS
    counts = np.sort(np.bincount(first, minlength=50304))[::-1]
    expected = 1 / (np.arange(50304) + 1 + tokens.ZIPF_SHIFT)
    expected *= first.size / expected.sum()
    assert np.all(np.abs(counts[:50] - expected[:50]) < 5 * np.sqrt(expected[:50]))  # five Poisson deviations


def test_a_damaged_generated_file_is_made_again(tmp_path):
    zipf_tokens(tmp_path, 64)
    file = next(tmp_path.glob("zipf-*.bin"))
    file.write_bytes(b"\xff" * 10)
    made, _ = zipf_tokens(tmp_path, 64)
    assert int(made.max()) < 64
