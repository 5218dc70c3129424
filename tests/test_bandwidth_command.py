"""Do the parts of the bandwidth answer come together: names, links, verdicts, faults, a screen for people?"""

import functools
import io
import json
import os
import signal
import threading
import time
from pathlib import Path

import msgspec
import pytest
from fake_bandwidth import cpu, transfer
from rich.console import Console

from rigbench import store
from rigbench.bandwidth import command, verdict
from rigbench.bandwidth import screen as render
from rigbench.bandwidth.record import Bandwidth, Options
from rigbench.core.errors import RigbenchError
from rigbench.core.progress import Silent
from rigbench.core.record import Absent, Skipped
from rigbench.core.screen import show_rooms
from rigbench.document import Run
from rigbench.job import Interrupted, Job
from rigbench.machine.rig import Rig
from rigbench.topology import survey

TESTS = Path(__file__).parent
FINE = {
    "cuda:0": {"host>cuda:0": 13.1, "cuda:0>host": 13.2, "host=>cuda:0": 24.9, "cuda:0>cuda:0": 640.0},
    "cuda:1": {"host>cuda:1": 13.1, "cuda:1>host": 13.3, "cuda:1>cuda:1": 641.0},
    "peers, access on": {"cuda:0>cuda:1+": 12.6, "cuda:1>cuda:0+": 12.5, "cuda:0=>cuda:1+": 25.0},
    "peers, access off": {"cuda:0>cuda:1-": 6.1, "cuda:1>cuda:0-": 6.2, "cuda:0=>cuda:1-": 9.0},
}


def scripted_job(home: Path, patch: pytest.MonkeyPatch) -> Job:
    """Two recorded RTX 4080 SUPER at gen 4 x8, whose links were read awake; probes run from a script."""
    patch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
    patch.setattr(command, "PROBE", "fake_bandwidth")
    patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    job = Job(store.Store(home), Rig.replay(TESTS / "rigs" / "dual-rtx4080s-x8x8"), "bandwidth", Silent())
    survey.topology(job)
    return job


def run_script(job: Job, file: Path, patch: pytest.MonkeyPatch, device: str = "auto", **script) -> Bandwidth:
    file.write_text(json.dumps({"devices": [0, 1], "GB/s": FINE} | script))
    patch.setenv("RIGBENCH_TEST_SCRIPT", str(file))
    result = command.run(job, Options(seconds=4.0), device)
    assert store.read(job.store.find(job.run.id)).bandwidth == result
    return result


@pytest.fixture
def job(tmp_path, monkeypatch):
    return scripted_job(tmp_path / "home", monkeypatch)


@pytest.fixture
def measured(job, tmp_path, monkeypatch):
    return functools.partial(run_script, job, tmp_path / "script.json", monkeypatch)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> tuple[Bandwidth, list[str]]:
    """The result where nothing is wrong, and its faults."""
    folder = tmp_path_factory.mktemp("healthy")
    with pytest.MonkeyPatch.context() as patch:
        job = scripted_job(folder / "home", patch)
        return run_script(job, folder / "script.json", patch), job.faults


def verdicts(result: Bandwidth) -> dict[str, str]:
    return {item.way: item.judgement.verdict for item in result.judged}


