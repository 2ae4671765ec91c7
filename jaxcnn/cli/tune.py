"""`jaxcnn tune DATA`: search for the settings of `jaxcnn train`, and train with the best ones."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import filelock

from jaxcnn import runs
from jaxcnn.cli import command, flags, folders, options, planning, recipe
from jaxcnn.cli import train as trained
from jaxcnn.core import files
from jaxcnn.core.types import InputError
from jaxcnn.runs import plots
from jaxcnn.runs.ready import data_digest
from jaxcnn.runs.signals import Signals

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
    """Trials of the whole study, those that ended early included."""
    minutes: float = 0.0
    """Begin no trial after this time; 0 for no limit."""
    study: str = "study"
    """Folder of the study. One that exists is continued, by several processes at a time if you like."""
    search: tuple[str, ...] = SEARCHED
    """Settings to search for: learning_rate, weight_decay, dropout, label_smoothing, batch_size, augment."""
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
    program = command.Program(f"jaxcnn {NAME}", "jaxcnn train --resume", command.end, lambda code: None, options.WIDTH)
    began = time.perf_counter()

    def tuned(config: Tune, signals: Signals, opened: list[pathlib.Path]) -> Any:
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
    from jaxcnn import tune as search
    from jaxcnn.tune import pictures

    recipe.check(config)
    space = space_of(config)
    rows = trained.read(config)

    def plan_of(values: dict[str, Any]) -> runs.Plan:
        return planning.planned(NAME, *trained.planned(dataclasses.replace(config, **values), rows))

    with signals.while_training():
        trials = search.search(
            plan_of, space, config.study, trials=config.trials, seconds=60 * config.minutes or None,
            sampler=config.sampler, pruner=config.pruner, seed=config.seed, identity=identity(config, rows.splits),
            log=trained.say, stop=signals.stop,
        )  # fmt: skip
    folder = pathlib.Path(config.study)
    files.write_json(folder / "trials.json", trials._asdict())
    plots.draw(folder / "trials.png", pictures.draw, trials)
    settings = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in trials.best.items())
    trained.say(f"best of {len(trials.rows)} trials: {settings} (validation {trials.metric[0]} {trials.value:.4g})")
    fields = {field.name for field in dataclasses.fields(trained.Train)}
    final = trained.Train(**{name: getattr(config, name) for name in fields} | trials.best)
    lock = filelock.FileLock(folder / "final.lock", blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        trained.say("another process trains and tests with these settings")
        return {}
    with contextlib.ExitStack() as stack:
        stack.callback(lock.release)
        return trained.train(final, signals, opened, arguments, began)


def space_of(config: Tune) -> dict[str, Any]:
    """Return Optuna's distributions of the settings to search for.

    Raises:
        InputError: an unknown setting, one that has a fixed value too, or Optuna is not installed.

    """
    try:
        from optuna import distributions
    except ImportError:
        raise InputError("optuna is not installed: pip install 'jaxcnn[tune]'") from None

    number = distributions.FloatDistribution
    known: dict[str, Any] = {
        "learning_rate": number(1e-4, 3e-2, log=True),
        "weight_decay": number(1e-4, 0.3, log=True),
        "dropout": number(0.0, 0.6),
        "label_smoothing": number(0.0, 0.2),
        "batch_size": distributions.CategoricalDistribution((32, 64, 128)),
        "augment": distributions.CategoricalDistribution(flags.AUGMENT[1:]),
    }
    space: dict[str, Any] = {}
    for one in config.search:
        name = flags.one_of("--search", one.replace("-", "_"), known)
        space[name], given = known[name], getattr(config, name)
        if given != getattr(Tune, name):
            raise InputError(f"--search {name}: {flags.flag_of(name)} {given} fixes it; leave one of them out")
    if config.models:
        if config.model:
            raise InputError(f"--models: --model {config.model} fixes the network; leave one of them out")
        for name in config.models:
            recipe.check(dataclasses.replace(config, model=name))
        space["model"] = distributions.CategoricalDistribution(tuple(dict.fromkeys(config.models)))
    if not space:
        raise InputError("--search: name at least one setting, or give --models")
    return space


def identity(config: Tune, splits: Any) -> dict[str, Any]:
    """Return what a study belongs to: the rows, and the flags that every trial shares."""
    own = {"trials", "minutes", "study", "search", "models", "sampler", "pruner", *config.search, "profile"}
    kept = {k: v for k, v in dataclasses.asdict(config).items() if k not in own | flags.MAY_CHANGE}
    return {"flags": kept, "rows": [part.size for part in splits], "sha256": data_digest(splits.train)}
