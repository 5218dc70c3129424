"""Is a device chosen that this torch can use, and is nothing but its own work in what is timed on it?"""

from __future__ import annotations

import pytest
import torch

from rigbench.core.errors import RigbenchError
from rigbench.machine import accelerator
from rigbench.machine.accelerator import HOLD_CYCLES, MOST_HOLD_CYCLES, CudaAccelerator, Hold, choose_device, runs_on
from rigbench.work.timing import sample_until_tight

CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]  # torch 2.8 to 2.13, by its release notes
CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


# --- which cards ---


@pytest.mark.parametrize(
    ("code", "runs", "fails"),
    [  # CUDA C++ Programming Guide, "Binary compatibility", "PTX compatibility"; the suffixes: NVIDIA's Blackwell guide
        ("sm_86", [(8, 6), (8, 9)], [(8, 0), (9, 0), (7, 5), (8, 7)]),
        ("sm_80", [(8, 0), (8, 6), (8, 9)], [(8, 7), (9, 0)]),
        ("sm_87", [(8, 7)], [(8, 9), (8, 6)]),
        ("sm_90", [(9, 0)], [(8, 9), (10, 0), (12, 0)]),
        ("compute_90", [(9, 0), (10, 0), (12, 0)], [(8, 9)]),
        ("compute_52", [(5, 2), (6, 1), (8, 7), (12, 0)], [(5, 0)]),
        ("sm_90a", [(9, 0)], [(10, 0)]),
        ("compute_90a", [(9, 0)], [(10, 0), (12, 0)]),
        ("sm_100f", [(10, 0), (10, 3)], [(12, 0)]),
        ("sm_120", [(12, 0), (12, 1)], [(10, 0), (11, 0)]),
    ],
)
def test_code_runs_on_the_cards_that_cudas_guide_names(code, runs, fails):
    assert [runs_on(code, capability) for capability in runs] == [True] * len(runs)
    assert [runs_on(code, capability) for capability in fails] == [False] * len(fails)


@pytest.fixture
def cards(monkeypatch):
    """Cards by name and capability, and what torch was built for."""

    def put(built, *cards):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cards))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: cards[index][0])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: cards[index][1])

    return put


ADA, TURING = ("NVIDIA GeForce RTX 4090", (8, 9)), ("NVIDIA GeForce RTX 2080 Ti", (7, 5))
PASCAL, BLACKWELL = ("Quadro P4000", (6, 1)), ("NVIDIA GeForce RTX 5090", (12, 0))


def test_the_first_card_that_this_torch_has_kernels_for_is_taken(cards):
    cards(CU130, PASCAL, ADA, TURING)
    assert choose_device(None) == choose_device("auto") == choose_device("cuda") == "cuda:1"
    assert choose_device("cuda:2") == "cuda:2"


@pytest.mark.parametrize(
    ("built", "card", "build"),
    [(CU130, PASCAL, "CUDA 12.6 build"), (CU126, BLACKWELL, "CUDA 12.8 or newer"), (["sm_90"], ADA, "built for 8.9")],
)
def test_a_card_without_kernels_is_refused_with_the_build_that_has_them(cards, built, card, build):
    cards(built, card)
    for wanted in (None, "cuda", "cuda:0"):
        with pytest.raises(RigbenchError) as refused:
            choose_device(wanted)
        error = refused.value
        number = ".".join(map(str, card[1]))
        assert error.what_happened == (
            f"cuda:0 ({card[0]}) has compute capability {number}, for which torch 2.13.0+cu130 has no kernels "
            f"(it has {', '.join(built)})"
        )
        assert build in error.what_to_do
        assert error.what_to_do.endswith("; or measure the CPU: --device cpu")
        assert (error.exit_code, "\n" in str(error)) == (3, False)


@pytest.mark.parametrize(
    ("variable", "others"), [(None, "0,2"), ("3,1,0", "3,0"), ("GPU-aa,GPU-bb,GPU-cc", "GPU-aa,GPU-cc")]
)
def test_where_other_cards_are_usable_it_says_how_to_leave_one_out(cards, monkeypatch, variable, others):
    cards(CU130, ADA, PASCAL, TURING)
    if variable:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    with pytest.raises(RigbenchError) as refused:
        choose_device("cuda:1")
    assert refused.value.what_to_do.endswith(f"or leave the card out with CUDA_VISIBLE_DEVICES={others}")


@pytest.mark.parametrize(("built", "card"), [([], ADA), (["gfx90a", "gfx1100"], ("Radeon", (11, 0)))])
def test_a_torch_that_does_not_say_for_which_cards_it_was_built_is_believed(cards, built, card):
    cards(built, card)
    assert choose_device(None) == "cuda:0"


