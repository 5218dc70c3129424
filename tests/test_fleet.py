"""Is the odd host found among many, by name and with evidence, and is none found where all are alike?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import network as namespaces
import numpy as np
import pytest
from test_compare import run_of
from test_first_screens import holds

from rigbench import store, tables
from rigbench.collectives.record import Collectives
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, Skipped
from rigbench.fleet import probe as gather
from rigbench.fleet import screen, together, verdict
from rigbench.fleet.record import Fleet, Gathered, GatherOptions
from rigbench.tables import Measured
from rigbench.work.ranks import World, free_port

HOSTS = (1.0, 1.01, 0.99, 1.005, 0.995, 1.0, 1.01, 0.98)


def host(number: int, speed: float, again: int = 0) -> Measured:
    run = run_of(1 + again, speed)
    rig = msgspec.structs.replace(run.rig, fingerprint=f"{number:012x}")
    return tables.measured(msgspec.structs.replace(run, rig=rig, id=f"202601{1 + again:02}-{number:06}-aaaa"))


def fleet_of(speeds, runs: int = 1) -> Fleet:
    made = [host(number, speed, again) for again in range(runs) for number, speed in enumerate(speeds)]
    return verdict.judge(sorted(made, key=lambda its: its.run, reverse=True))


def test_the_slow_host_is_named_with_its_numbers():
    made = fleet_of((*HOSTS, 0.8), runs=3)
    [odd] = made.odd
    assert odd.host == f"{8:012x}"
    assert [(it.metric, it.is_worse, it.runs, it.alike, it.hosts) for it in odd.numbers] == [
        ("items_per_s", True, 3, 3, 9)
    ] * 3
    assert all(it.ratio == pytest.approx(0.8, rel=0.02) for it in odd.numbers)
    holds(lambda its, console, quiet: screen.show(its, console, False, quiet), made, SCREEN)


SCREEN = """\
warn  fleet: 000000000008 is odd: worse than the others in 3 of 6 numbers
 host          number                           it          others    off  seen in
 000000000008  training 5M adamw    1,966 tokens/s  2,457 tokens/s  −20 %  3 of 3 runs
               training 30M adamw     467 tokens/s    584 tokens/s  −20 %  3 of 3 runs
               training 120M adamw    114 tokens/s    142 tokens/s  −20 %  3 of 3 runs
  hosts   9 hosts with Intel(R) Xeon(R) Processor @ 2.50GHz (27 runs)
  how sure  odd: 5 % off and beyond what hosts that are alike reach in 3 of 1,000 numbers (robust
            deviations from the median, wider for few hosts); skewed numbers reach it more often, so
            look at what several runs show
  more      --verbose: every odd number; --json.  next: rigbench doctor 20260103-000008-aaaa
