"""Is the model that was meant the one that is made, and is every other wish refused in one line with its cure?"""

import os

import pytest
import typer
from privileges import ordinary
from typer.testing import CliRunner

from rigbench import command
from rigbench.core.errors import BAD_INPUT, RigbenchError
from rigbench.model import named
from rigbench.model.named import ModelOptions, ProgramOptions, SeriesOptions
from rigbench.model.record import Model
from rigbench.model.shape import models
from rigbench.report.profiles import check_published

SHAPE = """
style = "llama"
layers = 3
width = 192
heads = 6
vocabulary = 1000
sequence = 64
"""


@pytest.fixture
def shape_file(tmp_path):
    def write(**changes):
        lines = [line for line in SHAPE.strip().splitlines() if line.split(" = ")[0] not in changes]
        lines += [f"{key} = {value}" for key, value in changes.items() if value]
        (tmp_path / "mine.toml").write_text("\n".join(lines))
        return str(tmp_path / "mine.toml")

    return write


def app_of(record, made):
    """A command that takes one of the records of model options."""

    @command.command()
    def train(common: command.Common, model: record) -> int:
        made.append(model)
        return 0

    app = typer.Typer()
    app.command()(command.callback("train", train))
    return app


def typed(line, record=ModelOptions):
    """What a command is given for these words."""
    made = []
    CliRunner().invoke(app_of(record, made), line.split(), catch_exceptions=False)
    return made[0]


def help_of(record):
    return CliRunner().invoke(app_of(record, []), ["--help"], env={"COLUMNS": "300"}).output


def dims(model: Model):
    shape = model.shape
    return shape.layers, shape.width, shape.heads, shape.kv_heads, shape.ffn_width, shape.vocabulary, shape.sequence


# Totals: OpenAI's checkpoints (as karpathy/nanoGPT counts them), EleutherAI's and TinyLlama's model cards.
@pytest.mark.parametrize(
    ("wish", "name", "style", "expected", "total"),
    [
        ("gpt2", "gpt2", "gpt2", (12, 768, 12, 12, 3072, 50257, 1024), 124_439_808),
        ("GPT-2 small", "gpt2", "gpt2", (12, 768, 12, 12, 3072, 50257, 1024), 124_439_808),
        ("gpt2_XL", "gpt2-xl", "gpt2", (48, 1600, 25, 25, 6400, 50257, 1024), 1_557_611_200),
        ("pythia-160m", "pythia-160m", "neox", (12, 768, 12, 12, 3072, 50304, 2048), 162_322_944),
        ("Pythia-6.9B", "pythia-6.9b", "neox", (32, 4096, 32, 32, 16384, 50432, 2048), 6_857_302_016),
        # Totals of the rest: the Hugging Face hub's model cards (of their weight files).
        ("Llama-3.1-8B", "llama-3-8b", "llama", (32, 4096, 32, 8, 14336, 128256, 4096), 8_030_261_248),
        ("Qwen3-0.6B", "qwen3-0.6b", "llama", (28, 1024, 16, 8, 3072, 151936, 4096), 596_049_920),
        ("tinyllama", "tinyllama-1.1b", "llama", (22, 2048, 32, 4, 5632, 32000, 2048), 1_100_048_384),
        ("chinchilla-425m", "chinchilla-425m", "neox", (18, 1280, 10, 10, 5120, 32000, 2048), 395_120_640),
    ],
)
def test_a_published_model_is_found_by_any_spelling_and_has_its_true_count(wish, name, style, expected, total):
    model = named.choose(ModelOptions(model=wish))
    assert (model.name, model.shape.style, dims(model)) == (name, style, expected)
    if style == "neox" and name.startswith("chinchilla"):  # by hand: layers · 12 d², norms without biases, one table
        total = 18 * (12 * 1280**2 + 2 * 1280) + 1280 + 32000 * 1280
    assert model.total_parameters == total


def test_every_published_model_can_be_named_and_no_two_go_by_one_name():
    names = [name for model in models() for name in (model.name, *model.also)]
    assert len({named._key(name) for name in names}) == len(names)
    assert {named.choose(ModelOptions(model=name)).name for name in names} == {model.name for model in models()}


def test_the_shapes_of_all_published_models_have_the_counts_published():
    assert check_published() == (38, 26)  # the 26 of Chinchilla lack its relative positions, up to 8 %
    assert len(models()) == 64
    assert {model.name.split("-")[0] for model in models() if model.published_within} == {"chinchilla"}


def test_a_published_count_that_its_shape_does_not_have_is_found(tmp_path, monkeypatch):
    (tmp_path / "models.toml").write_text(
        '[[family]]\nname = "f"\nabout = "a"\nsource = "s"\n'
        'shape = { style = "gpt2", vocabulary = 50257, sequence = 1024, tied_head = true, biases = true }\n'
        'models = [{ name = "wrong", layers = 12, width = 768, heads = 12, published_parameters = 124_439_809 }]\n'
    )
    monkeypatch.setenv("RIGBENCH_PROFILES", str(tmp_path))
    with pytest.raises(
        RigbenchError, match="wrong is said to have 124,439,809 parameters, and its shape has 124,439,808"
    ):
        check_published()


