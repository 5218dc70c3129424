"""A stored run in forms that other programs read: Markdown, CSV, OpenMetrics, pytest-benchmark's JSON.

Each is a function of a run, which is to be redacted before, and rid of what was measured while the machine was busy.
"""

from __future__ import annotations

import csv as files
import io
import json
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from rigbench import __version__, tables
from rigbench.budget.record import Budget
from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.core.screen import printable, span
from rigbench.document import Run
from rigbench.report.first_screen import answer, checked
from rigbench.tables import Row, elsewhere, machine
from rigbench.usable import words

HOUR = 3600.0
ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;", "#": "&#35;"})
# What begins a formula where a spreadsheet opens the file.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
# OpenMetrics: by the unit of a row, the family's name with its base unit last, what it is, and the factor to that unit.
FAMILIES: dict[str, tuple[str, str, str, float]] = {
    "tokens/s": ("rigbench_tokens_per_second", "", "Tokens a second.", 1.0),
    "steps/s": ("rigbench_steps_per_second", "", "Steps a second, of a training whose tokens are not known.", 1.0),
    "samples/s": ("rigbench_samples_per_second", "", "Samples a second, of a program of the user's.", 1.0),
    "bytes/s": ("rigbench_bytes_per_second", "", "Bytes a second.", 1.0),
    "FLOP/s": ("rigbench_flop_per_second", "", "Floating-point operations a second.", 1.0),
    "FLOP/J": ("rigbench_flop_per_joule", "", "Floating-point operations a joule.", 1.0),
    "seconds": ("rigbench_time_seconds", "seconds", "Time of one piece of work.", 1.0),
    "bytes": ("rigbench_peak_memory_bytes", "bytes", "Peak memory that decides out-of-memory.", 1.0),
    "J": ("rigbench_energy_joules", "joules", "Energy a token or sample.", 1.0),
    "°C": ("rigbench_temperature_celsius", "celsius", "Temperature.", 1.0),
    "W": ("rigbench_power_watts", "watts", "Power.", 1.0),
    "share": ("rigbench_share_ratio", "ratio", "A share.", 1.0),
    "h": ("rigbench_duration_seconds", "seconds", "Duration of training.", HOUR),
}


def markdown(run: Run) -> str:
    """For an issue or a forum: the verdict, the models, the probes, the findings, and every headline folded away."""
    verdict = answer(run) or ", ".join(name for name, _ in checked(run)) or "nothing was measured"
    lines = [f"### rigbench {_plain(run.command)}: {_plain(verdict)}", ""]
    facts = [tables.on(run)[1], *(f"{name} {it}" for name, it in _versions(run).items() if name != "cuda")]
    facts += [f"rigbench {run.software.rigbench}", run.started_at, run.id, run.label and f"label {run.label}"]
    lines += [" · ".join(_plain(fact) for fact in facts if fact), ""]
    if busy := words(run):
        lines += [f"**{_plain(busy[0])}**", "", *(f"- {_plain(said.strip())}" for said in busy[1:]), ""]
    if isinstance(run.budget, Budget):
        price = run.budget.price
        currency = "money" if isinstance(price, Absent) else price.currency
        lines += [*_table(("model", ">tokens/s", ">hours", ">kWh", f">{_plain(currency)}"), _models(run.budget)), ""]
    probes = [(mark, name, text) for name, (mark, text) in checked(run)]
    if probes:
        lines += [*_table(("", "probe", "result"), probes), ""]
    listed = [it for it in run.findings if it.severity != "information" and not it.accepted]
    for it in listed:
        lines.append(f"- **{it.severity}** {_plain(it.what)}: {_plain(it.detail or it.title)}. {_plain(it.do)}")
    if listed:
        lines.append("")
    if rows := tables.headlines(run):
        cells = [(row.room, row.what, row.metric.replace("_", " "), _span(row), _under(row)) for row in rows]
        table = _table(("probe", "what", "number", ">value (90 % interval)", "under"), cells)
        folded = "" if probes or isinstance(run.budget, Budget) else " open"
        lines += [f"<details{folded}><summary>All numbers</summary>", "", *table, "", "</details>", ""]
    return "\n".join(lines)


def _models(budget: Budget) -> Iterator[tuple[str, ...]]:
    for row in budget.series:
        rate = span(row.rate.tokens_per_s, "tokens/s")
        figures = (span(it, "").strip() if not isinstance(it, Absent) else "n/a" for it in (row.kwh, row.money))
        yield row.model, rate.replace(" tokens/s", ""), span(row.hours, "h").replace(" h", ""), *figures


