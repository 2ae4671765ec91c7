"""The output of a benchmark: rows with best rounds and ratios, a table, a JSON file, a bar chart."""

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jaxcnn as jc
from jaxcnn.core import files

US = "jaxcnn"
RATES = ("images/s",)  # units for which larger is better
Row = dict[str, Any]
# the palette of Okabe and Ito, which colour-blind people can distinguish
COLOURS = {
    US: "#D55E00", "torch": "#0072B2", "torch-compile": "#56B4E9", "flax": "#CC79A7",
    "keras-tensorflow": "#009E73", "keras-jax": "#E69F00", "tf.data": "#009E73", "grain": "#E69F00",
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
        case: name of the case.
        unit: `"ms"`, `"s"`, or one of `RATES`.
        samples: dict from subject to measured values, in that unit.
        extra: dict from subject to further entries of its row, such as `peak_memory_mb`.
        floor: the value that the machine cannot beat, in that unit; 0 if unknown.

    Returns:
        One row per subject. The ratio is the best round over that of the fastest peer: a smaller time or a larger rate
        is faster, and a slow quarter of an hour of one subject does not count. It is None without a peer.

    """
    of = max if unit in RATES else min
    rounds = {subject: of(values) for subject, values in samples.items()}
    rival = of((value for subject, value in rounds.items() if subject != US), default=None)
    rows = []
    for subject, best in rounds.items():
        reached = {"fraction_of_floor": best / floor if unit in RATES else floor / best} if floor else {}
        rows.append({
            "case": case, "subject": subject, "best": best, "median": statistics.median(samples[subject]),
            "unit": unit, "ratio_to_fastest_peer": None if rival is None else best / rival, "peak_memory_mb": None,
            "min": min(samples[subject]), "max": max(samples[subject]), "repeats": len(samples[subject]),
            **reached, **(extra or {}).get(subject, {}),
        })  # fmt: skip
    return rows


def check_path(path: str) -> None:
    """Refuse a path that cannot be written, before anything is measured."""
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
        raise jc.InputError(f"--json {path}: cannot be written ({error.strerror}); give a different one") from error


def save(path: str, environment: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write the JSON file, completely or not at all.

    Args:
        path: the file; nothing is written if empty.
        environment: description of the machine.
        rows: the rows.

    """
    if path:
        files.write_json(pathlib.Path(path), {"environment": environment, "rows": rows})


def line(row: Row) -> str:
    """Return a row as one line of text."""
    ratio = row["ratio_to_fastest_peer"]
    return f"{row['case']}: {row['subject']} {number(row['best'])} {row['unit']}" + (
        "" if ratio is None else f", ratio {ratio:.2f}"
    )


def number(value: float) -> str:
    """Format a number with three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> None:
    """Print the rows, one block per case."""
    from rich.console import Console
    from rich.table import Table

    shown = Table("case", "subject", header_style="bold")
    for heading in ("best", "median", "unit", "ratio to fastest peer", "peak MB", "of the floor", "test accuracy"):
        if heading != "test accuracy" or any("test_accuracy" in row for row in rows):
            shown.add_column(heading, justify="left" if heading == "unit" else "right")
    for i, row in enumerate(rows):
        ratio, peak = row["ratio_to_fastest_peer"], row["peak_memory_mb"]
        reached = f"{number(100 * row['fraction_of_floor'])} %" if "fraction_of_floor" in row else ""
        name = row["case"] if not i or rows[i - 1]["case"] != row["case"] else ""
        cells = [
            name, row["subject"], number(row["best"]), number(row["median"]), row["unit"],
            "" if ratio is None else f"{ratio:.2f}", "" if peak is None else f"{peak:,.0f}", reached,
        ]  # fmt: skip
        accuracy = [f"{row['test_accuracy']:.2%}"] if row.get("test_accuracy") is not None else []
        last = i + 1 == len(rows) or rows[i + 1]["case"] != row["case"]
        shown.add_row(*cells, *accuracy, style="bold" if row["subject"] == US else None, end_section=last)
    Console(width=None if Console().is_terminal else 150).print(shown)


def chart(path: str, title: str, rows: Sequence[Row]) -> None:
    """Draw one bar per row, beside the JSON file: ratios to the fastest peer if every case has one, otherwise times.

    Args:
        path: the JSON file; nothing is drawn if empty.
        title: title of the chart.
        rows: the rows.

    """
    if not path or not rows:
        return
    from matplotlib.figure import Figure

    ratios = all(row["ratio_to_fastest_peer"] is not None for row in rows)
    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure = Figure(figsize=(10, 1.4 + 0.2 * len(rows) + 0.14 * len(cases)), layout="constrained")
    axes = figure.subplots()
    places = [i + 0.8 * cases.index(row["case"]) for i, row in enumerate(rows)]
    values = [row["ratio_to_fastest_peer"] if ratios else row["best"] for row in rows]
    origin = 1 if ratios else 0
    for subject in dict.fromkeys(row["subject"] for row in rows):
        mine = [i for i, row in enumerate(rows) if row["subject"] == subject]
        at, to, colour = [places[i] for i in mine], [values[i] for i in mine], COLOURS.get(subject, "#000000")
        axes.barh(at, [value - origin for value in to], height=0.85, left=origin, color=colour, label=subject)
        axes.plot(to, at, "o", markersize=4, color=colour)  # the bar of the fastest peer has length 0
    for row, place, value in zip(rows, places, values, strict=True):
        side = -1 if value < origin else 1
        how = {"ha": "right" if side < 0 else "left", "va": "center", "fontsize": 7}
        text = f"{number(row['best'])} {row['unit']}"
        axes.annotate(text, (value, place), (5 * side, 0), textcoords="offset points", **how)
    of_case = [[p for p, row in zip(places, rows, strict=True) if row["case"] == case] for case in cases]
    axes.set_yticks([sum(at) / len(at) for at in of_case], cases, fontsize=8)
    axes.set_ylim(places[-1] + 0.9, -0.9)
    if ratios:
        _log_axis(axes, min(0.4, *values), max(2.5, *values))
    else:
        axes.margins(x=0.15)
    better = "larger" if rows[0]["unit"] in RATES else "smaller"
    label = f"ratio to the fastest peer, best rounds ({better} is faster)" if ratios else f"best, {rows[0]['unit']}"
    axes.set(xlabel=label, title=title)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(pathlib.Path(path).with_suffix(".png"), dpi=120)


def _log_axis(axes: Any, low: float, high: float) -> None:
    """Scale the x axis of ratios from `low` to `high`, with room for the labels."""
    from matplotlib import ticker

    axes.set_xscale("log")
    axes.set_xlim(low / (high / low) ** 0.12, high * (high / low) ** 0.12)
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.axvline(1, color="black", linewidth=1)
