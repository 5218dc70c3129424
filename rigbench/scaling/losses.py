"""Reads a user's own losses: a table of runs, or the training log of each (CSV, W&B, text, TensorBoard)."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.logs import events, formats, scan, source
from rigbench.scaling.record import Point

# What a column may be called, in lower case without marks; the first that is there is taken.
ROLES: dict[str, tuple[str, ...]] = {
    "params": ("params", "parameters", "n", "nparams", "numparams", "numparameters", "nparameters", "totalparams",
               "totalparameters", "modelparams", "modelsize", "size", "paramcount"),
    "embedding": ("embeddingparams", "embeddingparameters", "nembedding", "embedding"),
    "tokens": ("tokens", "d", "ntokens", "numtokens", "trainingtokens", "traintokens", "totaltokens", "tokensseen",
               "tokensprocessed", "datasize", "data"),
    "flops": ("flops", "flop", "c", "compute", "trainingflops", "trainflops", "totalflops", "totalflos"),
    "loss": ("valloss", "validationloss", "validloss", "evalloss", "heldoutloss", "testloss", "finalvalloss",
             "bestvalloss", "loss", "finalloss", "l", "trainloss", "trainingloss"),
    "perplexity": ("valperplexity", "validationperplexity", "perplexity", "valppl", "ppl"),
    "seed": ("seed", "randomseed", "rngseed"),
    "optimizer": ("optimizer", "optim", "opt"),
    "model": ("model", "modelname", "name", "runname", "run", "id"),
}  # fmt: skip
OF_TRAINING = ("trainloss", "trainingloss")
MOST_ROWS, MOST_NAMED, MOST_FOLDERS = 100_000, 12, 2000
SIZE = re.compile(r"(?<![a-z0-9.])(\d{1,6}(?:\.\d{1,3})?)\s?([kmb])(?![a-z0-9])", re.I)  # the 120M of gpt-120M-run2
HELD_OUT = re.compile(r"(?:^|[^a-z])(?:eval|val|valid|validation|test)(?![a-z])")
LOGS = (".csv", ".tsv", ".jsonl", ".json", ".log", ".txt")
OVER = "\0"  # of a row with more cells than columns, as of a decimal comma in a table that commas part
MOST_LOSS = 1000.0  # nats a token: more is no loss of a language model
FLOPS_APART = 0.02
TELL_TOKENS = "say --tokens-per-step N or --tokens N"
CALLS = "_step is W&B's count of calls of log, taken for steps: right if nothing else was logged"


def columns_of(text: str) -> dict[str, str]:
    """ "params=N,loss=val" as {"params": "N", "loss": "val"}."""
    columns = {}
    for part in filter(str.strip, text.split(",")):
        role, _, name = part.partition("=")
        if role.strip() not in ROLES or not name.strip():
            raise RigbenchError(f"--columns {part.strip()[:60]!r} is not ROLE=NAME", f"roles are {', '.join(ROLES)}")
        columns[role.strip()] = name.strip()
    return columns


def read(
    path: Path, columns: Mapping[str, str], tokens: float | Absent, tokens_per_step: float | Absent
) -> tuple[list[Point], list[str]]:
    """The points of a file or folder, and how they were read.

    `tokens`: of every model, where the file does not say; `tokens_per_step`: of a log that counts steps.

    Raises:
        RigbenchError: no such column, a row that is no loss, or nothing to read.
    """
    if path.is_dir() and not any(it.is_file() for it in path.glob("*.tfevents.*")):
        logs = [it for it in sorted(path.iterdir()) if it.suffix.lower() in LOGS or _events_below(it)]
        if not logs:
            raise RigbenchError(f"{path} holds no logs", "give a folder with a log of each model, or a table of runs")
        read_all = [_log(it, columns, tokens, tokens_per_step) for it in logs]
        notes = [note for _, note in read_all]
        return _distinct([it for it, _ in read_all], path.name, None, [it.name for it in logs], notes), notes
    if events.is_events(path):
        point, note = _log(path, columns, tokens, tokens_per_step)
        return [point], [note]
    text, _ = source.read(path)
    if not text.strip():
        raise RigbenchError(f"{path.name} is empty", "give a table with a row a run, or a log")
    names, rows = _table(text)
    if of := _runs_beside(names, columns):
        return _beside(path.name, names, rows, of, tokens, tokens_per_step)
    if history := _runs_below(path.name, names, rows, columns, tokens, tokens_per_step):
        points, notes = _points(path.name, *history, columns, tokens)
        return points, [*notes, f"{path.name}: the last loss of each of {len(points)} runs"]
    if "params" in columns or _column(names, "params", {}) is not None or (rows and not _has_steps(names)):
        return _points(path.name, names, rows, columns, tokens)
    point, note = _log(path, columns, tokens, tokens_per_step)
    return [point], [note]


def _events_below(folder: Path) -> list[Path]:
    """TensorBoard's files in it and below it; a whole disk is not looked through."""
    walked = itertools.islice(os.walk(folder), MOST_FOLDERS)
    return sorted(Path(place, name) for place, _, names in walked for name in names if ".tfevents." in name)


