"""Do the bands put published healthy rigs in fine, sick ones in low, and what cannot be told in unknown?"""

import csv
from pathlib import Path

import msgspec
import pytest
from fake_bandwidth import transfer
from scripted_sensors import series, telemetry

from rigbench.bandwidth import verdict
from rigbench.bandwidth.record import Bandwidth, BandwidthPart, Transfer
from rigbench.core import profiles
from rigbench.core.record import Absent, Figure
from rigbench.machine import links
from rigbench.machine.rig import Rig
from rigbench.topology import survey

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


@pytest.mark.parametrize("name", sorted({row["band"] for row in ROWS if row["expected"] == "fine"} - {"HOST_LINK"}))
def test_the_worst_and_the_best_of_a_band_are_published_rigs(name):
    rows = [row for row in ROWS if (row["band"], row["expected"]) == (name, "fine")]
    band = getattr(verdict, name)
    shares = [float(row["gb_per_s"]) * 1e9 / theory(row["link"]) / band.directions for row in rows]
    assert (min(shares), max(shares)) == pytest.approx((band.worst, band.best), abs=0.006)


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
    assert 0 < band.low_below <= 0.8 * band.worst < band.fine_from <= band.worst <= band.best <= verdict.AT_MOST


def test_an_nvlink_is_its_datasheets_rate_over_its_number_of_links():
    # NVIDIA's datasheets, one way: V100 150 GB/s, Quadro RTX 8000 50, A100 300, A40 56.25, H100 450, B200 900
    sheets = [("7.0", 6, 150e9), ("7.5", 2, 50e9), ("8.0", 12, 300e9), ("8.6", 4, 56.25e9), ("9.0", 18, 450e9)]
    for capability, count, rate in [*sheets, ("10.0", 18, 900e9)]:
        assert verdict.nvlink_theory(count, capability) == pytest.approx(rate)


def test_messages_of_less_than_16_mib_are_mostly_latency():
    held = [verdict.judge(0.7e10, 1e10, verdict.PEER, size_bytes=(16 << 20) - less).reason for less in (0, 1)]
    assert "latency" not in held[0]
    assert "is mostly latency" in held[1]


NO_LINK = Absent("no link takes part")


def two_cards(*transfers: Transfer, **facts) -> Bandwidth:
    """Copies of a recorded desktop: two cards at x8 of generation 4, 15.75 GB/s each, without NVLink."""
    rig = survey.run(Rig.replay(Path(__file__).parent / "rigs" / "dual-rtx4080s-x8x8"), profiles.match_gpu)
    parts = facts.pop("parts", None) or (part(*transfers),)
    sheet = {"GPU0": Figure(736.3e9, "datasheet", "NVIDIA")}
    given = {"virtual_machine": Absent("none"), "gpus": rig.gpus, "links": rig.paths, "pairs": rig.pairs}
    given |= {"method": 1, "started_at": "2026-11-29T00:00:00Z", "seconds": 1.0, "verdict": "unknown", "judged": ()}
    return Bandwidth(**given | {"parts": parts, "memory_datasheet": sheet} | facts)


def part(*transfers: Transfer, **facts) -> BandwidthPart:
    given = {"name": "a part", "devices": (), "seconds": 1.0, "host_cpus": Absent("none"), "not_run": ()}
    return BandwidthPart(**given | {"transfers": transfers, "ended": "finished"} | facts)


def held(result: Bandwidth) -> list[tuple]:
    """Way, size in MiB, GB/s, verdict and share of each, as the answer has them."""
    ways = verdict.judged(result)
    shares = [
        it.judgement.share if isinstance(it.judgement.share, Absent) else round(it.judgement.share, 3) for it in ways
    ]
    return [
        (it.way, it.size_bytes >> 20, it.bytes_per_s / 1e9, it.judgement.verdict, share)
        for it, share in zip(ways, shares, strict=True)
    ]


def test_every_way_of_a_desktop_is_held_against_its_own_theory():
    copies = [
        transfer("host>GPU0", 13.0),  # 13.0 of 15.754
        transfer("host>GPU0@16777216", 13.2),  # 16 MiB are enough
        transfer("host>GPU0@8388608", 15.0),  # 8 MiB are not
        transfer("host>GPU0~", 6.0),  # pageable: held against nothing
        transfer("host=>GPU0", 25.0),  # both ways: nothing published
        transfer("GPU0>host", 9.0),
        transfer("GPU0>GPU0", 650.0),
        transfer("GPU0>GPU1-", 5.0),  # staged: one link each way
        transfer("GPU0=>GPU1-", 5.0),
        transfer("GPU0>GPU1+", 10.0),
        transfer("host>host", 20.0, clock="host", host_memory=NO_LINK),
        transfer("host>host", 90.0, clock="host", host_memory=NO_LINK, warm=True),  # of a cache
    ]
    nothing = Absent("no published figure to hold this host's memory against")
    assert held(two_cards(*copies)) == [
        ("this host's memory", 256, 20.0, "unknown", nothing),
        ("host to GPU0, pinned", 16, 13.2, "fine", 0.838),
        ("GPU0 to host, pinned", 256, 9.0, "low", 0.571),
        ("copy in GPU0", 256, 650.0, "fine", 0.883),
        ("GPU0 to GPU1, P2P off", 256, 5.0, "unknown", 0.317),
        ("GPU0 and GPU1, P2P off", 256, 5.0, "low", 0.159),
        ("GPU0 to GPU1, P2P on", 256, 10.0, "unknown", 0.635),
    ]


