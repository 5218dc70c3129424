"""Is each first screen what its user should see: the verdict first, whole numbers at every width, on one screen?"""

from __future__ import annotations

import io
import re
from pathlib import Path

import msgspec
import pytest
import test_bandwidth_command as bandwidths
import test_collectives_screen as groups
import test_dataloader_stage as loaders
import test_matmul_screen as products
import test_p2p_verdict as peers
import test_thermals_screens as heat
import test_topology as rigs
from rich.console import Console

from rigbench import store
from rigbench.bandwidth import screen as bandwidth
from rigbench.bandwidth.record import Bandwidth
from rigbench.collectives import screen as collectives
from rigbench.collectives.record import OddHost
from rigbench.core import profiles
from rigbench.core.record import Absent, Tally
from rigbench.dataloader import screen as dataloader
from rigbench.document import Run
from rigbench.machine.rig import Rig
from rigbench.matmul import screen as matmul
from rigbench.model import shape
from rigbench.p2p import screen as p2p
from rigbench.report import screen as report
from rigbench.thermals import screen as thermals
from rigbench.topology import screen as topology

NUMBER = re.compile(r"\d(?:[\d,.]*\d)?")
STORED = Path(__file__).parent / "runs" / "xeon-2.5ghz-2-cores" / "run-quick-every-probe.json"


def printed(brief, result, width: int = 100, quiet: bool = False, colour: bool = False) -> str:
    out = io.StringIO()
    system = {"color_system": "standard", "force_terminal": True} if colour else {"color_system": None}
    brief(result, Console(file=out, width=width, highlight=False, **system), quiet)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def holds(brief, result, whole: str) -> None:
    """The literal screen at 100 columns, on 40 lines at most; at other widths no line too long and every number there;
    with colour the same text; with --quiet its beginning."""
    assert printed(brief, result) == whole
    assert len(whole.splitlines()) <= 40
    for width in (60, 80, 120):
        shown = printed(brief, result, width)
        assert max(map(len, shown.splitlines())) <= width, shown
        assert set(NUMBER.findall(whole)) <= set(NUMBER.findall(shown)), shown
    coloured = printed(brief, result, colour=True)
    plain = "\n".join(line.rstrip() for line in re.sub("\x1b\\[[0-9;]*m", "", coloured).splitlines()) + "\n"
    assert plain == whole
    quiet = printed(brief, result, quiet=True)
    assert whole.startswith(quiet)
    assert len(quiet.splitlines()) < len(whole.splitlines())


@pytest.fixture(scope="module")
def run() -> Run:
    """Really measured on two cores."""
    return store.read(STORED)


# ---- bandwidth


@pytest.fixture
def measured(tmp_path, monkeypatch):
    job = bandwidths.scripted_job(tmp_path / "home", monkeypatch)
    return lambda **script: bandwidths.run_script(job, tmp_path / "script.json", monkeypatch, **script)


BANDWIDTH = """\
ok    bandwidth: GPU0 and GPU1 reach 13.1 GB/s, as their gen 4 x8 links allow
     way                      GB/s   90 % interval      expected     of theory
 ok  host to GPU0, pinned    13.10  12.97 to 13.23  11.8 to 14.5  83 % of 15.8
 ok  GPU0 to host, pinned    13.20  13.07 to 13.33  11.8 to 14.5  84 % of 15.8
 ok  host to GPU1, pinned    13.10  12.97 to 13.23  11.8 to 14.5  83 % of 15.8
 ok  GPU1 to host, pinned    13.30  13.17 to 13.43  11.8 to 14.5  84 % of 15.8
 ok  copy in GPU0              640      634 to 646    589 to 670   87 % of 736
 ok  copy in GPU1              641      635 to 647    589 to 670   87 % of 736
 ok  GPU0 to GPU1, P2P on    12.60  12.47 to 12.73  11.8 to 14.2  80 % of 15.8
 ok  GPU1 to GPU0, P2P on    12.50  12.38 to 12.62  11.8 to 14.2  79 % of 15.8
 ok  GPU0 and GPU1, P2P on    25.0    24.8 to 25.2  22.1 to 27.7  79 % of 31.5
 ok  GPU0 to GPU1, P2P off    6.10    6.04 to 6.16  5.20 to 11.2  39 % of 15.8
 ok  GPU1 to GPU0, P2P off    6.20    6.14 to 6.26  5.20 to 11.2  39 % of 15.8
 ok  GPU0 and GPU1, P2P off   9.00    8.91 to 9.09  7.88 to 15.4  29 % of 31.5
  how sure  39 copies, each read back where it arrived: all right; expected is what healthy
            published rigs reach
  more      rigbench report RUN bandwidth has every size
"""


