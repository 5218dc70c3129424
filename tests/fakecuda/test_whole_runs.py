"""What does `rigbench run` say of a whole rig? Its screens are kept in screens/, numbers folded."""

import pytest

from rigbench.core.record import Absent, Skipped
from rigbench.train.record import Slice

ROOMS = ("topology", "bandwidth", "p2p", "collectives", "matmul", "dataloader", "budget")


def check(done, cards: int) -> None:
    """Every room answered, for all cards."""
    run = done.run
    missing = {room: getattr(run, room) for room in ROOMS if isinstance(getattr(run, room), Absent | Skipped)}
    assert not missing
    assert run.status == "finished"
    trained = [one for one in run.slices if isinstance(one, Slice)]
    *together, alone = [(one.recipe.strategy, one.recipe.ranks) for one in trained]
    assert len(trained) == len(run.slices)
    assert (together, alone) == ([("ddp", cards)] * len(together), ("single", 1))
    assert run.budget.configuration.recipe.ranks == run.budget.scaling.cards == cards
    assert (run.budget.remark, run.budget.scaling.model) == ("", trained[-1].model.name)
    assert all(len(one.draws) < 2 or one.draws[-1].name != "other GPUs" for one in trained[:-1])
    assert len(run.bandwidth.gpus) == cards if hasattr(run.bandwidth, "gpus") else True
    assert len(run.p2p.devices) == cards
    assert len(run.collectives.ranks) == cards


def test_two_4080s_whose_driver_refuses_p2p(rig, golden):
    done = rig.run("run", "--quick", small=True).ended(0)
    check(done, 2)
    assert done.run.p2p.verdict == "not available"
    golden("run-2x4080", rig.screen())


def test_four_4090s(make_rig, golden):
    rig = make_rig("epyc7502-4x4090")
    check(rig.run("run", "--quick", small=True).ended(0), 4)
    golden("run-4x4090", rig.screen())


@pytest.mark.slow
def test_two_4080s_at_full_length(rig):
    done = rig.run("run", "--quick").ended(0)
    check(done, 2)
