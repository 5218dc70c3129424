"""The options that say which model is meant, shared by every command that takes one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from rigbench.model.asked import Asked

Text = str | None
OPTIONS: dict[str, Any] = {
    "params": Annotated[
        Text, typer.Option(help="Model size: 5M, 15M, 30M, 60M, 120M in the series diy, or any other, like 90M.")
    ],
    "series": Annotated[Text, typer.Option(help="The series of models: diy (GPT-2 style) or llama. Default: diy.")],
    "model": Annotated[
        Text,
        typer.Option(
            metavar="NAME|FILE.toml",
            help="Instead of --params: a published model (`rigbench profiles` lists them) or a shape of your own.",
        ),
    ],
    "layers": Annotated[Text, typer.Option(metavar="N", help="Other layers than the model's.")],
    "width": Annotated[Text, typer.Option(metavar="N", help="Another width; heads and feed-forward width follow it.")],
    "heads": Annotated[Text, typer.Option(metavar="N", help="Other heads. Default with --width: heads of 64.")],
    "kv_heads": Annotated[Text, typer.Option("--kv-heads", metavar="N", help="Heads of keys and values.")],
    "seq": Annotated[Text, typer.Option(metavar="N", help="Tokens per sequence. Default: the model's own.")],
    "vocab": Annotated[Text, typer.Option(metavar="N", help="Entries of the vocabulary. Default: the model's own.")],
}
PROGRAM = (
    "NAME|FILE.toml|MODULE:FACTORY",
    "Instead of --params: a published model (`rigbench profiles` lists them), a shape of your own, or a program of "
    "yours, as mynet:make.",
)


def takes_model(default: str, *, programs: bool = False) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Put the options above in the place of a command's parameter `asked`, which is given them as an `Asked`.

    `default` says in the help of --params which model is meant without any; `programs`, that --model may also name a
    factory of the user's own.
    """

    def wrap(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def call(*words: Any, **values: Any) -> int:
            asked = Asked(**{name: values.pop(name) for name in OPTIONS})
            return function(*words, asked=asked, **values)

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            parameters += _options(default, programs) if parameter.name == "asked" else [parameter]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return call

    return wrap


def _options(default: str, programs: bool) -> list[inspect.Parameter]:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    annotations = OPTIONS | {"params": _with_default(default)} | ({"model": _programs()} if programs else {})
    return [inspect.Parameter(name, kind, default=None, annotation=annotations[name]) for name in OPTIONS]


def _with_default(default: str) -> Any:
    words = "Model size: 5M, 15M, 30M, 60M, 120M in the series diy, or any other, like 90M."
    return Annotated[Text, typer.Option(help=f"{words} Default: {default}.")]


def _programs() -> Any:
    metavar, words = PROGRAM
    return Annotated[Text, typer.Option(metavar=metavar, help=words)]
