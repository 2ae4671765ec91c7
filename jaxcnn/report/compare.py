"""Several runs side by side: settings that differ, metrics with intervals, paired tests, and curves in one plot."""

import datetime
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.core.text import html as escape
from jaxcnn.core.text import visible
from jaxcnn.metrics import mcnemar
from jaxcnn.report import svg
from jaxcnn.report.markup import NAMES, VERDICTS, document, interval, number, table, tested
from jaxcnn.report.page import series_of

# settings that do not change the result
WHERE = {"workdir", "checkpoint", "resume", "evaluate", "predict", "compilation_cache", "profile"}


def paired(reports: Sequence[dict[str, Any]], correct: Sequence[np.ndarray | None]) -> list[dict[str, Any]]:
    """Test every pair of runs that were measured on the same rows.

    Args:
        reports: reports of the runs.
        correct: bool `[N]` per run, true where it is right; None for a run that was not measured again.

    Returns:
        `{"first", "second", "only_a", "only_b", "p_value"}` per pair; runs are given by index.

    """
    out = []
    for (i, a), (j, b) in itertools.combinations(enumerate(correct), 2):
        same = reports[i]["test"]["sha256"] == reports[j]["test"]["sha256"] != ""
        if a is not None and b is not None and same:
            out.append({"first": i, "second": j, **mcnemar(a, b)._asdict()})
    return out


def compare(reports: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]], links: Sequence[str] = ()) -> str:
    """Write a page that compares runs.

    Args:
        reports: reports of two or more runs.
        pairs: result of `paired`.
        links: addresses of the runs' own pages, for the table.

    Returns:
        The complete HTML file.

    """
    names = _names(reports)
    linked = [escape(name) for name in names]
    if links:
        linked = [f'<a href="{escape(link)}">{name}</a>' for name, link in zip(linked, links, strict=True)]
    sections = {
        "Metrics": _metrics(reports, linked), "Tests": _tests(names, pairs), "Settings": _settings(reports, names),
        "Curves": _curves(reports, names),
    }  # fmt: skip
    about = "; ".join(f"{name}: {r['model']} on {tested(r)['name']}" for name, r in zip(names, reports, strict=True))
    made = f"Made {datetime.datetime.now().astimezone().isoformat(timespec='seconds')}."
    return document(f"{len(reports)} runs compared", about, sections, made)


def _names(reports: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{letter} ({visible(r['run'])})" for letter, r in zip(_letters(), reports, strict=False)]


def _letters():
    yield from "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    yield from (f"R{k}" for k in itertools.count(27))


def _metrics(reports: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    rows = []
    every = dict.fromkeys(key for r in reports for key in r["test"]["metrics"])
    known = [key for key in NAMES if key in every]
    for key in [*known, *(key for key in every if key not in NAMES)]:
        name = NAMES.get(key, escape(key))
        found = [(_cell(key, r["test"]["metrics"]), interval(r["test"]["intervals"].get(key))) for r in reports]
        rows.append((name, *(f"{value}<br><span class=soft>{span}</span>" for value, span in found)))
    rows.append(("verdict", *(VERDICTS[r["diagnosis"]["verdict"]] for r in reports)))
    rows.append(("parameters", *(f"{r['training']['parameters']:,d}" for r in reports)))
    rows.append(("seconds of training", *(f"{r['training']['train_seconds']:,.0f}" for r in reports)))
    return table("Test metrics, with 95 % intervals below them", ("metric", *names), rows)


def _cell(key: str, values: dict[str, Any]) -> str:
    return number(key, values[key]) if key in values else "not measured"


def _tests(names: Sequence[str], pairs: Sequence[dict[str, Any]]) -> str:
    about = (
        "McNemar's exact test compares two runs measured on the same rows: are there equally many rows that only the "
        "first gets right and rows that only the second gets right? A small p says no. The test says nothing about "
        "other seeds, and among many pairs some have a small p by chance."
    )
    if not pairs:
        none = "No two of the runs were measured on the same rows, so there is no paired test."
        return f"<p>{none}</p><p class=soft>{about}</p>"
    rows = []
    for pair in pairs:
        a, b = names[pair["first"]], names[pair["second"]]
        p = "below 0.0001" if pair["p_value"] < 1e-4 else f"{pair['p_value']:.4f}"
        rows.append((f"{escape(a)}, {escape(b)}", str(pair["only_a"]), str(pair["only_b"]), p))
    made = table("Paired tests", ("runs", "right: only the first", "only the second", "p"), rows)
    return f"{made}<p class=soft>{about}</p>"


def _settings(reports: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    flags = [{f"--{k.replace('_', '-')}": v for k, v in r["settings"].items() if k not in WHERE} for r in reports]
    flat = [_described(r) | one for r, one in zip(reports, flags, strict=True)]
    keys = dict.fromkeys(key for one in flat for key in one)
    differ = [key for key in keys if len({repr(one.get(key)) for one in flat}) > 1]
    if not differ:
        return "<p>All settings are the same.</p>"
    rows = [(escape(key), *(escape(str(one.get(key, "-"))) or '""' for one in flat)) for key in differ]
    return table("Settings that differ", ("setting", *map(escape, names)), rows, range(1, len(names) + 1))


def _described(r: dict[str, Any]) -> dict[str, Any]:
    variant = r["build"].get("variant", "")
    return {
        "experiment": r["experiment"], "variant": variant, "data": r["data"]["name"], "measured on": tested(r)["name"],
    }  # fmt: skip


def _curves(reports: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    plots, shown = "", list(zip(names, reports, strict=True))[: svg.KINDS]
    for split, name in (("validation", "loss"), ("validation", "accuracy"), ("train", "loss"), ("train", "accuracy")):
        series = [(run, points) for run, r in shown for _, points in series_of(r["curves"], name, (split,))]
        if series:
            about = "; ".join(f"{run} ends at {points[-1][1]:.4g}" for run, points in series) + "."
            title = f"{'Training' if split == 'train' else 'Validation'} {name} by epoch"
            plots += svg.lines(title, about, series, xlabel="epoch", ylabel=name)
    more = f"<p>Shown are the first {svg.KINDS} of {len(names)} runs.</p>" if len(names) > svg.KINDS else ""
    return f'{more}<div class="plots">{plots}</div>'
