"""Help pages: examples first, options in panels, whole sentences at any width; and what is said of a wrong option."""

from __future__ import annotations

import difflib
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from typer.core import TyperCommand

from rigbench.command import OPTIONS

NARROWEST, WIDEST = 40, 100
NAMES_WIDTH = 26  # of an option with its metavar; longer ones have a line of their own
EVERYWHERE = "Everywhere"  # the panel of the common options, which comes last

Rows = Iterable[tuple[str, str]]


def width() -> int:
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))


def filled(text: str, indent: int = 0) -> str:
    """Paragraphs, each wrapped."""
    parts = (" ".join(part.split()) for part in text.split("\n\n"))
    return "\n\n".join(textwrap.fill(part, width(), **_indents(indent)) for part in parts)


def panel(title: str, rows: Rows) -> str:
    """A heading, then each name with its sentence beside it."""
    rows = list(rows)
    column = 4 + min(NAMES_WIDTH, max((len(name) for name, _ in rows), default=0))
    column = 4 if column > 0.4 * width() else column
    lines = [title]
    for name, text in rows:
        head, body = f"  {name}", textwrap.wrap(text, width() - column, break_on_hyphens=False) or [""]
        if len(head) + 2 > column:
            lines.append(head)
        else:
            lines.append(f"{head:<{column}}{body.pop(0)}".rstrip())
        lines += [" " * column + line for line in body if line]
    return "\n".join(lines)


def is_examples(paragraph: str) -> bool:
    return all(line.strip().startswith("rigbench ") for line in paragraph.splitlines())


def examples(text: str) -> Rows:
    """The command lines of a help text, each with what it is for, two spaces between the two."""
    for line in (line for paragraph in text.split("\n\n") if is_examples(paragraph) for line in paragraph.splitlines()):
        words, _, purpose = line.strip().partition("  ")
        yield words, purpose.strip()


def example_lines(rows: Rows) -> list[str]:
    rows = list(rows)
    column = max((len(words) for words, purpose in rows if purpose), default=0)
    lines = []
    for words, purpose in rows:
        line = f"  {words:<{column}}  {purpose}".rstrip()
        lines += [line] if len(line) <= width() else [f"  {words}", *textwrap.wrap(purpose, width(), **_indents(6))]
    return lines


def _indents(indent: int) -> dict[str, Any]:
    return {"initial_indent": " " * indent, "subsequent_indent": " " * indent, "break_on_hyphens": False}


class HelpedCommand(TyperCommand):
    """A command whose help is a page of ours. `settings` are the options that it takes by --set or a file alone."""

    settings: Sequence[str] = ()

    def get_help(self, ctx: Any) -> str:
        text = self.help or ""
        first, _, rest = text.partition("\n\n")
        prose = "\n\n".join(part for part in rest.split("\n\n") if not is_examples(part))
        usage = f"Usage: {ctx.command_path} {' '.join(self.collect_usage_pieces(ctx))}"
        parts = [filled(first), filled(usage)]
        if lines := example_lines(examples(rest)):
            parts.append("\n".join(["Examples", *lines]))
        if prose.strip():
            parts.append(filled(prose))
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "argument":
                title, row = "Arguments", (parameter.make_metavar(ctx), getattr(parameter, "help", None) or "")
            else:
                title = getattr(parameter, "rich_help_panel", None) or "Options"
                title = EVERYWHERE if "--help" in parameter.opts else title
                row = self._row(parameter, ctx)
            panels.setdefault(title, []).append(row)
        last = panels.pop(EVERYWHERE, [])
        parts += [panel(title, rows) for title, rows in panels.items()]
        if self.settings:
            known = ", ".join(self.settings)
            how = f"by --set KEY=VALUE or in rigbench.toml; `rigbench config {self.name}` explains each"
            parts.append("Settings\n" + filled(f"{known}: {how}", 2))
        return "\n\n".join([*parts, panel(EVERYWHERE, last)])

    @staticmethod
    def _row(parameter: Any, ctx: Any) -> tuple[str, str]:
        names, text = parameter.get_help_record(ctx) or ("", "")
        return names, " ".join(text.split())


def root(ctx: Any, says: str, examples: Rows, groups: Iterable[tuple[str, Rows]]) -> str:
    """The page of `rigbench --help`: where to start, the commands by what one wants, the common options."""
    options = [HelpedCommand._row(parameter, ctx) for parameter in ctx.command.get_params(ctx)]
    common = [row for row in options if "completion" not in row[0]]
    completion = "--install-completion writes completion for this shell, --show-completion prints it."
    parts = [
        filled(says),
        "\n".join(["Start here", *example_lines(examples)]),
        *(panel(title, rows) for title, rows in groups),
        panel("Before or after any command", common),
        filled(f"`rigbench COMMAND -h` shows a command's examples and options. {completion}"),
    ]
    return "\n\n".join(parts)


def group(ctx: Any, says: str, commands: Rows) -> str:
    """The page of a command that is several, as `rigbench scaling --help`."""
    path = ctx.command_path
    usage = filled(f"Usage: {path} COMMAND [OPTIONS]")
    parts = [filled(says), usage, panel("Commands", commands), filled(f"`{path} COMMAND -h` shows its options.")]
    return "\n\n".join(parts)


def wrong_usage(error: Any) -> str:
    """What is said of a command line that cannot be read; of an unknown option the nearest ones."""
    context = getattr(error, "ctx", None)
    said = error.format_message().rstrip(".")
    if context is None:
        return f"{said}; --help behind the command lists its options"
    path = context.command_path
    page = f"`{path} --help` lists {'the commands' if hasattr(context.command, 'list_commands') else 'its options'}"
    given = getattr(error, "option_name", None)
    if not hasattr(error, "possibilities") or not given:
        return f"{said}{' ' if said.endswith('?') else '; '}{page}"
    key = given.lstrip("-")
    if key in getattr(context.command, "settings", ()):
        return f"{path} takes no {given}; write --set {key}=VALUE, or put {key} into rigbench.toml"
    if key.replace("-", "_") in OPTIONS:
        return f"{path.partition(' ')[2]} does not take {given}; {page}"
    known = [name for parameter in context.command.get_params(context) for name in parameter.opts if name[:2] == "--"]
    near = ["--" + name for name in difflib.get_close_matches(key, [name[2:] for name in known], n=2, cutoff=0.6)]
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return f"No such option: {given}; {meant}{page}"
