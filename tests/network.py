"""Hosts in network namespaces, with bandwidths that tc has set. Needs root, `ip netns` and `tc` with tbf.

Each namespace is a host with an address, a name and a cable to a switch.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import warnings

import pytest

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

    def run(
        self, commands: list[list[str]], environments: list[dict[str, str]], limit_seconds: float = LIMIT_SECONDS
    ) -> list[subprocess.CompletedProcess]:
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
        said = [process.communicate(timeout=limit_seconds) for process in processes]
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


def skip_without_namespaces() -> None:
    if why := needs():
        warnings.warn(f"shaped links were NOT tested: {why}", stacklevel=1)
        pytest.skip(why)


@contextlib.contextmanager
def made():
    """A network, and its end."""
    with contextlib.ExitStack() as stack:
        yield Network(stack)
