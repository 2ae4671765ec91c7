"""Reports of runs: `python -m jaxcnn.report RUN ...` writes report.html, report.json and MODEL_CARD.md per run.

It loads the weights and reads the run's own test data again as config.json describes, so training stores nothing extra.
For several runs it also writes compare.html.
"""

import argparse
import logging
import os
import pathlib
import signal
import sys
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcnn import report
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.data import words
from jaxcnn.explain import erasure
from jaxcnn.explain.panels import explained
from jaxcnn.explain.signals import explained_rows
from jaxcnn.report.heard import seen
from jaxcnn.report.markup import number
from jaxcnn.report.measure import EXPLAINED, probabilities
from jaxcnn.report.record import entries
from jaxcnn.runs import TrainedRun, load_run, rows_to_measure
from jaxcnn.runs.single import text_options

# (run, images of the most confident mistakes [n, H, W, C], predicted classes [n]) -> dict from title to [H, W, C] uint8
Explain = Callable[[TrainedRun, np.ndarray, np.ndarray], Mapping[str, np.ndarray]]


def main(arguments: Sequence[str] | None = None, explain: Explain | None = explained) -> None:
    """Report on runs.

    Args:
        arguments: those of the command line; by default those of the process.
        explain: makes pictures of a few examples; None for none.

    Raises:
        InputError: a folder, a file or a column is not valid.

    """
    write_all(parser().parse_args(arguments), explain)


def write_all(flags: Any, explain: Explain | None = explained) -> None:
    """Report on runs.

    Args:
        flags: has the attributes `runs`, `group`, `group_file`, `data`, `data_dir`, `batch_size` and `out`, like
            `parser`'s.
        explain: as in `main`.

    Raises:
        InputError: as in `main`.

    """
    if flags.batch_size < 1:
        raise InputError(f"--batch-size {flags.batch_size}: must be at least 1")
    if flags.out and len(flags.runs) < 2:
        raise InputError(f"--out {visible(flags.out)}: only applies to a comparison of several runs; leave it out")
    reports, correct = [], []
    for folder in flags.runs:
        made, right = one(folder, flags, explain)
        training = made["training"]
        best = training.get("best_step")
        made["exported"], notes = report.exported(folder, training["steps"] if best is None else best)
        made["compression"], more = report.compressed(folder)
        made["study"], others = report.study(folder)
        made["test"]["notes"] += notes + more + others
        reports.append(made)
        correct.append(right)
        write(pathlib.Path(folder), made)
    if len(reports) > 1:
        path = pathlib.Path(flags.out or pathlib.Path(flags.runs[0]).absolute().parent / "compare.html")
        pages = [pathlib.Path(folder).absolute() / "report.html" for folder in flags.runs]
        here = path.absolute().parent
        links = [urllib.parse.quote(os.path.relpath(page, here), errors="surrogateescape") for page in pages]
        replace(path, report.compare(reports, report.paired(reports, correct), links))
        print(f"{visible(path)}: {len(reports)} runs, {path.stat().st_size / 1024:,.0f} KiB", flush=True)


