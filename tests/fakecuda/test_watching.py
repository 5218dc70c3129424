"""Does a watch find the cards of a training that runs on them, and tell memory, watts, MFU and what it will cost?"""

from __future__ import annotations

from pathlib import Path

import pytest

PROGRAM = """
import time, torch
net = torch.nn.Linear(256, 256, device="cuda:0")
optimizer = torch.optim.AdamW(net.parameters())
print(f"number of parameters: {sum(p.numel() for p in net.parameters()) / 1e6:.2f}M")
print("tokens per iteration will be: 8,192", flush=True)
before = time.perf_counter()
for step in range(60):
    loss = net(torch.randn(64, 256, device="cuda:0")).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    time.sleep(0.1)
    now = time.perf_counter()
    print(f"iter {step}: loss {loss.item():.4f}, time {(now - before) * 1e3:.2f}ms, mfu 1.00%", flush=True)
    before = now
"""
STEPS, TOKENS, NOBODY = 60, 8192, 4194303
PEAK = 165.2e12  # NVIDIA Ada GPU architecture whitepaper, RTX 4090: bf16 with fp32 accumulate, dense
# Before the driver is asked: the card lists the process that the shell becomes.
START = f'sed -i s/{NOBODY}/$$/ "$FAKE_NVML_FILE"; exec "$0" train.py'


def test_a_training_on_one_of_four_cards(make_rig):
    rig = make_rig("epyc7502-4x4090")
    listed = "nvmlDeviceGetComputeRunningProcesses_v3"
    path = Path(rig.folder, "listed.txt")
    path.write_text(
        f"{Path(rig.variables['FAKE_NVML_FILE']).read_text()}\n"
        f"* {listed} = 0\n1 {listed} = 0 {NOBODY} {3 << 30}\n"
        "* nvmlDeviceGetPowerUsage = 0 250000\n"
    )
    rig.driver(path)
    Path(rig.folder, "train.py").write_text(PROGRAM)
    python = rig.command()[0]
    words = ["watch", "--json", "--tokens", str(STEPS * TOKENS), "--", "sh", "-c", START, python]
    done = rig.run(*words).ended(0)
    its = done.document["watched"]
    assert its["gpus"] == ["GPU1"]
    share = its["model_flops_share"]
    assert share["value"] == pytest.approx(6 * 70_000 * its["steps"]["rate"]["value"] / PEAK)
    assert "1 x the datasheet's bf16 peak" in share["basis"]
    told = its["forecasts"][-1]
    hours = told["whole_seconds"]["value"] / 3600
    assert abs(told["kwh"]["value"] - 0.25 * hours) < 0.01 * hours
    shown = rig.run("report").ended(0).out
    assert "GPU1" in shown
    assert "kWh" in shown
