"""Is CUDA's device 0 found among the driver's GPUs, whatever the environment hides?"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigbench.core.record import Absent
from rigbench.machine.cuda_map import Visible, nvml_index, parse_bus_id, visible
from rigbench.machine.record import Gpu, MigDevice

UUIDS = ("GPU-aaaa1111-0000", "GPU-aaaa2222-0000", "GPU-bbbb3333-0000")


def gpu(
    index: int, uuid: str | Absent, bus_id: str | Absent, name: str = "RTX 4090", parts: tuple[str, ...] = ()
) -> Gpu:
    facts: dict[str, Any] = dict.fromkeys(Gpu.__struct_fields__, Absent("not asked"))
    devices = tuple(MigDevice(n, part, Absent("not asked"), Absent("not asked")) for n, part in enumerate(parts))
    return Gpu(**facts | {"index": index, "uuid": uuid, "pci_bus_id": bus_id, "name": name, "mig_devices": devices})


THREE = [gpu(index, uuid, f"0000:{index + 1:02x}:00.0") for index, uuid in enumerate(UUIDS)]


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        (None, (0, 1, 2)),
        ("", ()),
        ("0", (0,)),
        ("2,0", (2, 0)),
        (" 1 , 2", (1, 2)),
        ("1,-1,2", (1,)),
        ("-1", ()),
        ("0,7,1", (0,)),
        ("0,0", ()),
        ("0,-1,0", (0,)),
        ("1gpu2,2ampere", (1, 2)),
        ("no", ()),
        ("0,,1", (0,)),
        ("99999999999999999999", ()),
        ("GPU-bbbb3333-0000,GPU-aaaa1", (2, 0)),
        ("GPU-bbbb", (2,)),
        ("GPU-aaaa", ()),
        ("GPU-bbbb,0", (2,)),
        ("GPU-bbbb,GPU-bbbb3333-0000", ()),
        ("0,GPU-bbbb", (0,)),
        ("GPU-", ()),
        ("MIG-nowhere", ()),
    ],
)
def test_every_form_of_cuda_visible_devices(text: str | None, indices: tuple[int, ...]) -> None:
    assert visible(THREE, text).indices == indices


def test_indices_count_in_bus_order_not_in_the_drivers() -> None:
    swapped = [msgspec.structs.replace(THREE[0], pci_bus_id="0000:81:00.0"), *THREE[1:]]
    assert visible(swapped, None) == Visible((1, 2, 0))
    assert visible(swapped, "0") == Visible((1,))


def test_the_order_of_unlike_cards_is_uncertain_unless_it_is_set() -> None:
    mixed = [THREE[0], msgspec.structs.replace(THREE[1], name="RTX 5090")]
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in str(visible(mixed, None).doubt)
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in str(visible(mixed, "1").doubt)
    assert visible(mixed, None, "PCI_BUS_ID") == Visible((0, 1))
    assert visible(mixed, UUIDS[1]) == Visible((1,))
    assert visible(THREE, None, "FASTEST_FIRST").doubt is None


def test_a_mig_device_stands_for_its_gpu() -> None:
    cards = [THREE[0], gpu(1, "GPU-cc", "0000:05:00.0", parts=("MIG-1111", "MIG-2222"))]
    assert visible(cards, "MIG-2222") == Visible((1,))
    assert visible(cards, "MIG-1111,MIG-2222").indices == (1,)
    assert "one MIG device" in str(visible(cards, "MIG-1111,MIG-2222").doubt)
    assert visible(cards, "MIG-GPU-cc/7/0") == Visible((1,))
    assert nvml_index(cards, "MIG-2222", None) == 1


def test_a_device_is_found_by_uuid_then_by_place() -> None:
    assert nvml_index(THREE, "aaaa2222-0000", "0000:01:00.0") == 1
    assert nvml_index(THREE, "GPU-AAAA2222-0000", None) == 1
    assert nvml_index(THREE, None, "00000000:03:00.0") == 2
    assert nvml_index(THREE, "unheard of", "03:00.0") == 2
    assert isinstance(nvml_index(THREE, "unheard of", "0001:03:00.0"), Absent)
    assert isinstance(nvml_index(THREE, None, None), Absent)


def test_two_cards_of_one_redacted_uuid_are_told_apart_by_place() -> None:
    twins = [msgspec.structs.replace(card, uuid=UUIDS[0]) for card in THREE]
    assert nvml_index(twins, UUIDS[0], "0000:02:00.0") == 1


def test_bus_ids_in_all_their_spellings() -> None:
    assert parse_bus_id("0000:0A:00.0") == parse_bus_id("00000000:0a:00.0") == parse_bus_id("0A:00") == (0, 10, 0)
    assert parse_bus_id("000f:01:00.0") == (15, 1, 0)
    assert parse_bus_id("nowhere") is None


@given(st.text(max_size=40), st.none() | st.text(max_size=20))
def test_no_text_breaks_it_or_invents_a_gpu(text: str, order: str | None) -> None:
    indices = visible(THREE, text, order).indices
    assert set(indices) <= {0, 1, 2}
    assert len(set(indices)) == len(indices)
