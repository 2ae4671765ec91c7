"""The sections of a classifier's page: confusions, classes, thresholds, calibration, examples, explanations, groups."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxcnn.core.text import html as escape
from jaxcnn.report import svg
from jaxcnn.report.markup import interval, marked, number, scroll, table, worst
from jaxcnn.report.measure import EXPLAINED


def sections(report: dict[str, Any]) -> dict[str, str]:
    """Return the sections by name, in order, each as HTML.

    Args:
        report: of a run with classes, as for `page`.

    """
    return {
        "Confusion": _confusion(report), "Classes": _classes(report), "Thresholds": _thresholds(report),
        "Calibration": _calibration(report), "Examples": _examples(report), "Explanations": _explanations(report),
        "Groups": _groups(report),
    }  # fmt: skip


def _confusion(report: dict[str, Any]) -> str:
    test, classes = report["test"], report["classes"]
    out = "" if test["confusion"] is None or len(classes) > 20 else _matrix(test["confusion"], classes)
    if not test["confused"]:
        return out + "<p>No row of the test set is confused with another class.</p>"
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
    caption = "Confusion matrix: rows are true classes, columns predicted ones; darker is a larger share of the row"
    head = f'<thead><tr><th scope="col" class="text">true \\ predicted</th>{top}</tr></thead>'
    return scroll(f"{head}<tbody>{lines}</tbody>", caption, "matrix")


def _classes(report: dict[str, Any]) -> str:
    keys = ("precision", "recall", "f1", "roc_auc", "pr_auc")
    every, shown = report["test"]["per_class"], worst(report)
    rows = [(escape(r["class"]), f"{r['count']:,d}", *(number(k, r[k]) for k in keys)) for r in shown]
    some = f": the {len(shown)} with the lowest F1" if len(shown) < len(every) else ""
    about = f"Each class against the rest{some}"
    out = table(about, ("class", "rows", "precision", "recall", "F1", "ROC-AUC", "PR-AUC"), rows)
    if len(shown) < len(every):
        out += f"<p>The other {len(every) - len(shown):,d} of {len(every):,d} classes are in report.json.</p>"
    return out if len(rows) <= 30 else f"<details><summary>{len(rows)} classes</summary>{out}</details>"


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
        about = f"{name} of {which}: " + ", ".join(one for one, _ in series) + "."
        square: dict[str, Any] = {"xlim": (0, 1), "ylim": (0, 1), "diagonal": kind == "roc", "marks": False}
        plots += svg.lines(name, about, series, xlabel=xlabel, ylabel=ylabel, **square)
    if not plots:
        return "<p>Undefined: every class has either all test rows or none.</p>"
    return f'<div class="plots">{plots}</div>'


def _calibration(report: dict[str, Any]) -> str:
    found, points = report["test"]["reliability"], report["test"]["risk_coverage"]
    last = found["bins"][-1]
    total = sum(b["count"] for b in found["bins"])
    about = (
        "Accuracy by bin of confidence; on the diagonal, it equals the confidence. The expected calibration error is "
        f"{found['ece']:.4f}. {100 * last['count'] / total:.1f} % of the rows are in the bin from {last['low']:.2f} to "
        f"{last['high']:.2f}. Dashed bars have fewer than 10 rows."
    )
    heights = [(b["low"], b["high"], b["accuracy"], b["count"] < 10) for b in found["bins"]]
    plots = svg.bars("Reliability", about, heights, xlabel="confidence", ylabel="accuracy")
    at = min(points, key=lambda p: abs(p[0] - 0.9))
    about = "Share of errors if only the most confident rows are answered: "
    about += f"{number('', points[-1][1])} of all, {number('', at[1])} of {100 * at[0]:.0f} %."
    limits: dict[str, Any] = {"xlim": (0, 1), "ylim": (0, max(max(y for _, y in points) * 1.1, 0.01)), "marks": False}
    plots += svg.lines("Risk and coverage", about, [("risk", points)], xlabel="coverage", ylabel="risk", **limits)

    def line(b):
        span, values = f"{b['low']:.3f} to {b['high']:.3f}", (f"{b[k]:.4f}" for k in ("confidence", "accuracy"))
        return span, f"{b['count']:,d}", *values

    head = ("confidence", "rows", "mean confidence", "accuracy")
    listed = table("Bins of confidence", head, map(line, found["bins"]))
    return f'<div class="plots">{plots}</div><details><summary>The bins as a table</summary>{listed}</details>'


def _examples(report: dict[str, Any]) -> str:
    heads = {"mistakes": "Wrong with the highest confidence", "doubtful": "Right with the lowest confidence"}
    wide = bool({"audio", "series"} & set(report["build"].get("inputs", {})))
    out, kinds, unit = "", "pictures signals" if wide else "pictures", "row" if wide else "image"
    for kind, head in heads.items():
        items = ""
        for e in report["examples"][kind]:
            true, guess, image = escape(e["true"]), escape(e["predicted"]), ""
            if "image" in e:
                image = f'<img src="{escape(e["image"])}" alt="test {unit} {e["row"]}, of class {true}">'
            words = f"{true} taken for {guess}" if kind == "mistakes" else true
            place = escape(e["file"]) if "file" in e else f"row {e['row']}"
            items += f"<li>{image}{_played(e)}{words}<br>confidence {e['confidence']:.3f}, {place}</li>"
        out += f"<h3>{head}</h3>" + (f'<ul class="{kinds}">{items}</ul>' if items else "<p>There are none.</p>")
    return out


def _played(example: Mapping[str, Any]) -> str:
    """Return the element that plays a sound; empty for other rows."""
    if "audio" not in example:
        return ""
    cut = f" (the first {escape(example['seconds'])} s)" if "seconds" in example else ""
    label = f"test sound {example['row']}{cut}"
    return f'<audio controls preload="none" src="{escape(example["audio"])}" aria-label="{label}"></audio>{cut}'


def _explanations(report: dict[str, Any]) -> str:
    if not report["explanations"]:
        return "<p>None were made.</p>"
    if any("words" in e for e in report["explanations"]):
        about = "What each word speaks for: the change of the log-odds when it is left out; red for, blue against."
        each = (f"<h3>{escape(e['title'])}</h3>{marked(e['words'])}" for e in report["explanations"])
        return f"<p>{about}</p>{''.join(each)}"
    if {"audio", "series"} & set(report["build"].get("inputs", {})):
        about = "The first of the examples above, and what supports the predicted class; each is scaled on its own."
        return f'<p>{about}</p><div class="plots explained">{"".join(map(_figure, report["explanations"]))}</div>'
    first = [e["predicted"] for kind in ("mistakes", "doubtful") for e in report["examples"][kind]][:EXPLAINED]
    names = f", for {', '.join(first)}"
    titles = [escape(e["title"] + ("" if e["title"] == "Images" else names)) for e in report["explanations"]]
    each = (
        f'<figure><p class="name">{name}</p><img src="{escape(e["image"])}" alt="{name}"></figure>'
        for e, name in zip(report["explanations"], titles, strict=True)
    )
    about = (
        "The first of the examples above, in order, and what supports the predicted class; each is scaled on its own."
    )
    return f'<p>{about}</p><div class="plots explained">{"".join(each)}</div>'


def _figure(one: Mapping[str, Any]) -> str:
    name = escape(one["title"])
    return f'<figure><p class="name">{name}</p><img src="{escape(one["image"])}" alt="{name}"></figure>'


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
        chance = f"With shuffled groups, a gap this large occurred in {100 * s['gap_p']:.1f} % of 1,000 cases."
        out += f"<p>Worst group: <strong>{escape(s['worst'])}</strong>, {s['gap']:.4f} below the best. {chance}</p>"
        out += table(f"Accuracy by {escape(s['column'])}", ("group", "rows", "accuracy", "95 % interval"), rows)
        measures = (
            ("demographic_parity", "demographic parity", "how often the class is predicted"),
            ("equalised_odds", "equalised odds", "true or false positive rate of the class"),
        )
        fair = [
            (name, number("", s[key]["difference"]), escape(s[key]["class"]), about) for key, name, about in measures
        ]
        head = ("measure", "difference", "class", "of")
        out += table("Largest difference between two groups, 0 for none", head, fair, (2, 3))
    return out