def test_sizes_of_a_series_are_meant_as_ever():
    assert named.choose(ModelOptions(params=120_000_000)).total_parameters == 124_475_904
    assert named.choose(ModelOptions()).name == "120M"
    assert named.choose(ModelOptions(), "5M").name == "5M"
    assert named.choose(ModelOptions(series="llama"), "150M").name == "150M"
    assert named.choose(ModelOptions(params=350_000_000, series="llama")).shape.style == "llama"


# (layers, width, heads, kv_heads, ffn_width, vocabulary, sequence); 8/3 of 320 is 853, of 128 the nearest multiple 896.
@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        (ModelOptions(sequence=512), "5M", (4, 96, 3, 3, 384, 50304, 512)),
        (ModelOptions(layers=4, width=96), "5M", (4, 96, 3, 3, 384, 50304, 1024)),  # nothing is other than it was
        (ModelOptions(layers=2, width=64), "3.4M", (2, 64, 2, 2, 256, 50304, 1024)),
        (ModelOptions(width=256), "16.3M", (4, 256, 4, 4, 1024, 50304, 1024)),
        (ModelOptions(width=96, heads=6), "5.4M", (4, 96, 6, 6, 384, 50304, 1024)),
        (ModelOptions(vocabulary=1_000, sequence=128), "555.8K", (4, 96, 3, 3, 384, 1000, 128)),
        (ModelOptions(params=120_000_000, kv_heads=4), "115.0M", (12, 768, 12, 4, 3072, 50304, 1024)),
        (ModelOptions(model="tinyllama", heads=16), "1.1B", (22, 2048, 16, 2, 5632, 32000, 2048)),
        (ModelOptions(model="tinyllama", width=320, kv_heads=5), "48.4M", (22, 320, 5, 5, 896, 32000, 2048)),
        (ModelOptions(model="pythia-14m", layers=1), "13.1M", (1, 128, 4, 4, 512, 50304, 2048)),
    ],
)
def test_options_change_the_model_and_what_follows_from_them(options, name, expected):
    model = named.choose(options, "5M")
    assert (model.name, dims(model)) == (name, expected)


def test_a_shape_of_ones_own_comes_from_a_file(shape_file):
    model = named.choose(ModelOptions(model=shape_file()))
    assert model.name == "mine"
    assert dims(model) == (3, 192, 6, 6, 512, 1000, 64)
    assert (model.shape.style, model.shape.tied_head, model.shape.biases) == ("llama", True, False)
    # By hand: 4 d² of attention and 3 · d · 512 of SwiGLU a layer with two norms, one norm more, one table.
    assert model.total_parameters == 3 * (4 * 192**2 + 3 * 192 * 512 + 2 * 192) + 192 + 1000 * 192


def test_a_file_may_say_everything_and_options_change_it_too(shape_file):
    said = {"name": '"ours"', "kv_heads": 2, "ffn_width": 500, "tied_head": "false", "biases": "true"}
    path = shape_file(style='"gpt2"', **said)
    model = named.choose(ModelOptions(model=path, sequence=32))
    assert (model.name, dims(model)) == ("ours", (3, 192, 6, 2, 500, 1000, 32))
    assert (model.shape.tied_head, model.shape.biases) == (False, True)
    assert dims(named.choose(ModelOptions(model=path, layers=5)))[0] == 5
    assert named.choose(ModelOptions(model=shape_file(style='"gpt2"'))).shape.biases is True


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"layer": "3"}, r"unknown field `layer`; it needs style, layers, .* and may have name, kv_heads"),
        ({"heads": None}, "missing required field `heads`; it needs"),
        ({"layers": '"three"'}, r"Expected `int`, got `str` - at `\$.layers`"),
        ({"layers": "2.5"}, r"Expected `int`, got `float` - at `\$.layers`"),
        ({"layers": "0"}, r"Expected `int` >= 1 - at `\$.layers`"),
        ({"style": '"bert"'}, r"Invalid enum value 'bert' - at `\$.style`"),
        ({"layers": "1001"}, "layers = 1,001 is not within 1 to 1,000; mend it there"),
        ({"sequence": "4"}, "sequence = 4 is not within 8 to 1,048,576"),
        ({"heads": "7"}, "heads = 7 does not divide the width of 192; give 6 or 8"),
        ({"kv_heads": "4"}, "kv_heads = 4 does not divide the 6 heads; give 3 or 6"),
        (
            {"layers": "1000", "width": "65536", "heads": "512"},
            "has 51.5T parameters; give one of at most 100,000,000,000",
        ),
        ({"layers": "[3"}, "is not TOML: "),
    ],
)
def test_a_file_that_holds_no_shape_is_one_line(shape_file, changes, complaint):
    with pytest.raises(RigbenchError, match=complaint) as refusal:
        named.choose(ModelOptions(model=shape_file(**changes)))
    assert "mine.toml" in refusal.value.what_happened
    assert refusal.value.what_to_do
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == BAD_INPUT


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    for name, complaint in {
        "none.toml": r"none.toml: cannot read it \(no such file or directory\)",
        "folder.toml": r"folder.toml: cannot read it \(is a directory\)",
        "bytes.toml": "bytes.toml is not TOML",
    }.items():
        with pytest.raises(RigbenchError, match=complaint):
            named.choose(ModelOptions(model=str(tmp_path / name)))