def one(folder: str, flags: Any, explain: Explain | None = None) -> tuple[dict[str, Any], np.ndarray | None]:
    """Report on one run.

    Args:
        folder: folder of the run.
        flags: as in `write_all`.
        explain: as in `main`.

    Returns:
        The report, and for each test row whether it is right; None if the task has no classes.

    Raises:
        InputError: as in `main`.

    """
    run, name = report.read_finished(folder), pathlib.Path(folder).absolute().name
    if not report.classifies(run.config):
        add = _adds(run.config)
        values = (
            ("--data", None if add else flags.data),
            ("--group", flags.group),
            ("--group-file", flags.group_file),
        )
        asked = [flag for flag, value in values if value]
        if asked:
            raise InputError(f"{asked[0]}: {visible(folder)} is not a run of the library's classifier; leave it out")
        made = report.general(name, run, folder)
        return (_with_rows(add, made, folder, run.config, flags) if add else made), None
    given = report.read_groups(flags.group_file) if flags.group_file else None
    try:
        what = rows_to_measure(run.config, flags.data, data_dir=flags.data_dir)
    except InputError as error:
        raise InputError(f"{visible(folder)}: {error}") from error
    test = what.data
    compared = wanted(flags, list(report.columns(test) if given is None else given))
    loaded = load_run(folder)
    tested = report.predict(loaded, test, batch_size=flags.batch_size)
    groups = {column: (tested.columns if given is None else given)[column] for column in compared}
    head = run.config["build"]["task"]["options"].get("head", "softmax")
    measured = report.measure(tested.logits, tested.label, run.config["classes"], head=head, groups=groups)
    chosen = [entry["row"] for kind in measured["chosen"].values() for entry in kind]
    shown = report.images(test, chosen)
    predicted = probabilities(tested.logits, head).argmax(-1)
    pictures, rows = None, chosen[:EXPLAINED]
    if explain and rows and shown:
        pictures = explain(loaded, np.stack([shown[i] for i in rows]), predicted[rows])
    elif explain and "text" in test.example():
        pictures = _marked_texts(loaded, test, rows, predicted)
    elif {"audio", "series"} & set(loaded.config["build"].get("inputs", {})):
        shown, pictures = _signals(loaded, test, chosen, rows if explain else [], predicted)
    names = getattr(test, "names", None)
    if names and len(names) != len(tested.label):  # skipped rows would shift the names
        names = None
    made = report.make(
        name, run, measured, sha256=tested.sha256, shown=shown, explanations=pictures, rows=what, names=names or None
    )
    return made, predicted == tested.label


def _signals(
    loaded: TrainedRun, test: Any, chosen: Sequence[int], rows: Sequence[int], predicted: np.ndarray
) -> tuple[dict[int, dict[str, str]], dict[str, np.ndarray]]:
    """Return sounds or series to show by row, and pictures that explain some of them by title."""
    kind = "audio" if "audio" in loaded.config["build"]["inputs"] else "series"
    if not {kind, "length"} <= set(test.example()):
        return {}, {}
    found = entries(test, chosen, (kind, "length"))
    shown = {i: seen(loaded.config, x[kind], int(x["length"]), len(found)) for i, x in found.items()}
    names = [f"Row {i}, taken for {loaded.config['classes'][int(predicted[i])]}" for i in rows]
    return shown, explained_rows(loaded, [found[i] for i in rows], names, np.asarray([predicted[i] for i in rows]))


def _marked_texts(loaded: TrainedRun, test: Any, rows: Sequence[int], predicted: np.ndarray) -> dict[str, Any]:
    """Return the words of some test rows with their weights for the predicted class, by title."""
    how, out = text_options(loaded.config), {}
    fill = words.SPACE if how["unit"] == "bytes" else words.UNKNOWN
    for row in rows:
        text, target = test.arrays["text"][row], int(predicted[row])
        spans = words.row_spans(text, how["unit"], how["vocabulary"])
        found = erasure(loaded.task.predict, loaded.variables, text, spans, target, fill=fill)
        out[f"Row {row}, taken for {loaded.config['classes'][target]}"] = [list(pair) for pair in found]
    return out


def _adds(config: Mapping[str, Any]) -> Callable[..., dict[str, Any]] | None:
    """Return the function that adds what test images show to the report of a run; None if there is none."""
    if report.segments(config):
        return report.segmentation
    return report.detection if report.finds(config) else None


def _with_rows(
    add: Callable[..., dict[str, Any]], made: dict[str, Any], folder: str, config: Mapping[str, Any], flags: Any
) -> dict[str, Any]:
    """Add what the test images show to a report, if they can be read; otherwise note why not."""
    try:
        rows = rows_to_measure(config, flags.data, data_dir=flags.data_dir)
        return add(made, load_run(folder), rows, min(flags.batch_size, 32))
    except InputError as error:
        if flags.data:
            raise InputError(f"{visible(folder)}: {error}") from error
        made["test"]["notes"].append(f"Classes and single images are left out: {error}")
        return made


