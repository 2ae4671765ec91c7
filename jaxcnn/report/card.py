"""A model card in Markdown from a report (Mitchell et al., 2018, arXiv:1810.03993), with the numbers of the page."""

import re
from collections.abc import Iterable
from typing import Any

from jaxcnn.core.text import markdown
from jaxcnn.report.compressed import compressed_as_markdown
from jaxcnn.report.exported import exported_as_markdown
from jaxcnn.report.general import KIND
from jaxcnn.report.markup import NAMES, VERDICTS, interval, number, tested, worst
from jaxcnn.report.study import study_as_markdown


def card(report: dict[str, Any], before: str = "") -> str:
    """Write a model card with the sections of the paper.

    A run cannot know who made it, what it is for, or whom the data show; the card asks its author to fill these in.

    Args:
        report: result of `record.make`, or content of `report.json`.
        before: the existing card, from which the sections for its author are kept; empty if there is none.

    Returns:
        Markdown.

    """
    sections = {
        "Model details": _details(report), "Intended use": TO_FILL_IN["use"], "Factors": _factors(report),
        "Metrics": _metrics(), "Evaluation data": _evaluation(report), "Training data": _training(report),
        "Quantitative analyses": _analyses(report), "Ethical considerations": TO_FILL_IN["ethics"],
        "Caveats and recommendations": _caveats(report),
    }  # fmt: skip
    if report.get("kind") == KIND:
        sections |= {"Factors": NONE_COMPARED, "Metrics": "As the task defines them; the run measured them itself."}
    if report.get("study"):
        sections["Search for the settings"] = study_as_markdown(report)
    if report.get("exported"):
        sections["Exported files"] = exported_as_markdown(report)
    if report.get("compression"):
        sections["Compression"] = compressed_as_markdown(report)
    for name in ("Intended use", "Ethical considerations"):
        sections[name] = _written(before, name, [*sections, *MORE]) or sections[name]
    body = "".join(f"\n## {name}\n\n{text.strip()}\n" for name, text in sections.items())
    return f"# Model card: {markdown(report['run'])}\n{body}"


def _written(card: str, name: str, headings: Iterable[str]) -> str:
    """Return a section of a card, up to the next of these headings; empty if it has none."""
    others = "|".join(map(re.escape, headings))
    found = re.search(rf"^## {name}[ \t]*$(.*?)(?=^## (?:{others})[ \t]*$|\Z)", card.replace("\r\n", "\n"), re.M | re.S)
    return found[1].strip() if found else ""


MORE = ("Search for the settings", "Exported files", "Compression")  # sections that not every card has
TO_FILL_IN = {
    "use": "To be filled in by the author: what the model is for, who should use it, and what it must not be used for. "
    "A run only knows how it was trained and measured.",
    "ethics": "To be filled in by the author: whom the data show and whether they agreed, whom which mistake harms, "
    "and which risks remain.",
}


NONE_COMPARED = (
    "No groups were compared: the report was given no column of groups. "
    "Differences between groups of people, devices or places are not known."
)


def _details(report: dict[str, Any]) -> str:
    training, versions = report["training"], report["environment"]["trained with"]
    versions = ", ".join(markdown(f"{k} {v}") for k, v in versions.items())
    rows = {
        "network": f"{markdown(report['model'])}, {training['parameters']:,d} parameters",
        "classes": _some(report["classes"]) or "none",
        "steps, epochs": f"{training['steps']:,d}, {training['epochs']:.2f}",
        "seed": markdown(training["seed"]),
        "command": markdown(report["command"]) or "not recorded",
        "versions": versions,
        "card made": markdown(report["made"]),
    }
    return "".join(f"- {name}: {value}\n" for name, value in rows.items())


def _factors(report: dict[str, Any]) -> str:
    slices = report["test"].get("slices")
    if not slices:
        return NONE_COMPARED
    groups = (f"{markdown(s['column'])} ({_some([g['group'] for g in s['groups']])})" for s in slices)
    return f"Groups compared: {'; '.join(groups)}."