def test_a_healthy_pairs_bandwidth(measured):
    holds(bandwidth.brief, measured(), BANDWIDTH)


BANDWIDTH_LOW = """\
warn  bandwidth: host to GPU1, pinned: 6.40 GB/s, where healthy rigs reach 11.8 to 14.5
       way                      GB/s   90 % interval      expected     of theory
 warn  host to GPU1, pinned     6.40    6.34 to 6.46  11.8 to 14.5  41 % of 15.8
 note  GPU1 to host, pinned    10.90  10.79 to 11.01  11.8 to 14.5  69 % of 15.8
 ok    host to GPU0, pinned    13.10  12.97 to 13.23  11.8 to 14.5  83 % of 15.8
 ok    GPU0 to host, pinned    13.20  13.07 to 13.33  11.8 to 14.5  84 % of 15.8
 ok    copy in GPU0              640      634 to 646    589 to 670   87 % of 736
 ok    copy in GPU1              641      635 to 647    589 to 670   87 % of 736
 ok    GPU0 to GPU1, P2P off    6.10    6.04 to 6.16  5.20 to 11.2  39 % of 15.8
 ok    GPU1 to GPU0, P2P off    6.20    6.14 to 6.26  5.20 to 11.2  39 % of 15.8
 ok    GPU0 and GPU1, P2P off   9.00    8.91 to 9.09  7.88 to 15.4  29 % of 31.5
  warn  host to GPU1, pinned reaches 41 % of its link: rigbench doctor --load says what holds it
        back
  note  peers, access on, not run: GPU0 and GPU1: the driver does not allow them peer access
  note  GPU1 to host, pinned: neither fine nor clearly low
  how sure  45 copies, each read back where it arrived: all right; expected is what healthy
            published rigs reach
  more      rigbench report RUN bandwidth has every size
"""


def test_a_slow_links_bandwidth(measured):
    refused = {"peers, access on": ["cuda:0 and cuda:1: the driver does not allow them peer access"]}
    holds(bandwidth.brief, measured(**{"GB/s": bandwidths.MORE, "not run": refused}), BANDWIDTH_LOW)


def test_copies_that_arrive_wrong_come_first(measured):
    script = {"GB/s": bandwidths.FINE, "wrong": ["cuda:0>host"]}
    assert printed(bandwidth.brief, measured(**script)).startswith(
        "fault bandwidth: 1 of 39 copies arrived WRONG; rates of wrong copies are not judged\n"
    )


BANDWIDTH_CPU = """\
note  bandwidth: this host's memory copies at 21.5 GB/s (21.2 to 21.6)
 where   threads  operation   GB/s          90 % interval
 node 0        1  copy        10.6           10.3 to 11.0
 node 0        2  copy        21.5           21.2 to 21.6
 node 0        1  triad      11.57  11.45 to 11.59 (88 %)
 node 0        2  triad       21.0           20.3 to 21.6
  cache   one thread copies an array again and again: 119.2 GB/s (119.2 to 119.2) at 4 KiB, 10.6
          GB/s (10.6 to 11.0, 88 %) at 256 MiB
  how sure  1,722 copies, each read back where it arrived: all right; a copy counts the bytes read
            and those written
  more      rigbench report RUN bandwidth has every size
"""


def test_a_hosts_bandwidth(run):
    holds(bandwidth.brief, run.bandwidth, BANDWIDTH_CPU)


def test_no_first_screen_of_many_gpus_is_longer_than_a_screen(measured):
    healthy: Bandwidth = measured()
    many = msgspec.structs.replace(healthy, judged=healthy.judged * 8)
    assert len(printed(bandwidth.brief, many).splitlines()) <= 40
    assert "82 more ways with --verbose" in printed(bandwidth.brief, many)


# ---- dataloader

LOADER = """\
ok    dataloader: the loader is over 100 times as fast as training needs
 path        workers  memory  M tokens/s  90 % interval  times the need
 own loader        0  warm           204     193 to 216        over 100
 own loader        0  cold          0.85   0.78 to 0.94        over 100
 memory map        0  warm            38       36 to 40        over 100
  note  warm numbers are of memory, not of a disk: the file was in it
  note  workers make this memory map slower: a batch is made sooner than it is handed from process
        to process
  note  on a CPU loading and training share the cores: N x headroom costs training up to 1/N of its
        time
  note  this is a virtual machine: its disk may answer from the memory of its host
  how sure  training needs 191 tokens/s (measured: the slice 120M of run 20261121-074413-f877, on
            cpu); at the fewest workers that are as fast as any
  more      rigbench report RUN dataloader has every number of workers, and the disk
"""