def _span(row: Row) -> str:
    if row.n <= 1 or row.level == 0:
        return units.format_span(row.value, row.value, row.value, row.unit)
    return span(row.estimate, row.unit)


def _under(row: Row) -> str:
    return ", ".join(f"{key} {value}" for key, value in row.under if key not in ("device", "method"))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Of GitHub's kind; a heading that begins with ">" stands above numbers."""
    yield f"| {' | '.join(column.removeprefix('>') for column in columns)} |"
    yield f"|{'|'.join('---:' if column.startswith('>') else '---' for column in columns)}|"
    for row in rows:
        yield f"| {' | '.join(map(_plain, row))} |"


def _plain(text: str) -> str:
    """Foreign text that Markdown shows as it is: no markup, no HTML, no link, no mention, no issue's number."""
    text = re.sub(r"([\\`*_\[\]|~])", r"\\\1", printable(text)).translate(ENTITIES)
    return text.replace("://", ":&#47;&#47;").replace("www.", "www&#46;")


def csv(run: Run) -> str:
    """Every number that has an interval, a row each, tidy; no cell is a formula to a spreadsheet."""
    out = io.StringIO()
    writer = files.DictWriter(out, [*tables.about(run), *tables.LONG], lineterminator="\n")
    writer.writeheader()
    for row in tables.tidy(run, tables.rows(run)):
        writer.writerow({key: _cell(value) for key, value in row.items()})
    return out.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def openmetrics(run: Run) -> str:
    """The headlines as gauges, each with the ends of its interval, for a file that a Prometheus exporter picks up."""
    families: dict[str, list[tuple[dict[str, str], tuple[float, float, float]]]] = {}
    seen: set[tuple[str, ...]] = set()
    for row in tables.headlines(run):
        if row.unit not in FAMILIES:
            continue
        labels = {"room": row.room, "what": row.what, "metric": row.metric}
        labels |= {re.sub(r"\W", "_", key): value for key, value in row.under}
        if (its := (row.unit, *labels.values())) in seen:
            continue  # the same again, as a control: the first stands
        seen.add(its)
        families.setdefault(row.unit, []).append((labels, (row.value, row.low, row.high)))
    rig, words = tables.on(run)
    of_run = {"run": run.id, "rig": rig}
    about = of_run | {"machine": words, "command": run.command, "label": run.label, "version": __version__}
    about |= _versions(run)
    lines = ["# TYPE rigbench_run info", "# HELP rigbench_run What was measured, and on what."]
    lines.append(f"rigbench_run_info{_labels(about)} 1")
    lines += ["# TYPE rigbench_run_start_time_seconds gauge", "# UNIT rigbench_run_start_time_seconds seconds"]
    lines.append(f"rigbench_run_start_time_seconds{_labels(of_run)} {_moment(run.started_at)!r}")
    lines += ["# TYPE rigbench_findings gauge", "# HELP rigbench_findings Findings by severity."]
    for severity in ("fault", "warning", "information"):
        count = sum(it.severity == severity and not it.accepted for it in run.findings)
        lines.append(f"rigbench_findings{_labels({**of_run, 'severity': severity})} {count}")
    for unit, found in families.items():
        name, base, help, factor = FAMILIES[unit]
        for place, end in enumerate(("", "low", "high")):
            stem = name.removesuffix(f"_{base}") if base else name
            family = "_".join(filter(None, (stem, end, base)))
            what = f"{help[:-1]}, {end} end of its interval." if end else help
            lines += [f"# TYPE {family} gauge", *([f"# UNIT {family} {base}"] if base else [])]
            lines.append(f"# HELP {family} {what}")
            lines += [f"{family}{_labels(of_run | labels)} {values[place] * factor!r}" for labels, values in found]
    return "\n".join([*lines, "# EOF", ""])


def _versions(run: Run) -> dict[str, str]:
    """Of what the numbers depend on: none of a prediction for hardware that is not here."""
    software = run.software
    named = {"driver": software.nvidia_driver, "torch": software.torch, "cuda": software.cuda_driver}
    return {key: str(value) for key, value in named.items() if not isinstance(value, Absent) and not elsewhere(run)}


def _labels(labels: dict[str, str]) -> str:
    words = {key: printable(value).replace("\\", "\\\\").replace('"', '\\"') for key, value in labels.items()}
    return "{" + ",".join(f'{key}="{value}"' for key, value in words.items()) + "}"


