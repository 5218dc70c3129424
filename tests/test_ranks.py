"""Do several ranks finish, fail, die, hang, never arrive and stop as one, each with its own last result?"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from fake_ranks import Options, Result

from rigbench.core.errors import RigbenchError
from rigbench.work import ranks
from rigbench.work.ranks import World, world_from


@pytest.fixture(autouse=True)
def the_fake_probe_can_be_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


def call(act: str, world_size: int = 2, limit_seconds: float = 60.0, who: int = 1, **more):
    options = Options(act=act, who=who, pid_folder=more.pop("pid_folder", ""))
    return ranks.call("fake_ranks", options, Result, world_size=world_size, limit_seconds=limit_seconds, **more)


def all_gone(folder: Path) -> bool:
    """Whether every rank and the child that it started have ended, within five seconds."""
    pids = [int(word) for file in folder.iterdir() for word in file.read_text().split()]
    for _ in range(100):
        alive = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        if not alive:
            return True
        time.sleep(0.05)
    return False


def test_every_rank_hands_over_its_own_result_and_rank_0_tells_the_progress():
    said = []
    outcome = call("finish", world_size=3, on_progress=lambda share, text: said.append((share, text)))
    assert outcome.results == tuple(Result(rank, "whole") for rank in range(3))
    assert (outcome.ended, outcome.dead_ranks, outcome.reason) == ("finished", (), "")
    assert said == [(0.1, "the first step")]


def test_a_rank_is_told_its_place_and_gets_its_own_environment():
    outcome = call("environment", environment={"COLOUR": "red"}, rank_environment=lambda rank: {"SHAPE": f"s{rank}"})
    assert [result.note for result in outcome.results] == ["0 2 0 127.0.0.1 red s0", "1 2 1 127.0.0.1 red s1"]


def test_a_refusal_of_one_rank_is_the_refusal_of_all():
    with pytest.raises(RigbenchError, match="no such operation; give another") as caught:
        call("refuse")
    assert caught.value.exit_code == 3


def test_a_rank_that_dies_is_named_and_every_rank_hands_over_what_it_had(tmp_path):
    outcome = call("die", world_size=3, pid_folder=str(tmp_path))
    assert outcome.results == tuple(Result(rank, "so far") for rank in range(3))
    assert (outcome.ended, outcome.dead_ranks) == ("died", (1,))
    assert outcome.reason == "rank 1: its process was killed, as the system does when memory runs out"
    assert all_gone(tmp_path)


def test_a_rank_that_fails_because_of_another_is_not_blamed():
    outcome = call("raise", who=0)
    assert (outcome.ended, outcome.dead_ranks) == ("died", (0,))
    assert outcome.reason == "rank 0: its process ended with code 1: ZeroDivisionError: one over none"


def test_a_rank_that_comes_no_further_is_named_and_all_are_ended(tmp_path):
    outcome = call("hang", world_size=3, limit_seconds=2.5, pid_folder=str(tmp_path))
    assert outcome.results == tuple(Result(rank, "so far") for rank in range(3))
    assert (outcome.ended, outcome.dead_ranks) == ("hung", (1,))
    assert outcome.reason.endswith("came no further: rank 1 at the first step")
    assert all_gone(tmp_path)


def test_a_frozen_rank_is_told_from_those_that_wait_for_it():
    outcome = call("freeze", limit_seconds=2.5)
    assert (outcome.ended, outcome.dead_ranks) == ("hung", (1,))
    assert outcome.reason.endswith("no longer runs at all: rank 1 at the first step")


def test_ranks_that_all_wait_alike_are_not_blamed_one_by_one():
    outcome = call("wait", limit_seconds=2.5)
    assert (outcome.ended, outcome.dead_ranks) == ("hung", ())
    assert outcome.reason.endswith("all of them had come to the second step")


def test_ctrl_c_lets_every_rank_hand_over_what_it_measured():
    threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    outcome = call("wait")
    assert outcome.results == (Result(0, "stopped"), Result(1, "stopped"))
    assert outcome.ended == "interrupted"


def test_a_parent_that_is_killed_leaves_no_rank_behind(tmp_path):
    code = (
        "from fake_ranks import Options, Result; from rigbench.work import ranks;"
        f"ranks.call('fake_ranks', Options('wait', pid_folder={str(tmp_path)!r}), Result, world_size=2,"
        " limit_seconds=60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not all((tmp_path / name).exists() for name in "01"):
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    assert all_gone(tmp_path)


def test_a_port_that_was_taken_meanwhile_is_replaced_by_another(monkeypatch):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        ports = iter([other.getsockname()[1]])
        free = ranks.free_port
        monkeypatch.setattr(ranks, "free_port", lambda: next(ports, None) or free())
        outcome = call("listen")
    assert outcome.results == (Result(0, "met"), Result(1, "met"))


def test_a_port_that_the_user_fixed_and_that_is_in_use_is_one_clear_line():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RigbenchError, match=f"port {port}, where the ranks are to meet, is in use") as caught:
            call("listen", master_port=port)
    assert caught.value.exit_code == 2


def test_a_process_knows_from_its_environment_whether_it_is_a_rank():
    told = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
    assert world_from(told) == World(3, 4, 1, "node0", 29500)
    assert world_from(World(3, 4, 1, "node0", 29500).environment) == World(3, 4, 1, "node0", 29500)
    assert world_from({"PATH": "/bin"}) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"MASTER_ADDR": ""}, "to be a rank, but MASTER_ADDR is not set; start it with torchrun"),
        ({"RANK": "first"}, "RANK is 'first', not a number; start it with torchrun"),
        ({"RANK": "2"}, "there is no rank 2 of 2 at port 29500"),
        ({"MASTER_PORT": "70000"}, "there is no rank 1 of 2 at port 70000"),
    ],
)
def test_a_world_that_makes_no_sense_is_one_clear_line(change, words):
    told = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
    with pytest.raises(RigbenchError, match=words):
        world_from({**told, **change})