def test_a_loader_that_is_fast_enough_by_far(run):
    holds(dataloader.brief, run.dataloader, LOADER)


LOADER_COLD = """\
warn  dataloader: the loader is 1.3 times (1.1 to 1.4) as fast as training needs from memory, but
gives 67 % (59 to 74) of it from the disk
 path                workers  memory  M tokens/s  90 % interval  times the need
 jsonl                     2  warm          1.90   1.71 to 2.09             1.3
 jsonl                     2  cold          1.00   0.90 to 1.10            0.67
 own loader, packed        0  warm           150     135 to 165
 memory map, packed        0  warm            30       27 to 33
  warn  not run: jsonl, 16 workers: no room
  note  `rigbench pack`, then whole batches gathered at once: 79 times (68 to 91) as many tokens/s
  note  `rigbench pack`, then the same DataLoader on a memory map: 16 times (14 to 18) as many
        tokens/s
  note  jsonl: 2 workers, not 0: 1.9 times (1.6 to 2.2) as many tokens/s
  note  warm numbers are of memory, not of a disk: its first 64 MiB was in it
  note  4 workers were more than the 2 CPUs there are to use
  note  on a CPU the two share the cores: a loader N times as fast as training needs takes up to 1/N
        of the time
  how sure  training needs 1,500,000 tokens/s (measured: the slice 5M of run r1, on cpu); at the
            fewest workers that are as fast as any
  more      rigbench report RUN dataloader has every number of workers, and the disk
"""


def test_a_loader_whose_disk_is_too_slow():
    cold = loaders.result(
        [loaders.JSONL, *loaders.PACKED], loaders.needed(1.5e6), not_run=("jsonl, 16 workers: no room",)
    )
    holds(dataloader.brief, cold, LOADER_COLD)


@pytest.mark.parametrize(
    ("demand", "said"),
    [
        (loaders.needed(1e5), "ok    dataloader: the loader is 19 times (17 to 21) as fast as training needs\n"),
        (loaders.needed(1e3), "ok    dataloader: the loader is over 100 times as fast as training needs\n"),
        (
            loaders.needed(1.8e6),
            "note  dataloader: the loader gives 106 % (94 to 118) of what training needs: whether training waits\n",
        ),
        (
            loaders.needed(19e6),
            "warn  dataloader: training waits for the loader, which gives 10.0 % (8.9 to 11.1) of what it needs\n",
        ),
        (
            loaders.command.NO_DEMAND,
            "note  dataloader: 1.90 M tokens/s (1.71 to 2.09) at 2 workers; what training needs is not known (no\n",
        ),
    ],
)
def test_a_loaders_verdict_claims_no_more_than_its_intervals(demand, said):
    warm = msgspec.structs.replace(loaders.JSONL, cold=loaders.NOTHING)
    assert printed(dataloader.brief, loaders.result([warm], demand)).startswith(said)


# ---- p2p

P2P_LOST = """\
fault p2p: P2P is broken between GPU0 and GPU1: wrong data with P2P as it is, and not with P2P off
 setting       ended     checks  wrong  all_reduce 16 MiB
 P2P off       finished      20      0            2.00 ms
 P2P as it is  finished      20      5            1.00 ms
  note  P2P off came through right
  note  torch's own copies between GPUs inside one process (.to, DataParallel) use peer access
        whatever is exported; go through the host there
  note  a known cause is present here: `rigbench explain acs-redirect`
  to set  export NCCL_P2P_DISABLE=1
  how sure  40 checks by the GPU that received the data; one try a setting
  more      rigbench report RUN p2p has every try and the evidence of each pair
"""


def test_p2p_that_loses_data():
    facts = ("cards of one kind: NVIDIA GeForce RTX 4090", "ACS redirects peer traffic at 0000:00:01.0")
    tries = peers.arm(peers.OFF, seconds=2e-3), peers.arm(peers.AS_IT_IS, "wrong", seconds=1e-3)
    holds(p2p.brief, peers.answer(*tries, known=(peers.pair(facts=facts),)), P2P_LOST)


