"""What a benchmark leaves: rows with medians and ratios, a table, a JSON file, a bar chart."""

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jaxcnn as jc
from jaxcnn.core import files

US = "jaxcnn"
RATES = ("images/s",)  # units of which more is better
Row = dict[str, Any]
# Okabe and Ito's palette, told apart by colour-blind eyes too
COLOURS = {
    US: "#D55E00", "torch": "#0072B2", "torch-compile": "#56B4E9", "flax": "#CC79A7", "keras-tensorflow": "#009E73", "keras-jax": "#E69F00",
    "tf.data": "#009E73", "grain": "#E69F00",
}  # fmt: skip


def make_rows(
    case: str,
    unit: str,
    samples: Mapping[str, Sequence[float]],
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    floor: float = 0.0,
) -> list[Row]:
    """Compare the subjects of one case.

    Args:
        case: its name.
        unit: `"ms"`, `"s"`, or one of `RATES`.
        samples: measured values of each subject, in that unit.
        extra: what else to say of each subject, such as `peak_memory_mb`.
        floor: the value that the machine cannot beat, in that unit; 0 where it is not known.

    Returns:
        A row a subject. Its ratio is its median over that of the fastest peer, so for a time less than 1 is faster, for a
        rate more than 1; None without a peer.

    """
    medians = {subject: statistics.median(values) for subject, values in samples.items()}
    rivals = [value for subject, value in medians.items() if subject != US]
    best = (max if unit in RATES else min)(rivals, default=None)
    rows = []
    for subject, median in medians.items():
        reached = {"fraction_of_floor": median / floor if unit in RATES else floor / median} if floor else {}
        rows.append({
            "case": case, "subject": subject, "median": median, "unit": unit,
            "ratio_to_fastest_peer": None if best is None else median / best, "peak_memory_mb": None,
            "min": min(samples[subject]), "max": max(samples[subject]), "repeats": len(samples[subject]),
            **reached, **(extra or {}).get(subject, {}),
        })  # fmt: skip
    return rows


def check_path(path: str) -> None:
    """Refuse a place that cannot be written, before anything is measured."""
    if not path:
        return
    file = pathlib.Path(path)
    if file.suffix.lower() != ".json":
        raise jc.InputError(f"--json {path}: must end in .json; the chart goes beside it as .png")
    try:
        with file.open("a"):
            pass
        if not file.stat().st_size:
            file.unlink()
    except OSError as error:
        raise jc.InputError(f"--json {path}: cannot be written ({error.strerror}); give another") from error


def save(path: str, environment: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write the JSON file, whole or not at all."""
    if path:
        files.write_json(pathlib.Path(path), {"environment": environment, "rows": rows})


def line(row: Row) -> str:
    """Say one row in one line."""
    ratio = row["ratio_to_fastest_peer"]
    return f"{row['case']}: {row['subject']} {number(row['median'])} {row['unit']}" + (
        "" if ratio is None else f", ratio {ratio:.2f}"
    )


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> None:
    """Print the rows, a block a case."""
    from rich.console import Console
    from rich.table import Table

    shown = Table("case", "subject", header_style="bold")
    for heading in ("median", "unit", "ratio to fastest peer", "peak MB", "of the floor", "test accuracy"):
        if heading != "test accuracy" or any("test_accuracy" in row for row in rows):
            shown.add_column(heading, justify="left" if heading == "unit" else "right")
    for i, row in enumerate(rows):
        ratio, peak = row["ratio_to_fastest_peer"], row["peak_memory_mb"]
        reached = f"{number(100 * row['fraction_of_floor'])} %" if "fraction_of_floor" in row else ""
        cells = [
            row["case"] if not i or rows[i - 1]["case"] != row["case"] else "", row["subject"], number(row["median"]), row["unit"],
            "" if ratio is None else f"{ratio:.2f}", "" if peak is None else f"{peak:,.0f}", reached,
        ]  # fmt: skip
        accuracy = [f"{row['test_accuracy']:.2%}"] if row.get("test_accuracy") is not None else []
        last = i + 1 == len(rows) or rows[i + 1]["case"] != row["case"]
        shown.add_row(*cells, *accuracy, style="bold" if row["subject"] == US else None, end_section=last)
    Console(width=None if Console().is_terminal else 150).print(shown)


def chart(path: str, title: str, rows: Sequence[Row]) -> None:
    """Draw a bar a row beside the JSON file: from the fastest peer to the left or right if every case has one, else medians."""
    if not path or not rows:
        return
    from matplotlib import ticker
    from matplotlib.figure import Figure

    ratios = all(row["ratio_to_fastest_peer"] is not None for row in rows)
    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure = Figure(figsize=(10, 1.4 + 0.2 * len(rows) + 0.14 * len(cases)), layout="constrained")
    axes = figure.subplots()
    places = [i + 0.8 * cases.index(row["case"]) for i, row in enumerate(rows)]
    values = [row["ratio_to_fastest_peer"] if ratios else row["median"] for row in rows]
    origin = 1 if ratios else 0
    for subject in dict.fromkeys(row["subject"] for row in rows):
        mine = [i for i, row in enumerate(rows) if row["subject"] == subject]
        at, to, colour = [places[i] for i in mine], [values[i] for i in mine], COLOURS.get(subject, "#000000")
        axes.barh(at, [value - origin for value in to], height=0.85, left=origin, color=colour, label=subject)
        axes.plot(to, at, "o", markersize=4, color=colour)  # the bar of the fastest peer has no length
    for row, place, value in zip(rows, places, values, strict=True):
        side = -1 if value < origin else 1
        how = {"ha": "right" if side < 0 else "left", "va": "center", "fontsize": 7}
        axes.annotate(
            f"{number(row['median'])} {row['unit']}", (value, place), (5 * side, 0), textcoords="offset points", **how
        )
    middles = [
        sum(at) / len(at)
        for at in ([p for p, row in zip(places, rows, strict=True) if row["case"] == case] for case in cases)
    ]
    axes.set_yticks(middles, cases, fontsize=8)
    axes.set_ylim(places[-1] + 0.9, -0.9)
    if ratios:
        low, high = min(0.4, *values), max(2.5, *values)
        axes.set_xscale("log")
        axes.set_xlim(low / (high / low) ** 0.12, high * (high / low) ** 0.12)
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.axvline(1, color="black", linewidth=1)
    else:
        axes.margins(x=0.15)
    more = {True: "more", False: "less"}[rows[0]["unit"] in RATES]
    axes.set(
        xlabel=f"times the median of the fastest peer ({more} is faster)" if ratios else f"median, {rows[0]['unit']}",
        title=title,
    )
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(pathlib.Path(path).with_suffix(".png"), dpi=120)
