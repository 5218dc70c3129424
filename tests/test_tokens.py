"""Are token files checked before anything trains on them, and are batches what they should be?"""

import numpy as np
import pytest
import torch

from rigbench.errors import RigbenchError
from rigbench.model import tokens
from rigbench.model.tokens import Batches, open_tokens, zipf_tokens


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
        (b"abc", "holds 3 bytes, not a whole number of uint16 ids"),
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
