"""The page of a run, from its report: one self-contained HTML file."""

from collections.abc import Sequence
from typing import Any

from jaxcnn.core.text import html as escape
from jaxcnn.report import classified, dense, found, svg
from jaxcnn.report.compressed import compressed_as_html
from jaxcnn.report.exported import exported_as_html
from jaxcnn.report.general import KIND, pictures
from jaxcnn.report.markup import (
    NAMES,
    VERDICTS,
    document,
    interval,
    number,
    table,
    tested,
    title,
)
from jaxcnn.report.study import study_as_html

PLOTS = 8  # most metrics drawn by epoch
SMALLEST = 1e-30  # smaller plotted values count as 0, because an axis needs room for its ticks


def page(report: dict[str, Any]) -> str:
    """Write the page of a run.

    Args:
        report: result of `record.make`, or content of `report.json`.

    Returns:
        The complete HTML file.

    """
    if report.get("kind") == KIND:
        kind = dense if "per_class" in report else found if "coco" in report else None
        more = {"Classes": kind.classes(report), "Examples": kind.worst(report)} if kind else {}
        sections = {
            "Result": _general_result(report), "Curves": _curves(report), **more,
            "Figures": pictures(report), "Configuration": _configuration(report),
        }  # fmt: skip
        return _document(report, sections)
    sections = {
        "Result": _result(report), "Curves": _curves(report), **classified.sections(report),
        "Configuration": _configuration(report),
    }  # fmt: skip
    return _document(report, sections)


def _document(report: dict[str, Any], sections: dict[str, str]) -> str:
    beside = {  # what other commands left in the run's folder
        "study": ("Search", study_as_html), "exported": ("Exports", exported_as_html),
        "compression": ("Compression", compressed_as_html),
    }  # fmt: skip
    sections = sections | {name: write(report) for key, (name, write) in beside.items() if report.get(key)}
    about = f"run {report['run']} of {report['experiment']}, data {report['data']['name']}"
    if not tested(report)["own"]:
        about += f", measured on other data: {tested(report)['name']}"
    return document(title(report), about, sections, f"Made {report['made']} from report.json beside this page.")


def _result(report: dict[str, Any]) -> str:
    test, verdict = report["test"], report["diagnosis"]
    values, spans = test["metrics"], test["intervals"]
    tiles = ""
    for key in ("accuracy", "f1_macro", "roc_auc_macro", "ece"):
        span = f"95 %: {interval(spans[key])}" if key in spans else "0 is perfect" if key == "ece" else "no interval"
        tiles += _tile(NAMES[key], number(key, values[key]), span)
    rows = [(escape(NAMES.get(k, k)), number(k, v), interval(spans.get(k))) for k, v in values.items()]
    notes = "".join(f"<li>{escape(note)}</li>" for note in test["notes"])
    guess = f"Always guessing the most frequent class gives {test['most_frequent_class']:.4f}."
    what, which = tested(report), "The test set"
    if not what["own"]:
        which = f"Data other than the run's own, {escape(what['name'])} ({escape(what['part'])})"
    about = f"{which}, every row once; 95 % intervals: Wilson's for accuracy, else from 200 resamplings of the rows"
    listed = table(about, ("metric", "value", "95 % interval"), rows)
    return f'<div class="tiles">{tiles}</div>{_verdict(verdict)}{listed}<p>{guess}</p>{_notes(notes)}'


def _tile(name: str, value: str, span: str) -> str:
    return f'<div class="tile"><span>{name}</span><b>{value}</b><span>{span}</span></div>'


def _verdict(verdict: dict[str, Any]) -> str:
    words = f"<strong>{VERDICTS[verdict['verdict']]}.</strong> {escape(verdict['why'])} {escape(verdict['advice'])}"
    return f'<p class="verdict">{words}</p>'


def _notes(notes: str) -> str:
    return f"<h3>Notes</h3><ul>{notes}</ul>" if notes else ""


