"""Is the narrowest link on a card's way found, whatever the slot, the switch and the state of rest?"""

from __future__ import annotations

from typing import Any

import pytest
from fakenvml.expand_sysfs import expand

from rigbench.core.record import Absent, Figure
from rigbench.machine import links, pci
from rigbench.machine.links import Card
from rigbench.machine.record import Gpu, PciDevice, PciPath
from rigbench.machine.sysfs import Sysfs

Function = dict[str, Any]
ROOT = "pci0000:00"


def bridge(parent: str | None, speed: float, width: int, **more: Any) -> Function:
    return {"root": ROOT, "parent": parent, "class": "0x060400", "max_speed": speed, "max_width": width} | more


def card(parent: str | None, speed: float, width: int, **more: Any) -> Function:
    return bridge(parent, speed, width) | {"class": "0x030000", "vendor": "0x10de"} | more


def gpu(**facts: Any) -> Gpu:
    blank: dict[str, Any] = dict.fromkeys(Gpu.__struct_fields__, Absent("not asked"))
    return Gpu(**blank | {"index": 0} | facts)


def tree_of(functions: dict[str, Function], tmp_path: Any) -> dict[str, PciDevice]:
    expand(functions, tmp_path)
    found = pci.devices(Sysfs(tmp_path))
    assert isinstance(found, tuple)
    return {function.bus_id: function for function in found}


SWITCHED = {
    "0000:00:01.0": bridge(None, 16.0, 16),
    "0000:01:00.0": bridge("0000:00:01.0", 16.0, 8),
    "0000:02:00.0": bridge("0000:01:00.0", 16.0, 16),
    "0000:02:01.0": bridge("0000:01:00.0", 16.0, 16),
    "0000:03:00.0": card("0000:02:00.0", 16.0, 16, cur_speed=2.5),
    "0000:04:00.0": card("0000:02:01.0", 16.0, 16, cur_speed=16.0, cur_width=4),
}


def paths(tree: dict[str, PciDevice], **gpus: Gpu) -> dict[str, PciPath]:
    places = {name: bus_id for name, bus_id in (("GPU0", "0000:03:00.0"), ("GPU1", "0000:04:00.0")) if name in gpus}
    found = links.paths(tree, [Card(name, "GPU", bus_id, gpus[name]) for name, bus_id in places.items()])
    return {path.label: path for path in found}


def test_the_uplink_of_a_switch_is_the_minimum_that_its_cards_share(tmp_path: Any) -> None:
    tree = tree_of(SWITCHED, tmp_path)
    found = paths(tree, GPU0=gpu(performance_state=8), GPU1=gpu(performance_state=0))
    first, second = found["GPU0"], found["GPU1"]
    assert [(hop.port, hop.device) for hop in first.hops] == [
        ("0000:00:01.0", "0000:01:00.0"),
        ("0000:02:00.0", "0000:03:00.0"),
    ]
    assert first.best_bytes_per_s == pytest.approx(15.75e9, rel=1e-3)
    assert (first.narrowest, first.shared_with) == ("0000:01:00.0", ("GPU1",))
    assert first.awake_bytes_per_s == links.IDLE
    assert first.now_bytes_per_s == pytest.approx(4e9)
    assert second.narrowest_awake == "0000:04:00.0"
    assert second.awake_bytes_per_s == pytest.approx(7.88e9, rel=1e-3)
    assert second.hops[1].limits == ("x4 of x16 lanes are connected",)


def test_a_port_older_or_narrower_than_its_card_is_named(tmp_path: Any) -> None:
    tree = tree_of({"0000:00:01.0": bridge(None, 8.0, 8), "0000:03:00.0": card("0000:00:01.0", 16.0, 16)}, tmp_path)
    path = paths(tree, GPU0=gpu(link_generation_max=3))["GPU0"]
    assert (path.hops[0].generation_best, path.hops[0].width_best_lanes) == (3, 8)
    assert path.hops[0].limits[:2] == (
        "0000:00:01.0 is gen 3, the card below it gen 4",
        "0000:00:01.0 is x8, the card below it x16",
    )


