"""The training with the best settings of a study: begun once, resumed if it was stopped, answered if it is done."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from jaxcnn import runs
from jaxcnn.cli import train as trained
from jaxcnn.core import files
from jaxcnn.core.schema import fitted
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.runs import plots, results
from jaxcnn.tune import Trials, pictures

FINAL, NUMBERS, PICTURE = "final.json", "study.json", "study.png"  # of the study's folder, and of the run's
CLAIM = "final-trial.json"  # of the study's folder
# trains with the flags; calls the second argument with the run's folder before the first update
Train = Callable[[Any, Callable[[pathlib.Path], None]], dict[str, Any]]


class Entry(TypedDict):
    """A final run of a study: its folder as seen from the study's, and the trials that it was chosen from."""

    folder: str
    trials: int
    number: int
    tested: bool


def final(config: trained.Train, trials: Trials, about: dict[str, Any], study: pathlib.Path, train: Train) -> Any:
    """Return the summary of the run with the best settings, which is trained and tested if there is none yet.

    A run with the settings of the same trial is resumed, or its summary is the answer. If another trial has become the
    best since the test rows were read, a line says so, and the summary of the new run counts it in `test_reads`.

    Args:
        config: the flags with the best settings.
        trials: what the study has found.
        about: what the run's files say about the study.
        study: folder of the study; only one process at a time may call this.
        train: trains with the flags.

    Returns:
        The content of `summary.json` of the run.

    Raises:
        InputError: the record of the final runs is damaged, or names a run with other settings.

    """
    entries = _read(study)
    last = entries[-1] if entries else None
    place, reads = _place(study, last), sum(entry["tested"] for entry in entries)
    same = last is not None and last["number"] == trials.number
    if last and same and (place / "config.json").exists():
        _check_settings(place, config, trials)
    if last and same and (place / "summary.json").exists():
        added = len(trials.rows) - last["trials"]
        news = f"{added} trials were added, and none is better" if added else "no trial was added"
        trained.say(f"{news}: nothing is trained or tested again, and the result is that of {visible(place)}")
        summary = runs.check_summary(files.read_json(place / "summary.json"), str(place / "summary.json"))
        shown = runs.read_config(place).get("task", {}).get("headline", ["loss"])
        trained.say(results.line(summary["test"], place, shown))
        _write(study, [*entries[:-1], {**last, "trials": len(trials.rows)}])
        return _noted(place, summary, trials, about, reads)
    if last and same and (place / "config.json").exists():
        trained.say(f"{visible(place)}: this training with the best settings was stopped, and is resumed")
        config, entries = dataclasses.replace(config, resume=str(place), workdir=str(place)), entries[:-1]
    elif reads:
        often = "once" if reads == 1 else f"{reads} times"
        trained.say(
            f"the test rows were read {often} before, for {visible(place)}: whoever chose to go on after that result "
            "has no unseen test rows any more (test_reads in summary.json)"
        )
    folders: list[pathlib.Path] = []

    def begun(folder: pathlib.Path, tested: bool = False) -> None:
        folders.append(folder)
        entry = Entry(folder=_seen_from(study, folder), trials=len(trials.rows), number=trials.number, tested=tested)
        _write(study, [*entries, entry])

    summary = train(config, begun)
    begun(folders[0], True)
    return _noted(folders[0], summary, trials, about, reads + 1)


def claim(study: pathlib.Path, number: int) -> None:
    """Write down which trial's settings are trained now, for processes that find the study locked."""
    files.write_json(study / CLAIM, {"number": number})


def claimed(study: pathlib.Path) -> int | None:
    """Return the number of the trial whose settings the process with the lock trains; None if it is unknown."""
    found = files.read_json(study / CLAIM) if (study / CLAIM).exists() else None
    return found.get("number") if isinstance(found, dict) else None


def _check_settings(place: pathlib.Path, config: trained.Train, trials: Trials) -> None:
    """Refuse a run that was not trained with the best settings: the record may be of other folders."""
    saved = runs.read_config(place)["settings"]
    for name in trials.best:
        if hasattr(config, name) and saved.get(name) != files.plain(getattr(config, name)):
            line = f"{visible(place)}: named in {FINAL}, but its {name} is not that of trial {trials.number}"
            raise InputError(f"{line}; remove {FINAL} from the study's folder, or give another --study")


def _noted(
    folder: pathlib.Path, summary: dict[str, Any], trials: Trials, about: dict[str, Any], reads: int
) -> dict[str, Any]:
    """Write the study into the folder of its final run, as numbers and as a picture."""
    own = {"study": about, "test_reads": reads}
    files.write_json(folder / NUMBERS, about | {"test_reads": reads, "rows": trials.rows})
    plots.draw(folder / PICTURE, pictures.draw, trials)
    before = files.read_json(folder / "summary.json")
    if before | files.plain(own) != before:
        files.write_json(folder / "summary.json", before | own)
    return summary | own


def _read(study: pathlib.Path) -> list[Entry]:
    """Return the final runs so far; one whose summary exists was tested."""
    path = study / FINAL
    if not path.exists():
        return []
    try:
        entries = fitted(list[Entry], files.read_json(path), visible(path))
    except InputError as error:
        raise InputError(f"{error}; remove the file if its runs are not needed, or give another --study") from error
    return [Entry({**e, "tested": e["tested"] or (_place(study, e) / "summary.json").exists()}) for e in entries]


def _write(study: pathlib.Path, entries: list[Entry]) -> None:
    files.write_json(study / FINAL, entries)


def _place(study: pathlib.Path, entry: Entry | None) -> pathlib.Path:
    """Return the folder of a final run, as seen from here."""
    return pathlib.Path(os.path.relpath(study / entry["folder"])) if entry else study


def _seen_from(study: pathlib.Path, folder: pathlib.Path) -> str:
    """Return a path that stays right if both folders move together; the whole path from another drive."""
    try:
        return os.path.relpath(folder, study)
    except ValueError:
        return str(folder.absolute())
