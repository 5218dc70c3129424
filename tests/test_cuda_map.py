"""Is CUDA's device 0 found among the driver's GPUs, whatever the environment hides?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigbench.core.errors import RigbenchError
from rigbench.core.progress import Silent
from rigbench.core.record import Absent
from rigbench.job import Job
from rigbench.machine.cuda_map import Cards, Visible, cards, nvml_index, parse_bus_id, visible
from rigbench.machine.record import Gpu, MigDevice
from rigbench.machine.rig import Rig
from rigbench.store import Store

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
    two = [THREE[0], gpu(1, "GPU-cc", "0000:05:00.0", parts=("MIG-1111", "MIG-2222"))]
    assert visible(two, "MIG-2222") == Visible((1,), part=two[1].mig_devices[1])
    assert visible(two, "MIG-1111,MIG-2222").indices == (1,)
    assert "one MIG device" in str(visible(two, "MIG-1111,MIG-2222").doubt)
    assert visible(two, "MIG-GPU-cc/7/0") == Visible((1,))
    assert nvml_index(two, "MIG-2222", None) == 1


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


# ---- the cards of a command

RIGS = Path(__file__).parent / "rigs"


def recorded(name: str) -> tuple[Gpu, ...]:
    return Job(Store(Path("nowhere")), Rig.replay(RIGS / name), "", Silent()).gpus


TWO, FOUR = recorded("dual-rtx4080s-x8x8"), recorded("epyc7502-4x4090")
MIXED = (*TWO, *(msgspec.structs.replace(it, index=2 + it.index, pci_bus_id=f"0000:a{it.index}:00.0") for it in FOUR))


@pytest.mark.parametrize(
    ("device", "shown", "indices", "places", "why"),
    [
        (None, None, (0, 1), (0, 1), ""),
        ("auto", None, (0, 1), (0, 1), ""),
        ("cuda", None, (0, 1), (0, 1), ""),
        ("cuda:1", None, (1,), (1,), "--device cuda:1 is one of 2 GPUs"),
        ("cpu", None, (), (), ""),
        (None, "1", (1,), (0,), "CUDA_VISIBLE_DEVICES=1 leaves 1 of 2 GPUs"),
        ("cuda:0", "1", (1,), (0,), "CUDA_VISIBLE_DEVICES=1 leaves 1 of 2 GPUs"),
        ("cuda:0", "1,0", (1,), (0,), "--device cuda:0 is one of 2 GPUs"),
        (None, "1,0", (1, 0), (0, 1), ""),
        (None, "", (), (), "CUDA_VISIBLE_DEVICES= leaves 0 of 2 GPUs"),
        (None, "-1", (), (), "CUDA_VISIBLE_DEVICES=-1 leaves 0 of 2 GPUs"),
    ],
)
def test_device_and_environment_name_the_cards(device, shown, indices, places, why) -> None:
    found = cards(TWO, device, shown, None)
    assert (found.indices, found.places, found.why) == (indices, places, why)


@pytest.mark.parametrize(
    ("device", "shown", "error", "code"),
    [
        ("gpu", None, "--device 'gpu' is not a device; use cpu, cuda or cuda:N", 2),
        ("cuda:", None, "--device 'cuda:' is not a device; use cpu, cuda or cuda:N", 2),
        ("cpu:0", None, "--device 'cpu:0' is not a device; use cpu, cuda or cuda:N", 2),
        ("cuda:2", None, "--device cuda:2: CUDA shows 2 GPUs; use cuda:0 to cuda:1 or cpu", 3),
        ("cuda:1", "1", "--device cuda:1: CUDA_VISIBLE_DEVICES=1 leaves 1 of 2 GPUs; use cuda:0 or cpu", 3),
        ("cuda", "", "--device cuda: CUDA_VISIBLE_DEVICES= leaves 0 of 2 GPUs; unset it, or use --device cpu", 3),
    ],
)
def test_a_device_that_is_not_there_is_refused(device, shown, error, code) -> None:
    with pytest.raises(RigbenchError) as caught:
        cards(TWO, device, shown, None)
    assert (str(caught.value), caught.value.exit_code) == (error, code)


def test_a_driver_that_tells_of_no_gpu_refuses_none() -> None:
    assert cards((), "cuda:3", None, None) == Cards()


@pytest.mark.parametrize(
    ("shown", "trouble"),
    [
        ("0,7", "CUDA_VISIBLE_DEVICES=0,7 leaves 1 of 2 GPUs: CUDA stops at '7'"),
        ("0,0", "CUDA_VISIBLE_DEVICES=0,0 leaves 0 of 2 GPUs: CUDA stops at '0'"),
        ("GPU-typo", "CUDA_VISIBLE_DEVICES=GPU-typo leaves 0 of 2 GPUs: CUDA stops at 'GPU-typo'"),
        ("", "CUDA_VISIBLE_DEVICES= leaves 0 of 2 GPUs: CUDA stops at ''"),
        ("1", ""),
        ("1,0", ""),
    ],
)
def test_what_is_likely_a_slip_is_said(shown, trouble) -> None:
    assert cards(TWO, None, shown, None).trouble == trouble


def test_of_unlike_cards_the_largest_group_trains_and_is_pinned_by_uuid() -> None:
    found = cards(MIXED, None, None, None)
    assert found.is_mixed
    assert found.words == "4 × NVIDIA GeForce RTX 4090, 2 × NVIDIA GeForce RTX 4080 SUPER"  # the fastest first
    assert found.environment == {}  # all of them need no help
    group = found.alike
    assert group.indices == (2, 3, 4, 5)
    assert group.environment == {"CUDA_VISIBLE_DEVICES": ",".join(str(gpu.uuid) for gpu in FOUR)}
    assert group.why.startswith("2 × NVIDIA GeForce RTX 4080 SUPER left out: ranks wait for the slowest")
    assert group.first.indices == (2,)
    assert group.first.environment == {"CUDA_VISIBLE_DEVICES": FOUR[0].uuid}


def test_of_groups_as_large_the_faster_one_trains() -> None:
    assert cards(MIXED[:4], None, None, "PCI_BUS_ID").alike.indices == (2, 3)
    assert cards((MIXED[0], MIXED[2]), None, None, None).alike.indices == (2,)


def test_alike_cards_are_one_group_and_need_no_pins() -> None:
    found = cards(TWO, None, None, None)
    assert found.alike == found
    assert found.environment == found.alike.environment == {}


def test_a_number_on_unlike_cards_is_as_certain_as_cudas_order() -> None:
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in cards(MIXED, "cuda:1", None, None).trouble
    assert cards(MIXED, "cuda:1", None, None).indices == (3,)  # CUDA puts the fastest first
    assert cards(MIXED, "cuda:1", None, "PCI_BUS_ID").trouble == ""
    assert cards(MIXED, "cuda:1", None, "PCI_BUS_ID").indices == (1,)
    assert cards(MIXED, None, None, None).trouble == ""  # all of them, in whatever order


def test_a_part_of_a_gpu_has_its_own_memory_and_is_not_busy_with_its_neighbours() -> None:
    part = MigDevice(0, "MIG-1111", "A100 MIG 1g.5gb", 5 << 30)
    whole = msgspec.structs.replace(gpu(0, "GPU-cc", "0000:05:00.0"), memory_total_bytes=40 << 30, mig_devices=(part,))
    (its,) = cards((whole,), None, "MIG-1111", None).gpus
    assert (its.name, its.uuid, its.memory_total_bytes) == ("A100 MIG 1g.5gb", "MIG-1111", 5 << 30)
    assert isinstance(its.processes, Absent)
    assert isinstance(its.memory_used_bytes, Absent)
