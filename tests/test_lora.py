"""Is an adapter's training what is counted, held and predicted, and is every other wish refused?"""

import json
import math

import msgspec
import pytest
import real_memory
import torch
from test_flops import SHAPES
from test_memory_prediction import GPT2, LLAMA, NEOX, SEQUENCES
from test_operations import Traffic, as_on_a_gpu, moved
from test_train import MODEL, Listener
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rigbench.core import profiles
from rigbench.core.errors import BAD_INPUT, NOTHING, RigbenchError
from rigbench.model import counts, lora, nf4, optim
from rigbench.model.gpt import Decoder
from rigbench.model.recipe import Recipe
from rigbench.model.shape import model_named
from rigbench.predict import allocator, ceilings, loop, operations, steptime
from rigbench.predict.traces import Step, Traces
from rigbench.train import probe
from rigbench.train.record import Options

LORA = Recipe(adapter="lora", adapter_rank=8, precision="fp32", micro_batch=SEQUENCES)
ATTENTION = msgspec.structs.replace(LORA, adapter_targets="attention")
TARGETS = pytest.mark.parametrize("how", [LORA, ATTENTION], ids=["all", "attention"])


def adapted(shape, how, **quantised):
    model = Decoder(shape, how.checkpoint_every, how.loss_chunks)
    lora.adapt(model, how, **quantised)
    return model


@TARGETS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("every", "chunks"), [(0, 1), (2, 4)])
def test_flop_are_torchs_to_the_last_one_and_what_is_trained_is_what_is_named(shape, how, every, chunks):
    how = msgspec.structs.replace(how, checkpoint_every=every, loss_chunks=chunks)
    model = adapted(shape, how)
    trained = {name: tuple(it.shape) for name, it in model.named_parameters() if it.requires_grad}
    assert trained == dict(counts.adapter_tensors(shape, how))
    tokens = torch.randint(shape.vocabulary, (3, shape.sequence))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(tokens, tokens).backward()
    assert counter.get_total_flops() == tokens.numel() * counts.adapted_hardware_flop_per_token(shape, how)


def test_a_decoder_of_120m_says_what_it_trains():
    model = counts.adapted(model_named("120M"), LORA)
    # By hand, a layer: 8 x (768 + 2304 + 768 + 768 + 768 + 3072 + 3072 + 768), inputs and outputs of its four layers.
    assert model.trainable_parameters == 12 * 8 * 12_288 == model.trained
    assert model.total_parameters == 124_475_904 + model.trained
    whole = model_named("120M").flop_per_token
    assert 2 / 3 < model.flop_per_token / whole < 0.73  # attention is as ever
    assert counts.adapted(model, LORA) == model
    assert counts.adapted(model_named("5M"), Recipe()) == model_named("5M")


def test_it_begins_at_the_base_and_moves_nothing_of_it():
    torch.manual_seed(0)
    plain = Decoder(GPT2)
    before = {name: it.clone() for name, it in plain.state_dict().items()}
    tokens = torch.randint(GPT2.vocabulary, (2, GPT2.sequence))
    loss = plain(tokens, tokens).item()
    lora.adapt(plain, LORA)
    assert plain(tokens, tokens).item() == pytest.approx(loss, rel=1e-5)
    optimizer = optim.build("adamw", plain, learning_rate=1e-2)
    for _ in range(5):
        plain(tokens, tokens).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert plain(tokens, tokens).item() < loss - 0.1
    after = {name.replace(".base", ""): it for name, it in plain.state_dict().items()}
    assert all(torch.equal(after[name], it) for name, it in before.items())
    assert len(optimizer.state) == len(counts.adapter_tensors(GPT2, LORA))


# ---- memory


def simulated(shape, how, ranks=1):
    pure = "bf16-pure" if how.precision == "bf16-pure" else how.precision
    accumulating = how.accumulation > 1 and not how.sharded
    its = how.adapter, how.adapter_rank, how.adapter_targets
    step = Step(shape, pure, how.checkpoint_every, how.loss_chunks, accumulating, False, *its)
    how = msgspec.structs.replace(how, ranks=ranks)
    script = loop.compose(Traces(None).at(step, SEQUENCES), loop.weights_with(shape, how), how)
    return allocator.replay(script.sizes, script.events)


