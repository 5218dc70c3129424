"""Makes one HTML file of a stored run: no network, no other file, every number with its samples."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rigbench.budget import brief
from rigbench.budget.record import Budget
from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.files import reason, write_whole
from rigbench.core.record import Absent, Skipped
from rigbench.core.screen import UNPRINTABLE, printable
from rigbench.document import Run
from rigbench.redacted import names_here, redacted
from rigbench.report import exports, first_screen
from rigbench.report.page import cost, kit, law, raw, rig, training
from rigbench.report.page.kit import MOST_ROWS, Section, cells, why
from rigbench.tables import elsewhere, machine
from rigbench.usable import usable, words

LARGEST = 1 << 20  # bytes
LONGEST = 600  # characters of one sentence
THINNED = (None, 2000, 500, 200, 50, 20)  # samples that are left of a list


class Page(NamedTuple):
    text: str
    hidden: str  # what was taken out, or what `redact=False` left in
    thinned: str  # how much of the samples, where it had to be


def page(run: Run, *, redact: bool = True, keep_disturbed: bool = False) -> Page:
    """The page of a run, redacted as captures are.

    What was measured while the machine was busy is left out of the sections, as on the screen, not of the raw tables.
    """
    public = redacted(run, *names_here())
    whole = public.run if redact else run
    shown = whole if keep_disturbed else usable(whole)
    facts = _facts(whole, shown, keep_disturbed)
    sections = list(_ordered(shown))
    facts["sections"] = [it for it in sections if not it.is_left_out]
    facts["left_out"] = [it for it in sections if it.is_left_out]
    facts["hidden"] = (
        f"Redacted: {public.words}." if redact and public.counts else "Redacted: nothing in it named anybody."
    )
    if not redact:
        facts["hidden"] = f"Not redacted: it holds {public.words or 'nothing that names anybody'}."
    document = msgspec.to_builtins(whole)
    template = _template()
    text = ""
    for most in THINNED:
        facts["rooms"] = raw.packed(document, most)
        kept = f"Of longer lists of samples every k-th is kept, {most} at the most; all of them are in {run.id}.json."
        facts["thinned"] = "" if most is None else kept
        text = template.render(facts)
        if len(text.encode()) <= LARGEST:
            break
    return Page(text, str(facts["hidden"]), str(facts["thinned"]))


def write(run: Run, path: Path, *, redact: bool = True, keep_disturbed: bool = False) -> Page:
    """The page into a file, whole or not at all.

    Raises:
        RigbenchError: the file cannot be written.
    """
    made = page(run, redact=redact, keep_disturbed=keep_disturbed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, UNPRINTABLE.sub("\ufffd", made.text).encode())
    except OSError as error:
        raise RigbenchError(f"cannot write the page to {path} ({reason(error)})", "name another file") from error
    return made


def _ordered(run: Run) -> Iterable[Section]:
    made = {section.id: section for part in (cost, rig) for section in part.sections(run)}
    yield from law.sections(run)
    yield from training.sections(run)
    for name in ("holds-back", "step", "roofline", "heat", "topology", "transfers", "memory", "sure"):
        yield made[name]


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("rigbench.report.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": _shown,
        "number": lambda heading: heading.startswith(">"),
        "plain": lambda heading: heading.removeprefix(">"),
    }
    return environment.get_template("page.html.j2")


def _shown(value: object) -> str:
    """Foreign text: nothing in it may turn the page's text around, ring a bell or fill the page."""
    text = printable(str(value))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text)} characters)"


def _facts(whole: Run, shown: Run, keep_disturbed: bool) -> dict[str, Any]:
    own = resources.files(__package__)
    script = own.joinpath("page.js").read_text(encoding="utf-8")
    budget = shown.budget if isinstance(shown.budget, Budget) else None
    checked = list(first_screen.checked(shown))
    busy = words(whole, keep_disturbed)
    sentence = first_screen.answer(shown) or f"no hours: {why(shown, 'budget')}"
    no_cost = "" if budget else why(shown, "budget")
    title = busy[0] if busy else sentence
    claims = [
        it for it in ((budget.sanity.sentence, budget.sanity.kwh_sentence) if budget else ()) if isinstance(it, str)
    ]
    return {
        "run": whole,
        "mark": "fault" if busy else _mark(whole, shown),
        "is_skipped": all(isinstance(it, Skipped) for room in whole.rooms().values() for it in room),
        "title": title,
        "sentence": sentence if busy else "",
        "busy": busy[1:],
        "claims": claims,
        "lead": [f"{it.what}: {it.do or it.cure}." for it in shown.findings if it.severity != "information"][:2],
        "warnings": whole.warnings,
        "took": "" if isinstance(whole.took_seconds, Absent) else units.format_seconds(whole.took_seconds),
        "machine": machine(whole.rig),
        "target": elsewhere(whole),
        "checked": [(name, its, text) for name, (its, text) in checked],
        "versions": _versions(whole),
        "method": list(_method(whole)),
        "cost": cost.cost_data(budget) if budget else None,
        "budget": budget,
        "no_cost": no_cost,
        "no_cost_asked": kit.NOT_ASKED in no_cost,
        "time": brief.time_unit(budget.whole.hours) if budget else ("h", 1.0),
        "overheads": cost.overheads(budget, brief.time_unit(budget.whole.hours)[1]) if budget else None,
        "most_rows": MOST_ROWS,
        "markdown": exports.FORMATS["md"](shown),
        "style": Markup(own.joinpath("page.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "svg": Markup,
        "told": brief,
    }


def _mark(whole: Run, shown: Run) -> str:
    """The verdict's, or "none" where nothing was looked at: a prediction says nothing of a rig's health."""
    looked = [it for name, its in whole.rooms().items() if name not in kit.ANSWERS for it in its]
    if all(isinstance(it, Skipped) for it in looked) and (elsewhere(whole) or not whole.findings):
        return "none"
    return first_screen.worst(shown)


def _versions(run: Run) -> list[tuple[str, str]]:
    its = run.software
    named = [
        ("rigbench", its.rigbench),
        ("Python", its.python),
        ("torch", its.torch),
        ("bitsandbytes", its.bitsandbytes),
    ]
    named += [("NVIDIA driver", its.nvidia_driver), ("CUDA of the driver", its.cuda_driver), ("kernel", its.kernel)]
    return [(name, cells(value)[0]) for name, value in [*named, *its.environment.items()]]


def _method(run: Run) -> Iterable[tuple[str, str]]:
    """Of each room the version of its way of measuring, when it began and how long it took, where it says so."""
    for name, results in run.rooms().items():
        for place, result in enumerate(results):
            path = f".{name}[{place}]" if isinstance(getattr(run, name), tuple) else f".{name}"
            if isinstance(result, Skipped):
                yield path, f"not measured: {result.reason}"
                continue
            method, seconds = getattr(result, "method", None), getattr(result, "seconds", None)
            took = f", {seconds:.3g} s" if isinstance(seconds, float) else ""
            ended = getattr(result, "ended_by", "")
            yield (
                path,
                f"method {method}{took}{f', {ended}' if ended else ''}" if method is not None else "no method number",
            )