def _general_result(report: dict[str, Any]) -> str:
    """Return the metrics of a task without classes, headline first."""
    test, verdict = report["test"], report["diagnosis"]
    values, spans = test["metrics"], test["intervals"]
    if not values:
        return "<p>The run recorded no metrics of test rows.</p>"
    tiles = ""
    for name in [name for name in report["headline"] if name in values]:
        span = f"95 %: {interval(spans[name])}" if name in spans else "no interval"
        tiles += _tile(escape(name), number(name, values[name]), span)
    rows = [(escape(NAMES.get(k, k)), number(k, v), interval(spans.get(k))) for k, v in values.items()]
    notes = "".join(f"<li>{escape(note)}</li>" for note in test["notes"])
    about = "The test set, every row once, as the run itself measured it"
    listed = table(about, ("metric", "value", "95 % interval"), rows)
    return f'<div class="tiles">{tiles}</div>{_verdict(verdict)}{listed}{_notes(notes)}'


def _curves(report: dict[str, Any]) -> str:
    plots = by_epoch(report["curves"], report.get("headline", ("loss", "accuracy")))
    verdict = report["diagnosis"]
    rule = f"<details><summary>The rule of the verdict</summary><p>{escape(verdict['rule'])}</p></details>"
    words = f"<p><strong>{VERDICTS[verdict['verdict']]}.</strong> {escape(verdict['why'])}</p>"
    return f'<div class="plots">{plots}</div>{words}{rule}'


def by_epoch(curves: list[dict[str, Any]], names: Sequence[str]) -> str:
    """Draw metrics by epoch, the loss first."""
    out = ""
    for name in list(dict.fromkeys(["loss", *names]))[:PLOTS]:
        series = series_of(curves, name)
        if series:
            ends = "; ".join(f"{split} from {points[0][1]:.4g} to {points[-1][1]:.4g}" for split, points in series)
            epochs, shown = series[0][1][-1][0], name[:60]
            about = f"{ends}, over {epochs:.3g} epochs."
            out += svg.lines(f"{shown.capitalize()} by epoch", about, series, xlabel="epoch", ylabel=shown)
    return out


def series_of(
    curves: list[dict[str, Any]], name: str, splits: Sequence[str] = ("train", "validation")
) -> list[svg.Series]:
    """Return points (epoch, value) of each split that has any.

    Args:
        curves: lines of `metrics.jsonl`.
        name: name of the metric.
        splits: the splits to look for.

    """

    def flat(value):
        return 0.0 if abs(value) < SMALLEST else value

    drawn = [r for r in curves if r.get(name) is not None and r["epoch"] is not None]
    found = [(s, [(flat(r["epoch"]), flat(r[name])) for r in drawn if r["split"] == s]) for s in splits]
    return [(split, points) for split, points in found if points]


def _configuration(report: dict[str, Any]) -> str:
    out = f"<h3>Command</h3><pre>{escape(report['command'])}</pre>" if report["command"] else ""
    training = [(escape(k), escape(_short(v))) for k, v in report["training"].items()]
    out += table("Training", ("what", "value"), training, (1,))
    data = report["data"]
    known = ", ".join(f"{n:,d}" for n in data.get("rows", [])) or "unknown"
    rows = [("name", escape(data["name"])), ("rows to train, validate, test", known)]
    rows += [
        ("SHA-256 of the training rows", escape(data.get("sha256") or "streamed, not hashed")),
        ("measured on", escape(f"{tested(report)['name']}, {tested(report)['part']}")),
        ("classes", str(len(report["classes"]))),
    ]
    out += table("Data", ("what", "value"), rows, (1,))
    for name, values in (("Environment of training", "trained with"), ("Environment of this report", "reported with")):
        each = report["environment"][values].items()
        out += table(name, ("what", "value"), [(escape(k), escape(str(v))) for k, v in each], (1,))
    settings = [(escape("--" + k.replace("_", "-")), escape(_short(v))) for k, v in report["settings"].items()]
    out += f"<details><summary>All settings</summary>{table('Settings', ('flag', 'value'), settings, (1,))}</details>"
    build = [(escape(part), escape(_short(report["build"].get(part)))) for part in report["build"]]
    listed = table("Build", ("part", "value"), build, (1,))
    return f"{out}<details><summary>Model and task as built</summary>{listed}</details>"


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 400 else f"{text[:400]} ..."