def test_the_driver_fills_in_what_the_tree_does_not_tell(tmp_path: Any) -> None:
    silent = {"root": ROOT, "class": "0x060400"}
    tree = tree_of({"0000:00:01.0": silent, "0000:03:00.0": {**silent, "parent": "0000:00:01.0"}}, tmp_path)
    known = gpu(
        link_generation_now=1,
        link_generation_max=4,
        link_width_now_lanes=8,
        link_width_max_lanes=16,
        performance_state=8,
    )
    path = paths(tree, GPU0=known)["GPU0"]
    assert path.best_bytes_per_s == pytest.approx(31.5e9, rel=1e-3)
    assert path.now_bytes_per_s == pytest.approx(2e9)
    assert paths({}, GPU0=known)["GPU0"].best_bytes_per_s == pytest.approx(31.5e9, rel=1e-3)
    assert isinstance(paths({}, GPU0=gpu())["GPU0"].best_bytes_per_s, Absent)


def test_the_best_generation_seen_at_work_counts_as_awake() -> None:
    idle = {"link_generation_now": 1, "link_generation_max": 4, "performance_state": 8}
    assert links.awake(1, gpu(**idle)) == links.IDLE
    assert links.awake(1, gpu(**idle, link_generation_awake=4)) == 4
    assert links.awake(1, gpu(**idle | {"performance_state": 2})) == 1
    assert links.awake(4, gpu(**idle | {"link_generation_now": 4})) == 4
    assert links.awake(3, None) == 3


def test_expectations_are_predictions_with_a_band() -> None:
    figure = links.expected(31.5e9)
    assert isinstance(figure, Figure)
    assert (figure.source, figure.low, figure.high) == ("predicted", 0.75 * 31.5e9, 0.92 * 31.5e9)
    assert isinstance(links.expected(Absent("unknown")), Absent)


def test_chipset_lanes_are_known_by_their_place(tmp_path: Any) -> None:
    intel = {"vendor": "0x8086"}
    amd = {"vendor": "0x1022"}
    tree = tree_of(
        {
            "0000:00:1c.4": bridge(None, 8.0, 4, **intel),
            "0000:03:00.0": card("0000:00:1c.4", 16.0, 16),
            "0000:00:02.1": bridge(None, 16.0, 4, **amd),
            "0000:10:00.0": bridge("0000:00:02.1", 16.0, 4, **amd),
            "0000:11:00.0": bridge("0000:10:00.0", 8.0, 1, **amd),
            "0000:12:00.0": card("0000:11:00.0", 16.0, 16),
            "0000:00:01.0": bridge(None, 16.0, 16, **intel),
            "0000:20:00.0": card("0000:00:01.0", 16.0, 16),
        },
        tmp_path,
    )

    def chipset(bus_id: str) -> str | Absent:
        return links.chipset(tree, pci.path_to(tree, bus_id))

    assert chipset("0000:03:00.0") == "Intel chipset (root port 0000:00:1c.4)"
    assert chipset("0000:12:00.0") == "AMD chipset (switch 0000:10:00.0)"
    assert isinstance(chipset("0000:20:00.0"), Absent)


def test_a_drive_behind_a_storage_controllers_bus_has_one_link(tmp_path: Any) -> None:
    tree = tree_of(
        {
            "0000:00:0e.0": {"root": ROOT, "class": "0x010400", "vendor": "0x8086"},
            "10000:e0:06.0": bridge("0000:00:0e.0", 16.0, 4),
            "10000:e1:00.0": bridge("10000:e0:06.0", 16.0, 4) | {"class": "0x010802"},
        },
        tmp_path,
    )
    (path,) = links.paths(tree, [Card("nvme0n1", "NVMe", "10000:e1:00.0")])
    assert [(hop.port, hop.device) for hop in path.hops] == [("10000:e0:06.0", "10000:e1:00.0")]
    assert path.expected == links.ONLY_GPUS