def wanted(flags: Any, known: Sequence[str]) -> Sequence[str]:
    """Return the columns to group by: those of --group, else the only one of --group-file.

    Args:
        flags: as in `write_all`.
        known: names of the columns that exist.

    Raises:
        InputError: a column does not exist, or --group must choose one.

    """
    where = flags.group_file or "the data (--group-file FILE gives others)"
    for name in flags.group:
        if name not in known:
            raise InputError(f"--group {name}: no such column in {where}; it has {', '.join(sorted(known)) or 'none'}")
    if flags.group_file and not flags.group and len(known) != 1:
        raise InputError(
            f"--group-file {flags.group_file}: it has columns {', '.join(known) or 'none'}; choose with --group"
        )
    return flags.group or (known if flags.group_file else [])


def write(folder: pathlib.Path, made: dict[str, Any]) -> None:
    """Write a report into a folder, each file completely or not at all."""
    texts = {
        "report.json": files.to_json(made, indent=1) + "\n",
        "report.html": report.page(made),
        "MODEL_CARD.md": report.card(made, _card_of(folder)),
    }
    for name, text in texts.items():
        replace(folder / name, text)
    path = folder / "report.html"
    print(f"{visible(path)}: {_result(made)}, {path.stat().st_size / 1024:,.0f} KiB", flush=True)


def _card_of(folder: pathlib.Path) -> str:
    """Return the model card of a folder; empty if there is none, or it is a link."""
    path = folder / "MODEL_CARD.md"
    if path.is_symlink() or not path.is_file():
        return ""
    try:
        return files.read_text(path)
    except (OSError, InputError) as error:
        line = f"{visible(path)}: cannot be read ({reason(error)}), but may contain text by its author; move it away"
        raise InputError(line) from error


def _result(made: dict[str, Any]) -> str:
    """Return the result and the verdict in one line."""
    values, verdict = made["test"]["metrics"], f"verdict {made['diagnosis']['verdict']}"
    if "kind" in made:
        shown = [name for name in made["headline"] if name in values and name != "loss"]
        shown = shown or [name for name in ("loss",) if name in values]
        return ", ".join([*(f"{visible(name)} {number(name, values[name])}" for name in shown), verdict])
    other = (
        ""
        if made["tested"]["own"]
        else f" on {values['count']:,d} rows of other data, {visible(made['tested']['name'])}"
    )
    return f"accuracy {values['accuracy']:.4f}{other}, {verdict}"


def replace(path: pathlib.Path, text: str) -> None:
    """Write a file, completely or not at all."""
    try:
        files.write_text(path, text)
    except OSError as error:
        raise InputError(f"{visible(path)}: cannot be written ({error.strerror}); give --out, or make room") from error


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    about = (__doc__ or "").split("\n\n")[0]
    made = argparse.ArgumentParser(prog="python -m jaxcnn.report", description=about, allow_abbrev=False)
    made.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run")
    group = "compare the groups of this column; may be repeated"
    made.add_argument("--group", action="append", default=[], metavar="NAME", help=group)
    group_file = "CSV or JSON file of columns with one value per test row, in order"
    made.add_argument("--group-file", default="", metavar="FILE", help=group_file)
    data = (
        "other data of the same classes to measure (an image folder, .npz, IDX files or TFDS set), "
        "or the new place of the run's own data"
    )
    made.add_argument("--data", default=None, metavar="DATA", help=data)
    made.add_argument("--data-dir", default=None, metavar="DIR", help="where TFDS data sets are prepared")
    batch = "rows per batch; does not change the result"
    made.add_argument("--batch-size", type=int, default=256, metavar="N", help=batch)
    out = "file of the comparison of several runs; by default compare.html beside them"
    made.add_argument("--out", default="", metavar="FILE", help=out)
    return made


def command(arguments: Sequence[str] | None = None) -> int:
    """Run `main`; turn errors that the user can fix into one line and exit code 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax notes for every run that it opens it read-only
    try:
        main(arguments)
    except (InputError, OSError) as error:
        print(f"jaxcnn.report: {visible(str(error))}", file=sys.stderr)
        return 2
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        why = visible(reason(error))
        print(f"jaxcnn.report: out of memory or a device error ({why}); try a smaller --batch-size", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jaxcnn.report: stopped; each report is written completely or not at all", file=sys.stderr)
        return 130
    return 0


def _end(*_: Any) -> None:
    os.write(2, b"jaxcnn.report: stopped; each report is written completely or not at all\n")
    os._exit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(command())