@TARGETS
@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        (GPT2, {}),
        (LLAMA, {"precision": "bf16", "checkpoint_every": 1}),
        (NEOX, {"precision": "bf16-pure", "loss_chunks": 4}),
        (GPT2, {"precision": "bf16", "accumulation": 2}),
    ],
)
def test_the_predicted_peak_is_the_real_one(shape, changes, how):
    how = msgspec.structs.replace(how, **changes)

    def work():
        model = Decoder(shape, how.checkpoint_every, how.loss_chunks)
        model = model.to(torch.bfloat16) if how.precision == "bf16-pure" else model
        lora.adapt(model, how)
        real_memory.train(model, SEQUENCES, shape, how.precision, how.accumulation)

    before = [] if how.precision != "bf16-pure" else None
    real = min(real_memory.peaks(work, before)[0] for _ in range(2))
    assert simulated(shape, how).allocated_bytes == pytest.approx(real, rel=0.01)


# ---- operations


def of_products(found):
    return sum(it.times * it.flop for it in found if it.k and it.part != "optimizer")


@TARGETS
@pytest.mark.parametrize("style", ["gpt2", "neox", "llama"])
@pytest.mark.parametrize("every", [0, 1])
def test_the_steps_products_are_those_that_torch_counts(style, how, every):
    shape = {"gpt2": GPT2, "neox": NEOX, "llama": LLAMA}[style]
    how = msgspec.structs.replace(how, checkpoint_every=every)
    tokens = SEQUENCES * shape.sequence
    attention = 3 * shape.layers * 4 * shape.width * shape.sequence
    attention += every * shape.layers * 4 * shape.width * shape.sequence
    counted = tokens * (counts.adapted_hardware_flop_per_token(shape, how) - attention)
    assert of_products(operations.micro_step(shape, how)) == pytest.approx(counted, rel=0.06 if every else 1e-9)


def test_its_bytes_are_about_those_of_the_real_decoder():
    shape, how = msgspec.structs.replace(LLAMA, layers=3), msgspec.structs.replace(LORA, micro_batch=2)
    with FakeTensorMode():
        model = Decoder(shape)
        as_on_a_gpu(model, pure=False)
        lora.adapt(model, how)
        tokens = torch.zeros((2, shape.sequence), dtype=torch.int64)
        with Traffic() as real:
            model(tokens, tokens).backward()
    found = operations.micro_step(shape, how)
    assert moved(found, "products") == pytest.approx(real.products, rel=0.01)
    assert moved(found, "rest") == pytest.approx(real.rest, rel=0.05)


def test_it_is_predicted_to_be_faster_and_smaller_and_nothing_published_backs_that():
    model, limits = model_named("120M"), ceilings.from_rig(profiles.rig_named("2xrtx-4090"))
    plain = Recipe(precision="bf16", micro_batch=8, strategy="ddp", ranks=2)
    ways = [plain] + [
        msgspec.structs.replace(plain, adapter=name, adapter_rank=16, precision="bf16-pure")
        for name in ("lora", "qlora")
    ]
    full, low_rank, four_bits = (steptime.predict(counts.adapted(model, way), way, limits) for way in ways)
    assert low_rank.part("matmul") < 0.9 * full.part("matmul")  # thin products are no short ones
    assert low_rank.part("optimizer") < 0.05 * full.part("optimizer")
    assert low_rank.part("communication exposed") < 0.1 * full.part("communication exposed")
    assert four_bits.part("memory traffic") > low_rank.part("memory traffic")
    widths = [math.log(it.seconds.high / it.seconds.low) / 2 for it in (full, low_rank, four_bits)]
    assert widths[1] > widths[0] + 0.15
    assert widths[2] > widths[0] + 0.45
    assert any("no published run of lora" in note for note in low_rank.notes)


# ---- 4 bits


def test_four_bits_are_held_in_the_bytes_that_are_predicted_and_train():
    torch.manual_seed(0)
    how = msgspec.structs.replace(LORA, adapter="qlora")
    model = adapted(LLAMA, how, quantised=nf4.layer)
    state = model.blocks[0].mlp.up.base.weight.quant_state
    parts = model.blocks[0].mlp.up.base.weight, state.absmax, state.state2.absmax, state.code, state.state2.code
    bytes_ = [its.numel() * its.element_size() for its in (*parts, state.offset)]
    assert tuple(bytes_) == counts.nf4_bytes(2 * 256 * 96)
    tokens = torch.randint(LLAMA.vocabulary, (2, LLAMA.sequence))
    optimizer, losses = optim.build("adamw", model, learning_rate=1e-3), []
    for _ in range(5):
        losses.append(model(tokens, tokens))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert losses[-1].item() < losses[0].item()