P2P_FASTER = """\
ok    p2p: P2P works between GPU0 and GPU1, and P2P at any distance is 2.00 times (1.99 to 2.01) as
fast as the host's memory
 setting              ended     checks  wrong  all_reduce 16 MiB  times P2P off  90 % interval
 P2P off              finished      60      0            2.01 ms              –              –
 P2P as it is         finished      60      0            2.01 ms           1.00   1.00 to 1.00
 P2P at any distance  finished      60      0            1.00 ms           2.00   1.99 to 2.01
  note  P2P at any distance is 2.00 times as fast as P2P as it is in all_reduce (1.99 to 2.01)
  note  this shell sets NCCL_P2P_LEVEL=SYS, which is not advised
  to set  export NCCL_P2P_LEVEL=PHB
  how sure  180 checks by the GPU that received the data; each setting tried 3 times, in turns
  more      rigbench report RUN p2p has every try and the evidence of each pair
"""


def test_p2p_that_is_faster_with_a_word_to_nccl():
    tries = peers.turns(off=peers.SLOW, default=peers.SLOW, far=peers.FAST)
    staged = [peers.REPLACE(it, transports=Tally({"SHM/direct": 4})) if not it.environment else it for it in tries]
    holds(p2p.brief, peers.answer(*staged, inherited={"NCCL_P2P_LEVEL": "SYS"}), P2P_FASTER)


P2P_HUNG = """\
fault p2p: P2P is broken between 3 GPUs: 1 of 3 pairs: it hung with P2P as it is, and not with P2P
off
 setting       ended     checks  wrong
 P2P off       finished      45      0
 P2P as it is  hung          30      0
  fault  GPU1 and GPU2: broken, it hung with P2P as it is, and not with P2P off
  fault  P2P as it is hung at send/recv GPU1 ↔ GPU2, 4 B: no answer within 120 s; its processes were
         ended
  warn   GPU0 and GPU1, GPU0 and GPU2: inconclusive, it ended before everything was checked with P2P
         on
  note   P2P off came through right
  to set  export NCCL_P2P_DISABLE=1
  how sure  75 checks by the GPU that received the data; one try a setting
  more      rigbench report RUN p2p has every try and the evidence of each pair
"""


def test_p2p_that_hangs_between_two_of_three():
    at = {"at": "send/recv GPU1 ↔ GPU2, 4 B", "at_devices": ("GPU1", "GPU2")}
    hung = peers.arm(peers.AS_IT_IS, "hung", names=peers.THREE, **at)
    holds(p2p.brief, peers.answer(peers.arm(peers.OFF, names=peers.THREE), hung, known=()), P2P_HUNG)


def test_p2p_without_two_gpus_is_one_line(run):
    assert printed(p2p.brief, run.p2p).startswith("note  p2p: P2P is not applicable: ")


# ---- collectives

GROUP = """\
ok    collectives: all_reduce 21.3 GB/s (20.9 to 21.7) at 1 GiB between 4 GPUs
 operation   latency  90 % interval  bus GB/s  90 % interval  correct
 all_reduce  33.0 µs   32.3 to 33.7      21.3   20.9 to 21.7    16/16
 broadcast   21.0 µs   20.6 to 21.4      12.2   12.0 to 12.4    16/16
  over     SHM/direct (4 channels), as NCCL's log says
  slowest  ranks 0 and 1 alone: 10.00 GB/s (9.80 to 10.20) each way at once; the fastest pair 14.0
           GB/s
  how sure  latency at 16 B, bus bandwidth at 1 GiB; 88 results compared value by value on each
            rank: all right
  more      rigbench report RUN collectives has the line through all sizes, and every pair
"""


def test_collectives_of_four_gpus():
    holds(collectives.brief, groups.ON_GPUS, GROUP)


GROUP_CPU = """\
ok    collectives: all_reduce 1.0 GB/s (0.9 to 2.0, 88 %) at 16 MiB between 2 processes on the CPU
 operation       latency  90 % interval  bus GB/s        90 % interval  correct
 all_reduce       260 µs     200 to 310       1.0    0.9 to 2.0 (88 %)    48/48
 all_gather       280 µs     260 to 310      0.56         0.30 to 0.65    48/48
 reduce_scatter   340 µs     300 to 450      0.39  0.33 to 0.47 (50 %)    48/48
 broadcast        180 µs     164 to 189       2.6           2.4 to 3.1    48/48
 reduce           265 µs     254 to 282       1.0    0.9 to 1.7 (75 %)    48/48
 all_to_all       222 µs     203 to 239      1.08         0.90 to 1.15    48/48
 send_recv        190 µs     180 to 230      1.64         1.40 to 1.77    48/48
  over    TCP over lo 127.0.0.1 to 127.0.0.1
  how sure  latency at 8 B, bus bandwidth at 16 MiB; 336 results compared value by value on each
            rank: all right
  more      rigbench report RUN collectives has the line through all sizes, and every pair
"""