def test_a_file_without_permission_is_one_line(shape_file):
    path = shape_file()
    os.chmod(path, 0)
    with ordinary(), pytest.raises(RigbenchError, match="permission denied"):
        named.choose(ModelOptions(model=path))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--model=gpt3", "'gpt3': no published model has that name; did you mean gpt2"),
        ("--model=pythia-1.4", "did you mean pythia-1.4b"),
        ("--model=llama", "did you mean llama-3-8b or llama-2-7b or tinyllama-1.1b"),
        ("--model=120M", "a size is given as --params 120M"),
        ("--model=zzz", "`rigbench profiles` lists them"),
        ("--model=", "--model is empty"),
        ("--model=config.yaml", "a shape is given as a FILE.toml or config.json"),
        ("--model=" + "x" * 5000, "no published model"),
        ("--model=gpt2 --params=120M", "--model and --params exclude each other"),
        ("--model=gpt2 --series=llama", "--model and --series exclude each other"),
        ("--width=100", "--width 100 is not a number of heads of 32; give --heads too, or a multiple of 32"),
        ("--width=300", "--width 300 is not a number of heads of 64"),
        ("--heads=7", "--heads 7 does not divide the width of 96; give 6 or 8"),
        ("--kv-heads=2", "--kv-heads 2 does not divide the 3 heads; give 1 or 3"),
        ("--model=tinyllama --width=256", "4 heads cannot share key-value heads by 8.*give --kv-heads too"),
        ("--layers=0", "--layers '0' is not a whole number from 1 to 1,000"),
        ("--layers=2.5", "--layers '2.5' is not a whole number"),
        ("--width=wide", "--width 'wide' is not a whole number from 8 to 65,536"),
        ("--kv-heads=-1", "--kv-heads '-1' is not a whole number"),
        ("--seq=7", "--seq '7' is not a whole number from 8 to 1,048,576"),
        ("--vocab=1", "--vocab '1' is not a whole number from 2 to"),
        ("--layers=999 --width=65536", "has 51.5T parameters; give one of at most 100,000,000,000"),
        ("--params=1k", "--params"),
        ("--series=mamba", "no series 'mamba'; there are diy, llama"),
        ("--model=mynet:make", "mynet:make is a program, and this command works from a shape"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line_with_its_cure(line, complaint):
    with pytest.raises(RigbenchError, match=complaint) as refusal:
        named.choose(typed(line), "5M")
    assert refusal.value.exit_code == BAD_INPUT
    assert refusal.value.what_to_do
    assert len(str(refusal.value)) < 250


def test_a_program_is_told_from_a_name_and_options_of_shapes_contradict_it():
    assert named.factory(ModelOptions(model="pkg.net:make", sequence=64, vocabulary=9)) == "pkg.net:make"
    assert named.factory(ModelOptions(model="gpt2")) is None
    assert named.factory(ModelOptions(model="odd:name.toml")) is None
    assert named.factory(ModelOptions()) is None
    for options in ({"params": "5M"}, {"series": "diy"}, {"layers": "2"}, {"kv_heads": "2"}):
        with pytest.raises(
            RigbenchError, match=r"pkg.net:make and --(params|series|layers|kv-heads) exclude each other"
        ):
            named.factory(ModelOptions(model="pkg.net:make", **options))
    for wrong, right in {
        "a/net.py:make": "a.net:make",
        "./net.py:make": "net:make",
        "two words:make": "mynet:make",
    }.items():
        with pytest.raises(RigbenchError, match=f"is not package.module:factory; write it as {right}"):
            named.factory(ModelOptions(model=wrong))


def test_a_command_takes_all_model_options_and_its_help_has_them():
    words = "--model gpt2 --layers 2 --kv-heads 1 --vocab 1,000 --seq 8 --params 90M"
    expected = {"model": "gpt2", "layers": 2, "kv_heads": 1, "vocabulary": 1000, "sequence": 8, "params": 90_000_000}
    assert typed(words) == ModelOptions(**expected)
    assert typed("", ProgramOptions) == ProgramOptions()
    texts = {record: help_of(record) for record in (ModelOptions, SeriesOptions, ProgramOptions)}
    assert ["mynet:make" in text for text in texts.values()] == [False, True, True]
    assert ["Default: 120M." in text for text in texts.values()] == [True, False, True]
    assert "Default: the series' largest." in texts[SeriesOptions]
