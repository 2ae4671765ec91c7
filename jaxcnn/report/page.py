"""A run's page, from its dict: one HTML file that needs nothing else."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from jaxcnn.core.text import html as escape
from jaxcnn.report import svg
from jaxcnn.report.general import KIND, pictures
from jaxcnn.report.measure import EXPLAINED
from jaxcnn.report.style import CSS

NAMES = {
    "count": "test rows", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1_macro": "F1, macro", "log_loss": "log loss",
    "ece": "calibration error (ECE)", "brier": "Brier score", "roc_auc_macro": "ROC-AUC, macro", "pr_auc_macro": "PR-AUC, macro",
}  # fmt: skip
VERDICTS = {
    "diverged": "Diverged", "overfit": "Overfit", "underfit": "Underfit", "shifted": "Shifted test rows",
    "good": "Good fit", "unjudged": "No verdict by the loss alone", "unknown": "Too little to tell",
}  # fmt: skip
LISTED, PLOTS = 100, 8  # classes in a table at most; metrics drawn by epoch
SMALLEST = 1e-30  # below it a plotted value counts as 0, because the ticks of an axis need room


def page(report: dict[str, Any]) -> str:
    """Write a run's page.

    Args:
        report: as `record.make` gives it, or `report.json` holds it.

    Returns:
        The whole HTML file.

    """
    if report.get("kind") == KIND:
        sections = {
            "Result": _general_result(report), "Curves": _curves(report), "Figures": pictures(report),
            "Configuration": _configuration(report),
        }  # fmt: skip
        return _document(report, sections)
    sections = {
        "Result": _result(report), "Curves": _curves(report), "Confusion": _confusion(report), "Classes": _classes(report),
        "Thresholds": _thresholds(report), "Calibration": _calibration(report), "Examples": _examples(report),
        "Explanations": _explanations(report), "Groups": _groups(report), "Configuration": _configuration(report),
    }  # fmt: skip
    return _document(report, sections)


def _document(report: dict[str, Any], sections: dict[str, str]) -> str:
    about = f"run {report['run']} of {report['experiment']}, data {report['data']['name']}"
    if not tested(report)["own"]:
        about += f", measured on other data: {tested(report)['name']}"
    return document(title(report), about, sections, f"Made {report['made']} from report.json beside this page.")


def title(report: dict[str, Any]) -> str:
    """Name a run by its network and data."""
    return f"{report['model']} on {pathlib.PurePath(report['data']['name']).name}"


def tested(report: dict[str, Any]) -> dict[str, Any]:
    """Say what was measured: `"name"`, `"part"`, and whether these are the run's `"own"` test rows, as all reports once were."""
    return report.get("tested") or {"name": report["data"]["name"], "part": "test part", "own": True}


def document(heading: str, about: str, sections: dict[str, str], end: str) -> str:
    """Put sections, by heading, into a page with a list of contents."""
    links = "".join(f'<li><a href="#{name.lower()}">{name}</a></li>' for name in sections)
    body = "".join(f'<section id="{name.lower()}"><h2>{name}</h2>{text}</section>' for name, text in sections.items())
    name, said = escape(heading), escape(about)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{name}</title><style>{CSS}</style></head><body><header><h1>{name}</h1>'
        f'<p class="soft">{said}</p><nav aria-label="Contents"><ul>{links}</ul></nav></header><main>{body}</main>'
        f'<footer><p class="soft">{escape(end)}</p></footer></body></html>\n'
    )


def number(name: str, value: float | None) -> str:
    """Write a value as every page and card does; shares as they are, not as percent, so that all can be compared."""
    if value is None:
        return "undefined"
    if name == "count":
        return f"{value:,d}"
    return f"{value:.4f}" if value in (0, 1) or 5e-5 <= abs(value) < 0.99995 or abs(value) > 1 else f"{value:.6f}"


def interval(found: Sequence[float] | None) -> str:
    """Write an interval, or nothing."""
    return "" if found is None else " to ".join(number("", x) for x in found)


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], text: Sequence[int] = ()) -> str:
    """Write a table whose first column names the rows, scrolled by keyboard where it is too wide; cells are HTML."""

    def kind(k):
        return ' class="text"' if k in text or not k else ""

    top = "".join(f'<th scope="col"{kind(k)}>{name}</th>' for k, name in enumerate(head))
    lines = ""
    for first, *rest in rows:
        lines += (
            f'<tr><th scope="row">{first}</th>'
            + "".join(f"<td{kind(k)}>{cell}</td>" for k, cell in enumerate(rest, 1))
            + "</tr>"
        )
    return scroll(f"<thead><tr>{top}</tr></thead><tbody>{lines}</tbody>", caption)


