"""Reports of runs: `python -m jaxcnn.report RUN [RUN ...]` writes report.html, report.json and MODEL_CARD.md into each folder.

The weights are loaded, and the run's own test data read again as its config.json says, so training stores nothing for it.
Of several runs it also writes compare.html.
"""

import argparse
import json
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn import report
from jaxcnn.explain.strips import explained
from jaxcnn.report.measure import EXPLAINED, probabilities
from jaxcnn.runs import LoadedRun, load_run, read_data
from jaxcnn.types import InputError

# (run, images of the most confident mistakes [n, H, W, C], their predicted classes [n]) -> pictures [H, W, C] uint8 by title
Explain = Callable[[LoadedRun, np.ndarray, np.ndarray], Mapping[str, np.ndarray]]


def main(arguments: Sequence[str] | None = None, explain: Explain | None = explained) -> None:
    """Report on runs.

    Args:
        arguments: of the command line, by default the program's own.
        explain: makes pictures of a few examples; None for none.

    Raises:
        InputError: a folder, a file or a column that is not as it must be.

    """
    flags = parser().parse_args(arguments)
    if flags.batch_size < 1:
        raise InputError(f"--batch-size {flags.batch_size}: must be at least 1")
    reports, correct = [], []
    for folder in flags.runs:
        made, right = one(folder, flags, explain)
        reports.append(made)
        correct.append(right)
        write(pathlib.Path(folder), made)
    if len(reports) > 1:
        path = pathlib.Path(flags.out or pathlib.Path(flags.runs[0]).absolute().parent / "compare.html")
        links = [os.path.relpath(pathlib.Path(folder).absolute() / "report.html", path.absolute().parent) for folder in flags.runs]
        replace(path, report.compare(reports, report.paired(reports, correct), links))
        print(f"{path}: {len(reports)} runs, {path.stat().st_size / 1024:,.0f} KiB", flush=True)


def one(folder: str, flags: argparse.Namespace, explain: Explain | None = None) -> tuple[dict[str, Any], np.ndarray]:
    """Report on a run: its dict, and for each test row whether it is right."""
    run = report.read_finished(folder)
    given = report.read_groups(flags.group_file) if flags.group_file else None
    try:
        test = read_data(run.config, flags.data).test
    except InputError as error:
        raise InputError(f"{folder}: {error} (--data says where the data are now)") from error
    names = wanted(flags, list(report.columns(test) if given is None else given))
    loaded = load_run(folder)
    tested = report.predict(loaded, test, batch_size=flags.batch_size)
    groups = {name: (tested.columns if given is None else given)[name] for name in names}
    head = run.config["build"]["task"]["options"].get("head", "softmax")
    measured = report.measure(tested.logits, tested.label, run.config["classes"], head=head, groups=groups)
    chosen = [entry["row"] for kind in measured["chosen"].values() for entry in kind]
    shown = report.images(test, chosen)
    predicted = probabilities(tested.logits, head).argmax(-1)
    pictures, rows = None, chosen[:EXPLAINED]
    if explain and rows:
        pictures = explain(loaded, np.stack([shown[i] for i in rows]), predicted[rows])
    name = pathlib.Path(folder).absolute().name
    made = report.make(name, run, measured, sha256=tested.sha256, shown=shown, explanations=pictures)
    return made, predicted == tested.label


def wanted(flags: argparse.Namespace, known: Sequence[str]) -> Sequence[str]:
    """Columns to group by: those of --group, else the only one of --group-file."""
    where = flags.group_file or "the data (--group-file FILE gives others)"
    for name in flags.group:
        if name not in known:
            raise InputError(f"--group {name}: no such column in {where}; it has {', '.join(sorted(known)) or 'none'}")
    if flags.group_file and not flags.group and len(known) != 1:
        raise InputError(f"--group-file {flags.group_file}: it has columns {', '.join(known) or 'none'}; choose with --group")
    return flags.group or (known if flags.group_file else [])


def write(folder: pathlib.Path, made: dict[str, Any]) -> None:
    """Write a report into a folder, each file whole or not at all."""
    files = {"report.json": json.dumps(made, indent=1) + "\n", "report.html": report.page(made), "MODEL_CARD.md": report.card(made)}
    for name, text in files.items():
        replace(folder / name, text)
    values, size = made["test"]["metrics"], (folder / "report.html").stat().st_size
    verdict = f"verdict {made['diagnosis']['verdict']}, {size / 1024:,.0f} KiB"
    print(f"{folder / 'report.html'}: accuracy {values['accuracy']:.4f}, {verdict}", flush=True)


def replace(path: pathlib.Path, text: str) -> None:
    """Write a whole file or none."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def parser() -> argparse.ArgumentParser:
    """Say which flags there are."""
    made = argparse.ArgumentParser(prog="python -m jaxcnn.report", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    made.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run")
    made.add_argument("--group", action="append", default=[], metavar="NAME", help="compare the groups of this column; may be repeated")
    made.add_argument("--group-file", default="", metavar="FILE", help="CSV or JSON columns, one value a test row, in their order")
    made.add_argument("--data", default=None, metavar="PLACE", help="where the data are now, if they were moved since")
    made.add_argument("--batch-size", type=int, default=256, metavar="N", help="rows at a time; changes no result")
    made.add_argument("--out", default="", metavar="FILE", help="of the comparison of several runs; by default compare.html beside them")
    return made


def command(arguments: Sequence[str] | None = None) -> int:
    """Run `main`, and turn what a user can mend into one line and exit code 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax says of every run that it is only read
    try:
        main(arguments)
    except (InputError, OSError) as error:
        print(f"jaxcnn.report: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(command())