def _moment(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:  # somebody's own file
        return 0.0


def pytest_benchmark(run: Run) -> str:
    """What has raw seconds, in the form of `pytest-benchmark --benchmark-json`, which its `compare` reads."""
    benchmarks = []
    names: dict[str, int] = {}
    for room in run.rooms():
        for item in tables.items(run, room):
            if not (seconds := tables.samples(item.record)):
                continue
            name = printable(f"{room}[{item.what}]")
            names[name] = names.get(name, 0) + 1
            name += f" again {names[name]}" if names[name] > 1 else ""
            benchmarks.append(
                {
                    "group": room,
                    "name": name,
                    "fullname": f"rigbench::{name}",
                    "params": None,
                    "param": None,
                    "extra_info": {key: str(value) for key, value in item.under.items()},
                    "options": {
                        "disable_gc": False,
                        "timer": "perf_counter",
                        "min_rounds": 1,
                        "max_time": 0.0,
                        "min_time": 0.0,
                        "warmup": True,
                    },
                    "stats": statistics_of(seconds),
                }
            )
    document = {
        "machine_info": {
            "node": run.host or run.rig.fingerprint,
            "processor": machine(run.rig),
            "machine": "",
            "python_version": run.software.python,
            "cpu": {"brand_raw": "unknown" if isinstance(run.rig.cpu_model, Absent) else run.rig.cpu_model},
            **_versions(run),
        },
        "commit_info": {
            "id": run.id,
            "time": run.started_at,
            "dirty": False,
            "project": "rigbench",
            "branch": run.label,
        },
        "benchmarks": benchmarks,
        "datetime": run.started_at,
        "version": "5.0.0",
    }
    return json.dumps(document, indent=1) + "\n"


def lacking(run: Run, form: str) -> str:
    """Why a file for a program is empty; "" where it is not, and of Markdown, which says so itself."""
    if form in ("csv", "openmetrics") and not any(tables.rows(run)):
        return "there is no number in it with an interval"
    items = (item for room in run.rooms() for item in tables.items(run, room))
    if form == "pytest-benchmark" and not any(tables.samples(item.record) for item in items):
        return "nothing in it has raw seconds"
    return ""


def statistics_of(seconds: Sequence[float]) -> dict[str, object]:
    """All that pytest-benchmark keeps of a benchmark's rounds, by its own definitions (its stats.py)."""
    ordered, rounds, total = sorted(seconds), len(seconds), sum(seconds)
    mean, deviation = statistics.mean(seconds), statistics.stdev(seconds) if rounds > 1 else 0.0
    first, third = _quartiles(ordered)
    between = third - first
    inside = [it for it in ordered if first - 1.5 * between <= it <= third + 1.5 * between]
    beyond = sum(not mean - deviation <= it <= mean + deviation for it in seconds)
    outliers = rounds - len(inside)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": mean,
        "stddev": deviation,
        "rounds": rounds,
        "median": statistics.median(ordered),
        "iqr": between,
        "q1": first,
        "q3": third,
        "iqr_outliers": outliers,
        "stddev_outliers": beyond,
        "outliers": f"{beyond};{outliers}",
        "ld15iqr": inside[0],
        "hd15iqr": inside[-1],
        "ops": rounds / total if total else 0,
        "total": total,
        "data": list(seconds),
        "iterations": 1,
    }


def _quartiles(ordered: Sequence[float]) -> tuple[float, float]:
    """Method 2 of an even number, 3 of an odd one (Wikipedia, Quartile, computing methods)."""
    rounds = len(ordered)
    if rounds == 1:
        return ordered[0], ordered[0]
    if rounds % 2 == 0:
        return statistics.median(ordered[: rounds // 2]), statistics.median(ordered[rounds // 2 :])
    n = rounds // 4
    if rounds % 4 == 1:
        return 0.25 * ordered[n - 1] + 0.75 * ordered[n], 0.75 * ordered[3 * n] + 0.25 * ordered[3 * n + 1]
    return 0.75 * ordered[n] + 0.25 * ordered[n + 1], 0.25 * ordered[3 * n + 1] + 0.75 * ordered[3 * n + 2]


FORMATS: dict[str, Callable[[Run], str]] = {
    "md": markdown,
    "csv": csv,
    "openmetrics": openmetrics,
    "pytest-benchmark": pytest_benchmark,
}