def test_a_slow_link_is_a_finding_that_says_what_was_expected_and_a_wrong_copy_is_a_fault():
    slow = transfer("GPU0>host", 9.0)
    (found,) = verdict.diagnose(two_cards(slow))
    assert (found.code, found.where) == ("bandwidth-low", ("GPU0",))
    assert found.evidence[0] == "GPU0 to host, pinned: 9.00 GB/s where 11.8 GB/s to 14.5 GB/s are expected"
    wrong = verdict.diagnose(two_cards(slow, transfer("host>GPU0", 13.0, correct=False)))
    first = next(wrong)
    assert (first.code, first.severity) == ("copies-wrong", "fault")
    assert first.evidence == (
        "bandwidth copy from host to GPU0, 256 MiB: 1 of 3 arrived wrong (2 values, the first at byte 4096)",
    )
    memory = verdict.diagnose(two_cards(transfer("GPU0>GPU0", 300.0)))
    assert [it.cost.reason for it in memory] == ["the card's own memory: what is predicted takes this rate already"]


@pytest.mark.parametrize(
    ("ended", "answer"),
    [(("finished", "died", "hung"), "hung"), (("died", "finished"), "died"), (("finished",), "fine")],
)
def test_a_part_that_hung_outweighs_one_that_died(ended, answer):
    result = two_cards(parts=tuple(part(transfer("host>GPU0", 13.0), ended=how) for how in ended))
    assert verdict.verdict(result, verdict.judged(result)) == answer


def test_only_a_counter_of_repeated_packets_that_rises_is_told():
    def lines(*counts: int | Absent) -> list[str]:
        return list(verdict.replays(part(telemetry=telemetry([1.0, 2.0, 3.0], series(pcie_replays=counts)))))

    lost = Absent("not answered")
    assert lines(9, 9, 4) == lines(4, 4, 4) == lines(lost, lost, lost) == lines(4, lost, lost) == []
    assert (
        lines(4, 4, 9)
        == lines(4, lost, 9)
        == ["GPU0 repeated 5 PCIe packets during a part: look at its riser and its seat"]
    )


WAYS = [(way, both) for way in ("NVLink", "peer access", "host memory") for both in (False, True)]


@pytest.mark.parametrize(("way", "both"), [*WAYS, ("peer access across sockets", False)])
def test_both_ways_together_are_held_against_twice_what_one_way_carries(way, both):
    band = verdict.peer_band(way, both)
    assert verdict.judge(5e9 * (2 if both else 1), 10e9, band).share == pytest.approx(0.5)
    assert ("both ways" in band.what) is (both and way != "NVLink")


@pytest.mark.parametrize("name", BANDS)
def test_what_is_expected_reaches_from_fine_to_the_best_about_the_middle_of_the_healthy(name):
    band = BANDS[name]
    theory = 10e9 * band.directions
    expected = verdict.judge(1e9, 10e9, band).expected
    assert (expected.low, expected.high) == pytest.approx((band.fine_from * theory, band.best * theory))
    assert expected.value == pytest.approx((band.worst * theory + band.best * theory) / 2)
    at = {share: verdict.judge(share * theory, 10e9, band).verdict for share in (band.fine_from, band.low_below)}
    assert at == {band.fine_from: "fine", band.low_below: "unknown"}


def test_a_single_published_share_is_said_once():
    assert verdict.ACROSS_SOCKETS.basis == "copies with peer access across sockets on healthy published rigs reach 62 %"


@pytest.mark.parametrize(
    ("copies", "ended", "answer"),
    [
        ([("host>GPU0", 13.0, True), ("GPU0>host", 9.0, True)], "finished", "low"),
        ([("host>GPU0", 13.0, True), ("GPU0>host", 10.0, True)], "finished", "fine"),
        ([("host>GPU0", 10.0, True)], "finished", "unknown"),
        ([], "finished", "unknown"),
        ([("GPU0>host", 9.0, True)], "hung", "hung"),
        ([("GPU0>host", 9.0, True), ("host>GPU0", 13.0, False)], "hung", "wrong data"),
    ],
)
def test_the_answer_is_the_worst_of_all_ways(copies, ended, answer):
    rows = [transfer(way, rate, correct) for way, rate, correct in copies]
    result = two_cards(parts=(part(*rows, ended=ended),))
    assert verdict.verdict(result, verdict.judged(result)) == answer