def scroll(inside: str, caption: str, kind: str = "") -> str:
    """Put a table below its caption, which does not move when the table is scrolled, also by keyboard."""
    made = f'<table class="{kind}" aria-label="{caption}">{inside}</table>'
    return f'<p class="caption">{caption}</p><div class="scroll" tabindex="0" role="region" aria-label="{caption}">{made}</div>'


def _result(report: dict[str, Any]) -> str:
    test, verdict = report["test"], report["diagnosis"]
    values, spans = test["metrics"], test["intervals"]
    tiles = ""
    for key in ("accuracy", "f1_macro", "roc_auc_macro", "ece"):
        span = f"95 %: {interval(spans[key])}" if key in spans else "0 is perfect" if key == "ece" else "no interval"
        tiles += (
            f'<div class="tile"><span>{NAMES[key]}</span><b>{number(key, values[key])}</b><span>{span}</span></div>'
        )
    rows = [(escape(NAMES.get(k, k)), number(k, v), interval(spans.get(k))) for k, v in values.items()]
    notes = "".join(f"<li>{escape(note)}</li>" for note in test["notes"])
    guess = f"Always guessing the most frequent class gives {test['most_frequent_class']:.4f}."
    what = tested(report)
    which = (
        "The test set"
        if what["own"]
        else f"Other data than the run's own, {escape(what['name'])} ({escape(what['part'])})"
    )
    about = f"{which}, every row once; 95 % intervals, Wilson's for accuracy, else of 200 resamplings of the rows"
    return (
        f'<div class="tiles">{tiles}</div><p class="verdict"><strong>{VERDICTS[verdict["verdict"]]}.</strong> {escape(verdict["why"])} '
        f"{escape(verdict['advice'])}</p>{table(about, ('metric', 'value', '95 % interval'), rows)}<p>{guess}</p>"
        + (f"<h3>Notes</h3><ul>{notes}</ul>" if notes else "")
    )


def _general_result(report: dict[str, Any]) -> str:
    """Metrics of a task without classes: those of its headline first."""
    test, verdict = report["test"], report["diagnosis"]
    values, spans = test["metrics"], test["intervals"]
    if not values:
        return "<p>The run left no metrics of test rows.</p>"
    tiles = ""
    for name in [name for name in report["headline"] if name in values]:
        span = f"95 %: {interval(spans[name])}" if name in spans else "no interval"
        tiles += (
            f'<div class="tile"><span>{escape(name)}</span><b>{number(name, values[name])}</b><span>{span}</span></div>'
        )
    rows = [(escape(NAMES.get(k, k)), number(k, v), interval(spans.get(k))) for k, v in values.items()]
    notes = "".join(f"<li>{escape(note)}</li>" for note in test["notes"])
    about = "The test set, every row once, as the run itself measured it"
    said = f"<strong>{VERDICTS[verdict['verdict']]}.</strong> {escape(verdict['why'])} {escape(verdict['advice'])}"
    return (
        f'<div class="tiles">{tiles}</div><p class="verdict">{said}</p>{table(about, ("metric", "value", "95 % interval"), rows)}'
        + (f"<h3>Notes</h3><ul>{notes}</ul>" if notes else "")
    )


def _curves(report: dict[str, Any]) -> str:
    plots = by_epoch(report["curves"], report.get("headline", ("loss", "accuracy")))
    verdict = report["diagnosis"]
    rule = f"<details><summary>The rule of the verdict</summary><p>{escape(verdict['rule'])}</p></details>"
    return f'<div class="plots">{plots}</div><p><strong>{VERDICTS[verdict["verdict"]]}.</strong> {escape(verdict["why"])}</p>{rule}'


def by_epoch(curves: list[dict[str, Any]], names: Sequence[str]) -> str:
    """Draw metrics by epoch, the loss first."""
    out = ""
    for name in list(dict.fromkeys(["loss", *names]))[:PLOTS]:
        series = series_of(curves, name)
        if series:
            said = "; ".join(f"{split} from {points[0][1]:.4g} to {points[-1][1]:.4g}" for split, points in series)
            epochs, shown = series[0][1][-1][0], name[:60]
            out += svg.lines(
                f"{shown.capitalize()} by epoch",
                f"{said}, over {epochs:.3g} epochs.",
                series,
                xlabel="epoch",
                ylabel=shown,
            )
    return out