def _metrics() -> str:
    return (
        "Accuracy has Wilson's 95 % interval; the other intervals come from 200 resamplings of the test rows. Macro "
        "averages weight all classes equally. ECE is the expected calibration error over 15 bins. The predicted class "
        "is the most probable one; no threshold was chosen."
    )


def _evaluation(report: dict[str, Any]) -> str:
    what, count = tested(report), report["test"]["metrics"].get("count") or 0
    which = f"The test part of {markdown(what['name'])}"
    if not what["own"]:
        name, part = markdown(what["name"]), markdown(what["part"])
        which = f"Not the run's own test part, but other data of the same classes: {name} ({part})"
    how = (
        f"{which}: {count:,d} rows, measured with the weights chosen on validation rows or, if none were chosen, "
        "the last weights."
    )
    if report.get("kind") == KIND:
        return how
    return f"{how} The most frequent class makes up {report['test']['most_frequent_class']:.4f} of them."


def _training(report: dict[str, Any]) -> str:
    train, valid, *_ = [f"{n:,d}" for n in report["data"].get("rows", [])] or ["unknown", "unknown"]
    sha = report["data"].get("sha256")
    rows = f"{markdown(report['data']['name'])}: {train} rows for training, {valid} for validation"
    return f"{rows}; SHA-256 {markdown(sha)}." if sha else f"{rows}."


def _analyses(report: dict[str, Any]) -> str:
    test = report["test"]
    out = "| metric | value | 95 % interval |\n|---|---|---|\n"
    out += "".join(
        f"| {markdown(NAMES.get(k, k))} | {number(k, v)} | {interval(test['intervals'].get(k))} |\n"
        for k, v in test["metrics"].items()
    )
    if report.get("kind") == KIND:
        return out
    out += "\n| class | rows | precision | recall | F1 | ROC-AUC | PR-AUC |\n|---|---|---|---|---|---|---|\n"
    keys = ("precision", "recall", "f1", "roc_auc", "pr_auc")
    shown = worst(report)
    for row in shown:
        scores = " | ".join(number(k, row[k]) for k in keys)
        out += f"| {markdown(row['class'])} | {row['count']:,d} | {scores} |\n"
    if rest := len(test["per_class"]) - len(shown):
        out += f"\nThese are the {len(shown)} classes with the lowest F1; the other {rest} are in report.json.\n"
    return out + "".join(map(_slice, test["slices"]))


def _slice(s: dict[str, Any]) -> str:
    out = f"\n| {markdown(s['column'])} | rows | accuracy | 95 % interval |\n|---|---|---|---|\n"
    for g in s["groups"]:
        values = f"{g['count']:,d} | {g['accuracy']:.4f} | {interval(g['accuracy_interval'])}"
        out += f"| {markdown(g['group'])} | {values} |\n"
    out += f"\nWorst group: {markdown(s['worst'])}, {s['gap']:.4f} below the best (a gap this large occurred in "
    out += f"{100 * s['gap_p']:.1f} % of 1,000 shufflings of the groups). Largest difference between groups: "

    def difference(found):
        return f"{number('', found['difference'])} (class {markdown(found['class'])})"

    parity, odds = difference(s["demographic_parity"]), difference(s["equalised_odds"])
    return out + f"demographic parity {parity}, equalised odds {odds}.\n"


def _caveats(report: dict[str, Any]) -> str:
    verdict = report["diagnosis"]
    notes = "".join(f"- {markdown(note)}\n" for note in report["test"]["notes"])
    why, advice = markdown(verdict["why"]), markdown(verdict["advice"])
    return (
        f"- Verdict: {VERDICTS[verdict['verdict']].lower()}. {why} {advice}\n{notes}"
        "- The figures hold for data like the test part. Only the author of the data can say whether rows of one "
        "person or one device are in more than one part.\n"
    )


def _some(names: list[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(markdown(n) for n in names[:most]) + more
