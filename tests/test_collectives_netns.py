"""Do several hosts measure their links truly? Real ranks in network namespaces, with bandwidths that tc has set."""

import json
import subprocess
import sys
from pathlib import Path

import network as namespaces
import pytest

GIGABIT, SLOW = 1e9 / 8, 200e6 / 8  # bytes/s that a cable lets out
PAYLOAD_BYTES, FRAME_BYTES = 1448, 1514  # TCP with timestamps over IPv4, in an Ethernet frame


@pytest.fixture(autouse=True, scope="module")
def namespaces_are_allowed():
    namespaces.skip_without_namespaces()


@pytest.fixture
def network():
    with namespaces.made() as found:
        yield found


def collectives(home: Path, *more: str) -> list[str]:
    return ["collectives", "--device", "cpu", "--json", "--home", str(home), "--limit", "90s", *more]


def document(done: list[subprocess.CompletedProcess]) -> dict:
    """Rank 0's document; the others must have said nothing and ended alike."""
    assert [it.returncode for it in done] == [0] * len(done), [it.stderr for it in done]
    assert [it.stdout for it in done[1:]] == [""] * (len(done) - 1)
    return json.loads(done[0].stdout)["collectives"]


def on_the_cable(bytes_per_s: float) -> float:
    """What a rate of messages takes of a cable: tbf counts whole frames."""
    return bytes_per_s * FRAME_BYTES / PAYLOAD_BYTES


def links(found: dict) -> dict[tuple[int, int], float]:
    """What each way between two hosts takes of its cable."""
    return {(it["source"], it["destination"]): on_the_cable(it["bytes_per_s"]["value"]) for it in found["host_links"]}


def the_rate(bytes_per_s: float):
    return pytest.approx(bytes_per_s, rel=0.1)


def test_two_hosts_under_torchrun_recover_the_gigabit_and_the_200_megabit_that_were_set(network, tmp_path):
    network.add_host("anna", GIGABIT)
    network.add_host("bert", SLOW)
    # More sizes and seconds than a quiet machine needs: a busy one scatters the small ones, and four must be on a line.
    sizes = "8,64,512,4KiB,1MiB,2MiB,4MiB"
    words = collectives(tmp_path, "--ops", "broadcast,reduce", "--sizes", sizes, "--seconds", "9s")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    meeting = ["--master-addr", "10.77.0.1", "--master-port", "29400"]
    commands = [[*torchrun, "--node-rank", rank, *meeting, "-m", "rigbench", *words] for rank in "01"]
    found = document(network.run(commands, [{}, {}]))
    assert [host["name"] for host in found["hosts"]] == ["anna", "bert"]
    assert [place["ways"]["counts"] for place in found["ranks"]] == [
        {"eth0 10.77.0.1 to 10.77.0.2": 1},
        {"eth0 10.77.0.2 to 10.77.0.1": 1},
    ]
    lines = {one["operation"]: on_the_cable(one["fit"]["bytes_per_s"]["value"]) for one in found["operations"]}
    assert lines == {"broadcast": the_rate(GIGABIT), "reduce": the_rate(SLOW)}  # from anna, and to her
    assert links(found) == {(0, 1): the_rate(GIGABIT), (1, 0): the_rate(SLOW)}
    assert found["slowest_link"]["source"] == 1
    assert found["odd_hosts"] == []  # of two hosts, either may be the odd one
    assert all(size["check"]["wrong"] == 0 for one in found["operations"] for size in one["sizes"])
    assert all(len(size["rank_seconds"]) == 2 for one in found["operations"] for size in one["sizes"])


@pytest.mark.slow
def test_of_three_hosts_the_one_that_sends_at_200_megabit_is_named(network, tmp_path):
    for name, rate in (("anna", GIGABIT), ("bert", GIGABIT), ("carl", SLOW)):
        network.add_host(name, rate)
    words = collectives(tmp_path, "--ops", "broadcast", "--sizes", "8", "--seconds", "5s")
    world = {"WORLD_SIZE": "3", "LOCAL_RANK": "0", "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29400"}
    commands = [[sys.executable, "-m", "rigbench", *words]] * 3
    found = document(network.run(commands, [{**world, "RANK": rank} for rank in "012"]))
    others = {pair: the_rate(GIGABIT) for pair in ((0, 1), (0, 2), (1, 0), (1, 2))}
    assert links(found) == {**others, (2, 0): the_rate(SLOW), (2, 1): the_rate(SLOW)}
    (odd,) = found["odd_hosts"]
    assert (found["hosts"][odd["host"]]["name"], odd["side"]) == ("carl", "sending")
    assert on_the_cable(odd["bytes_per_s"]) == the_rate(SLOW)
    assert found["slowest_link"]["source"] == 2