def test_collectives_on_a_cpu(run):
    holds(collectives.brief, run.collectives, GROUP_CPU)


def test_collectives_that_went_wrong_say_so_first():
    wrong = msgspec.structs.replace(groups.ON_GPUS, verdict="wrong values", reason="all_gather brought 2 wrong values")
    said = printed(collectives.brief, wrong)
    assert said.startswith("fault collectives: wrong values: all_gather brought 2 wrong values\n")
    odd = msgspec.structs.replace(groups.ON_GPUS, odd_hosts=(OddHost(0, "sending", 24e6, 118e6),))
    said = printed(collectives.brief, odd)
    assert said.startswith("warn  collectives: host 0 is slow sending: 24.0 MB/s at best, the other hosts 118 MB/s; ")


# ---- matmul

MATMUL = """\
ok    matmul: bf16 153.6 TFLOP/s (152.1 to 155.1) per GPU sustained, 93 % of the datasheet
 dtype  TFLOP/s   90 % interval  of the datasheet  sustained ÷ beginning   90 % interval  results
 bf16     153.6  152.1 to 155.1              93 %                  0.952  0.939 to 0.966  correct
  note  2 GPUs at once: 285 TFLOP/s; cuda:1 is the slowest, 10 % behind the others, and sets the
        pace
  note  not run: fp8: needs compute capability 8.9, this GPU has 8.6
  note  not run: 2 of the model's 15 products in bf16: ran out of time
  heat    bf16: 72 °C, 430 W, 2,520 MHz
  how sure  the last 6.70 s of 20.0 s of load; the fastest of 4 shapes
  more      rigbench report RUN matmul has every size, and each layer's own products
"""


def test_products_on_two_gpus():
    right = msgspec.structs.replace(products.RESULT, shapes=products.RESULT.shapes[:3])
    holds(matmul.brief, msgspec.structs.replace(right, ceilings=products.RESULT.ceilings[:1]), MATMUL)


MATMUL_WRONG = """\
fault matmul: WRONG RESULTS in fp32 and bf16 head
 dtype  TFLOP/s   90 % interval  of the datasheet  sustained ÷ beginning   90 % interval  results
 bf16     153.6  152.1 to 155.1              93 %                  0.952  0.939 to 0.966  correct
 fp32      60.0    59.4 to 60.6                 –                  0.952  0.939 to 0.966  WRONG
  note  2 GPUs at once: 285 TFLOP/s; cuda:1 is the slowest, 10 % behind the others, and sets the
        pace
  note  not run: fp8: needs compute capability 8.9, this GPU has 8.6
  note  not run: 2 of the model's 15 products in bf16: ran out of time
  heat    bf16: 72 °C, 430 W, 2,520 MHz
  heat    fp32: 72 °C, 430 W, 2,520 MHz
  how sure  the last 6.70 s of 20.0 s of load; the fastest of 4 shapes
  more      rigbench report RUN matmul has every size, and each layer's own products
"""


def test_products_that_are_wrong():
    holds(matmul.brief, products.RESULT, MATMUL_WRONG)


MATMUL_CPU = """\
ok    matmul: bf16 49.7 GFLOP/s (49.1 to 50.3) sustained, no datasheet to hold it against
 dtype  GFLOP/s  90 % interval  of the datasheet  sustained ÷ beginning  90 % interval  results
 bf16      49.7   49.1 to 50.3                 –                   0.99   0.97 to 1.02  correct
 fp32       245     237 to 254                 –                   1.02   0.94 to 1.10  correct
  note  not run: 2 of the model's 15 products in bf16: the time was up
  model   120M's own products in fp32: 4.78 s (one sample) a step expected for 759 GFLOP: 159
          GFLOP/s, 65 % of the ceiling
  how sure  the last 757 ms of 2.27 s of load; the fastest of 12 to 20 shapes (by dtype)
  more      rigbench report RUN matmul has every size, and each layer's own products
"""


def test_products_on_a_cpu(run):
    holds(matmul.brief, run.matmul, MATMUL_CPU)


def test_an_interrupted_load_has_no_ceiling():
    short = [msgspec.structs.replace(it, hot=Absent("interrupted after 3 s")) for it in products.RESULT.ceilings[:1]]
    result = msgspec.structs.replace(products.RESULT, shapes=(), ceilings=tuple(short), best_flops_per_s={})
    assert printed(matmul.brief, result).startswith("warn  matmul: no ceiling was found: interrupted after 3 s\n")


# ---- thermals