def _has_steps(names: Sequence[str]) -> bool:
    return not names or any(scan.is_step(name.strip().lower()) for name in names)


Row = Mapping[str, str]


def _table(text: str) -> tuple[list[str], list[tuple[int, Row]]]:
    """Names of the columns, and rows with the number of their line; none of what is no table."""
    rows: list[tuple[int, Row]] = []
    start = text.lstrip()[:1]
    if start in ("[", "{"):
        try:
            entries: Any = json.loads(text)
            numbered = list(enumerate(entries if isinstance(entries, list) else [entries], 1))
        except (ValueError, RecursionError):
            try:
                lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
                numbered = [(number, json.loads(line)) for number, line in lines]
            except (ValueError, RecursionError):
                return [], []
        rows = [(number, {str(k): "" if v is None else str(v) for k, v in it.items()}) for number, it in numbered
                if isinstance(it, dict)]  # fmt: skip
        return list(dict.fromkeys(name for _, row in rows for name in row)), rows
    lines_left = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines_left:
        return [], []
    mark = max(",;\t|", key=lines_left[0].count)
    if not lines_left[0].count(mark):
        return [], []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    names: list[str] = []
    for cells in reader:
        if not "".join(cells).strip() or cells[0].startswith("#"):
            continue
        if not names:
            names = [cell.strip() for cell in cells]
            continue
        row = dict(zip(names, (cell.strip() for cell in cells), strict=False))
        if "".join(cells[len(names) :]).strip():
            row[OVER] = f"has {len(cells)} cells for {len(names)} columns"
        rows.append((reader.line_num, row))
    return names, rows


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _column(names: Sequence[str], role: str, columns: Mapping[str, str]) -> str | None:
    if role in columns:
        its = next((name for name in names if name.lower() == columns[role].lower()), None)
        if its is None:
            raise RigbenchError(f"no column is called {columns[role]!r}", _there(names))
        return _once(its, names)
    plain = {_plain(name): name for name in reversed(names)}
    its = next((plain[it] for it in ROLES[role] if it in plain), None)
    return its if its is None else _once(its, names)


def _once(name: str, names: Sequence[str]) -> str:
    if names.count(name) > 1:
        raise RigbenchError(f"{names.count(name)} columns are called {name!r}", "give each a name of its own")
    return name


