"""Do several hosts measure their links truly? Real ranks in network namespaces, with bandwidths that tc has set.

Needs root, `ip netns` and `tc` with tbf. Each namespace is a host with an address, a name and a cable to a switch.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

GIGABIT, SLOW = 1e9 / 8, 200e6 / 8  # bytes/s that a cable lets out
PAYLOAD_BYTES, FRAME_BYTES = 1448, 1514  # TCP with timestamps over IPv4, in an Ethernet frame
LIMIT_SECONDS = 100


def needs() -> str:
    """Why there can be no namespaces here; "" where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if lacking := [name for name in ("ip", "tc", "unshare") if not shutil.which(name)]:
        return f"{', '.join(lacking)} is not installed (Debian: iproute2)"
    trial = "ip link add type veth peer && tc qdisc add dev veth0 root tbf rate 1gbit burst 64kb latency 50ms"
    made = subprocess.run(["unshare", "-n", "sh", "-c", trial], capture_output=True, text=True)
    return "" if made.returncode == 0 else f"no namespaces, veth or tbf here: {made.stderr.strip()}"


@pytest.fixture(autouse=True, scope="module")
def namespaces_are_allowed():
    if why := needs():
        warnings.warn(f"collectives over shaped links were NOT tested: {why}", stacklevel=1)
        pytest.skip(why)


class Network:
    """Hosts on a switch, and what is plugged together; `ip netns` names are this process's own."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.hosts: list[str] = []
        self.switch = self._namespace("switch")
        self._run("ip", "-n", self.switch, "link", "add", "bridge", "type", "bridge")
        self._run("ip", "-n", self.switch, "link", "set", "bridge", "up")

    def add_host(self, name: str, bytes_per_s: float) -> None:
        """A host whose sending side lets out so much; what it receives is up to the others."""
        number = len(self.hosts) + 1
        own = self._namespace(name)
        port = f"port{number}"
        self._run("ip", "link", "add", "eth0", "netns", own, "type", "veth", "peer", port, "netns", self.switch)
        self._run("ip", "-n", self.switch, "link", "set", port, "master", "bridge", "up")
        self._run("ip", "-n", own, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            self._run("ip", "-n", own, "link", "set", device, "up")
        # The bucket lasts a millisecond: a late timer loses nothing, and little of a large message passes unshaped.
        # The queue holds the largest message at the slowest rate: nothing is dropped.
        rate = ("rate", f"{8 * bytes_per_s:.0f}bit", "burst", f"{bytes_per_s / 1000:.0f}b", "latency", "500ms")
        self._run("tc", "-n", own, "qdisc", "add", "dev", "eth0", "root", "tbf", *rate)
        self.hosts.append(own)

    def run(self, commands: list[list[str]], environments: list[dict[str, str]]) -> list[subprocess.CompletedProcess]:
        """One command on each host, at once, each under its own host name."""
        processes = []
        for namespace, command, more in zip(self.hosts, commands, environments, strict=True):
            name = namespace.split("-")[-1]
            named = ["sh", "-c", f'echo {name} > /proc/sys/kernel/hostname; exec "$@"', "sh", *command]
            processes.append(
                subprocess.Popen(
                    ["ip", "netns", "exec", namespace, "unshare", "--uts", *named],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env={**os.environ, **more},
                )
            )
            self._stack.callback(processes[-1].kill)
        said = [process.communicate(timeout=LIMIT_SECONDS) for process in processes]
        return [
            subprocess.CompletedProcess(process.args, process.returncode, *texts)
            for process, texts in zip(processes, said, strict=True)
        ]

    def _namespace(self, name: str) -> str:
        own = f"rigbench{os.getpid()}-{name}"
        self._run("ip", "netns", "add", own)
        self._stack.callback(subprocess.run, ["ip", "netns", "del", own], capture_output=True)
        return own

    @staticmethod
    def _run(*words: str) -> None:
        subprocess.run(words, check=True, capture_output=True, text=True)


@pytest.fixture
def network():
    with contextlib.ExitStack() as stack:
        yield Network(stack)


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