HEAT = """\
warn  thermals: GPU1 slows itself down at 84 °C, 58 % of the time, its clock 13 % lower
 card  °C           settles at  target    W  limit    MHz    fan
 GPU0  72                           84  296    320  2,522   44 %
 GPU1  84  84.0 (83.6 to 84.4)      84  237    320  2,181  100 %
  warn  GPU1: thermal slowdown by the driver, first after 1 min 40 s; work that follows the clock
        takes 15 % longer meanwhile, and cards that train in step wait for it; cure: more air (space
        between cards, dust, case fans, fan curve), or about the watts that it can cool, no slower
        than now: sudo nvidia-smi -i 1 -pl 235
  note  GPU0 is not settled: it may still change by up to 1.6 °C in the next 5 min
  note  at the power limit, as is normal under load: GPU0 9.2 %, GPU1 11 % of the time
  note  GPU1 is the hottest, 12 °C above the other
  note  composed recording: one real RTX 4080 SUPER recording placed twice, x8/x8; the upper card
        runs hot (exponential, tau 95 s, settling at its 84 C target)
  GPU0  °C   43.0 ▁▁▂▂▃▄▄▄▅▅▅▆▆▆▆▇▇▇▇▇▇▇██████████████████████████████████████████████████ 72.0
  GPU0  MHz 2,550 ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▆▆▅▅▅▅▄▄▄▄▄▄▄▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂ 2,520
  GPU1  °C   41.0 ▁▁▂▂▃▃▄▄▄▅▅▅▆▆▆▆▇▇▇▇▇███████████████████████████████████████████████████ 84.0
  GPU1  MHz 2,550 ████████████████████▇▇▇▇▇▇▇▇▇▇▇▆▆▅▅▅▄▄▄▄▃▃▃▃▃▂▂▂▂▂▂▂▂▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁ 2,150
  how sure  thermals of a recording: 240 readings, taken as 1 s apart; no load was run, so no
            throughput; `rigbench thermals` on the rig itself shows that too
  more      rigbench report RUN thermals has the fits and every chart
"""


def test_a_card_that_slows_itself_down(tmp_path):
    holds(thermals.brief, heat.replayed(heat.RECORDINGS["heat"], tmp_path), HEAT)


HEAT_BRAKE = """\
fault thermals: GPU1 is slowed down by hardware power brake, 13 % of the time, its clock 54 % lower
 card  °C           settles at  target    W  limit    MHz   fan
 GPU0  66  66.3 (66.2 to 66.3)      84  290    320  2,610  62 %
 GPU1  66  66.2 (66.2 to 66.3)      84  254    320  2,328  62 %
  fault  GPU1: hardware power brake, first after 1 min 40 s; work that follows the clock takes 117 %
         longer meanwhile, and cards that train in step wait for it; cure: its power is cut from
         outside: check power supply, cables and connectors before any long run
  note   composed recording: one real RTX 4080 SUPER recording placed twice, x8/x8; under load by
         tests/heat/record.py, power-brake
  GPU0  °C   40.0 ▁▁▂▃▃▄▄▅▅▅▅▆▆▆▇▇▇▇▇▇▇▇██████████████████████████████████████████████████ 66.0
  GPU0  MHz 2,610 ▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅ 2,610
  GPU1  °C   41.0 ▁▁▂▂▃▃▄▄▅▅▅▆▆▆▆▇▇▇▇▇▇▇██████████████████████████████████████████████████ 66.0
  GPU1  MHz 2,610 ████████████████████████▁███▇▃███▅▅███▅▅███▃▇███▁███▇▃███▇▄███▅▅███▃▇███ 2,610
  how sure  thermals of a recording: 300 readings, taken as 1 s apart; no load was run, so no
            throughput; `rigbench thermals` on the rig itself shows that too
  more      rigbench report RUN thermals has the fits and every chart
"""


def test_a_card_whose_power_is_cut(tmp_path):
    holds(thermals.brief, heat.replayed(heat.RECORDINGS["power-brake"], tmp_path), HEAT_BRAKE)


