"""Is each first screen what its user should see: the verdict first, whole numbers at every width, on one screen?"""

from __future__ import annotations

import io
import re
from pathlib import Path

import msgspec
import pytest
import test_bandwidth_command as bandwidths
import test_dataloader_stage as loaders
from rich.console import Console

from rigbench import store
from rigbench.bandwidth import screen as bandwidth
from rigbench.bandwidth.record import Bandwidth
from rigbench.dataloader import screen as dataloader
from rigbench.document import Run

NUMBER = re.compile(r"\d(?:[\d,.]*\d)?")
STORED = Path(__file__).parents[1] / "reports" / "xeon-2.5ghz-2-cores" / "run-quick-every-probe.json"


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