def screen(result: Bandwidth, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    render.show(result, console)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def test_a_healthy_pair_is_fine_everywhere(healthy):
    result, faults = healthy
    assert (result.verdict, faults) == ("fine", [])
    assert [part.name for part in result.parts] == ["GPU0", "GPU1", "peers, access on", "peers, access off"]
    assert verdicts(result) == dict.fromkeys(
        (
            "host to GPU0, pinned",
            "GPU0 to host, pinned",
            "host to GPU1, pinned",
            "GPU1 to host, pinned",
            "copy in GPU0",
            "copy in GPU1",
            "GPU0 to GPU1, P2P on",
            "GPU1 to GPU0, P2P on",
            "GPU0 and GPU1, P2P on",
            "GPU0 to GPU1, P2P off",
            "GPU1 to GPU0, P2P off",
            "GPU0 and GPU1, P2P off",
        ),
        "fine",
    )
    assert result.peers == "measured"
    assert verdict.judged(result) == result.judged  # a stored run can be judged again


OLD = "cuda:0 (Quadro P4000) has compute capability 6.1, for which torch has no kernels"


def test_a_card_that_torch_has_no_kernels_for_is_said_and_the_other_is_measured(measured, job):
    peers = dict.fromkeys(("peers, access on", "peers, access off"), f"a peer copy needs two; {OLD}")
    result = measured(first="cuda:1", refused={"cuda:0": OLD} | peers)
    assert [part.name for part in result.parts] == ["GPU1"]
    assert (result.verdict, job.faults) == ("fine", [])
    assert result.peers == Absent(f"a peer copy needs two; {OLD}")
    assert f"{OLD}: not measured; install another torch" in job.run.warnings


def test_a_card_that_was_asked_for_and_cannot_be_used_is_refused(measured):
    with pytest.raises(RigbenchError, match="no kernels"):
        measured(device="cuda:0", refused={"cuda:0": OLD})


def test_rows_that_the_host_was_often_late_for_are_said(healthy):
    result, _ = healthy
    assert "too late" not in screen(result)
    late = {0: 3, 1: 1, 2: 0}  # of three samples each

    def told(row, count):
        return msgspec.structs.replace(row, timing=msgspec.structs.replace(row.timing, late=count))

    part = result.parts[0]
    rows = tuple(told(row, late.get(index, 0)) for index, row in enumerate(part.transfers))
    part = msgspec.structs.replace(part, transfers=rows)
    text = screen(msgspec.structs.replace(result, parts=(part, *result.parts[1:])), 200)
    assert "GPU0: in 2 rows the host handed copies over too late (4 of 6 samples)" in text


def test_every_rate_is_held_against_its_own_link(healthy):
    """Gen 4 x8 is 16 GT/s × 8 lanes × 128/130 / 8 = 15.75 GB/s; this card's memory is 736 GB/s."""
    result, _ = healthy
    shares = {item.way: item.judgement.share for item in result.judged}
    assert shares["host to GPU0, pinned"] == pytest.approx(13.1 / 15.754, rel=1e-3)
    assert shares["GPU0 and GPU1, P2P on"] == pytest.approx(25.0 / 31.508, rel=1e-3)
    assert shares["copy in GPU0"] == pytest.approx(640 / 736.3, rel=1e-3)


def test_one_slow_direction_makes_it_low_and_names_it(measured):
    slow = FINE | {"cuda:1": {"host>cuda:1": 6.4, "cuda:1>host": 13.2}}
    result = measured(**{"GB/s": slow})
    assert result.verdict == "low"
    assert [way for way, verdict in verdicts(result).items() if verdict == "low"] == ["host to GPU1, pinned"]


def test_wrong_data_is_a_fault_however_fast_it_came(measured, job):
    fast = FINE | {"peers, access on": {"cuda:0>cuda:1+": 14.1, "cuda:1>cuda:0+": 12.5}}
    result = measured(**{"GB/s": fast, "wrong": ["cuda:0>cuda:1+"]})
    assert result.verdict == "wrong data"
    assert verdicts(result)["GPU0 to GPU1, P2P on"] == "unknown"
    assert verdicts(result)["GPU1 to GPU0, P2P on"] == "fine"
    assert job.faults == [
        "bandwidth copy from GPU0 to GPU1, 256 MiB: 1 of 3 arrived wrong (2 values, the first at byte 4096)"
    ]
    assert "1 of 36 copies arrived WRONG" in screen(result)


def test_a_part_that_hangs_is_ended_kept_and_named_and_the_others_go_on(measured, job, monkeypatch):
    monkeypatch.setattr(command, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(command, "TIMES_ITS_SECONDS", 1.0)
    result = measured(**{"cuda:0": "hang"})
    assert result.verdict == "hung"
    assert [part.ended for part in result.parts] == ["hung", "finished", "finished", "finished"]
    assert len(result.parts[0].transfers) == 4
    assert job.faults == ["bandwidth GPU0: no answer within 2 s; its processes were ended"]
    assert "GPU0 hung: no answer within 2 s" in screen(result)


def test_ctrl_c_keeps_what_was_measured_and_measures_nothing_more(measured, job, tmp_path):
    def interrupt():
        while not (tmp_path / "script.json.waiting").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(Interrupted):
        measured(**{"cuda:1": "wait"})
    kept = store.read(job.store.find(job.run.id)).bandwidth
    assert [(part.name, part.ended, len(part.transfers)) for part in kept.parts] == [
        ("GPU0", "finished", 4),
        ("GPU1", "interrupted", 3),
    ]


def test_a_card_that_kills_its_process_at_once_hides_no_other(measured, job):
    result = measured(**{"cuda:0": "die at once"})
    assert result.verdict == "died"
    assert [(part.name, part.ended, len(part.transfers)) for part in result.parts][:2] == [
        ("auto", "died", 0),
        ("GPU1", "finished", 3),
    ]
    assert len(job.faults) == 1


def test_cudas_order_is_not_the_drivers(measured):
    """CUDA's first device is the driver's second GPU: its rates must not be told of the other."""
    result = measured(devices=[1, 0], **{"GB/s": FINE | {"cuda:0": {"host>cuda:0": 13.7}}})
    assert [part.name for part in result.parts][:2] == ["GPU1", "GPU0"]
    ways = {item.way: item.bytes_per_s for item in result.judged}
    assert ways["host to GPU1, pinned"] == 13.7e9


def test_the_host_memory_lies_next_to_its_card(healthy):
    assert healthy[0].parts[0].host_cpus == "0-27"


def test_with_one_gpu_peer_copies_do_not_apply(measured, job):
    result = measured(devices=[0])
    assert result.peers == Absent("one GPU: a peer copy needs two")
    assert (result.verdict, job.faults, len(result.parts)) == ("fine", [], 1)
    assert "no peer copies: one GPU: a peer copy needs two" in screen(result)


def test_a_device_that_was_asked_for_is_the_only_one(measured):
    result = measured(device="cuda:1")
    assert [part.name for part in result.parts] == ["GPU1"]
    assert result.peers == Absent("--device cuda:1 is one of 2 GPUs: a peer copy needs two")


def test_the_cpu_can_be_asked_for_on_a_machine_with_gpus(measured):
    result = measured(device="cpu", devices=[])
    assert result.parts[0].devices[0].kind == "cpu"
    assert (result.gpus, result.links, result.verdict) == ((), (), "unknown")


def test_gpus_that_torch_does_not_see_are_told(measured, job):
    measured(devices=[])
    assert job.run.warnings == ("the driver lists 2 GPUs and torch sees none: the CPU was measured",)


def test_in_a_virtual_machine_no_link_is_believed_but_the_memory_is(healthy):
    result = msgspec.structs.replace(healthy[0], virtual_machine="QEMU")
    judged = {item.way: item.judgement for item in verdict.judged(result)}
    assert judged["host to GPU0, pinned"].verdict == "unknown"
    assert "virtual machine" in judged["host to GPU0, pinned"].reason
    assert judged["copy in GPU0"].verdict == "fine"


def test_an_idle_link_and_an_unknown_card_are_not_judged(healthy):
    result, _ = healthy
    idle = Absent("the card is idle")
    asleep = tuple(msgspec.structs.replace(path, awake_bytes_per_s=idle) for path in result.links)
    stranger = {"GPU0": Absent("no profile of this card"), "GPU1": Absent("no profile of this card")}
    again = msgspec.structs.replace(result, links=asleep, memory_datasheet=stranger)
    found = verdict.judged(again)
    assert {item.judgement.verdict for item in found} == {"unknown"}
    assert verdict.verdict(again, found) == "unknown"
    assert {item.judgement.reason for item in found} == {"the card is idle", "no profile of this card"}


MORE = {
    "cuda:0": FINE["cuda:0"]
    | {"host>cuda:0@64": 0.032, "host>cuda:0~": 9.1, "cuda:0>host~": 8.4, "host>cuda:0@16777216": 12},
    "cuda:1": {"host>cuda:1": 6.4, "cuda:1>host": 10.9, "cuda:1>cuda:1": 641.0},
    "peers, access on": {},
    "peers, access off": FINE["peers, access off"] | {"cuda:0>cuda:1-@64": 0.0052},
}
GPU_SCREEN = """\
warn  bandwidth: host to GPU1, pinned: 6.40 GB/s, where healthy rigs reach 11.8 to 14.5
  on cuda (2 × NVIDIA GeForce RTX 4080 SUPER)
  45 copies, each read back where it arrived: all right
       way                    GB/s   90 % interval      expected     of theory  not judged, since
 ok    host to GPU0, pinned  13.10  12.97 to 13.23  11.8 to 14.5  83 % of 15.8
 ok    GPU0 to host, pinned  13.20  13.07 to 13.33  11.8 to 14.5  84 % of 15.8
 warn  host to GPU1, pinned   6.40    6.34 to 6.46  11.8 to 14.5  41 % of 15.8
 note  GPU1 to host, pinned  10.90  10.79 to 11.01  11.8 to 14.5  69 % of 15.8  neither fine nor
                                                                                clearly low
 ok    copy in GPU0            640      634 to 646    589 to 670   87 % of 736
 ok    copy in GPU1            641      635 to 647    589 to 670   87 % of 736
 ok    GPU0 to GPU1, P2P      6.10    6.04 to 6.16  5.20 to 11.2  39 % of 15.8
       off
 ok    GPU1 to GPU0, P2P      6.20    6.14 to 6.26  5.20 to 11.2  39 % of 15.8
       off
 ok    GPU0 and GPU1, P2P     9.00    8.91 to 9.09  7.88 to 15.4  29 % of 31.5
       off

GPU0 and the host (gen 4 x8 awake) in GB/s, one way; both: at once, their sum
 each copy  pinned to  from  both  pageable to  from  both
      64 B    2.00 µs     –     –            –     –     –
    16 MiB       12.0     –     –            –     –     –
   256 MiB       13.1  13.2  24.9         9.10  8.40     –

GPU1 and the host (gen 4 x8 awake) in GB/s, one way; both: at once, their sum
 each copy  pinned to  from  both  pageable to  from  both
   256 MiB       6.40  10.9     –            –     –     –

between GPUs in GB/s, peer access (P2P) on and off; both ways: at once, their sum
 pair         one way, on   off  both ways, on   off  latency, on      off
 GPU0 → GPU1            –  6.10              –  9.00            –  12.3 µs
 GPU1 → GPU0            –  6.20              –     –            –        –
  GB/s is 1e9 bytes/s; a copy counts 2 bytes a byte (read and write) and a triad a = b + 3·c counts
3, as STREAM does
  expected: the share of theory that healthy published rigs reach; A to B is one way, A and B is
both ways
  GPU0: host memory next to CPUs 0-27
  GPU1: host memory next to CPUs 0-27
  peers, access on, not run: GPU0 and GPU1: the driver does not allow them peer access"""


def test_the_screen_says_the_verdict_first_then_why_then_what(measured):
    refused = {"peers, access on": ["cuda:0 and cuda:1: the driver does not allow them peer access"]}
    assert screen(measured(**{"GB/s": MORE, "not run": refused})) == GPU_SCREEN


CPU_SCREEN = """\
note  bandwidth: this host's memory copies at 14.90 GB/s (14.75 to 15.05)
  on cpu (Some CPU, 2 threads)
  15 copies, each read back where it arrived: all right
  note  this host's memory: 15.2 GB/s; not judged: no published figure to hold
        this host's memory against

the host's memory
 where   threads  operation  each array   GB/s   90 % interval  samples
 node 0        1  copy          143 MiB  11.20  11.09 to 11.31        3
 node 0        2  copy          143 MiB  14.90  14.75 to 15.05        3
 node 0        2  triad         143 MiB  15.20  15.05 to 15.35        3

from cache to memory: one thread copies the same array inside node 0 again and
again
 each array  GB/s  90 % interval  samples
      4 KiB  93.4   92.5 to 94.3        3
      1 MiB  24.8   24.5 to 25.0        3
  GB/s is 1e9 bytes/s; a copy counts 2 bytes a byte (read and write) and a triad
a = b + 3·c counts 3, as STREAM does
  CPU, not run: the curve ends before 256 MiB"""


def test_the_screen_of_a_cpu_shows_threads_and_the_curve(healthy):
    rows = [
        *(("copy", 1, 150_000_000, 11.2, False), ("copy", 2, 150_000_000, 14.9, False)),
        *(("triad", 2, 150_000_000, 15.2, False), ("copy", 1, 4096, 93.4, True), ("copy", 1, 1 << 20, 24.75, True)),
    ]
    transfers = tuple(
        transfer("node 0>node 0", rate, operation=name, threads=threads, size_bytes=size, warm=warm, clock="host")
        for name, threads, size, rate, warm in rows
    )
    part = msgspec.structs.replace(
        healthy[0].parts[0], name="CPU", devices=(cpu(),), host_cpus=Absent("one node"), transfers=transfers
    )
    part = msgspec.structs.replace(part, not_run=("the curve ends before 256 MiB",))
    result = msgspec.structs.replace(healthy[0], parts=(part,), gpus=(), links=(), verdict="unknown")
    result = msgspec.structs.replace(result, judged=verdict.judged(result))
    assert screen(result, width=80) == CPU_SCREEN


def test_a_probe_that_could_not_run_says_why(job):
    run = msgspec.structs.replace(job.run, topology=Absent("not asked"), bandwidth=Skipped("bandwidth", "no torch"))
    console = Console(file=io.StringIO(), width=100, highlight=False, color_system=None)
    show_rooms(run, console)
    assert console.file.getvalue() == "bandwidth skipped: no torch\n"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--seconds 0", "--seconds '0' is zero"),
        ("--seconds 2h", "--seconds '2h' is not between 1 s and 1 h"),
        ("--seconds soon", "--seconds 'soon' is not a duration"),
        ("--largest 4KiB", "--largest '4KiB' is not between 1 MiB and 64 GiB"),
        ("--largest 1TiB", "--largest '1TiB' is not between 1 MiB and 64 GiB"),
        ("--largest -1", "--largest '-1' is negative"),
        ("--device gpu", "--device 'gpu' is not a device"),
        ("--replay /nowhere", "bandwidth does not take --replay"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(rigbench, typed, words):
    code, out, err = rigbench("bandwidth", "--quiet", *typed.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_a_card_that_is_not_there_is_exit_code_3(rigbench, tmp_path):
    code, _, err = rigbench("bandwidth", "--device", "cuda:7", "--quiet")
    assert code == 3
    assert "--device cuda:7: torch sees 0 CUDA devices" in err
    assert list((tmp_path / "home" / "runs").glob("*.json")) == []


def test_the_command_measures_this_cpu_stores_it_and_shows_it_again(rigbench, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
    monkeypatch.setattr(command, "PROBE", "small_bandwidth")
    code, out, _ = rigbench("bandwidth", "--device", "cpu", "--seconds", "1s", "--largest", "1MiB", "--quiet")
    assert code == 0
    assert out.startswith("note  bandwidth: this host's memory copies at ")
    stored = next((tmp_path / "home" / "runs").glob("*.json"))
    assert out in rigbench("report", stored.stem)[1]
    assert "from cache to memory" in " ".join(rigbench("report", stored.stem, "bandwidth")[1].split())
    run = msgspec.json.decode(stored.read_bytes(), type=Run)
    assert all(len(row.timing.seconds) >= 1 for part in run.bandwidth.parts for row in part.transfers)
