"""Do the fake CUDA devices answer as CUDA would? Asked through torch itself, in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

SEEN = """
import json, torch
cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
facts = [[it.name, it.major, it.total_memory >> 20, it.L2_cache_size >> 20, str(it.uuid)[-1]] for it in cards]
print(json.dumps(facts))
"""
COPIED = """
import torch
there = torch.zeros(8, device="cuda:1")
there.copy_(torch.ones(8, device="cuda:0"))
print(there.sum().item())
"""


def asked(rig, code: str, **more: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-c", code]
    own = {"FAKECUDA_LOG": os.devnull}  # what such a program does is the test's doing, no hazard of rigbench's
    return subprocess.run(words, env=rig.variables | own | more, capture_output=True, text=True, check=False)


def seen(rig, **more: str) -> list:
    return json.loads(asked(rig, SEEN, **more).stdout)


def test_each_card_has_a_name_a_capability_memory_and_a_cache_of_its_own(rig):
    own = {"NAME": "RTX 4090,RTX 2080 Ti", "CAPABILITY": "8.9,7.5", "MEMORY_MIB": "24564,11264", "L2_MIB": "72,6"}
    found = seen(rig, **{f"FAKECUDA_{name}": value for name, value in own.items()})
    assert found == [["RTX 4090", 8, 24564, 72, "0"], ["RTX 2080 Ti", 7, 11264, 6, "1"]]


@pytest.mark.parametrize(
    ("asked_for", "uuids"),
    [
        ("1", "1"),
        ("1,0", "10"),
        ("", ""),
        ("-1", ""),
        ("0,-1,1", "0"),
        ("7", ""),
        ("1,7,0", "1"),
        ("0,0", ""),
        ("GPU-00000000-0000-0000-0000-000000000001", "1"),
        ("GPU-00000000-0000", ""),  # the beginning of both
        ("MIG-00000000-0000-0000-0000-000000000001", ""),
    ],
)
def test_visible_devices_are_counted_as_torch_counts_them(rig, asked_for, uuids):
    assert "".join(card[4] for card in seen(rig, CUDA_VISIBLE_DEVICES=asked_for)) == uuids


def test_memory_ends_with_the_error_that_torch_knows(rig):
    rig.variables["FAKECUDA_MEMORY_MIB"] = "512,16384"
    code = "import torch; torch.empty({} << 20, dtype=torch.uint8, device='cuda:{}')"
    assert "torch.OutOfMemoryError: CUDA out of memory" in asked(rig, code.format(200, 0)).stderr
    assert asked(rig, code.format(200, 1)).returncode == 0


def test_a_lost_card_fails_every_call_from_then_on_in_every_process_and_the_driver_says_so(rig, tmp_path):
    sign = tmp_path / "lost"
    rig.variables |= {"FAKECUDA_LOST": f"1 3 {sign}", "FAKE_NVML_LOST": f"1 {sign}"}
    code = "import torch\nfor _ in range(9): torch.ones(2, device='cuda:{}').sum().item()"
    assert asked(rig, code.format(0)).returncode == 0
    assert "CUDA error: unspecified launch failure" in asked(rig, code.format(1)).stderr
    assert sign.exists()
    assert "AcceleratorError" in asked(rig, "import torch; torch.ones(2, device='cuda:1')").stderr
    driver = "import pynvml as n; n.nvmlInit(); print(n.nvmlDeviceGetTemperature(n.nvmlDeviceGetHandleByIndex({}), 0))"
    assert asked(rig, driver.format(0)).stdout == "43\n"
    assert "GPU is lost" in asked(rig, driver.format(1)).stderr


@pytest.mark.parametrize(("peers", "arrived"), [("1", 0.0), ("0", 8.0)])
def test_p2p_that_loses_writes_changes_nothing_at_the_other_card(rig, peers, arrived):
    assert float(asked(rig, COPIED, FAKECUDA_P2P="loses", FAKECUDA_PEERS=peers).stdout) == arrived
