"""`jaxcnn tune DATA`: search for the settings of `jaxcnn train`, and train with the best ones."""

import collections
import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import filelock

from jaxcnn import runs
from jaxcnn import tune as search
from jaxcnn.cli import command, flags, folders, options, planning, recipe, spaces, winner
from jaxcnn.cli import train as trained
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.runs import plots
from jaxcnn.runs.ready import data_digest
from jaxcnn.runs.signals import Signals
from jaxcnn.tune import cells, journal, pictures

NAME = "tune"
SEARCHED = ("learning_rate", "weight_decay")
SHOWN = (
    "data", "task", "trials", "minutes", "study", "search", "models", "sampler", "pruner", "model", "weights", "epochs",
    "batch_size", "image_size", "augment", "seed", "workdir",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Tune(trained.Train):
    """Search for settings on validation rows; then train with the best ones, and test once."""

    trials: int = 20
    """Trials of the whole study, those that ended early included; with --search cell, cells to measure."""
    minutes: float = 0.0
    """Begin no trial after this time, but wait for trials of other processes; 0 for no limit."""
    study: str = "study"
    """Folder of the study. One that exists is continued, by several processes at a time if you like."""
    search: tuple[str, ...] = SEARCHED
    """Settings whose flags have a range, such as depth; name=low:high or name=a,b,c states another; or cell."""
    models: tuple[str, ...] = ()
    """Networks to choose from, of those that `jaxcnn models` lists."""
    sampler: str = "tpe"
    """How values are chosen: tpe, random or qmc."""
    pruner: str = "hyperband"
    """Which trials end early: hyperband, halving or none."""
    resume: str = ""
    """Not for studies: give --study again."""


def main(arguments: Sequence[str]) -> int:
    """Search and train, and return the exit code."""
    began = time.perf_counter()
    studies: list[str] = []

    def before() -> str:
        if not studies or not (pathlib.Path(studies[0]) / journal.DESCRIPTION).exists():
            return "nothing was begun"
        return f"progress is kept in {visible(studies[0])}; run the command again to continue"

    program = command.Program(
        f"jaxcnn {NAME}", "jaxcnn train --resume", command.end, lambda code: None, options.WIDTH, before
    )

    def tuned(config: Tune, signals: Signals, opened: list[pathlib.Path]) -> Any:
        studies.append(config.study)
        return tune(config, signals, opened, arguments, began)

    return command.run_training(program, lambda: _parse(arguments), tuned)


def _parse(arguments: Sequence[str]) -> Tune:
    smoke: dict[str, Any] = trained.SMOKE | {"trials": 3} if "--smoke" in arguments else {}
    config = options.parse(Tune, NAME, arguments, Tune(**smoke), SHOWN)
    if config.resume:
        raise InputError("--resume: not for studies; give --study again, and the search goes on")
    if config.processes or config.coordinator:
        raise InputError("--processes: a study grows by starting this command several times with one --study")
    if config.lr_find:
        raise InputError("--lr-find: search for learning_rate instead")
    if config.trials < 1 or not 0 <= config.minutes < math.inf:
        line = f"--trials {config.trials}, --minutes {config.minutes:g}"
        raise InputError(f"{line}: give at least 1 trial, and minutes above 0, or 0 for no limit")
    folders.check_path("--study", config.study)
    folders.check_path("--workdir", config.workdir)
    return config


def tune(
    config: Tune, signals: Signals, opened: list[pathlib.Path], arguments: Sequence[str], began: float
) -> dict[str, Any]:
    """Search, then train with the best settings.

    Args:
        config: the flags.
        signals: the signal handler.
        opened: receives the folder of the final run.
        arguments: the command line, saved with the run.
        began: start time by `time.perf_counter()`.

    Returns:
        The content of `summary.json` of the final run; empty where another process of the study makes it.

    """
    recipe.check(config)
    cell = spaces.names(config) == [spaces.CELL]
    if cell:
        _check_cell(config)
    space = {} if cell else spaces.space_of(config)
    config = dataclasses.replace(config, model=spaces.CELL) if cell else config
    rows = trained.read(config)
    folder = pathlib.Path(config.study)
    how = {
        "trials": config.trials, "seconds": 60 * config.minutes or None, "sampler": config.sampler,
        "seed": config.seed, "log": trained.say, "stop": signals.stop,
        "identity": identity(config, rows.splits, folder),
    }  # fmt: skip

    def plan_of(values: dict[str, Any]) -> runs.Plan:
        return planning.planned(NAME, *trained.planned(dataclasses.replace(config, **values), rows))

    with signals.while_training():
        if cell:
            plan = plan_of({})
            stated = budget(config, plan, cell)
            trials = cells.search(plan, folder, **how)
            best: dict[str, Any] = {"operations": cells.operations_of(trials.best)}
        else:
            if "augment" in space:  # some rows are augmented in one way only
                space = spaces.space_of(config, rows.found.kind)
            stated = budget(config, plan_of(search.some_values(space)), cell)
            trials = search.search(plan_of, space, folder, pruner=config.pruner, **how)
            best = trials.best
    _told(folder, trials)
    about = {
        "name": folder.absolute().name, "trials": dict(collections.Counter(row["state"] for row in trials.rows)),
        "updates": trials.updates, "seconds": trials.seconds, "budget": stated, "metric": list(trials.metric),
        "best": trials.number, "value": trials.value, "importance": trials.importance,
    }  # fmt: skip
    fields = {field.name for field in dataclasses.fields(trained.Train)}
    final = trained.Train(**{name: getattr(config, name) for name in fields} | best)

    def train(flags_: trained.Train, begun: Callable[[pathlib.Path], None]) -> dict[str, Any]:
        return trained.train(flags_, signals, opened, arguments, began, begun)

    lock = filelock.FileLock(folder / "final.lock", blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        other = winner.claimed(folder)
        if other is not None and other != trials.number:
            line = f"another process is training with the settings of trial {other}, but trial {trials.number}"
            raise InputError(f"{line} is better now; run the command again when that process has finished") from None
        trained.say("another process trains and tests with these settings")
        return {}
    with contextlib.ExitStack() as stack:
        stack.callback(lock.release)
        winner.claim(folder, trials.number)
        return winner.final(final, trials, about, folder, train)


def _check_cell(config: Tune) -> None:
    """Refuse flags beside `--search cell` that fix what it searches, or that it does not use."""
    cells.library()
    if config.pruner not in (Tune.pruner, "none"):
        raise InputError(f"--pruner {config.pruner}: with --search cell, no trial can end early; leave it out")
    fixed = {"model": config.model if config.model != spaces.CELL else "", "models": config.models}
    for name, value in (fixed | {"operations": config.operations, "weights": config.weights}).items():
        if value:
            given = " ".join(value) if isinstance(value, tuple) else value
            raise InputError(f"--search cell: {flags.flag_of(name)} {given} fixes the network; leave one of them out")


def budget(config: Tune, plan: runs.Plan, cell: bool) -> str:
    """Print the budget of a study before it begins, and return it."""
    steps = runs.settled(plan)[0].steps or 0
    epochs = f"{plan.epochs:g} epoch{'' if plan.epochs == 1 else 's'}"
    each = f"{config.trials} trials of at most {epochs} (about {steps:,} updates)"
    if cell:
        each = f"{config.trials} cells after {cells.TIMES * steps:,} updates with shared weights"
    how = config.sampler if cell or config.pruner == "none" else f"{config.sampler} with {config.pruner}"
    late = f", none begun after {config.minutes:g} minutes" if config.minutes else ""
    stated = f"{each}{late}, {how}, then one training with the best"
    trained.say(f"budget   {stated}")
    return stated


def _told(folder: pathlib.Path, trials: search.Trials) -> None:
    """Write what was found into the folder of the study, and print the best."""
    files.write_json(folder / "trials.json", trials._asdict())
    plots.draw(folder / "trials.png", pictures.draw, trials)
    settings = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in trials.best.items())
    trained.say(f"spent    {len(trials.rows)} trials, {trials.updates:,} updates, {trials.seconds:,.0f} s")
    trained.say(f"best of {len(trials.rows)} trials: {settings} (validation {trials.metric[0]} {trials.value:.4g})")


def identity(config: Tune, splits: Any, folder: pathlib.Path) -> dict[str, Any]:
    """Return what a study belongs to: the rows, and the flags that every trial shares."""
    own = {"trials", "minutes", "study", "search", "models", "sampler", "pruner", "profile", *spaces.names(config)}
    kept = {k: v for k, v in dataclasses.asdict(config).items() if k not in own | flags.MAY_CHANGE}
    digest, before = data_digest(splits.train), _stored(folder)
    if known := before["flags"]:
        # flags that are newer than the study may have their defaults, and the same rows another place or spelling
        kept = {k: v for k, v in kept.items() if k in known or v != getattr(Tune, k)}
        if digest and before["sha256"] == digest or _same_place(known.get("data"), config.data):
            kept["data"] = known.get("data")
    own = {"flags": kept, "rows": [part.size for part in splits], "sha256": digest}
    # older studies do not have the digest of the validation rows
    return own if known and not before["valid"] else own | {"valid_sha256": data_digest(splits.valid)}


def _stored(folder: pathlib.Path) -> dict[str, Any]:
    """Return the flags and digests of the study in a folder; nothing where it has none of this command."""
    path = folder / journal.DESCRIPTION
    found = files.read_json(path) if path.exists() else None
    own = found.get("identity") if isinstance(found, dict) else None
    own = own if isinstance(own, dict) else {}
    flags_ = own.get("flags")
    kept = flags_ if isinstance(flags_, dict) else {}
    return {"flags": kept, "sha256": own.get("sha256"), "valid": "valid_sha256" in own}


def _same_place(one: Any, other: str) -> bool:
    if not isinstance(one, str) or not one or not other:
        return False
    return files.expanded(one).resolve() == files.expanded(other).resolve()