def series_of(
    curves: list[dict[str, Any]], name: str, splits: Sequence[str] = ("train", "validation")
) -> list[svg.Series]:
    """Points (epoch, value) of each split that has any."""

    def flat(value):
        return 0.0 if abs(value) < SMALLEST else value

    drawn = [r for r in curves if r.get(name) is not None and r["epoch"] is not None]
    found = [(s, [(flat(r["epoch"]), flat(r[name])) for r in drawn if r["split"] == s]) for s in splits]
    return [(split, points) for split, points in found if points]


def _confusion(report: dict[str, Any]) -> str:
    test, classes = report["test"], report["classes"]
    out = "" if test["confusion"] is None or len(classes) > 20 else _matrix(test["confusion"], classes)
    if not test["confused"]:
        return out + "<p>No row of the test set is taken for another class.</p>"
    rows = [
        (escape(r["true"]), escape(r["predicted"]), str(r["count"]), f"{r['count'] / r['of']:.4f}")
        for r in test["confused"]
    ]
    head = ("true class", "predicted", "rows", "share of the true class")
    listed = table("The most frequent confusions", head, rows, (1,))
    return out + (f"<details><summary>The most frequent confusions</summary>{listed}</details>" if out else listed)


def _matrix(matrix: list[list[int]], classes: Sequence[str]) -> str:
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in classes)
    lines = ""
    for name, row in zip(classes, matrix, strict=True):
        shares = [n / max(sum(row), 1) for n in row]
        cells = "".join(
            f'<td style="--p:{p:.3f}"{" class=full" if p > 0.45 else " class=none" if not n else ""}>{n}</td>'
            for n, p in zip(row, shares, strict=True)
        )
        lines += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    caption = "Confusion matrix: rows are true classes, columns predicted ones, darker for a larger share of the row"
    head = f'<thead><tr><th scope="col" class="text">true \\ predicted</th>{top}</tr></thead>'
    return scroll(f"{head}<tbody>{lines}</tbody>", caption, "matrix")


def _classes(report: dict[str, Any]) -> str:
    keys = ("precision", "recall", "f1", "roc_auc", "pr_auc")
    every, shown = report["test"]["per_class"], worst(report)
    rows = [(escape(r["class"]), f"{r['count']:,d}", *(number(k, r[k]) for k in keys)) for r in shown]
    about = "Each class against the rest" + (
        f": the {len(shown)} with the lowest F1" if len(shown) < len(every) else ""
    )
    out = table(about, ("class", "rows", "precision", "recall", "F1", "ROC-AUC", "PR-AUC"), rows)
    if len(shown) < len(every):
        out += f"<p>The other {len(every) - len(shown):,d} of {len(every):,d} classes are in report.json.</p>"
    return out if len(rows) <= 30 else f"<details><summary>{len(rows)} classes</summary>{out}</details>"


