"""Do power steps, as a whole command on two cards, go through every rhythm, stop in time, and tell where it ended?"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

STEPS = ("thermals", "--power-steps", "--yes", "--step-seconds", "1s")
BOOT = "proc/sys/kernel/random/boot_id"


def booted(rig, name: str) -> None:
    path = Path(rig.variables["FAKE_SYSFS"], BOOT)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{name}\n")


def test_every_rhythm_on_both_cards(rig):
    done = rig.run(*STEPS).ended(0)
    warned, saved, *_ = done.err.splitlines()
    assert "all 2 devices go from idle to full and back every 5 s, then faster, down to every 0.2 s" in warned
    assert "may switch this machine off" in warned
    assert saved.startswith("rigbench: Save your work first")
    its = done.run.thermals
    assert (its.ended_by, its.devices) == ("finished", ("GPU0", "GPU1"))
    assert [step.period_seconds for step in its.steps] == [5.0, 2.0, 1.0, 0.5, 0.2]
    assert all(step.pulses for step in its.steps)
    assert not (rig.home / "power-steps.json").exists()


def test_without_somebody_to_ask_nothing_is_begun(rig):
    done = rig.run("thermals", "--power-steps").ended(2)
    assert "give --yes" in done.err
    assert not (rig.home / "power-steps.json").exists()


def test_a_card_over_its_limit_ends_it(rig):
    rig.edited((r"^1 nvmlDeviceGetPowerUsage = .*", "1 nvmlDeviceGetPowerUsage = 0 900000"))
    its = rig.run(*STEPS).ended(0).run.thermals
    assert its.ended_by == "safety stop"
    assert its.ended_because.startswith("GPU1 drew 900 W, over its limit of ")
    assert len(its.steps) == 1


def test_the_next_start_says_at_which_step_the_machine_went_down(rig):
    """Killed by -9 in the second rhythm, and another boot: as much as a machine that lost its power leaves."""
    booted(rig, "first")
    path = rig.home / "power-steps.json"
    process = subprocess.Popen(rig.command(*STEPS), env=rig.variables, cwd=rig.folder, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        if path.exists() and (under := json.loads(path.read_text()))["step"] == 1:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (under["step"], under["boot"], len(under["steps"])) == (1, "first", 1)
    booted(rig, "second")
    seen = rig.run("doctor").ended(1)
    assert seen.out.startswith("1 fault: went down when its GPUs went from idle to full")
    assert "in step 2 of 5" in seen.out
