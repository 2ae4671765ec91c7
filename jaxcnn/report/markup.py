"""Parts of HTML pages that the page of a run and the comparison share: documents, tables, numbers and names."""

import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from jaxcnn.core.text import html as escape
from jaxcnn.report.style import CSS

NAMES = {
    "count": "test rows", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1_macro": "F1, macro",
    "log_loss": "log loss", "ece": "calibration error (ECE)", "brier": "Brier score", "roc_auc_macro": "ROC-AUC, macro",
    "pr_auc_macro": "PR-AUC, macro",
}  # fmt: skip
VERDICTS = {
    "diverged": "Diverged", "overfit": "Overfit", "underfit": "Underfit", "shifted": "Shifted test rows",
    "good": "Good fit", "unjudged": "No verdict by the loss alone", "unknown": "Too little to tell",
}  # fmt: skip
LISTED = 100  # most classes in a table


def title(report: dict[str, Any]) -> str:
    """Name a run by its network and data."""
    return f"{report['model']} on {pathlib.PurePath(report['data']['name']).name}"


def tested(report: dict[str, Any]) -> dict[str, Any]:
    """Return what was measured: `"name"`, `"part"`, and whether it is the run's `"own"` test part (always so once)."""
    return report.get("tested") or {"name": report["data"]["name"], "part": "test part", "own": True}


def worst(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of all classes or, if they are many, of those with the lowest F1; empty classes come last."""
    every = report["test"]["per_class"]
    if len(every) <= LISTED:
        return every
    return sorted(every, key=lambda r: (not r["count"], 2 if r["f1"] is None else r["f1"]))[:LISTED]


def document(heading: str, about: str, sections: dict[str, str], end: str) -> str:
    """Put sections into a page with a table of contents.

    Args:
        heading: title of the page.
        about: text below it.
        sections: dict from heading, a text, to HTML.
        end: text of the footer.

    """
    places = {name: re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "section" for name in sections}
    links = "".join(f'<li><a href="#{place}">{escape(name)}</a></li>' for name, place in places.items())
    body = "".join(
        f'<section id="{places[name]}"><h2>{escape(name)}</h2>{text}</section>' for name, text in sections.items()
    )
    name, below = escape(heading), escape(about)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{name}</title><style>{CSS}</style></head><body><header><h1>{name}</h1>'
        f'<p class="soft">{below}</p><nav aria-label="Contents"><ul>{links}</ul></nav></header><main>{body}</main>'
        f'<footer><p class="soft">{escape(end)}</p></footer></body></html>\n'
    )


def number(name: str, value: float | None) -> str:
    """Format a metric in the same way on all pages and cards; shares are not percentages, so they are comparable."""
    if value is None:
        return "undefined"
    if name == "count":
        return f"{value:,d}"
    return f"{value:.4f}" if value in (0, 1) or 5e-5 <= abs(value) < 0.99995 or abs(value) > 1 else f"{value:.6f}"


def interval(found: Sequence[float] | None) -> str:
    """Format an interval; empty if there is none."""
    return "" if found is None else " to ".join(number("", x) for x in found)


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], text: Sequence[int] = ()) -> str:
    """Write a table that scrolls if it is too wide.

    Args:
        caption: text above the table.
        head: names of the columns.
        rows: cells as HTML; the first cell of a row names it.
        text: indices of columns with text rather than numbers.

    """

    def kind(k):
        return ' class="text"' if k in text or not k else ""

    top = "".join(f'<th scope="col"{kind(k)}>{name}</th>' for k, name in enumerate(head))
    lines = ""
    for first, *rest in rows:
        cells = "".join(f"<td{kind(k)}>{cell}</td>" for k, cell in enumerate(rest, 1))
        lines += f'<tr><th scope="row">{first}</th>{cells}</tr>'
    return scroll(f"<thead><tr>{top}</tr></thead><tbody>{lines}</tbody>", caption)


def scroll(inside: str, caption: str, kind: str = "") -> str:
    """Put a table below a caption that stays in place while the table scrolls, also by keyboard.

    Args:
        inside: content of the `<table>`.
        caption: text above it.
        kind: its CSS class.

    """
    made = f'<table class="{kind}" aria-label="{caption}">{inside}</table>'
    return (
        f'<p class="caption">{caption}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">{made}</div>'
    )


def marked(words: Sequence[Sequence[Any]]) -> str:
    """Write words with a background by their weights: red for positive ones, blue for negative ones.

    Args:
        words: pairs of a word and its weight; the largest weight has the full colour.

    """
    top = max((abs(weight) for _, weight in words), default=0.0) or 1.0
    out = ""
    for word, weight in words:
        share, side = round(100 * min(abs(weight) / top, 1)), "for" if weight > 0 else "against"
        out += f'<mark class="{side}" style="--p:{share}%" title="{weight:+.2f}">{escape(word)}</mark> '
    return f'<p class="words">{out}</p>'