HEAT_LOST = """\
fault thermals: GPU1: GPU is lost after 120 s of load; what it reported before is kept
 card  °C           settles at  target    W  limit    MHz   fan
 GPU0  69  69.4 (69.3 to 69.4)      84  295    320  2,610  68 %
 GPU1  74                           84  295    320  2,610  79 %
  note  GPU1 is not settled: it may still change by up to 8.9 °C in the next 5 min
  note  GPU1 is the hottest, 5 °C above the other
  note  composed recording: one real RTX 4080 SUPER recording placed twice, x8/x8; under load by
        tests/heat/record.py, lost-midway
  GPU0  °C   39.0 ▁▁▂▃▃▃▄▄▅▅▅▆▆▆▆▆▇▇▇▇▇▇▇█████████████████████████████████████████████████ 69.0
  GPU0  MHz 2,610 ▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅ 2,610
  GPU1  °C   42.0 ▁▁▁▂▂▂▃▃▃▄▄▄▄▅▅▅▅▅▅▆▆▆▆▇▇▇▇▇▇▇▇▇▇█▇█████████████████████████████████████ 75.0
  GPU1  MHz 2,610 ▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅ 2,610
  how sure  thermals of a recording: 300 readings, taken as 1 s apart; no load was run, so no
            throughput; `rigbench thermals` on the rig itself shows that too
  more      rigbench report RUN thermals has the fits and every chart
"""


def test_a_card_that_was_lost_under_load(tmp_path):
    holds(thermals.brief, heat.replayed(heat.RECORDINGS["lost-midway"], tmp_path), HEAT_LOST)


HEAT_SETTLED = """\
ok    thermals: GPU0 settles at 66 °C, and nothing slows down
 card  °C           settles at  target    W  limit    MHz   fan
 GPU0  66  66.3 (66.2 to 66.3)      84  290    320  2,610  62 %
  GPU0  °C   40.0 ▁▁▂▃▃▄▄▅▅▅▅▆▆▆▇▇▇▇▇▇▇▇██████████████████████████████████████████████████ 66.0
  GPU0  MHz 2,610 ▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅ 2,610
  how sure  thermals of a recording: 300 readings, taken as 1 s apart; no load was run, so no
            throughput; `rigbench thermals` on the rig itself shows that too
  more      rigbench report RUN thermals has the fits and every chart
"""


def test_a_card_that_is_not_settled_is_said_once_and_has_no_settled_temperature():
    result = store.read(Path(__file__).parent / "runs" / "heat-h200.json").thermals
    first, *rest = printed(thermals.brief, result).splitlines()
    assert first.startswith("note  thermals: GPU0 had not settled after 1 min: it may still change by up to 3.3 °C in")
    assert not any("settle" in line for line in rest)
    settled = msgspec.structs.replace(result.cards[0].settled, settled=True)
    cards = (msgspec.structs.replace(result.cards[0], settled=settled),)
    assert "settles at" in printed(thermals.brief, msgspec.structs.replace(result, cards=cards)).splitlines()[1]


def test_cards_that_are_fine(tmp_path):
    result = heat.replayed(heat.RECORDINGS["power-brake"], tmp_path)
    fine = msgspec.structs.replace(result, cards=result.cards[:1], hottest=Absent("one device"), notes=())
    holds(thermals.brief, fine, HEAT_SETTLED)
    blind = msgspec.structs.replace(fine.cards[0], fit=Absent("no temperature"))
    said = printed(thermals.brief, msgspec.structs.replace(fine, cards=(blind,)))
    assert said.startswith("ok    thermals: GPU0 settled in throughput, and no temperature can be read\n")
    stopped = msgspec.structs.replace(fine, ended_by="interrupted", ended_because="stopped by SIGTERM")
    assert printed(thermals.brief, stopped).startswith(
        "warn  thermals: ended before it was settled: stopped by SIGTERM\n"
    )


# ---- topology

RIG = """\
ok    topology: 2 × RTX 4080 SUPER, each gen 4 x8 (x16 possible), no P2P, ReBAR on
 GPU   link                     GB/s at best        expect  memory  °C  limit, W
 GPU0  gen 4 x8 (x16 possible)          15.8  11.8 to 14.5  16 GiB  43       320
 GPU1  gen 4 x8 (x16 possible)          15.8  11.8 to 14.5  16 GiB  41       320
  note  GPU0 and GPU1: the slot is x8, the card below it x16
  note  no P2P: code 1 was seen where the chipset is not in the driver's table, or the driver
        withholds P2P from GeForce cards
  note  composed recording: one real RTX 4080 SUPER recording placed twice, x8/x8
  host    Intel(R) Core(TM) i7-14700K, 28 CPUs, Linux 6.8.0, NVIDIA driver 595.71.05
                           link now  at best   GB/s
  pci0000:00
  ├─ 0000:00:01.0 bridge             gen 5 x8
  │  └─ 0000:01:00.0 GPU0  gen 1 x8  gen 4 x8  15.8
  └─ 0000:00:01.1 bridge             gen 5 x8
     └─ 0000:03:00.0 GPU1  gen 1 x8  gen 4 x8  15.8
  how sure  as the system and the driver report it; nothing was measured, and nothing diagnosed:
            rigbench doctor does
  more      rigbench report RUN topology has the whole tree, the matrix and disks
"""


