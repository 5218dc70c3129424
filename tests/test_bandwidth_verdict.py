"""Do the bands put published healthy rigs in fine, sick ones in low, and what cannot be told in unknown?"""

import csv
from pathlib import Path

import pytest

from rigbench.bandwidth import verdict
from rigbench.core import profiles
from rigbench.core.record import Absent, Figure
from rigbench.machine import links

ROWS = list(csv.DictReader((Path(__file__).parent / "data" / "published_bandwidth.csv").open()))
GIGATRANSFERS = {3: 8.0, 4: 16.0, 5: 32.0}


def theory(link: str) -> float:
    """ "gen 4 x16" or "936.2 GB/s" in bytes per second one way; gen 3 to 5 carry 128 of 130 bits."""
    if link.endswith("GB/s"):
        return float(link.split()[0]) * 1e9
    _, generation, lanes = link.split()
    return GIGATRANSFERS[int(generation)] * 1e9 * int(lanes[1:]) * 128 / 130 / 8


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['id']}-{row['band']}" for row in ROWS])
def test_a_published_rig_lands_where_it_belongs(row):
    judgement = verdict.judge(
        float(row["gb_per_s"]) * 1e9,
        theory(row["link"]),
        getattr(verdict, row["band"]),
        size_bytes=int(row["size_bytes"]) if row["size_bytes"] else None,
        correct=row["data_correct"] == "yes",
    )
    assert judgement.verdict == row["expected"], judgement.reason


def test_every_healthy_row_is_within_what_its_band_says_that_healthy_rigs_reach():
    """The sentence "reach 36 to 71 %" must be true of the rows that it was made from."""
    for row in ROWS:
        band = getattr(verdict, row["band"])
        share = float(row["gb_per_s"]) * 1e9 / theory(row["link"]) / band.directions
        if row["expected"] == "fine":
            assert band.worst - 0.005 <= share <= band.best + 0.005, row["id"]


def every_band() -> list[verdict.Band]:
    return [value for value in vars(verdict).values() if isinstance(value, verdict.Band)]


def test_every_band_is_in_order_and_reachable():
    assert len(every_band()) >= 10
    for band in every_band():
        assert 0 < band.low_below < band.fine_from <= band.worst <= band.best <= band.at_most


def test_the_host_links_band_is_the_one_that_the_topology_expects():
    assert (verdict.HOST_LINK.fine_from, verdict.HOST_LINK.best) == (links.EXPECTED_LOW, links.EXPECTED_HIGH)


def test_the_verdict_changes_at_the_edges_of_the_band():
    at = {
        share: verdict.judge(share * 1e10, 1e10, verdict.HOST_LINK).verdict for share in (0.59, 0.61, 0.74, 0.75, 1.02)
    }
    assert at == {0.59: "low", 0.61: "unknown", 0.74: "unknown", 0.75: "fine", 1.02: "fine"}
    beyond = verdict.judge(1.1e10, 1e10, verdict.HOST_LINK)
    assert beyond.verdict == "unknown"
    assert "more than there is in theory" in beyond.reason


def test_what_is_expected_is_said_in_bytes_per_second():
    judgement = verdict.judge(20e9, 31.5e9, verdict.HOST_LINK)
    assert isinstance(judgement.expected, Figure)
    assert (judgement.expected.low, judgement.expected.high) == (0.75 * 31.5e9, 0.92 * 31.5e9)
    assert judgement.share == 20 / 31.5
    assert judgement.reason == "neither fine nor clearly low"
    assert verdict.HOST_LINK.basis == "pinned copies on healthy published rigs reach 75 to 92 %"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"theory_bytes_per_s": Absent("the card is idle")}, "the card is idle"),
        ({"band": Absent("no published rig")}, "no published rig"),
        ({"size_bytes": 4096}, "4 KiB is mostly latency"),
        (
            {"links_unread": 1, "bytes_per_s": 5e9},
            "1 of the links on the way could not be read: the theory is an upper bound",
        ),
        ({"correct": False}, "the data arrived wrong"),
    ],
)
def test_what_cannot_be_told_says_why(facts, words):
    given = {"bytes_per_s": 26e9, "theory_bytes_per_s": 31.5e9, "band": verdict.HOST_LINK} | facts
    judgement = verdict.judge(**given)
    assert judgement.verdict == "unknown"
    assert words in judgement.reason


def test_an_upper_bound_of_the_theory_is_enough_to_be_fine():
    assert verdict.judge(26e9, 31.5e9, verdict.HOST_LINK, links_unread=1).verdict == "fine"


@pytest.mark.parametrize(
    ("label", "access", "way"),
    [
        ("NV4", True, "NVLink"),
        ("NV4", False, "host memory"),
        ("PHB", True, "peer access"),
        ("NODE", True, "peer access"),
        ("SYS", True, "peer access across sockets"),
        ("SYS", False, "host memory"),
    ],
)
def test_what_a_copy_between_gpus_goes_through(label, access, way):
    assert verdict.through(label, access) == way
    assert isinstance(verdict.busbw_band(way), verdict.Band)
    assert isinstance(verdict.peer_band(way, False), verdict.Band)


def test_both_ways_across_sockets_has_no_published_rig():
    assert isinstance(verdict.peer_band("peer access across sockets", True), Absent)


def test_an_nvlinks_rate_divides_the_datasheet_of_every_card_that_has_some():
    """Cards of one capability differ in their number of links, never in one link's rate."""
    checked = 0
    for gpu in profiles.gpus():
        rate = verdict.NVLINK_BYTES_PER_S.get(gpu.compute_capability)
        if gpu.nvlink_gb_per_s_per_direction and rate:
            links_of_card = gpu.nvlink_gb_per_s_per_direction * 1e9 / rate
            assert links_of_card == pytest.approx(round(links_of_card)), gpu.id
            checked += 1
    assert checked >= 5
    assert isinstance(verdict.nvlink_theory(4, "12.0"), Absent)
    assert verdict.nvlink_theory(4, "8.6") == pytest.approx(56.25e9)


BANDS = {name: band for name, band in vars(verdict).items() if isinstance(band, verdict.Band)}


@pytest.mark.parametrize("name", BANDS)
def test_low_is_a_fifth_below_the_worst_healthy_rig_that_was_published(name):
    band = BANDS[name]
    assert band.low_below <= 0.8 * band.worst < band.fine_from <= band.worst <= band.best <= band.at_most