def test_a_wrong_copy_decides_its_way_however_slow_it_was():
    (way,) = verdict.judged(two_cards(transfer("host>GPU0@33554432", 2.0, False), transfer("host>GPU0", 13.0)))
    assert (way.bytes_per_s, way.judgement.reason) == (2e9, "the data arrived wrong: how fast it came says nothing")


def test_a_hosts_memory_is_its_fastest_copy_and_a_cards_cache_is_not_its_memory():
    hosts = [transfer("host>host", rate, clock="host", host_memory=NO_LINK) for rate in (20.0, 30.0, 25.0)]
    assert held(two_cards(*hosts))[0][2] == 30.0
    (way,) = verdict.judged(two_cards(transfer("GPU0>GPU0", 300.0, warm=True)))
    assert way.judgement.reason == "the arrays were too small to rule its cache out"
    (other,) = verdict.judged(two_cards(transfer("GPU1>GPU1", 300.0)))
    assert other.judgement.reason == "no datasheet was looked up"


def test_a_pair_over_nvlink_is_held_against_its_links_and_without_peer_access_against_the_hosts():
    """Four links of a 3090, 14.0625 GB/s each; the cards' own links carry 15.754 GB/s."""
    plain = two_cards()
    pairs = tuple(msgspec.structs.replace(it, label="NV4", nvlinks=4) for it in plain.pairs)
    gpus = tuple(msgspec.structs.replace(it, compute_capability="8.6") for it in plain.gpus)
    copies = [transfer("GPU0>GPU1+", 45.0), transfer("GPU0=>GPU1+", 45.0), transfer("GPU0>GPU1-", 6.0)]
    assert held(two_cards(*copies, pairs=pairs, gpus=gpus)) == [
        ("GPU0 to GPU1, P2P on", 256, 45.0, "fine", 0.8),
        ("GPU0 and GPU1, P2P on", 256, 45.0, "low", 0.4),
        ("GPU0 to GPU1, P2P off", 256, 6.0, "fine", 0.381),
    ]


def test_a_link_that_both_ways_share_counts_only_for_what_goes_through_the_host():
    plain = two_cards()
    above = msgspec.structs.replace(plain.links[0].hops[0], device="0000:00:00.0", awake_bytes_per_s=8e9)
    links_of = tuple(msgspec.structs.replace(it, hops=(above, *it.hops)) for it in plain.links)
    copies = [transfer("GPU0>GPU1+", 13.0), transfer("GPU0>GPU1-", 4.0)]
    shares = [row[-1] for row in held(two_cards(*copies, links=links_of))]
    assert shares == [pytest.approx(13 / 15.754, abs=1e-3), 0.5]
    unread = msgspec.structs.replace(above, awake_bytes_per_s=Absent("not told"))
    links_of = tuple(msgspec.structs.replace(it, hops=(unread, *it.hops)) for it in plain.links)
    on, off = verdict.judged(two_cards(transfer("GPU0>GPU1+", 5.0), transfer("GPU0>GPU1-", 2.0), links=links_of))
    assert on.judgement.verdict == "low"
    assert off.judgement.reason == "2 of the links on the way could not be read: the theory is an upper bound"


def test_a_way_whose_links_are_asleep_unknown_or_a_guests_is_held_against_nothing():
    plain, copy = two_cards(), transfer("GPU0>GPU1+", 5.0)
    asleep = tuple(msgspec.structs.replace(it, awake_bytes_per_s=Absent("asleep")) for it in plain.links)
    for facts, reason in (
        ({"links": asleep}, "asleep"),
        ({"links": plain.links[:1]}, "the way between the two is not known"),
        ({"pairs": ()}, "the way between the two is not known"),
        ({"virtual_machine": "KVM"}, "in a virtual machine the readings of a link cannot be trusted"),
    ):
        (way,) = verdict.judged(two_cards(copy, **facts))
        assert (way.judgement.verdict, way.judgement.reason) == ("unknown", reason)
    (way,) = verdict.judged(two_cards(transfer("host>GPU0", 5.0), links=()))
    assert way.judgement.reason == "the PCIe link was not read"


def test_a_slow_pair_is_named_as_a_pair_and_priced():
    (found,) = verdict.diagnose(two_cards(transfer("GPU0=>GPU1-", 5.0)))
    assert found.where == ("GPU0-GPU1",)
    assert (found.cost.unit, found.cost.now.value) == ("bytes/s", 5e9)
    assert found.cost.possible.low == pytest.approx(0.25 * 2 * 15.754e9, rel=1e-4)