def _there(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"there are {', '.join(names[:MOST_NAMED])}{more}; say which is which, as --columns params=NAME,loss=NAME"


def _points(
    file: str, names: Sequence[str], rows: Sequence[tuple[int, Row]], columns: Mapping[str, str], tokens: float | Absent
) -> tuple[list[Point], list[str]]:
    """A row a run."""
    of = {role: _column(names, role, columns) for role in ROLES}
    if "loss" not in columns and of["perplexity"] and _plain(of["loss"] or "") in OF_TRAINING:
        of["loss"] = None
    loss, notes = of["loss"] or of["perplexity"], []
    if loss is None:
        raise RigbenchError(f"{file} has no column of losses", _there(names))
    if of["params"] is None and (of["flops"] is None or of["tokens"] is None) and of["model"] is None:
        raise RigbenchError(f"{file} has no column of parameters", _there(names))
    if of["tokens"] is None and of["flops"] is None and isinstance(tokens, Absent):
        what = f"{file} has no column of tokens and none of FLOP"
        raise RigbenchError(what, f"say them with --tokens 2.5B where all models saw as many; {_there(names)}")
    if _plain(loss) in OF_TRAINING:
        notes.append(f"{loss} of {file} is a training loss: of text that a model has seen it may be too low")
    if loss == of["perplexity"] and of["loss"] is None:
        notes.append(f"losses are the logarithms of {loss}")
    if len(rows) > MOST_ROWS:
        raise RigbenchError(f"{file} has over {MOST_ROWS:,} rows", "give a row a run")
    points, apart = [], 0.0
    for number, row in rows:
        where = f"line {number} of {file}"
        _refuse_over(row, where)
        cells = {role: row.get(name, "") if name else "" for role, name in of.items()}
        value = _loss(row.get(loss, ""), loss, where)
        if loss == of["perplexity"] and of["loss"] is None:
            if value <= 1:
                raise RigbenchError(f"{where}: {loss} {value:g} is no perplexity", "it is above 1")
            value = math.log(value)
        elif value > MOST_LOSS:
            raise RigbenchError(f"{where}: {loss} {value:g} is no loss in nats a token", "mend the row, or take it out")
        flops = _count(units.parse_flops, cells["flops"], of["flops"], where)
        seen = _count(units.parse_count, cells["tokens"], of["tokens"], where)
        if seen is None and not isinstance(tokens, Absent):
            seen = tokens
        params = _count(units.parse_parameters, cells["params"], of["params"], where)
        if params is None and of["params"] is None and (match := SIZE.search(cells["model"])):
            params = float(units.parse_parameters("".join(match.groups())))
        if params is None and flops and seen:
            params = flops / 6 / seen
        if seen is None and flops and params:
            seen = flops / 6 / params
        if not params or not seen:
            what = "parameters" if not params else "tokens"
            raise RigbenchError(f"{where} does not say its {what}", "fill it in, or take the row out")
        if flops:
            apart = max(apart, abs(math.log(flops / 6 / params / seen)))
        embedding = _count(units.parse_count, cells["embedding"], of["embedding"], where)
        seed = _whole(cells["seed"], of["seed"], where)
        name = cells["model"] or units.format_count(params)
        points.append(_point(name, params, embedding or 0.0, seen, value, seed, cells["optimizer"].lower() or "adamw"))
    if not points:
        raise RigbenchError(f"{file} has no rows", "give a row a run")
    if apart > FLOPS_APART:
        share = units.format_share(math.expm1(apart))
        notes.append(f"FLOP of {file} are up to {share} from 6·N·D, which L(C) is of")
    return _distinct(points, file, of["seed"], [f"line {number}" for number, _ in rows], notes), notes


def _refuse_over(row: Row, where: str) -> None:
    if OVER in row:
        raise RigbenchError(f"{where} {row[OVER]}", 'write 3.14, or "3,14" where the columns are parted by commas')


def _point(
    name: str, params: float, embedding: float, tokens: float, loss: float, seed: int, optimizer: str, note: str = ""
) -> Point:
    return Point(
        model=name,
        params=round(params),
        embedding_params=round(embedding),
        tokens=round(tokens),
        flops=6.0 * round(params) * round(tokens),
        loss=loss,
        seed=seed,
        optimizer=optimizer,
        note=note,
    )


def _loss(text: str, name: str, where: str) -> float:
    try:
        value = float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)
    except (ValueError, RecursionError):
        shown = f"{text[:40]!r}, no number" if text else "empty"
        raise RigbenchError(f"{where}: {name} is {shown}", "mend the row, or take it out") from None
    if not math.isfinite(value):
        raise RigbenchError(f"{where}: {name} is {text}", "a run that diverged has no loss: take its row out") from None
    if value <= 0:
        raise RigbenchError(f"{where}: {name} is {text}", "a loss in nats a token is above 0: mend the row")
    return value


def _count(parse: Callable[[str, str], float], text: str, name: str | None, where: str) -> float | None:
    return float(parse(text, f"{where}: {name}")) if text and text.lower() not in ("nan", "null", "-") else None


def _whole(text: str, name: str | None, where: str) -> int:
    if not text:
        return 0
    try:
        number = float(text)
        return int(number) if number.is_integer() else int(text)
    except (ValueError, OverflowError):
        raise RigbenchError(f"{where}: {name} is {text[:40]!r}, no whole number", "mend the row") from None


def _distinct(
    points: Sequence[Point], file: str, seeds: str | None, lines: Sequence[str], notes: list[str]
) -> list[Point]:
    """The same run twice is refused; alike runs without a seed are numbered, where their losses differ."""
    met: dict[tuple[object, ...], list[int]] = {}
    for place, it in enumerate(points):
        met.setdefault(_key(it), []).append(place)
    made, numbered = list(points), 0
    for places in (its for its in met.values() if len(its) > 1):
        for first, second in pairwise(sorted(places, key=lambda place: points[place].loss)):
            if seeds or points[first].loss == points[second].loss:
                its = points[first]
                both = " and ".join(lines[place] for place in sorted((first, second)))
                what = f"{both} of {file} are the same run ({its.model}"
                what += f", {units.format_count(its.tokens)} tokens{f', seed {its.seed}' if seeds else ''})"
                raise RigbenchError(what, "take one out" if seeds else "take one out, or add a column seed")
        numbered += len(places)
        for seed, place in enumerate(places):
            made[place] = msgspec.structs.replace(points[place], seed=seed)
    if numbered:
        notes.append(f"{numbered} runs of {file} differ in nothing but their loss: they are taken for seeds")
    return made