"""


def test_one_bad_run_of_three_makes_no_host_odd():
    runs = [host(number, speed, again) for again in range(3) for number, speed in enumerate(HOSTS)]
    runs = [host(0, 0.5, 2) if (its.rig, its.run[:8]) == (f"{0:012x}", "20260103") else its for its in runs]
    assert verdict.judge(sorted(runs, key=lambda its: its.run, reverse=True)).odd == ()


def test_a_host_that_was_mended_is_judged_by_its_newest_runs():
    runs = [host(number, speed, again) for again in range(6) for number, speed in enumerate(HOSTS)]
    runs = [host(0, 0.5, int(its.run[6:8]) - 1) if its.rig[-1] == "0" and its.run < "20260104" else its for its in runs]
    assert verdict.judge(sorted(runs, key=lambda its: its.run, reverse=True)).odd == ()


def test_other_cards_are_not_held_against_these():
    fast = [host(number, 10.0) for number in range(20, 24)]
    rows = [
        tuple(
            msgspec.structs.replace(row, under=(("device", "cuda a faster card"), *row.under[1:])) for row in its.rows
        )
        for its in fast
    ]
    fast = [msgspec.structs.replace(its, rows=of) for its, of in zip(fast, rows, strict=True)]
    assert verdict.judge([*(host(number, speed) for number, speed in enumerate(HOSTS)), *fast]).odd == ()


def test_two_hosts_are_compared_and_neither_is_called_odd():
    made = fleet_of((1.0, 0.7))
    assert (made.odd, made.numbers) == ((), 0)
    assert screen.verdict(made) == ("note", "2 hosts; it takes 3 to find the odd one")
    assert screen.verdict(fleet_of(())) == ("note", "no host has a number that may be used")
    assert made.differences[0].hosts == (f"{0:012x}", f"{1:012x}")


@pytest.mark.parametrize("hosts", [3, 6, 13])
def test_hosts_that_are_alike_are_rarely_called_odd(hosts):
    """3 numbers in 1,000 of normal ones; noise of 10 %, so that the least difference of 5 % bars none."""
    generator, odd, trials = np.random.default_rng(14), 0, 25
    bare = host(0, 1.0)
    row = bare.rows[0]
    for _ in range(trials):
        values = np.exp(0.1 * generator.normal(size=(hosts, 12))).tolist()
        runs = []
        for place, of_host in enumerate(values):
            rows = tuple(msgspec.structs.replace(row, what=f"{n}", value=value) for n, value in enumerate(of_host))
            runs.append(msgspec.structs.replace(bare, rig=f"{place:012x}", rows=rows))
        odd += sum(len(it.numbers) for it in verdict.judge(runs).odd)
    assert odd <= 0.003 * trials * 12 + 5  # 0.9 are expected; more than 5 come once in 2,000 seeds


def test_no_run_is_opened_for_thousands(rigbench, tmp_path, monkeypatch):
    home = store.Store(tmp_path / "home")
    for number, speed in enumerate((*HOSTS, 0.8)):
        run = run_of(1, speed)
        rig = msgspec.structs.replace(run.rig, fingerprint=f"{number:012x}")
        home.save(msgspec.structs.replace(run, rig=rig, id=f"20260101-{number:06}-aaaa"))
    (home.runs / "20260101-999999-bbbb.json").write_text('{"half')
    first = rigbench("fleet")
    read = Path.read_bytes  # of /proc too, where another rigbench runs on this machine
    refuse = lambda path: pytest.fail(f"{path} was opened") if path.suffix == ".json" else read(path)  # noqa: E731
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert rigbench("fleet") == first
    code, out, err = first
    assert (code, err.count("\n")) == (0, 1)
    assert "not used: " in err
    assert out.startswith("warn  fleet: 000000000008 is odd: worse than the others in 3 of 6 numbers")
    assert rigbench("fleet", "--fail-over", "10%")[0] == 1
    assert rigbench("fleet", "--fail-over", "30%")[0] == 0
    assert json.loads(rigbench("fleet", "--json")[1])["hosts"] == 9


def test_an_empty_fleet_is_no_answer(rigbench):
    code, out, err = rigbench("fleet")
    assert (code, out, err.count("\n")) == (3, "", 1)
    code, out, err = rigbench("fleet", "nobody")
    assert (code, out, err.count("\n")) == (2, "", 1)


TORCHRUN = {
    "RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8", "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "node7", "MASTER_PORT": "29400", "TORCHELASTIC_RUN_ID": "42",
    "OMP_NUM_THREADS": "1", "HOME": "/root",
}  # fmt: skip


def test_a_process_knows_its_host_under_torchrun_and_under_srun_alone():
    its = together.place(TORCHRUN)
    assert (its.node, its.nodes, its.leads, its.world.rank) == (1, 2, False, 9)
    bare = {name: TORCHRUN[name] for name in ("MASTER_ADDR", "MASTER_PORT")} | {"RANK": "3", "WORLD_SIZE": "4"}
    its = together.place(bare)
    assert (its.node, its.nodes, its.leads) == (3, 4, True)
    assert together.place({"HOME": "/root"}) is None
    for wrong in ({"GROUP_RANK": "2"}, {"LOCAL_WORLD_SIZE": "many"}, {"GROUP_WORLD_SIZE": "99"}):
        with pytest.raises(RigbenchError):
            together.place(TORCHRUN | wrong)


def test_a_host_is_measured_as_if_it_were_alone():
    variables = dict(TORCHRUN)
    with together.as_if_alone(variables):
        assert variables == {"HOME": "/root"}
    assert variables == TORCHRUN
    own = {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "1"}  # the user's: torchrun sets none for one rank
    with together.as_if_alone(own):
        assert own == {"OMP_NUM_THREADS": "1"}


def test_hosts_of_one_name_and_runs_of_one_id_are_told_apart():
    runs = [msgspec.structs.replace(run_of(1), host=name) for name in ("node7", "node8", "node7")]
    told = together.told_apart(runs)
    assert [run.host for run in told] == ["node7 #0", "node8", "node7 #2"]
    assert len({run.id for run in told}) == 3
    assert len({tables.measured(run).unit for run in told}) == 3


class Silence:
    """A probe's report that nobody hears."""

    def progress(self, share: float, text: str) -> None: ...

    def check(self) -> None: ...


