"""Does a slice over two hosts tell what their link costs? Real ranks in network namespaces."""

import json
import sys

import network as namespaces
import pytest

SLOW = 100e6 / 8  # bytes/s that each cable lets out
SHAPE = """
style = "gpt2"
layers = 2
width = 128
heads = 2
vocabulary = 4096
sequence = 32
"""


BLOCKS = 2 * (12 * 128**2 + 13 * 128)  # weights of both blocks: attention's and the MLP's products, biases, norms


def over_two_hosts(tmp_path, strategy: str) -> dict:
    """The run that rank 0 keeps, of a rank on each of two hosts; the other one says nothing."""
    namespaces.skip_without_namespaces()
    shape = tmp_path / "small.toml"
    shape.write_text(SHAPE)
    words = ["train-probe", "--model", str(shape), "--strategy", strategy, "--precision", "fp32", "--device", "cpu"]
    words += ["--seconds", "3s", "--json", "--home", str(tmp_path / "home")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    meeting = ["--master-addr", "10.77.0.1", "--master-port", "29401"]
    commands = [[*torchrun, "--node-rank", rank, *meeting, "-m", "rigbench", *words] for rank in "01"]
    with namespaces.made() as network:
        for name in ("anna", "bert"):
            network.add_host(name, SLOW)
        done = network.run(commands, [{"OMP_NUM_THREADS": "1"}] * 2)
    assert [it.returncode for it in done] == [0, 0], [it.stderr[-2000:] for it in done]
    assert done[1].stdout == ""
    return json.loads(done[0].stdout)


def test_the_link_between_two_hosts_is_what_their_steps_wait_for(tmp_path):
    """Gradients of 4 bytes a parameter cross a cable of 100 Mbit/s in each step: that time is exposed, and named."""
    run = over_two_hosts(tmp_path, "ddp")
    (found,) = run["slices"]
    assert found["recipe"]["ranks"] == 2
    assert found["items_per_step"] == 2 * 32
    exchange = found["exchange"]
    assert exchange["hosts"] == ["anna", "bert"]
    assert found["energy"]["reason"].startswith("the sensors of this host alone were read")
    crossing = 4 * found["model"]["total_parameters"] / SLOW  # one way at a time, as two ranks' all-reduce does both
    assert exchange["exposed"]["value"] == pytest.approx(crossing, rel=0.35)
    alone = exchange["alone_seconds"]["value"]
    parts = exchange["shared_seconds"] + exchange["imbalance_seconds"] + exchange["exposed"]["value"]
    assert alone + parts + exchange["unexplained_seconds"] == pytest.approx(found["step_seconds"]["value"])
    assert alone / found["step_seconds"]["value"] == pytest.approx(exchange["efficiency"])
    (finding,) = [one for one in run["findings"] if one["code"] == "communication-bound"]
    assert "it crosses between the hosts anna and bert" in finding["evidence"][1]


@pytest.mark.slow
def test_of_shards_gathered_weights_and_scattered_gradients_are_waited_for_and_nothing_crosses_without(tmp_path):
    """Each rank sends half of all weights forward, half of the blocks' backward, and (as gloo does) all gradients."""
    (found,) = over_two_hosts(tmp_path, "fsdp2")["slices"]
    weights, exchange = found["model"]["total_parameters"], found["exchange"]
    crossing = 4 * (weights / 2 + BLOCKS / 2 + weights) / SLOW
    assert 0.85 * crossing <= exchange["exposed"]["value"] < found["step_seconds"]["value"]
    assert max(exchange["without_seconds"]) < 4 * weights / SLOW