def together(sources: Sequence[tuple[str, Sequence[Point]]]) -> tuple[list[Point], list[str]]:
    """The points of several sources; the same run twice is refused, alike runs of a later one get other seeds."""
    made, notes = dict[tuple[object, ...], tuple[str, Point]](), list[str]()
    for name, points in sources:
        twins = [(made[key], point) for point in points if (key := _key(point)) in made]
        for (first, its), point in twins:
            if its.loss == point.loss:
                what = f"{first} and {name} hold the same run ({point.model}, {units.format_count(point.tokens)} tokens"
                raise RigbenchError(f"{what}, seed {point.seed}, loss {point.loss:.4f})", "give it once")
        shift = 1 + max(it.seed for _, it in made.values()) if twins else 0
        if twins:
            notes.append(f"{len(twins)} runs of {name} differ in nothing but their loss: they are taken for seeds")
        for point in points:
            its = msgspec.structs.replace(point, seed=point.seed + shift)
            made[_key(its)] = name, its
    return [point for _, point in made.values()], notes


def _key(it: Point) -> tuple[object, ...]:
    return it.params, it.tokens, it.optimizer, it.seed


# ------------------------------------------------------------------------------------ histories of several runs


def _runs_beside(names: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """By run its column of losses, where each has columns of its own: "5M - val/loss", as W&B exports a chart."""
    own = [(name, *name.rpartition(" - ")[::2]) for name in names if not name.endswith(("__MIN", "__MAX"))]
    wanted = columns.get("loss", "").lower()
    kinds = [its for _, run, its in own if run and (its.lower() == wanted if wanted else "loss" in its.lower())]
    kind = next((its for its in kinds if HELD_OUT.search(its.lower())), kinds[0] if kinds else "")
    return {run: name for name, run, its in own if run and its == kind}


def _beside(
    file: str,
    names: Sequence[str],
    rows: Sequence[tuple[int, Row]],
    of: Mapping[str, str],
    tokens: float | Absent,
    tokens_per_step: float | Absent,
) -> tuple[list[Point], list[str]]:
    """The last loss of each run."""
    at = next((name for name in names if _plain(name) in ROLES["tokens"]), None)
    step = next((name for name in names if scan.is_step(name.lower())), None)
    points, lines, notes = [], [], []
    for run, column in of.items():
        number, row = next(((number, row) for number, row in reversed(rows) if row.get(column)), (0, {}))
        where = f"line {number} of {file}"
        if not row:
            raise RigbenchError(f"{file} has no loss of {run}", "take its column out")
        _refuse_over(row, where)
        size = SIZE.search(run)
        if size is None:
            cure = "rename it in the first line, as '120M - val/loss', or give a table with a row a run"
            raise RigbenchError(f"{file} does not say how large {run} is", cure)
        own = row.get(at, "") if at else ""
        seen = _count(units.parse_count, own, at, where) if own and isinstance(tokens, Absent) else tokens
        if isinstance(seen, Absent) and step and not isinstance(tokens_per_step, Absent):
            seen = (_count(units.parse_count, row.get(step, ""), step, where) or 0.0) * tokens_per_step
            notes += [CALLS] if step == "_step" and CALLS not in notes else []
        if isinstance(seen, Absent) or not seen:
            raise RigbenchError(f"{where} does not say how many tokens {run} saw", TELL_TOKENS)
        value, params = _loss(row[column], column, where), float(units.parse_parameters("".join(size.groups())))
        points.append(_point(run, params, 0.0, seen, value, 0, "adamw", column))
        lines.append(f"line {number}")
        kind = "" if HELD_OUT.search(column.lower()) else ", a training loss: of text that was seen it may be too low"
        notes.append(f"{file}: the last {column}, after {units.format_count(seen)} tokens{kind}")
    return _distinct(points, file, None, lines, notes), notes


def _runs_below(
    file: str,
    names: Sequence[str],
    rows: Sequence[tuple[int, Row]],
    columns: Mapping[str, str],
    tokens: float | Absent,
    tokens_per_step: float | Absent,
) -> tuple[list[str], list[tuple[int, Row]]] | None:
    """The last row of each run that has a loss, where a column says which run a step is of; None of any other file."""
    step = next((name for name in names if scan.is_step(name.lower())), None)
    there = {role: name for role, name in columns.items() if name.lower() in map(str.lower, names)}
    roles = ("model", "params", "tokens", "flops", "loss")
    model, params, seen, flops, loss = (_column(names, it, there) for it in roles)
    if not step or not loss or (params and seen) or not (model or params):
        return None
    by = [name for name in (model, params, *(_column(names, it, there) for it in ("seed", "optimizer"))) if name]
    last = {tuple(row.get(name) for name in by): (number, row) for number, row in rows if row.get(loss)}
    if len(last) < 2 or len(last) == len(rows):
        return None
    if seen or flops or not isinstance(tokens, Absent):
        return list(names), list(last.values())
    if isinstance(tokens_per_step, Absent):
        raise RigbenchError(f"{file} does not say how many tokens were seen", TELL_TOKENS)
    made = list[tuple[int, Row]]()
    for number, row in last.values():
        where = f"line {number} of {file}"
        if not (steps := _count(units.parse_count, row.get(step, ""), step, where)):
            raise RigbenchError(f"{where} does not say how many tokens were seen", TELL_TOKENS)
        made.append((number, {**row, "tokens": f"{steps * tokens_per_step:.0f}"}))
    return [*names, "tokens"], made


# ------------------------------------------------------------------------------------------------- a log a model


def _log(
    path: Path, columns: Mapping[str, str], tokens: float | Absent, tokens_per_step: float | Absent
) -> tuple[Point, str]:
    """The last loss on held-out text of a training log, whose size its name says; else of training."""
    raw = _raw(path)
    keys = list(dict.fromkeys(key for row in raw.rows for key in row.items))
    if "loss" in columns:
        key = columns["loss"].lower()
        if key not in keys:
            raise RigbenchError(f"{path.name} has no {columns['loss']!r}", _there(sorted(filter(None, keys))))
    else:
        losses = [key for key in keys if "loss" in key and "scale" not in key]
        if not losses:
            what = f"{path.name} has no loss"
            raise RigbenchError(what, _there(sorted(filter(None, keys))) if keys else "give a log")
        key = next((key for key in losses if HELD_OUT.search(key)), losses[0])
    places = [place for place, row in enumerate(raw.rows) if key in row.items]
    last = places[-1]
    value = _loss(f"{raw.rows[last].items[key].value:g}", key, f"the end of {path.name}")
    size = SIZE.search(path.stem) or SIZE.search(path.parent.name)
    params = columns.get("params") or ("".join(size.groups()) if size else None)
    if params is None:
        cure = "name it by the model's size, as 120M.csv, or give a table with a row a run"
        raise RigbenchError(f"{path.name} does not say which model it is of", cure)
    seen = _seen(raw, last, path.name, columns, tokens, tokens_per_step)
    kind = "" if HELD_OUT.search(key) else ", a training loss: of text that a model has seen it may be too low"
    point = _point(path.stem, float(units.parse_parameters(params)), 0.0, seen, value, 0, "adamw", key)
    return point, f"{path.name}: the last {key}, after {units.format_count(seen)} tokens{kind}"


def _raw(path: Path) -> scan.Raw:
    if not events.is_events(path):
        text = source.read(path)[0]
        raw = scan.scan(text, path.name)
        for number, row in _table(text)[1] if raw.kind == "table" else ():
            _refuse_over(row, f"line {number} of {path.name}")
        return raw
    told: dict[int, dict[str, scan.Item]] = {}
    folder = path if path.is_file() else _events_below(path)[0].parent
    for tag, its in events.scalars(folder).items():
        for event in its:
            told.setdefault(event.step, {})[tag.lower()] = scan.Item(event.value)
    rows = [scan.Row({**items, "step": scan.Item(float(step))}) for step, items in sorted(told.items())]
    return scan.Raw("TensorBoard events", rows, {}, {})


def _seen(
    raw: scan.Raw,
    last: int,
    name: str,
    columns: Mapping[str, str],
    tokens: float | Absent,
    tokens_per_step: float | Absent,
) -> float:
    """Tokens at a row: as it says, else its step times what a step has."""
    if not isinstance(tokens, Absent):
        return tokens
    wanted = columns.get("tokens", "").lower()
    for row in raw.rows[last::-1]:
        for key, item in row.items.items():
            if key == wanted or (not wanted and formats.meaning(key, item.unit) == "tokens" and item.value > 0):
                return item.value
    if wanted:
        raise RigbenchError(f"{name} has no {columns['tokens']!r}", "name another column, or say --tokens")
    step = next((row.items[key].value for row in raw.rows[last::-1] for key in row.items if scan.is_step(key)), 0.0)
    if step and not isinstance(tokens_per_step, Absent):
        return step * tokens_per_step
    raise RigbenchError(f"{name} does not say how many tokens were seen", TELL_TOKENS)
