"""Does doctor say what NCCL chose and why, of a log that somebody has?"""

import sys
import time

import pytest

from rigbench import __main__
from rigbench.core.errors import RigbenchError
from rigbench.doctor.nccl import diagnose

BEGIN = "node7:1801:1801 [0] NCCL INFO "
HEAD = f"NCCL version 2.21.5+cuda12.4\n{BEGIN}Bootstrap : Using eth0:10.0.0.7<0>\n"


def log(*lines):
    return HEAD + "".join(f"{BEGIN}{line}\n" for line in lines)


def channels(way, pairs=((0, 1), (1, 0)), count=4, sent=""):
    return [f"Channel {n:02}/0 : {a}[{a}] -> {b}[{b}] {sent}via {way}" for a, b in pairs for n in range(count)]


DISABLED = (
    "P2P is disabled between connected GPUs 1 and 0. You can repress this message with NCCL_IGNORE_DISABLED_P2P=1."
)


@pytest.mark.parametrize(
    ("text", "codes", "said"),
    [
        (log(*channels("P2P/CUMEM/read")), ["nccl-chose"], "P2P/CUMEM/read: 0 to 1 (4 channels), 1 to 0 (4 channels)"),
        (log(DISABLED, DISABLED, *channels("SHM/direct/direct")), ["nccl-chose", "nccl-no-p2p"],
         "NCCL: P2P is disabled between connected GPUs, GPU0-GPU1"),
        (log("NCCL_P2P_DISABLE set by environment to 1.", *channels("SHM/direct/direct")),
         ["nccl-chose", "nccl-setting"], "it takes P2P between cards away"),
        (log("NCCL_P2P_DISABLE set by environment to 0.", *channels("P2P/IPC")), ["nccl-chose"], "P2P/IPC: 0 to 1"),
        (log("NCCL_P2P_LEVEL set by environment to LOC", *channels("SHM/direct/direct")),
         ["nccl-chose", "nccl-setting"], "NCCL_P2P_LEVEL=LOC is in the environment"),
        (log("NCCL_P2P_LEVEL set by environment to SYS", *channels("P2P/CUMEM")), ["nccl-chose"], "NCCL_P2P_LEVEL=SYS"),
        (log("NET/IB : No device found.", "Using network Socket", *channels("NET/Socket/0", ((1, 8),), 2, "[send] ")),
         ["nccl-chose", "nccl-socket"], "NCCL: Using network Socket; NET/IB: no device found"),
        # one host: the network is chosen and never used
        (log("NET/IB : No device found.", "Using network Socket", *channels("P2P/CUMEM")), ["nccl-chose"], "network Sock"),
        (log("Using network IB", *channels("NET/IB/0/GDRDMA", ((1, 8),), 2, "[send] ")), ["nccl-chose"], "NET/IB/0/GDRDMA"),
        (HEAD.replace("INFO", "WARN") + "a:1:1 [0] misc/shmutils.cc:113 NCCL WARN Error while creating shared memory "
         "segment /dev/shm/nccl-UbzKZ9 (size 9637888)\n", ["nccl-shared-memory"], "a shared memory segment of 9,637,888"),
    ],
)  # fmt: skip
def test_what_nccl_chose_and_why_are_findings(text, codes, said):
    found = list(diagnose(text, "a.log"))
    assert [item.code for item in found] == codes
    assert any(said in line for item in found for line in item.evidence), [item.evidence for item in found]


@pytest.mark.parametrize("text", ["", "step 1\n", "NCCL is great\n"])
def test_a_log_without_nccl_is_refused(text):
    with pytest.raises(RigbenchError, match="holds no line of NCCL; run the training with NCCL_DEBUG=INFO"):
        list(diagnose(text, "a.log"))


def test_a_rig_of_which_only_an_nccl_log_is_known_is_diagnosed(tmp_path, monkeypatch, capsys):
    text = log("NCCL_P2P_DISABLE set by environment to 1.", *channels("SHM/direct/direct"),
               "comm 0x5 rank 0 nranks 2 cudaDev 0 nvmlDev 0 busId 1000 commId 0x7 - Init COMPLETE",
               "comm 0x6 rank 1 nranks 2 cudaDev 1 nvmlDev 1 busId 41000 commId 0x7 - Init COMPLETE")  # fmt: skip
    (tmp_path / "nccl.log").write_text(text)
    monkeypatch.setenv("RIGBENCH_HOME", str(tmp_path / "home"))

    def call(*typed):
        monkeypatch.setattr(sys, "argv", ["rigbench", *typed])
        code = __main__._run()
        return code, " ".join(capsys.readouterr().out.split())

    assert call("capture", "--from", str(tmp_path / "nccl.log"), "-o", str(tmp_path / "made"))[0] == 0
    code, shown = call("--replay", str(tmp_path / "made"), "doctor")
    assert code == 0
    assert "with a faster path that a setting keeps NCCL from" in shown
    assert "NCCL_P2P_DISABLE=1" in shown
    assert (tmp_path / "made/nvml.txt").read_text().count("PciInfo_v3") == 2
    assert '"00000000:41:00.0"' in (tmp_path / "made/nvml.txt").read_text()
    assert "10.0.0.7" not in (tmp_path / "made/nccl.txt").read_text()


def test_a_long_line_costs_its_length():
    def taken(length):
        text = log(
            "Channel 00/0 : " + "0" * length, "P2P is disabled between " * (length // 20), "NCCL_" + "A" * length
        )
        started = time.process_time()
        for _ in range(20):
            list(diagnose(text, "a.log"))
        return time.process_time() - started

    once, twice = (min(taken(length) for _ in range(2)) for length in (100_000, 200_000))
    assert twice < 3.5 * once + 0.05