def test_four_bits_take_less_memory_by_prediction_and_their_weights_are_unpacked_for_a_while():
    wide = msgspec.structs.replace(LLAMA, width=768, heads=12, kv_heads=12, ffn_width=2048, vocabulary=100)
    peaks = {}
    for name in ("lora", "qlora"):
        how = msgspec.structs.replace(LORA, adapter=name, precision="bf16-pure", checkpoint_every=1)
        peaks[name] = simulated(wide, how).allocated_bytes
    inner = sum(its.elements for its in loop.weights_of(wide, 2) if its.inner)
    saved = peaks["lora"] - peaks["qlora"]
    assert 1.0 * inner < saved < 1.5 * inner  # of 2 bytes a weight half a byte stays, and the largest is unpacked


@pytest.mark.parametrize(("error", "said"), [(ImportError("no bnb"), "needs bitsandbytes"), (OSError("libx"), "libx")])
def test_bitsandbytes_that_cannot_is_quoted_in_one_line(monkeypatch, error, said):
    import bitsandbytes.nn

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(bitsandbytes.nn, "Linear4bit", fails)
    with pytest.raises(RigbenchError, match=said) as refusal:
        nf4.layer(torch.nn.Linear(8, 8))
    assert refusal.value.exit_code == NOTHING


# ---- slices and commands


@pytest.mark.parametrize(("adapter", "precision"), [("lora", "fp32"), ("qlora", "auto")])
def test_a_slice_counts_what_it_multiplies(tmp_path, adapter, precision):
    how = Recipe(adapter=adapter, adapter_rank=4, micro_batch=2, precision=precision)
    model = counts.adapted(MODEL, how)
    options = Options(model=model, cache=str(tmp_path), device="cpu", recipe=how, seconds=0.3)
    found = probe.run(options, Listener())
    assert found.recipe.adapter_rank == 4
    assert found.model.trained < 0.2 * found.model.total_parameters
    assert found.recipe.precision == ("bf16-pure" if adapter == "qlora" else "fp32")
    assert found.model_flops_per_s == found.items_per_s.value * model.flop_per_token
    assert found.model_flops_per_s == found.hardware_flops_per_s


TRAIN = "train-probe --params 5M --on rtx-4090 "


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (TRAIN + "--adapter lora --rank 0", "--rank '0' is not a whole number from 1 to"),
        (TRAIN + "--adapter lora --rank 97", "--rank 97 is larger than the width of 96"),
        (TRAIN + "--rank 8", "--rank is an adapter's"),
        (TRAIN + "--adapter none --targets all", "--targets is an adapter's"),
        ("capacity --params 5M --on rtx-4090 --rank 8", "--rank is an adapter's"),
        ("budget --params 5M --on rtx-4090 --adapter lora --set rank=97", "--rank 97 is larger than the width"),
        (TRAIN + "--adapter qlora --compile on", "which torch.compile leaves out"),
        (TRAIN + "--adapter qlora --precision bf16", "not in bf16 under autocast"),
        (TRAIN + "--adapter lora --precision fp8", "adapters are not trained in fp8"),
        ("capacity --params 5M --on 2xrtx-4090 --strategy fsdp2 --adapter qlora", "fsdp2 has shards"),
        ("train-probe --model mynet:make --adapter lora", "--adapter is not for a program"),
        ("scaling run --adapter lora --device cpu", "laws are of models trained from the start"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(line, said, rigbench):
    code, out, err = rigbench(*line.split())
    assert code in (BAD_INPUT, NOTHING)
    assert said in err
    assert not out


def test_an_answer_says_what_it_trains_and_of_which_flop(rigbench):
    code, out, _ = rigbench(*(TRAIN + "--adapter lora --micro-batch 4 --targets attention").split())
    assert code == 0
    assert "bf16-pure, compiled, lora, rank 16, adapters of attention" in " ".join(out.split())
    assert "of 5.4M parameters; the others are frozen: 4 FLOP a token, not 6" in " ".join(out.split())
    code, out, _ = rigbench(*["budget", "--params", "5M", "--on", "rtx-4090", "--adapter", "lora", "--tokens", "1e9"])
    assert "bf16-pure, compiled, lora, rank 16" in out
    assert "--adapter lora --rank 16 --compile on" in " ".join(out.split())
    assert "tokens a parameter" not in out
    line = "capacity --params 5M --on rtx-4090 --adapter qlora --attention naive --json"
    rows = json.loads(rigbench(*line.split())[1])["capacity"]["rows"]
    assert {(row["recipe"]["adapter"], row["recipe"]["precision"]) for row in rows} == {("qlora", "bf16-pure")}


def test_a_slice_of_an_adapter_never_stands_for_the_training_of_all_weights():
    from rigbench.model.recipe import RecipeOptions

    assert not RecipeOptions().allows(LORA)
    assert RecipeOptions(adapter="lora").allows(LORA)
    assert not RecipeOptions(adapter="lora", adapter_rank=16).allows(LORA)
    assert RecipeOptions().allows(Recipe())