def test_two_cards_in_slots_of_eight_lanes():
    holds(topology.brief, rigs.read(Rig.replay(rigs.RIGS / "dual-rtx4080s-x8x8")), RIG)


RIG_PARTLY_KNOWN = """\
note  topology: 4 × RTX 4090, each link not reported, P2P not reported
 GPU   link
 GPU0  not reported
 GPU1  not reported
 GPU2  not reported
 GPU3  not reported
  host    16 CPUs, Linux 6.8.0, NVIDIA driver 595.58.03
                           link now      at best  GB/s
  pci0000:80
  ├─ 0000:80:01.1 bridge
  │  └─ 0000:81:00.0 GPU0  not reported
  └─ 0000:80:03.1 bridge
     └─ 0000:82:00.0 GPU1  not reported
  pci0000:c0
  ├─ 0000:c0:01.1 bridge
  │  └─ 0000:c1:00.0 GPU2  not reported
  └─ 0000:c0:03.1 bridge
     └─ 0000:c2:00.0 GPU3  not reported
  how sure  as the system and the driver report it; nothing was measured, and nothing diagnosed:
            rigbench doctor does
  more      rigbench report RUN topology has the whole tree, the matrix and disks
"""


def test_a_rig_that_is_known_in_part_is_not_called_fine():
    holds(topology.brief, rigs.read(Rig.replay(rigs.RIGS / "epyc7502-4x4090")), RIG_PARTLY_KNOWN)


@pytest.mark.parametrize("name", rigs.ALL)
def test_every_recorded_rig_fits_one_screen(name):
    shown = printed(topology.brief, rigs.read(Rig.replay(rigs.RIGS / name)))
    assert len(shown.splitlines()) <= 40


RIG_WITHOUT_GPU = """\
note  topology: no GPU: Intel(R) Xeon(R) Processor @ 2.50GHz, 23.5 GiB
  note  GPUs: no NVIDIA driver found (libnvidia-ml.so.1); install it, or replay a capture with
        --replay DIR
  host    Intel(R) Xeon(R) Processor @ 2.50GHz, 2 CPUs, 23.5 GiB, Linux 6.18.44-fc-v595
  how sure  as the system and the driver report it; nothing was measured, and nothing diagnosed:
            rigbench doctor does
  more      rigbench report RUN topology has the whole tree, the matrix and disks
"""


def test_a_host_without_a_gpu(run):
    holds(topology.brief, run.topology, RIG_WITHOUT_GPU)


# ---- profiles

DIY = """\
series diy: GPT-2 style, tied head, vocabulary 50304, sequence 1024: sizes people reproduce at home
 name  layers  width  heads  vocabulary  sequence   parameters
 5M         4     96      3      50,304     1,024    5,375,040
 15M        5    224      7      50,304     1,024   14,523,040
 30M        6    384      6      50,304     1,024   30,357,504
 60M        8    576      9      50,304     1,024   61,476,480
 120M      12    768     12      50,304     1,024  124,475,904
source: rigbench; 120M is GPT-2 small with its vocabulary padded to a multiple of 128, as in
karpathy/llm.c
"""


def lines(show, width: int = 100) -> list[str]:
    return printed(lambda _result, console, _quiet: show(console), None, width).splitlines()


def test_a_series_is_a_table_of_its_models():
    assert "\n".join(lines(lambda console: report.show_profile("diy", console))) + "\n" == DIY


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_profiles_are_listed_whole_at_every_width(width):
    gpus = [gpu.id for gpu in profiles.gpus()]
    names = {*gpus, *(rig.name for rig in profiles.rigs()), *(model.name for model in shape.models())}
    first, whole = lines(report.brief_profiles, width), lines(report.show_profiles, width)
    assert max(map(len, first + whole)) <= width
    many = {name for name in names if name.startswith("chinchilla-")}  # told by the ends and their number
    assert names - many <= set(re.findall(r"[\w.-]+", " ".join(first)))
    assert names <= set(re.findall(r"[\w.-]+", " ".join(whole)))
    assert width < 100 or len(first) <= 40
    rows = [line.split() for line in whole if line.split() and line.split()[0] in gpus]
    shown = [row[0] for row in rows]
    assert shown.index("rtx-3060") < shown.index("rtx-3090") < shown.index("rtx-4070") < shown.index("rtx-5090")
    assert [word for row in rows if row[0] == "rtx-3090" for word in row[1:]] == ["71.0", "35.6", "24", "936.2", "350"]