def test_every_hosts_document_comes_to_rank_0_and_the_others_wait_for_that():
    port, texts = free_port(), ["a document of node7", "one of node8, ten thousand times as long: " + "x" * 10_000_000]

    def host(node: int) -> Gathered:
        facts = {"node": node, "nodes": 2, "limit_seconds": 60.0, "kept_by_agent": False}
        return gather.run(GatherOptions(document=texts[node], **facts), Silence(), World(node, 2, 0, "127.0.0.1", port))

    with ThreadPoolExecutor() as hosts:
        first, other = hosts.map(host, (0, 1))
    assert first.documents == tuple(texts)
    assert other.documents == ()


def test_resuming_many_hosts_is_refused(rigbench, monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RANK", "0")
    code, out, err = rigbench("run", "--quick", "--resume")
    assert (code, out) == (2, "")
    assert "--resume is not for hosts that torchrun started" in err


@pytest.mark.slow
def test_two_agents_of_torchrun_bring_one_document_a_host_and_one_verdict(tmp_path):
    """Two hosts on this machine: each measures, rank 0 keeps both, and the other keeps its own too."""
    port = str(free_port())
    started = []
    for rank in "01":
        agent = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--node-rank", rank]
        agent += ["--master-addr", "127.0.0.1", "--master-port", port, "-m", "rigbench"]
        words = ["run", "--quick", "--only", "collectives,matmul", "--device", "cpu", "--label", "both", "--json"]
        words += ["--home", str(tmp_path / rank)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, *agent, *words]
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    said = [process.communicate(timeout=110) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert said[1][0] == ""
    fleet = msgspec.json.decode(said[0][0], type=Fleet)
    assert (fleet.runs, fleet.hosts) == (2, 2)
    kept = [store.read(path) for path in sorted((tmp_path / "0" / "runs").glob("*.json"))]
    assert len(kept) == 2
    assert sorted(run.host.partition(" #")[2] for run in kept) == ["0", "1"]
    assert {run.label for run in kept} == {"both"}
    assert all(not isinstance(run.matmul, Absent | Skipped) for run in kept)
    [across] = [run.collectives for run in kept if isinstance(run.collectives, Collectives)]
    assert (across.world_size, len(across.hosts)) == (2, 2)
    assert len(list((tmp_path / "1" / "runs").glob("*.json"))) == 1


@pytest.mark.slow
def test_hosts_in_namespaces_are_named_and_their_cable_is_in_the_verdict(tmp_path):
    """Two network namespaces with a gigabit between them, as two machines have it; each host under its own name."""
    namespaces.skip_without_namespaces()
    with namespaces.made() as network:
        for name in ("anna", "bert"):
            network.add_host(name, 1e9 / 8)
        agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        agent += ["--master-addr", "10.77.0.1", "--master-port", "29400"]
        words = ["-m", "rigbench", "run", "--quick", "--only", "matmul,collectives", "--device", "cpu", "--json"]
        commands = [[*agent, "--node-rank", rank, *words, "--home", str(tmp_path / rank)] for rank in "01"]
        done = network.run(commands, [{}, {}])
    assert [it.returncode for it in done] == [0, 0], [it.stderr for it in done]
    kept = {run.host: run for run in map(store.read, (tmp_path / "0" / "runs").glob("*.json"))}
    assert set(kept) == {"anna", "bert"}
    [across] = [run.collectives for run in kept.values() if isinstance(run.collectives, Collectives)]
    assert [it.name for it in across.hosts] == ["anna", "bert"]
    assert across.slowest_link.bytes_per_s.value == pytest.approx(1e9 / 8, rel=0.15)
    assert msgspec.json.decode(done[0].stdout, type=Fleet).hosts == 2


@pytest.mark.parametrize("hosts", [3, 4, 6, 8, 10, 12, 16, 20, 30, 50])
def test_a_fence_is_what_3_of_1000_numbers_reach_by_chance(hosts):
    generator = np.random.default_rng(5)
    off = np.sort(np.abs((draws := generator.standard_normal((60_000, hosts))) - np.median(draws, axis=1)[:, None]))
    scale = np.median(off, axis=1) * 1.4826  # of a median absolute deviation
    reached = np.quantile(off[:, -1] / scale, 0.997)
    assert verdict.fence(hosts) == pytest.approx(reached, rel=0.3 if hosts < 6 else 0.12 if hosts < 16 else 0.06)
    assert verdict.fence(hosts - 1) > verdict.fence(hosts)


def test_hosts_that_differ_by_less_than_a_twentieth_are_not_odd_and_half_a_per_cent_is_what_they_vary_by():
    alike = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    assert fleet_of((*alike, 0.96)).odd == ()
    [odd] = fleet_of((*alike, 0.8)).odd
    assert {it.metric for it in odd.numbers} >= {"items_per_s"}
    assert all(it.deviations >= abs(np.log(it.ratio)) / 0.02 for it in odd.numbers)


# ---- one number of hosts, by hand


def numbers(hosts, better="higher", **changes) -> Fleet:
    """Of each host its runs' values of one number, the newest first; all hosts' newest runs come first."""
    bare = host(0, 1.0)
    row = msgspec.structs.replace(bare.rows[0], better=better, **changes)
    runs = [
        msgspec.structs.replace(
            bare, rig=f"{place:012x}", run=f"{age}-{place}", rows=(msgspec.structs.replace(row, value=values[age]),)
        )
        for age in range(max(map(len, hosts), default=0))
        for place, values in enumerate(hosts)
        if age < len(values)
    ]
    return verdict.judge(runs)


LOGS = (-0.03, -0.02, -0.01, 0.0, 0.0, 0.01, 0.02, 0.03)


@pytest.mark.parametrize(
    ("better", "off", "is_worse"), [("higher", -0.5, True), ("higher", 0.5, False), ("lower", 0.5, True)]
)
def test_an_odd_number_is_told_by_the_median_and_the_median_distance_from_it(better, off, is_worse):
    made = numbers([[100 * np.exp(it)] for it in (*LOGS, off)], better)
    [odd] = made.odd
    [its] = odd.numbers
    deviation = 1.4826 * 0.02  # of 0, 0, .01, .01, .02, .02, .03, .03 and .5
    assert (its.value, its.others) == pytest.approx((100 * np.exp(off), 100.0))
    assert (its.ratio, its.deviations) == (pytest.approx(np.exp(off)), pytest.approx(0.5 / deviation, rel=1e-4))
    assert (its.is_worse, its.hosts, its.runs, its.alike, odd.of) == (is_worse, 9, 1, 1, 1)
    assert (made.hosts, made.runs, made.numbers) == (9, 9, 1)


@pytest.mark.parametrize(("off", "is_odd"), [(0.051, True), (0.049, False)])
@pytest.mark.parametrize("way", [-1, 1])
def test_of_many_hosts_one_is_odd_from_a_twentieth_on(off, is_odd, way):
    made = numbers([[1.0]] * 20 + [[np.exp(way * off)]])  # 21 hosts that vary by half a per cent: 3.2 % are beyond it
    assert bool(made.odd) == is_odd


@pytest.mark.parametrize(("times", "is_odd"), [(8.0, False), (8.4, True)])
def test_of_three_hosts_one_is_odd_where_it_is_eight_times_off(times, is_odd):
    made = numbers([[1.0], [1.0], [times]])  # 421 times half a per cent is 2.1, e^2.1 8.2
    assert bool(made.odd) == is_odd
    assert made.numbers == 1
    assert numbers([[1.0], [times]]).numbers == 0


@pytest.mark.parametrize(
    ("runs", "median", "alike"),
    [
        ((0.5, 0.5, 0.99, 1.0, 1.0), 0.5, 2),  # the three newest alone; one of them is not off
        ((0.5, 0.5, 2.0), 0.5, 2),  # off the other way is not alike
        ((2.0, 2.0, 0.5), 2.0, 2),
        ((1.5, 1.1, 1.5), 1.5, 3),
        ((0.94, 0.5, 0.5), 0.5, 3),
        ((0.96, 0.5, 0.5), 0.5, 2),  # less than a twentieth off
    ],
)
def test_each_of_the_three_newest_runs_is_counted_that_is_as_far_off(runs, median, alike):
    [odd] = numbers([[1.0]] * 8 + [list(runs)]).odd
    [its] = odd.numbers
    assert (its.value, its.runs, its.alike) == (pytest.approx(median), 3, alike)


def test_zero_is_no_number_less_than_one_is_and_what_is_neither_better_is_not_told():
    assert numbers([[0.0]] * 5).numbers == 0
    assert len(numbers([[0.1]] * 8 + [[0.05]]).odd) == 1
    assert numbers([[1.0]] * 8 + [[0.5]], better="").odd == ()
    assert numbers([[1.0], [0.5]], better="").differences == ()


def test_the_hosts_worse_in_most_are_first_and_of_each_the_worst_number():
    bare = host(0, 1.0)
    names = "abcd"
    values = {9: (0.5, 0.6, 3.0, 1.0), 8: (1.0, 0.5, 1.0, 1.0), 7: (1.0, 0.5, 1.0, 1.0), 6: (1.2, 1.5, 1.0, 1.0)}
    runs = [
        msgspec.structs.replace(
            bare,
            rig=f"{place:012x}",
            machine="a box" if place < 4 else "another",
            rows=tuple(
                msgspec.structs.replace(bare.rows[0], what=name, value=value)
                for name, value in zip(names, values.get(place, (1.0,) * 4), strict=True)
            ),
        )
        for place in range(24)
    ]
    bare_of_all = [msgspec.structs.replace(runs[0], rows=()), msgspec.structs.replace(runs[1], look=True)]
    made = verdict.judge([*bare_of_all, *runs, *runs[:2]])
    assert [int(it.host, 16) for it in made.odd] == [9, 7, 8, 6]
    assert [it.what for it in made.odd[0].numbers] == ["a", "b", "c"]  # the gain last, however large
    assert [it.what for it in made.odd[-1].numbers] == ["b", "a"]
    assert [it.of for it in made.odd] == [4] * 4
    assert [(it.machine, it.hosts, it.runs) for it in made.kinds] == [("a box", 4, 6), ("another", 20, 20)]
    assert (made.hosts, made.runs, made.numbers, made.differences) == (24, 26, 4, ())


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_of_two_hosts_the_twenty_largest_differences_are_told_the_better_host_first(better):
    bare = host(0, 1.0)
    runs = [
        msgspec.structs.replace(
            bare,
            rig=rig,
            rows=tuple(
                msgspec.structs.replace(bare.rows[0], what=f"{n}", better=better, value=value(n)) for n in range(22)
            ),
        )
        for rig, value in (("anna", lambda n: 10.0), ("bert", lambda n: 10.0 * (1 + n / 10) ** (-1) ** n))
    ]
    found = verdict.judge(runs).differences
    assert [it.what for it in found] == [f"{n}" for n in range(21, 1, -1)]
    for its in found:
        bert_has_more = int(its.what) % 2 == 0
        assert its.hosts[0].startswith("bert" if bert_has_more == (better == "higher") else "anna")
        assert (its.values[0] > its.values[1]) == (better == "higher")