def worst(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the classes, or of many those with the lowest F1; classes without test rows come last."""
    every = report["test"]["per_class"]
    if len(every) <= LISTED:
        return every
    return sorted(every, key=lambda r: (not r["count"], 2 if r["f1"] is None else r["f1"]))[:LISTED]


def _thresholds(report: dict[str, Any]) -> str:
    test, plots = report["test"], ""
    words = {
        "roc": ("ROC", "false positive rate", "true positive rate"),
        "pr": ("Precision and recall", "recall", "precision"),
    }
    for kind, (name, xlabel, ylabel) in words.items():
        curves = test[kind]
        if not curves:
            continue
        series = [(f"{c['class']} (area {number('', c['area'])})", c["points"]) for c in curves]
        several = f"the {len(curves)} classes with the smallest areas, each against the rest"
        few = several if len(curves) > 1 else "the class with the smallest area, against the rest"
        which = "the second class, the positive one" if len(report["classes"]) == 2 else few
        said = f"{name} of {which}: " + ", ".join(one for one, _ in series) + "."
        plots += svg.lines(
            name,
            said,
            series,
            xlabel=xlabel,
            ylabel=ylabel,
            xlim=(0, 1),
            ylim=(0, 1),
            diagonal=kind == "roc",
            marks=False,
        )
    return (
        f'<div class="plots">{plots}</div>'
        if plots
        else "<p>Undefined: no class has both rows of it and rows of others.</p>"
    )


def _calibration(report: dict[str, Any]) -> str:
    found, points = report["test"]["reliability"], report["test"]["risk_coverage"]
    last = found["bins"][-1]
    total = sum(b["count"] for b in found["bins"])
    said = (
        f"Accuracy of the rows of each bin of confidence; on the diagonal it is as high as the confidence. The expected calibration "
        f"error is {found['ece']:.4f}. {100 * last['count'] / total:.1f} % of the rows are in the bin from {last['low']:.2f} to "
        f"{last['high']:.2f}."
    )
    said += " Dashed bars are of fewer than 10 rows."
    heights = [(b["low"], b["high"], b["accuracy"], b["count"] < 10) for b in found["bins"]]
    plots = svg.bars("Reliability", said, heights, xlabel="confidence", ylabel="accuracy")
    at = min(points, key=lambda p: abs(p[0] - 0.9))
    said = "Share of errors if only the most confident rows are answered: "
    said += f"{number('', points[-1][1])} of all, {number('', at[1])} of {100 * at[0]:.0f} %."
    high = max(max(y for _, y in points) * 1.1, 0.01)
    plots += svg.lines(
        "Risk and coverage",
        said,
        [("risk", points)],
        xlabel="coverage",
        ylabel="risk",
        xlim=(0, 1),
        ylim=(0, high),
        marks=False,
    )

    def line(b):
        return (
            f"{b['low']:.3f} to {b['high']:.3f}",
            f"{b['count']:,d}",
            f"{b['confidence']:.4f}",
            f"{b['accuracy']:.4f}",
        )

    listed = table(
        "Bins of confidence", ("confidence", "rows", "mean confidence", "accuracy"), map(line, found["bins"])
    )
    return f'<div class="plots">{plots}</div><details><summary>The bins as a table</summary>{listed}</details>'


def _examples(report: dict[str, Any]) -> str:
    heads = {"mistakes": "Wrong with the highest confidence", "doubtful": "Right with the lowest confidence"}
    out = ""
    for kind, head in heads.items():
        items = ""
        for e in report["examples"][kind]:
            said = (
                f"{escape(e['true'])} taken for {escape(e['predicted'])}" if kind == "mistakes" else escape(e["true"])
            )
            image = (
                f'<img src="{escape(e["image"])}" alt="test image {e["row"]}, of class {escape(e["true"])}">'
                if "image" in e
                else ""
            )
            place = escape(e["file"]) if "file" in e else f"row {e['row']}"
            items += f"<li>{image}{said}<br>confidence {e['confidence']:.3f}, {place}</li>"
        out += f"<h3>{head}</h3>" + (f'<ul class="pictures">{items}</ul>' if items else "<p>There are none.</p>")
    return out


def _explanations(report: dict[str, Any]) -> str:
    if not report["explanations"]:
        return "<p>None were made.</p>"
    first = [e["predicted"] for kind in ("mistakes", "doubtful") for e in report["examples"][kind]][:EXPLAINED]
    names = f", for {', '.join(first)}"
    titles = [escape(e["title"] + ("" if e["title"] == "Images" else names)) for e in report["explanations"]]
    each = (
        f'<figure><p class="name">{said}</p><img src="{escape(e["image"])}" alt="{said}"></figure>'
        for e, said in zip(report["explanations"], titles, strict=True)
    )
    about = "The first of the examples above, in their order, and what spoke for the class that was predicted; each is scaled by itself."
    return f'<p>{about}</p><div class="plots explained">{"".join(each)}</div>'


def _groups(report: dict[str, Any]) -> str:
    if not report["test"]["slices"]:
        return "<p>No groups were compared: no column of groups was given (--group).</p>"
    out = ""
    for s in report["test"]["slices"]:
        rows = [
            (escape(g["group"]), f"{g['count']:,d}", f"{g['accuracy']:.4f}", interval(g["accuracy_interval"]))
            for g in s["groups"]
        ]
        out += f"<h3>By {escape(s['column'])}</h3>"
        chance = f"With the groups shuffled, a gap this large came about in {100 * s['gap_p']:.1f} % of 1,000 cases."
        out += f"<p>Worst group: <strong>{escape(s['worst'])}</strong>, {s['gap']:.4f} below the best. {chance}</p>"
        out += table(f"Accuracy by {escape(s['column'])}", ("group", "rows", "accuracy", "95 % interval"), rows)
        fair = [
            (name, number("", s[key]["difference"]), escape(s[key]["class"]), about)
            for key, name, about in (
                ("demographic_parity", "demographic parity", "how often the class is predicted"),
                ("equalised_odds", "equalised odds", "true or false positive rate of the class"),
            )
        ]
        out += table(
            "Largest difference between two groups, 0 for none", ("measure", "difference", "class", "of"), fair, (2, 3)
        )
    return out


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
    return (
        out
        + f"<details><summary>Model and task as they are built</summary>{table('Build', ('part', 'value'), build, (1,))}</details>"
    )


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 400 else f"{text[:400]} ..."