@pytest.mark.parametrize(
    ("count", "names"), [(1, "or cuda:0"), (2, "or cuda:0 and cuda:1"), (4, "or cuda:0 to cuda:3")]
)
def test_a_card_that_is_not_there_is_answered_with_those_that_are(cards, count, names):
    cards(CU130, *[ADA] * count)
    with pytest.raises(RigbenchError) as refused:
        choose_device("cuda:9")
    seen = "1 CUDA device" if count == 1 else f"{count} CUDA devices"
    assert refused.value.what_happened == f"--device cuda:9: torch sees {seen}"
    assert refused.value.what_to_do == f"use --device cpu, {names}"


def test_without_any_card_the_cure_is_a_cuda_build(cards):
    cards([])
    with pytest.raises(RigbenchError) as refused:
        choose_device("cuda:9")
    assert refused.value.what_happened.startswith(
        "--device cuda:9: torch sees 0 CUDA devices: torch 2.13.0+cu130 is a "
    )
    assert refused.value.what_to_do == (
        "install a CUDA build of torch: see pytorch.org/get-started, or measure the CPU: --device cpu"
    )


# --- what is timed ---


class Stream:
    """Writes down what is handed to a device; it is late where told so."""

    def __init__(self, late=()) -> None:
        self.said, self.late, self.events = [], list(late), 0

    def accelerator(self, monkeypatch) -> CudaAccelerator:
        stream = self

        class Event:
            def __init__(self, enable_timing) -> None:
                assert enable_timing

            def record(self) -> None:
                self.name = "end" if stream.events % 2 else "start"
                stream.events += 1
                stream.said.append(self.name)

            def query(self) -> bool:
                stream.said.append(f"{self.name} passed?")
                return bool(stream.late and stream.late.pop(0))

            def synchronize(self) -> None:
                stream.said.append("wait")

            def elapsed_time(self, end) -> float:
                return 2.0

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: stream.said.append(f"hold {cycles}"))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: stream.said.append("wait for all"))
        made = CudaAccelerator.__new__(CudaAccelerator)
        made._torch, made._hold, made.torch_device = torch, Hold(), "cuda:0"
        made._flush = lambda index: stream.said.append("flush")
        return made


def test_all_of_a_repeat_is_handed_over_behind_a_hold_and_ranks_align_after_it(monkeypatch):
    stream = Stream()
    made = stream.accelerator(monkeypatch)
    say = lambda word: lambda *_: stream.said.append(word)  # noqa: E731
    assert made.timed(say("work"), 2, say("prepare"), say("align")) == [0.002, 0.002]
    repeat = ["prepare", f"hold {HOLD_CYCLES}", "align", "start", "work", "start passed?", "end"]
    assert stream.said == [*repeat, *repeat, "wait for all", "wait", "wait"]
    assert made.late == (False, False)


def test_without_a_preparation_of_its_own_the_cache_is_flushed_before_the_hold(monkeypatch):
    stream = Stream()
    stream.accelerator(monkeypatch).timed(lambda _: stream.said.append("work"), 1)
    assert stream.said[:4] == ["flush", f"hold {HOLD_CYCLES}", "start", "work"]


def test_repeats_in_which_the_host_was_late_are_told_and_two_in_a_row_make_the_hold_longer(monkeypatch):
    stream = Stream(late=[1, 0, 1, 1, 0, 1, 1, 1])
    made = stream.accelerator(monkeypatch)
    made.timed(lambda _: None, 8)
    assert made.late == (True, False, True, True, False, True, True, True)
    holds = [int(word.split()[1]) // HOLD_CYCLES for word in stream.said if word.startswith("hold ")]
    assert holds == [1, 1, 1, 1, 2, 2, 2, 4]


def test_a_hold_has_an_end(monkeypatch):
    made = Stream(late=[1] * 50).accelerator(monkeypatch)
    made.timed(lambda _: None, 50)
    assert made._hold.cycles == MOST_HOLD_CYCLES


def test_a_timing_counts_the_late_samples_that_it_rests_on():
    moment, taken = 0.0, []

    def sample(count):
        nonlocal moment
        moment += 0.01 * count
        taken.append(count)
        return [0.01] * count

    def late():
        return [len(taken) in (1, 4)] * taken[-1]  # the first of the warm-up, and a whole batch after it

    timing = sample_until_tight(sample, lambda: moment, limit_seconds=2.0, min_samples=40, late=late)
    warmup = len(timing.warmup_seconds)
    before = [sum(taken[:index]) for index in range(len(taken))]
    assert timing.late == sum(
        count for count, at in zip(taken, before, strict=True) if at >= warmup and at == before[3]
    )
    assert 0 < timing.late < len(timing.seconds)
    assert sample_until_tight(sample, lambda: moment, limit_seconds=1.0).late == 0


def test_a_processor_is_never_late():
    cpu = accelerator.CpuAccelerator("a CPU", 1, 1)
    said = []
    cpu.timed(lambda _: said.append("work"), 2, lambda _: said.append("prepare"), lambda: said.append("align"))
    assert (said, cpu.late) == (["prepare", "align", "work"] * 2, ())
