"""The commands about data: does the loader keep up, and pack, which makes files that load fast."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rigbench.command import Common, command, say
from rigbench.core.typer_options import TokenType

TokenizerOption = Annotated[
    str, typer.Option("--tokenizer", metavar="FILE|bytes", help="A tokenizer.json, or bytes (257 ids).")
]

EndOption = Annotated[
    str | None,
    typer.Option(
        "--eot", metavar="TOKEN", help="The token after each document, or none. Default: the tokenizer's own."
    ),
]


@command("device")
def dataloader(
    common: Common,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Token ids (.bin) or JSONL (.jsonl). Default: a generated file of ids."),
    ] = None,
    data_dtype: Annotated[
        TokenType, typer.Option(help="The type of an id in --data. auto: as it was packed, else uint16.")
    ] = TokenType.auto,
    field: Annotated[str, typer.Option(metavar="NAME", help="JSONL's field with the text.")] = "text",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out bad lines of JSONL, counted.")] = False,
    tokenizer: TokenizerOption = "bytes",
    eot: EndOption = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="package.module:factory",
            help="Your own: a function that returns a torch Dataset, or an iterable of batches (a DataLoader).",
        ),
    ] = None,
    micro_batch: Annotated[str, typer.Option(metavar="N", help="Sequences a batch.")] = "8",
    seq: Annotated[str, typer.Option(metavar="N", help="Tokens per sequence.")] = "1024",
    workers: Annotated[
        str | None,
        typer.Option(metavar="0,1,2", help="Worker processes to try. Default: doubling, to the CPUs there are."),
    ] = None,
    seconds: Annotated[str, typer.Option(help="At most this long for each row.")] = "2s",
    tokens_per_second: Annotated[
        str | None, typer.Option(metavar="N", help="What training eats. Default: this rig's newest slice.")
    ] = None,
) -> int:
    """Does the data loader keep up? Tokens/s by path and workers, from memory and disk, next to what training eats."""
    from rigbench.dataloader import stage

    options = stage.options(
        data=data,
        data_dtype=data_dtype.value,
        field=field,
        skip_bad=skip_bad,
        tokenizer=tokenizer,
        eot=eot,
        dataset=dataset,
        micro_batch=micro_batch,
        seq=seq,
        workers=workers,
        seconds=seconds,
        device=common.device,
    )
    demand = stage.declared(tokens_per_second)
    return common.answer(lambda job: stage.run(job, options, demand))


@command()
def pack(
    common: Common,
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="Text files, a document each, or JSONL.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.bin", help="The file of ids to write.")],
    tokenizer: TokenizerOption = "bytes",
    field: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="JSONL's field with the text; given, all sources are JSONL. Default: text."),
    ] = None,
    eot: EndOption = None,
    dtype: Annotated[TokenType, typer.Option(help="auto: uint16 where the vocabulary fits.")] = TokenType.auto,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out bad lines, counted, and go on.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> int:
    """Tokenize text or JSONL into a file of ids, which loads many times faster, with a document that describes it."""
    from rigbench.core.errors import FINE, INTERRUPTED
    from rigbench.core.progress import make_progress
    from rigbench.dataloader import packing
    from rigbench.dataloader import packing_screen as render
    from rigbench.store import encode

    options = packing.Options(tuple(sources), output, tokenizer, eot, field, dtype.value, skip_bad, force)
    progress = make_progress(common.quiet)
    try:
        packed = packing.run(options, progress)
    except KeyboardInterrupt:
        say("interrupted; nothing was written")
        return INTERRUPTED
    finally:
        progress.close()
    if common.json:
        sys.stdout.write(encode(packed).decode())
    else:
        folder = "" if output.parent == Path() else f"{output.parent}/"
        render.show(packed, folder, common.console(), hint=not common.quiet)
    return FINE
